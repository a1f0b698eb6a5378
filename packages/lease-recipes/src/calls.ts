import { ErrStopped, ErrUnknown, MAX_DURATION_MS, throwIfAborted, type Clock } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { LinkedSignal, orAborted } from './or-aborted.ts'

interface CallOf<T> {
  readonly signal: AbortSignal | undefined
  readonly limitMs: number
  /** Called with a result that arrives after the call has ended. */
  readonly onOrphanedResult?: ((value: T) => void) | undefined
}

/**
 * Reads the options of a call that accepts only a signal. Returns the signal.
 *
 * @throws ErrNotValid, or the signal's reason when it has aborted already
 */
export function checkedSignal(options: { readonly signal?: AbortSignal | undefined }): AbortSignal | undefined {
  const reader = new OptionReader(options, ['signal'])
  const signal = reader.signal()
  reader.finish()
  throwIfAborted(signal)
  return signal
}

/** Counts, for a permit or lock that several calls may return, how many calls use it. */
export class Takers<T extends object> {
  readonly #takers = new WeakMap<T, number>()

  add(one: T): void {
    this.#takers.set(one, (this.#takers.get(one) ?? 0) + 1)
  }

  /** A call does not use it after all. Returns whether no other call does. */
  remove(one: T): boolean {
    const left = (this.#takers.get(one) ?? 1) - 1
    this.#takers.set(one, left)
    return left === 0
  }
}

/** The calls of a recipe in progress: each ends with its signal, with its time, and with the recipe. */
export class Calls {
  readonly #clock: Clock
  /** For messages: the subject of "stopped". */
  readonly #what: string
  readonly #underWay = new Map<LinkedSignal, Promise<unknown>>()
  #stopped = false

  constructor(clock: Clock, what: string) {
    this.#clock = clock
    this.#what = what
  }

  /**
   * Settles as the body does. The signal of the body aborts when the call has ended before it.
   *
   * @throws ErrStopped `stop` was called
   * @throws ErrUnknown no answer within `limitMs`
   */
  async run<T>(
    { signal, limitMs, onOrphanedResult }: CallOf<T>,
    body: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    if (this.#stopped) throw this.#error()
    throwIfAborted(signal)
    const until = new LinkedSignal(signal)
    const timeIsUp = (): void => until.abort(new ErrUnknown(`no answer within ${limitMs} ms`, { reason: 'no answer' }))
    const timer = limitMs < MAX_DURATION_MS ? this.#clock.setTimer(limitMs, timeIsUp) : undefined
    const call = body(until.signal)
    this.#underWay.set(until, call)
    const forget = (): void => {
      this.#underWay.delete(until)
      until.letGo()
    }
    call.then(forget, forget)
    let isAnswered = false
    try {
      const value = await orAborted(call, until.signal)
      isAnswered = true
      return value
    } finally {
      if (!isAnswered && onOrphanedResult !== undefined) call.then(onOrphanedResult, () => {})
      timer?.cancel()
    }
  }

  /** Rejects every present and later call. Resolves when no body runs any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    const calls = [...this.#underWay]
    for (const [until] of calls) until.abort(this.#error())
    await Promise.allSettled(calls.map(([, call]) => call))
  }

  #error(): ErrStopped {
    return new ErrStopped(`${this.#what} stopped`)
  }
}
