/**
 * Leases on a store of records (`record.ts`), which has no clock and sends nothing: each operation is one conditional write.
 *
 *     what is known of the record ──decide──▶ write, on condition that it has that version ──▶ done
 *               ▲                                      │ it has another one
 *               └────────────── the record as it is ◀──┘
 *
 * - *No clocks.* Leases lapse by observation. A lease is taken over on the version that was observed to have lapsed.
 * - *Every request may be executed twice, and late*: it demands a version that never comes again. A copy of a write that was executed finds
 *   the version that it has written itself, and counts as done.
 * - *A write that was given up* may arrive as long as the record has the version that it demands. So the next operation on that lease changes
 *   the version, also if it has nothing else to write (`known-records.ts`).
 * - A refusal is answered only from a read, or from what a refused write has returned.
 * - *No push.* Hints are what is read again (`polled-hints.ts`).
 */
import type { LeaseChange } from '../client.ts'
import type { Clock } from '../clock.ts'
import { warnOfNoHints } from '../hint-stream.ts'
import type { Trapdoor } from '../lease.ts'
import { OncePerLease } from '../once-per-lease.ts'
import { countedOf } from '../share.ts'
import {
  contended,
  failsFor,
  granted,
  unknown,
  type Call,
  type ClaimOp,
  type Counted,
  type ExpireOp,
  type ExtendOp,
  type Holding,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateLimits,
  type SubstrateWarning,
  type Verdict,
} from '../substrate.ts'
import { countedIn, decideCounted, toldIn, type CountedOp, type Room } from './counted.ts'
import { decide, type Decision, type SingleOp } from './decide.ts'
import { KnownRecords, type Outcome } from './known-records.ts'
import { HINT_DELAY_MS, PolledHints } from './polled-hints.ts'
import { waitersIn } from './queue.ts'
import { ABSENT, holdingOf, type Abortable, type FoundRecords, type LeaseRecord, type RecordStore } from './record.ts'
import { sightOf, sightOfCounted, type Sight } from './sight.ts'

/** What a `RecordSubstrate` needs. */
export interface RecordSubstrateOptions {
  readonly store: RecordStore
  readonly clock: Clock
  /**
   * Takes a lease over as soon as the clock of its holder, taken to be this much behind the clock of this process at most, has passed the end
   * of the grant: in milliseconds. undefined: only what was observed for its whole duration is taken over.
   */
  readonly maxSkewMs: number | undefined
  /** Is called when hints fail, and once for each lease that a read passes over because somebody else wrote its record. */
  readonly onWarning: ((warning: SubstrateWarning) => void) | undefined
  /** The warning about such a record. @param reason the message of the failure that stands for it */
  readonly unreadable: (lease: string, reason: string) => SubstrateWarning
}

/** How long one look of waiters may take. */
const LOOK_MS = 5_000
/** How many times one operation may meet another at the same record before it counts as contended. */
const MOST_ROUNDS = 8
/** How many shares that have lapsed are ended at once. */
const MOST_ENDED = 25

/** The adapter adds how to batch, what is wrong with the set-up, and the trapdoor. */
export abstract class RecordSubstrate implements Substrate {
  abstract readonly limits: SubstrateLimits
  abstract readonly page: string
  readonly hintDelayMs: number = HINT_DELAY_MS
  readonly #options: RecordSubstrateOptions
  readonly #store: RecordStore
  readonly #clock: Clock
  readonly #records: KnownRecords
  /** By the client; undefined: of listeners to the whole namespace. */
  readonly #hints = new Map<string | undefined, PolledHints>()
  readonly #unreadable = new OncePerLease()

  constructor(options: RecordSubstrateOptions) {
    const { store, clock, maxSkewMs } = options
    this.#options = options
    this.#store = store
    this.#clock = clock
    this.#records = new KnownRecords(store, clock, maxSkewMs)
  }

  abstract inspect(call: Call): Promise<readonly SubstrateWarning[]>

  abstract trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor

  async close(): Promise<void> {}

  // ── operations ────────────────────────────────────────────────────────────────────────────────────────────────

  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    this.#records.sent(call)
    return Promise.all(ops.map((op) => this.#verdict(op, call)))
  }

  async #verdict(op: Op, call: Call): Promise<Verdict> {
    try {
      const { kind, lease } = op
      const before = this.#hints.get(call.client)
      if (kind === 'leave') before?.left(lease, op.place)
      else if (kind !== 'claim' && kind !== 'extend') before?.ends(lease)
      if (kind === 'leave' && op.place === undefined) return granted(undefined)
      const counted = countedOp(op)
      const decided = await (counted === undefined ? this.#onOne(op as SingleOp, call) : this.#onCounted(counted, call))
      const hints = this.#hints.get(call.client) // also one that has begun to listen in the meantime
      if (hints === undefined) return decided.verdict
      if (kind === 'claim' || kind === 'extend') this.#hear(op, decided, hints)
      const mayMakeRoom = counted === undefined && kind !== 'extend' && kind !== 'pin'
      return mayMakeRoom ? await this.#withTold(lease, decided.verdict, call) : decided.verdict
    } catch (error) {
      return failsFor(error, 'isContended') ? contended : unknown(error)
    }
  }

  /** What this client is to hear after a claim or an extension. */
  #hear(op: ClaimOp | ExtendOp, { verdict, after }: Decided<LeaseRecord | Room>, hints: PolledHints): void {
    const { lease } = op
    const { place = 0, share } = op.kind === 'claim' ? op : {}
    const name = countedOf(lease) ?? lease
    const { outcome, ticket } = verdict
    if (outcome === 'granted') {
      if (place > 0) hints.left(name, place)
      hints.holds(lease, this.#sight(this.#records.get(lease)))
    }
    if (ticket === undefined || after === undefined) return
    hints.waits(name, { place: ticket.place, weight: share?.weight ?? 1 }, this.#sight(after))
  }

  /** Who waits for the room that a share has left: those are passed over who do not come. It is vacant, also if the read fails. */
  async #withTold(share: string, verdict: Verdict, call: Call): Promise<Verdict> {
    const counted = countedOf(share)
    if (counted === undefined || verdict.outcome !== 'granted' || verdict.holding !== undefined) return verdict
    try {
      const { queue } = await this.#records.fetch(counted, call)
      if (queue.length === 0) return verdict
      return { ...verdict, told: toldIn(await this.#room(counted, call), { nowMs: this.#clock.now() }) }
    } catch {
      return verdict
    }
  }

  /** Decides on what is known of one record, and then on what there is. */
  async #onOne(op: SingleOp, call: Call): Promise<Decided<LeaseRecord>> {
    const { lease } = op
    let record = this.#records.get(lease)
    let isFresh = false
    for (let round = 0; round < MOST_ROUNDS; round++) {
      isFresh ||= record === undefined
      record ??= await this.#records.fetch(lease, call)
      const decision = decide(op, record, this.#records.context(call))
      if (isFresh || decision.writes.length > 0 || decision.verdict.outcome === 'late') {
        const outcome = await this.#carryOut(lease, record, decision, call)
        if (outcome.isDone) return decision
        record = outcome.records[0]
        isFresh = record !== undefined
      } else record = undefined
    }
    return { verdict: contended }
  }

  async #onCounted(asked: CountedOp, call: Call): Promise<Decided<Room>> {
    const { counted, op } = asked
    for (let round = 0; round < MOST_ROUNDS; round++) {
      // Known before the shares are read: a grant in between changes it, and then the write fails.
      const before = this.#records.get(counted) ?? (await this.#records.fetch(counted, call))
      const room = await this.#room(counted, call)
      const { gate, shares } = room
      if (gate.version !== before.version) {
        this.#records.learn(counted, gate)
        continue
      }
      const decision = decideCounted(asked, room, this.#records.context(call))
      if (decision.ends !== undefined) {
        await this.#end(decision.ends, call)
        continue
      }
      const record = op.lease === counted ? gate : (shares.get(op.lease) ?? ABSENT)
      if ((await this.#carryOut(op.lease, record, decision, call)).isDone) return decision
    }
    return { verdict: contended }
  }

  /** @param record that of this lease, as it was found */
  async #carryOut(
    lease: string,
    record: LeaseRecord,
    { verdict, writes }: Decision<unknown>,
    call: Call,
  ): Promise<Outcome> {
    if (verdict.outcome === 'late') return { isDone: true, records: [] }
    if (writes.length > 0) return this.#records.write(writes, call)
    return { isDone: await this.#records.settle(lease, record, call), records: [] }
  }

  async #end(ends: readonly ExpireOp[], call: Call): Promise<void> {
    for (let from = 0; from < ends.length; from += MOST_ENDED) {
      await Promise.all(ends.slice(from, from + MOST_ENDED).map((op) => this.#onOne(op, call)))
    }
  }

  // ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    const holdings = new Map<string, Holding>()
    const records = await this.#read(leases, call)
    for (const lease of watched) this.#hints.get(call.client)?.watches(lease, this.#sight(records.get(lease)))
    for (const [lease, record] of records) {
      const holding = holdingOf(record)
      if (holding !== undefined) holdings.set(lease, holding)
    }
    return holdings
  }

  async counted(lease: string, call: Call): Promise<Counted> {
    return countedIn(await this.#room(lease, call))
  }

  async waiting(lease: string, call: Call): Promise<number> {
    return waitersIn(await this.#records.fetch(lease, call), { nowMs: this.#clock.now() }).length
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    const all = [...(await this.#read(leases, call))]
    return new Map(all.flatMap(([lease, { pins }]) => (pins.size === 0 ? [] : [[lease, pins]])))
  }

  async #room(counted: string, call: Abortable): Promise<Room> {
    const records = this.#readable(await this.#store.readAll(counted, call))
    const gate = records.get(counted) ?? ABSENT
    records.delete(counted)
    return { gate, shares: records }
  }

  async #read(leases: readonly string[] | undefined, call: Abortable): Promise<ReadonlyMap<string, LeaseRecord>> {
    return this.#readable(await (leases === undefined ? this.#store.readAll('', call) : this.#store.read(leases, call)))
  }

  /** What the records say. One that somebody else wrote hides no other, and is reported, once for each lease. */
  #readable(found: FoundRecords): Map<string, LeaseRecord> {
    const { unreadable, onWarning } = this.#options
    const records = new Map<string, LeaseRecord>()
    for (const [lease, record] of found) {
      if (!(record instanceof Error)) records.set(lease, record)
      else if (this.#unreadable.isFirst(lease)) onWarning?.(unreadable(lease, record.message))
    }
    return records
  }

  // ── hints ─────────────────────────────────────────────────────────────────────────────────────────────────────

  watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    const own = (change: LeaseChange): void => listener(change)
    const hints = this.#hints.get(client) ?? this.#newHints(client)
    this.#hints.set(client, hints)
    hints.add(own)
    return () => {
      hints.delete(own)
      if (!hints.isUsed && this.#hints.get(client) === hints) this.#hints.delete(client)
    }
  }

  #newHints(client: string | undefined): PolledHints {
    const hints = new PolledHints({
      clock: this.#clock,
      client,
      look: (leases) => this.#look(leases),
      failed: warnOfNoHints(
        (warning) => this.#options.onWarning?.(warning),
        (error) => error,
      ),
    })
    // Terms that it got before it began to listen.
    for (const [lease, record] of client === undefined ? [] : this.#records.all()) {
      const sight = this.#sight(record)
      if (sight.isHeld && sight.maker === client) hints.holds(lease, sight)
    }
    return hints
  }

  #sight(found: LeaseRecord | Room = ABSENT): Sight {
    const nowMs = this.#clock.now()
    return 'gate' in found ? sightOfCounted(found, nowMs) : sightOf(found, nowMs)
  }

  async #look(leases: readonly string[] | undefined): Promise<ReadonlyMap<string, Sight>> {
    const controller = new AbortController()
    const { signal } = controller
    const timer = this.#clock.setTimer(LOOK_MS, () => controller.abort())
    const isCounted = (lease: string): boolean => countedOf(lease) === lease
    const isStanding = (record: LeaseRecord): boolean => !this.#records.isOver(record)
    try {
      const [records, rooms] = await Promise.all([
        this.#read(
          leases?.filter((lease) => !isCounted(lease)),
          { signal },
        ),
        Promise.all(
          (leases ?? []).filter(isCounted).map(async (lease) => [lease, await this.#room(lease, { signal })] as const),
        ),
      ])
      const sights = new Map<string, Sight>()
      for (const [lease, record] of records) {
        sights.set(lease, this.#sight(isStanding(record) ? record : { ...record, term: undefined }))
      }
      for (const [lease, { gate, shares }] of rooms) {
        sights.set(lease, this.#sight({ gate, shares: new Map([...shares].filter(([, share]) => isStanding(share))) }))
      }
      return sights
    } finally {
      timer.cancel()
    }
  }
}

/** A verdict, and what there is afterwards; undefined: that is not known. */
type Decided<Found> = Pick<Decision<Found>, 'verdict'> & { readonly after?: Found }

/** As an operation on a counted lease; undefined: it is none. */
function countedOp(op: Op): CountedOp | undefined {
  const counted = countedOf(op.lease)
  if (op.kind === 'define') return { counted: op.lease, op }
  if (counted === undefined) return undefined
  if (op.kind === 'passOver') return { counted, op }
  return op.kind === 'claim' && op.share !== undefined ? { counted, op: { ...op, share: op.share } } : undefined
}
