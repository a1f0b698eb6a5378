/**
 * What one client knows of the leases that it touched: the latest state of each, in the order of the store.
 *
 * An answer counts from its request. An answer that was asked for after everything known about the lease had arrived is newer
 * than all of it. Otherwise the two requests overlapped, and what the answer says is put in order by what cannot go back:
 *
 * - Fencing tokens rise: the state with the larger one is the newer. A term ends once: what shows it again is older.
 * - Within a term, the later end wins.
 * - What remains is *unclear*: ask again. "Vacant", while another answer showed a term that this one may not have seen yet; on a
 *   store without a clock, pinned in one answer and not in the other.
 *
 * Memory: a state for each lease that is held, as far as it is known. That a lease was vacated is remembered only while a
 * request is in flight that was sent before.
 */
import { DateTime } from 'luxon'
import { CompactingMap } from './compacting-map.ts'
import { elapsedForObserver, type ClockReading, type ElapsedTime } from './elapsed-time.ts'
import type { Info, TermAware, Trapdoor } from './lease.ts'
import { inViewSince } from './observer.ts'
import { showAs } from './shown.ts'
import { lapseWindowMs } from './skew.ts'
import type { Holding, Substrate } from './substrate.ts'

/** What every state of one client shares. */
export interface StateContext {
  readonly substrate: Substrate
  readonly time: ElapsedTime
}

/** A request in flight, by its place in the order of all that this client sent and received. */
export interface Question {
  readonly sentAt: number
  /** Of a store without a clock: until when a lease was unchanged for certain if the answer shows it so. */
  readonly sent: ClockReading | undefined
  /** In the array of all that are in flight. */
  index: number
}

/** When something was answered, and what it was. */
export interface Answer {
  readonly question: Question
  /** When the answer arrived. */
  readonly now: ClockReading
  /** The fencing token of the term that was certainly over when the store answered, if there is one. */
  readonly ended?: bigint | undefined
  /** The store has just granted what it shows. */
  readonly granted?: boolean | undefined
}

/** That a term is not there any more: since when, and its fencing token if that is known. */
interface Vacated {
  readonly at: number
  readonly fencingToken: bigint | undefined
}

/** Below this many entries lapsed states are not looked for. */
const SWEEP_FLOOR = 1024

export class LeaseStates {
  readonly #context: StateContext
  readonly #states = new CompactingMap<LeaseState>()
  readonly #vacated = new Map<string, Vacated>()
  /** An array, and not a Set, whose tables would keep each other alive (`keyed-mutex.ts`). */
  readonly #questions: Question[] = []
  #count = 0
  /** When everything was last read. */
  #completeAt = 0
  #sweepAt = SWEEP_FLOOR

  constructor(context: StateContext) {
    this.#context = context
  }

  /** The latest state of each lease, a live view. */
  get view(): ReadonlyMap<string, LeaseState> {
    return this.#states
  }

  get(lease: string): LeaseState | undefined {
    return this.#states.get(lease)
  }

  /** A request is being sent. `close` it, whatever becomes of it. */
  open(): Question {
    const { substrate, time } = this.#context
    const sent = substrate.time === undefined ? time.read() : undefined
    const question = { sentAt: this.#count, sent, index: this.#questions.length }
    this.#questions.push(question)
    return question
  }

  close(question: Question): void {
    const last = this.#questions.pop()
    if (last !== undefined && last !== question) {
      this.#questions[question.index] = last
      last.index = question.index
    }
    if (this.#vacated.size === 0) return
    if (this.#questions.length === 0) {
      this.#vacated.clear()
      return
    }
    let oldest = Number.POSITIVE_INFINITY
    for (const { sentAt } of this.#questions) oldest = Math.min(oldest, sentAt)
    for (const [lease, { at }] of this.#vacated) {
      if (at > oldest) return // entries are in the order of time
      this.#vacated.delete(lease)
    }
  }

  /**
   * Takes over what an answer says. Returns whether that is in order; false: unclear.
   */
  learn(lease: string, holding: Holding | undefined, { question, now, ended, granted = false }: Answer): boolean {
    const known = this.#states.get(lease)
    const vacated = this.#vacated.get(lease)
    const changedAt = known?.learnedAt ?? vacated?.at ?? this.#completeAt
    if (holding === undefined || isVacant(holding)) {
      if (known !== undefined && question.sentAt < changedAt && !(ended !== undefined && known.fencingToken <= ended)) {
        return ended !== undefined // a later term than the one that is over
      }
      this.#vacate(lease, known?.fencingToken ?? ended ?? vacated?.fencingToken)
      return true
    }
    if (question.sentAt < changedAt) {
      if (known !== undefined) {
        if (holding.fencingToken < known.fencingToken) return true
        if (holding.fencingToken === known.fencingToken && !this.#isLater(holding, known, now)) {
          // Pins do not change the version.
          return holding.version === undefined || holding.version !== known.version || holding.pinned === known.pinned
        }
      } else if (vacated?.fencingToken !== undefined && holding.fencingToken <= vacated.fencingToken) return true
      else if (!granted) return false
    }
    this.#set(lease, holding, known, { now, sent: question.sent ?? now })
    return true
  }

  /** An answer about the whole namespace was learned: what is not known now was vacant. */
  complete(): void {
    this.#completeAt = ++this.#count
  }

  #vacate(lease: string, fencingToken: bigint | undefined): void {
    this.#states.delete(lease)
    const at = ++this.#count
    if (this.#questions.length <= 1) return // nothing in flight was sent before
    this.#vacated.delete(lease) // so that entries stay in the order of time
    this.#vacated.set(lease, { at, fencingToken })
  }

  #set(
    lease: string,
    holding: Holding,
    known: LeaseState | undefined,
    { now, sent }: { readonly now: ClockReading; readonly sent: ClockReading },
  ): void {
    if (this.#vacated.size > 0) this.#vacated.delete(lease)
    const at = ++this.#count
    this.#states.set(
      lease,
      new LeaseState(this.#context, { lease, holding, previous: known, sent, now, learnedAt: at }),
    )
    if (this.#states.size > this.#sweepAt) this.#sweep(now)
  }

  #isLater(holding: Holding, known: LeaseState, now: ClockReading): boolean {
    // How old the term was by the store's clock orders the answers of a store that has one.
    if (holding.ageMs !== undefined && known.ageMs !== undefined && holding.ageMs !== known.ageMs) {
      return holding.ageMs > known.ageMs
    }
    if (holding.version !== undefined)
      return holding.version !== known.version && isGreater(holding.version, known.version)
    return lapseWindowMs(holding.remainingMs) > known.lapsesInMs(now)
  }

  #sweep(now: ClockReading): void {
    for (const [lease, state] of this.#states) if (state.isForgettable(now)) this.#states.delete(lease)
    this.#sweepAt = Math.max(SWEEP_FLOOR, 2 * this.#states.size)
  }
}

/** Versions that are numbers rise; of others nothing is known, and the answer that came last wins. */
function isGreater(version: string, than: string | undefined): boolean {
  return than === undefined || version.length > than.length || (version.length === than.length && version > than)
}

function isVacant({ remainingMs, pinned, version }: Holding): boolean {
  return remainingMs <= 0 && !pinned && version === undefined
}

/** The clocks of a machine agree to this. */
const GRAIN_MS = 5

/** What this client knows about one held lease. Immutable but for `isSure`; the costly parts are made when they are read. */
export class LeaseState implements Info, Holding, TermAware {
  readonly holder: string
  readonly fencingToken: bigint
  readonly nonce: string | undefined
  readonly value: string | undefined
  readonly pinned: boolean
  readonly weight: number | undefined
  /** For `observer.ts`. */
  readonly version: string | undefined
  readonly seen: ClockReading
  /** When it was seen. */
  readonly remainingMs: number
  readonly ageMs: number | undefined
  readonly learnedAt: number
  /**
   * Whether this client opened or adopted the term for a caller that knows of it, and sent nothing since that ends it. Of any
   * other term a release may be under way: it must be adopted before anybody relies on it.
   */
  isSure: boolean
  readonly #lapsed: boolean
  readonly #lease: string
  readonly #context: StateContext

  constructor(
    context: StateContext,
    {
      lease,
      holding,
      previous,
      sent,
      now,
      learnedAt,
    }: {
      readonly lease: string
      readonly holding: Holding
      readonly previous: LeaseState | undefined
      /** When this was asked for, and when it was answered. */
      readonly sent: ClockReading
      readonly now: ClockReading
      readonly learnedAt: number
    },
  ) {
    const sameTerm = previous !== undefined && previous.fencingToken === holding.fencingToken
    this.holder = holding.holder
    this.fencingToken = holding.fencingToken
    this.nonce = holding.nonce ?? (sameTerm ? previous.nonce : undefined)
    this.value = holding.value
    this.pinned = holding.pinned
    this.weight = holding.weight ?? (sameTerm ? previous.weight : undefined)
    this.version = holding.version
    this.seen = inViewSince(previous, holding.version, now)
    this.remainingMs = holding.remainingMs
    this.ageMs = holding.ageMs
    this.learnedAt = learnedAt
    this.isSure = sameTerm && previous.isSure && previous.nonce === this.nonce
    this.#lapsed =
      holding.version !== undefined &&
      !holding.pinned &&
      elapsedForObserver(this.seen, sent) > lapseWindowMs(holding.remainingMs)
    this.#lease = lease
    this.#context = context
  }

  /** Follows a wall clock that was set since; less than a few milliseconds apart is the grain of the clocks. */
  get expiryMs(): number {
    const now = this.#context.time.read()
    const asSeenMs = this.seen.wallMs + lapseWindowMs(this.remainingMs)
    const asOfNowMs = now.wallMs + this.lapsesInMs(now)
    return Math.ceil(Math.abs(asOfNowMs - asSeenMs) > GRAIN_MS ? asOfNowMs : asSeenMs)
  }

  get expiry(): DateTime {
    return DateTime.fromMillis(this.expiryMs)
  }

  get sinceMs(): number | undefined {
    return this.ageMs === undefined ? undefined : Math.floor(this.seen.wallMs - this.ageMs)
  }

  get since(): DateTime | undefined {
    const { sinceMs } = this
    return sinceMs === undefined ? undefined : DateTime.fromMillis(sinceMs)
  }

  get trapdoor(): Trapdoor {
    return this.#context.substrate.trapdoor(this.#lease, this.holder, this.fencingToken)
  }

  /** Whether the lease had lapsed when this was answered. A store with a clock says so itself. */
  isLapsed(): boolean {
    return this.#lapsed
  }

  lapsesInMs(now: ClockReading = this.#context.time.read()): number {
    return lapseWindowMs(this.remainingMs) - elapsedForObserver(this.seen, now)
  }

  /** Lapsed; an observation that allows a takeover is kept for as long again. */
  isForgettable(now: ClockReading): boolean {
    const goneMs = -this.lapsesInMs(now)
    return !this.pinned && goneMs > (this.version === undefined ? 0 : lapseWindowMs(this.remainingMs))
  }

  /** The version that may be taken over, on a store without a clock. */
  lapsedVersion(now: ClockReading): string | undefined {
    return this.pinned ? undefined : this.unpinnedVersion(now)
  }

  /** The version that may be taken over, or may be once it is not pinned any more. */
  unpinnedVersion(now: ClockReading): string | undefined {
    return this.lapsesInMs(now) < 0 ? this.version : undefined
  }
}

/** Until when a lease may be valid and since when it has been held, as `Info` says it, in milliseconds: a DateTime for each of 100,000 leases takes long. */
export function instantsOf(info: Info): { readonly expiryMs: number; readonly sinceMs: number | undefined } {
  if (info instanceof LeaseState) return info
  return { expiryMs: info.expiry.toMillis(), sinceMs: info.since?.toMillis() }
}

showAs(LeaseState, 'Info', ['holder', 'expiry', 'fencingToken', 'value', 'pinned', 'since', 'weight'])
