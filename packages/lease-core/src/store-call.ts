/** One call of the substrate: what core says about it, and how it is given up. */
import type { StoreClock } from './store-clock.ts'
import type { Call } from './substrate.ts'

/** Its signal is made when somebody asks for it: an AbortController costs more than the rest of the call. */
export class StoreCall implements Call {
  readonly timeoutMs: number
  readonly client: string
  readonly epoch: number
  readonly sentMs: number | undefined
  readonly notAfterMs: number | undefined
  /** In the array of all that are in flight. */
  index = -1
  readonly #storeClock: StoreClock
  readonly #sentMs: number
  #controller: AbortController | undefined
  #listeners: ((why: Error) => void)[] | undefined
  #aborted: Error | undefined

  /** @param localMs when it was sent, by the monotonic clock of this process */
  constructor(stamp: Stamp, storeClock: StoreClock, localMs: number) {
    this.timeoutMs = stamp.timeoutMs
    this.client = stamp.client
    this.epoch = stamp.epoch
    this.sentMs = stamp.sentMs
    this.notAfterMs = stamp.notAfterMs
    this.#storeClock = storeClock
    this.#sentMs = localMs
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      const controller = new AbortController()
      this.#controller = controller
      this.onAbort((why) => controller.abort(why))
    }
    return this.#controller.signal
  }

  onAbort(listener: (why: Error) => void): void {
    if (this.#aborted !== undefined) listener(this.#aborted)
    else (this.#listeners ??= []).push(listener)
  }

  /** A late answer shows the store's time as well; an answer of nonsense is not believed. */
  answered(storeMs: number): void {
    if (Number.isFinite(storeMs)) this.#storeClock.learn(storeMs, this.#sentMs)
  }

  /** Core does not wait any more. */
  abort(error: Error): void {
    if (this.#aborted !== undefined) return
    this.#aborted = error
    for (const listener of this.#listeners ?? []) listener(error)
  }
}

/** What a call says about itself. */
type Stamp = Pick<Call, 'timeoutMs' | 'client' | 'epoch' | 'sentMs' | 'notAfterMs'>
