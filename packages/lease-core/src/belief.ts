/**
 * What a holder may believe without asking: "I hold this lease", until the trust window of the last grant ends. The
 * window is counted from the instant *before* that request was sent (`elapsed-time.ts`, `skew.ts`).
 */
import { elapsedForHolder, type ClockReading } from './elapsed-time.ts'
import { trustWindowMs } from './skew.ts'

export class Belief {
  readonly holder: string
  readonly fencingToken: bigint
  /** How often the substrate has hinted, unrefuted, that the lease was vacated: above zero, ask before relying on it. */
  #doubts = 0
  #sent: ClockReading
  /** Of the last grant, not of its window: a whole number takes no memory of its own. */
  #durationMs: number

  constructor(holder: string, fencingToken: bigint, sent: ClockReading, durationMs: number) {
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
  extend(sent: ClockReading, durationMs: number): void {
    if (sent.atMostMs + trustWindowMs(durationMs) <= this.#sent.atMostMs + trustWindowMs(this.#durationMs)) return
    this.#sent = sent
    this.#durationMs = durationMs
  }

  /** Milliseconds of trust left; zero or less: none. */
  leftMs(now: ClockReading): number {
    return trustWindowMs(this.#durationMs) - elapsedForHolder(this.#sent, now)
  }

  /** Whether the holder may rely on it now. */
  trusted(now: ClockReading): boolean {
    return this.leftMs(now) > 0
  }
}
