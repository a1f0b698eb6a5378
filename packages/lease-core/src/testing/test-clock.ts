/**
 * Time that a test owns. Nothing moves unless the test says so, and whatever moves is finished before the test goes on.
 *
 *     const clock = new TestClock()
 *     const hold = await manager.hold('db', 'a', { duration: 30_000 })
 *     await clock.untilSleeping()          // the loop has done its work and waits for time
 *     await clock.advance(10_000)          // every timer on the way fires, in order, each at its own instant
 *
 * Two machines are two clocks: their readings have nothing to do with each other, and a machine that is frozen while
 * the world goes on is a clock that is not advanced, then paused for as long:
 *
 *     await world.advance(60_000)          // the others go on, and take over what has lapsed
 *     await frozen.pause(60_000)           // it wakes up: both its clocks have moved, its timers are late
 *
 * Where several machines live at once and their order matters, `SimulatedTime` moves the clocks of all of them.
 *
 * How the two clocks of a machine move:
 *
 *     |            | wall | monotonic | boot | timers                            | stands for                         |
 *     | advance    |  +   |     +     |  +   | fire at their instants            | time passes                        |
 *     | pause      |  +   |     +     |  +   | the overdue fire afterwards, late | SIGSTOP, a long garbage collection |
 *     | suspend    |  +   |           |  +   | do not move                       | the lid was closed                 |
 *     | jumpWall   |  ±   |           |      | do not move                       | the clock was set                  |
 *     | freezeWall | stops|           |      | do not move                       | a test of the application's own    |
 *
 * "Finished" means that promises, zero-delay timers and turns of the event loop that follow from each other have run
 * out (`settle`). Sockets are beyond it: with a real server, await the promise of what you started.
 */
import { DateTime, type DurationLike } from 'luxon'
import { systemClock, type Clock, type Timer } from '../clock.ts'
import { toMillis } from '../lease.ts'
import { turn } from '../turns.ts'
import { TimerQueue, type QueuedTimer } from './timer-queue.ts'
import { track } from './track.ts'

export interface TestClockOptions {
  /** The wall clock at the start, in milliseconds since the epoch. @default 2024-01-01T00:00:00Z */
  readonly wallMs?: number | undefined
  /** The monotonic clock at the start, in milliseconds. @default 5000 */
  readonly monotonicMs?: number | undefined
  /**
   * Every timer fires this much later than asked, or earlier when negative (Node's do, by up to a millisecond). A
   * timer that is not longer than that fires in time, so that anyone who sets the rest again gets on. In milliseconds.
   * @default 0
   */
  readonly timersLateMs?: number | undefined
  /** Without it nothing tells the time since the machine started, as on a platform that does not know it. @default true */
  readonly boot?: boolean | undefined
  /** Resolution of the time since the machine started, in milliseconds (`os.uptime()`: 10). @default none */
  readonly bootGrainMs?: number | undefined
}

/** @internal by what `SimulatedTime` moves a clock */
export interface ClockMotor {
  /** Moves the monotonic clock to this reading, and the others along; never back. Nothing fires. */
  goTo(monotonicMs: number): void
  /** Moves wall clock and boot time only. */
  sleep(ms: number): void
  /** When the first timer is due, by the monotonic clock; undefined: there is none. */
  dueMs(): number | undefined
  /** Fires the first timer. */
  fire(): void
  /** Whether anything reaches the process. */
  receive(isReceiving: boolean): void
}

const NEW_YEAR_2024_MS = 1_704_067_200_000
/** Readings are multiples of 1/1024 ms: sums and differences are then exact on both clocks. */
const STEPS_PER_MS = 1024
/** So many turns in a row without a timer set, cancelled or fired are rest. */
const QUIET_TURNS = 4
/** So many zero-delay timers, each set after the one before had fired, are a loop that spins. */
const SPIN_LIMIT = 100_000

/** A `Clock` that stands still until the test moves it. */
export class TestClock implements Clock {
  readonly #timersLateMs: number
  readonly #timers = new TimerQueue()
  #monotonicMs: number
  /** The wall clock is so far ahead of the monotonic one. */
  #wallAheadMs: number
  #frozenWallMs: number | undefined
  #suspendedMs = 0
  readonly boot?: () => number
  #fired = 0
  #moving = false
  #settling = 0
  /** Rises whenever a timer is set, cancelled or fires: while it does, the program under test is not idle. */
  #activity = 0
  #turnQueued = false
  #generation = { mark: 0, count: 0 }
  #spin: Error | undefined
  readonly #isDriven: boolean
  #receiving: { readonly promise: Promise<void>; readonly resolve: () => void } | undefined

  /** @param handOver internal: to whom the clock leaves its movement */
  constructor(options: TestClockOptions = {}, handOver?: (motor: ClockMotor) => void) {
    this.#monotonicMs = options.monotonicMs ?? 5000
    this.#wallAheadMs = (options.wallMs ?? NEW_YEAR_2024_MS) - this.#monotonicMs
    this.#timersLateMs = options.timersLateMs ?? 0
    const { boot = true, bootGrainMs = 0 } = options
    if (boot) {
      this.boot = () => {
        const ms = this.#monotonicMs + this.#suspendedMs
        return bootGrainMs === 0 ? ms : Math.floor(ms / bootGrainMs) * bootGrainMs
      }
    }
    this.#isDriven = handOver !== undefined
    handOver?.({
      goTo: (monotonicMs) => this.#goTo(monotonicMs),
      sleep: (ms) => this.#sleep(ms),
      dueMs: () => this.#timers.peek()?.dueMs,
      fire: () => {
        const timer = this.#timers.take(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)
        if (timer !== undefined) this.#fire(timer)
      },
      receive: (isReceiving) => this.#receive(isReceiving),
    })
  }

  now(): number {
    return this.#frozenWallMs ?? this.#monotonicMs + this.#wallAheadMs
  }

  monotonic(): number {
    return this.#monotonicMs
  }

  /** A timer without delay fires by itself, with the next turn of the event loop: no time passes until then. */
  setTimer(delayMs: number, wake: () => void): Timer {
    if (!Number.isFinite(delayMs)) throw new RangeError(`a timer's delay must be finite (got ${delayMs})`)
    const lateMs = delayMs > Math.abs(this.#timersLateMs) ? this.#timersLateMs : 0
    const timer = this.#timers.add(exact(this.#monotonicMs + Math.max(0, delayMs + lateMs)), wake)
    this.#activity++
    if (timer.dueMs <= this.#monotonicMs && !this.#isDriven) this.#fireNextTurn()
    return {
      cancel: () => {
        if (!timer.done) this.#activity++
        this.#timers.cancel(timer)
      },
    }
  }

  /** How many timers wait. Zero at the end of a test: nothing was left behind. */
  get pending(): number {
    return this.#timers.size
  }

  /** How many timers have fired so far: a loop that wakes too often shows here. */
  get fired(): number {
    return this.#fired
  }

  /** How long until the next timer is due; undefined when none waits. */
  get nextDelayMs(): number | undefined {
    const next = this.#timers.peek()
    return next === undefined ? undefined : Math.max(0, next.dueMs - this.#monotonicMs)
  }

  /** The wall instant that is this far away: `infoOf({ holder: 'a', expiry: clock.in(30_000) })`. May be negative. */
  in(duration: DurationLike): DateTime {
    return DateTime.fromMillis(this.now() + millis(duration))
  }

  /**
   * When something that has reached the machine is handed to its process: at once (undefined), or when the process runs again.
   * Only `SimulatedTime` stops a process for longer than an instant.
   */
  whenReceiving(): Promise<void> | undefined {
    return this.#receiving?.promise
  }

  /** Lets time pass: both clocks move from timer to timer, each fires at its own instant, and all comes to rest. */
  async advance(duration: DurationLike): Promise<void> {
    const ms = forward(duration)
    this.#mustBeFree()
    if (this.#moving) throw new Error('the clock is being moved already: await one movement before the next')
    this.#moving = true
    try {
      await this.settle()
      const endMs = exact(this.#monotonicMs + ms)
      for (let next = this.#timers.peek(); next !== undefined && next.dueMs <= endMs; next = this.#timers.peek()) {
        this.#goTo(next.dueMs)
        await this.#fireDue()
        await this.settle()
      }
      this.#goTo(endMs)
      await this.settle()
    } finally {
      this.#moving = false
    }
  }

  /** Lets time pass until this instant: a `DateTime` of the wall clock, or a number of the monotonic one. */
  async advanceTo(instant: DateTime | number): Promise<void> {
    await this.advance(typeof instant === 'number' ? instant - this.#monotonicMs : instant.toMillis() - this.now())
  }

  /** Lets time pass until the next timer has fired; resolves to how many milliseconds that took. */
  async advanceToNext(): Promise<number> {
    await this.settle()
    const ms = this.nextDelayMs
    if (ms === undefined) throw new Error('no timer is pending: nothing waits for time to pass')
    await this.advance(ms)
    return ms
  }

  /**
   * The process stands still, from this very point on: both clocks move and nothing runs; answers that were on their
   * way are read afterwards, and overdue timers fire then, all late.
   */
  async pause(duration: DurationLike): Promise<void> {
    this.#mustBeFree()
    this.#goTo(exact(this.#monotonicMs + forward(duration)))
    await this.advance(0)
  }

  /** The machine sleeps: only wall clock and boot time move, and timers are as far away as before. */
  async suspend(duration: DurationLike): Promise<void> {
    this.#mustBeFree()
    this.#sleep(exact(forward(duration)))
    await this.settle()
  }

  /** The wall clock stands still until it is thawed; then it shows what it would have shown. */
  freezeWall(): void {
    this.#frozenWallMs = this.now()
  }

  thawWall(): void {
    this.#frozenWallMs = undefined
  }

  /** The wall clock is set, forward or back. */
  async jumpWall(duration: DurationLike): Promise<void> {
    this.#wallAheadMs += exact(millis(duration))
    if (!this.#isDriven) await this.settle()
  }

  /**
   * Resolves when the program under test is idle and at least so many timers wait: `advance` will find them.
   * Rejects after `patience`, of real time. After `WaitAdvance` of juju's test clock.
   */
  async untilSleeping(timers: number = 1, patience: DurationLike = { seconds: 2 }): Promise<void> {
    const patienceMs = forward(patience)
    const startedMs = systemClock.monotonic()
    for (;;) {
      await this.settle()
      if (this.pending >= timers) return
      if (systemClock.monotonic() - startedMs > patienceMs) {
        throw new Error(`waited for ${timers} pending timers, but only ${this.pending} are`)
      }
    }
  }

  /** Resolves when promises, turns of the event loop and zero-delay timers have run out. No time passes. */
  async settle(): Promise<void> {
    this.#settling++
    try {
      for (let quietTurns = 0; quietTurns < QUIET_TURNS;) {
        const before = this.#activity
        await turn()
        if (this.#spin !== undefined) throw this.#spin
        quietTurns = before === this.#activity && !this.#turnQueued ? quietTurns + 1 : 0
      }
    } finally {
      this.#settling--
    }
  }

  /**
   * The outcome of the work, letting as much time pass as it needs and no more: from timer to timer, at most `limit`.
   * For what waits for delays that the test does not know, such as a backoff.
   */
  async drive<T>(work: PromiseLike<T>, limit: DurationLike = { hours: 1 }): Promise<T> {
    const tracked = track(work)
    const endMs = this.#monotonicMs + forward(limit)
    for (;;) {
      await this.settle()
      if (tracked.state !== 'pending') return tracked.promise
      const next = this.#timers.peek()
      if (next === undefined) throw new Error('the work is not done, and no timer is pending that could drive it on')
      if (next.dueMs > endMs) throw new Error(`the work is not done after ${millis(limit)} ms`)
      await this.advanceToNext()
    }
  }

  #mustBeFree(): void {
    if (this.#isDriven) throw new Error('this clock belongs to a SimulatedTime, which moves it with all the others')
  }

  #sleep(ms: number): void {
    this.#suspendedMs += ms
    this.#wallAheadMs += ms
  }

  #receive(isReceiving: boolean): void {
    if (!isReceiving) {
      let resolve = (): void => {}
      this.#receiving ??= { promise: new Promise((done) => (resolve = done)), resolve: () => resolve() }
      return
    }
    this.#receiving?.resolve()
    this.#receiving = undefined
  }

  /** Both clocks move on; never back. */
  #goTo(monotonicMs: number): void {
    if (monotonicMs <= this.#monotonicMs) return
    this.#monotonicMs = monotonicMs
    this.#generation.count = 0
  }

  /** Fires what is due and was set before, one in each turn, so that the promises of one run before the next. */
  async #fireDue(): Promise<void> {
    const mark = this.#timers.mark()
    for (;;) {
      const timer = this.#timers.take(this.#monotonicMs, mark)
      if (timer === undefined) return
      this.#fire(timer)
      await turn()
    }
  }

  #fireNextTurn(): void {
    if (this.#turnQueued) return
    this.#turnQueued = true
    void this.#zeroDelayTurn()
  }

  /** The same for timers without delay. Those that were set by the ones that fired are the next generation. */
  async #zeroDelayTurn(): Promise<void> {
    await turn()
    this.#turnQueued = false
    let timer = this.#timers.take(this.#monotonicMs, this.#generation.mark)
    if (timer === undefined) {
      this.#generation.mark = this.#timers.mark()
      if (++this.#generation.count > SPIN_LIMIT) return this.#spins()
      timer = this.#timers.take(this.#monotonicMs, this.#generation.mark)
    }
    // Queued first: a wake-up that throws must not strand the others.
    if ((this.#timers.peek()?.dueMs ?? Number.POSITIVE_INFINITY) <= this.#monotonicMs) this.#fireNextTurn()
    if (timer !== undefined) this.#fire(timer)
  }

  #fire(timer: QueuedTimer): void {
    this.#fired++
    this.#activity++
    timer.wake()
  }

  #spins(): void {
    this.#spin = new Error(`something spins: ${SPIN_LIMIT} timers without delay, each set after the last had fired`)
    if (this.#settling === 0) throw this.#spin
  }
}

/** @internal rounds up to what all clocks can show without error */
export function exact(ms: number): number {
  return Math.ceil(ms * STEPS_PER_MS) / STEPS_PER_MS
}

function millis(duration: DurationLike): number {
  const ms = toMillis(duration)
  if (!Number.isFinite(ms))
    throw new RangeError('must be a luxon Duration, an object such as { seconds: 30 }, or milliseconds')
  return ms
}

function forward(duration: DurationLike): number {
  const ms = millis(duration)
  if (ms < 0) throw new RangeError(`time does not go back (got ${ms} ms)`)
  return ms
}
