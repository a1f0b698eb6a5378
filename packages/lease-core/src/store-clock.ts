/**
 * What the store's clock says by now, from the answers seen so far.
 *
 * An answer with store time s, asked for at a and received at b, says that the store's clock is ahead of ours by at least s − b and
 * at most s − a. Every answer narrows the range. Between answers it widens, for clocks drift. An answer outside of it shows that
 * a clock was set, or that another server answers, and begins anew.
 */
import type { Clock } from './clock.ts'
import { DRIFT_RATE } from './skew.ts'

export class StoreClock {
  readonly #clock: Clock
  #leastAheadMs = Number.NEGATIVE_INFINITY
  #mostAheadMs = Number.POSITIVE_INFINITY
  #asOfMs = 0

  /** @param clock of this process; its monotonic reading is compared with the store's */
  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Whether any answer was seen. */
  get known(): boolean {
    return this.#mostAheadMs !== Number.POSITIVE_INFINITY
  }

  /** Takes over that the store's clock showed this between `sentMs` and now. */
  learn(storeMs: number, sentMs: number): void {
    const nowMs = this.#clock.monotonic()
    const least = storeMs - nowMs
    const most = storeMs - sentMs
    const driftMs = Math.max(0, nowMs - this.#asOfMs) * DRIFT_RATE
    const narrowedLeast = Math.max(least, this.#leastAheadMs - driftMs)
    const narrowedMost = Math.min(most, this.#mostAheadMs + driftMs)
    const fits = narrowedLeast <= narrowedMost
    this.#leastAheadMs = fits ? narrowedLeast : least
    this.#mostAheadMs = fits ? narrowedMost : most
    this.#asOfMs = nowMs
  }

  /** The least that the store's clock can show at this monotonic instant of ours. */
  earliestMs(monotonicMs: number): number {
    return monotonicMs + this.#leastAheadMs - Math.max(0, monotonicMs - this.#asOfMs) * DRIFT_RATE
  }

  /** The most that the store's clock can show at this monotonic instant of ours. */
  latestMs(monotonicMs: number): number {
    return monotonicMs + this.#mostAheadMs + Math.max(0, monotonicMs - this.#asOfMs) * DRIFT_RATE
  }
}
