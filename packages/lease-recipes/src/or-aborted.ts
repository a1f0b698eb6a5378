import { onAbort } from 'lease-core'

/** As `onAbort` of lease-core, but of a signal that has aborted already it calls back at once. */
export function whenAborted(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal?.aborted !== true) return onAbort(signal, listener)
  listener()
  return () => {}
}

/** The promise's outcome, or the signal's reason if that comes first; what was begun goes on by itself. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    let stopListening = (): void => {}
    promise.then(resolve, reject).finally(() => stopListening()) // before all else: to listen may throw
    stopListening = whenAborted(signal, () => reject(signal.reason as Error))
  })
}

/** A signal of one's own that also aborts with another, until it is let go: a long-lived one then remembers nothing. */
export class LinkedSignal {
  readonly #controller = new AbortController()
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
