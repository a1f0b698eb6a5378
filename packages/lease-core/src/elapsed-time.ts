/**
 * How much time has passed in this process, by clocks that fail in different ways:
 *
 *     |           | counts a suspend | can be set | resolution, cost of a reading |
 *     | monotonic | no               | no         | below 1 µs, 50 ns             |
 *     | wall      | yes              | yes        | 1 ms, 50 ns                   |
 *     | boot      | yes              | no         | 10 ms, 7 µs                   |
 *
 * A holder must not count too little, an observer not too much. Both count from anchor to anchor, and add up:
 *
 *     atMost   for a holder     += max(Δmonotonic, Δwall, Δboot − 10 ms); Δboot + 10 ms for a suspend that no other clock shows
 *     atLeast  for an observer  += min(Δmonotonic, max(0, Δwall, Δboot))
 *
 * The difference of two readings that are far apart would not do: a wall clock that is set back hides the suspend that follows.
 * The anchor moves once a second, and at once when monotonic and wall clock have parted by more than the resolution of the wall
 * clock. It does not move at every reading: a maximum of clocks with different resolutions that is taken at every reading runs
 * fast. Between two anchors the monotonic clock alone counts. Somebody must take a reading at least once a second while it
 * matters (`ClockWatch`): what happens to the clocks between two readings counts as one step.
 */
import type { Clock } from './clock.ts'
import { queueMicrotask } from './turns.ts'

/** An instant of this process. */
export interface ClockReading {
  /** For timers. */
  readonly monotonicMs: number
  /** For people. */
  readonly wallMs: number
  /** On a scale of this process: no more than this has passed. */
  readonly atMostMs: number
  /** On a scale of this process: no less than this has passed. */
  readonly atLeastMs: number
}

/** Time that may have passed at most. For a holder. */
export function elapsedForHolder(since: ClockReading, now: ClockReading): number {
  return now.atMostMs - since.atMostMs
}

/** Time that has passed for certain. For an observer. */
export function elapsedForObserver(since: ClockReading, now: ClockReading): number {
  return Math.max(0, now.atLeastMs - since.atLeastMs)
}

const ANCHOR_MS = 1_000
/** Resolution of the wall clock: less apart means nothing. */
const APART_MS = 1
/** Resolution of the time since boot. */
const BOOT_GRAIN_MS = 10

/** Takes readings of one clock. All who use the same clock share it: {@link elapsedTimeOf}. */
export class ElapsedTime {
  readonly #clock: Clock
  #monotonicMs: number
  #wallMs: number
  #bootMs: number | undefined
  /** A reading of the boot time, and what had been counted: renewed seldom, since what it shows is rounded each time. */
  #boot: { readonly ms: number; readonly atMostMs: number }
  #atMostMs = 0
  #atLeastMs = 0

  constructor(clock: Clock) {
    this.#clock = clock
    this.#monotonicMs = clock.monotonic()
    this.#wallMs = clock.now()
    this.#bootMs = clock.boot?.()
    this.#boot = { ms: this.#bootMs ?? 0, atMostMs: 0 }
  }

  read(): ClockReading {
    const monotonicMs = this.#clock.monotonic()
    const wallMs = this.#clock.now()
    const passedMs = Math.max(0, monotonicMs - this.#monotonicMs)
    const wallPassedMs = wallMs - this.#wallMs
    const apart = Math.abs(wallPassedMs - passedMs) > APART_MS
    if (!apart && passedMs < ANCHOR_MS) {
      return { monotonicMs, wallMs, atMostMs: this.#atMostMs + passedMs, atLeastMs: this.#atLeastMs + passedMs }
    }
    const bootMs = this.#clock.boot?.()
    const bootPassedMs = bootMs === undefined || this.#bootMs === undefined ? 0 : bootMs - this.#bootMs
    this.#atMostMs += Math.max(passedMs, apart ? wallPassedMs : 0)
    if (bootMs !== undefined) {
      // A suspend that no other clock shows is counted to its end; otherwise the grain of this clock counts for nothing.
      const isHidden = bootPassedMs - BOOT_GRAIN_MS > Math.max(passedMs, wallPassedMs)
      const grainMs = isHidden ? BOOT_GRAIN_MS : -BOOT_GRAIN_MS
      const byBootMs = this.#boot.atMostMs + bootMs - this.#boot.ms
      this.#atMostMs = Math.max(this.#atMostMs, byBootMs + grainMs)
      // What a wall clock that was set forward has added must not make up for a suspend after it.
      const isAhead = this.#atMostMs > byBootMs + BOOT_GRAIN_MS
      if (!apart || isAhead) this.#boot = { ms: bootMs, atMostMs: this.#atMostMs }
    }
    this.#atLeastMs += apart ? Math.min(passedMs, Math.max(0, wallPassedMs, bootPassedMs)) : passedMs
    this.#monotonicMs = monotonicMs
    this.#wallMs = wallMs
    this.#bootMs = bootMs
    return { monotonicMs, wallMs, atMostMs: this.#atMostMs, atLeastMs: this.#atLeastMs }
  }
}

/** So often in a row a reading is used again: a loop that never yields must still see the time pass if `Date` is frozen. */
const USES = 1_000

/**
 * A holder's reading, cached for callers that ask again and again; a cached answer costs one reading of the wall clock. The cache
 * holds until the wall clock shows another millisecond or a promise continues. A cached reading counts as a millisecond later.
 */
export class RecentReading {
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #forget = (): void => void (this.#uses = 0)
  #reading: ClockReading | undefined
  #uses = 0

  constructor(clock: Clock) {
    this.#clock = clock
    this.#time = elapsedTimeOf(clock)
  }

  /** Now, or up to a millisecond later; only a holder may use it. */
  take(): ClockReading {
    if (this.#uses > 0 && this.#clock.now() === this.#reading?.wallMs) {
      this.#uses--
      return this.#reading
    }
    if (this.#uses === 0) queueMicrotask(this.#forget)
    const now = this.#time.read()
    this.#uses = USES
    this.#reading = { ...now, atMostMs: now.atMostMs + 1 }
    return now
  }
}

const times = new WeakMap<Clock, ElapsedTime>()

/** The one of this clock: readings of one can be compared with those of another only if both come from it. */
export function elapsedTimeOf(clock: Clock): ElapsedTime {
  let time = times.get(clock)
  if (time === undefined) times.set(clock, (time = new ElapsedTime(clock)))
  return time
}

/** Measures how much time may have passed, at most, since it was made: the time that a holder must count, also over a suspend. */
export class Stopwatch {
  readonly #time: ElapsedTime
  readonly #since: ClockReading

  constructor(clock: Clock) {
    this.#time = elapsedTimeOf(clock)
    this.#since = this.#time.read()
  }

  /** Milliseconds since it was made, at most. Reads the clocks. */
  get elapsedMs(): number {
    return elapsedForHolder(this.#since, this.#time.read())
  }
}
