import { abortController, onAbort } from 'lease-core'

/** Does what `onAbort` of lease-core does, and calls back at once if the signal has aborted already. */
export function whenAborted(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal?.aborted !== true) return onAbort(signal, listener)
  listener()
  return () => {}
}

/** Settles as the promise does, or rejects with the signal's reason if that comes first. The work behind the promise goes on. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    let stopListening = (): void => {}
    promise.then(resolve, reject).finally(() => stopListening()) // first, because `whenAborted` may throw
    stopListening = whenAborted(signal, () => reject(signal.reason as Error))
  })
}

/** A signal that can be aborted here, and aborts with its source until `letGo()`: a long-lived source then keeps no reference. */
export class LinkedSignal {
  readonly #controller = abortController()
  readonly #stopListening: () => void

  constructor(source: AbortSignal | undefined) {
    this.#stopListening = whenAborted(source, () => this.abort(source?.reason))
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason)
  }

  letGo(): void {
    this.#stopListening()
  }
}
