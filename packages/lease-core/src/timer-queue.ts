/**
 * Many deadlines, one timer. There are two classes:
 *
 * - *Urgent*: the ends of trust windows. All that are due are woken first, earliest first, in one turn of the event loop:
 *   what ends late may have been granted to another in the meantime. Those that fall due then are woken in the same turn.
 * - *The others*: at most 256 in one turn, so that answers and callers have their turns, too.
 *
 * In each class, deadlines of the same millisecond share a bucket, and a heap orders the times of the buckets. Renewals
 * round their times down (`hold.ts`), so that a hundred thousand of them fall into a few buckets and travel in the same
 * batches. To add, move or remove a deadline costs the same however many wait. The queue refers to those that wait, and
 * to no other: a removed deadline leaves at once.
 */
import type { Clock, Timer } from './clock.ts'
import { elapsedTimeOf, type ClockReading, type ElapsedTime } from './elapsed-time.ts'
import { warn } from './errors.ts'
import { withoutContext } from './tracing.ts'

/** Something that wants to be woken. It is in at most one queue, at most once. */
export interface Deadline {
  /** Monotonic millisecond at which it is due; written by the queue only. -1, as in the beginning: not in the queue. */
  wakeAtMs: number
  /** Its index in its bucket; written by the queue only. 0 in the beginning. */
  slot: number
  /** Woken before those that are not urgent, and without rationing. Never changes. @default false */
  readonly urgent?: boolean
  /**
   * May add, move and remove deadlines, itself included. An error that it throws is reported; the others are woken.
   *
   * @param now read once for all who are woken together: shortly before, never after
   */
  wake(now: ClockReading): void
}

/** Deadlines woken in one turn of the event loop, beside the urgent ones: about a millisecond of work. */
const TURN = 256

export class TimerQueue {
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #report: (error: unknown) => void
  readonly #urgent = new Buckets()
  readonly #others = new Buckets()
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY

  /** @param report takes what a deadline threw. @default a warning of the process */
  constructor(clock: Clock, report: (error: unknown) => void = warnOfTimer) {
    this.#clock = clock
    this.#time = elapsedTimeOf(clock)
    this.#report = report
  }

  /** Wakes the deadline at this monotonic time, rounded to a whole millisecond by the caller; replaces its earlier time. */
  at(deadline: Deadline, timeMs: number): void {
    if (deadline.wakeAtMs === timeMs) return
    const buckets = this.#bucketsOf(deadline)
    if (deadline.wakeAtMs !== -1) buckets.remove(deadline)
    buckets.add(deadline, timeMs)
    if (timeMs < this.#timerAtMs) this.#arm(timeMs)
  }

  /** The deadline is not woken. When nobody waits any more, no timer is left either. */
  off(deadline: Deadline): void {
    if (deadline.wakeAtMs === -1) return
    this.#bucketsOf(deadline).remove(deadline)
    if (this.#urgent.size === 0 && this.#others.size === 0) this.#disarm()
  }

  /** Forgets every deadline and leaves no timer. */
  clear(): void {
    this.#urgent.clear()
    this.#others.clear()
    this.#disarm()
  }

  #bucketsOf({ urgent }: Deadline): Buckets {
    return urgent === true ? this.#urgent : this.#others
  }

  #arm(timeMs: number): void {
    this.#timer?.cancel()
    this.#timerAtMs = timeMs
    // A timer may fire up to a millisecond early: a tick that lands before its time arms again, it never spins.
    const delayMs = Math.max(0, Math.ceil(timeMs - this.#clock.monotonic()))
    this.#timer = this.#clock.setTimer(delayMs, this.#fired)
  }

  #disarm(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    this.#timerAtMs = Number.POSITIVE_INFINITY
  }

  /** Who waits belongs to no call: not to the one that armed the timer. */
  readonly #fired = (): void => withoutContext(() => this.#fire())

  #fire(): void {
    this.#timer = undefined
    this.#timerAtMs = Number.NEGATIVE_INFINITY // what is added during the loop is armed below
    try {
      let now = this.#time.read()
      // Bounded by those that wait now: deadlines that add themselves again and again cannot keep the event loop.
      for (let left = this.#urgent.size; left > 0; now = this.#time.read()) {
        const woken = this.#wakeDue(this.#urgent, now, left)
        if (woken === 0) break
        left -= woken
      }
      this.#wakeDue(this.#others, now, TURN)
    } finally {
      const nextMs = Math.min(this.#urgent.firstMs(), this.#others.firstMs())
      if (nextMs === Number.POSITIVE_INFINITY) this.#disarm()
      else this.#arm(nextMs)
    }
  }

  /** Wakes what is due, earliest first, up to `most`. Returns how many were woken. */
  #wakeDue(buckets: Buckets, now: ClockReading, most: number): number {
    for (let woken = 0; woken < most; woken++) {
      const deadline = buckets.take(now.monotonicMs)
      if (deadline === undefined) return woken
      try {
        deadline.wake(now)
      } catch (error) {
        this.#report(error)
      }
    }
    return most
  }
}

/** So many empty buckets, and as many again as are filled, are no reason to rebuild. */
const SPARE = 256

/** Deadlines of one class. Each knows its place, so that it can leave at once. */
class Buckets {
  /** How many deadlines wait. */
  size = 0
  /** By time. One that was emptied early stays, empty, until its time comes up or there are too many of the kind. */
  #buckets = new Map<number, Deadline[]>()
  #empty = 0
  /** Binary heap of the buckets' times, earliest first. */
  #times: number[] = []

  add(deadline: Deadline, timeMs: number): void {
    deadline.wakeAtMs = timeMs
    this.size++
    const bucket = this.#buckets.get(timeMs)
    if (bucket === undefined) {
      deadline.slot = 0
      this.#buckets.set(timeMs, [deadline])
      this.#push(timeMs)
    } else {
      if (bucket.length === 0) this.#empty--
      deadline.slot = bucket.push(deadline) - 1
    }
  }

  remove(deadline: Deadline): void {
    const bucket = this.#buckets.get(deadline.wakeAtMs) as Deadline[]
    const last = bucket.pop() as Deadline
    if (last !== deadline) {
      bucket[deadline.slot] = last
      last.slot = deadline.slot
    }
    deadline.wakeAtMs = -1
    if (--this.size === 0) this.clear()
    else if (bucket.length === 0 && ++this.#empty > this.#buckets.size / 2 + SPARE) this.#rebuild()
  }

  /** Removes and returns the earliest deadline, if it is due. */
  take(nowMs: number): Deadline | undefined {
    const timeMs = this.firstMs()
    if (timeMs > nowMs) return undefined
    const bucket = this.#buckets.get(timeMs) as Deadline[]
    const deadline = bucket.pop() as Deadline
    deadline.wakeAtMs = -1
    this.size--
    if (bucket.length === 0) this.#dropFirst()
    return deadline
  }

  /** The earliest time; infinite: nobody waits. */
  firstMs(): number {
    for (let timeMs = this.#times[0]; timeMs !== undefined; timeMs = this.#times[0]) {
      if (this.#buckets.get(timeMs)?.length !== 0) return timeMs
      this.#empty--
      this.#dropFirst()
    }
    return Number.POSITIVE_INFINITY
  }

  clear(): void {
    for (const bucket of this.#buckets.values()) for (const deadline of bucket) deadline.wakeAtMs = -1
    this.#buckets.clear()
    this.#times.length = 0
    this.#empty = 0
    this.size = 0
  }

  #rebuild(): void {
    const buckets = new Map<number, Deadline[]>()
    this.#buckets.forEach((bucket, timeMs) => {
      if (bucket.length > 0) buckets.set(timeMs, bucket)
    })
    this.#buckets = buckets
    this.#times = [...buckets.keys()].toSorted((a, b) => a - b) // a sorted array is a heap
    this.#empty = 0
  }

  #dropFirst(): void {
    this.#buckets.delete(this.#times[0] as number)
    this.#pop()
  }

  #push(timeMs: number): void {
    const heap = this.#times
    let index = heap.push(timeMs) - 1
    while (index > 0) {
      const parent = (index - 1) >> 1
      const above = heap[parent] as number
      if (above <= timeMs) break
      heap[index] = above
      index = parent
    }
    heap[index] = timeMs
  }

  #pop(): void {
    const heap = this.#times
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && (heap[child + 1] as number) < (heap[child] as number)) child++
      if ((heap[child] as number) >= last) break
      heap[index] = heap[child] as number
      index = child
    }
    heap[index] = last
  }
}

/** Reports an error that no caller waits for. */
export function warnOfTimer(error: unknown): void {
  warn(error, 'LeaseTimerWarning')
}
