/**
 * Renewals that are due, first come, first served, and so many under way at once as fill every batch that may be in flight.
 * Ten thousand leases fall due together; were all of them sent at once, each would keep its objects for as long as the
 * whole crowd takes, and a caller's own claim would wait behind all of them.
 *
 * Renewals that hang do not keep the others waiting: after a short while they do not count any more, up to a limit. Memory
 * follows what waits: what has had its turn, or has ended, is not referenced.
 */
import type { ClockReading } from './elapsed-time.ts'
import { warnOfTimer, type Deadline, type TimerQueue } from './timer-queue.ts'
import { withoutContext } from './tracing.ts'
import { queueMicrotask } from './turns.ts'

/** Something that is to be renewed. It waits at most once. */
export interface Renewable {
  /** Where it waits; written by `Renewals` only. -1, as in the beginning: it does not wait. */
  renewalIndex: number
  /**
   * Its turn has come. Returns whether anything was begun; then `done` is to be called once, at the end. An error that it
   * throws is a warning of the process, and nothing was begun.
   */
  renewNow(now: ClockReading, done: () => void): boolean
}

/** Twice what an adapter has in flight at once: there is always a batch to send when an answer comes. */
const WINDOW = 1024
/** So many times the window are under way at the most, as in `coalescer.ts`. */
const HARD_CAP = 8
/** While others wait, a renewal counts for so long, and for twice as long at the most. */
const SLOW_MS = 50
/** So many places of those that have gone, and as many again as wait, are no reason to rebuild. */
const SPARE = 1024

export class Renewals {
  readonly #timers: TimerQueue
  readonly #now: () => ClockReading
  #queue: (Renewable | undefined)[] = []
  /** Index of the first that may wait. */
  #first = 0
  #waiting = 0
  /** Those under way that count: begun lately, or just before. */
  #latest = this.#newGeneration()
  #earlier = this.#latest
  #underWay = 0
  #serving = false
  readonly #stalled: Deadline = { wakeAtMs: -1, slot: 0, wake: (now) => this.#nextGeneration(now) }

  constructor(timers: TimerQueue, now: () => ClockReading) {
    this.#timers = timers
    this.#now = now
  }

  /** Renews it now, or when its turn comes. */
  due(renewable: Renewable, now: ClockReading): void {
    if (renewable.renewalIndex !== -1) return
    if (this.#waiting === 0 && this.#hasRoom()) return this.#begin(renewable, now)
    renewable.renewalIndex = this.#queue.push(renewable) - 1
    this.#waiting++
    this.#watch(now)
  }

  /** Its turn does not come any more. Harmless when it does not wait. */
  withdraw(renewable: Renewable): void {
    if (renewable.renewalIndex === -1) return
    this.#take(renewable.renewalIndex)
    this.#compact()
  }

  #newGeneration(): Generation {
    const generation: Generation = {
      underWay: 0,
      done: () => {
        generation.underWay--
        this.#underWay--
        if (this.#serving || this.#waiting === 0) return
        // The turns of the next come when all of the same answer are done: they share an instant.
        this.#serving = true
        queueMicrotask(() => {
          this.#serving = false
          withoutContext(() => this.#serve(this.#now()))
        })
      },
    }
    return generation
  }

  #hasRoom(): boolean {
    const earlier = this.#earlier === this.#latest ? 0 : this.#earlier.underWay
    return this.#latest.underWay + earlier < WINDOW && this.#underWay < HARD_CAP * WINDOW
  }

  #serve(now: ClockReading): void {
    while (this.#waiting > 0 && this.#hasRoom()) {
      const renewable = this.#take(this.#first++)
      if (renewable !== undefined) this.#begin(renewable, now)
    }
    this.#compact()
    if (this.#waiting > 0) this.#watch(now)
  }

  #begin(renewable: Renewable, now: ClockReading): void {
    const generation = this.#latest
    try {
      if (!renewable.renewNow(now, generation.done)) return
    } catch (error) {
      warnOfTimer(error)
      return
    }
    generation.underWay++
    this.#underWay++
  }

  #take(index: number): Renewable | undefined {
    const renewable = this.#queue[index]
    if (renewable === undefined) return undefined
    this.#queue[index] = undefined
    renewable.renewalIndex = -1
    this.#waiting--
    return renewable
  }

  #compact(): void {
    if (this.#waiting === 0) {
      this.#queue = []
      this.#first = 0
      this.#timers.off(this.#stalled)
    } else if (this.#queue.length > 2 * this.#waiting + SPARE) {
      this.#queue = this.#queue.filter((renewable) => renewable !== undefined)
      for (const [index, renewable] of this.#queue.entries()) if (renewable) renewable.renewalIndex = index
      this.#first = 0
    }
  }

  #watch(now: ClockReading): void {
    if (this.#stalled.wakeAtMs !== -1 || this.#underWay >= HARD_CAP * WINDOW) return
    this.#timers.at(this.#stalled, Math.ceil(now.monotonicMs) + SLOW_MS)
  }

  /** Those that were begun before the last time are slow: they do not count any more. */
  #nextGeneration(now: ClockReading): void {
    this.#earlier = this.#latest
    this.#latest = this.#newGeneration()
    this.#serve(now)
  }
}

/** Renewals that were begun in one stretch of time. */
interface Generation {
  underWay: number
  readonly done: () => void
}
