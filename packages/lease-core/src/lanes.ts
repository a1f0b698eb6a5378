/**
 * One lane per lease: operations on one lease run one after another, in the order in which they came; operations on
 * different leases do not know of each other. A lane exists only while somebody is in it, and entering an empty one
 * costs a map entry and no promise.
 */
export class Lanes {
  /** Present = occupied; the array holds those who wait, null while nobody does. */
  readonly #lanes = new Map<string, (() => void)[] | null>()

  /** Occupies the lane. Undefined: it is yours now; otherwise it is yours when the promise resolves. */
  enter(lease: string): Promise<void> | undefined {
    const waiting = this.#lanes.get(lease)
    if (waiting === undefined) {
      this.#lanes.set(lease, null)
      return undefined
    }
    return new Promise((resolve) => {
      if (waiting === null) this.#lanes.set(lease, [resolve])
      else waiting.push(resolve)
    })
  }

  /** Hands the lane to whoever waited longest. */
  leave(lease: string): void {
    const waiting = this.#lanes.get(lease)
    const next = waiting?.shift()
    if (next === undefined) this.#lanes.delete(lease)
    else next()
  }

  /** Whether somebody waits behind the one who is in the lane. */
  contended(lease: string): boolean {
    const waiting = this.#lanes.get(lease)
    return waiting !== undefined && waiting !== null && waiting.length > 0
  }
}
