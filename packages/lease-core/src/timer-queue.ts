/**
 * Many wake-ups, one timer. Deadlines that are due in the same millisecond share a bucket; the buckets' times form a heap;
 * the earliest of them has the only timer. Renewals round their time down (`hold.ts`), so that a hundred thousand of
 * them fall into a few buckets and travel in the same batches.
 */
import type { Clock, Timer } from './clock.ts'
import { elapsedTimeOf, type ClockReading, type ElapsedTime } from './elapsed-time.ts'

/** Something that wants to be woken. It is in the queue at most once. */
export interface Deadline {
  /** Monotonic millisecond at which it is due; written by the queue only. -1: not in it. */
  wakeAtMs: number
  /** @param now read once for all who are woken together: shortly before, never after */
  wake(now: ClockReading): void
}

/** Deadlines woken in one turn of the event loop: about a millisecond of work, then others have their turn. */
const TURN = 256
/** Below this many entries nobody looks for those whose deadlines were taken off or moved. */
const SWEEP_FLOOR = 1024

export class TimerQueue {
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #buckets = new Map<number, Deadline[]>()
  /** Binary heap of the buckets' times, earliest first. */
  #times: number[] = []
  /** Deadlines that wait, and places in buckets: a deadline that was taken off or moved leaves its place until a sweep. */
  #waiting = 0
  #places = 0
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY

  constructor(clock: Clock) {
    this.#clock = clock
    this.#time = elapsedTimeOf(clock)
  }

  /** Wakes the deadline at this monotonic time, rounded to a whole millisecond by the caller; replaces its earlier time. */
  at(deadline: Deadline, timeMs: number): void {
    if (deadline.wakeAtMs === timeMs) return
    if (deadline.wakeAtMs === -1) this.#waiting++
    deadline.wakeAtMs = timeMs
    this.#places++
    const bucket = this.#buckets.get(timeMs)
    if (bucket === undefined) {
      this.#buckets.set(timeMs, [deadline])
      this.#push(timeMs)
    } else bucket.push(deadline)
    if (timeMs < this.#timerAtMs) this.#arm(timeMs)
  }

  /** The deadline is not woken. When nobody waits any more, no timer is left either. */
  off(deadline: Deadline): void {
    if (deadline.wakeAtMs === -1) return
    deadline.wakeAtMs = -1
    this.#waiting--
    if (this.#waiting === 0) this.clear()
    else if (this.#places > Math.max(SWEEP_FLOOR, 2 * this.#waiting)) this.#sweep()
  }

  /** Forgets every deadline and leaves no timer. */
  clear(): void {
    for (const bucket of this.#buckets.values()) for (const deadline of bucket) deadline.wakeAtMs = -1
    this.#buckets.clear()
    this.#times.length = 0
    this.#waiting = 0
    this.#places = 0
    this.#timer?.cancel()
    this.#timer = undefined
    this.#timerAtMs = Number.POSITIVE_INFINITY
  }

  #arm(timeMs: number): void {
    this.#timer?.cancel()
    this.#timerAtMs = timeMs
    // A timer may fire up to a millisecond early: a tick that lands before its time arms again, it never spins.
    const delayMs = Math.max(0, Math.ceil(timeMs - this.#clock.monotonic()))
    this.#timer = this.#clock.setTimer(delayMs, () => this.#fire())
  }

  #fire(): void {
    this.#timer = undefined
    this.#timerAtMs = Number.NEGATIVE_INFINITY // whatever is added meanwhile is armed below
    const now = this.#time.read()
    const nowMs = now.monotonicMs
    let woken = 0
    for (
      let timeMs = this.#times[0];
      timeMs !== undefined && timeMs <= nowMs && woken < TURN;
      timeMs = this.#times[0]
    ) {
      const bucket = this.#buckets.get(timeMs) ?? []
      while (bucket.length > 0 && woken < TURN) {
        const deadline = bucket.pop() as Deadline
        this.#places--
        if (deadline.wakeAtMs !== timeMs) continue // moved or taken off since
        deadline.wakeAtMs = -1
        this.#waiting--
        woken++
        deadline.wake(now)
      }
      // It may have been replaced meanwhile, when the last of those who waited was taken off and another came.
      if (bucket.length === 0 && this.#times[0] === timeMs && this.#buckets.get(timeMs) === bucket) {
        this.#buckets.delete(timeMs)
        this.#pop()
      }
    }
    this.#timerAtMs = Number.POSITIVE_INFINITY
    const next = this.#times[0]
    if (this.#waiting === 0) this.clear()
    else if (next !== undefined) this.#arm(next)
  }

  /** Forgets the places that deadlines have left: what was taken off early is not referenced until its time. */
  #sweep(): void {
    if (this.#timerAtMs === Number.NEGATIVE_INFINITY) return // a bucket is being emptied right now
    this.#places = 0
    for (const [timeMs, bucket] of this.#buckets) {
      const left = bucket.filter((deadline) => deadline.wakeAtMs === timeMs)
      this.#places += left.length
      if (left.length === 0) this.#buckets.delete(timeMs)
      else this.#buckets.set(timeMs, left)
    }
    this.#times = [...this.#buckets.keys()].toSorted((a, b) => a - b) // a sorted array is a heap
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
