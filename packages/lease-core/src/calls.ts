/** The calls of one manager that are in flight: each ends once, by its outcome, by its signal, or because the manager stops. */
import { checkSignal, isReasonOf, onAbort, throwIfAborted } from './abort-signal.ts'
import { asLeaseError, ErrStopped } from './errors.ts'

/** What else belongs to the end of a call. */
export interface CallEnd<T> {
  /** Tidies up, whatever the end; with the error if that is what it was. */
  readonly atEnd?: (error?: unknown) => void
  /** Takes a result that came after the caller had gone. */
  readonly onOrphanedResult?: (value: T) => void
}

export class Calls {
  readonly #stopping: AbortSignal
  /** An array, and not a Set, whose tables would keep each other and the calls of long ago alive (`keyed-mutex.ts`). */
  readonly #calls: CallInFlight[] = []

  /** @param stopping its reason is the error of every call from then on */
  constructor(stopping: AbortSignal) {
    this.#stopping = stopping
  }

  /**
   * What every call shares: it never throws synchronously, rejects with errors of this library, and with the signal's reason when
   * the signal aborts or `ErrStopped` when the manager stops.
   */
  start<T>(
    signal: AbortSignal | undefined,
    body: () => Promise<T>,
    { atEnd, onOrphanedResult }: CallEnd<T> = {},
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#stopping.aborted) return reject(new ErrStopped('the manager is stopped'))
      let stopListening = (): void => {}
      const end = (): void => {
        this.#forget(call)
        stopListening()
      }
      const fail = (error: unknown): void => {
        if (call.index === OVER) return
        end()
        const reason = isReasonOf(signal, error) ? error : asLeaseError(error)
        reject(reason)
        atEnd?.(reason)
      }
      const call: CallInFlight = { index: this.#calls.length, fail }
      this.#calls.push(call)
      try {
        checkSignal(signal)
        throwIfAborted(signal)
        stopListening = onAbort(signal, () => fail(signal?.reason))
        body().then((value) => {
          if (call.index === OVER) onOrphanedResult?.(value)
          else {
            end()
            resolve(value)
            atEnd?.()
          }
        }, fail)
      } catch (error) {
        fail(error)
      }
    })
  }

  /** Rejects all of them. */
  failAll(error: Error): void {
    for (const call of [...this.#calls]) call.fail(error)
  }

  /** The last one takes its place. */
  #forget(call: CallInFlight): void {
    const last = this.#calls.pop()
    if (last !== undefined && last !== call) {
      this.#calls[call.index] = last
      last.index = call.index
    }
    call.index = OVER
  }
}

/** A call whose promise is pending, and how to reject it. */
interface CallInFlight {
  /** In the array of all of them. */
  index: number
  readonly fail: (error: unknown) => void
}

const OVER = -1
