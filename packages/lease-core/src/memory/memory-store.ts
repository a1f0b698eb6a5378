/**
 * The "server" of the memory substrate: the leases of any number of namespaces, in one process.
 *
 * Promises: every operation is atomic, because it is synchronous. A claim, extension, release, expiry or pin costs the same for any number of
 * leases. A held lease is one small record; a vacant lease needs none. Fencing tokens come from one counter of the store, so they rise with
 * every term of a lease for as long as the store lives. For a few seconds the store remembers the claim of an ended term, so that a late
 * copy of that claim opens no other term.
 *
 *     vacant ──claim──▶ held ──release, expire──▶ vacant
 *                        │ now > expiry, no pin
 *                        ▼
 *                      lapsed = vacant: the next operation finds it so; nothing runs at that moment
 *
 * A pin belongs to the name, not to the term: it outlives a release, and protects the next holder. A pin after the lapse does not restore the
 * old holder.
 *
 * With `serverClock: false` the store uses no clock, as etcd and DynamoDB: nothing lapses by itself. Each claim and extension writes a new
 * `version`. Only a version that the caller has observed to be lapsed may be taken over or expired (compare-and-swap). So core's rule for
 * such stores (`observer.ts`) can be tested in memory.
 */
import { CompactingMap } from '../compacting-map.ts'
import type { LeaseChange } from '../client.ts'
import { systemClock, type Clock } from '../clock.ts'
import { callListener } from '../errors.ts'
import { hasMethods, OptionReader } from '../option-reader.ts'
import { countedOf } from '../share.ts'
import { afterGrant, INTEREST_MS, lastTold, TOLD, type Place } from '../ticket.ts'
import {
  clientOf,
  granted,
  isNamed,
  late,
  LONGEST_DEADLINE_MS,
  mayExtend,
  refused,
  type Call,
  type ClaimOp,
  type Counted,
  type DefineOp,
  type ExtendOp,
  type Holding,
  type LeaveOp,
  type Op,
  type PinOp,
  type Pins,
  type ShareOp,
  type UnpinOp,
  type Verdict,
} from '../substrate.ts'
import { CountedLeases } from './counted-leases.ts'
import { Recent } from './recent.ts'
import { queueMicrotask } from '../turns.ts'

/** Options of a MemoryStore. */
export interface MemoryStoreOptions {
  /** Its monotonic clock is the clock of the store. @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Whether the store decides by its clock what has lapsed; false: it behaves as a store without a clock. @default true */
  readonly serverClock?: boolean | undefined
}

/** The symbol on the stores of every copy of this package. Its number rises when the methods for `MemorySubstrate` change. */
const MEMORY_STORE = Symbol.for('lease-core.MemoryStore/3')

/** Leases in the memory of this process. Clients over one store compete for its leases, as processes over one server do. */
export class MemoryStore {
  readonly #clock: Clock
  readonly #serverClock: boolean
  readonly #namespaces = new Map<string, MemoryNamespace>()
  #terms = 0n
  #versions = 0

  static {
    Object.defineProperty(this.prototype, MEMORY_STORE, { value: true })
  }

  /** @throws ErrNotValid */
  constructor(options: MemoryStoreOptions = {}) {
    const reader = new OptionReader(options, ['clock', 'serverClock'])
    const { clock = systemClock } = reader.read
    reader.must('clock', hasMethods(clock, 'monotonic'), 'must be a Clock')
    this.#serverClock = reader.boolean('serverClock', true)
    reader.finish()
    this.#clock = clock
  }

  /** How many records are kept, including those of lapsed leases that no operation has found since. */
  get size(): number {
    let size = 0
    for (const namespace of this.#namespaces.values()) size += namespace.size
    return size
  }

  /** How many vacant leases are remembered, so that late requests have no effect on them. */
  get remembered(): number {
    let remembered = 0
    for (const namespace of this.#namespaces.values()) remembered += namespace.remembered
    return remembered
  }

  /** How many leases have remembered waiters or watchers, including those whose time is over. */
  get awaited(): number {
    let awaited = 0
    for (const namespace of this.#namespaces.values()) awaited += namespace.awaited
    return awaited
  }

  /** Returns the leases of one namespace; the same object for the same name. For `MemorySubstrate`. */
  namespace(name: string): MemoryNamespace {
    let known = this.#namespaces.get(name)
    if (known === undefined) {
      const now = this.#serverClock ? () => this.#clock.monotonic() : undefined
      known = new MemoryNamespace(now, {
        nextToken: () => ++this.#terms,
        nextVersion: () => ++this.#versions,
        nowMs: () => this.#clock.monotonic(),
      })
      this.#namespaces.set(name, known)
    }
    return known
  }
}

/** When a request was sent, as `Call` says it. */
export type Stamp = Pick<Call, 'client' | 'epoch' | 'sentMs' | 'notAfterMs'>

/** Says nothing. */
const NO_STAMP: Stamp = { client: '', epoch: 0, sentMs: undefined, notAfterMs: undefined }

/** One term. `version` is zero where the store has a clock. */
interface Term {
  holder: string
  nonce: string
  /** The nonce of the claim that opened it, where an adoption has replaced it. */
  opener?: string
  fencingToken: bigint
  openedMs: number
  /** When the value was set. */
  valuedMs: number
  /** Where the store has a clock: the last instant at which it stands. */
  expiryMs: number
  /** Where it has none: the longest duration granted in this term, which an observer has to wait. */
  durationMs: number
  value: string | undefined
  version: number
  /** Of a share. */
  weight: number | undefined
}

interface Pin {
  readonly generation: string
  readonly atMs: number
}

interface Sequence {
  readonly nextToken: () => bigint
  readonly nextVersion: () => number
  /** Nothing but queues is forgotten by it: they decide nothing. */
  readonly nowMs: () => number
}

/** A term that is over, as long as a late copy of its claim might come. */
type Ended = Pick<Term, 'nonce' | 'opener' | 'openedMs'>

/** One who waits, in the queue of a lease. */
interface Waiting {
  readonly place: number
  readonly client: string
  /** Of the share that it asked for last; of a lease that is none 1. */
  weight: number
  untilMs: number
}

/** Below this many records lapsed ones are not looked for. */
const SWEEP_FLOOR = 1024
/** How many terms that are over a store without a clock remembers: nothing tells it when it may forget. */
const ENDED_WITHOUT_CLOCK = 1024
/** What is remembered and lies further in the future was written before the clock was set back: it says nothing. */
const SET_BACK_MS = 1_000

/** What one namespace of a `MemoryStore` holds. Its methods are synchronous, and so atomic. */
export class MemoryNamespace {
  readonly #now: (() => number) | undefined
  readonly #sequence: Sequence
  readonly #terms = new CompactingMap<Term>()
  readonly #pins = new Map<string, Map<string, Pin>>()
  /** Terms, by the lease. */
  readonly #ended: Recent<Ended>
  /** When a pin was withdrawn, by the lease. */
  readonly #unpinned: Recent<number>
  readonly #counted: CountedLeases
  /** Of each client that once did not know an outcome, the highest epoch seen. */
  readonly #epochs = new Map<string, number>()
  /** Those who hear of everything. */
  readonly #watchers = new Set<Watcher>()
  /** Those who hear of what their client has asked for, by the client. */
  readonly #listeners = new Map<string, Set<Watcher>>()
  /** Of each lease that somebody waits for: who, in the order of their tickets. */
  readonly #queues = new Map<string, Waiting[]>()
  /** Of each lease that somebody watches: until when, by the client. */
  readonly #watched = new Map<string, Map<string, number>>()
  #places = 0
  #sweepAt = SWEEP_FLOOR
  #sweepAwaitedAt = SWEEP_FLOOR

  constructor(now: (() => number) | undefined, sequence: Sequence) {
    this.#now = now
    this.#sequence = sequence
    const limit = now === undefined ? { most: ENDED_WITHOUT_CLOCK } : { forMs: LONGEST_DEADLINE_MS }
    this.#ended = new Recent(limit)
    this.#unpinned = new Recent(limit)
    this.#counted = new CountedLeases(now !== undefined)
  }

  get size(): number {
    return this.#terms.size
  }

  get remembered(): number {
    return this.#ended.size + this.#unpinned.size
  }

  get awaited(): number {
    return this.#queues.size + this.#watched.size
  }

  /** Whether the store decides by its clock what has lapsed. */
  get hasClock(): boolean {
    return this.#now !== undefined
  }

  /** Its clock now, in milliseconds; 0 where it has none. */
  time(): number {
    return this.#now?.() ?? 0
  }

  apply(op: Op, stamp: Stamp = NO_STAMP): Verdict {
    const nowMs = this.time()
    if (this.#isTooLate(stamp, nowMs)) return late
    switch (op.kind) {
      case 'claim': {
        const term = this.#standing(op.lease, nowMs)
        if (term !== undefined) {
          // Its value is the one that it was opened with: a later one stays.
          if (term.holder === op.holder && term.nonce === op.nonce) {
            return this.#prolong(op.lease, term, { ...op, value: undefined }, nowMs)
          }
          if (!this.#mayTakeOver(op.lease, term, op.lapsed)) {
            const refusal = this.#refuse(op.lease, term, nowMs)
            return op.share === undefined ? this.#queued(op, refusal, stamp) : refusal
          }
        }
        if (this.#isStale(op.lease, op.nonce, stamp, nowMs)) return late
        if (op.share !== undefined) return this.#claimShare(op, op.share, stamp, nowMs)
        if (op.place === 0 && this.#queueOf(op.lease) !== undefined) return this.#queued(op, refused(undefined), stamp)
        if (op.place !== undefined && op.place > 0) this.#serve(op.lease, op.place, op.durationMs)
        return this.#open(op.lease, op, nowMs)
      }
      case 'extend':
        return this.#extend(op, stamp, nowMs)
      case 'release': {
        const term = this.#standing(op.lease, nowMs)
        if (term !== undefined && !isNamed(op, term)) return this.#refuse(op.lease, term, nowMs)
        return this.#vacate(op.lease, nowMs, stamp)
      }
      case 'expire': {
        const term = this.#standing(op.lease, nowMs)
        if (term !== undefined && !this.#mayTakeOver(op.lease, term, op.lapsed)) {
          return this.#refuse(op.lease, term, nowMs)
        }
        return this.#vacate(op.lease, nowMs, stamp)
      }
      case 'leave':
        return this.#leave(op, stamp, nowMs)
      case 'passOver': {
        if (this.#standing(op.lease, nowMs) !== undefined) return granted(undefined)
        if (!this.#fitsFirst(op.lease, nowMs)) return granted(undefined)
        const queue = this.#queueOf(op.lease) ?? []
        this.#keep(
          op.lease,
          queue.filter(({ place }) => place > op.place),
        )
        return this.#tellQueue(op.lease, nowMs)
      }
      case 'define':
        return this.#define(op, stamp, nowMs)
      case 'pin':
      case 'unpin':
        break
    }
    return op.kind === 'pin' ? this.#pin(op, stamp, nowMs) : this.#unpin(op, stamp, nowMs)
  }

  /**
   * The holdings that stand, of these leases or of all.
   *
   * @param watch by whom some of them are watched from now on
   */
  read(
    leases: readonly string[] | undefined,
    watch?: { readonly client: string; readonly leases: readonly string[] },
  ): Map<string, Holding> {
    const nowMs = this.time()
    for (const lease of watch?.leases ?? []) {
      const clients = this.#watched.get(lease) ?? new Map<string, number>()
      this.#watched.set(lease, clients.set(watch?.client ?? '', this.#sequence.nowMs() + INTEREST_MS))
    }
    this.#sweepAwaited()
    const holdings = new Map<string, Holding>()
    for (const lease of leases ?? this.#terms.keys()) {
      const term = this.#standing(lease, nowMs)
      if (term !== undefined) holdings.set(lease, this.#holding(lease, term, nowMs))
    }
    return holdings
  }

  /** Whether exactly this term stands now. */
  stands(lease: string, holder: string, fencingToken: bigint): boolean {
    const term = this.#standing(lease, this.time())
    return term !== undefined && isNamed({ holder, fencingToken }, term)
  }

  /** The pinned leases, of these or of all, each with its pins. */
  pinned(leases?: readonly string[]): Map<string, Pins> {
    const pinned = new Map<string, Pins>()
    for (const lease of leases ?? this.#pins.keys()) {
      const pins = this.#pins.get(lease)
      if (pins !== undefined)
        pinned.set(lease, new Map([...pins].map(([entity, { generation }]) => [entity, generation])))
    }
    return pinned
  }

  /**
   * Tells of changes from now on, after a first `resync`, never from within an operation: of what this client has asked for, or of
   * everything.
   */
  watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    const watcher = new Watcher(listener)
    const watchers = client === undefined ? this.#watchers : (this.#listeners.get(client) ?? new Set())
    watchers.add(watcher)
    if (client !== undefined) this.#listeners.set(client, watchers)
    watcher.tell({ kind: 'resync' })
    return () => {
      watchers.delete(watcher)
      if (client !== undefined && watchers.size === 0) this.#listeners.delete(client)
      watcher.stop()
    }
  }

  /** The term that stands, if one does. Exclusive boundary: at its expiry it stands, after it no more. */
  #standing(lease: string, nowMs: number): Term | undefined {
    const term = this.#terms.get(lease)
    if (term === undefined || this.#now === undefined) return term
    return nowMs <= term.expiryMs || this.#pins.has(lease) ? term : undefined
  }

  /** The request must not be executed any more. */
  #isTooLate({ client, epoch, sentMs, notAfterMs }: Stamp, nowMs: number): boolean {
    if (this.#now !== undefined) {
      if (notAfterMs !== undefined && nowMs > notAfterMs) return true
      return sentMs !== undefined && nowMs - sentMs > LONGEST_DEADLINE_MS // what happened since may be forgotten
    }
    if (epoch > (this.#epochs.get(client) ?? 0)) this.#epochs.set(client, epoch)
    return false
  }

  /** The claim must not open a term: it was sent before the latest one was opened, or opened one already. */
  #isStale(lease: string, nonce: string, stamp: Stamp, nowMs: number): boolean {
    const { sentMs } = stamp
    const latest = this.#terms.get(lease) ?? this.#ended.get(lease)
    if (latest !== undefined && (latest.nonce === nonce || latest.opener === nonce)) return true
    if (this.#now === undefined) return this.#isOfEarlierEpoch(stamp)
    return latest !== undefined && sentMs !== undefined && isSince(sentMs, latest.openedMs, nowMs)
  }

  #isOfEarlierEpoch({ client, epoch }: Stamp): boolean {
    return this.#now === undefined && epoch < (this.#epochs.get(client) ?? 0)
  }

  #extend(op: ExtendOp, stamp: Stamp, nowMs: number): Verdict {
    const { lease, adoption } = op
    const term = this.#standing(lease, nowMs)
    if (term === undefined || !mayExtend(op, term)) return this.#refuse(lease, term, nowMs)
    if (op.value !== undefined && op.value !== term.value) {
      if (this.#isOfEarlierEpoch(stamp) || isSince(stamp.sentMs, term.valuedMs, nowMs)) return late
    }
    if (adoption !== undefined) {
      if (term.nonce !== adoption.nonce) term.opener ??= term.nonce
      term.nonce = adoption.nonce
    }
    return this.#prolong(lease, term, op, nowMs)
  }

  /** Stores without a clock: whether this version is the one that the caller saw lapse. */
  #mayTakeOver(lease: string, term: Term, lapsed: string | undefined): boolean {
    return this.#now === undefined && String(term.version) === lapsed && !this.#pins.has(lease)
  }

  /** The refusal, with the ticket of a claimer who waits. */
  #queued(
    { lease, place, maxWaiters, share }: ClaimOp,
    refusal: Verdict,
    { client }: Stamp,
    isHeld: boolean = refusal.holding !== undefined,
  ): Verdict {
    if (place === undefined) return refusal
    const name = countedOf(lease) ?? lease
    const queue = this.#queueOf(name) ?? []
    const isBounded = place === 0 && maxWaiters !== undefined && isHeld
    if (isBounded && queue.length >= maxWaiters) return { ...refusal, isFull: true }
    const own = place === 0 ? ++this.#places : place
    const untilMs = this.#sequence.nowMs() + INTEREST_MS
    const known = queue.find((waiting) => waiting.place === own)
    const weight = share?.weight ?? 1
    if (known === undefined) queue.push({ place: own, client, weight, untilMs })
    else Object.assign(known, { weight, untilMs })
    queue.sort((one, other) => one.place - other.place)
    this.#queues.set(name, queue)
    this.#sweepAwaited()
    return { ...refusal, ticket: { place: own, ahead: queue.findIndex((waiting) => waiting.place === own) } }
  }

  /** Who waits for the lease; undefined: nobody. */
  #queueOf(lease: string): Waiting[] | undefined {
    const queue = this.#queues.get(lease)
    if (queue === undefined) return undefined
    const live = queue.filter(({ untilMs }) => untilMs >= this.#sequence.nowMs())
    return this.#keep(lease, live)
  }

  #keep(lease: string, queue: Waiting[]): Waiting[] | undefined {
    if (queue.length === 0) this.#queues.delete(lease)
    else this.#queues.set(lease, queue)
    return queue.length === 0 ? undefined : queue
  }

  /** A grant with a ticket removes from the queue the waiters that were notified before it. The first one left is notified. */
  #serve(lease: string, place: number, durationMs: number, isOver: () => boolean = () => true): void {
    const taken = { kind: 'taken', lease, place, durationMs } as const
    this.#tellAll(taken)
    const queue = this.#queueOf(lease) ?? []
    const [first] = this.#keep(lease, afterGrant(queue, place)) ?? []
    if (first !== undefined && isOver())
      this.#tellClient(first.client, { ...taken, to: { place: first.place, ahead: 0 } })
  }

  #leave({ lease, place }: LeaveOp, { client }: Stamp, nowMs: number): Verdict {
    if (place === undefined) {
      const clients = this.#watched.get(lease)
      clients?.delete(client)
      if (clients?.size === 0) this.#watched.delete(lease)
      return granted(undefined)
    }
    const queue = this.#queueOf(lease) ?? []
    const index = queue.findIndex((waiting) => waiting.place === place && waiting.client === client)
    if (index < 0) return granted(undefined)
    this.#keep(lease, queue.toSpliced(index, 1))
    const matters = index < TOLD && this.#standing(lease, nowMs) === undefined
    return matters ? this.#tellQueue(lease, nowMs) : granted(undefined)
  }

  #open(lease: string, claim: Asked & Pick<ClaimOp, 'holder' | 'nonce' | 'share'>, nowMs: number): Verdict {
    const term: Term = {
      holder: claim.holder,
      nonce: claim.nonce,
      fencingToken: this.#sequence.nextToken(),
      openedMs: nowMs,
      valuedMs: nowMs,
      expiryMs: nowMs + claim.durationMs,
      durationMs: claim.durationMs,
      value: claim.value,
      version: this.#now === undefined ? this.#sequence.nextVersion() : 0,
      weight: claim.share?.weight,
    }
    this.#terms.set(lease, term)
    if (this.#terms.size > this.#sweepAt) this.#sweep(nowMs)
    if (claim.announce === true) this.#tellOf({ kind: 'changed', lease })
    return granted(this.#holding(lease, term, nowMs))
  }

  /** Moves the end of the term, never back: without a clock, by never lowering the time that observers have to wait. */
  #prolong(lease: string, term: Term, { durationMs, value, announce }: Asked, nowMs: number): Verdict {
    term.expiryMs = Math.max(term.expiryMs, nowMs + durationMs)
    term.durationMs = Math.max(term.durationMs, durationMs)
    if (this.#now === undefined) term.version = this.#sequence.nextVersion()
    if (value !== undefined && value !== term.value) {
      term.value = value
      term.valuedMs = nowMs
      if (announce === true) this.#tellOf({ kind: 'changed', lease })
    }
    return granted(this.#holding(lease, term, nowMs))
  }

  #vacate(lease: string, nowMs: number, { client }: Stamp): Verdict {
    const term = this.#terms.get(lease)
    if (term === undefined) return granted(undefined)
    this.#end(lease, term, nowMs)
    this.#tellOf({ kind: 'vacated', lease })
    const opener = clientOf(term.nonce)
    if (opener !== client) this.#tellClient(opener, { kind: 'vacated', lease })
    return this.#tellQueue(countedOf(lease) ?? lease, nowMs)
  }

  #end(lease: string, term: Term, nowMs: number): void {
    this.#terms.delete(lease)
    const counted = countedOf(lease)
    if (counted !== undefined) this.#counted.remove(counted, lease)
    if (this.#now === undefined || nowMs - term.openedMs < LONGEST_DEADLINE_MS) {
      this.#ended.add(lease, term, nowMs)
    }
  }

  #pin({ lease, entity, generation }: PinOp, stamp: Stamp, nowMs: number): Verdict {
    const { sentMs } = stamp
    const before = this.#pins.get(lease)?.get(entity)
    if (this.#isOfEarlierEpoch(stamp)) return late
    if (before?.generation === generation) return this.#grantAsIs(lease, nowMs)
    if (isSince(sentMs, this.#unpinned.get(lease), nowMs)) return late
    if (isSince(sentMs, before?.atMs, nowMs)) return late
    // First: a pin must not make a lapsed term stand again.
    if (this.#standing(lease, nowMs) === undefined) this.#vacate(lease, nowMs, stamp)
    const pins = this.#pins.get(lease) ?? new Map<string, Pin>()
    this.#pins.set(lease, pins.set(entity, { generation, atMs: nowMs }))
    return this.#grantAsIs(lease, nowMs)
  }

  #unpin({ lease, entity, generation, lapsed }: UnpinOp, stamp: Stamp, nowMs: number): Verdict {
    if (this.#now !== undefined) this.#unpinned.add(lease, nowMs, nowMs)
    const pins = this.#pins.get(lease)
    if (pins?.get(entity)?.generation === generation) {
      pins.delete(entity)
      if (pins.size === 0) this.#pins.delete(lease)
      // The last pin may have been all that kept the term standing.
      const term = this.#terms.get(lease)
      const isOver = this.#standing(lease, nowMs) === undefined
      if (term !== undefined && (isOver || this.#mayTakeOver(lease, term, lapsed))) {
        return this.#vacate(lease, nowMs, stamp)
      }
    }
    return this.#grantAsIs(lease, nowMs)
  }

  #grantAsIs(lease: string, nowMs: number): Verdict {
    const term = this.#standing(lease, nowMs)
    return granted(term === undefined ? undefined : this.#holding(lease, term, nowMs))
  }

  #refuse(lease: string, term: Term | undefined, nowMs: number): Verdict {
    return refused(term === undefined ? undefined : this.#holding(lease, term, nowMs))
  }

  #holding(lease: string, term: Term, nowMs: number): Holding {
    const { weight } = term
    const holding = this.#leaseHolding(lease, term, nowMs)
    return weight === undefined ? holding : { ...holding, weight }
  }

  #leaseHolding(lease: string, term: Term, nowMs: number): Holding {
    const { holder, nonce, fencingToken, value } = term
    const pinned = this.#pins.has(lease)
    if (this.#now === undefined) {
      const { durationMs: remainingMs, version } = term
      return { holder, fencingToken, nonce, remainingMs, ageMs: undefined, value, pinned, version: String(version) }
    }
    let remainingMs = term.expiryMs - nowMs
    // At its very expiry it still stands, and zero would say that it has lapsed.
    if (remainingMs === 0) remainingMs = Number.MIN_VALUE
    return { holder, fencingToken, nonce, remainingMs, ageMs: nowMs - term.openedMs, value, pinned, version: undefined }
  }

  /** Forgets lapsed records when there are twice as many as last time: names that never come back leave no trace. */
  #sweep(nowMs: number): void {
    for (const lease of this.#terms.keys()) {
      const term = this.#terms.get(lease)
      const old = term !== undefined && nowMs - term.openedMs > LONGEST_DEADLINE_MS
      if (old && this.#standing(lease, nowMs) === undefined) this.#end(lease, term, nowMs)
    }
    this.#sweepAt = Math.max(SWEEP_FLOOR, 2 * this.#terms.size)
  }

  /** The same for tickets and watches that nobody renews any more. */
  #sweepAwaited(): void {
    if (this.awaited <= this.#sweepAwaitedAt) return
    for (const lease of this.#queues.keys()) this.#queueOf(lease)
    for (const lease of this.#watched.keys()) this.#watchersOf(lease)
    this.#sweepAwaitedAt = Math.max(SWEEP_FLOOR, 2 * this.awaited)
  }

  // ── counted leases ────────────────────────────────────────────────────────────────────────────────────────────

  #claimShare(op: ClaimOp, share: ShareOp, stamp: Stamp, nowMs: number): Verdict {
    const { lease, place } = op
    const name = countedOf(lease) as string
    const isNew = this.#counted.definition(name) === undefined
    if (isNew && share.capacity !== undefined) {
      if (this.#isOfEarlierEpoch(stamp) || this.#counted.isOver(op.nonce)) return late
      if (isSince(stamp.sentMs, this.#counted.endedMs(name), nowMs)) return late
      this.#counted.defineByUse(name, share.capacity, op.nonce)
    }
    const { capacity } = this.#counted.definition(name) ?? {}
    const counted = (): Counted => this.#countedNow(name, nowMs, { forRefusal: true })
    if (capacity === undefined || share.weight > capacity || (share.capacity ?? capacity) !== capacity) {
      return { ...refused(undefined), counted: counted() }
    }
    const lapsed = [...this.#counted.shares(name)].filter((other) => {
      const term = this.#standing(other, nowMs)
      return term === undefined || other === lease || this.#mayTakeOver(other, term, share.lapsed.get(other))
    })
    const room = capacity - this.#weightOf(name, nowMs, lapsed)
    const ahead = (this.#queueOf(name) ?? []).filter(
      (waiting) => !(place !== undefined && place > 0 && waiting.place >= place),
    )
    const isNext = ahead.length <= share.passing && ahead.every(({ weight }) => weight <= room)
    if (share.weight > room || !isNext) {
      const refusal = { ...refused(undefined), counted: counted() }
      const isFull = share.weight > room
      const verdict = this.#queued(op, refusal, stamp, isFull)
      if (isFull) return verdict
      // It has met nothing but tickets, and those who have them may have died.
      if (place !== 0) return { ...verdict, told: this.#tellQueue(name, nowMs).told }
      return this.#fitsFirst(name, nowMs) ? { ...verdict, told: lastTold(ahead) } : verdict
    }
    for (const other of lapsed) {
      const term = this.#terms.get(other)
      if (term === undefined) this.#counted.remove(name, other)
      else this.#end(other, term, nowMs)
    }
    this.#counted.add(name, lease, { nowMs, durationMs: op.durationMs })
    const grant = this.#open(lease, op, nowMs)
    if (place !== undefined && place > 0) this.#serve(name, place, op.durationMs, () => !this.#fitsFirst(name, nowMs))
    return { ...grant, told: this.#tellQueue(name, nowMs).told }
  }

  #define(op: DefineOp, stamp: Stamp, nowMs: number): Verdict {
    const { lease, from } = op
    if (
      !this.#counted.isDone(op) &&
      (this.#isOfEarlierEpoch(stamp) ||
        (from === undefined && isSince(stamp.sentMs, this.#counted.endedMs(lease), nowMs)))
    ) {
      return late
    }
    const isDone = this.#counted.define(op, nowMs)
    if (isDone === undefined) return late
    const counted = this.#countedNow(lease, nowMs)
    if (!isDone) return { ...refused(undefined), counted }
    // Those who cannot get a share any more are to find that out, and block nobody if they do not.
    const queue = this.#queueOf(lease) ?? []
    const isInVain = ({ weight }: Waiting): boolean => weight > (op.capacity ?? 0)
    for (const { place, client } of queue.filter(isInVain)) {
      this.#tellClient(client, { kind: 'vacated', lease, to: { place, ahead: 0 } })
    }
    this.#keep(
      lease,
      queue.filter((waiting) => !isInVain(waiting)),
    )
    return { ...granted(undefined), counted, told: this.#tellQueue(lease, nowMs).told }
  }

  /** Who waits, in the order of the tickets. */
  waiting(name: string): readonly { readonly place: number; readonly weight: number }[] {
    return this.#queueOf(name) ?? []
  }

  /** The counted lease with its shares; for a refusal by a store with a clock only the one that lapses first. */
  counted(name: string): Counted {
    return this.#countedNow(name, this.time())
  }

  #countedNow(name: string, nowMs: number, { forRefusal = false } = {}): Counted {
    const { capacity, generation } = this.#counted.definition(name) ?? {}
    const standing: (readonly [share: string, Holding])[] = []
    for (const share of this.#counted.shares(name)) {
      const term = this.#standing(share, nowMs)
      if (term !== undefined) standing.push([share, this.#holding(share, term, nowMs)])
    }
    const isShort = forRefusal && this.#now !== undefined
    if (isShort) standing.sort(([, one], [, other]) => untilLapseMs(one) - untilLapseMs(other))
    return { capacity, generation, shares: new Map(isShort ? standing.slice(0, 1) : standing) }
  }

  /** The weight of all shares that stand but for these. */
  #weightOf(name: string, nowMs: number, without: readonly string[] = []): number {
    let sum = 0
    for (const share of this.#counted.shares(name)) {
      if (!without.includes(share)) sum += this.#standing(share, nowMs)?.weight ?? 0
    }
    return sum
  }

  /** Whether there is room for the first in the queue; of a lease that is not counted, there is. */
  #fitsFirst(name: string, nowMs: number): boolean {
    if (countedOf(name) === undefined) return true
    const [first] = this.#queueOf(name) ?? []
    const { capacity } = this.#counted.definition(name) ?? {}
    return first !== undefined && capacity !== undefined && this.#weightOf(name, nowMs) + first.weight <= capacity
  }

  // ── whom to notify ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Those who watch the lease, and those who watch all. */
  #tellOf(change: Extract<LeaseChange, { readonly kind: 'changed' | 'vacated' }>): void {
    this.#tellAll(change)
    for (const client of this.#watchersOf(change.lease)) this.#tellClient(client, change)
  }

  /** The first in the queue of a lease that is vacant now, or of a counted lease if there is room for the first of them. */
  #tellQueue(lease: string, nowMs: number): Verdict {
    if (!this.#fitsFirst(lease, nowMs)) return granted(undefined)
    const first = this.#queueOf(lease)?.slice(0, TOLD) ?? []
    for (const [ahead, { place, client }] of first.entries()) {
      this.#tellClient(client, { kind: 'vacated', lease, to: { place, ahead } satisfies Place })
    }
    return { ...granted(undefined), told: first.at(-1)?.place }
  }

  #tellClient(client: string, change: LeaseChange): void {
    for (const watcher of this.#listeners.get(client) ?? []) watcher.tell(change)
  }

  #tellAll(change: LeaseChange): void {
    for (const watcher of this.#watchers) watcher.tell(change)
  }

  #watchersOf(lease: string): string[] {
    const clients = this.#watched.get(lease)
    if (clients === undefined) return []
    for (const [client, untilMs] of clients) if (untilMs < this.#sequence.nowMs()) clients.delete(client)
    if (clients.size === 0) this.#watched.delete(lease)
    return [...clients.keys()]
  }
}

interface Asked {
  readonly durationMs: number
  readonly value: string | undefined
  readonly announce?: boolean | undefined
}

/** Hands the changes to one listener, in order, after the operation that made them. */
class Watcher {
  readonly #listener: (change: LeaseChange) => void
  #queue: LeaseChange[] = []
  #stopped = false

  constructor(listener: (change: LeaseChange) => void) {
    this.#listener = listener
  }

  tell(change: LeaseChange): void {
    if (this.#queue.push(change) === 1) queueMicrotask(() => this.#deliver())
  }

  stop(): void {
    this.#stopped = true
  }

  #deliver(): void {
    const changes = this.#queue
    this.#queue = []
    for (const change of changes) {
      if (this.#stopped) return
      callListener(() => this.#listener(change))
    }
  }
}

/** A pinned one does not lapse. */
function untilLapseMs({ remainingMs, pinned }: Holding): number {
  return pinned ? Number.POSITIVE_INFINITY : remainingMs
}

/** Whether that happened after the request was sent. */
function isSince(sentMs: number | undefined, happenedMs: number | undefined, nowMs: number): boolean {
  if (sentMs === undefined || happenedMs === undefined) return false
  return sentMs < happenedMs && happenedMs <= nowMs + SET_BACK_MS && nowMs - happenedMs <= LONGEST_DEADLINE_MS
}

/** Whether this is a `MemoryStore` of this or another copy of this package. */
export function isMemoryStore(store: unknown): store is MemoryStore {
  return typeof store === 'object' && store !== null && MEMORY_STORE in store
}
