/**
 * Renewals that are due, first come, first served, and so many under way at once as fill every batch that may be out.
 * Ten thousand leases fall due together; were all of them sent at once, each would keep its objects for as long as the
 * whole crowd takes, and a caller's own claim would wait behind all of them.
 */
import type { ClockReading } from './elapsed-time.ts'

/** Something that is to be renewed. */
export interface Renewable {
  /** Its turn has come. Returns whether anything was begun; then `done` is called once, at the end. */
  renewNow(now: ClockReading): boolean
}

/** Twice what an adapter has out at once: there is always a batch to send when an answer comes. */
const WINDOW = 1024

export class Renewals {
  readonly #now: () => ClockReading
  #queue: Renewable[] = []
  /** How many of the queue have had their turn. */
  #served = 0
  #underWay = 0
  #serving = false

  constructor(now: () => ClockReading) {
    this.#now = now
  }

  /** Renews it now, or when its turn comes. */
  due(renewable: Renewable, now: ClockReading): void {
    if (this.#underWay < WINDOW && this.#queue.length === 0) this.#begin(renewable, now)
    else this.#queue.push(renewable)
  }

  /** One that was begun is over. The turns of the next come when all of the same answer are: they share an instant. */
  readonly done = (): void => {
    this.#underWay--
    if (this.#serving || this.#queue.length === 0) return
    this.#serving = true
    queueMicrotask(() => this.#serve())
  }

  #serve(): void {
    this.#serving = false
    const now = this.#now()
    const queue = this.#queue
    while (this.#underWay < WINDOW && this.#served < queue.length) this.#begin(queue[this.#served++] as Renewable, now)
    if (this.#served === queue.length) {
      this.#queue = []
      this.#served = 0
    }
  }

  #begin(renewable: Renewable, now: ClockReading): void {
    if (renewable.renewNow(now)) this.#underWay++
  }
}
