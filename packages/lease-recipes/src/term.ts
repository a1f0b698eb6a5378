/**
 * A claim that nobody renews: it is over when its time is, or when it is released.
 *
 * What `Hold` of lease-core is for a claim that is kept alive, this is for one that is not. Trust is counted as there:
 * from before the claim was sent, by the clock of the two on which more time has passed, less 0.1 % and a millisecond.
 * The store is not asked again: that an operator took the lease away shows in `token.check()`, and here at the end.
 */
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrUnknown,
  sleep,
  type Clock,
  type Manager,
  type Token,
  Stopwatch,
  trustWindowMs,
} from 'lease-core'
import { LinkedSignal, orAborted } from './or-aborted.ts'

export interface TermRequest {
  readonly lease: string
  readonly holder: string
  readonly durationMs: number
  readonly value: string
  /** Milliseconds; 0 = do not wait, Infinity = as long as the signal allows. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
}

/** How often a grant that came too late to be relied on is asked for anew. */
const MAX_ATTEMPTS = 10

/** Opens terms, and lets those who wait for one lease contend one after another, first come, first served. */
export class Terms {
  readonly #manager: Manager
  readonly #clock: Clock
  /** For each lease that somebody waits for: when all who came so far are through. */
  readonly #queues = new Map<string, Promise<void>>()

  constructor(manager: Manager, clock: Clock) {
    this.#manager = manager
    this.#clock = clock
  }

  /**
   * @throws ErrClaimDenied another holds it, or still did when the wait ran out
   * @throws ErrUnknown     it may have happened
   */
  async open(request: TermRequest): Promise<Term> {
    const { lease, holder, waitMs, signal } = request
    if (waitMs === 0) return this.#claim(request, signal)
    const until = new LinkedSignal(signal)
    const timeIsUp = new DOMException('the wait is over', 'TimeoutError')
    const deadline = Number.isFinite(waitMs) ? this.#clock.setTimer(waitMs, () => until.abort(timeIsUp)) : undefined
    const attempt: Attempt = { met: undefined, asking: false }
    try {
      return await this.#inTurn(lease, until.signal, () => this.#contend(request, until.signal, attempt))
    } catch (error) {
      if (error !== timeIsUp) throw error
      if (!attempt.asking && attempt.met !== undefined) throw attempt.met
      const details = { lease, holder }
      throw attempt.asking
        ? new ErrUnknown(`no answer to a claim of lease "${lease}" before the wait ran out`, details)
        : new ErrClaimDenied(`others were before "${holder}" in the queue for lease "${lease}"`, details)
    } finally {
      deadline?.cancel()
      until.letGo()
    }
  }

  async #contend(request: TermRequest, until: AbortSignal, attempt: Attempt): Promise<Term> {
    const { lease } = request
    for (let failures = 0; ;) {
      try {
        attempt.asking = true
        return await this.#claim(request, until)
      } catch (error) {
        if (!(error instanceof ErrClaimDenied || error instanceof ErrUnknown)) throw error
        attempt.met = error
        attempt.asking = false
        failures = error instanceof ErrUnknown ? failures + 1 : 0
      }
      until.throwIfAborted()
      if (failures > 0) await sleep(this.#clock, Math.random() * Math.min(30_000, 50 * 2 ** failures), until)
      else await this.#manager.waitUntilExpired(lease, { signal: until })
    }
  }

  /** Claims until the grant can be relied on: an answer that took longer than the lease is worth nothing. */
  async #claim(request: TermRequest, signal: AbortSignal | undefined): Promise<Term> {
    const { lease, holder, durationMs, value } = request
    const options = signal === undefined ? { value } : { value, signal }
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const sent = new Stopwatch(this.#clock)
      await this.#manager.claim(lease, holder, durationMs, options)
      const token = this.#manager.token(lease, holder)
      try {
        const { fencingToken } = await token.check()
        const term = new Term({ manager: this.#manager, clock: this.#clock, token, fencingToken, sent, durationMs })
        if (term.held) return term
      } catch (error) {
        if (!(error instanceof ErrNotHeld)) throw error // it lapses by itself
        // It has lapsed, or was taken away, on its way here.
      }
    }
    const message = `could not hold lease "${lease}": each of ${MAX_ATTEMPTS} grants took longer than its ${durationMs} ms`
    throw new ErrUnknown(message, { lease, holder, reason: 'retries exhausted' })
  }

  async #inTurn<T>(lease: string, until: AbortSignal, body: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(lease)
    let leave = (): void => {}
    const left = new Promise<void>((resolve) => (leave = resolve))
    const queue = before === undefined ? left : before.then(() => left)
    this.#queues.set(lease, queue)
    try {
      if (before !== undefined) await orAborted(before, until)
      return await body()
    } finally {
      leave()
      if (this.#queues.get(lease) === queue) this.#queues.delete(lease)
    }
  }
}

/** What one who waits has met so far. */
interface Attempt {
  met: ErrClaimDenied | ErrUnknown | undefined
  /** A claim of his is out. */
  asking: boolean
}

interface TermParts {
  readonly manager: Manager
  readonly clock: Clock
  readonly token: Token
  readonly fencingToken: bigint
  /** Since before the claim was sent. */
  readonly sent: Stopwatch
  readonly durationMs: number
}

/** So long before the end of the window the signal aborts: timers are late. */
const EARLY_MS = 2

/** One term. It never outlives its time. */
export class Term {
  readonly #parts: TermParts
  readonly #controller = new AbortController()
  #timer: { cancel(): void } | undefined

  constructor(parts: TermParts) {
    this.#parts = parts
    this.#keepTime()
  }

  get token(): Token {
    return this.#parts.token
  }

  get fencingToken(): bigint {
    return this.#parts.fencingToken
  }

  get held(): boolean {
    if (this.signal.aborted) return false
    if (this.#leftMs() > 0) return true
    this.#lapse() // what has been called lost once is never held again
    return false
  }

  /** Aborts with an `ErrLost` when the time is over, with a plain AbortError after a release. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Vacates the lease. Over already, or another's by now: nothing to do. @throws ErrUnknown it may have happened */
  async release(): Promise<void> {
    if (!this.held) return
    const { manager, token } = this.#parts
    this.#end(new DOMException('the lock was released', 'AbortError'))
    try {
      await manager.release(token.lease, token.holder)
    } catch (error) {
      if (!(error instanceof ErrNotHeld)) throw error
    }
  }

  #leftMs(): number {
    const { sent, durationMs } = this.#parts
    return trustWindowMs(durationMs) - sent.elapsedMs
  }

  #keepTime(): void {
    const leftMs = this.#leftMs() - EARLY_MS
    if (leftMs <= 0) this.#lapse()
    else this.#timer = this.#parts.clock.setTimer(leftMs, () => this.#keepTime())
  }

  #lapse(): void {
    const { lease, holder } = this.#parts.token
    const message = `lease "${lease}" of "${holder}" is not held any more: its time is over`
    this.#end(new ErrLost(message, { lease, holder, reason: 'expired' }))
  }

  #end(reason: Error): void {
    this.#timer?.cancel()
    this.#controller.abort(reason)
  }
}
