/**
 * Turns many concurrent calls into few round trips, and adds no latency: there is no timer. A call goes out with the
 * next turn of the microtask queue if a slot is free; while all slots are out, calls gather and travel together.
 *
 * So one caller alone pays one round trip, and a thousand callers pay a few: the busier the store, the larger the
 * batches. Items keep their order. Whoever submits sees to it that items of one batch do not conflict (`keyed-mutex.ts`).
 */

/** Sends one batch; must settle, must not reject, and answers every item in order. */
export type SendBatch<Item, Answer> = (batch: readonly Item[]) => Promise<readonly Answer[]>

export interface CoalescerLimits {
  /** Items in one batch. */
  readonly maxItems: number
  /** Batches out at once. */
  readonly maxInFlight: number
  /** A batch of so many is worth its round trip: more are divided among the slots that are free. @default never */
  readonly enough?: number | undefined
}

/** An item, and who is told its answer. */
export interface Waiting<Item, Answer> {
  readonly item: Item
  readonly signal: AbortSignal | undefined
  /** Nobody waits for it: cheap is better than soon, so it is not divided among slots. */
  readonly patient?: boolean | undefined
  /** Called once with the answer; with undefined when the signal aborted before it was sent: then it never is. Must not throw. */
  settle(answer: Answer | undefined): void
}

export class Coalescer<Item, Answer> {
  readonly #send: SendBatch<Item, Answer>
  readonly #limits: CoalescerLimits
  #queue: Waiting<Item, Answer>[] = []
  #inFlight = 0
  #pumpQueued = false

  constructor(limits: CoalescerLimits, send: SendBatch<Item, Answer>) {
    this.#limits = limits
    this.#send = send
  }

  /** The answer to this item; undefined when the signal aborted before it was sent: then it never is. */
  submit(item: Item, signal?: AbortSignal): Promise<Answer | undefined> {
    return new Promise((settle) => this.enqueue({ item, signal, settle }))
  }

  /** The same for those who are many and need no promise. */
  enqueue(waiting: Waiting<Item, Answer>): void {
    this.#queue.push(waiting)
    this.#pumpSoon()
  }

  #pumpSoon(): void {
    if (this.#pumpQueued || this.#inFlight >= this.#limits.maxInFlight) return
    this.#pumpQueued = true
    queueMicrotask(() => {
      this.#pumpQueued = false
      while (this.#queue.length > 0 && this.#inFlight < this.#limits.maxInFlight) void this.#dispatch(this.#take())
    })
  }

  /** The next batch, in order, without those whose callers have gone. */
  #take(): Waiting<Item, Answer>[] {
    const { maxItems, maxInFlight, enough = maxItems } = this.#limits
    const share = Math.ceil(this.#queue.length / (maxInFlight - this.#inFlight))
    const size = this.#queue[0]?.patient === true ? maxItems : Math.min(maxItems, Math.max(enough, share))
    let batch: Waiting<Item, Answer>[]
    if (this.#queue.length <= size) {
      batch = this.#queue
      this.#queue = []
    } else {
      batch = this.#queue.splice(0, size)
    }
    if (!batch.some(isGone)) return batch
    for (const waiting of batch) if (isGone(waiting)) waiting.settle(undefined)
    return batch.filter((waiting) => !isGone(waiting))
  }

  async #dispatch(batch: readonly Waiting<Item, Answer>[]): Promise<void> {
    if (batch.length === 0) return
    this.#inFlight++
    const answers = await this.#send(batch.map(({ item }) => item))
    this.#inFlight--
    for (let index = 0; index < batch.length; index++) batch[index]?.settle(answers[index])
    this.#pumpSoon()
  }
}

function isGone({ signal }: { readonly signal: AbortSignal | undefined }): boolean {
  return signal !== undefined && signal.aborted
}
