/** Pending timers in the order in which they fall due; those of one instant in the order in which they were set. */

export interface QueuedTimer {
  readonly dueMs: number
  readonly wake: () => void
  /** Cancelled or fired. */
  done: boolean
}

interface Entry extends QueuedTimer {
  readonly sequence: number
}

/** A binary heap; cancelled timers leave it when they come up, or when they are more than half of it. */
export class TimerQueue {
  #heap: Entry[] = []
  #sequence = 0
  #pending = 0

  /** How many neither fired nor were cancelled. */
  get size(): number {
    return this.#pending
  }

  add(dueMs: number, wake: () => void): QueuedTimer {
    const entry: Entry = { dueMs, wake, done: false, sequence: this.#sequence++ }
    this.#pending++
    this.#heap.push(entry)
    this.#up(this.#heap.length - 1)
    return entry
  }

  cancel(timer: QueuedTimer): void {
    if (timer.done) return
    timer.done = true
    this.#pending--
    if (this.#heap.length > 64 && this.#pending * 2 < this.#heap.length) {
      this.#heap = this.#heap.filter(({ done }) => !done).toSorted(byTurn) // a sorted array is a heap
    }
  }

  /** The first to fall due. */
  peek(): QueuedTimer | undefined {
    return this.#first()
  }

  /** Tells those that are in the queue now from those that come later. */
  mark(): number {
    return this.#sequence
  }

  /** Takes the first if it is due by then and was set before the mark. */
  take(byMs: number, mark: number): QueuedTimer | undefined {
    const first = this.#first()
    if (first === undefined || first.dueMs > byMs || first.sequence >= mark) return undefined
    this.#pop()
    first.done = true
    this.#pending--
    return first
  }

  #first(): Entry | undefined {
    while (this.#heap[0]?.done === true) this.#pop()
    return this.#heap[0]
  }

  #pop(): void {
    const last = this.#heap.pop()
    if (last === undefined || this.#heap.length === 0) return
    this.#heap[0] = last
    this.#down(0)
  }

  #up(index: number): void {
    while (index > 0) {
      const parent = (index - 1) >> 1
      if (!this.#swapUnlessOrdered(parent, index)) return
      index = parent
    }
  }

  #down(index: number): void {
    for (;;) {
      const left = 2 * index + 1
      const right = left + 1
      const [one, two] = [this.#heap[left], this.#heap[right]]
      const child = one !== undefined && two !== undefined && byTurn(two, one) < 0 ? right : left
      if (!this.#swapUnlessOrdered(index, child)) return
      index = child
    }
  }

  #swapUnlessOrdered(upper: number, lower: number): boolean {
    const [a, b] = [this.#heap[upper], this.#heap[lower]]
    if (a === undefined || b === undefined || byTurn(a, b) < 0) return false
    this.#heap[upper] = b
    this.#heap[lower] = a
    return true
  }
}

function byTurn(a: Entry, b: Entry): number {
  return a.dueMs - b.dueMs || a.sequence - b.sequence
}
