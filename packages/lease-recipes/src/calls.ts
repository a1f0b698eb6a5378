import { ErrStopped, ErrUnknown, MAX_DURATION_MS, throwIfAborted, type Clock } from 'lease-core'
import { LinkedSignal, orAborted } from './or-aborted.ts'

interface CallOf<T> {
  readonly signal: AbortSignal | undefined
  readonly limitMs: number
  /** Called with the outcome of a body that comes when the call has ended. */
  readonly unwanted?: ((value: T) => void) | undefined
}

/** For what several calls may be given, such as a permit: how many have it, or are about to. */
export class Takers<T extends object> {
  readonly #takers = new WeakMap<T, number>()

  add(one: T): void {
    this.#takers.set(one, (this.#takers.get(one) ?? 0) + 1)
  }

  /** A call was not given it after all. Returns whether nobody else was. */
  remove(one: T): boolean {
    const left = (this.#takers.get(one) ?? 1) - 1
    this.#takers.set(one, left)
    return left === 0
  }
}

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
  async run<T>({ signal, limitMs, unwanted }: CallOf<T>, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
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
      if (!isAnswered && unwanted !== undefined) call.then(unwanted, () => {})
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
