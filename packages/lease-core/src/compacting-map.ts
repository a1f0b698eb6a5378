/**
 * A Map for keys that come and go while many others stay. V8's `Map` leaves each deleted entry in its hash chain until
 * the whole table is rebuilt, which a large one rarely is: a few keys set and deleted again and again beside a hundred
 * thousand others cost a hundred times what they should. Here a deleted key keeps its entry, without a value, and the
 * entry is used again; the map is rebuilt when such entries outnumber the others.
 */
export class CompactingMap<V extends object> implements ReadonlyMap<string, V> {
  #entries = new Map<string, V | undefined>()
  #size = 0

  get size(): number {
    return this.#size
  }

  get(key: string): V | undefined {
    return this.#entries.get(key)
  }

  has(key: string): boolean {
    return this.#entries.get(key) !== undefined
  }

  set(key: string, value: V): this {
    if (this.#entries.get(key) === undefined) this.#size++
    this.#entries.set(key, value)
    return this
  }

  delete(key: string): boolean {
    if (this.#entries.get(key) === undefined) return false
    this.#entries.set(key, undefined)
    this.#size--
    if (this.#entries.size > 2 * this.#size + SPARE) this.#rebuild()
    return true
  }

  /** By `forEach`: iterators would make an array of each entry. */
  #rebuild(): void {
    const entries = new Map<string, V>()
    this.#entries.forEach((value, key) => {
      if (value !== undefined) entries.set(key, value)
    })
    this.#entries = entries
  }

  clear(): void {
    this.#entries = new Map()
    this.#size = 0
  }

  *entries(): MapIterator<[string, V]> {
    for (const [key, value] of this.#entries) if (value !== undefined) yield [key, value]
  }

  *keys(): MapIterator<string> {
    for (const [key] of this.entries()) yield key
  }

  *values(): MapIterator<V> {
    for (const [, value] of this.entries()) yield value
  }

  [Symbol.iterator](): MapIterator<[string, V]> {
    return this.entries()
  }

  /** The fastest way through all: without an array of each entry. */
  forEach(tell: (value: V, key: string, map: ReadonlyMap<string, V>) => void): void {
    this.#entries.forEach((value, key) => {
      if (value !== undefined) tell(value, key, this)
    })
  }
}

/** So many entries without a value are no reason to rebuild. */
const SPARE = 1024
