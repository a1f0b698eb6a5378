/** A Map that keeps what was set last: with more than `most` entries it forgets the one that was set least lately. */
export class LatestMap<V> extends Map<string, V> {
  readonly #most: number
  /**
   * One walk that never begins again: it stands at the oldest entry, for all that it has passed are gone or were set again. A walk from the
   * beginning would pass the places of what was deleted each time.
   */
  readonly #walk: MapIterator<string> = this.keys()

  constructor(most: number) {
    super()
    this.#most = most
  }

  override set(key: string, value: V): this {
    this.delete(key)
    super.set(key, value)
    if (this.size > this.#most) {
      const oldest = this.#walk.next()
      if (oldest.done !== true) this.delete(oldest.value)
    }
    return this
  }
}
