/**
 * A claim kept alive. One Hold is one term: it renews, it never re-claims.
 *
 *      claim sent                renewal sent             … no answer …                 trust window ends
 *          ├──── renewEvery ────────┤ try ── retry ── retry ──────────────────────────────┤ signal aborts
 *          └─────────────── duration − 0.1 % − 1 ms ──────────────────────────────────────┘
 *
 *   held ──renewed──▶ held        every answer moves the window on, counted from before its request was sent
 *   held ──release()─▶ over       the signal aborts with a plain AbortError: work in the background should stop
 *   held ──vacant────▶ lost: revoked      ──another term──▶ lost: taken
 *   held ──window ends▶ lost: unreachable (renewals failed or hung) or expired (this process slept)
 *
 * A renewal that hangs is left behind after a while and another is sent; a late answer still counts. The Hold sits on
 * the manager's agenda exactly once, at the earliest instant at which anything can be due.
 */
import type { Agenda, Task } from './agenda.ts'
import { backoffMs } from './backoff.ts'
import type { Belief } from './belief.ts'
import { ErrLost, type LossReason } from './errors.ts'
import { Extension, type ExtensionListener, type HeldTerm } from './extension.ts'
import type { Chained } from './holds.ts'
import type { Renewable } from './renewals.ts'
import type { ClockReading, RecentReading } from './elapsed-time.ts'
import type { Token } from './token.ts'

/** A claim kept alive until it is released or lost. */
export interface Hold extends AsyncDisposable {
  readonly lease: string
  readonly holder: string
  /** Of this term: unchanged for as long as the Hold lives. */
  readonly fencingToken: bigint
  /** For `token.check(key)` before a guarded write. */
  readonly token: Token
  /** Whether the holder may rely on the lease now. Reads the clocks; never trusts a timer. */
  readonly held: boolean
  /**
   * Aborts no later than the trust window ends; the reason is an `ErrLost`. After a release it aborts with a plain
   * AbortError.
   */
  readonly signal: AbortSignal
  /** @throws ErrLost when the lease is not held any more, by loss or by release */
  assertHeld(): void
  /**
   * Changes the value that travels with the lease, and renews it.
   *
   * @throws ErrNotValid the value breaks a rule
   * @throws ErrLost     the Hold is over
   * @throws ErrUnknown  it may have happened
   */
  update(value: string): Promise<void>
  /**
   * Renews this term now, whether or not the Hold also does so by itself.
   *
   * @throws ErrLost    the Hold is over
   * @throws ErrUnknown it may have happened
   */
  renew(): Promise<void>
  /**
   * Gives the lease up; waits for a renewal in flight. The Hold is over either way, and a second release sends nothing.
   *
   * @throws ErrNotHeld  another has it already
   * @throws ErrUnknown  it may have happened; if not, the lease lapses by itself
   */
  release(): Promise<void>
}

/** What the manager does for its Holds. */
export interface HoldKeeper {
  readonly recent: RecentReading
  readonly agenda: Agenda
  readonly maxSleepMs: number
  token(lease: string, holder: string): Token
  /** Calls `renewNow` when it is the Hold's turn. */
  due(hold: ManagedHold, now: ClockReading): void
  /** Begins to extend this very term; the Hold is told the outcome. */
  extend(hold: ManagedHold, now: ClockReading): Extension
  /** Now, read once for many. */
  now(): ClockReading
  /** Extends this very term with a new value, as a call of the caller's own. */
  update(hold: ManagedHold, value: string | undefined): Promise<LossReason | undefined>
  /** Reads the lease; resolves with why it is lost, or undefined when the term still stands. */
  reread(hold: ManagedHold): Promise<LossReason | undefined>
  release(hold: ManagedHold): Promise<void>
  /** The Hold is over: forget it. `loss` is undefined after a release. */
  ended(hold: ManagedHold, loss: ErrLost | undefined): void
  retrying(hold: ManagedHold, cause: unknown): void
  checkValue(value: string): void
}

/** So long before the end of the window the signal aborts: timers are late, and whoever hears it needs a moment. */
const EARLY_MS = 2

export class ManagedHold implements Hold, HeldTerm, ExtensionListener, Renewable, Chained<ManagedHold>, Task {
  wakeAtMs = -1
  next: ManagedHold | undefined
  readonly lease: string
  readonly belief: Belief
  readonly durationMs: number
  readonly #renewEveryMs: number
  readonly #keeper: HoldKeeper
  #token: Token | undefined
  #controller: AbortController | undefined
  /** undefined while it lives. */
  #over: { readonly reason: unknown; releasing?: Promise<void> } | undefined
  #renewAtMs: number
  #rereadAtMs: number
  /** The renewal that is out or due, if any. */
  #renewal: Extension | 'due' | undefined
  /** Calls of `renew` and `update` that are out. */
  #asked = 0
  #failures = 0
  #failedReads = 0

  constructor(
    keeper: HoldKeeper,
    lease: string,
    belief: Belief,
    { durationMs, renewEveryMs }: { readonly durationMs: number; readonly renewEveryMs: number },
  ) {
    this.#keeper = keeper
    this.lease = lease
    this.belief = belief
    this.durationMs = durationMs
    this.#renewEveryMs = renewEveryMs
    const now = keeper.now()
    this.#renewAtMs = this.#nextRenewal(now.monotonicMs)
    this.#rereadAtMs = Math.ceil(now.monotonicMs + keeper.maxSleepMs)
    this.#schedule(now)
  }

  get holder(): string {
    return this.belief.holder
  }

  /** Made when somebody asks for it, as the signal is: many leases are kept alive by name alone. */
  get token(): Token {
    return (this.#token ??= this.#keeper.token(this.lease, this.holder))
  }

  get fencingToken(): bigint {
    return this.belief.fencingToken
  }

  get held(): boolean {
    if (this.#over !== undefined) return false
    if (this.belief.trusted(this.#keeper.recent.take())) return true
    this.#windowEnded() // what has been called lost once is never held again
    return false
  }

  /** Released or lost. */
  get over(): boolean {
    return this.#over !== undefined
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#over !== undefined) this.#controller.abort(this.#over.reason)
    }
    return this.#controller.signal
  }

  assertHeld(): void {
    if (this.held) return
    const reason = this.#over?.reason
    throw reason instanceof ErrLost
      ? reason
      : this.#lossOf('expired', this.#over === undefined ? undefined : 'released')
  }

  async update(value: string): Promise<void> {
    this.#keeper.checkValue(value)
    return this.#renewNow(value)
  }

  renew(): Promise<void> {
    return this.#renewNow(undefined)
  }

  async #renewNow(value: string | undefined): Promise<void> {
    this.assertHeld()
    this.#asked++
    try {
      const loss = await this.#keeper.update(this, value)
      this.#failures = 0
      if (loss !== undefined) this.lose(loss)
    } catch (error) {
      this.#failures++
      throw error
    } finally {
      this.#asked--
    }
    this.assertHeld()
  }

  release(): Promise<void> {
    if (this.#over !== undefined) return this.#over.releasing ?? Promise.resolve()
    const over = this.#end(undefined)
    return (over.releasing = this.#keeper.release(this))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {}) // the lease lapses by itself; the work's own outcome must not be masked
  }

  /** The lease may have been vacated: ask. */
  suspect(): void {
    if (this.#over !== undefined) return
    this.#keeper.reread(this).then(
      (loss) => {
        this.#failedReads = 0
        if (loss !== undefined) this.lose(loss)
      },
      (error: unknown) => {
        if (this.#over !== undefined) return
        this.#keeper.retrying(this, error)
        const now = this.#keeper.now()
        this.#rereadAtMs = Math.ceil(now.monotonicMs + 1 + backoffMs(++this.#failedReads, this.#renewEveryMs))
        this.#schedule(now)
      },
    )
  }

  /** The Hold ends unasked. */
  lose(reason: LossReason, detail?: string, cause?: unknown): void {
    if (this.#over === undefined) this.#end(this.#lossOf(reason, detail, cause))
  }

  wake(now: ClockReading): void {
    if (this.#over !== undefined) return
    const nowMs = now.monotonicMs
    if (this.belief.leftMs(now) <= EARLY_MS + 1) {
      this.#windowEnded()
      return
    }
    if (this.#renewal instanceof Extension && nowMs >= this.#renewal.leaveAtMs) {
      this.#renewal.leaveBehind()
      this.#failed(nowMs, new Error('no answer to a renewal in time'))
      this.#renewAtMs = nowMs
    }
    if (this.#renewal === undefined) {
      if (nowMs >= this.#renewAtMs) {
        this.#renewal = 'due'
        this.#keeper.due(this, now)
      } else if (nowMs >= this.#rereadAtMs) {
        this.#rereadAtMs = Math.ceil(nowMs + this.#keeper.maxSleepMs)
        this.suspect()
      }
    }
    this.#schedule(now)
  }

  #windowEnded(): void {
    this.lose(this.#renewal !== undefined || this.#asked > 0 || this.#failures > 0 ? 'unreachable' : 'expired')
  }

  renewNow(now: ClockReading): boolean {
    if (this.#over !== undefined || this.#renewal !== 'due') return false
    this.#renewal = this.#keeper.extend(this, now)
    this.#renewal.leaveAtMs = Math.ceil(now.monotonicMs + this.#renewalLimitMs(now))
    this.#schedule(now)
    return true
  }

  /** A renewal has its answer. The late one of a renewal left behind counts as well: it moved the window. */
  extended(renewal: Extension, loss: LossReason | undefined): void {
    if (this.#over !== undefined) return
    if (loss !== undefined) {
      this.lose(loss)
      return
    }
    const now = this.#keeper.now()
    if (this.#renewal === renewal) this.#renewal = undefined
    this.#failures = 0
    this.#renewAtMs = this.#nextRenewal(now.monotonicMs)
    this.#rereadAtMs = Math.ceil(now.monotonicMs + this.#keeper.maxSleepMs)
    this.#schedule(now)
  }

  failed(renewal: Extension, error: unknown): void {
    if (this.#over !== undefined || this.#renewal !== renewal) return
    const now = this.#keeper.now()
    this.#failed(now.monotonicMs, error)
    this.#schedule(now)
  }

  #failed(nowMs: number, cause: unknown): void {
    this.#renewal = undefined
    this.#failures++
    this.#renewAtMs = Math.ceil(nowMs + 1 + backoffMs(this.#failures, this.#renewEveryMs / 2))
    this.#keeper.retrying(this, cause)
  }

  /** How long one renewal may take: until half of what is left, so that there is time for another. */
  #renewalLimitMs(now: ClockReading): number {
    return Math.max(1, Math.min(this.#renewEveryMs, this.belief.leftMs(now) / 2))
  }

  /** Rounded down, so that renewals due in the same eighth of the interval travel together. */
  #nextRenewal(nowMs: number): number {
    if (this.#renewEveryMs === Number.POSITIVE_INFINITY) return this.#renewEveryMs
    const grainMs = 2 ** Math.max(0, Math.floor(Math.log2(this.#renewEveryMs / 8)))
    const dueMs = nowMs + this.#renewEveryMs
    return Math.max(Math.ceil(nowMs) + 1, Math.floor(dueMs / grainMs) * grainMs)
  }

  #schedule(now: ClockReading): void {
    let nextMs = Math.floor(now.monotonicMs + this.belief.leftMs(now) - EARLY_MS)
    if (this.#renewal === undefined) nextMs = Math.min(nextMs, this.#renewAtMs, this.#rereadAtMs)
    else if (this.#renewal !== 'due') nextMs = Math.min(nextMs, this.#renewal.leaveAtMs)
    this.#keeper.agenda.at(this, Math.max(nextMs, Math.ceil(now.monotonicMs)))
  }

  #end(loss: ErrLost | undefined): { releasing?: Promise<void> } {
    const over: { readonly reason: unknown; releasing?: Promise<void> } = {
      reason: loss ?? new DOMException('the lease was released', 'AbortError'),
    }
    this.#over = over
    this.#keeper.agenda.off(this)
    this.#keeper.ended(this, loss)
    this.#controller?.abort(over.reason)
    return over
  }

  #lossOf(reason: LossReason, detail?: string, cause?: unknown): ErrLost {
    const message = `lease "${this.lease}" of "${this.holder}" is not held any more: ${detail ?? words[reason]}`
    return new ErrLost(message, {
      lease: this.lease,
      holder: this.holder,
      reason,
      ...(cause === undefined ? {} : { cause }),
    })
  }
}

const words: Readonly<Record<LossReason, string>> = {
  expired: 'its time ran out before this process could renew it',
  taken: 'another term holds it',
  revoked: 'it was vacated before its time',
  unreachable: 'it could not be renewed in time',
}
