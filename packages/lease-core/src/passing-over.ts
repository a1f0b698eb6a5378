import type { Clock, Timer } from './clock.ts'
import { PASS_OVER_MS } from './ticket.ts'

/** @param before what was known of the lease when they were notified */
type PassOver = (lease: string, place: number, before: unknown) => void

/** Has those passed over who were notified of a vacancy and did not come; at most one timer for each lease. */
export class PassingOver {
  readonly #clock: Clock
  readonly #passOver: PassOver
  readonly #afterMs: number
  /** The last ticket notified, when, and what was known of the lease then. */
  readonly #due = new Map<string, { timer: Timer; place: number; toldMs: number; before: unknown }>()

  /** @param hintDelayMs how long it may take until they are notified */
  constructor(clock: Clock, hintDelayMs: number, passOver: PassOver) {
    this.#clock = clock
    this.#afterMs = PASS_OVER_MS + hintDelayMs
    this.#passOver = passOver
  }

  told(lease: string, place: number, before: unknown): void {
    const toldMs = this.#clock.monotonic()
    const due = this.#due.get(lease)
    if (due === undefined) this.#due.set(lease, { timer: this.#timer(lease, this.#afterMs), place, toldMs, before })
    else Object.assign(due, { place, toldMs, before })
  }

  /** By this client. @param place of a share, with which ticket: those up to it have come, or are out of the queue; without one, all are */
  taken(lease: string, place: number | undefined = 0): void {
    const due = this.#due.get(lease)
    if (due === undefined || (place > 0 && place < due.place)) return
    due.timer.cancel()
    this.#due.delete(lease)
  }

  close(): void {
    for (const { timer } of this.#due.values()) timer.cancel()
    this.#due.clear()
  }

  #timer(lease: string, delayMs: number): Timer {
    return this.#clock.setTimer(delayMs, () => {
      const due = this.#due.get(lease)
      if (due === undefined) return
      const leftMs = due.toldMs + this.#afterMs - this.#clock.monotonic()
      if (leftMs > 0) due.timer = this.#timer(lease, leftMs)
      else {
        this.#due.delete(lease)
        this.#passOver(lease, due.place, due.before)
      }
    })
  }
}
