/**
 * A second, naive implementation of the store, made to be broken: every decision is a method of its own that a test
 * overrides with one defect. Unbroken, it keeps the whole contract, with a clock and without, which also shows that the
 * kit does not merely describe the memory substrate. It forgets nothing.
 */
import type { LeaseChange } from '#src/client.ts'
import type { Clock } from '#src/clock.ts'
import { ErrNotHeld, ErrTrapdoor } from '#src/errors.ts'
import type { Trapdoor } from '#src/lease.ts'
import { countedOf } from '#src/share.ts'
import {
  CLIENT_LENGTH,
  granted,
  late,
  refused,
  type Call,
  type ClaimOp,
  type Counted,
  type DefineOp,
  type ExpireOp,
  type ExtendOp,
  type Holding,
  type LeaveOp,
  type Op,
  type PassOverOp,
  type PinOp,
  type Pins,
  type ReleaseOp,
  type ShareOp,
  type Substrate,
  type UnpinOp,
  type Verdict,
} from '#src/substrate.ts'
import { INTEREST_MS, TOLD } from '#src/ticket.ts'

export interface Term {
  readonly lease: string
  holder: string
  nonce: string
  fencingToken: bigint
  openedMs: number
  /** When the value was set. */
  valuedMs: number
  expiryMs: number
  /** The longest granted in this term. */
  durationMs: number
  /** Another one after each claim and extension. */
  version: number
  value: string | undefined
  /** Of a share. */
  readonly weight: number | undefined
}

/** What makes a name a counted lease. */
export interface Definition {
  readonly capacity: number
  readonly generation: string
}

/** One who waits, in the queue of a lease. */
export interface Waiting {
  readonly place: number
  readonly client: string
  /** Of the share that it waits for. */
  readonly weight: number
  readonly untilMs: number
}

/** When a request was sent, and by whom. */
export type Stamp = Pick<Call, 'client' | 'epoch' | 'sentMs' | 'notAfterMs'>

export interface BreakableStoreOptions {
  readonly clock: Clock
  /** false: it decides as a store without a clock has to. */
  readonly serverClock: boolean
  /** Where guarded writes go. */
  readonly written: string[]
}

/** The trapdoor key of this store: what is to be written. */
export class WriteKey {
  readonly text: string
  readonly inTransaction: boolean
  constructor(text: string, { inTransaction = true }: { readonly inTransaction?: boolean } = {}) {
    this.text = text
    this.inTransaction = inTransaction
  }
}

/** One namespace. */
export class BreakableStore {
  readonly clock: Clock
  readonly serverClock: boolean
  terms: Map<string, Term> = new Map()
  tokens: Map<string, bigint> = new Map()
  /** Of each lease that is pinned: the entities, and the generations of their pins. */
  readonly pins = new Map<string, Map<string, string>>()
  /** Of each lease the claim that opened the latest term, over or not. */
  readonly opened = new Map<string, { readonly nonce: string; readonly atMs: number }>()
  /** Of each lease when a pin was last withdrawn, and all generations that were. */
  readonly unpinned = new Map<string, { atMs: number; readonly generations: Set<string> }>()
  /** When each pin was set, by generation. */
  readonly pinned = new Map<string, number>()
  /** Of each client the highest epoch seen. */
  readonly epochs = new Map<string, number>()
  versions = 0
  /** Of each lease: who has waited for it last, in the order of the tickets. */
  readonly queues = new Map<string, readonly Waiting[]>()
  /** Of each lease: until when it is watched, by the client. */
  readonly watched = new Map<string, Map<string, number>>()
  places = 0
  /** Of each counted lease. */
  definitions: Map<string, Definition> = new Map()
  /** The generations of definitions that are over, and when a counted lease was last undefined, and by which. */
  readonly generations: Set<string> = new Set()
  readonly undefinedAt = new Map<string, { readonly generation: string; readonly atMs: number }>()
  readonly written: string[]
  /** Those who hear of everything. */
  readonly watchers = new Set<(change: LeaseChange) => void>()
  /** By the client: those who hear of what it has asked for. */
  readonly listeners = new Map<string, Set<(change: LeaseChange) => void>>()

  constructor({ clock, serverClock, written }: BreakableStoreOptions) {
    this.clock = clock
    this.serverClock = serverClock
    this.written = written
  }

  // ── decisions ───────────────────────────────────────────────────────────────────────────────────────────────────

  nowMs(): number {
    return this.clock.monotonic()
  }

  /** Without a clock nothing lapses here: the clients observe it. */
  hasLapsed(term: Term): boolean {
    return this.serverClock && this.nowMs() > term.expiryMs
  }

  isPast({ notAfterMs }: Stamp): boolean {
    return this.serverClock && notAfterMs !== undefined && this.nowMs() > notAfterMs
  }

  isOfEarlierEpoch({ client, epoch }: Stamp): boolean {
    return !this.serverClock && epoch < (this.epochs.get(client) ?? 0)
  }

  /** The claim must not open a term, though the lease is vacant. */
  isStaleClaim(op: ClaimOp, stamp: Stamp): boolean {
    const opened = this.opened.get(op.lease)
    return opened?.nonce === op.nonce || this.wasSentBefore(stamp, opened?.atMs) || this.isOfEarlierEpoch(stamp)
  }

  isStalePin(op: PinOp, stamp: Stamp): boolean {
    const unpinned = this.unpinned.get(op.lease)
    return (
      unpinned?.generations.has(op.generation) === true ||
      this.wasSentBefore(stamp, unpinned?.atMs) ||
      this.wasSentBefore(stamp, this.otherPinMs(op)) ||
      this.isOfEarlierEpoch(stamp)
    )
  }

  /** When the pin was set that this one would replace. */
  otherPinMs({ lease, entity, generation }: PinOp): number | undefined {
    const there = this.pins.get(lease)?.get(entity)
    return there === undefined || there === generation ? undefined : this.pinned.get(there)
  }

  /** The extension must not change the value. */
  isStaleValue(term: Term, op: ExtendOp, stamp: Stamp): boolean {
    if (op.value === undefined || op.value === term.value) return false
    return this.wasSentBefore(stamp, term.valuedMs) || this.isOfEarlierEpoch(stamp)
  }

  wasSentBefore({ sentMs }: Stamp, atMs: number | undefined): boolean {
    return this.serverClock && sentMs !== undefined && atMs !== undefined && sentMs < atMs
  }

  isPinned(lease: string): boolean {
    return this.pins.has(lease)
  }

  isReplay(term: Term, op: ClaimOp): boolean {
    return term.holder === op.holder && term.nonce === op.nonce
  }

  /** Whether this is what the caller has observed to be lapsed. */
  isObserved(term: Term, lapsed: string | undefined): boolean {
    return !this.serverClock && String(term.version) === lapsed
  }

  mayClaim(term: Term, op: ClaimOp): boolean {
    return (this.hasLapsed(term) || this.isObserved(term, op.lapsed)) && !this.isPinned(term.lease)
  }

  mayExpire(term: Term, op: ExpireOp): boolean {
    return (this.hasLapsed(term) || this.isObserved(term, op.lapsed)) && !this.isPinned(term.lease)
  }

  mayExtend(term: Term | undefined, op: ExtendOp): boolean {
    return term !== undefined && this.stands(term) && isOf(term, op)
  }

  mayAdopt(term: Term, { from, nonce }: Adoption): boolean {
    return term.nonce === from || term.nonce === nonce
  }

  adopt(term: Term, { nonce }: Adoption): void {
    term.nonce = nonce
  }

  mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
    return term === undefined || !this.stands(term) || isOf(term, op)
  }

  /** The lease whose fencing tokens rise together. */
  tokensOf(lease: string): string {
    return queueNameOf(lease)
  }

  newToken(lease: string): bigint {
    const name = this.tokensOf(lease)
    const token = (this.tokens.get(name) ?? 0n) + 1n
    this.tokens.set(name, token)
    return token
  }

  newExpiryMs(durationMs: number): number {
    return this.nowMs() + durationMs
  }

  newTerm(op: ClaimOp, _before: Term | undefined): Term {
    const { lease, holder, nonce, value, durationMs, share } = op
    return {
      lease,
      holder,
      nonce,
      value,
      durationMs,
      fencingToken: this.newToken(lease),
      openedMs: this.nowMs(),
      valuedMs: this.nowMs(),
      expiryMs: this.newExpiryMs(durationMs),
      version: ++this.versions,
      weight: share?.weight,
    }
  }

  prolong(term: Term, { durationMs }: { readonly durationMs: number }): void {
    term.expiryMs = Math.max(term.expiryMs, this.newExpiryMs(durationMs))
    term.durationMs = Math.max(term.durationMs, durationMs)
    term.version = ++this.versions
  }

  setValue(term: Term, op: ExtendOp): void {
    if (op.value === undefined) return
    term.value = op.value
    term.valuedMs = this.nowMs()
  }

  vacate(lease: string, { client }: Stamp): Verdict {
    const term = this.terms.get(lease)
    if (!this.terms.delete(lease) || term === undefined) return granted(undefined)
    this.tellOf({ kind: 'vacated', lease })
    if (this.isToldOfItsEnd(term, client)) this.tellClient(makerOf(term.nonce), { kind: 'vacated', lease })
    return this.tellOfRoom(lease)
  }

  opens(lease: string, holder: string, fencingToken: bigint): boolean {
    const term = this.terms.get(lease)
    return term?.holder === holder && term.fencingToken === fencingToken && this.stands(term)
  }

  pin(lease: string, entity: string, generation: string): void {
    const entities = this.pins.get(lease) ?? new Map<string, string>()
    this.pins.set(lease, entities.set(entity, generation))
    this.pinned.set(generation, this.nowMs())
  }

  mayUnpin(generation: string | undefined, op: UnpinOp): boolean {
    return generation === op.generation
  }

  unpin(lease: string, entity: string): void {
    const entities = this.pins.get(lease)
    if (entities?.delete(entity) === true && entities.size === 0) this.pins.delete(lease)
  }

  listPins(leases: readonly string[] | undefined): Map<string, Pins> {
    const pinned = [...this.pins].filter(([lease]) => leases === undefined || leases.includes(lease))
    return new Map(pinned.map(([lease, entities]) => [lease, new Map(entities)]))
  }

  /** A pin that is withdrawn, or was not there. */
  rememberUnpin({ lease, generation }: UnpinOp): void {
    const unpinned = this.unpinned.get(lease) ?? { atMs: 0, generations: new Set() }
    unpinned.atMs = this.nowMs()
    unpinned.generations.add(generation)
    this.unpinned.set(lease, unpinned)
  }

  // ── waiters, and whom to notify ────────────────────────────────────────────────────────────────────────────────────

  newPlace(_lease: string): number {
    return ++this.places
  }

  placeOf({ place = 0, lease }: ClaimOp): number {
    return place === 0 ? this.newPlace(lease) : place
  }

  aheadOf(queue: readonly Waiting[], own: number): number {
    return queue.filter(({ place }) => place < own).length
  }

  /** Until when an interest stands that is asked for now. */
  untilMs(): number {
    return this.nowMs() + INTEREST_MS
  }

  isLive(untilMs: number): boolean {
    return untilMs >= this.nowMs()
  }

  waiting(lease: string): number {
    return this.queueOf(lease).length
  }

  /** Those who wait for the lease now. */
  queueOf(lease: string): readonly Waiting[] {
    return (this.queues.get(lease) ?? []).filter(({ untilMs }) => this.isLive(untilMs))
  }

  /** @param isHeld whether it is more than the queue that keeps the claimer from the lease */
  isFull(queue: readonly Waiting[], { place, maxWaiters }: ClaimOp, isHeld: boolean): boolean {
    return isHeld && place === 0 && maxWaiters !== undefined && queue.length >= maxWaiters
  }

  /** Whether one without a ticket has to stand behind those who have one. */
  isBarred(lease: string): boolean {
    return this.queueOf(lease).length > 0
  }

  /** Those who are left when one of them was granted the lease. */
  afterGrant(queue: readonly Waiting[], place: number): readonly Waiting[] {
    const told = this.toldOf(queue)
    return queue.filter((waiting) => waiting.place > place || (waiting.place < place && !told.includes(waiting)))
  }

  serve(lease: string, place: number, durationMs: number): void {
    const taken = { kind: 'taken', lease, place, durationMs } as const
    this.tellAll(taken)
    const left = this.afterGrant(this.queueOf(lease), place)
    this.queues.set(lease, left)
    const [next] = left
    if (next === undefined || this.hasRoomForNext(lease, next)) return
    this.tellClient(next.client, { ...taken, to: { place: next.place, ahead: 0 } })
  }

  /** The clients to notify of a vacancy. */
  toldOf(queue: readonly Waiting[]): readonly Waiting[] {
    return queue.slice(0, TOLD)
  }

  tellQueue(lease: string): Verdict {
    if (!this.fitsFirst(lease)) return granted(undefined)
    const told = this.toldOf(this.queueOf(lease))
    for (const [ahead, { place, client }] of told.entries()) {
      this.tellClient(client, { kind: 'vacated', lease, to: { place, ahead } })
    }
    return { ...granted(undefined), told: told.at(-1)?.place }
  }

  mayLeave(waiting: Waiting, client: string): boolean {
    return waiting.client === client
  }

  /** Whether those behind are notified anew when the one at this index leaves a vacant lease. */
  isMissed(index: number): boolean {
    return index < TOLD
  }

  leave({ lease, place }: LeaveOp, { client }: Stamp): Verdict {
    const queue = this.queueOf(lease)
    const index = queue.findIndex((waiting) => waiting.place === place && this.mayLeave(waiting, client))
    if (index < 0) return granted(undefined)
    this.queues.set(lease, queue.toSpliced(index, 1))
    return this.isMissed(index) && this.isVacant(lease) ? this.tellQueue(lease) : granted(undefined)
  }

  stopWatching({ lease }: LeaveOp, { client }: Stamp): void {
    this.watched.get(lease)?.delete(client)
  }

  mayPassOver({ lease }: PassOverOp): boolean {
    return this.isVacant(lease) && this.fitsFirst(lease)
  }

  passOver(op: PassOverOp): Verdict {
    if (!this.mayPassOver(op)) return granted(undefined)
    const { lease, place } = op
    const left = this.queueOf(lease).filter((waiting) => waiting.place > place)
    this.queues.set(lease, left)
    return this.tellQueue(lease)
  }

  watchLease(lease: string, client: string): void {
    this.watched.set(lease, (this.watched.get(lease) ?? new Map<string, number>()).set(client, this.untilMs()))
  }

  watchersOf(lease: string): readonly string[] {
    return [...(this.watched.get(lease) ?? [])].filter(([, untilMs]) => this.isLive(untilMs)).map(([client]) => client)
  }

  /** Whether the client that made the nonce of the term hears that another has ended it. */
  isToldOfItsEnd({ nonce }: Term, client: string): boolean {
    return makerOf(nonce) !== client
  }

  /** Those who watch the lease, and those who hear of everything. */
  tellOf(change: Extract<LeaseChange, { readonly kind: 'changed' | 'vacated' }>): void {
    this.tellAll(change)
    for (const client of this.watchersOf(change.lease)) this.tellClient(client, change)
  }

  tellAll(change: LeaseChange): void {
    this.hand(this.watchers, change)
  }

  tellClient(client: string, change: LeaseChange): void {
    this.hand(this.listeners.get(client) ?? [], change)
  }

  hand(listeners: Iterable<(change: LeaseChange) => void>, change: LeaseChange): void {
    const now = [...listeners]
    if (now.length > 0) queueMicrotask(() => now.forEach((listener) => listener(change)))
  }

  /** @param client undefined: it hears of everything */
  watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    const own = (change: LeaseChange): void => listener(change)
    const listeners = client === undefined ? this.watchers : (this.listeners.get(client) ?? new Set())
    if (client !== undefined) this.listeners.set(client, listeners)
    listeners.add(own)
    return () => void listeners.delete(own)
  }

  refuse(term: Term | undefined): Verdict {
    return refused(this.holding(term))
  }

  /** What a restart does. */
  restart(): void {}

  // ── counted leases ────────────────────────────────────────────────────────────────────────────────────────────────

  claimShare(op: ClaimOp, share: ShareOp, stamp: Stamp): Verdict {
    const name = queueNameOf(op.lease)
    if (!this.definitions.has(name) && share.capacity !== undefined) {
      if (this.isStaleDefinition(name, stamp)) return late
      this.defineByUse(name, share.capacity, op.nonce)
    }
    const definition = this.definitions.get(name)
    if (definition === undefined || !this.mayAsk(definition, share)) return this.refuseShare(op)
    const room = definition.capacity - this.weightOf(this.standingBeside(op, share))
    if (!this.fits(share.weight, room)) return this.queued(op, this.refuseShare(op), stamp, true)
    if (!this.isNext(op, share, room)) {
      const refusal = this.queued(op, this.refuseShare(op), stamp, false)
      return { ...refusal, told: this.tellMissing(op).told }
    }
    this.endOthers(op, share)
    const grant = this.open(op, this.terms.get(op.lease))
    return { ...grant, told: this.tellAfterGrant(name).told }
  }

  /** Whether a claim with this weight, and this capacity if it names one, may be granted at all. */
  mayAsk({ capacity }: Definition, share: ShareOp): boolean {
    return share.weight <= capacity && this.isCapacity(capacity, share)
  }

  isCapacity(defined: number, { capacity = defined }: ShareOp): boolean {
    return capacity === defined
  }

  defineByUse(name: string, capacity: number, nonce: string): void {
    this.definitions.set(name, { capacity, generation: nonce })
  }

  sharesOf(name: string): readonly Term[] {
    return [...this.terms.values()].filter(({ lease }) => countedOf(lease) === name)
  }

  /** The shares that count against this claim. */
  standingBeside({ lease }: ClaimOp, { lapsed }: ShareOp): readonly Term[] {
    const others = this.sharesOf(queueNameOf(lease)).filter((term) => term.lease !== lease)
    return others.filter((term) => this.counts(term, lapsed.get(term.lease)))
  }

  /** @param lapsed the version that the claimer has seen lapse */
  counts(term: Term, lapsed: string | undefined): boolean {
    return this.stands(term) && (!this.isObserved(term, lapsed) || this.isPinned(term.lease))
  }

  weightOf(shares: readonly Term[]): number {
    return shares.reduce((sum, { weight = 0 }) => sum + weight, 0)
  }

  fits(weight: number, room: number): boolean {
    return weight <= room
  }

  /** Those who are ahead of this claim. */
  aheadOfClaim({ lease, place = 0 }: ClaimOp): readonly Waiting[] {
    return this.queueOf(queueNameOf(lease)).filter((waiting) => place === 0 || waiting.place < place)
  }

  isNext(op: ClaimOp, share: ShareOp, room: number): boolean {
    const ahead = this.aheadOfClaim(op)
    return ahead.length <= this.passingOf(share) && ahead.every(({ weight }) => this.mayPass(weight, room))
  }

  passingOf({ passing }: ShareOp): number {
    return passing
  }

  /** Whether one with this weight may be passed. */
  mayPass(weight: number, room: number): boolean {
    return weight <= room
  }

  /** The shares that have lapsed end with the grant: nobody may extend one any more. */
  endOthers({ lease }: ClaimOp, { lapsed }: ShareOp): void {
    for (const term of this.sharesOf(queueNameOf(lease))) {
      if (term.lease !== lease && !this.counts(term, lapsed.get(term.lease))) this.terms.delete(term.lease)
    }
  }

  /** Of the counted lease. */
  refuseShare({ lease }: ClaimOp): Verdict {
    return { ...refused(undefined), counted: this.counted(queueNameOf(lease)) }
  }

  /** Its holder has the share already: it has nothing to wait for. */
  refuseSecond(term: Term, _op: ClaimOp, _stamp: Stamp): Verdict {
    return this.refuse(term)
  }

  /** With what one weighs that waits. */
  weightInQueue({ share }: ClaimOp, _queue: readonly Waiting[]): number {
    return share?.weight ?? 1
  }

  /** Whether there is room for the first in the queue; of a lease that is not counted there is. */
  fitsFirst(name: string): boolean {
    if (countedOf(name) === undefined) return true
    const [first] = this.queueOf(name)
    return first !== undefined && this.hasRoomForNext(name, first)
  }

  hasRoomForNext(name: string, { weight }: Waiting): boolean {
    const definition = this.definitions.get(name)
    if (definition === undefined) return false
    return this.fits(
      weight,
      definition.capacity - this.weightOf(this.sharesOf(name).filter((term) => this.stands(term))),
    )
  }

  /** A lease is vacant, or a share is over. */
  tellOfRoom(lease: string): Verdict {
    return this.tellQueue(queueNameOf(lease))
  }

  /** Those ahead of a claim have not come. */
  tellMissing(op: ClaimOp): Verdict {
    const name = queueNameOf(op.lease)
    if (op.place !== 0) return this.tellQueue(name)
    return this.fitsFirst(name) ? this.nameMissing(op) : granted(undefined)
  }

  /** Says who was reported before one that comes to wait. */
  nameMissing({ lease }: ClaimOp): Verdict {
    const ahead = this.toldOf(this.queueOf(queueNameOf(lease)).slice(0, -1))
    return { ...granted(undefined), told: ahead.at(-1)?.place }
  }

  /** A grant may have left room. */
  tellAfterGrant(name: string): Verdict {
    return this.tellQueue(name)
  }

  /** The definition must not be made although the counted lease is not defined. */
  isStaleDefinition(name: string, stamp: Stamp): boolean {
    return this.wasSentBefore(stamp, this.undefinedAt.get(name)?.atMs) || this.isOfEarlierEpoch(stamp)
  }

  /** A copy of a definition that is over. */
  isStaleCopy({ generation }: DefineOp): boolean {
    return this.generations.has(generation)
  }

  isDefined({ lease, generation, capacity }: DefineOp): boolean {
    const definition = this.definitions.get(lease)
    if (definition !== undefined) return definition.generation === generation
    return capacity === undefined && this.undefinedAt.get(lease)?.generation === generation
  }

  mayDefine({ from }: DefineOp, definition: Definition | undefined): boolean {
    return definition?.generation === from
  }

  define(op: DefineOp, stamp: Stamp): Verdict {
    const { lease, generation, capacity, from } = op
    const before = this.definitions.get(lease)
    if (this.isDefined(op)) return { ...granted(undefined), counted: this.counted(lease) }
    if (this.isStaleCopy(op)) return late
    if (from === undefined ? this.isStaleDefinition(lease, stamp) : this.isOfEarlierEpoch(stamp)) return late
    if (!this.mayDefine(op, before)) return { ...refused(undefined), counted: this.counted(lease) }
    if (before !== undefined) this.generations.add(before.generation)
    if (capacity === undefined) this.undefine(op)
    else this.definitions.set(lease, { capacity, generation })
    const told = capacity === undefined ? this.tellAllWaiting(lease) : this.tellOfCapacity(lease, capacity)
    return { ...granted(undefined), counted: this.counted(lease), told: told.told }
  }

  undefine({ lease, generation }: DefineOp): void {
    this.definitions.delete(lease)
    this.generations.add(generation)
    this.undefinedAt.set(lease, { generation, atMs: this.nowMs() })
  }

  /** There is nothing any more to wait for. */
  tellAllWaiting(name: string): Verdict {
    for (const waiting of this.queueOf(name)) this.tellInVain(name, waiting)
    this.keepOnly(name, 0)
    return granted(undefined)
  }

  tellOfCapacity(name: string, capacity: number): Verdict {
    for (const waiting of this.queueOf(name)) if (waiting.weight > capacity) this.tellInVain(name, waiting)
    this.keepOnly(name, capacity)
    return this.tellQueue(name)
  }

  /** Those who wait for more leave the queue. */
  keepOnly(name: string, capacity: number): void {
    this.queues.set(
      name,
      this.queueOf(name).filter(({ weight }) => weight <= capacity),
    )
  }

  tellInVain(name: string, { place, client }: Waiting): void {
    this.tellClient(client, { kind: 'vacated', lease: name, to: { place, ahead: 0 } })
  }

  counted(name: string): Counted {
    const { capacity, generation } = this.definitions.get(name) ?? {}
    const shares = new Map<string, Holding>()
    for (const term of this.sharesOf(name)) {
      const holding = this.holding(term)
      if (holding !== undefined) shares.set(term.lease, holding)
    }
    return { capacity, generation, shares }
  }

  // ── the port ────────────────────────────────────────────────────────────────────────────────────────────────────

  stands(term: Term): boolean {
    return !this.hasLapsed(term) || this.isPinned(term.lease)
  }

  isVacant(lease: string): boolean {
    const term = this.terms.get(lease)
    return term === undefined || !this.stands(term)
  }

  holding(term: Term | undefined): Holding | undefined {
    if (term === undefined || !this.stands(term)) return undefined
    return {
      holder: term.holder,
      fencingToken: term.fencingToken,
      nonce: term.nonce,
      remainingMs: this.serverClock ? this.remainingMs(term) : term.durationMs,
      value: term.value,
      pinned: this.isPinned(term.lease),
      version: this.serverClock ? undefined : String(term.version),
      weight: term.weight,
    }
  }

  remainingMs(term: Term): number {
    return term.expiryMs - this.nowMs() || Number.MIN_VALUE
  }

  async applyAll(ops: readonly Op[], stamp: Stamp): Promise<readonly Verdict[]> {
    return Promise.all(ops.map((op) => this.apply(op, stamp)))
  }

  async apply(op: Op, stamp: Stamp): Promise<Verdict> {
    if (this.isPast(stamp)) return late
    this.see(stamp)
    const term = this.terms.get(op.lease)
    if (op.kind === 'claim') return this.claim(op, term, stamp)
    if (op.kind === 'extend') return this.extend(op, term, stamp)
    if (op.kind === 'release') {
      return this.mayRelease(term, op) ? this.vacate(op.lease, stamp) : this.refuse(term)
    }
    if (op.kind === 'expire') {
      return term === undefined || this.mayExpire(term, op) ? this.expire(op.lease, stamp) : this.refuse(term)
    }
    if (op.kind === 'leave') {
      if (op.place !== undefined) return this.leave(op, stamp)
      this.stopWatching(op, stamp)
      return granted(undefined)
    }
    if (op.kind === 'passOver') return this.passOver(op)
    if (op.kind === 'define') return this.define(op, stamp)
    if (op.kind === 'pin') {
      if (this.isStalePin(op, stamp)) return late
      if (term !== undefined && !this.stands(term)) this.vacateForPin(term, stamp)
      this.pin(op.lease, op.entity, op.generation)
    } else {
      this.rememberUnpin(op)
      if (this.mayUnpin(this.pins.get(op.lease)?.get(op.entity), op)) this.unpin(op.lease, op.entity)
      const isFree = term !== undefined && this.isObserved(term, op.lapsed) && !this.isPinned(op.lease)
      if (term !== undefined && (isFree || !this.stands(term))) return this.vacateAfterUnpin(op.lease, stamp)
    }
    return granted(this.holding(this.terms.get(op.lease)))
  }

  see({ client, epoch }: Stamp): void {
    this.epochs.set(client, Math.max(epoch, this.epochs.get(client) ?? 0))
  }

  /** A pin must not make a lapsed term stand again. */
  vacateForPin({ lease }: Term, stamp: Stamp): void {
    this.vacate(lease, stamp)
  }

  /** The last pin was all that kept the term standing. */
  vacateAfterUnpin(lease: string, stamp: Stamp): Verdict {
    return this.vacate(lease, stamp)
  }

  expire(lease: string, stamp: Stamp): Verdict {
    return this.vacate(lease, stamp)
  }

  claim(op: ClaimOp, term: Term | undefined, stamp: Stamp): Verdict {
    if (term !== undefined && this.isReplay(term, op) && this.stands(term)) {
      this.replay(term, op)
      return granted(this.holding(term))
    }
    if (term !== undefined && !this.mayClaim(term, op)) {
      return op.share === undefined ? this.queued(op, this.refuse(term), stamp) : this.refuseSecond(term, op, stamp)
    }
    if (this.isStaleClaim(op, stamp)) return this.refuseStale(op)
    if (op.share !== undefined) return this.claimShare(op, op.share, stamp)
    if (op.place === 0 && this.isBarred(op.lease)) return this.queued(op, refused(undefined), stamp)
    return this.open(op, term)
  }

  open(op: ClaimOp, term: Term | undefined): Verdict {
    const fresh = this.newTerm(op, term)
    this.terms.set(op.lease, fresh)
    this.opened.set(op.lease, { nonce: op.nonce, atMs: fresh.openedMs })
    if (op.announce === true) this.tellOf({ kind: 'changed', lease: op.lease })
    if (op.place !== undefined && op.place > 0) this.serve(queueNameOf(op.lease), op.place, op.durationMs)
    return granted(this.holding(fresh))
  }

  refuseStale(_op: ClaimOp): Verdict {
    return late
  }

  /** The refusal, with the ticket of one who waits. */
  queued(op: ClaimOp, refusal: Verdict, { client }: Stamp, isHeld: boolean = refusal.holding !== undefined): Verdict {
    if (op.place === undefined) return refusal
    const name = queueNameOf(op.lease)
    const queue = this.queueOf(name)
    if (this.isFull(queue, op, isHeld)) return { ...refusal, isFull: true }
    const place = this.placeOf(op)
    const others = queue.filter((waiting) => waiting.place !== place)
    const weight = this.weightInQueue(op, queue)
    const all = [...others, { place, client, weight, untilMs: this.untilMs() }]
    this.queues.set(
      name,
      all.toSorted((one, other) => one.place - other.place),
    )
    return { ...refusal, ticket: { place, ahead: this.aheadOf(all, place) } }
  }

  replay(term: Term, op: ClaimOp): void {
    this.prolong(term, op)
  }

  extend(op: ExtendOp, term: Term | undefined, stamp: Stamp): Verdict {
    if (!this.mayExtend(term, op)) return this.refuse(term)
    if (term === undefined) return granted(undefined)
    if (this.isStaleValue(term, op, stamp)) return late
    if (op.adoption !== undefined) {
      if (!this.mayAdopt(term, op.adoption)) return this.refuse(term)
      this.adopt(term, op.adoption)
    }
    this.prolong(term, op)
    const { value } = term
    this.setValue(term, op)
    if (op.announce === true && term.value !== value) this.tellOf({ kind: 'changed', lease: op.lease })
    return granted(this.holding(term))
  }

  /** The client watches some of the leases from the state on that is answered. */
  async readAndWatch(
    leases: readonly string[] | undefined,
    watched: readonly string[],
    client: string,
  ): Promise<ReadonlyMap<string, Holding>> {
    for (const lease of watched) this.watchLease(lease, client)
    return this.read(leases)
  }

  read(leases: readonly string[] | undefined): Map<string, Holding> {
    const holdings = new Map<string, Holding>()
    for (const lease of leases ?? this.terms.keys()) {
      const holding = this.holding(this.terms.get(lease))
      if (holding !== undefined) holdings.set(lease, holding)
    }
    return holdings
  }

  mayGuard(key: WriteKey): boolean {
    return key.inTransaction
  }

  async spring(lease: string, holder: string, fencingToken: bigint, key: unknown): Promise<void> {
    if (key === undefined) return
    if (!(key instanceof WriteKey)) throw new ErrTrapdoor('not a WriteKey', { lease, holder })
    if (!this.mayGuard(key)) throw new ErrTrapdoor('no transaction is open', { lease, holder })
    if (!this.opens(lease, holder, fencingToken)) throw new ErrNotHeld('not held', { lease, holder })
    this.written.push(key.text)
  }
}

/** One client's way to it. */
export class BreakableSubstrate implements Substrate {
  readonly limits: Substrate['limits'] = { maxOps: 100, maxInFlight: 3 }
  /** Absent where the store has no clock. */
  declare readonly time?: (call: Call) => Promise<number>
  readonly #store: BreakableStore

  constructor(store: BreakableStore) {
    this.#store = store
    if (store.serverClock) this.time = async (call) => this.#told(call)
  }

  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    this.#told(call)
    return this.#store.applyAll(ops, call)
  }

  read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    this.#told(call)
    return this.#store.readAndWatch(leases, watched, call.client)
  }

  async counted(lease: string, call: Call): Promise<Counted> {
    this.#told(call)
    return this.#store.counted(lease)
  }

  async waiting(lease: string, call: Call): Promise<number> {
    this.#told(call)
    return this.#store.waiting(lease)
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    this.#told(call)
    return this.#store.listPins(leases)
  }

  watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    return this.#store.watch(listener, client)
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return (key) => this.#store.spring(lease, holder, fencingToken, key)
  }

  async close(): Promise<void> {}

  /** The store's clock. */
  #told(call: Call): number {
    const nowMs = this.#store.nowMs()
    if (this.#store.serverClock) call.answered?.(nowMs)
    return nowMs
  }
}

/** Where those wait who want this lease: of a share it is the counted lease. */
function queueNameOf(lease: string): string {
  return countedOf(lease) ?? lease
}

/** The client that made it. */
function makerOf(nonce: string): string {
  return nonce.slice(0, CLIENT_LENGTH)
}

type Adoption = NonNullable<ExtendOp['adoption']>

function isOf(term: Term, op: ExtendOp | ReleaseOp): boolean {
  if (term.holder !== op.holder) return false
  if (op.fencingToken !== undefined && term.fencingToken !== op.fencingToken) return false
  return op.kind === 'extend' || op.nonce === undefined || term.nonce === op.nonce
}
