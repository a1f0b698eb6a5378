/**
 * A job as `lease exec` runs it, with a real guardian. Our clock is one that the test moves, and the guardian, whose clock is not, is
 * always answered with more time than a test takes: whatever happens is the work of `lease exec`.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { ErrLost, type LossReason } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { until } from 'lease-servers'
import { Duration } from 'luxon'
import { EARLY_MS } from '#src/guardian-link.ts'
import { JobRunner, StartFailure, type JobEnd, type JobOptions } from '#src/job.ts'
import { isRunning, signalTo } from '#src/process-group.ts'

const SECOND_MS = 1_000
const MINUTE_MS = 60 * SECOND_MS
const HOUR_MS = 60 * MINUTE_MS
const WINDOW_MS = 10 * HOUR_MS
const GRACE_MS = 2 * HOUR_MS

/** Writes down each signal, and only KILL ends it. */
const STUBBORN = `exec 2>/dev/null; trap 'echo TERM >> "$OUT"' TERM; trap 'echo USR1 >> "$OUT"' USR1; echo ready >> "$OUT"
while :; do sleep 0.05; done`

/** A lease that is not renewed. */
class Lease {
  readonly #clock: TestClock
  readonly #endsMs: number
  readonly #lost = new AbortController()

  constructor(clock: TestClock, remainingMs: number) {
    this.#clock = clock
    this.#endsMs = clock.monotonic() + remainingMs
  }

  get held(): boolean {
    return !this.signal.aborted && this.#clock.monotonic() < this.#endsMs
  }

  get signal(): AbortSignal {
    return this.#lost.signal
  }

  remaining(): Duration {
    return Duration.fromMillis(this.held ? this.#endsMs - this.#clock.monotonic() : 0)
  }

  lose(reason: LossReason): void {
    this.#lost.abort(new ErrLost(`it was lost: ${reason}`, { reason }))
  }
}

describe('a job of lease exec', () => {
  let folder: string
  let clock: TestClock
  let lease: Lease
  let runner: JobRunner
  /** Why it was stopped. */
  let stops: string[]
  let leftovers: number[]

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'lease-job-'))
    clock = new TestClock()
    lease = new Lease(clock, WINDOW_MS)
    runner = new JobRunner(process.env, { isGroup: true })
    stops = []
    leftovers = []
  })
  afterEach(() => {
    if (runner.pid !== undefined) for (const target of [-runner.pid, runner.pid]) signalTo(target, 'SIGKILL')
    rmSync(folder, { recursive: true })
  })

  const out = (): string => join(folder, 'out')
  const said = (word: string): number => (existsSync(out()) ? readFileSync(out(), 'utf8').split(word).length - 1 : 0)

  function run(
    command: string,
    { isGroup = true, ...more }: Partial<JobOptions> & { isGroup?: boolean } = {},
  ): Promise<JobEnd> {
    const env = { OUT: out() }
    return runner.run({
      held: lease,
      order: { file: 'sh', args: ['-c', command], env, isGroup, signal: 'SIGTERM', graceMs: GRACE_MS },
      maxTimeMs: undefined,
      clock,
      stopping: (reason) => stops.push(reason),
      leftovers: (count) => leftovers.push(count),
      ...more,
    })
  }

  /** Runs the command, which is known to have begun. */
  async function running(command: string, more: Parameters<typeof run>[1] = {}): Promise<{ end: Promise<JobEnd> }> {
    const end = run(command, more)
    await until('the command runs', () => said('ready') > 0)
    const timers = more.maxTimeMs === undefined ? 1 : 2
    await until('it is known to run', () => clock.pending === timers)
    return { end }
  }

  /** How it ended. Time passes meanwhile, far less than a grace: whether anybody of the group is left is asked again and again. */
  async function outcomeOf(end: Promise<JobEnd>): Promise<JobEnd> {
    let outcome: JobEnd | undefined
    void end.then((one) => (outcome = one))
    return await until('the end', async () => {
      await clock.advance(5)
      return outcome
    })
  }

  /** Resolves once the command has shown that it still runs. */
  async function stillRuns(): Promise<void> {
    const before = said('USR1')
    runner.forward('SIGUSR1')
    await until('a sign of life', () => said('USR1') > before)
  }

  it('gets its signal when only the grace is left, and KILL at the end of the window', async () => {
    const { end } = await running(STUBBORN)
    await clock.advance(WINDOW_MS - EARLY_MS - GRACE_MS - MINUTE_MS)
    expect(stops).to.deep.equal([])
    await clock.advance(MINUTE_MS + SECOND_MS)
    expect(stops).to.deep.equal(['lost'])
    await until('the signal', () => said('TERM') > 0)
    await clock.advance(GRACE_MS - MINUTE_MS)
    await stillRuns()
    await clock.advance(MINUTE_MS)
    expect(await outcomeOf(end)).to.deep.equal({ code: null, signal: 'SIGKILL', stopped: 'lost' })
    expect([said('TERM'), clock.pending]).to.deep.equal([1, 0])
  })

  it('is killed within the window, and not after the grace, when lease exec stood still until the grace had begun', async () => {
    const { end } = await running(STUBBORN)
    await clock.pause(WINDOW_MS - EARLY_MS - GRACE_MS / 2)
    expect(stops).to.deep.equal(['lost'])
    await clock.advance(GRACE_MS / 2 - MINUTE_MS)
    await stillRuns()
    await clock.advance(MINUTE_MS + SECOND_MS)
    expect(await outcomeOf(end)).to.include({ signal: 'SIGKILL', stopped: 'lost' })
  })

  it('gets its signal at once when the lease was revoked, and KILL after the grace, long before the window ends', async () => {
    const { end } = await running(STUBBORN)
    lease.lose('revoked')
    expect(stops).to.deep.equal(['lost'])
    await until('the signal', () => said('TERM') > 0)
    await clock.advance(GRACE_MS - MINUTE_MS)
    await stillRuns()
    await clock.advance(MINUTE_MS + SECOND_MS)
    expect(await outcomeOf(end)).to.include({ signal: 'SIGKILL', stopped: 'lost' })
  })

  it('gets its signal also while it is stopped', async function () {
    if (!existsSync('/proc/self/stat')) this.skip()
    const { end } = await running(
      `trap 'exit 5' TERM; echo "$$ ready" >> "$OUT"; kill -STOP $$; while :; do sleep 0.05; done`,
    )
    const pid = Number.parseInt(readFileSync(out(), 'utf8'), 10)
    await until('it is stopped', () => readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') T '))
    lease.lose('revoked')
    expect(await outcomeOf(end)).to.deep.equal({ code: 5, signal: null, stopped: 'lost' })
  })

  for (const isGroup of [true, false]) {
    it(`is killed at once when another has the lease, ${isGroup ? 'with' : 'without'} a group of its own`, async () => {
      if (!isGroup) {
        runner.close()
        runner = new JobRunner(process.env, { isGroup })
      }
      const { end } = await running(STUBBORN, { isGroup })
      lease.lose('taken')
      expect(await outcomeOf(end)).to.include({ signal: 'SIGKILL', stopped: 'lost' })
      expect(stops).to.deep.equal(['lost'])
      await until('the guardian has left', async () => !(await isRunning(runner.pid as number)))
    })
  }

  it('gets its signal when its longest time is over, and KILL after the grace', async () => {
    const { end } = await running(STUBBORN, { maxTimeMs: HOUR_MS })
    await clock.advance(HOUR_MS - MINUTE_MS)
    expect(stops).to.deep.equal([])
    await clock.advance(MINUTE_MS)
    expect(stops).to.deep.equal(['max-time'])
    await clock.advance(GRACE_MS - MINUTE_MS)
    await stillRuns()
    await clock.advance(MINUTE_MS + SECOND_MS)
    expect(await outcomeOf(end)).to.include({ signal: 'SIGKILL', stopped: 'max-time' })
  })

  it('is not started in the last moment of the window, nor when the lease was lost before', async () => {
    lease = new Lease(clock, EARLY_MS / 2)
    const late = await run(STUBBORN).then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(late).to.be.instanceOf(StartFailure).with.property('code', 'late')
    runner.close()
    runner = new JobRunner(process.env, { isGroup: true })
    lease = new Lease(clock, WINDOW_MS)
    lease.lose('taken')
    expect(await outcomeOf(run(STUBBORN))).to.deep.equal({ code: null, signal: 'SIGKILL', stopped: 'lost' })
    expect(stops).to.deep.equal(['lost'])
    expect(existsSync(out())).to.equal(false)
  })

  it('gets a signal that came before it was started', async () => {
    const end = run('exec sleep 1000')
    runner.forward('SIGTERM')
    expect(await outcomeOf(end)).to.deep.equal({ code: null, signal: 'SIGTERM', stopped: undefined })
  })

  it('is judged by the code of its command when the lease is lost while others of its group have to end', async () => {
    const beside = `(trap '' TERM; echo ready >> "$OUT"; exec sleep 1000) & while ! test -e "$OUT"; do sleep 0.02; done`
    const end = run(`${beside}; exit 3`)
    await until('the rest is known', () => leftovers.length > 0)
    lease.lose('taken')
    expect(await outcomeOf(end)).to.deep.equal({ code: 3, signal: null, stopped: undefined })
    expect([leftovers, stops]).to.deep.equal([[1], []])
  })
})
