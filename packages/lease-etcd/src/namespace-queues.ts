/**
 * Whether anybody waits in the namespace, as far as this process knows. Nothing depends on it but the form of a release: where nobody
 * seems to wait, all releases of a transaction share the condition that there is no ticket at all. Where that is not met, a transaction of
 * many releases is sent again, so it is not tried again for a while.
 */
import type { Clock } from 'lease-core'

const BUSY_MS = 1_000

export class NamespaceQueues {
  readonly #clock: Clock
  #busyUntilMs = Number.NEGATIVE_INFINITY

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get seemEmpty(): boolean {
    return this.#clock.monotonic() >= this.#busyUntilMs
  }

  /** Somebody waits. */
  seen(): void {
    this.#busyUntilMs = this.#clock.monotonic() + BUSY_MS
  }
}
