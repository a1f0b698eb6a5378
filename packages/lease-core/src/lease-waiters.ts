/**
 * What is known of those who wait for one lease, or for any of several: who they are, what was heard since the last claim, and when
 * the next look of each kind is due. `WaitQueue` decides.
 */
import type { AsyncResource } from 'node:async_hooks'
import type { Deadline } from './timer-queue.ts'
import type { WaiterDenial } from './claims.ts'
import type { LeaseChange } from './client.ts'
import type { ErrUnknown } from './errors.ts'
import type { Hold } from './hold.ts'
import type { Info } from './lease.ts'
import type { ParsedHoldOptions } from './options.ts'
import type { ClaimTrace } from './tracing.ts'
import { noTicket, type Ticket } from './ticket.ts'

/** What a waiter asks for: any one of these leases will do. Of a share it is the counted lease. */
export interface WaitRequest extends WaiterDenial {
  readonly leases: readonly string[]
  readonly holder: string
  readonly options: ParsedHoldOptions
  /** Somebody listens to the call. */
  readonly trace?: ClaimTrace | undefined
}

export const AT_ONCE: number = Number.NEGATIVE_INFINITY
export const NEVER: number = Number.POSITIVE_INFINITY
/** So many looks in a row, each so soon after the one before, are a loop. */
const CROWD = 5
const CROWDED_MS = 10
const LONGEST_PAUSE_MS = 1_000

/** A hint about one lease. */
export type LeaseHint = Exclude<LeaseChange, { readonly kind: 'resync' }>

/** Wants to see the lease vacant. */
export interface VacancyWatcher {
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export interface Observer {
  readonly report: (info: Info | undefined) => void
  readonly fail: (error: unknown) => void
}

/** Wants to hold the lease. */
export interface Waiter {
  readonly request: WaitRequest
  readonly joinedMs: number
  readonly endMs: number
  /** Aborts when it stops waiting: a claim in flight is given up. */
  readonly giveUp: AbortController
  /** Of its call: its claims are sent in it, whatever caused them. */
  readonly context: AsyncResource
  /** What its last claim met, when that was neither a grant nor a denial. */
  failure: ErrUnknown | undefined
  /** A claim of this waiter is in flight. */
  claiming: boolean
  /** In the queue, as it was notified last; 0: it was not. */
  position: number
  /** Not too many were ahead when it came (`maxWaiters`). */
  mayStay: boolean
  readonly resolve: (hold: Hold) => void
  readonly reject: (error: unknown) => void
}

/** One of the two kinds of looks of one queue. */
export class Look {
  dueMs: number = NEVER
  /** When the last one was sent. */
  sentMs: number = AT_ONCE
  /** In a row. */
  failures = 0
  /** Looks in a row that came on the heels of the one before. */
  #crowded = 0

  /** What becomes due from now on is due after this look. */
  begin(nowMs: number): void {
    this.#crowded = nowMs - this.sentMs < Math.max(CROWDED_MS, 2 * this.pauseMs) ? this.#crowded + 1 : 0
    this.dueMs = NEVER
    this.sentMs = nowMs
  }

  /** Before the next look for a lapse: a clock that stands still, here or in the store, promises one in a moment for ever. */
  get pauseMs(): number {
    return this.#crowded < CROWD ? 0 : Math.min(LONGEST_PAUSE_MS, 2 ** (this.#crowded - CROWD))
  }
}

/** Those who wait for one lease, or for any of several. */
export class LeaseWaiters implements Deadline {
  wakeAtMs = -1
  slot = 0
  readonly name: string
  readonly leases: readonly string[]
  readonly watchers: VacancyWatcher[] = []
  readonly observers: Observer[] = []
  readonly waiters: Waiter[] = []
  readonly read: Look = new Look()
  readonly claim: Look = new Look()
  looking = false
  /** Of a counted lease: a waiter's holder may have its share in this process already. To know for sure takes a walk through all waiters. */
  mayHaveOwn = false
  /** A waiter needs an answer of the store. */
  isAsked = false
  /** The ticket of the first waiter; the next one inherits it. */
  ticket: Ticket = noTicket()
  /** Who says how many are ahead: the store, with a ticket, or this process, as the store keeps no queue. undefined: not known yet. */
  countedBy: 'store' | 'process' | undefined
  /** The last ticket heard to be granted, of those ahead. */
  served = 0
  /** Its leases may be watched. */
  watches = false
  /** When the last read was sent that was answered, and from which on they are. */
  watchedMs: number = AT_ONCE
  /** How long the last claim took. */
  tookMs = 0
  /** When vacancies were reported since the last claim was sent, without those that were reported as taken. */
  readonly openings: number[] = []
  /** When a Hold of this process ended, since the last claim was sent. */
  releasedMs: number = NEVER
  /** What is heard while a claim is in flight; undefined: none is. */
  heard: Heard[] | undefined
  /** When the last look was sent that found all of the leases held, or others ahead. */
  heldMs: number = AT_ONCE
  /** Claims in a row that were refused though one of them is vacant. */
  misses = 0
  /** What the last look met that failed. */
  failure: unknown
  readonly #look: (self: LeaseWaiters) => void

  constructor(name: string, leases: readonly string[], look: (self: LeaseWaiters) => void) {
    this.name = name
    this.leases = leases
    this.#look = look
  }

  get isEmpty(): boolean {
    return this.watchers.length + this.observers.length + this.waiters.length === 0
  }

  /**
   * Since when the lease is said to be vacant; NEVER: it is not. The oldest vacancy counts: where nobody tells who took the lease, each
   * further one would put off the turn of the waiter again, for ever.
   */
  get vacantMs(): number {
    return Math.min(this.openings[0] ?? NEVER, this.releasedMs)
  }

  /** Whether anybody waits for a read. */
  get isRead(): boolean {
    return this.watchers.length + this.observers.length > 0
  }

  wake(): void {
    this.#look(this)
  }

  /** The next waiter starts without a ticket. A store that keeps none goes on keeping none. */
  forgetTicket(): void {
    if (this.countedBy === 'store') this.countedBy = undefined
    this.ticket = noTicket()
    this.served = 0
    this.forgetVacancy()
    this.misses = 0
    this.claim.dueMs = NEVER
    this.claim.failures = 0
  }

  /** A Hold of this process has the lease: its end is reported. */
  waitForHold(untilMs: number): void {
    this.forgetVacancy()
    this.claim.dueMs = untilMs
  }

  forgetVacancy(): void {
    this.openings.length = 0
    this.releasedMs = NEVER
  }

  /** Ends all waits. */
  end(error: unknown): void {
    for (const watcher of this.watchers.splice(0)) watcher.reject(error)
    for (const observer of this.observers.splice(0)) observer.fail(error)
    for (const waiter of this.waiters.splice(0)) waiter.reject(error)
  }
}

export interface Heard {
  readonly change: Exclude<LeaseHint, { readonly kind: 'changed' }>
  readonly atMs: number
}
