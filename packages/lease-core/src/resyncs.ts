/**
 * How often everything is read again because hints may have been lost. A `resync` is worth one round of reads, and many may
 * come: from a connection that flaps, or from messages on the store's channel that are not ours. So a few are served at once, and then one every
 * two seconds. None is lost: after the last one everything is read once more.
 */
import type { TimerQueue, Deadline } from './timer-queue.ts'
import type { Clock } from './clock.ts'

const INTERVAL_MS = 2_000
const AT_ONCE = 5

export class Resyncs implements Deadline {
  wakeAtMs = -1
  slot = 0
  readonly #clock: Clock
  readonly #timers: TimerQueue
  readonly #readAll: () => void
  /** Each one served moves this on by an interval; it may be ahead of the clock by as many as are served at once. */
  #paidUntilMs = Number.NEGATIVE_INFINITY

  constructor(clock: Clock, timers: TimerQueue, readAll: () => void) {
    this.#clock = clock
    this.#timers = timers
    this.#readAll = readAll
  }

  /** Reads everything, now or when its time has come. */
  request(): void {
    if (this.wakeAtMs !== -1) return
    const nowMs = this.#clock.monotonic()
    const dueMs = this.#paidUntilMs - (AT_ONCE - 1) * INTERVAL_MS
    if (dueMs <= nowMs) this.wake()
    else this.#timers.at(this, Math.ceil(dueMs))
  }

  wake(): void {
    this.#paidUntilMs = Math.max(this.#paidUntilMs, this.#clock.monotonic()) + INTERVAL_MS
    this.#readAll()
  }
}
