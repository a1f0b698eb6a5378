/** Stores and clients with one defect each: bugs that lock libraries have had, or that an adapter may easily have. */
import { bound } from '#src/conformance/manager.ts'
import type { Client, ClientCallOptions, LeaseChange } from '#src/client.ts'
import { ErrInvalid, ErrNotHeld, ErrNotValid, ErrUnknown } from '#src/errors.ts'
import type { Info } from '#src/lease.ts'
import { countedOf } from '#src/share.ts'
import {
  granted,
  refused,
  type ClaimOp,
  type Counted,
  type DefineOp,
  type ExpireOp,
  type ExtendOp,
  type Holding,
  type LeaveOp,
  type Op,
  type PassOverOp,
  type ReleaseOp,
  type ShareOp,
  type Verdict,
} from '#src/substrate.ts'
import { BreakableStore, type Definition, type Stamp, type Term, type Waiting } from './conformance.breakable-store.ts'

export interface Defect {
  /** Clauses of the manager's suite that are red at least. What else is depends on how the Manager tries again. */
  readonly manager?: readonly string[]
  /** What is red depends on the clauses before it, which are therefore run too. @default false */
  readonly remembers?: boolean
  readonly store?: typeof BreakableStore
  /** Whether the store has a clock. @default true */
  readonly serverClock?: boolean
  readonly client?: (client: Client) => Client
}

/** Remembers who ever held what. */
class RememberingStore extends BreakableStore {
  readonly former: Map<string, Set<string>> = new Map()

  override newTerm(op: ClaimOp, before: Term | undefined): Term {
    this.former.set(op.lease, (this.former.get(op.lease) ?? new Set()).add(op.holder))
    return super.newTerm(op, before)
  }

  everHeld(lease: string, holder: string): boolean {
    return this.former.get(lease)?.has(holder) === true
  }
}

export const DEFECTS: Readonly<Record<string, Defect>> = {
  // ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────

  'a takeover keeps the old owner': {
    manager: [
      'a claim takes over a lapsed lease, from a holder that is then notified',
      'a hold that waits gets the lease when it lapses, by the clock alone',
    ],
    store: class extends BreakableStore {
      override newTerm(op: ClaimOp, before: Term | undefined): Term {
        const fresh = super.newTerm(op, before)
        return before === undefined ? fresh : { ...fresh, holder: before.holder }
      }
    },
  },
  'a claim of a live lease is granted': {
    manager: [
      "a claim of another's lease is denied, with who holds it and until when",
      'of two holders that claim at once exactly one is granted, and the other is denied',
    ],
    store: class extends BreakableStore {
      override mayClaim(): boolean {
        return true
      }
    },
  },
  'a lapsed lease must be expired before it can be claimed': {
    store: class extends BreakableStore {
      override mayClaim(): boolean {
        return false
      }
    },
  },
  'a claim reads, then writes': {
    manager: ['of two holders that claim at once exactly one is granted, and the other is denied'],
    store: class extends BreakableStore {
      override async apply(op: Op, stamp: Stamp): Promise<Verdict> {
        if (op.kind !== 'claim') return super.apply(op, stamp)
        const term = this.terms.get(op.lease)
        for (let turn = 0; turn < 5; turn++) await Promise.resolve()
        return this.claim(op, term, stamp)
      }
    },
  },
  'a claim is not replayed by its nonce': {
    store: class extends BreakableStore {
      override isReplay(): boolean {
        return false
      }
    },
  },
  'the nonce is ignored: the same holder is enough': {
    store: class extends BreakableStore {
      override isReplay(term: Term, op: ClaimOp): boolean {
        return term.holder === op.holder
      }
    },
  },
  'a replayed claim opens another term': {
    store: class extends BreakableStore {
      override replay(term: Term, op: ClaimOp): void {
        super.replay(term, op)
        term.fencingToken = this.newToken(term.lease)
      }
    },
  },
  'a new lease of a holder replaces its old one': {
    store: class extends BreakableStore {
      override newTerm(op: ClaimOp, before: Term | undefined): Term {
        for (const term of this.terms.values()) if (term.holder === op.holder) this.terms.delete(term.lease)
        return super.newTerm(op, before)
      }
    },
  },
  'namespaces share their leases': {
    store: class extends BreakableStore {
      static readonly shared: Map<string, Term> = new Map()
      override terms: Map<string, Term> = (this.constructor as unknown as { shared: Map<string, Term> }).shared
    },
  },

  // ── extension ───────────────────────────────────────────────────────────────────────────────────────────────────

  'anybody can extend': {
    store: class extends BreakableStore {
      override mayExtend(term: Term | undefined): boolean {
        return term !== undefined && this.stands(term)
      }
    },
  },
  'a stale holder can extend': {
    store: class extends RememberingStore {
      override mayExtend(term: Term | undefined, op: ExtendOp): boolean {
        return term !== undefined && this.stands(term) && this.everHeld(op.lease, op.holder)
      }
    },
  },
  'a lapsed lease is extended while nobody else has claimed it': {
    store: class extends BreakableStore {
      override mayExtend(term: Term | undefined, op: ExtendOp): boolean {
        return term !== undefined && term.holder === op.holder
      }
    },
  },
  'an extension creates the lease if it is vacant': {
    manager: ['a holder whose lease was revoked learns it, and does not claim it again'],
    store: class extends BreakableStore {
      override extend(op: ExtendOp, term: Term | undefined, stamp: Stamp): Verdict {
        if (term !== undefined && this.stands(term)) return super.extend(op, term, stamp)
        return this.claim({ ...op, kind: 'claim', nonce: 'none', lapsed: undefined }, term, NO_STAMP)
      }
    },
  },
  'an extension shortens': {
    store: class extends BreakableStore {
      override prolong(term: Term, { durationMs }: { readonly durationMs: number }): void {
        term.expiryMs = this.newExpiryMs(durationMs)
      }
    },
  },
  'an extension is acknowledged and not done': {
    manager: [
      'a hold outlives its duration many times over in one term, and its release frees the lease',
      'renewals that fail and recover before the deadline keep the hold',
    ],
    store: class extends BreakableStore {
      override prolong(): void {}
    },
  },
  'an extension changes the fencing token': {
    manager: ['a holder that claims again renews its own term, from anywhere'],
    store: class extends BreakableStore {
      override extend(op: ExtendOp, term: Term | undefined, stamp: Stamp): Verdict {
        if (term === undefined || !this.mayExtend(term, op)) return super.extend(op, term, stamp)
        term.fencingToken = this.newToken(op.lease)
        return super.extend({ ...op, fencingToken: term.fencingToken }, term, stamp)
      }
    },
  },

  // ── expiry ──────────────────────────────────────────────────────────────────────────────────────────────────────

  'the boundary of expiry is inclusive': {
    store: class extends BreakableStore {
      override hasLapsed(term: Term): boolean {
        return this.nowMs() >= term.expiryMs
      }
    },
  },
  'a live lease can be expired': {
    store: class extends BreakableStore {
      override mayExpire(): boolean {
        return true
      }
    },
  },
  'a lapsed lease cannot be expired': {
    store: class extends BreakableStore {
      override mayExpire(): boolean {
        return false
      }
    },
  },
  'leases never lapse': {
    store: class extends BreakableStore {
      override hasLapsed(): boolean {
        return false
      }
    },
  },
  'leases lapse a tenth too early': {
    manager: [
      'renewals that fail to the deadline abort the signal before another can have the lease',
      'renewals that hang abort the signal before another can have the lease',
    ],
    store: class extends BreakableStore {
      override newExpiryMs(durationMs: number): number {
        return super.newExpiryMs(durationMs * 0.9)
      }

      override remainingMs(term: Term): number {
        return Math.max(super.remainingMs(term) / 0.9, Number.MIN_VALUE)
      }
    },
  },
  'durations are rounded down to seconds': {
    manager: ['a wait ends when the lease lapses, by the clock alone'],
    store: class extends BreakableStore {
      override newExpiryMs(durationMs: number): number {
        return super.newExpiryMs(Math.floor(durationMs / 1000) * 1000)
      }
    },
  },
  'durations are rounded up to minutes': {
    store: class extends BreakableStore {
      override newExpiryMs(durationMs: number): number {
        return super.newExpiryMs(Math.ceil(durationMs / 60_000) * 60_000)
      }
    },
  },
  'the expiry that others see is too early': {
    store: class extends BreakableStore {
      override read(leases: readonly string[] | undefined): Map<string, Holding> {
        const holdings = super.read(leases)
        for (const [lease, holding] of holdings)
          holdings.set(lease, { ...holding, remainingMs: holding.remainingMs / 2 })
        return holdings
      }
    },
  },

  // ── release ─────────────────────────────────────────────────────────────────────────────────────────────────────

  'anybody can release': {
    store: class extends BreakableStore {
      override mayRelease(): boolean {
        return true
      }
    },
  },
  'a stale holder can release': {
    store: class extends RememberingStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return super.mayRelease(term, op) || this.everHeld(op.lease, op.holder)
      }
    },
  },
  'a release of a vacant lease fails': {
    store: class extends BreakableStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return term !== undefined && super.mayRelease(term, op)
      }
    },
  },
  'a lapsed lease cannot be released': {
    store: class extends BreakableStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return term === undefined || (this.stands(term) && super.mayRelease(term, op))
      }
    },
  },
  'a release is acknowledged and not done': {
    manager: [
      'a release during a renewal leaves the lease vacant',
      'an operator revokes a lease, pinned or not',
      'without any hint a wait ends by reading again, at least every maxSleep',
    ],
    store: class extends BreakableStore {
      override vacate(): Verdict {
        return granted(undefined)
      }
    },
  },

  // ── fencing tokens ──────────────────────────────────────────────────────────────────────────────────────────────

  'the token starts anew after a release': {
    store: class extends BreakableStore {
      override vacate(lease: string, stamp: Stamp): Verdict {
        this.tokens.delete(lease)
        return super.vacate(lease, stamp)
      }
    },
  },
  'the token repeats after a takeover': {
    store: class extends BreakableStore {
      override newTerm(op: ClaimOp, before: Term | undefined): Term {
        const fresh = super.newTerm(op, before)
        return before === undefined ? fresh : { ...fresh, fencingToken: before.fencingToken }
      }
    },
  },
  'the token is kept for the same holder': {
    store: class extends BreakableStore {
      readonly last: Map<string, bigint> = new Map()
      override newTerm(op: ClaimOp, before: Term | undefined): Term {
        const fresh = super.newTerm(op, before)
        const fencingToken = this.last.get(`${op.lease} ${op.holder}`) ?? fresh.fencingToken
        this.last.set(`${op.lease} ${op.holder}`, fencingToken)
        return { ...fresh, fencingToken }
      }
    },
  },
  'a read shows another token than the claim': {
    store: class extends BreakableStore {
      override read(leases: readonly string[] | undefined): Map<string, Holding> {
        const holdings = [...super.read(leases)]
        return new Map(holdings.map(([lease, held]) => [lease, { ...held, fencingToken: held.fencingToken + 1n }]))
      }
    },
  },
  'tokens are lost in a restart': {
    store: class extends BreakableStore {
      override restart(): void {
        this.tokens.clear()
        this.terms.clear()
      }
    },
  },
  'tokens are lost in a restart, leases are not': {
    store: class extends BreakableStore {
      override restart(): void {
        this.tokens.clear()
      }
    },
  },

  // ── pins ────────────────────────────────────────────────────────────────────────────────────────────────────────

  'a claim ignores pins': {
    store: class extends BreakableStore {
      override mayClaim(term: Term): boolean {
        return this.hasLapsed(term)
      }
    },
  },
  'an expiry ignores pins': {
    store: class extends BreakableStore {
      override mayExpire(term: Term): boolean {
        return this.hasLapsed(term)
      }
    },
  },
  'a pin drops the value': {
    store: class extends BreakableStore {
      override pin(lease: string, entity: string, generation: string): void {
        super.pin(lease, entity, generation)
        const term = this.terms.get(lease)
        if (term !== undefined) term.value = undefined
      }
    },
  },
  'an unpin withdraws all pins': {
    store: class extends BreakableStore {
      override unpin(lease: string): void {
        this.pins.delete(lease)
      }
    },
  },
  'pins are counted, not named': {
    store: class extends BreakableStore {
      #pins = 0
      override pin(lease: string, entity: string, generation: string): void {
        const isThere = this.pins.get(lease)?.has(entity) === true
        super.pin(lease, isThere ? `${entity}-${++this.#pins}` : entity, generation)
      }
    },
  },
  'a release forgets the pins': {
    store: class extends BreakableStore {
      override vacate(lease: string, stamp: Stamp): Verdict {
        this.pins.delete(lease)
        return super.vacate(lease, stamp)
      }
    },
  },
  'a vacant lease cannot be pinned': {
    store: class extends BreakableStore {
      override pin(lease: string, entity: string, generation: string): void {
        if (this.terms.has(lease)) super.pin(lease, entity, generation)
      }
    },
  },
  'pins are listed in any order': {
    client: (client) => ({
      ...bound(client),
      pinned: async () => new Map([...(await client.pinned())].map(([lease, pins]) => [lease, pins.toReversed()])),
    }),
  },

  // ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────

  'an extension without a value drops it': {
    store: class extends BreakableStore {
      override setValue(term: Term, op: ExtendOp): void {
        term.value = op.value
      }
    },
  },
  'an extension that does not lengthen drops its value': {
    store: class extends BreakableStore {
      override extend(op: ExtendOp, term: Term | undefined, stamp: Stamp): Verdict {
        const longer = term !== undefined && this.newExpiryMs(op.durationMs) > term.expiryMs
        return super.extend(longer ? op : { ...op, value: undefined }, term, stamp)
      }
    },
  },
  'a new term inherits the value': {
    store: class extends BreakableStore {
      readonly last: Map<string, string> = new Map()
      override newTerm(op: ClaimOp, before: Term | undefined): Term {
        const value = op.value ?? this.last.get(op.lease)
        if (value !== undefined) this.last.set(op.lease, value)
        return super.newTerm({ ...op, value }, before)
      }
    },
  },
  'values are reported to their holder only': {
    store: class extends BreakableStore {
      override read(leases: readonly string[] | undefined): Map<string, Holding> {
        return new Map([...super.read(leases)].map(([lease, held]) => [lease, { ...held, value: undefined }]))
      }
    },
  },
  'no value counts as the empty one': {
    store: class extends BreakableStore {
      override holding(term: Term | undefined): Holding | undefined {
        const holding = super.holding(term)
        return holding === undefined ? undefined : { ...holding, value: holding.value ?? '' }
      }
    },
  },
  'the values of a batch get mixed up': {
    store: class extends BreakableStore {
      override applyAll(ops: readonly Op[], stamp: Stamp): Promise<readonly Verdict[]> {
        const values = ops.map((op) => ('value' in op ? op.value : undefined)).toReversed()
        const mixed = ops.map((op, index) => ('value' in op ? { ...op, value: values[index] } : op))
        return super.applyAll(mixed, stamp)
      }
    },
  },
  'the empty value counts as none': {
    store: class extends BreakableStore {
      override holding(term: Term | undefined): Holding | undefined {
        const holding = super.holding(term)
        return holding?.value === '' ? { ...holding, value: undefined } : holding
      }
    },
  },
  'values are cut at 255 characters': {
    store: class extends BreakableStore {
      override holding(term: Term | undefined): Holding | undefined {
        const holding = super.holding(term)
        return holding?.value === undefined ? holding : { ...holding, value: holding.value.slice(0, 255) }
      }
    },
  },

  // ── trapdoor ────────────────────────────────────────────────────────────────────────────────────────────────────

  'the trapdoor always opens': {
    manager: ['a check with a key of this substrate gates the caller’s own write'],
    store: class extends BreakableStore {
      override opens(): boolean {
        return true
      }
    },
  },
  'the trapdoor never opens': {
    store: class extends BreakableStore {
      override opens(): boolean {
        return false
      }
    },
  },
  'the trapdoor checks the holder, not the term': {
    store: class extends BreakableStore {
      override opens(lease: string, holder: string): boolean {
        const term = this.terms.get(lease)
        return term?.holder === holder && this.stands(term)
      }
    },
  },
  'the trapdoor does not look at the time': {
    store: class extends BreakableStore {
      override opens(lease: string, holder: string, fencingToken: bigint): boolean {
        const term = this.terms.get(lease)
        return term?.holder === holder && term.fencingToken === fencingToken
      }
    },
  },
  'the trapdoor ignores pins': {
    store: class extends BreakableStore {
      override opens(lease: string, holder: string, fencingToken: bigint): boolean {
        const term = this.terms.get(lease)
        return term !== undefined && super.opens(lease, holder, fencingToken) && !this.hasLapsed(term)
      }
    },
  },
  'the trapdoor demands a key': {
    store: class extends BreakableStore {
      override async spring(lease: string, holder: string, fencingToken: bigint, key: unknown): Promise<void> {
        await super.spring(lease, holder, fencingToken, key ?? 'no key')
      }
    },
  },
  'the trapdoor lets strange keys pass': {
    manager: ['a check with a key takes the key to the trapdoor'],
    store: class extends BreakableStore {
      override async spring(lease: string, holder: string, fencingToken: bigint, key: unknown): Promise<void> {
        if (typeof key === 'object' && key !== null && 'text' in key)
          await super.spring(lease, holder, fencingToken, key)
      }
    },
  },
  'the trapdoor checks first, then writes all the same': {
    store: class extends BreakableStore {
      override async spring(lease: string, holder: string, fencingToken: bigint, key: unknown): Promise<void> {
        try {
          await super.spring(lease, holder, fencingToken, key)
        } catch (error) {
          if (error instanceof ErrNotHeld) this.written.push((key as { text: string }).text)
          throw error
        }
      }
    },
  },

  // ── what is notified ────────────────────────────────────────────────────────────────────────────────────────────────

  'refusals say nothing of the current holding': {
    store: class extends BreakableStore {
      override refuse(): Verdict {
        return refused(undefined)
      }
    },
  },
  'verdicts come in the order of their outcome': {
    store: class extends BreakableStore {
      override async applyAll(ops: readonly Op[], stamp: Stamp): Promise<readonly Verdict[]> {
        const verdicts = await super.applyAll(ops, stamp)
        return verdicts.toSorted((one, other) =>
          one.outcome === other.outcome ? 0 : one.outcome < other.outcome ? -1 : 1,
        )
      }
    },
  },
  'verdicts come in the order of the names': {
    store: class extends BreakableStore {
      override async applyAll(ops: readonly Op[], stamp: Stamp): Promise<readonly Verdict[]> {
        const verdicts = await super.applyAll(ops, stamp)
        const order = [...ops.keys()].toSorted((one, other) => (ops[one]!.lease < ops[other]!.lease ? -1 : 1))
        return order.map((index) => verdicts[index]!)
      }
    },
  },
  'the last operation of a full batch is dropped, and acknowledged': {
    store: class extends BreakableStore {
      override async applyAll(ops: readonly Op[], stamp: Stamp): Promise<readonly Verdict[]> {
        if (ops.length < 100) return super.applyAll(ops, stamp)
        return [...(await super.applyAll(ops.slice(0, -1), stamp)), granted(undefined)]
      }
    },
  },
  'a read stops after fifty leases': {
    store: class extends BreakableStore {
      override read(leases: readonly string[] | undefined): Map<string, Holding> {
        return new Map([...super.read(leases)].slice(0, 50))
      }
    },
  },
  'a full read leaves out leases': {
    manager: ['a late observer sees the current holder at once'],
    store: class extends BreakableStore {
      override read(leases: readonly string[] | undefined): Map<string, Holding> {
        return leases === undefined ? new Map() : super.read(leases)
      }
    },
  },
  'a read shows lapsed leases as live': {
    store: class extends BreakableStore {
      override read(leases: readonly string[] | undefined): Map<string, Holding> {
        const holdings = super.read(leases)
        for (const lease of leases ?? this.terms.keys()) {
          const term = this.terms.get(lease)
          if (term === undefined || holdings.has(lease)) continue
          const { holder, fencingToken, value } = term
          holdings.set(lease, { holder, fencingToken, value, remainingMs: 1000, pinned: false, version: undefined })
        }
        return holdings
      }
    },
  },
  'nobody is notified of a vacancy': {
    manager: [
      'a wait ends when another releases the lease, also one that began after the claim',
      'a hold that waits gets the lease when it is released',
    ],
    store: class extends BreakableStore {
      override hand(listeners: Iterable<(change: LeaseChange) => void>, change: LeaseChange): void {
        if (change.kind !== 'vacated') super.hand(listeners, change)
      }
    },
  },
  'nobody is notified of a lease that was expired': {
    store: class extends BreakableStore {
      override expire(lease: string): Verdict {
        this.terms.delete(lease)
        return granted(undefined)
      }
    },
  },
  'nobody is notified of a lease that lapsed with its last pin': {
    store: class extends BreakableStore {
      override vacateAfterUnpin(): Verdict {
        return granted(undefined)
      }
    },
  },
  'nobody is notified of a new term': {
    manager: ['an observer sees who holds the lease at once, and then every change that is announced'],
    store: class extends BreakableStore {
      override claim(op: ClaimOp, term: Term | undefined, stamp: Stamp): Verdict {
        return super.claim({ ...op, announce: false }, term, stamp)
      }
    },
  },
  'nobody is notified of a new value': {
    manager: ['an observer sees who holds the lease at once, and then every change that is announced'],
    store: class extends BreakableStore {
      override extend(op: ExtendOp, term: Term | undefined, stamp: Stamp): Verdict {
        return super.extend({ ...op, announce: false }, term, stamp)
      }
    },
  },
  'those who hear of everything hear nothing': {
    store: class extends BreakableStore {
      override tellAll(): void {}
    },
  },
  'those who hear of everything hear of what they watch': {
    store: class extends BreakableStore {
      override tellOf(change: Extract<LeaseChange, { readonly kind: 'changed' | 'vacated' }>): void {
        if (this.watchersOf(change.lease).length > 0) super.tellOf(change)
      }
    },
  },

  // ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────────

  'everyone who waits gets the same ticket': {
    store: class extends BreakableStore {
      override newPlace(): number {
        return 1
      }
    },
  },
  'those who have left are counted in the queue': {
    store: class extends BreakableStore {
      override waiting(lease: string): number {
        return (this.most = Math.max(this.most, super.waiting(lease)))
      }
      most = 0
    },
  },
  'a ticket changes with each refusal': {
    store: class extends BreakableStore {
      override placeOf({ lease }: ClaimOp): number {
        return this.newPlace(lease)
      }
    },
  },
  'who comes last is served first': {
    remembers: true,
    manager: ['those who wait in different processes are served in the order in which they came'],
    store: class extends BreakableStore {
      override newPlace(): number {
        return 10 - 2 * (this.count++ % 3)
      }
      count = 0
    },
  },
  'tickets begin anew when the queue was empty': {
    store: class extends BreakableStore {
      override newPlace(lease: string): number {
        return (this.queueOf(lease).at(-1)?.place ?? 0) + 1
      }
    },
  },
  'a ticket that the store has forgotten is replaced': {
    store: class extends BreakableStore {
      override placeOf(op: ClaimOp): number {
        const isKnown = this.queueOf(op.lease).some(({ place }) => place === op.place)
        return isKnown ? super.placeOf(op) : this.newPlace(op.lease)
      }
    },
  },
  'all others count as ahead': {
    store: class extends BreakableStore {
      override aheadOf(queue: readonly Waiting[]): number {
        return queue.length - 1
      }
    },
  },
  'a waiter counts as ahead of itself': {
    store: class extends BreakableStore {
      override aheadOf(queue: readonly Waiting[], own: number): number {
        return super.aheadOf(queue, own) + 1
      }
    },
  },
  'nobody in the queue keeps others out': {
    store: class extends BreakableStore {
      override isBarred(): boolean {
        return false
      }
    },
  },
  'a queue that was once keeps others out for ever': {
    store: class extends BreakableStore {
      override isBarred(lease: string): boolean {
        return this.queues.has(lease)
      }
    },
  },
  'a queue keeps those out who do not wait': {
    store: class extends BreakableStore {
      override claim(op: ClaimOp, term: Term | undefined, stamp: Stamp): Verdict {
        if (op.place === undefined && this.isVacant(op.lease) && this.isBarred(op.lease)) return refused(undefined)
        return super.claim(op, term, stamp)
      }
    },
  },
  'a ticket survives its grant': {
    store: class extends BreakableStore {
      override afterGrant(queue: readonly Waiting[], place: number): readonly Waiting[] {
        const own = queue.filter((waiting) => waiting.place === place)
        return [...super.afterGrant(queue, place), ...own].toSorted((one, other) => one.place - other.place)
      }
    },
  },
  'a grant leaves those who were ahead in the queue': {
    store: class extends BreakableStore {
      override afterGrant(queue: readonly Waiting[], place: number): readonly Waiting[] {
        return queue.filter((waiting) => waiting.place !== place)
      }
    },
  },
  'a grant takes all who were ahead out of the queue': {
    store: class extends BreakableStore {
      override afterGrant(queue: readonly Waiting[], place: number): readonly Waiting[] {
        return queue.filter((waiting) => waiting.place > place)
      }
    },
  },
  'a ticket lapses at once': {
    store: class extends BreakableStore {
      override queueOf(): readonly Waiting[] {
        return []
      }
    },
  },
  'a ticket never lapses': {
    store: class extends BreakableStore {
      override queueOf(lease: string): readonly Waiting[] {
        return this.queues.get(lease) ?? []
      }
    },
  },
  'a ticket lapses however often it is renewed': {
    store: class extends BreakableStore {
      override queued(op: ClaimOp, refusal: Verdict, stamp: Stamp): Verdict {
        const before = this.queueOf(op.lease)
        const verdict = super.queued(op, refusal, stamp)
        const known = before.find(({ place }) => place === op.place)
        if (known !== undefined) {
          const renewed = this.queues.get(op.lease) ?? []
          this.queues.set(
            op.lease,
            renewed.map((waiting) => (waiting.place === op.place ? known : waiting)),
          )
        }
        return verdict
      }
    },
  },
  'a full queue lets everybody in': {
    store: class extends BreakableStore {
      override isFull(): boolean {
        return false
      }
    },
  },
  'a queue lets in one more than it may': {
    store: class extends BreakableStore {
      override isFull(queue: readonly Waiting[], op: ClaimOp, isHeld: boolean): boolean {
        return super.isFull(queue.slice(1), op, isHeld)
      }
    },
  },
  'a queue is full when one more may come': {
    store: class extends BreakableStore {
      override isFull(queue: readonly Waiting[], op: ClaimOp, isHeld: boolean): boolean {
        return isHeld && op.place === 0 && op.maxWaiters !== undefined && queue.length + 1 >= op.maxWaiters
      }
    },
  },
  'a full queue refuses who does not bound it': {
    remembers: true,
    store: class extends BreakableStore {
      bound: number | undefined
      override isFull(queue: readonly Waiting[], op: ClaimOp, isHeld: boolean): boolean {
        this.bound = op.maxWaiters ?? this.bound
        return super.isFull(queue, { ...op, maxWaiters: this.bound }, isHeld)
      }
    },
  },
  'the queue of a vacant lease is full, for ever where those in it are dead': {
    store: class extends BreakableStore {
      override isFull(queue: readonly Waiting[], { place, maxWaiters }: ClaimOp): boolean {
        return place === 0 && maxWaiters !== undefined && queue.length >= maxWaiters
      }
    },
  },
  'a full queue gives a ticket as well': {
    store: class extends BreakableStore {
      override queued(op: ClaimOp, refusal: Verdict, stamp: Stamp): Verdict {
        const { isFull } = super.queued(op, refusal, stamp)
        return { ...super.queued({ ...op, maxWaiters: undefined }, refusal, stamp), isFull }
      }
    },
  },
  'a leave does nothing': {
    store: class extends BreakableStore {
      override leave(): Verdict {
        return granted(undefined)
      }
    },
  },
  'anybody gives up any ticket': {
    store: class extends BreakableStore {
      override mayLeave(): boolean {
        return true
      }
    },
  },
  'when the first leaves a vacant lease nobody is notified': {
    store: class extends BreakableStore {
      override isMissed(index: number): boolean {
        return index === 1
      }
    },
  },
  'when the one that stands in leaves a vacant lease nobody is notified': {
    store: class extends BreakableStore {
      override isMissed(index: number): boolean {
        return index === 0
      }
    },
  },
  'when one leaves a lease that is held those behind are notified that it is vacant': {
    store: class extends BreakableStore {
      override leave(op: LeaveOp, stamp: Stamp): Verdict {
        super.leave(op, stamp)
        return this.tellQueue(op.lease)
      }
    },
  },
  'those who do not come are not passed over': {
    store: class extends BreakableStore {
      override mayPassOver(): boolean {
        return false
      }
    },
  },
  'those who wait are passed over while the lease is held': {
    store: class extends BreakableStore {
      override mayPassOver(): boolean {
        return true
      }
    },
  },
  'everybody is passed over': {
    store: class extends BreakableStore {
      override passOver(op: PassOverOp): Verdict {
        return super.passOver({ ...op, place: Number.MAX_SAFE_INTEGER })
      }
    },
  },

  // ── whom to notify ─────────────────────────────────────────────────────────────────────────────────────────────────

  'a release is reported to everybody': {
    store: class extends BreakableStore {
      override tellOf(change: Extract<LeaseChange, { readonly kind: 'changed' | 'vacated' }>): void {
        this.tellAll(change)
        for (const client of this.listeners.keys()) this.tellClient(client, change)
      }
    },
  },
  'nobody in the queue is notified': {
    manager: ['a hold that waits gets the lease when it is released'],
    store: class extends BreakableStore {
      override toldOf(): readonly Waiting[] {
        return []
      }
    },
  },
  'nobody stands in for the first': {
    store: class extends BreakableStore {
      override toldOf(queue: readonly Waiting[]): readonly Waiting[] {
        return queue.slice(0, 1)
      }
    },
  },
  'all who wait are notified': {
    store: class extends BreakableStore {
      override toldOf(queue: readonly Waiting[]): readonly Waiting[] {
        return queue
      }
    },
  },
  'the last in the queue are notified': {
    store: class extends BreakableStore {
      override toldOf(queue: readonly Waiting[]): readonly Waiting[] {
        return super.toldOf(queue.toReversed())
      }
    },
  },
  'the one that stands in is notified that nobody is ahead': {
    store: class extends BreakableStore {
      override tellClient(client: string, change: LeaseChange): void {
        const to = 'to' in change ? change.to : undefined
        super.tellClient(client, to === undefined ? change : ({ ...change, to: { ...to, ahead: 0 } } as LeaseChange))
      }
    },
  },
  'who wakes the queue does not learn it': {
    store: class extends BreakableStore {
      override tellQueue(lease: string): Verdict {
        super.tellQueue(lease)
        return granted(undefined)
      }
    },
  },
  'a grant in the queue is not notified': {
    store: class extends BreakableStore {
      override hand(listeners: Iterable<(change: LeaseChange) => void>, change: LeaseChange): void {
        if (change.kind !== 'taken') super.hand(listeners, change)
      }
    },
  },
  'a grant in the queue is not reported to the next': {
    store: class extends BreakableStore {
      override tellClient(client: string, change: LeaseChange): void {
        if (change.kind !== 'taken') super.tellClient(client, change)
      }
    },
  },
  'a grant in the queue is reported to the one that was granted': {
    store: class extends BreakableStore {
      override serve(lease: string, place: number, durationMs: number): void {
        const own = this.queueOf(lease).find((waiting) => waiting.place === place)
        super.serve(lease, place, durationMs)
        const taken = { kind: 'taken', lease, place, durationMs, to: { place, ahead: 0 } } as const
        if (own !== undefined) this.tellClient(own.client, taken)
      }
    },
  },
  'a refused claim sees the state before it is in the queue': {
    store: class extends BreakableStore {
      override async apply(op: Op, stamp: Stamp): Promise<Verdict> {
        if (op.kind !== 'claim' || op.place !== 0) return super.apply(op, stamp)
        const verdict = await super.apply({ ...op, place: undefined }, stamp)
        for (let turn = 0; turn < 5; turn++) await Promise.resolve()
        return verdict.outcome === 'refused' ? this.queued(op, verdict, stamp) : verdict
      }
    },
  },
  'a watch begins after the state was read': {
    store: class extends BreakableStore {
      override async readAndWatch(
        leases: readonly string[] | undefined,
        watched: readonly string[],
        client: string,
      ): Promise<ReadonlyMap<string, Holding>> {
        const holdings = this.read(leases)
        for (let turn = 0; turn < 5; turn++) await Promise.resolve()
        for (const lease of watched) this.watchLease(lease, client)
        return holdings
      }
    },
  },
  'nobody watches anything': {
    manager: ['a wait ends when another releases the lease, also one that began after the claim'],
    store: class extends BreakableStore {
      override watchersOf(): readonly string[] {
        return []
      }
    },
  },
  'a watch ends with the first change': {
    store: class extends BreakableStore {
      override watchersOf(lease: string): readonly string[] {
        const clients = super.watchersOf(lease)
        this.watched.delete(lease)
        return clients
      }
    },
  },
  'a watch never ends': {
    store: class extends BreakableStore {
      override stopWatching(): void {}
    },
  },
  'a watch does not lapse': {
    store: class extends BreakableStore {
      override watchersOf(lease: string): readonly string[] {
        return [...(this.watched.get(lease)?.keys() ?? [])]
      }
    },
  },
  'anyone who watches one lease is notified of all': {
    store: class extends BreakableStore {
      override watchersOf(): readonly string[] {
        return [...new Set([...this.watched.values()].flatMap((clients) => [...clients.keys()]))]
      }
    },
  },
  'who stops to watch stops it for all': {
    store: class extends BreakableStore {
      override stopWatching({ lease }: LeaveOp): void {
        this.watched.delete(lease)
      }
    },
  },
  'a holder is not notified of the end of its term': {
    store: class extends BreakableStore {
      override isToldOfItsEnd(): boolean {
        return false
      }
    },
  },
  'a holder is notified of its own release': {
    store: class extends BreakableStore {
      override isToldOfItsEnd(): boolean {
        return true
      }
    },
  },
  'who opened a term is notified of its end, and not who adopted it': {
    store: class extends BreakableStore {
      readonly openers = new WeakMap<Term, string>()
      override adopt(term: Term, adoption: NonNullable<ExtendOp['adoption']>): void {
        if (!this.openers.has(term)) this.openers.set(term, term.nonce)
        super.adopt(term, adoption)
      }

      override vacate(lease: string, stamp: Stamp): Verdict {
        const term = this.terms.get(lease)
        if (term !== undefined) term.nonce = this.openers.get(term) ?? term.nonce
        return super.vacate(lease, stamp)
      }
    },
  },

  // ── any of several ──────────────────────────────────────────────────────────────────────────────────────────────

  // ── shares ──────────────────────────────────────────────────────────────────────────────────────────────────────

  'a counted lease grants one share more than its capacity': {
    store: class extends BreakableStore {
      override fits(weight: number, room: number): boolean {
        return weight <= room + 1
      }
    },
  },
  'a counted lease is full with its last share': {
    store: class extends BreakableStore {
      override fits(weight: number, room: number): boolean {
        return weight < room
      }
    },
  },
  'the weights of shares are ignored': {
    store: class extends BreakableStore {
      override weightOf(shares: readonly Term[]): number {
        return shares.length
      }

      override fits(_weight: number, room: number): boolean {
        return room >= 1
      }
    },
  },
  'a share is granted while there is any room': {
    store: class extends BreakableStore {
      override fits(_weight: number, room: number): boolean {
        return room >= 1
      }
    },
  },
  'the shares that stand count as one each': {
    store: class extends BreakableStore {
      override weightOf(shares: readonly Term[]): number {
        return shares.length
      }
    },
  },
  'a counted lease reads its shares, then grants one': {
    store: class extends BreakableStore {
      override async apply(op: Op, stamp: Stamp): Promise<Verdict> {
        if (op.kind !== 'claim' || op.share === undefined) return super.apply(op, stamp)
        const seen = this.sharesOf(countedOf(op.lease) as string)
        for (let turn = 0; turn < 5; turn++) await Promise.resolve()
        const now = this.terms
        this.terms = new Map([...now].filter(([, term]) => term.weight === undefined || seen.includes(term)))
        const verdict = await super.apply(op, stamp)
        const opened = this.terms.get(op.lease)
        this.terms = now
        if (verdict.outcome === 'granted' && opened !== undefined) now.set(op.lease, opened)
        return verdict
      }
    },
  },
  'shares that have lapsed count for ever': {
    store: class extends BreakableStore {
      override counts(): boolean {
        return true
      }
    },
  },
  'shares that have lapsed count for ever, and there is no clock': {
    serverClock: false,
    store: class extends BreakableStore {
      override counts(): boolean {
        return true
      }
    },
  },
  'a share that has lapsed counts once its holder was refused another': {
    store: class extends BreakableStore {
      readonly kept: Set<Term> = new Set()

      override refuseShare(op: ClaimOp): Verdict {
        const own = this.terms.get(op.lease)
        if (own !== undefined) this.kept.add(own)
        return super.refuseShare(op)
      }

      override counts(term: Term, lapsed: string | undefined): boolean {
        return this.kept.has(term) || super.counts(term, lapsed)
      }
    },
  },
  'a pinned share does not count when its time is over': {
    store: class extends BreakableStore {
      override counts(term: Term): boolean {
        return !this.hasLapsed(term)
      }
    },
  },
  'a pinned share that was seen to lapse does not count, and there is no clock': {
    serverClock: false,
    store: class extends BreakableStore {
      override counts(term: Term, lapsed: string | undefined): boolean {
        return String(term.version) !== lapsed
      }
    },
  },
  'the version of a share that was seen to lapse is not compared': {
    serverClock: false,
    store: class extends BreakableStore {
      override counts(term: Term, lapsed: string | undefined): boolean {
        return lapsed === undefined || this.isPinned(term.lease)
      }
    },
  },
  'a share that made room can be extended': {
    serverClock: false,
    store: class extends BreakableStore {
      override endOthers(): void {}
    },
  },
  'a holder has a share for each of its claims': {
    store: class extends BreakableStore {
      override claim(op: ClaimOp, term: Term | undefined, stamp: Stamp): Verdict {
        const isSecond = term !== undefined && !this.isReplay(term, op) && this.stands(term)
        if (!isSecond || op.share === undefined) return super.claim(op, term, stamp)
        this.terms.set(`${term.lease}-`, { ...term, lease: `${term.lease}-` })
        this.terms.delete(term.lease)
        return this.claimShare(op, op.share, stamp)
      }
    },
  },
  'a second claim of a holder replaces its share': {
    store: class extends BreakableStore {
      override mayClaim(term: Term, op: ClaimOp): boolean {
        return super.mayClaim(term, op) || (op.share !== undefined && !this.isPinned(term.lease))
      }
    },
  },
  'a holder that has its share gets a ticket': {
    store: class extends BreakableStore {
      override refuseSecond(term: Term, op: ClaimOp, stamp: Stamp): Verdict {
        return this.queued(op, this.refuse(term), stamp)
      }
    },
  },
  'a holder that has its share is notified of the counted lease': {
    store: class extends BreakableStore {
      override refuseSecond(term: Term, op: ClaimOp): Verdict {
        return { ...this.refuseShare(op), holding: this.holding(term) }
      }
    },
  },
  'a claim of a share barges past the queue': {
    store: class extends BreakableStore {
      override aheadOfClaim(op: ClaimOp): readonly Waiting[] {
        return op.place === undefined ? [] : super.aheadOfClaim(op)
      }
    },
  },
  'one who comes to wait for a share barges past the queue': {
    store: class extends BreakableStore {
      override aheadOfClaim(op: ClaimOp): readonly Waiting[] {
        return op.place === 0 ? [] : super.aheadOfClaim(op)
      }
    },
  },
  'anyone who has a ticket gets a share': {
    store: class extends BreakableStore {
      override aheadOfClaim(op: ClaimOp): readonly Waiting[] {
        return (op.place ?? 0) > 0 ? [] : super.aheadOfClaim(op)
      }
    },
  },
  'a light waiter passes heavy ones': {
    store: class extends BreakableStore {
      override aheadOfClaim(op: ClaimOp): readonly Waiting[] {
        return super.aheadOfClaim(op).filter(({ weight }) => weight <= (op.share?.weight ?? 0))
      }
    },
  },
  'nobody passes those ahead who do not come': {
    store: class extends BreakableStore {
      override passingOf(): number {
        return 0
      }
    },
  },
  'one ahead is passed for whom there was no room': {
    store: class extends BreakableStore {
      override mayPass(): boolean {
        return true
      }
    },
  },
  'those who were passed stay in the queue': {
    store: class extends BreakableStore {
      override serve(lease: string, place: number, durationMs: number): void {
        const before = this.queueOf(lease)
        super.serve(lease, place, durationMs)
        if (countedOf(lease) === undefined) return
        this.queues.set(
          lease,
          before.filter((waiting) => waiting.place !== place),
        )
      }
    },
  },
  'the refusal of a share gives no ticket': {
    store: class extends BreakableStore {
      override queued(op: ClaimOp, refusal: Verdict, stamp: Stamp, isHeld?: boolean): Verdict {
        return op.share === undefined ? super.queued(op, refusal, stamp, isHeld) : refusal
      }
    },
  },
  'a queue for shares is never full': {
    store: class extends BreakableStore {
      override isFull(queue: readonly Waiting[], op: ClaimOp, isHeld: boolean): boolean {
        return op.share === undefined && super.isFull(queue, op, isHeld)
      }
    },
  },
  'a queue for shares is full though there is room': {
    store: class extends BreakableStore {
      override isFull(queue: readonly Waiting[], op: ClaimOp, isHeld: boolean): boolean {
        return super.isFull(queue, op, isHeld || op.share !== undefined)
      }
    },
  },
  'in the queue all weigh the same': {
    store: class extends BreakableStore {
      override weightInQueue(): number {
        return 1
      }
    },
  },
  'a ticket keeps the weight of its first claim': {
    store: class extends BreakableStore {
      override weightInQueue(op: ClaimOp, queue: readonly Waiting[]): number {
        return queue.find(({ place }) => place === op.place)?.weight ?? super.weightInQueue(op, queue)
      }
    },
  },
  'a grant of a share does not notify the next': {
    store: class extends BreakableStore {
      override tellAfterGrant(): Verdict {
        return granted(undefined)
      }
    },
  },
  'the end of a share notifies the first although there is no room for it': {
    store: class extends BreakableStore {
      override fitsFirst(): boolean {
        return true
      }
    },
  },
  'the end of a share notifies nobody': {
    store: class extends BreakableStore {
      override tellOfRoom(lease: string): Verdict {
        return countedOf(lease) === undefined ? super.tellOfRoom(lease) : granted(undefined)
      }
    },
  },
  'a claim that does not wait, and meets nothing but tickets, notifies nobody': {
    store: class extends BreakableStore {
      override tellMissing(op: ClaimOp): Verdict {
        return op.place === undefined ? granted(undefined) : super.tellMissing(op)
      }
    },
  },
  'one who looks again, and meets nothing but tickets, notifies nobody': {
    store: class extends BreakableStore {
      override tellMissing(op: ClaimOp): Verdict {
        return (op.place ?? 0) > 0 ? granted(undefined) : super.tellMissing(op)
      }
    },
  },
  'one who looks again does not learn that those ahead were notified': {
    store: class extends BreakableStore {
      override tellMissing(op: ClaimOp): Verdict {
        const verdict = super.tellMissing(op)
        return (op.place ?? 0) > 0 ? granted(undefined) : verdict
      }
    },
  },
  'one who comes to wait does not learn that those ahead do not come': {
    store: class extends BreakableStore {
      override nameMissing(): Verdict {
        return granted(undefined)
      }
    },
  },
  'one who comes to wait has itself passed over': {
    store: class extends BreakableStore {
      override nameMissing({ lease }: ClaimOp): Verdict {
        return { ...granted(undefined), told: this.queueOf(countedOf(lease) as string).at(-1)?.place }
      }
    },
  },
  'a larger capacity notifies nobody': {
    store: class extends BreakableStore {
      override tellQueue(name: string): Verdict {
        return this.defining ? granted(undefined) : super.tellQueue(name)
      }

      override define(op: DefineOp, stamp: Stamp): Verdict {
        this.defining = true
        try {
          return super.define(op, stamp)
        } finally {
          this.defining = false
        }
      }
      defining = false
    },
  },
  'a capacity below the weight of a waiter notifies nobody': {
    store: class extends BreakableStore {
      override tellInVain(): void {}
    },
  },
  'one who waits for more than the capacity stays in the queue': {
    store: class extends BreakableStore {
      override keepOnly(): void {}
    },
  },
  'those who wait for what is not defined any more stay in the queue': {
    store: class extends BreakableStore {
      override keepOnly(name: string, capacity: number): void {
        if (capacity > 0) super.keepOnly(name, capacity)
      }
    },
  },
  'the end of a counted lease notifies nobody': {
    store: class extends BreakableStore {
      override tellAllWaiting(): Verdict {
        return granted(undefined)
      }
    },
  },
  'the end of a counted lease notifies the first only': {
    store: class extends BreakableStore {
      override tellAllWaiting(name: string): Verdict {
        for (const waiting of this.toldOf(this.queueOf(name))) this.tellInVain(name, waiting)
        this.keepOnly(name, 0)
        return granted(undefined)
      }
    },
  },
  'a definition is not compared': {
    store: class extends BreakableStore {
      override mayDefine(): boolean {
        return true
      }
    },
  },
  'a first definition replaces one that is there': {
    store: class extends BreakableStore {
      override mayDefine(op: DefineOp, definition: Definition | undefined): boolean {
        return op.from === undefined || super.mayDefine(op, definition)
      }
    },
  },
  'a definition over one that is gone is made': {
    store: class extends BreakableStore {
      override mayDefine(op: DefineOp, definition: Definition | undefined): boolean {
        return definition === undefined || super.mayDefine(op, definition)
      }
    },
  },
  'a copy of a definition revives what is not defined any more': {
    store: class extends BreakableStore {
      override isStaleCopy(): boolean {
        return false
      }

      override isStaleDefinition(): boolean {
        return false
      }
    },
  },
  'a definition that is over is made again by anyone who asks for it again': {
    store: class extends BreakableStore {
      override isStaleCopy(): boolean {
        return false
      }
    },
  },
  'a definition whose reply was lost is refused': {
    store: class extends BreakableStore {
      override isDefined(): boolean {
        return false
      }

      override isStaleCopy(): boolean {
        return false
      }
    },
  },
  'the end of a counted lease revokes its shares': {
    store: class extends BreakableStore {
      override undefine(op: DefineOp): void {
        super.undefine(op)
        for (const { lease } of this.sharesOf(op.lease)) this.terms.delete(lease)
      }
    },
  },
  'a smaller capacity revokes shares': {
    store: class extends BreakableStore {
      override tellOfCapacity(name: string, capacity: number): Verdict {
        for (const { lease } of this.sharesOf(name).slice(capacity)) this.terms.delete(lease)
        return super.tellOfCapacity(name, capacity)
      }
    },
  },
  'a later definition forgets the shares of the one before': {
    store: class extends BreakableStore {
      override define(op: DefineOp, stamp: Stamp): Verdict {
        const isNew = !this.definitions.has(op.lease)
        const verdict = super.define(op, stamp)
        if (isNew) for (const { lease } of this.sharesOf(op.lease)) this.forgotten.add(lease)
        return verdict
      }

      override standingBeside(op: ClaimOp, share: ShareOp): readonly Term[] {
        return super.standingBeside(op, share).filter(({ lease }) => !this.forgotten.has(lease))
      }
      readonly forgotten: Set<string> = new Set()
    },
  },
  'the first use does not define': {
    store: class extends BreakableStore {
      override defineByUse(): void {}
    },
  },
  'a refused claim does not define': {
    store: class extends BreakableStore {
      override claimShare(op: ClaimOp, share: ShareOp, stamp: Stamp): Verdict {
        const name = countedOf(op.lease) ?? op.lease
        const wasDefined = this.definitions.has(name)
        const verdict = super.claimShare(op, share, stamp)
        if (!wasDefined && verdict.outcome === 'refused') this.definitions.delete(name)
        return verdict
      }
    },
  },
  'another capacity is ignored': {
    store: class extends BreakableStore {
      override isCapacity(): boolean {
        return true
      }
    },
  },
  'another capacity redefines': {
    store: class extends BreakableStore {
      override isCapacity(defined: number, { capacity = defined }: ShareOp): boolean {
        return capacity >= defined
      }
    },
  },
  'a weight above the capacity waits': {
    store: class extends BreakableStore {
      override mayAsk({ capacity }: Definition, share: ShareOp): boolean {
        return this.isCapacity(capacity, share)
      }
    },
  },
  'each share has fencing tokens of its own': {
    store: class extends BreakableStore {
      override tokensOf(lease: string): string {
        return lease
      }
    },
  },
  'shares wait in one queue with the lease of the same name': {
    store: class extends BreakableStore {
      override queueOf(name: string): readonly Waiting[] {
        return super.queueOf(name.replace('#', ''))
      }

      override queued(op: ClaimOp, refusal: Verdict, stamp: Stamp, isHeld?: boolean): Verdict {
        const verdict = super.queued(op, refusal, stamp, isHeld)
        const name = countedOf(op.lease)
        if (name !== undefined) this.queues.set(name.slice(0, -1), this.queues.get(name) ?? [])
        return verdict
      }
    },
  },
  'namespaces share their counted leases': {
    store: class extends BreakableStore {
      static readonly shared: Map<string, Definition> = new Map()
      override definitions: Map<string, Definition> = (
        this.constructor as unknown as { shared: Map<string, Definition> }
      ).shared
    },
  },
  'a counted lease is shown without the weights of its shares': {
    store: class extends BreakableStore {
      override counted(name: string): Counted {
        const { shares, ...definition } = super.counted(name)
        const light = [...shares].map(([lease, held]) => [lease, { ...held, weight: undefined }] as const)
        return { ...definition, shares: new Map(light) }
      }
    },
  },
  'a counted lease is shown with shares that are over': {
    store: class extends BreakableStore {
      override counted(name: string): Counted {
        const counted = super.counted(name)
        for (const [lease, holding] of counted.shares) this.shown.set(lease, holding)
        const all = [...this.shown].filter(([lease]) => countedOf(lease) === name)
        return { ...counted, shares: new Map(all) }
      }
      readonly shown = new Map<string, Holding>()
    },
  },
  'a refusal shows no share that is in the way': {
    store: class extends BreakableStore {
      override refuseShare(op: ClaimOp): Verdict {
        const refusal = super.refuseShare(op)
        return { ...refusal, counted: { ...(refusal.counted as Counted), shares: new Map() } }
      }
    },
  },
  'the release of one share frees all': {
    store: class extends BreakableStore {
      override vacate(lease: string, stamp: Stamp): Verdict {
        const name = countedOf(lease)
        const others = name === undefined ? [] : this.sharesOf(name)
        for (const other of others) if (other.lease !== lease) this.terms.delete(other.lease)
        return super.vacate(lease, stamp)
      }
    },
  },
  'a late claim of a share takes room': {
    store: class extends BreakableStore {
      override apply(op: Op, stamp: Stamp): Promise<Verdict> {
        const isShare = op.kind === 'claim' && op.share !== undefined
        return super.apply(op, isShare ? { ...stamp, notAfterMs: undefined } : stamp)
      }

      override isStaleClaim(op: ClaimOp, stamp: Stamp): boolean {
        return op.share === undefined && super.isStaleClaim(op, stamp)
      }
    },
  },
  'a claim of a share is not replayed by its nonce': {
    store: class extends BreakableStore {
      override isReplay(term: Term, op: ClaimOp): boolean {
        return op.share === undefined && super.isReplay(term, op)
      }
    },
  },
  'the guard of a share passes while any share of its holder stands': {
    store: class extends BreakableStore {
      override opens(lease: string, holder: string, fencingToken: bigint): boolean {
        const term = this.terms.get(lease)
        if (countedOf(lease) === undefined) return super.opens(lease, holder, fencingToken)
        return term?.holder === holder && this.stands(term)
      }
    },
  },
  'the guard of a share passes while any share stands': {
    store: class extends BreakableStore {
      override opens(lease: string, holder: string, fencingToken: bigint): boolean {
        const name = countedOf(lease)
        if (name === undefined) return super.opens(lease, holder, fencingToken)
        return this.sharesOf(name).some((term) => this.stands(term))
      }
    },
  },
  'the client does not say that a share was refused by its counted lease': {
    client: (client) => ({
      ...bound(client),
      claimLease: (lease, request, options) => client.claimLease(lease, request, { ...options, onRefused: undefined }),
    }),
  },
  'the client says of every refusal that it was by the counted lease': {
    client: (client) => ({
      ...bound(client),
      claimLease: async (lease, request, options = {}) => {
        try {
          await client.claimLease(lease, request, options)
        } catch (error) {
          if (error instanceof ErrInvalid) options.onRefused?.({ capacity: undefined, blocking: undefined })
          throw error
        }
      },
    }),
  },
  'the client does not know which share is in the way': {
    client: (client) => ({
      ...bound(client),
      counted: client.counted && { ...client.counted, blocking: () => undefined },
    }),
  },
  'the client goes by any of the shares in the way': {
    client: (client) => ({
      ...bound(client),
      counted: client.counted && {
        ...client.counted,
        blocking: (name) => [...client.leases()].find(([lease]) => countedOf(lease) === name)?.[1],
      },
    }),
  },
  'the client lets a share be claimed without saying so': {
    client: (client) => ({
      ...bound(client),
      claimLease: (lease, request, options) => {
        const isShare = request?.share === undefined && /^[^#]+#[^#]+$/.test(lease)
        const share = isShare ? { weight: 1, capacity: 1 } : request?.share
        return client.claimLease(lease, share === undefined ? request : { ...request, share }, options)
      },
    }),
  },
  'the client defines whatever another has defined meanwhile': {
    client: (client) => ({
      ...bound(client),
      counted: client.counted && {
        ...client.counted,
        define: async (name, { capacity }, options) => {
          const { generation } = (await client.counted?.read(name)) ?? {}
          return (await client.counted?.define(name, { capacity, from: generation }, options)) ?? ''
        },
      },
    }),
  },

  // ── late packets ────────────────────────────────────────────────────────────────────────────────────────────────

  'a late packet takes effect': {
    store: class extends BreakableStore {
      override isPast(): boolean {
        return false
      }

      override isStaleClaim(): boolean {
        return false
      }

      override isStalePin(): boolean {
        return false
      }
    },
  },
  'deadlines are ignored': {
    store: class extends BreakableStore {
      override isPast(): boolean {
        return false
      }
    },
  },
  'the nonce that opened the latest term is forgotten when the term is over': {
    store: class extends BreakableStore {
      override vacate(lease: string, stamp: Stamp): Verdict {
        const opened = this.opened.get(lease)
        if (opened !== undefined) this.opened.set(lease, { nonce: '', atMs: opened.atMs })
        return super.vacate(lease, stamp)
      }
    },
  },
  'the nonce that opened the latest term is forgotten, and there is no clock': {
    serverClock: false,
    store: class extends BreakableStore {
      override vacate(lease: string, stamp: Stamp): Verdict {
        this.opened.delete(lease)
        return super.vacate(lease, stamp)
      }
    },
  },
  'nobody knows when the latest term was opened': {
    store: class extends BreakableStore {
      override isStaleClaim({ lease, nonce }: ClaimOp): boolean {
        return this.opened.get(lease)?.nonce === nonce
      }
    },
  },
  'epochs are ignored': {
    serverClock: false,
    store: class extends BreakableStore {
      override isOfEarlierEpoch(): boolean {
        return false
      }
    },
  },
  'an epoch is seen only by what opens a term': {
    serverClock: false,
    store: class extends BreakableStore {
      override async apply(op: Op, stamp: Stamp): Promise<Verdict> {
        return super.apply(op, op.kind === 'claim' ? stamp : { ...stamp, epoch: 0 })
      }
    },
  },
  'a claim whose term is over is granted once more': {
    store: class extends BreakableStore {
      override refuseStale(op: ClaimOp): Verdict {
        return this.opened.get(op.lease)?.nonce === op.nonce ? granted(undefined) : super.refuseStale(op)
      }
    },
  },
  'a release by name ends any term of the holder': {
    store: class extends BreakableStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return super.mayRelease(term, op) || term?.holder === op.holder
      }
    },
  },
  'a release with a fencing token is not asked for its nonce': {
    store: class extends BreakableStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return super.mayRelease(term, op.fencingToken === undefined ? op : { ...op, nonce: undefined })
      }
    },
  },
  'a release with a nonce is not asked for its fencing token': {
    store: class extends BreakableStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return super.mayRelease(term, op) || (term?.holder === op.holder && op.nonce !== undefined)
      }
    },
  },
  'a release by nonce ends any term of the holder': {
    store: class extends BreakableStore {
      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        return super.mayRelease(term, op) || (term?.holder === op.holder && op.fencingToken === undefined)
      }
    },
  },
  'each of those who adopted a term may release it': {
    store: class extends BreakableStore {
      readonly former: Set<string> = new Set()
      override adopt(term: Term, adoption: NonNullable<ExtendOp['adoption']>): void {
        this.former.add(term.nonce)
        super.adopt(term, adoption)
      }

      override mayRelease(term: Term | undefined, op: ReleaseOp): boolean {
        const adopted = op.nonce !== undefined && this.former.has(op.nonce)
        return super.mayRelease(term, adopted ? { ...op, nonce: undefined } : op)
      }
    },
  },
  'an adoption takes the term from any adopter': {
    store: class extends BreakableStore {
      override mayAdopt(): boolean {
        return true
      }
    },
  },
  'an adoption needs no term': {
    store: class extends BreakableStore {
      override extend(op: ExtendOp, term: Term | undefined, stamp: Stamp): Verdict {
        const { adoption } = op
        if (adoption === undefined || (term !== undefined && this.stands(term))) return super.extend(op, term, stamp)
        return this.claim({ ...op, kind: 'claim', nonce: adoption.nonce, lapsed: undefined }, term, NO_STAMP)
      }
    },
  },
  'an extension ignores the fencing token': {
    store: class extends BreakableStore {
      override mayExtend(term: Term | undefined, op: ExtendOp): boolean {
        return term !== undefined && super.mayExtend(term, { ...op, fencingToken: term.fencingToken })
      }
    },
  },
  'a copy of a claim brings back its value': {
    store: class extends BreakableStore {
      override replay(term: Term, op: ClaimOp): void {
        super.replay(term, op)
        term.value = op.value
      }
    },
  },
  'nobody knows when the value was set': {
    store: class extends BreakableStore {
      override isStaleValue(): boolean {
        return false
      }
    },
  },
  'nobody knows when the value was set, and there is no clock': {
    serverClock: false,
    store: class extends BreakableStore {
      override isStaleValue(): boolean {
        return false
      }
    },
  },
  'a copy of an earlier pin takes the place of a later one': {
    store: class extends BreakableStore {
      override otherPinMs(): undefined {
        return undefined
      }
    },
  },
  'an unpin ignores the generation': {
    store: class extends BreakableStore {
      override mayUnpin(): boolean {
        return true
      }
    },
  },
  'a pin comes back after its unpin': {
    store: class extends BreakableStore {
      override isStalePin(): boolean {
        return false
      }
    },
  },
  'a pin comes back after its unpin, and there is no clock': {
    serverClock: false,
    store: class extends BreakableStore {
      override isStalePin(): boolean {
        return false
      }
    },
  },
  'an expiry that was granted once is granted again': {
    store: class extends BreakableStore {
      readonly expired: Set<string> = new Set()
      override mayExpire(term: Term, op: ExpireOp): boolean {
        if (super.mayExpire(term, op)) this.expired.add(term.lease)
        return this.expired.has(term.lease)
      }
    },
  },
  'what a replay confirms is lost in a restart': {
    store: class extends BreakableStore {
      override replay(term: Term, op: ClaimOp): void {
        super.replay(term, op)
        this.lost.add(term.lease)
      }

      override restart(): void {
        for (const lease of this.lost) this.terms.delete(lease)
      }
      readonly lost: Set<string> = new Set()
    },
  },
  'a pin on a lapsed lease brings its holder back': {
    store: class extends BreakableStore {
      override vacateForPin(): void {}
    },
  },
  'the trapdoor accepts a key outside a transaction': {
    store: class extends BreakableStore {
      override mayGuard(): boolean {
        return true
      }
    },
  },

  // ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────

  'names are cut at 63 bytes': { store: renaming((name) => name.slice(0, 63)) },
  'names do not differ by case': { store: renaming((name) => name.toLowerCase()) },
  'names are normalised': { store: renaming((name) => name.normalize('NFKC')) },
  'names are not escaped': { store: renaming((name) => name.replaceAll(/['"\\].*/g, '')) },
  'holders do not differ by case': { store: renamingHolders((holder) => holder.toLowerCase()) },
  'holders are cut at 63 bytes': { store: renamingHolders((holder) => holder.slice(0, 63)) },

  // ── clients ─────────────────────────────────────────────────────────────────────────────────────────────────────

  'the client takes bad input for done': {
    client: (client) => ({
      ...bound(client),
      claimLease: (...args) => lenient(client.claimLease(...args)),
      extendLease: (...args) => lenient(client.extendLease(...args)),
      releaseLease: (...args) => lenient(client.releaseLease(...args)),
      expireLease: (...args) => lenient(client.expireLease(...args)),
      pinLease: (...args) => lenient(client.pinLease(...args)),
      unpinLease: (...args) => lenient(client.unpinLease(...args)),
      refresh: (...args) => lenient(client.refresh(...args)),
    }),
  },
  'the client coerces names to strings': {
    client: (client) => ({
      ...bound(client),
      claimLease: (lease, ...rest) => client.claimLease(coerced(lease), ...rest),
      pinLease: (lease, entity) => client.pinLease(lease, coerced(entity)),
    }),
  },
  'the client says that input is bad, and not which': {
    client: (client) => ({
      ...bound(client),
      claimLease: (...args) => vague(client.claimLease(...args)),
      pinLease: (...args) => vague(client.pinLease(...args)),
    }),
  },
  'the client throws instead of rejecting': {
    client: (client) => ({
      ...bound(client),
      claimLease: (lease, ...rest) => {
        if (typeof lease !== 'string') throw new TypeError('lease must be a string')
        return client.claimLease(lease, ...rest)
      },
    }),
  },
  'the client asks the store before it looks at its input': {
    client: (client) => ({
      ...bound(client),
      pinLease: async (...args) => {
        await client.pinned()
        return client.pinLease(...args)
      },
    }),
  },
  'leases() is a copy': {
    client: (client) => ({ ...bound(client), leases: () => new Map(client.leases()) }),
  },
  'entries of leases() change': { client: changingEntries },
  'refresh does not forget what is vacant': {
    client: (client) => {
      const seen = new Map<string, Info>()
      return {
        ...bound(client),
        refresh: async (leases, options) => {
          await client.refresh(leases, options)
          for (const [lease, info] of client.leases()) seen.set(lease, info)
        },
        leases: () => new Map([...seen, ...client.leases()]),
      }
    },
  },
  'an aborted signal is ignored': {
    client: (client) => ({
      ...bound(client),
      claimLease: (lease, request, options) => client.claimLease(lease, request, deaf(options)),
      extendLease: (lease, request, options) => client.extendLease(lease, request, deaf(options)),
      releaseLease: (lease, holder, options) => client.releaseLease(lease, holder, deaf(options)),
      expireLease: (lease, options) => client.expireLease(lease, deaf(options)),
    }),
  },
  'a store that cannot be reached looks like a lease that is held': {
    client: (client) => ({
      ...bound(client),
      claimLease: async (...args) => {
        try {
          await client.claimLease(...args)
        } catch (error) {
          throw error instanceof ErrUnknown ? new ErrInvalid('not granted') : error
        }
      },
    }),
  },
  'a subscriber hears nothing': {
    client: (client) => ({ ...bound(client), subscribe: () => () => {} }),
  },
  'a subscription cannot be ended': {
    client: (client) => ({
      ...bound(client),
      subscribe: (listener, options) => {
        client.subscribe(listener, options)
        return () => {}
      },
    }),
  },
  'close releases what is held': {
    client: (client) => ({
      ...bound(client),
      close: async () => {
        const releases = [...client.leases()].map(([lease, { holder }]) => client.releaseLease(lease, holder))
        await Promise.allSettled(releases)
        await client.close()
      },
    }),
  },
}

/** A store that mangles names. */
function renaming(mangle: (name: string) => string): typeof BreakableStore {
  return class extends BreakableStore {
    override apply(op: Op, stamp: Stamp): Promise<Verdict> {
      const entity = 'entity' in op ? { entity: mangle(op.entity) } : {}
      return super.apply({ ...op, lease: mangle(op.lease), ...entity }, stamp)
    }

    override read(leases: readonly string[] | undefined): Map<string, Holding> {
      if (leases === undefined) return super.read(undefined)
      const holdings = super.read(leases.map(mangle))
      return new Map(
        leases.flatMap((lease) => {
          const holding = holdings.get(mangle(lease))
          return holding === undefined ? [] : [[lease, holding] as const]
        }),
      )
    }
  }
}

/** A store that mangles holders. */
function renamingHolders(mangle: (holder: string) => string): typeof BreakableStore {
  return class extends BreakableStore {
    override apply(op: Op, stamp: Stamp): Promise<Verdict> {
      return super.apply('holder' in op ? { ...op, holder: mangle(op.holder) } : op, stamp)
    }
  }
}

/** Says nothing about when a request was sent. */
const NO_STAMP: Stamp = { client: '', epoch: 0, sentMs: undefined, notAfterMs: undefined }

function coerced(name: unknown): string {
  return typeof name === 'symbol' ? 'symbol' : [name].join('')
}

function deaf(options: ClientCallOptions = {}): ClientCallOptions {
  return typeof options === 'object' && options !== null ? { ...options, signal: undefined } : options
}

async function lenient(call: Promise<void>): Promise<void> {
  try {
    await call
  } catch (error) {
    if (!(error instanceof ErrNotValid)) throw error
  }
}

async function vague(call: Promise<void>): Promise<void> {
  try {
    await call
  } catch (error) {
    throw error instanceof ErrNotValid ? new ErrNotValid('invalid input') : error
  }
}

/** Shows one object per lease, and brings it up to date. */
function changingEntries(client: Client): Client {
  const view = new Map<string, Info>()
  const show = (lease: string): void => {
    const info = client.leases().get(lease)
    if (info === undefined) {
      view.delete(lease)
      return
    }
    const { holder, expiry, fencingToken, value, pinned, trapdoor } = info
    view.set(
      lease,
      Object.assign(view.get(lease) ?? ({} as Info), { holder, expiry, fencingToken, value, pinned, trapdoor }),
    )
  }
  const updated = async <T>(call: Promise<T>, leases: Iterable<string>): Promise<T> => {
    try {
      return await call
    } finally {
      for (const lease of leases) show(lease)
    }
  }
  return {
    ...bound(client),
    claimLease: (lease, ...rest) => updated(client.claimLease(lease, ...rest), [lease]),
    extendLease: (lease, ...rest) => updated(client.extendLease(lease, ...rest), [lease]),
    expireLease: (lease, ...rest) => updated(client.expireLease(lease, ...rest), [lease]),
    releaseLease: (lease, ...rest) => updated(client.releaseLease(lease, ...rest), [lease]),
    pinLease: (lease, ...rest) => updated(client.pinLease(lease, ...rest), [lease]),
    unpinLease: (lease, ...rest) => updated(client.unpinLease(lease, ...rest), [lease]),
    refresh: (leases, options) =>
      updated(client.refresh(leases, options), leases ?? [...view.keys(), ...client.leases().keys()]),
    leases: () => view,
  }
}
