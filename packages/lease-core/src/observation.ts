/**
 * States instead of events: an observer sees what is, and one that is slow passes over what is not any more.
 *
 *     idle ──next()──▶ waiting ──a state that differs──▶ lingering ──next()──▶ waiting …
 *       ▲                                                    └──nobody asked within one turn of the event loop──▶ idle
 *       └── before the first next() and between two: only the state yielded last is kept
 *
 * So an observation that is dropped leaves nothing behind, and a loop that asks again at once costs no read of its own. After a
 * pause `next()` begins with a read. `return`, `throw`, an error and the signal end the observation and each `next()` that waits.
 */
import type { Clock, Timer } from './clock.ts'
import type { Info } from './lease.ts'
import type { ParsedObserveOptions } from './options.ts'

/** What the manager does for an observation. */
export interface ObservationHost {
  readonly clock: Clock
  /** @throws ErrNotValid */
  check(): ParsedObserveOptions
  /** Rejects when the signal aborts or the manager stops. */
  call(signal: AbortSignal | undefined, body: () => Promise<void>): Promise<void>
  /** Begins to report what every look finds, until `fail` or the call of what it returns. */
  enter(report: (info: Info | undefined) => void, fail: (error: unknown) => void): () => void
}

type Step = IteratorResult<Info | undefined, never>

/** Yields the present state, and then each that differs from the one yielded last. */
export class Observation implements AsyncGenerator<Info | undefined, never, void> {
  readonly #host: ObservationHost
  #options: ParsedObserveOptions | undefined
  #last: State | undefined
  /** Found since, and not yielded. */
  #found: State | undefined
  #failure: { readonly error: unknown } | undefined
  #leave: (() => void) | undefined
  #lingering: Timer | undefined
  #wake = (): void => {}
  /** `next()` calls come one after another. */
  #before: Promise<unknown> = Promise.resolve()
  #over = false

  constructor(host: ObservationHost) {
    this.#host = host
  }

  next(): Promise<Step> {
    const step = this.#before.then(() => this.#next())
    this.#before = step.catch(() => {})
    return step
  }

  /** Ends the observation, also while `next()` waits: that one is done as well. */
  return(value?: unknown): Promise<Step> {
    this.#end()
    return Promise.resolve(value).then(() => done)
  }

  throw(error: unknown): Promise<Step> {
    this.#end()
    return Promise.reject(error)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  async #next(): Promise<Step> {
    if (this.#over) return done
    try {
      this.#options ??= this.#host.check()
      const { signal, renewals } = this.#options
      await this.#host.call(signal, () => this.#news(renewals))
    } catch (error) {
      this.#end()
      throw error
    }
    if (this.#over) return done
    const found = this.#found as State
    this.#last = found
    this.#found = undefined
    this.#linger()
    return { done: false, value: found.info }
  }

  /** Resolves when a state was found that differs from the last one, or the observation is over. */
  #news(renewals: boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#over) return resolve()
        if (this.#failure !== undefined) return reject(this.#failure.error)
        if (this.#found === undefined) return
        if (this.#last === undefined || differs(this.#last.info, this.#found.info, renewals)) resolve()
      }
      this.#lingering?.cancel()
      this.#lingering = undefined
      this.#leave ??= this.#host.enter(
        (info) => {
          this.#found = { info }
          this.#wake()
        },
        (error) => {
          this.#failure = { error }
          this.#wake()
        },
      )
      this.#wake()
    })
  }

  #linger(): void {
    this.#wake = () => {}
    this.#lingering = this.#host.clock.setTimer(0, () => this.#withdraw())
  }

  /** Nothing is read or kept alive any more. */
  #withdraw(): void {
    this.#lingering?.cancel()
    this.#lingering = undefined
    this.#leave?.()
    this.#leave = undefined
    this.#found = undefined
  }

  #end(): void {
    this.#over = true
    this.#withdraw()
    this.#wake()
  }
}

const done: Step = { done: true, value: undefined as never }

interface State {
  readonly info: Info | undefined
}

/** Whether an observer is to be notified. */
function differs(before: Info | undefined, after: Info | undefined, renewals: boolean): boolean {
  if (before === undefined || after === undefined) return before !== after
  return (
    before.fencingToken !== after.fencingToken ||
    before.holder !== after.holder ||
    before.value !== after.value ||
    before.pinned !== after.pinned ||
    (renewals && after.expiry.toMillis() > before.expiry.toMillis())
  )
}
