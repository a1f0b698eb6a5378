/**
 * A claim that is kept alive. One Hold is one term: it renews the term, and never claims again.
 *
 *      claim sent                renewal sent             … no answer …                 trust window ends
 *          ├──── renewEvery ────────┤ try ── retry ── retry ──────────────────────────────┤ signal aborts
 *          └─────────────── duration − 0.1 % − 1 ms ──────────────────────────────────────┘
 *
 *   held ──renewed──▶ held            every answer extends the window (`term.ts`)
 *   held ──release()─▶ over           the signal aborts with an AbortError: work in the background should stop
 *   held ──the term is over──▶ lost   the signal aborts with an ErrLost
 *
 * If a renewal hangs, another one is sent after some time. A late answer still counts.
 */
import { DateTime, Duration, type DurationLike } from 'luxon'
import { abortController } from './abort-signal.ts'
import type { Deadline } from './timer-queue.ts'
import { backoffMs, LONGEST_RETRY_MS } from './backoff.ts'
import { elapsedForHolder, type ClockReading } from './elapsed-time.ts'
import { notValid, type ErrLost, type LossReason } from './errors.ts'
import type { Held } from './held.ts'
import { brokenValueRule } from './lease.ts'
import { OptionReader } from './option-reader.ts'
import type { Renewable, Renewals } from './renewals.ts'
import { showAs } from './shown.ts'
import { EARLY_MS } from './skew.ts'
import type { Term, TermEnd, TermHold } from './term.ts'
import { lossError, TermRenewal, type RenewalHost, type RenewalListener } from './term-renewal.ts'
import type { Terms } from './terms.ts'
import type { Token } from './token.ts'
import { withoutContext, type HoldTrace } from './tracing.ts'

/** A claim that is kept alive until it is released or lost. */
export interface Hold extends Held {
  /** The name of the lease; of a share `name#holder`. */
  readonly lease: string
  /**
   * Until when the holder may rely on the lease without a renewal, by the present setting of the wall clock. For logs and schedules:
   * before relying on the lease, use `held` or `remaining()`.
   */
  readonly trustedUntil: DateTime
  /**
   * Changes the value of the lease, renews the lease, and notifies its observers.
   *
   * @throws ErrNotValid the value or an option breaks a rule
   * @throws ErrLost     the Hold is over
   * @throws ErrUnknown  the value may have been changed; the Hold goes on
   */
  update(value: string, options?: UpdateOptions): Promise<void>
  /**
   * Renews this term now, in addition to the Hold's own renewals.
   *
   * @throws ErrLost    the Hold is over
   * @throws ErrUnknown the term may have been renewed; the Hold goes on
   */
  renew(): Promise<void>
  /**
   * Ends the Hold without a release: the lease stays held until it expires. Sends nothing, and reports no loss; the signal aborts with an
   * AbortError.
   */
  letLapse(): void
  /**
   * True for a lease. For a share: reads the counted lease, and says whether this is the only share, and takes the whole capacity.
   *
   * @throws ErrNotHeld the term of the share is over
   * @throws ErrUnknown the store could not be asked
   */
  isExclusive(): Promise<boolean>
  /** Releases the Hold: see `Held`. If several Holds share the term, only the release of the last one is sent. */
  release(options?: ReleaseOptions): Promise<void>
}

const UPDATE_OPTIONS: readonly (keyof UpdateOptions)[] = ['duration']
const RELEASE_OPTIONS: readonly (keyof ReleaseOptions)[] = ['all']

/** Options of `release` of a Hold. */
export interface ReleaseOptions {
  /** Whether to end the term although other Holds share it; they are lost as `revoked`. @default false: the last release ends it */
  readonly all?: boolean | undefined
}

/** Options of `hold.update`. */
export interface UpdateOptions {
  /**
   * How long the lease lasts from now on at least. The renewals of the Hold ask for its own duration again, and
   * shorten nothing. A number is in milliseconds.
   *
   * @default the Hold's own
   */
  readonly duration?: DurationLike | undefined
}

/** What an extension asks for. */
export interface Extended {
  readonly durationMs: number
  /** undefined keeps the old one. */
  readonly value: string | undefined
}

/** What the manager does for its Holds. */
export interface HoldHost {
  /** The clocks, the deadlines, and the ends of terms. */
  readonly terms: Terms
  readonly maxSleepMs: number
  tokenOf(term: Term): Token
  readonly renewals: Renewals
  readonly renewalHost: RenewalHost
  /** Extends the term, as a call of the caller's own. */
  renew(term: Term, asked: Extended): Promise<LossReason | undefined>
  /** Reads the lease; resolves with why the term is over, or undefined when it stands. */
  reread(hold: ManagedHold): Promise<LossReason | undefined>
  /** Ends the term, if no other Hold relies on it or all are meant. */
  release(hold: ManagedHold, options: ReleaseOptions | undefined): Promise<void>
  /** Ends the term, unless somebody in this process relies on it. */
  giveBack(hold: ManagedHold): void
  /** Whether it is the only share, and takes the whole capacity. */
  isExclusive(hold: ManagedHold): Promise<boolean>
  /** The Hold is over. `loss` is undefined after a release. */
  ended(hold: ManagedHold, loss: ErrLost | undefined): void
  /** @param sent an instant before a renewal was sent that failed */
  retrying(hold: ManagedHold, operation: 'renewal' | 'read', cause: unknown, sent?: ClockReading): void
  /** For those who listen. @param dueMs when it was due; undefined: it was not, or no longer */
  renewed(renewal: TermRenewal, dueMs: number | undefined): void
  /** The user has let go of a Hold that was over. */
  letGo(hold: ManagedHold): void
}

export class ManagedHold implements Hold, TermHold, RenewalListener, Renewable, Deadline {
  wakeAtMs = -1
  slot = 0
  renewalIndex = -1
  next: TermHold | undefined
  /** Somebody listened when it began. */
  trace: HoldTrace | undefined
  readonly term: Term
  readonly shared: boolean
  readonly durationMs: number
  readonly host: HoldHost
  readonly #renewEveryMs: number
  #token: Token | undefined
  #controller: AbortController | undefined
  /** undefined while it lives. */
  #over: { readonly loss: ErrLost | undefined; releasing?: Promise<void> } | undefined
  #renewAtMs: number
  #rereadAtMs: number
  /** The renewal that is in flight or due, if any. */
  #renewal: TermRenewal | 'due' | undefined
  /** Ends the calls of `renew` and `update` that are in flight. */
  #asked: Set<() => void> | undefined
  #failures = 0
  #failedReads = 0

  constructor(
    host: HoldHost,
    term: Term,
    sent: ClockReading,
    {
      durationMs,
      renewEveryMs,
      shared,
    }: { readonly durationMs: number; readonly renewEveryMs: number; readonly shared: boolean },
  ) {
    this.host = host
    this.term = term
    this.shared = shared
    this.durationMs = durationMs
    this.#renewEveryMs = renewEveryMs
    const now = host.terms.now()
    this.#renewAtMs = this.#nextRenewal(sent, now)
    this.#rereadAtMs = Math.ceil(now.monotonicMs + host.maxSleepMs)
    this.#schedule(now)
  }

  get lease(): string {
    return this.term.lease
  }

  get holder(): string {
    return this.term.holder
  }

  get fencingToken(): bigint {
    return this.term.fencingToken
  }

  /** Made when somebody asks for it, as the signal is: many leases are kept alive by name alone. */
  get token(): Token {
    return (this.#token ??= this.host.tokenOf(this.term))
  }

  get held(): boolean {
    if (this.#over !== undefined) return false
    if (this.term.isTrusted(this.host.terms.recent.take())) return true
    this.term.endWindow() // what was called lost once is never held again
    return false
  }

  get isInTrouble(): boolean {
    return this.#renewal !== undefined || this.#asked !== undefined || this.#failures > 0
  }

  get trustedUntil(): DateTime {
    const now = this.host.terms.readClock()
    return DateTime.fromMillis(Math.floor(now.wallMs + this.#leftMs(now)))
  }

  remaining(): Duration {
    return Duration.fromMillis(Math.floor(this.#leftMs(this.host.terms.readClock())))
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = abortController()
      if (this.#over !== undefined) this.#controller.abort(reasonOf(this.#over.loss))
    }
    void this.held // after a pause of the process the timers are late: ends it if its time is over
    return this.#controller.signal
  }

  assertHeld(): void {
    if (this.held) return
    throw this.#over?.loss ?? lossError({ ...this.#names, ended: { reason: 'released' } })
  }

  async update(value: string, options: UpdateOptions = {}): Promise<void> {
    return this.#renewNow(checkUpdate(value, options, this.durationMs))
  }

  renew(): Promise<void> {
    return this.#renewNow({ durationMs: this.durationMs, value: undefined })
  }

  async #renewNow(asked: Extended): Promise<void> {
    this.assertHeld()
    let end = (): void => {}
    const ended = new Promise<undefined>((resolve) => (end = () => resolve(undefined)))
    const ends = (this.#asked ??= new Set())
    ends.add(end)
    try {
      // A client of somebody's own may never answer: the call ends with the Hold.
      const loss = await Promise.race([this.host.renew(this.term, asked), ended])
      this.#failures = 0
      if (loss !== undefined) this.host.terms.end(this.term, { reason: loss })
    } catch (error) {
      this.#failures++
      throw error
    } finally {
      ends.delete(end)
      if (ends.size === 0) this.#asked = undefined
    }
    this.assertHeld()
  }

  release(options: ReleaseOptions = {}): Promise<void> {
    const reader = new OptionReader(options, RELEASE_OPTIONS)
    reader.boolean('all')
    if (reader.problems.length > 0) return Promise.reject(notValid(reader.problems))
    if (this.#over !== undefined) {
      this.host.letGo(this)
      return this.#over.releasing ?? Promise.resolve()
    }
    const over = this.#end(undefined)
    return (over.releasing = this.host.release(this, reader.read))
  }

  letLapse(): void {
    if (this.#over !== undefined) return this.host.letGo(this)
    this.#end(undefined)
    this.host.terms.vacated(this.lease)
  }

  isExclusive(): Promise<boolean> {
    return this.host.isExclusive(this)
  }

  /** The call that made it was given up, and nobody has seen it: gives back what only this Hold relies on. */
  abandon(): void {
    if (this.#over !== undefined) return
    this.#end(undefined)
    this.host.giveBack(this)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {}) // the lease lapses by itself; the work's own outcome must not be masked
  }

  /** The lease may have been vacated: ask. */
  suspect(): void {
    if (this.#over !== undefined) return
    // Somebody else's call may have led here.
    withoutContext(() => this.host.reread(this)).then(
      (loss) => {
        this.#failedReads = 0
        if (loss !== undefined) this.host.terms.end(this.term, { reason: loss })
      },
      (error: unknown) => {
        if (this.#over !== undefined) return
        this.host.retrying(this, 'read', error)
        const now = this.host.terms.now()
        this.#rereadAtMs = this.#retryAtMs(now.monotonicMs, ++this.#failedReads)
        this.#schedule(now)
      },
    )
  }

  termEnded(end: TermEnd): void {
    if (this.#over !== undefined) return
    // A release that this Hold did not ask for is a loss to it.
    const ended: TermEnd =
      end.reason === 'released' ? { ...end, reason: 'revoked', detail: 'its holder released the lease' } : end
    this.#end(lossError({ ...this.#names, ended }))
  }

  get #names(): { readonly lease: string; readonly holder: string } {
    return { lease: this.lease, holder: this.holder }
  }

  /** @param now read for this question: a shared reading may be older than a pause */
  #leftMs(now: ClockReading): number {
    if (this.#over !== undefined) return 0
    const leftMs = this.term.leftMs(now)
    if (leftMs > 0) return leftMs
    this.term.endWindow() // as in `held`
    return 0
  }

  // ── renewal ───────────────────────────────────────────────────────────────────────────────────────────────────

  wake(now: ClockReading): void {
    if (this.#over !== undefined) return
    if (this.term.leftMs(now) <= EARLY_MS) return this.term.endWindow() // there is nothing to renew any more
    const nowMs = now.monotonicMs
    if (this.#renewal instanceof TermRenewal && nowMs >= this.#renewal.giveUpAtMs) {
      const { sent } = this.#renewal
      this.#renewal.giveUp()
      this.#failed(nowMs, new Error('no answer to a renewal in time'), sent)
      this.#renewAtMs = nowMs
    }
    if (this.#renewal === undefined) {
      if (nowMs >= this.#renewAtMs) {
        this.#renewal = 'due'
        this.host.renewals.due(this, now)
      } else if (nowMs >= this.#rereadAtMs) {
        this.#rereadAtMs = Math.ceil(nowMs + this.host.maxSleepMs)
        this.suspect()
      }
    }
    this.#schedule(now)
  }

  renewNow(now: ClockReading, done: () => void): boolean {
    if (this.#over !== undefined || this.#renewal !== 'due') return false
    const asked = { durationMs: this.durationMs, value: undefined }
    const renewal = new TermRenewal(this.host.renewalHost, this.term, asked, this, done)
    renewal.send(now)
    renewal.giveUpAtMs = Math.ceil(now.monotonicMs + this.#renewalLimitMs(now))
    this.#renewal = renewal
    this.#schedule(now)
    return true
  }

  /** A renewal has its answer. The late one of a renewal that was given up counts as well: it moved the window. */
  extended(renewal: TermRenewal, loss: LossReason | undefined): void {
    if (this.#over !== undefined) return
    if (loss !== undefined) return this.host.terms.end(this.term, { reason: loss })
    const now = this.host.terms.now()
    if (renewal.margin !== undefined) {
      this.host.renewed(renewal, this.#renewal === renewal ? this.#renewAtMs : undefined)
    }
    if (this.#renewal === renewal) this.#renewal = undefined
    this.#failures = 0
    this.#renewAtMs = this.#nextRenewal(renewal.sent ?? now, now)
    this.#rereadAtMs = Math.ceil(now.monotonicMs + this.host.maxSleepMs)
    this.#schedule(now)
  }

  failed(renewal: TermRenewal, error: unknown): void {
    if (this.#over !== undefined || this.#renewal !== renewal) return
    const now = this.host.terms.now()
    this.#failed(now.monotonicMs, error, renewal.sent)
    this.#schedule(now)
  }

  #failed(nowMs: number, cause: unknown, sent: ClockReading | undefined): void {
    this.#renewal = undefined
    this.#failures++
    this.#renewAtMs = this.#retryAtMs(nowMs, this.#failures)
    this.host.retrying(this, 'renewal', cause, sent)
  }

  #retryAtMs(nowMs: number, failures: number): number {
    return Math.ceil(nowMs + 1 + backoffMs(failures, Math.min(LONGEST_RETRY_MS, this.#renewEveryMs / 2)))
  }

  /** How long one renewal may take: until half of what is left, so that there is time for another. */
  #renewalLimitMs(now: ClockReading): number {
    return Math.max(1, Math.min(this.#renewEveryMs, this.term.leftMs(now) / 2))
  }

  /**
   * Counted from when the last grant was asked for, as its trust window is: one that was long under way is renewed at once. Rounded
   * down, so that renewals due in the same eighth of the interval travel together.
   */
  #nextRenewal(sent: ClockReading, now: ClockReading): number {
    if (this.#renewEveryMs === Number.POSITIVE_INFINITY) return this.#renewEveryMs
    const grainMs = 2 ** Math.max(0, Math.floor(Math.log2(this.#renewEveryMs / 8)))
    const dueMs = now.monotonicMs - elapsedForHolder(sent, now) + this.#renewEveryMs
    return Math.max(Math.ceil(now.monotonicMs) + 1, Math.floor(dueMs / grainMs) * grainMs)
  }

  #schedule(now: ClockReading): void {
    let nextMs: number
    if (this.#renewal === undefined) nextMs = Math.min(this.#renewAtMs, this.#rereadAtMs)
    else if (this.#renewal === 'due') return this.host.terms.timers.off(this)
    else nextMs = this.#renewal.giveUpAtMs
    this.host.terms.timers.at(this, Math.max(nextMs, Math.ceil(now.monotonicMs)))
  }

  #end(loss: ErrLost | undefined): { releasing?: Promise<void> } {
    const over: { readonly loss: ErrLost | undefined; releasing?: Promise<void> } = { loss }
    this.#over = over
    if (this.#renewal instanceof TermRenewal) this.#renewal.giveUp()
    this.#renewal = undefined
    this.host.terms.timers.off(this)
    this.host.renewals.withdraw(this)
    this.host.ended(this, loss)
    this.#controller?.abort(reasonOf(loss))
    for (const endCall of this.#asked ?? []) endCall()
    return over
  }
}

showAs(ManagedHold, 'Hold', ['lease', 'holder', 'fencingToken', 'held', 'trustedUntil'])

/** @throws ErrNotValid */
function checkUpdate(value: string, options: UpdateOptions, durationMs: number): Extended {
  const reader = new OptionReader(options, UPDATE_OPTIONS, { arguments: { value } })
  reader.fault('value', brokenValueRule(value))
  const update = { durationMs: reader.duration('duration', durationMs), value }
  reader.finish()
  return update
}

/** For a Hold that nobody has seen, because the call was given up. */
export function abandon(hold: Hold): void {
  if (hold instanceof ManagedHold) hold.abandon()
  else hold.release().catch(() => {}) // it lapses by itself
}

/** Made when somebody listens: its stack costs more than the rest of a release. */
function reasonOf(loss: ErrLost | undefined): Error {
  return loss ?? new DOMException('the lease was released', 'AbortError')
}
