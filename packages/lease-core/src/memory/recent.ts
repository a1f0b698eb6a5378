/**
 * What happened lately, by name, in the order in which it happened; what is older than `forMs` is forgotten by itself, or, where
 * there is no clock, all but the latest `most`.
 *
 * The oldest are found by one walk that never begins again: a Map keeps the places of what was deleted for a while, and a walk
 * from its beginning would pass all of them each time.
 */
export type Limit = { readonly forMs: number } | { readonly most: number }

interface Happened<T> {
  readonly value: T
  readonly atMs: number
}

/** Of what is old, so many go each time that one comes: more than come. */
const GO = 2

export class Recent<T> {
  readonly #limit: Limit
  readonly #happened = new Map<string, Happened<T>>()
  #walk = this.#happened.entries()
  /** What the walk came to last, unless it was forgotten. */
  #oldest: readonly [name: string, happened: Happened<T>] | undefined

  constructor(limit: Limit) {
    this.#limit = limit
  }

  get size(): number {
    return this.#happened.size
  }

  get(name: string): T | undefined {
    return this.#happened.get(name)?.value
  }

  add(name: string, value: T, atMs: number): void {
    this.#happened.delete(name)
    this.#happened.set(name, { value, atMs })
    for (let left = GO; left > 0 && this.#forgetOne(atMs); left--);
  }

  /** Returns whether one was old. */
  #forgetOne(nowMs: number): boolean {
    let oldest = this.#oldest
    while (oldest === undefined || this.#happened.get(oldest[0]) !== oldest[1]) {
      const next = this.#walk.next()
      if (next.done === true) {
        this.#walk = this.#happened.entries()
        this.#oldest = undefined
        return false
      }
      oldest = next.value
    }
    const [name, { atMs }] = oldest
    const limit = this.#limit
    const isOld = 'most' in limit ? this.#happened.size > limit.most : nowMs - atMs > limit.forMs
    this.#oldest = isOld ? undefined : oldest
    return isOld && this.#happened.delete(name)
  }
}
