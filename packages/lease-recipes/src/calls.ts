import { ErrStopped, ErrUnknown, MAX_DURATION_MS, throwIfAborted, type Clock } from 'lease-core'
import { LinkedSignal, orAborted } from './or-aborted.ts'

/** The calls of a recipe that are under way: each ends with its signal, with its time, and with the recipe. */
export class Calls {
  readonly #clock: Clock
  /** For messages: what is stopped. */
  readonly #what: string
  readonly #underWay = new Map<LinkedSignal, Promise<unknown>>()
  #stopped = false

  constructor(clock: Clock, what: string) {
    this.#clock = clock
    this.#what = what
  }

  /**
   * The outcome of the body, whose signal aborts when nobody waits for it any more.
   *
   * @throws ErrStopped `stop` was called
   * @throws ErrUnknown `limitMs` were over
   */
  async run<T>(
    { signal, limitMs }: { readonly signal: AbortSignal | undefined; readonly limitMs: number },
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
    try {
      return await orAborted(call, until.signal)
    } finally {
      timer?.cancel()
    }
  }

  /** Every call rejects, now and later; resolves when none is under way any more. */
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
