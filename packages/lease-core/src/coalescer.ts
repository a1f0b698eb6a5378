/**
 * Turns many concurrent calls into few round trips, and adds no latency. A call goes out before the event loop goes on, if a slot
 * is free; while all slots are taken, calls gather and travel together. A call made in a microtask goes out after the microtasks that
 * follow: callers that were answered together ask again after different numbers of them, and are to travel together again.
 *
 * So one caller alone pays one round trip, and a thousand callers pay a few: the busier the store, the larger the
 * batches. Items keep their order.
 *
 * One slow thing does not delay the others:
 *
 * - A batch that is in flight for longer than a short while gives its slot back, and another may go out beside it. A
 *   store that is slow for all still gets few batches: the total is limited, too.
 * - Items whose time-outs differ much do not share a batch: a short time-out would cut off the others.
 *
 * A batch travels in the context (`AsyncLocalStorage`) of the call that made it go out; one that goes out when an answer has freed its slot, in
 * none: it belongs to no single call.
 *
 * Items with the same key do not share a batch: a batch has no order that a store would have to keep.
 */
import type { AsyncResource } from 'node:async_hooks'
import type { Clock, Timer } from './clock.ts'
import { presentContext, withoutContext } from './tracing.ts'
import { nextTick } from './turns.ts'

/** Sends one batch; must settle, must not reject, and answers every item in order. */
export type SendBatch<Item, Answer> = (batch: readonly Item[]) => Promise<readonly Answer[]>

/** Watches the batches of a coalescer, while somebody listens. */
export interface BatchWatcher<Item, Answer> {
  /** Whether the next batch is to be watched. */
  readonly isHeard: boolean
  /** Whether the contexts of those who ask are to be kept for `around`. */
  readonly wantsCallers: boolean
  /** Sends the batch, and reports it. Must settle, and must not reject. */
  around(batch: WatchedBatch<Item, Answer>): Promise<readonly Answer[]>
}

export interface WatchedBatch<Item, Answer> {
  readonly items: readonly Item[]
  /** How many wait for a batch of their own. */
  readonly waiting: number
  /** Names the coalescer, in this process. */
  readonly queue: number
  readonly callers: readonly AsyncResource[]
  readonly send: () => Promise<readonly Answer[]>
}

export interface CoalescerLimits<Item> {
  /** Items in one batch. */
  readonly maxItems: number
  /** Batches in flight at once that are not slow; in all, eight times as many. */
  readonly maxInFlight: number
  /** A batch of so many is worth its round trip: more are divided among the slots that are free. @default never */
  readonly enough?: number | undefined
  /**
   * Milliseconds after which the round trip of this item is given up. In one batch, the longest is at most twice the
   * shortest. @default all may share a batch
   */
  readonly timeoutOf?: ((item: Item) => number) | undefined
}

/** An item, and the caller that gets its answer. */
export interface Waiting<Item, Answer> {
  readonly item: Item
  readonly signal: AbortSignal | undefined
  /** No two items with this key share a batch. @default it shares a batch with every other */
  readonly key?: string | undefined
  /** Nobody waits for it: cheap is better than soon, so it is not divided among slots. */
  readonly patient?: boolean | undefined
  /** Called once with the answer; with undefined when the signal aborted before it was sent: then it never is. Must not throw. */
  settle(answer: Answer | undefined): void
}

/** A batch in flight for so long gives its slot back: longer than a healthy round trip, shorter than anybody notices. */
const SLOW_MS = 50
/** So many times `maxInFlight` are in flight at the most, slow or not. */
const HARD_CAP = 8
/** The longest time-out in a batch is at most so many times the shortest. */
const TIMEOUT_SPREAD = 2

/** How many there are. */
let coalescers = 0

export class Coalescer<Item, Answer> {
  readonly #id = ++coalescers
  readonly #clock: Clock
  readonly #limits: CoalescerLimits<Item>
  readonly #send: SendBatch<Item, Answer>
  #queue: Waiting<Item, Answer>[] = []
  /** The time-outs in the queue lie between these. */
  #shortestMs = Number.POSITIVE_INFINITY
  #longestMs = 0
  /** Batches in flight, in the order in which they were sent: the first ones are slow. */
  readonly #flights: Flight<Item>[] = []
  #slow = 0
  #pumpQueued = false
  /** Something waits for a slot. */
  #blocked = false
  #timer: Timer | undefined
  readonly #watcher: BatchWatcher<Item, Answer> | undefined
  /** Made when they are asked for. */
  #callers: WeakMap<Waiting<Item, Answer>, AsyncResource> | undefined

  constructor(
    clock: Clock,
    limits: CoalescerLimits<Item>,
    send: SendBatch<Item, Answer>,
    watcher?: BatchWatcher<Item, Answer>,
  ) {
    this.#watcher = watcher
    this.#clock = clock
    this.#limits = limits
    this.#send = send
  }

  /** The answer to this item; undefined when the signal aborted before it was sent: then it never is. */
  submit(item: Item, signal?: AbortSignal, key?: string): Promise<Answer | undefined> {
    return new Promise((settle) => this.enqueue({ item, signal, key, settle }))
  }

  /** What has no answer yet: sent, or about to be. */
  unanswered(): readonly Item[] {
    return [...this.#flights.flatMap(({ items }) => items), ...this.#queue.map(({ item }) => item)]
  }

  /** The same for those who are many and need no promise. */
  enqueue(waiting: Waiting<Item, Answer>): void {
    this.#queue.push(waiting)
    if (this.#watcher?.wantsCallers === true) (this.#callers ??= new WeakMap()).set(waiting, presentContext())
    this.#noteTimeout(waiting.item)
    if (!this.#blocked) this.#pumpSoon()
    else if (waiting.signal !== undefined) this.#waitForSlot()
  }

  #noteTimeout(item: Item): void {
    const timeoutMs = this.#limits.timeoutOf?.(item)
    if (timeoutMs === undefined) return
    if (timeoutMs < this.#shortestMs) this.#shortestMs = timeoutMs
    if (timeoutMs > this.#longestMs) this.#longestMs = timeoutMs
  }

  #pumpSoon(): void {
    if (this.#pumpQueued || this.#blocked) return
    this.#pumpQueued = true
    nextTick(() => {
      this.#pumpQueued = false
      this.#pump()
    })
  }

  #pump(): void {
    while (this.#queue.length > 0) {
      const slots = this.#freeSlots()
      if (slots <= 0) return this.#waitForSlot()
      const batch = this.#take(slots)
      if (batch.length > 0) void this.#dispatch(batch)
    }
  }

  #freeSlots(): number {
    const { maxInFlight } = this.#limits
    const inFlight = this.#flights.length
    if (inFlight - this.#slow >= maxInFlight) {
      const slowSinceMs = this.#clock.monotonic() - SLOW_MS
      while (this.#slow < inFlight && (this.#flights[this.#slow] as Flight<Item>).sentMs <= slowSinceMs) this.#slow++
    }
    return Math.min(maxInFlight - (inFlight - this.#slow), HARD_CAP * maxInFlight - inFlight)
  }

  /**
   * Until an answer comes, or until a batch becomes slow. While no slot can become free, the timer only serves those whose
   * signals abort. It may outlive the wait by one shot, so that a busy store does not cost a timer for each batch.
   */
  #waitForSlot(): void {
    this.#blocked = true
    if (this.#timer !== undefined) return
    const full = this.#flights.length >= HARD_CAP * this.#limits.maxInFlight
    if (full && !this.#queue.some(({ signal }) => signal !== undefined)) return
    const nowMs = this.#clock.monotonic()
    const slowAtMs = Math.min(this.#flights[this.#slow]?.sentMs ?? nowMs, nowMs) + SLOW_MS
    this.#timer = this.#clock.setTimer(Math.max(1, Math.ceil(slowAtMs - nowMs)), () => {
      this.#timer = undefined
      if (!this.#blocked) return
      this.#blocked = false
      this.#queue = withoutGone(this.#queue)
      this.#pump()
    })
  }

  /** The next batch, in order, without those whose callers have gone. */
  #take(slots: number): readonly Waiting<Item, Answer>[] {
    const { maxItems, enough = maxItems } = this.#limits
    const share = Math.ceil(this.#queue.length / slots)
    const size = this.#queue[0]?.patient === true ? maxItems : Math.min(maxItems, Math.max(enough, share))
    if (this.#longestMs > TIMEOUT_SPREAD * this.#shortestMs || hasDoubles(this.#queue, size)) return this.#pick(size)
    if (this.#queue.length > size) return withoutGone(this.#queue.splice(0, size))
    const batch = this.#queue
    this.#setQueue([])
    return withoutGone(batch)
  }

  /** The same where not all may travel together: the first, and in order those that may join it. */
  #pick(size: number): readonly Waiting<Item, Answer>[] {
    const { timeoutOf } = this.#limits
    const queue = withoutGone(this.#queue)
    const batch: Waiting<Item, Answer>[] = []
    const left: Waiting<Item, Answer>[] = []
    const keys = new Set<string>()
    let [shortestMs, longestMs] = [Number.POSITIVE_INFINITY, 0]
    let index = 0
    for (; index < queue.length && batch.length < size; index++) {
      const waiting = queue[index] as Waiting<Item, Answer>
      const timeoutMs = timeoutOf?.(waiting.item) ?? 0
      const [least, most] = [Math.min(shortestMs, timeoutMs), Math.max(longestMs, timeoutMs)]
      if (most > TIMEOUT_SPREAD * least || (waiting.key !== undefined && keys.has(waiting.key))) left.push(waiting)
      else {
        batch.push(waiting)
        if (waiting.key !== undefined) keys.add(waiting.key)
        ;[shortestMs, longestMs] = [least, most]
      }
    }
    this.#setQueue(index === queue.length ? left : [...left, ...queue.slice(index)])
    return batch
  }

  #setQueue(queue: Waiting<Item, Answer>[]): void {
    this.#queue = queue
    this.#shortestMs = Number.POSITIVE_INFINITY
    this.#longestMs = 0
    for (const { item } of queue) this.#noteTimeout(item)
  }

  /** The last free slot is taken: from now on it matters how long each has been in flight. */
  #stamp(): void {
    const nowMs = this.#clock.monotonic()
    for (let index = this.#flights.length - 1; index >= this.#slow; index--) {
      const flight = this.#flights[index] as Flight<Item>
      if (flight.sentMs !== Number.POSITIVE_INFINITY) return
      flight.sentMs = nowMs
    }
  }

  #landed(flight: Flight<Item>): void {
    const index = this.#flights.indexOf(flight)
    if (index === 0) this.#flights.shift()
    else this.#flights.splice(index, 1)
    if (index < this.#slow) this.#slow--
    this.#blocked = false
  }

  #watched(batch: readonly Waiting<Item, Answer>[], items: readonly Item[]): Promise<readonly Answer[]> {
    const callers: AsyncResource[] = []
    for (const waiting of batch) {
      const caller = this.#callers?.get(waiting)
      if (caller !== undefined) callers.push(caller)
    }
    const watched = { items, waiting: this.#queue.length, queue: this.#id, callers, send: () => this.#send(items) }
    return (this.#watcher as BatchWatcher<Item, Answer>).around(watched)
  }

  async #dispatch(batch: readonly Waiting<Item, Answer>[]): Promise<void> {
    const items = batch.map(({ item }) => item)
    const flight: Flight<Item> = { items, sentMs: Number.POSITIVE_INFINITY }
    this.#flights.push(flight)
    if (this.#flights.length - this.#slow >= this.#limits.maxInFlight) this.#stamp()
    const answers = this.#watcher?.isHeard === true ? await this.#watched(batch, items) : await this.#send(items)
    this.#landed(flight)
    for (let at = 0; at < batch.length; at++) batch[at]?.settle(answers[at])
    if (this.#queue.length > 0) withoutContext(() => this.#pumpSoon())
    else if (this.#flights.length === 0) {
      this.#timer?.cancel()
      this.#timer = undefined
    }
  }
}

/** A batch in flight. */
interface Flight<Item> {
  readonly items: readonly Item[]
  /** Not before it was sent; infinite while slots are free, since nobody asks: reading the clock is not free. */
  sentMs: number
}

/** Whether two of the first items have the same key. */
function hasDoubles(queue: readonly Waiting<unknown, unknown>[], size: number): boolean {
  const count = Math.min(size, queue.length)
  if (count < 2) return false
  let keys: Set<string> | undefined
  let keyed = 0
  for (let index = 0; index < count; index++) {
    const key = queue[index]?.key
    if (key === undefined) continue
    keyed++
    keys = (keys ?? new Set()).add(key)
  }
  return keys !== undefined && keys.size < keyed
}

/** Settles those whose signals have aborted, and returns the others. A notified caller may enqueue more, at the end. */
function withoutGone<Item, Answer>(queue: Waiting<Item, Answer>[]): Waiting<Item, Answer>[] {
  if (!queue.some(isGone)) return queue
  const left: Waiting<Item, Answer>[] = []
  for (const waiting of queue) {
    if (isGone(waiting)) waiting.settle(undefined)
    else left.push(waiting)
  }
  return left
}

function isGone({ signal }: { readonly signal: AbortSignal | undefined }): boolean {
  return signal !== undefined && signal.aborted
}
