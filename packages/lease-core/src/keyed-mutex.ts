/**
 * One lock per lease: operations on one lease run one after another, in the order in which they came; operations on
 * different leases do not know of each other. Entering a free lock and leaving it costs two steps in a map each, and no
 * promise.
 *
 * A lock that is free keeps its entry for a while, for the same reason as in `compacting-map.ts`, and for one more: V8 gives
 * a Map whose entries come and go a new table again and again, and each old table that has become old garbage keeps the
 * next one alive until the next full collection, as if it were in use.
 */

/** Somebody is inside and nobody waits. */
const taken = Symbol('taken')
/** So many free locks, and as many again as are taken, are no reason to rebuild. */
const SPARE = 1024

interface Waiter {
  readonly turn: Promise<void>
  readonly come: () => void
}

/** Those who wait; undefined: free. */
type Lock = Waiter[] | typeof taken | undefined

export class KeyedMutex {
  #locks = new Map<string, Lock>()
  #taken = 0

  /** Takes the lock. Undefined: the caller is inside now; otherwise it is when the promise resolves. */
  enter(lease: string): Promise<void> | undefined {
    const waiting = this.#locks.get(lease)
    if (waiting === undefined) {
      this.#locks.set(lease, taken)
      this.#taken++
      return undefined
    }
    let come = (): void => {}
    const turn = new Promise<void>((resolve) => (come = resolve))
    if (waiting === taken) this.#locks.set(lease, [{ turn, come }])
    else waiting.push({ turn, come })
    return turn
  }

  /**
   * Gives up a turn that has not come yet: the promise never settles, and nothing refers to it. Returns false when the turn
   * has come: then the caller is inside, and leaves.
   */
  withdraw(lease: string, turn: Promise<void>): boolean {
    const waiting = this.#locks.get(lease)
    if (waiting === undefined || waiting === taken) return false
    const index = waiting.findIndex((waiter) => waiter.turn === turn)
    if (index === -1) return false
    waiting.splice(index, 1)
    return true
  }

  /** Runs the body inside the lock. */
  async inTurn<T>(lease: string, body: () => Promise<T>): Promise<T> {
    const turn = this.enter(lease)
    if (turn !== undefined) await turn
    try {
      return await body()
    } finally {
      this.leave(lease)
    }
  }

  /** Hands the lock to the one that has waited longest. */
  leave(lease: string): void {
    const waiting = this.#locks.get(lease)
    if (waiting === undefined) return
    const next = waiting === taken ? undefined : waiting.shift()
    if (next !== undefined) return next.come()
    this.#locks.set(lease, undefined)
    this.#taken--
    if (this.#locks.size > 2 * this.#taken + SPARE) this.#forgetFree()
  }

  /** Whether somebody waits behind the one inside. */
  contended(lease: string): boolean {
    const waiting = this.#locks.get(lease)
    return waiting !== undefined && waiting !== taken && waiting.length > 0
  }

  #forgetFree(): void {
    const locks = new Map<string, Lock>()
    this.#locks.forEach((waiting, lease) => {
      if (waiting !== undefined) locks.set(lease, waiting)
    })
    this.#locks = locks
  }
}
