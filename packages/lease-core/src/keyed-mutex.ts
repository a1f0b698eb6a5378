/**
 * One lane per lease: operations on one lease run one after another, in the order in which they came; operations on
 * different leases do not know of each other. Entering an empty lane and leaving it costs two steps in a map each, and
 * no promise.
 *
 * A lane that is empty keeps its entry for a while, for the same reason as in `compacting-map.ts`, and for one more: V8 gives a
 * Map whose entries come and go a new table again and again, and each old table that has become old garbage keeps the
 * next one alive until the next full collection, as if it were in use.
 */

/** Somebody is in the lane and nobody waits. */
const taken = Symbol('taken')
/** So many empty lanes, and as many again as are occupied, are no reason to rebuild. */
const SPARE = 1024

/** Those who wait; undefined: empty. */
type Lane = (() => void)[] | typeof taken | undefined

export class KeyedMutex {
  #lanes = new Map<string, Lane>()
  #occupied = 0

  /** Occupies the lane. Undefined: it is yours now; otherwise it is yours when the promise resolves. */
  enter(key: string): Promise<void> | undefined {
    const waiting = this.#lanes.get(key)
    if (waiting === undefined) {
      this.#lanes.set(key, taken)
      this.#occupied++
      return undefined
    }
    return new Promise((resolve) => {
      if (waiting === taken) this.#lanes.set(key, [resolve])
      else waiting.push(resolve)
    })
  }

  /** Hands the lane to whoever waited longest. */
  leave(key: string): void {
    const waiting = this.#lanes.get(key)
    if (waiting === undefined) return
    const next = waiting === taken ? undefined : waiting.shift()
    if (next !== undefined) return next()
    this.#lanes.set(key, undefined)
    this.#occupied--
    if (this.#lanes.size > 2 * this.#occupied + SPARE) this.#forgetEmpty()
  }

  /** Whether somebody waits behind the one who is in the lane. */
  contended(key: string): boolean {
    const waiting = this.#lanes.get(key)
    return waiting !== undefined && waiting !== taken && waiting.length > 0
  }

  #forgetEmpty(): void {
    const lanes = new Map<string, Lane>()
    this.#lanes.forEach((waiting, lease) => {
      if (waiting !== undefined) lanes.set(lease, waiting)
    })
    this.#lanes = lanes
  }
}
