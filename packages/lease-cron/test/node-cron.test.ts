import { expect } from 'chai'
import { ErrNotValid, ErrUnknown, notValid } from 'lease-core'
import { runCoordinator, type FleetCoordinator } from 'lease-cron'
import {
  createTask,
  schedule,
  type RunCoordinator,
  type ScheduledTask,
  type TaskContext,
  type TaskOptions,
} from 'node-cron'
import { Fleet } from './fleet.ts'

const EVERY_10_S = '*/10 * * * * *'
const silent = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} }

describe('runCoordinator for node-cron', () => {
  let fleet: Fleet
  let tasks: ScheduledTask[]
  let ran: string[]

  beforeEach(() => {
    fleet = new Fleet()
    tasks = []
    ran = []
  })
  afterEach(async () => {
    for (const task of tasks) await task.destroy()
    await fleet.close()
  })

  function scheduled(
    who: string,
    coordinator: RunCoordinator,
    options: TaskOptions = {},
    work: (context: TaskContext) => unknown = () => {},
  ): ScheduledTask {
    const task = schedule(
      EVERY_10_S,
      (context) => {
        ran.push(`${who} ${context.date.toISOString().slice(17, 19)}`)
        return work(context)
      },
      { name: 'a.report: daily', distributed: true, runCoordinator: coordinator, logger: silent, ...options },
    )
    tasks.push(task)
    return task
  }

  it('each slot of a task runs once in the fleet, and the others are skipped as not elected', async () => {
    const skipped: string[] = []
    for (const who of ['a', 'b', 'c']) {
      const task = scheduled(who, runCoordinator(fleet.process()))
      task.on(
        'execution:skipped',
        ({ reason, date }) => void skipped.push(`${reason} ${date.toISOString().slice(17, 19)}`),
      )
    }
    for (let n = 0; n < 30; n++) await fleet.pass(1000)
    expect(ran.map((run) => run.slice(2))).to.deep.equal(['00', '10', '20'])
    expect(skipped).to.have.length(6)
    expect(new Set(skipped.map((skip) => skip.slice(0, 11)))).to.deep.equal(new Set(['not-elected']))
  })

  it('the name of a task may have any signs, and the slot that is remembered is the fire time', async () => {
    const once = fleet.process()
    scheduled('a', runCoordinator(once))
    await fleet.pass(2000)
    expect(await once.last('a.report: daily')).to.include({ slot: '2026-03-01T03:00:00.000Z', done: true })
    expect([...(await once.manager.leases()).keys()]).to.deep.equal(['once-per/a%2Ereport:%20daily/0'])
  })

  it('a process whose clock is late is skipped when the run is long over', async () => {
    const [a, b] = [runCoordinator(fleet.process()), runCoordinator(fleet.process())]
    const keys: string[] = []
    const recording: RunCoordinator = {
      shouldRun: (key, ttlMs) => (keys.push(key), a.shouldRun(key, ttlMs)),
      onComplete: (key) => a.onComplete(key),
    }
    scheduled('a', recording)
    for (let n = 0; n < 12; n++) await fleet.pass(1000)
    expect(keys).to.have.length(2)
    for (const key of keys) expect(await b.shouldRun(key, 30_000)).to.equal(false)
  })

  it('a run is busy for as long as `distributedLease`, and is over for others when the task has ended', async () => {
    const [a, b] = [fleet.process(), fleet.process()]
    let finish = (): void => {}
    scheduled(
      'a',
      runCoordinator(a),
      { distributedLease: 60_000 },
      () => new Promise<void>((resolve) => (finish = resolve)),
    )
    await fleet.pass(1000)
    const info = await a.manager.find('once-per/a%2Ereport:%20daily')
    expect((info?.expiry.toMillis() ?? 0) - fleet.clock.now()).to.be.within(60_000, 60_100)
    const other = runCoordinator(b)
    expect(await other.shouldRun('a.report: daily:2026-03-01T03:00:10.000Z', 1000)).to.equal(false)
    finish()
    await fleet.pass(0)
    expect(await other.shouldRun('a.report: daily:2026-03-01T03:00:10.000Z', 1000)).to.equal(true)
  })

  it('a task whose end is never reported does not keep the others from the next slots', async () => {
    const [a, b] = [runCoordinator(fleet.process()), runCoordinator(fleet.process())]
    const key = (n: number): string => `job:2026-03-01T03:00:${n}0.000Z`
    expect(await a.shouldRun(key(0), 30_000)).to.equal(true)
    await fleet.clock.advance(30_001)
    expect(await b.shouldRun(key(0), 30_000)).to.equal(false)
    expect(await b.shouldRun(key(1), 30_000)).to.equal(true)
    await b.onComplete(key(1))
    expect(await a.shouldRun(key(2), 30_000)).to.equal(true)
    expect(a.runOf({ date: new Date(key(0).slice(4)), task: { name: 'job' } })).to.equal(undefined)
    await a.onComplete(key(0)) // after all
    await a.onComplete(key(2))
  })

  it('inside a task the run is at hand, with its signal and its fencing token', async () => {
    const once = fleet.process()
    const coordinator: FleetCoordinator = runCoordinator(once)
    const seen: unknown[] = []
    const task = scheduled('a', coordinator, {}, (context) => {
      const run = coordinator.runOf(context)
      seen.push(run?.held, typeof run?.fencingToken, run?.signal.aborted)
    })
    await fleet.pass(1000)
    expect(seen).to.deep.equal([true, 'bigint', false])
    await task.execute() // by hand: nobody is asked
    expect(seen.slice(3)).to.deep.equal([undefined, 'undefined', undefined])
  })

  it('a task that fails has run: nobody else runs the slot, and the next one is run', async () => {
    for (const who of ['a', 'b']) {
      scheduled(who, runCoordinator(fleet.process()), {}, () => Promise.reject(new Error('mine')))
    }
    for (let n = 0; n < 12; n++) await fleet.pass(1000)
    expect(ran.map((run) => run.slice(2))).to.deep.equal(['00', '10'])
  })

  it('what is not known is no run: node-cron skips it and says so', async () => {
    const skipped: unknown[] = []
    const away = { begin: () => Promise.reject(new ErrUnknown('away')) }
    const task = scheduled('a', runCoordinator(away))
    task.on('execution:skipped', ({ reason }) => void skipped.push(reason))
    await fleet.pass(1000)
    expect([ran, skipped]).to.deep.equal([[], ['coordinator-error']])
  })

  it('a key that is none of node-cron’s, and options that are none, are not valid', async () => {
    const once = fleet.process()
    for (const key of ['', 'job', ':2026-03-01T03:00:00.000Z', 'job:2026-03-01']) {
      expect(
        await runCoordinator(once)
          .shouldRun(key, 1000)
          .catch((error: unknown) => error),
      ).to.be.instanceOf(ErrNotValid)
    }
    expect(() => runCoordinator(undefined as never)).to.throw(ErrNotValid, /^once must be an OncePer/)
    const bad = runCoordinator(once, { atLeast: -1 })
    const error: unknown = await bad.shouldRun('job:2026-03-01T03:00:00.000Z', 1000).catch((reason: unknown) => reason)
    expect(error).to.have.property(
      'message',
      notValid([{ argument: 'atLeast', rule: 'must be greater than zero', value: -1 }]).message,
    )
  })

  it('it is a RunCoordinator by the types of node-cron', () => {
    const coordinator: RunCoordinator = runCoordinator(fleet.process())
    tasks.push(createTask(EVERY_10_S, () => {}, { name: 'x', distributed: true, runCoordinator: coordinator }))
  })
})
