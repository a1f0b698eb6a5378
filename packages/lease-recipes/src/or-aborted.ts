import { setMaxListeners } from 'node:events'

/** The promise's outcome, or the signal's reason if that comes first; what was begun goes on by itself. */
export function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error)
    if (signal.aborted) onAbort()
    setMaxListeners(0, signal) // one signal may end a thousand calls
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/** A signal of one's own that also aborts with another, until it is let go: a long-lived one then remembers nothing. */
export class LinkedSignal {
  readonly #controller = new AbortController()
  readonly #source: AbortSignal | undefined
  readonly #onAbort = (): void => this.abort(this.#source?.reason)

  constructor(source: AbortSignal | undefined) {
    this.#source = source
    if (source?.aborted === true) this.#onAbort()
    else if (source !== undefined) {
      setMaxListeners(0, source)
      source.addEventListener('abort', this.#onAbort, { once: true })
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason)
  }

  letGo(): void {
    this.#source?.removeEventListener('abort', this.#onAbort)
  }
}
