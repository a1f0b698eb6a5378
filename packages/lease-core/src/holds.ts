/**
 * The Holds of one process by lease. Nearly always one for each, so that those of the same lease are a chain from one to
 * the next, and no array is kept for each.
 */
import { CompactingMap } from './compacting-map.ts'

/** A Hold in the chain of its lease. */
export interface Chained<Self> {
  readonly lease: string
  /** Written by `Holds` only. */
  next: Self | undefined
}

export class Holds<Hold extends Chained<Hold>> {
  readonly #first = new CompactingMap<Hold>()

  /** How many leases are held. */
  get size(): number {
    return this.#first.size
  }

  add(hold: Hold): void {
    const first = this.#first.get(hold.lease)
    if (first === undefined) this.#first.set(hold.lease, hold)
    else {
      hold.next = first.next
      first.next = hold
    }
  }

  remove(hold: Hold): void {
    const first = this.#first.get(hold.lease)
    if (first === hold) {
      if (hold.next === undefined) this.#first.delete(hold.lease)
      else this.#first.set(hold.lease, hold.next)
    } else {
      for (let before = first; before !== undefined; before = before.next) {
        if (before.next === hold) before.next = hold.next
      }
    }
    hold.next = undefined
  }

  /** Those of this lease as they are now: an array that does not change with them. */
  of(lease: string): readonly Hold[] {
    const first = this.#first.get(lease)
    return first === undefined ? none : chain(first)
  }

  /** All of them as they are now. */
  all(): readonly Hold[] {
    return [...this.#first.values()].flatMap((first) => chain(first))
  }
}

const none: readonly never[] = []

function chain<Hold extends Chained<Hold>>(first: Hold): Hold[] {
  const holds: Hold[] = []
  for (let hold: Hold | undefined = first; hold !== undefined; hold = hold.next) holds.push(hold)
  return holds
}
