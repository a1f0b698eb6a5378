/** Random numbers that a seed repeats: mulberry32. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** At least 0, below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32
  }

  /** At least 0, below `end`. */
  int(end: number): number {
    return Math.floor(this.next() * end)
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  pick<T>(items: readonly [T, ...T[]] | readonly T[]): T {
    return items[this.int(items.length)] as T
  }

  maybe<T>(items: readonly T[]): T | undefined {
    return items.length === 0 ? undefined : this.pick(items)
  }
}

/** One of these, each as often as its number says; made once, for it is asked for every step. */
export class Weighted<T> {
  readonly #items: readonly { readonly item: T; readonly upTo: number }[]
  readonly #sum: number

  constructor(items: readonly (readonly [weight: number, item: T])[]) {
    let sum = 0
    this.#items = items.map(([weight, item]) => ({ item, upTo: (sum += weight) }))
    this.#sum = sum
  }

  pick(random: Random): T {
    const at = random.next() * this.#sum
    return (this.#items.find(({ upTo }) => at < upTo) ?? this.#items[0])?.item as T
  }
}
