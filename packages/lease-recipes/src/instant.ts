import type { Clock } from 'lease-core'

/** A local instant, by both clocks. */
export class Instant {
  readonly #clock: Clock
  readonly #monotonicMs: number
  readonly #wallMs: number

  constructor(clock: Clock) {
    this.#clock = clock
    this.#monotonicMs = clock.monotonic()
    this.#wallMs = clock.now()
  }

  /** Time that may have passed at most: the monotonic clock stands still in a suspend, the wall clock is set. */
  get elapsedMs(): number {
    return Math.max(this.#clock.monotonic() - this.#monotonicMs, this.#clock.now() - this.#wallMs)
  }
}
