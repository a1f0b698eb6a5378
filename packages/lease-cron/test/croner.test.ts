import { expect } from 'chai'
import { Cron } from 'croner'
import { ErrNotValid } from 'lease-core'
import { cronerSlot } from 'lease-cron'
import type { OncePer } from 'lease-recipes'
import { Fleet } from './fleet.ts'

describe('cronerSlot for croner', () => {
  let fleet: Fleet
  let jobs: Cron[]
  let ran: string[]

  beforeEach(() => {
    fleet = new Fleet()
    jobs = []
    ran = []
  })
  afterEach(async () => {
    for (const job of jobs) job.stop()
    await fleet.close()
  })

  function scheduled(once: OncePer, who: string, pattern = '*/10 * * * * *'): Cron {
    const job = new Cron(pattern, { catch: true, timezone: 'Europe/Berlin' }, async (self: Cron) => {
      await once.run('report', cronerSlot(self), ({ slot }) => void ran.push(`${who} ${slot.slice(17, 19)}`))
    })
    jobs.push(job)
    return job
  }

  it('each slot of a job runs once in the fleet', async () => {
    for (const who of ['a', 'b', 'c']) scheduled(fleet.process(), who)
    for (let n = 0; n < 30; n++) await fleet.pass(1000)
    expect(ran.map((run) => run.slice(2))).to.deep.equal(['00', '10', '20'])
  })

  it('a slot is the fire time, on time to the millisecond and however late the tick is', async () => {
    const job = new Cron('0 4 * * *', { timezone: 'Europe/Berlin' }, () => {})
    jobs.push(job)
    for (const lateMs of [0, 1, 999, 1000, 59_000, 3_600_000]) {
      fleet.timers.setSystemTime(Date.UTC(2026, 2, 1, 3) + lateMs)
      await job.trigger()
      expect(cronerSlot(job).toISOString(), `${lateMs} ms late`).to.equal('2026-03-01T03:00:00.000Z')
    }
    fleet.timers.setSystemTime(Date.UTC(2026, 2, 1, 3) - 1)
    await job.trigger()
    expect(cronerSlot(job).toISOString()).to.equal('2026-02-28T03:00:00.000Z')
  })

  it('of a job that has ticked the tick counts, and not the time of asking', async () => {
    const job = scheduled(fleet.process(), 'a', '0 * * * * *')
    await fleet.pass(1000)
    expect(ran).to.deep.equal(['a 00'])
    fleet.timers.setSystemTime(Date.UTC(2026, 2, 1, 3, 10))
    expect(cronerSlot(job).toISOString()).to.equal('2026-03-01T03:00:00.000Z')
  })

  it('before the first tick it is the last slot that was due: a process that was down catches up once', async () => {
    const [a, b] = [fleet.process(), fleet.process()]
    const hourly = new Cron('0 * * * *', { paused: true }, () => {})
    jobs.push(hourly)
    const catchUp = (once: OncePer) => once.run('hourly', cronerSlot(hourly), ({ slot }) => void ran.push(slot))
    await catchUp(a)
    await catchUp(b)
    expect(ran).to.deep.equal(['2026-03-01T02:00:00.000Z'])
  })

  it('a job for one time has it as its slot', async () => {
    const once = new Cron('2026-03-01T03:00:00Z', () => {})
    jobs.push(once)
    await fleet.pass(5000)
    expect(cronerSlot(once).toISOString()).to.equal('2026-03-01T03:00:00.000Z')
  })

  it('a job with an interval, one that was never due, and what is no job have no slot', () => {
    const interval = new Cron('* * * * * *', { interval: 10, paused: true }, () => {})
    const future = new Cron('2030-03-01T03:00:00Z', { paused: true }, () => {})
    jobs.push(interval, future)
    expect(() => cronerSlot(interval)).to.throw(ErrNotValid, /interval/)
    expect(() => cronerSlot(future)).to.throw(ErrNotValid, /due/)
    for (const bad of [undefined, {}, '* * * * *']) {
      expect(() => cronerSlot(bad as never)).to.throw(ErrNotValid, /^job must be a Cron of croner/)
    }
  })
})
