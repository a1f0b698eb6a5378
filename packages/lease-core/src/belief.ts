/**
 * What a holder may believe without asking: "I hold this lease", until the trust window of the last grant ends. The
 * window is counted from the instant *before* that request was sent, on both clocks (`skew.ts`).
 */
import { elapsedForHolder, trustWindowMs, type Instant } from './skew.ts'

export class Belief {
  readonly holder: string
  readonly fencingToken: bigint
  /** How often the substrate has hinted, unrefuted, that the lease was vacated: above zero, ask before relying on it. */
  #doubts = 0
  #sent: Instant
  /** Of the last grant, not of its window: a whole number takes no memory of its own. */
  #durationMs: number

  constructor(holder: string, fencingToken: bigint, sent: Instant, durationMs: number) {
    this.holder = holder
    this.fencingToken = fencingToken
    this.#sent = sent
    this.#durationMs = durationMs
  }

  get doubts(): number {
    return this.#doubts
  }

  /** The substrate hinted that the lease was vacated. */
  doubt(): void {
    this.#doubts++
  }

  /** An answer says that the term stands; `doubts` as they were when the question was sent: later ones remain. */
  settle(doubts: number): void {
    if (this.#doubts === doubts) this.#doubts = 0
  }

  /** A later grant of the same term; never moves the end of the window back. */
  extend(sent: Instant, durationMs: number): void {
    if (sent.monotonicMs + trustWindowMs(durationMs) <= this.endsAtMs) return
    this.#sent = sent
    this.#durationMs = durationMs
  }

  /** Milliseconds of trust left; zero or less: none. */
  leftMs(now: Instant): number {
    return trustWindowMs(this.#durationMs) - elapsedForHolder(this.#sent, now)
  }

  /** Whether the holder may rely on it now. */
  trusted(now: Instant): boolean {
    return this.leftMs(now) > 0
  }

  /** Monotonic instant at which the window ends, if the wall clock does not end it sooner. */
  get endsAtMs(): number {
    return this.#sent.monotonicMs + trustWindowMs(this.#durationMs)
  }
}
