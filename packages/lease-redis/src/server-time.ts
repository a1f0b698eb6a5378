/**
 * What the server's clock says by now, from the answers seen so far.
 *
 * An answer with server time s, asked for at a and received at b, says that the server's clock is ahead of ours by at
 * least s − b and at most s − a. Every answer narrows the range; between answers it widens, for clocks drift; an answer
 * outside of it tells of a clock that was set, or of another server, and begins anew.
 */
import type { Clock } from 'lease-core'

/** Two clocks drift apart by less than this. */
const DRIFT = 0.001

export class ServerTime {
  readonly #clock: Clock
  #leastAheadMs = Number.NEGATIVE_INFINITY
  #mostAheadMs = Number.POSITIVE_INFINITY
  #asOfMs = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get known(): boolean {
    return this.#mostAheadMs !== Number.POSITIVE_INFINITY
  }

  /** An answer that has just arrived was made when the server's clock showed this. */
  learn(serverMicros: number, sentMs: number): void {
    const nowMs = this.#clock.monotonic()
    const least = serverMicros / 1000 - nowMs
    const most = serverMicros / 1000 - sentMs
    const driftMs = (nowMs - this.#asOfMs) * DRIFT
    const narrowedLeast = Math.max(least, this.#leastAheadMs - driftMs)
    const narrowedMost = Math.min(most, this.#mostAheadMs + driftMs)
    const fits = narrowedLeast <= narrowedMost
    this.#leastAheadMs = fits ? narrowedLeast : least
    this.#mostAheadMs = fits ? narrowedMost : most
    this.#asOfMs = nowMs
  }

  /** The latest that the server's clock can show at this instant of ours, in microseconds. */
  latestMicros(monotonicMs: number): number {
    const driftMs = Math.max(0, monotonicMs - this.#asOfMs) * DRIFT
    return Math.ceil((monotonicMs + this.#mostAheadMs + driftMs) * 1000)
  }
}
