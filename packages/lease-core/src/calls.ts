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
        const isAbort = isReasonOf(signal, error)
        const reason = isAbort ? error : asLeaseError(error)
        if (isAbort || !isToBeTraced(reason)) reject(reason)
        else rejectTraced(resolve, reason)
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

/** Errors that have the frames of a caller. One error may end several calls. */
const traced = new WeakSet<Error>()

/** Whether the error has a stack, which does not show the caller yet. A manager that stops ends all its calls at once. */
function isToBeTraced(error: unknown): error is Error {
  if (!(error instanceof Error) || error instanceof ErrStopped || traced.has(error)) return false
  return error.stack?.includes('\n    at ') === true
}

/**
 * Rejects the call with the error, and lets its stack show who called. The error was made in the background, where no caller is on the
 * stack, and to note the stack of each call would cost too much. So the way back is looked at before the call ends, from a function for
 * which the call waits as the caller waits for the call.
 */
function rejectTraced(resolve: (outcome: Promise<never>) => void, error: Error): void {
  let begin = (): void => {}
  const isWaitedFor = new Promise<void>((began) => (begin = began))
  resolve(tracedToCaller(error, isWaitedFor))
  begin()
}

async function tracedToCaller(error: Error, isWaitedFor: Promise<void>): Promise<never> {
  await isWaitedFor
  const way: { stack?: string } = {}
  Error.captureStackTrace(way)
  const callers = (way.stack ?? '').split('\n').filter((line) => line.startsWith('    at async '))
  if (callers.length > 0 && !error.stack?.includes(callers[0] as string)) {
    error.stack = [error.stack, ...callers].join('\n')
  }
  traced.add(error)
  throw error
}

/** A call whose promise is pending, and how to reject it. */
interface CallInFlight {
  /** In the array of all of them. */
  index: number
  readonly fail: (error: unknown) => void
}

const OVER = -1
