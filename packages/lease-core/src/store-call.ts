/** One call of the substrate: what core says about it, and how it is given up. */
import type { Call } from './substrate.ts'

/** What a call carries besides its limit of time. */
export interface CallStamp {
  readonly client: string
  readonly epoch: number
  readonly sentMs: number | undefined
  readonly notAfterMs: number | undefined
}

/** Its signal is made when somebody asks for it: an AbortController costs more than the rest of the call. */
export class StoreCall implements Call {
  readonly timeoutMs: number
  readonly client: string
  readonly epoch: number
  readonly sentMs: number | undefined
  readonly notAfterMs: number | undefined
  readonly #answered: (storeMs: number) => void
  #controller: AbortController | undefined
  #listeners: ((why: Error) => void)[] | undefined
  #aborted: Error | undefined

  constructor(
    timeoutMs: number,
    { client, epoch, sentMs, notAfterMs }: CallStamp,
    answered: (storeMs: number) => void,
  ) {
    this.timeoutMs = timeoutMs
    this.client = client
    this.epoch = epoch
    this.sentMs = sentMs
    this.notAfterMs = notAfterMs
    this.#answered = answered
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
    if (Number.isFinite(storeMs)) this.#answered(storeMs)
  }

  /** Core does not wait any more. */
  abort(error: Error): void {
    if (this.#aborted !== undefined) return
    this.#aborted = error
    for (const listener of this.#listeners ?? []) listener(error)
  }
}
