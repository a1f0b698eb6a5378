/** How long a lease may still be relied on, as one answer said it, counted on our own clock. */
import { Stopwatch, type Clock } from 'lease-core'

/** An answer, counted from the moment before it was asked for. */
export class Trust {
  readonly #since: Stopwatch
  readonly #remainingMs: number

  /** @param since started before the answer was asked for */
  constructor(since: Stopwatch, remainingMs: number) {
    this.#since = since
    this.#remainingMs = remainingMs
  }

  /** Now asked, and answered at once. */
  static now(clock: Clock, remainingMs: () => number): Trust {
    const since = new Stopwatch(clock)
    return new Trust(since, remainingMs())
  }

  /** Milliseconds from now, at most; negative when it is over. Also counts the time in which this process was stopped. */
  get leftMs(): number {
    return this.#remainingMs - this.#since.elapsedMs
  }
}
