/**
 * A second, naive implementation of the store, made to be broken: every decision is a method of its own that a test
 * overrides with one defect. Unbroken, it keeps the whole contract, which also shows that the kit does not merely
 * describe the memory substrate.
 */
import type { LeaseChange } from '#src/client.ts'
import type { Clock } from '#src/clock.ts'
import { ErrNotHeld, ErrTrapdoor } from '#src/errors.ts'
import type { Trapdoor } from '#src/lease.ts'
import {
  granted,
  refused,
  type Call,
  type AnyVerdict,
  type ClaimAnyOp,
  type ClaimOp,
  type ExtendOp,
  type Holding,
  type Op,
  type ReleaseOp,
  type Substrate,
  type Verdict,
} from '#src/substrate.ts'

export interface Term {
  readonly lease: string
  holder: string
  nonce: string
  fencingToken: bigint
  expiryMs: number
  value: string | undefined
}

/** The trapdoor key of this store: what is to be written. */
export class WriteKey {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

/** One namespace. */
export class BreakableStore {
  readonly clock: Clock
  terms: Map<string, Term> = new Map()
  tokens: Map<string, bigint> = new Map()
  readonly pins = new Map<string, Set<string>>()
  /** Of each lease: the last place given, and the last one served. */
  readonly lines = new Map<string, { last: number; served: number }>()
  readonly written: string[]
  readonly watchers = new Set<(change: LeaseChange) => void>()

  constructor(clock: Clock, written: string[]) {
    this.clock = clock
    this.written = written
  }

  // ── decisions ───────────────────────────────────────────────────────────────────────────────────────────────────

  nowMs(): number {
    return this.clock.monotonic()
  }

  hasLapsed(term: Term): boolean {
    return this.nowMs() > term.expiryMs
  }

  isPinned(lease: string): boolean {
    return this.pins.has(lease)
  }

  isReplay(term: Term, op: ClaimOp): boolean {
    return term.holder === op.holder && term.nonce === op.nonce
  }

  mayClaim(term: Term, _op: ClaimOp): boolean {
    return this.hasLapsed(term) && !this.isPinned(term.lease)
  }

  mayExpire(term: Term): boolean {
    return this.hasLapsed(term) && !this.isPinned(term.lease)
  }

  mayExtend(term: Term | undefined, op: ExtendOp): boolean {
    return term !== undefined && this.stands(term) && isOf(term, op)
  }

  mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
    return term === undefined || !this.stands(term) || isOf(term, op)
  }

  newToken(lease: string): bigint {
    const token = (this.tokens.get(lease) ?? 0n) + 1n
    this.tokens.set(lease, token)
    return token
  }

  newExpiryMs(durationMs: number): number {
    return this.nowMs() + durationMs
  }

  newTerm(op: ClaimOp, _before: Term | undefined): Term {
    const { lease, holder, nonce, value, durationMs } = op
    return { lease, holder, nonce, value, fencingToken: this.newToken(lease), expiryMs: this.newExpiryMs(durationMs) }
  }

  prolong(term: Term, { durationMs }: { readonly durationMs: number }): void {
    term.expiryMs = Math.max(term.expiryMs, this.newExpiryMs(durationMs))
  }

  setValue(term: Term, op: ExtendOp): void {
    if (op.value !== undefined) term.value = op.value
  }

  vacate(lease: string): void {
    if (this.terms.delete(lease)) this.tell({ kind: 'vacated', lease })
  }

  opens(lease: string, holder: string, fencingToken: bigint): boolean {
    const term = this.terms.get(lease)
    return term?.holder === holder && term.fencingToken === fencingToken && this.stands(term)
  }

  pin(lease: string, entity: string): void {
    const entities = this.pins.get(lease) ?? new Set()
    this.pins.set(lease, entities.add(entity))
  }

  unpin(lease: string, entity: string): void {
    const entities = this.pins.get(lease)
    if (entities?.delete(entity) === true && entities.size === 0) this.pins.delete(lease)
  }

  listPins(): Map<string, readonly string[]> {
    return new Map([...this.pins].map(([lease, entities]) => [lease, [...entities].toSorted()]))
  }

  watch(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => listener(change)
    this.watchers.add(own)
    return () => void this.watchers.delete(own)
  }

  tell(change: LeaseChange): void {
    queueMicrotask(() => {
      for (const watcher of this.watchers) watcher(change)
    })
  }

  isBarred(lease: string): boolean {
    const line = this.lines.get(lease)
    return line !== undefined && line.served < line.last
  }

  placeOf(place: number, line: { last: number }): number {
    return place === 0 ? ++line.last : place
  }

  serve(lease: string, place: number, durationMs: number): void {
    const line = this.lines.get(lease)
    if (line !== undefined) line.served = Math.max(line.served, place)
    this.tell({ kind: 'taken', lease, place, durationMs })
  }

  refuse(term: Term | undefined): Verdict {
    return refused(this.holding(term))
  }

  /** What a restart does. */
  restart(): void {}

  // ── the port ────────────────────────────────────────────────────────────────────────────────────────────────────

  stands(term: Term): boolean {
    return !this.hasLapsed(term) || this.isPinned(term.lease)
  }

  holding(term: Term | undefined): Holding | undefined {
    if (term === undefined || !this.stands(term)) return undefined
    return {
      holder: term.holder,
      fencingToken: term.fencingToken,
      remainingMs: this.remainingMs(term),
      value: term.value,
      pinned: this.isPinned(term.lease),
      version: undefined,
    }
  }

  remainingMs(term: Term): number {
    return term.expiryMs - this.nowMs() || Number.MIN_VALUE
  }

  async applyAll(ops: readonly Op[]): Promise<readonly Verdict[]> {
    return Promise.all(ops.map((op) => this.apply(op)))
  }

  async apply(op: Op): Promise<Verdict> {
    const term = this.terms.get(op.lease)
    if (op.kind === 'claim') return this.claim(op, term)
    if (op.kind === 'extend') return this.extend(op, term)
    if (op.kind === 'release') {
      if (!this.mayRelease(term, op)) return this.refuse(term)
      this.vacate(op.lease)
      return granted(undefined)
    }
    if (op.kind === 'expire') {
      if (term !== undefined && !this.mayExpire(term)) return this.refuse(term)
      this.vacate(op.lease)
      return granted(undefined)
    }
    if (op.kind === 'pin') {
      if (term !== undefined && !this.stands(term)) this.vacate(op.lease)
      this.pin(op.lease, op.entity)
    } else {
      this.unpin(op.lease, op.entity)
    }
    return granted(this.holding(this.terms.get(op.lease)))
  }

  claim(op: ClaimOp, term: Term | undefined): Verdict {
    if (term !== undefined && this.isReplay(term, op) && this.stands(term)) {
      this.replay(term, op)
      return granted(this.holding(term))
    }
    if (term !== undefined && !this.mayClaim(term, op)) return this.inLine(op, this.refuse(term))
    if (op.place === 0 && this.isBarred(op.lease)) return this.inLine(op, refused(undefined))
    const fresh = this.newTerm(op, term)
    this.terms.set(op.lease, fresh)
    if (op.announce === true) this.tell({ kind: 'changed', lease: op.lease })
    if (op.place !== undefined && op.place > 0) this.serve(op.lease, op.place, op.durationMs)
    return granted(this.holding(fresh))
  }

  /** The refusal, with the place of one who waits. */
  inLine(op: ClaimOp, refusal: Verdict): Verdict {
    if (op.place === undefined) return refusal
    const line = this.lines.get(op.lease) ?? { last: 0, served: 0 }
    this.lines.set(op.lease, line)
    return { ...refusal, line: { place: this.placeOf(op.place, line), served: line.served } }
  }

  replay(term: Term, op: ClaimOp): void {
    this.prolong(term, op)
  }

  extend(op: ExtendOp, term: Term | undefined): Verdict {
    if (!this.mayExtend(term, op)) return this.refuse(term)
    if (term === undefined) return granted(undefined)
    this.prolong(term, op)
    const { value } = term
    this.setValue(term, op)
    if (op.announce === true && term.value !== value) this.tell({ kind: 'changed', lease: op.lease })
    return granted(this.holding(term))
  }

  async claimAny(op: ClaimAnyOp): Promise<AnyVerdict> {
    const standing = op.leases.filter((lease) => this.isTaken(this.terms.get(lease)))
    const own = standing.find((lease) => this.terms.get(lease)?.holder === op.holder)
    const lease = own ?? op.leases.find((one) => !standing.includes(one))
    if (lease === undefined) return { outcome: 'refused', lease, holdings: this.read(standing) }
    const { outcome } = await this.apply({ kind: 'claim', ...op, lease, lapsed: undefined })
    return {
      outcome: outcome === 'granted' ? outcome : 'refused',
      lease,
      holdings: this.read(outcome === 'granted' ? [lease] : op.leases),
    }
  }

  isTaken(term: Term | undefined): boolean {
    return term !== undefined && this.stands(term)
  }

  read(leases: readonly string[] | undefined): Map<string, Holding> {
    const holdings = new Map<string, Holding>()
    for (const lease of leases ?? this.terms.keys()) {
      const holding = this.holding(this.terms.get(lease))
      if (holding !== undefined) holdings.set(lease, holding)
    }
    return holdings
  }

  async spring(lease: string, holder: string, fencingToken: bigint, key: unknown): Promise<void> {
    if (key === undefined) return
    if (!(key instanceof WriteKey)) throw new ErrTrapdoor('not a WriteKey', { lease, holder })
    if (!this.opens(lease, holder, fencingToken)) throw new ErrNotHeld('not held', { lease, holder })
    this.written.push(key.text)
  }
}

export class BreakableSubstrate implements Substrate {
  readonly limits: Substrate['limits'] = { maxOps: 100, maxInFlight: 3 }
  readonly #store: BreakableStore

  constructor(store: BreakableStore) {
    this.#store = store
  }

  apply(ops: readonly Op[], _call: Call): Promise<readonly Verdict[]> {
    return this.#store.applyAll(ops)
  }

  claimAny(op: ClaimAnyOp, _call: Call): Promise<AnyVerdict> {
    return this.#store.claimAny(op)
  }

  async read(leases: readonly string[] | undefined): Promise<ReadonlyMap<string, Holding>> {
    return this.#store.read(leases)
  }

  async pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#store.listPins()
  }

  watch(listener: (change: LeaseChange) => void): () => void {
    return this.#store.watch(listener)
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return (key) => this.#store.spring(lease, holder, fencingToken, key)
  }

  async close(): Promise<void> {}
}

function isOf(term: Term, op: ExtendOp | ReleaseOp): boolean {
  if (term.holder !== op.holder) return false
  if (op.fencingToken !== undefined && term.fencingToken !== op.fencingToken) return false
  return op.kind === 'extend' || op.nonce === undefined || term.nonce === op.nonce
}
