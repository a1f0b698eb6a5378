import { expect } from 'chai'
import { CronJob } from 'cron'
import { ErrNotValid } from 'lease-core'
import { cronSlot } from 'lease-cron'
import type { OncePer } from 'lease-recipes'
import { Fleet, START_MS } from './fleet.ts'

describe('cronSlot for cron', () => {
  let fleet: Fleet
  let jobs: CronJob[]
  let ran: string[]

  beforeEach(() => {
    fleet = new Fleet()
    jobs = []
    ran = []
  })
  afterEach(async () => {
    for (const job of jobs) void job.stop()
    await fleet.close()
  })

  function scheduled(once: OncePer, who: string, cronTime = '*/10 * * * * *'): CronJob {
    const job = CronJob.from({
      cronTime,
      async onTick() {
        await once.run('report', cronSlot(this), ({ slot }) => void ran.push(`${who} ${slot.slice(17, 19)}`))
      },
      start: true,
    })
    jobs.push(job)
    return job
  }

  function idle(cronTime: string | Date, zone: { timeZone?: string; utcOffset?: number } = {}): CronJob {
    const { timeZone, utcOffset } = zone
    const common = { cronTime, onTick: () => {} }
    const job =
      timeZone !== undefined
        ? CronJob.from({ ...common, timeZone })
        : utcOffset === undefined
          ? CronJob.from(common)
          : CronJob.from({ ...common, utcOffset })
    jobs.push(job)
    return job
  }

  it('each slot of a job runs once in the fleet', async () => {
    for (const who of ['a', 'b', 'c']) scheduled(fleet.process(), who)
    for (let n = 0; n < 30; n++) await fleet.pass(1000)
    expect(ran.map((run) => run.slice(2))).to.deep.equal(['00', '10', '20'])
  })

  it('a slot is the last fire time: of any pattern and zone, on time to the millisecond and however late the tick is', () => {
    const berlin = { timeZone: 'Europe/Berlin' }
    const cases = [
      { pattern: '* * * * * *' },
      { pattern: '*/7 * * * * *', zone: berlin },
      { pattern: '0 */5 * * * *', zone: { utcOffset: -210 } },
      { pattern: '30 2 * * *', zone: berlin },
      { pattern: '0 0 1 * *', zone: { timeZone: 'Asia/Kolkata' } },
      { pattern: '0 12 * * 1-5', zone: { utcOffset: 60 } },
    ]
    for (const { pattern, zone } of cases) {
      const job = idle(pattern, zone)
      fleet.timers.setSystemTime(START_MS)
      const [slot, next] = job.nextDates(2).map((date) => date.toMillis()) as [number, number]
      const lateMs = [0, 1, 999, 1000, 61_000, next - slot - 1].filter((ms) => ms < next - slot)
      for (const ms of lateMs) {
        fleet.timers.setSystemTime(slot + ms)
        expect(cronSlot(job).getTime(), `${pattern}, ${ms} ms late`).to.equal(slot)
      }
      fleet.timers.setSystemTime(next)
      expect(cronSlot(job).getTime(), pattern).to.equal(next)
    }
  })

  it('of a job that has ticked the tick counts, and not the time of asking', async () => {
    const job = scheduled(fleet.process(), 'a', '0 * * * * *')
    await fleet.pass(1000)
    expect(ran).to.deep.equal(['a 00'])
    fleet.timers.setSystemTime(START_MS + 10 * 60_000)
    expect(cronSlot(job).toISOString()).to.equal('2026-03-01T03:00:00.000Z')
  })

  it('of two fire times that are a second apart it is the later one, hours afterwards', () => {
    const job = idle('0,1 0 3 * * *', { timeZone: 'UTC' })
    fleet.timers.setSystemTime(START_MS + 5 * 3_600_000)
    expect(cronSlot(job).toISOString()).to.equal('2026-03-01T03:00:01.000Z')
  })

  it('before the first tick it is the last slot that was due: a process that was down catches up once', async () => {
    const hourly = idle('0 0 * * * *')
    for (const once of [fleet.process(), fleet.process()]) {
      await once.run('hourly', cronSlot(hourly), ({ slot }) => void ran.push(slot))
    }
    expect(ran).to.deep.equal(['2026-03-01T02:00:00.000Z'])
  })

  it('a job for one time has it as its slot', () => {
    expect(cronSlot(idle(new Date(START_MS + 5000))).getTime()).to.equal(START_MS + 5000)
  })

  it('a job that was not due in eight years has no slot', () => {
    const asked = {
      cronTime: { source: '?', realDate: false, getNextDateFrom: () => ({ toMillis: () => 8e15 }) },
      lastDate: () => null,
      nextDate: () => ({ zoneName: 'UTC' }),
    }
    expect(() => cronSlot(asked)).to.throw(ErrNotValid, /eight years/)
  })

  it('what is no job is refused by name: the context of a job, for instance, which is `this` in its onTick', () => {
    for (const bad of [undefined, null, {}, { cronTime: {} }, '* * * * *', { lastDate() {}, nextDate() {} }]) {
      expect(() => cronSlot(bad as never)).to.throw(ErrNotValid, /^job must be a CronJob of cron\. .*context/)
    }
  })
})
