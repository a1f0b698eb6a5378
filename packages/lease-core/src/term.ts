/**
 * One uninterrupted holding of a lease by this process, from a claim that was granted to its end. Everything that relies on the
 * lease (claims, Holds, tokens) refers to its term, and a term that is over never becomes valid again:
 *
 *     live ──granted again──▶ live      the trust window moves on, counted from before that request was sent
 *     live ──release, revocation sent──▶ over        ──another term stands, or none──▶ over: taken, revoked
 *     live ──trust window ends──▶ over: unreachable (renewals failed or hung) or expired (nobody renewed in time)
 *
 * Anyone who relies on it reads the clock at that moment: a term without a Hold has no timer, and its window ends by itself.
 */
import type { Deadline } from './timer-queue.ts'
import type { TermId } from './client.ts'
import { elapsedForHolder, type ClockReading } from './elapsed-time.ts'
import type { LossReason } from './errors.ts'
import { EARLY_MS, trustWindowMs } from './skew.ts'

/** Why a term is over; `released`: by this process, on purpose. */
export interface TermEnd {
  readonly reason: LossReason
  readonly detail?: string | undefined
  readonly cause?: unknown
  /** This process has sent a request that ends it: nobody here relies on it, and the store may still have it. */
  readonly isSent?: boolean
}

/** A Hold, as its term sees it. The Holds of one term are a chain: there is nearly always one. */
export interface TermHold {
  /** Written by the term only. */
  next: TermHold | undefined
  /** Whether another Hold of this process may stand beside it. */
  readonly shared: boolean
  /** A renewal of it is in flight, or has failed. */
  readonly isInTrouble: boolean
  termEnded(end: TermEnd): void
}

/** The last grant of a term: until when it may be relied on. */
export interface Grant {
  /** Read before the request was sent. */
  readonly sent: ClockReading
  readonly durationMs: number
}

/** A grant with the term that it is of. */
export interface GrantedTerm extends TermId, Grant {
  readonly holder: string
  readonly isAdopted: boolean
}

export class Term implements TermId, Deadline {
  wakeAtMs = -1
  slot = 0
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  /** The holder had it before this process asked for it: a call that is given up must not end it. */
  readonly isAdopted: boolean
  /** When its first claim here was sent, as `atMostMs` of a reading; a whole number, which takes no memory of its own. */
  readonly openedMs: number
  #nonce: string | undefined
  #sent: ClockReading
  /** Of the last grant, not of its window: a whole number takes no memory of its own. */
  #durationMs: number
  /** How often the substrate has hinted, unrefuted, that the lease was vacated: above zero, ask before relying on it. */
  #suspicions = 0
  /** Calls of `claim` that were granted it and have resolved with its token, or are about to. */
  #claims = 0
  #end: TermEnd | undefined
  #holds: TermHold | undefined
  readonly #host: TermHost

  constructor(host: TermHost, lease: string, grant: GrantedTerm) {
    this.#host = host
    this.lease = lease
    this.holder = grant.holder
    this.fencingToken = grant.fencingToken
    this.isAdopted = grant.isAdopted
    this.openedMs = Math.floor(grant.sent.atMostMs)
    this.#nonce = grant.nonce
    this.#sent = grant.sent
    this.#durationMs = grant.durationMs
  }

  get nonce(): string | undefined {
    return this.#nonce
  }

  /** Why it is over; undefined while it lives. */
  get ended(): TermEnd | undefined {
    return this.#end
  }

  get suspicions(): number {
    return this.#suspicions
  }

  /** Whether the holder may rely on the lease now, by the clock. */
  isTrusted(now: ClockReading): boolean {
    return this.#end === undefined && this.leftMs(now) > 0
  }

  /** Milliseconds of trust left; zero or less: none. */
  leftMs(now: ClockReading): number {
    return trustWindowMs(this.#durationMs) - elapsedForHolder(this.#sent, now)
  }

  /** The share of its trust window that is left, 0 to 1. */
  margin(now: ClockReading): number {
    return Math.min(1, Math.max(0, this.leftMs(now) / trustWindowMs(this.#durationMs)))
  }

  /** A later grant of the same term. The window never moves back. @param nonce of an adoption */
  extend({ sent, durationMs }: Grant, nonce: string | undefined = this.#nonce): void {
    this.#nonce = nonce
    if (this.leftMs(sent) <= 0) this.#claims = 0 // their time was over
    if (sent.atMostMs + trustWindowMs(durationMs) <= this.#sent.atMostMs + trustWindowMs(this.#durationMs)) return
    this.#sent = sent
    this.#durationMs = durationMs
  }

  /** The substrate hinted that the lease was vacated. */
  suspect(): void {
    this.#suspicions++
  }

  /** An answer says that the term stands; `suspicions` as they were when the question was sent: later ones remain. */
  confirm(suspicions: number): void {
    if (this.#suspicions === suspicions) this.#suspicions = 0
  }

  /** A `claim` was granted it, and its caller relies on it until the window ends. */
  addClaim(): void {
    this.#claims++
  }

  /** That caller has gone, and never saw the grant. */
  removeClaim(): void {
    if (this.#claims > 0) this.#claims--
  }

  /** Whether somebody in this process relies on it: a live Hold, or the caller of a `claim`. */
  isReliedOn(now: ClockReading): boolean {
    return this.isTrusted(now) && (this.#holds !== undefined || this.#claims > 0)
  }

  /** For the registry: it is over, for all that rely on it. Only the first reason counts. */
  end(end: TermEnd): void {
    if (this.#end !== undefined) return
    this.#end = end
    this.#host.off(this)
    const holds = this.holds()
    this.#holds = undefined
    for (const hold of holds) hold.termEnded(end)
  }

  // ── Holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

  get isHeld(): boolean {
    return this.#holds !== undefined
  }

  /** As they are now: an array that does not change with them. */
  holds(): readonly TermHold[] {
    const holds: TermHold[] = []
    for (let hold = this.#holds; hold !== undefined; hold = hold.next) holds.push(hold)
    return holds
  }

  addHold(hold: TermHold, now: ClockReading): void {
    hold.next = this.#holds
    this.#holds = hold
    if (this.wakeAtMs === -1) this.#arm(now)
  }

  removeHold(hold: TermHold): void {
    if (this.#holds === hold) this.#holds = hold.next
    else {
      for (let before = this.#holds; before !== undefined; before = before.next) {
        if (before.next === hold) before.next = hold.next
      }
    }
    hold.next = undefined
    if (this.#holds === undefined) this.#host.off(this)
  }

  /** Ends of windows are woken before everything else. */
  get urgent(): true {
    return true
  }

  /** The window may be over. It moves with each grant, and its timer follows when it fires. */
  wake(now: ClockReading): void {
    if (this.#end !== undefined || this.#holds === undefined) return
    if (this.leftMs(now) <= EARLY_MS + 1) this.endWindow()
    else this.#arm(now)
  }

  /** Nobody may rely on it any more, for its time is over. */
  endWindow(): void {
    let reason: LossReason = 'expired'
    for (let hold = this.#holds; hold !== undefined; hold = hold.next) if (hold.isInTrouble) reason = 'unreachable'
    this.#host.end(this, { reason })
  }

  #arm(now: ClockReading): void {
    const wakeAtMs = Math.floor(now.monotonicMs + this.leftMs(now) - EARLY_MS)
    this.#host.at(this, Math.max(wakeAtMs, Math.ceil(now.monotonicMs)))
  }
}

/** What a term asks of the registry. */
export interface TermHost {
  /** Wakes the term at this monotonic time. */
  at(term: Term, timeMs: number): void
  off(term: Term): void
  end(term: Term, end: TermEnd): void
}
