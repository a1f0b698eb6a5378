/**
 * Claims of shares: the gate of the counted lease decides each (`gates.ts`), and the queue is that of the counted lease.
 *
 *     known to fit ──▶ gate, share and queue are as was known? ──yes──▶ puts share and gate: granted, in one round trip
 *                                  │ no
 *     not known ──────────────▶ reads the gate, the first shares, the first tickets ──fits, and it is next──▶ as above
 *                                  │ does not fit
 *                                  └──▶ all shares (core observes them) ──▶ refused; one who waits puts its ticket, and reads again
 *
 * - While the gate is as it was read, the shares only become fewer. So a transaction that finds the gate unchanged finds room
 *   where there was room, and one that does not has lost to another grant or definition: somebody always comes through.
 * - The first claim that names a capacity makes the gate, where no share was created since it read them.
 * - Shares that were observed to have lapsed are removed by the grant that needs their room, as they were read: for itself, or for those
 *   whom it passes.
 * - Each demands that nobody is ahead; or that nobody came to those whom it passes since it read them.
 */
import {
  countedOf,
  DEFINITION_MS,
  granted,
  INTEREST_MS,
  refused,
  TOLD,
  type ClaimOp,
  type ShareOp,
  type Verdict,
} from 'lease-core/adapter'
import { IN_SIGHT } from './client-hints.ts'
import type { EtcdAnswer, EtcdCompare, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { failureOf } from './explain.ts'
import { gateOf, weightIn, type Gate } from './gates.ts'
import {
  bodyOf,
  endOf,
  foundIn,
  holdingOf,
  ticketIn,
  ticketOf,
  type Body,
  type FoundTicket,
  type Keys,
} from './layout.ts'
import type { Step } from './requests.ts'
import { completed, countedIn, fits, isComplete, onceRead, roomIn, roomReads, weightsOf, type Room } from './room.ts'
import {
  allBy,
  foundBy,
  get,
  isAbsent,
  isEmpty,
  isPresent,
  isUnchanged,
  lastOf,
  NO_LEASE,
  noneNewSince,
  noneSince,
  pageOf,
  ping,
  put,
  remove,
  when,
} from './txn.ts'
import { fitsFirst, removedTicket, tell, ticketsOf, withdrawn, type StepContext } from './waiting.ts'

/** How many shares that have lapsed a grant removes. */
const MOST_LAPSED = 40
/** How many are removed in a transaction of their own where that is not enough. */
const MOST_SWEPT = 100
/** How many of those ahead are read beside the rest by one that may pass them; more are read where all of these may be passed. */
const MOST_SEEN = 100

/** What the claim makes of its own share, which is there. */
type Contend = (kv: EtcdKeyValue) => Verdict | Step

/** What a grant goes by. */
interface Grounds {
  /** The gate that it leaves, but for the weight of this share. */
  readonly gate: Gate
  /** `mod_revision` of the gate; `0`: it is absent. */
  readonly version: string
  /** Of the shares that stand, without those that are removed. */
  readonly weight: number
  /** The revision at which this was read. */
  readonly asOf: string
  readonly isPinned: boolean
  readonly lapsed: readonly EtcdKeyValue[]
  /** Those ahead, in their order. */
  readonly passed: readonly FoundTicket[]
}

/** What was read. */
interface Found {
  readonly room: Room
  readonly isPinned: boolean
  /** How many are ahead; of one that does not wait, how many are in the queue. */
  readonly ahead: number
  /** The nearest of them, in their order; of one that does not wait the first. All, if it passes them. */
  readonly tickets: readonly FoundTicket[]
  /** Of one that has its ticket: the first `TOLD` in the queue. */
  readonly queue: readonly FoundTicket[]
  /** And how many tickets there are, with its own. */
  readonly waiting: number
}

export function claimShare(op: ClaimOp, context: StepContext, contend: Contend): Verdict | Step {
  return new ShareClaim(op, context, contend).begin()
}

class ShareClaim {
  readonly #op: ClaimOp
  readonly #share: ShareOp
  readonly #context: StepContext
  readonly #contend: Contend
  readonly #name: string
  readonly #keys: Keys
  /** Those of the counted lease. */
  readonly #queue: Keys
  readonly #body: Body
  #place: number | undefined
  /** The place was given to it by this very claim. */
  #isNew = false
  /** Shares cannot be read beside others: they are too large. */
  #countOnly = false

  constructor(op: ClaimOp, context: StepContext, contend: Contend) {
    this.#op = op
    this.#share = op.share as ShareOp
    this.#context = context
    this.#contend = contend
    this.#name = countedOf(op.lease) as string
    this.#keys = context.layout.keysOf(op.lease)
    this.#queue = this.#keys.queue
    this.#body = { ...op, weight: this.#share.weight }
    this.#place = op.place
  }

  /** By what is known of the gate; of one that nobody knows, as if it were the first claim. */
  begin(): Verdict | Step {
    const { lapsed } = this.#op
    if (lapsed !== undefined) return this.#takeOver(lapsed)
    const { weight, capacity } = this.#share
    const known = this.#context.gates.get(this.#name)
    if (known === undefined) {
      if (capacity === undefined) return this.#look()
      return this.#grant({ ...FIRST, gate: { ...this.#gateByUse(capacity, undefined), heaviest: weight } })
    }
    const { gate, version, asOf } = known
    const defined = gate.capacity ?? capacity
    if (defined === undefined || (capacity ?? defined) !== defined || known.weight + weight > defined)
      return this.#look()
    const after = gate.capacity === undefined ? { ...this.#gateByUse(defined, gate), heaviest: gate.heaviest } : gate
    return this.#grant({ ...FIRST, gate: after, version, weight: known.weight, asOf: String(asOf) })
  }

  /** @param before the mark, if there is one */
  #gateByUse(capacity: number, before: Gate | undefined): Gate {
    const unknown = { heaviest: undefined, weight: undefined }
    return { capacity, generation: this.#op.nonce, byUse: true, ...unknown, first: before?.first }
  }

  get #own(): Buffer {
    return this.#queue.ticket(this.#place ?? 0, this.#context.client)
  }

  get #waits(): boolean {
    return this.#place !== undefined && this.#place > 0
  }

  /** The end of the range of those ahead: without a ticket it is behind all. */
  get #endOfAhead(): Buffer {
    return this.#waits ? this.#own : endOf(this.#queue.tickets)
  }

  /** Ends the own term that has lapsed: a term begins with the creation of its key. */
  #takeOver(version: string): Step {
    const { key, pin } = this.#keys
    return {
      coverMs: undefined,
      request: () => when([isUnchanged(key, version), isAbsent(pin)], [remove(key)], []),
      next: () => this.#look(),
    }
  }

  // ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────────

  /** Reads all that a decision needs. One who waits gets into the queue in the same step as it sees the state. */
  #look(prepare?: Step['prepare']): Step {
    return {
      ...this.#step(this.#place !== undefined),
      prepare,
      request: (lease) => when([], this.#reads(lease), []),
      next: ({ response_txn: { responses } }, revision) => this.#found(responses, revision),
    }
  }

  /** Puts share and gate if that can be done, and otherwise looks. */
  #grant(grounds: Grounds): Step {
    const { durationMs } = this.#op
    const { weight } = this.#share
    const { gate } = grounds
    const heaviest = gate.heaviest === undefined ? undefined : Math.max(gate.heaviest, weight)
    const after: Gate = { ...gate, heaviest, weight: grounds.weight + weight }
    const conditions = this.#conditions(grounds)
    return {
      ...this.#step(true),
      gateCoverMs: after.byUse ? durationMs + DEFINITION_MS : undefined,
      request: (lease, gateLease) =>
        when(conditions, this.#writes(grounds, after, { lease, gateLease }), this.#reads(lease)),
      next: ({ response_txn: { succeeded, responses } }, revision) =>
        succeeded ? this.#granted(grounds, after, responses, revision) : this.#found(responses, revision),
    }
  }

  #step(writes: boolean): Pick<Step, 'coverMs' | 'counted' | 'opens' | 'instead'> {
    const { durationMs } = this.#op
    return {
      coverMs: !writes ? undefined : this.#place === undefined ? durationMs : Math.max(INTEREST_MS, durationMs),
      counted: this.#name,
      opens: writes,
      instead: (error) => {
        if (failureOf(error) !== 'too-large' || this.#countOnly) return undefined
        this.#countOnly = true
        return this.#look()
      },
    }
  }

  #conditions({ version, asOf, isPinned, lapsed, passed }: Grounds): EtcdCompare[] {
    const { key, pin } = this.#keys
    const { gate, key: shares, tickets } = this.#queue
    return [
      ...(version === ABSENT
        ? [isAbsent(gate), noneNewSince(shares, endOf(shares), asOf)]
        : [isUnchanged(gate, version)]),
      isAbsent(key),
      isPinned ? isPresent(pin) : isAbsent(pin),
      passed.length > 0 ? noneSince(tickets, this.#endOfAhead, asOf) : isEmpty(tickets, this.#endOfAhead),
      ...lapsed.map((kv) => isUnchanged(kv.key, kv.mod_revision)),
    ]
  }

  #writes(
    { isPinned, lapsed, passed }: Grounds,
    after: Gate,
    { lease, gateLease }: { readonly lease: string; readonly gateLease: string },
  ): EtcdRequest[] {
    const { announce, durationMs } = this.#op
    const { key, news } = this.#keys
    const { gate, served, tickets } = this.#queue
    const writes = [
      put(key, bodyOf(this.#body), isPinned ? NO_LEASE : lease),
      put(gate, gateOf(after), after.byUse ? gateLease : NO_LEASE),
      ...(announce === true ? [ping(news, lease)] : []),
      ...lapsed.map((kv) => remove(kv.key)),
    ]
    if (this.#waits) {
      const tidings = Buffer.from(JSON.stringify({ taken: [[this.#name, this.#place, durationMs]] }))
      writes.push(
        put(served, tidings, lease),
        // Those who were notified, and did not come.
        ...passed.slice(0, TOLD).map(({ place, client }) => remove(this.#queue.ticket(place, client))),
        remove(this.#own),
      )
    } else if (passed.length === 0) return writes
    return [
      ...writes,
      ...roomReads(this.#queue, { countOnly: this.#countOnly || after.heaviest === 1 }),
      pageOf(tickets, endOf(tickets), TOLD),
    ]
  }

  #reads(lease: string): EtcdRequest[] {
    const { key, pin } = this.#keys
    const { counter, tickets } = this.#queue
    const place = this.#place
    const end = this.#endOfAhead
    const seen = Math.min(this.#share.passing, MOST_SEEN)
    return [
      get(key),
      get(pin),
      ...roomReads(this.#queue, { countOnly: this.#countOnly }),
      place === undefined ? pageOf(tickets, end, Math.max(TOLD, seen)) : lastOf(tickets, end, Math.max(IN_SIGHT, seen)),
      ...(place === 0 ? [ping(counter, lease)] : []),
      // The holder of a share waits for none.
      ...(this.#waits ? [when([isAbsent(key)], [put(this.#own, ticketOf(this.#op), lease)], [])] : []),
      ...(this.#waits ? [pageOf(tickets, endOf(tickets), TOLD)] : []),
    ]
  }

  // ── what was found ────────────────────────────────────────────────────────────────────────────────────────────

  #found(answers: readonly EtcdAnswer[], revision: string): Verdict | Step {
    const kv = foundBy(answers)
    const room = roomIn(answers, 2, revision)
    this.#learn(room)
    if (kv !== undefined) return this.#held(kv)
    const { kvs, count } = allBy(answers, 4)
    const tickets = kvs.map(ticketIn)
    if (this.#place !== undefined) tickets.reverse()
    return this.#decide({
      room,
      isPinned: foundBy(answers, 1) !== undefined,
      ahead: Number(count),
      tickets,
      queue: this.#waits ? ticketsOf(answers, 6) : [],
      waiting: this.#isNew ? Number(allBy(answers, 6).count) : 0,
    })
  }

  #learn(room: Room): void {
    const { gates } = this.#context
    const { gate, gateKv, revision } = room
    if (gate === undefined || gateKv === undefined) return gates.forget(this.#name)
    const { most: weight } = weightsOf(room)
    gates.learn(this.#name, { gate, version: gateKv.mod_revision, weight, asOf: Number(revision) })
  }

  /** The share is there: that of this claim, or an earlier one of the holder. */
  #held(kv: EtcdKeyValue): Verdict | Step {
    const { holding } = foundIn(kv)
    if (
      !holding.pinned &&
      holding.nonce !== this.#op.nonce &&
      this.#share.lapsed.get(this.#op.lease) === kv.mod_revision
    ) {
      return this.#takeOver(kv.mod_revision)
    }
    if (this.#waits) this.#context.hints?.left(this.#name, this.#place as number)
    return this.#contend(kv)
  }

  #decide(found: Found): Verdict | Step {
    const { room, isPinned, ahead, tickets } = found
    const { weight, capacity } = this.#share
    const { gate } = room
    const defined = gate?.capacity ?? capacity
    if (defined === undefined || weight > defined || (capacity ?? defined) !== defined) {
      return this.#complete(found, (all) => this.#refuse(all, { isOver: true }))
    }
    const isFitting = fits(room, weight, defined)
    if (isFitting !== true && !isComplete(room)) return this.#complete(found, (all) => this.#decide(all))

    const { most } = weightsOf(room)
    const lapsed = this.#lapsedIn(room)
    const left = defined - most + sum(lapsed)
    const isFull = weight > left
    // There must be room for each of those that it passes, too.
    const mayPass = ahead <= this.#share.passing
    const needed = mayPass ? tickets.reduce((heaviest, one) => Math.max(heaviest, one.weight), weight) : weight
    const isNext = mayPass && needed <= left
    if (!isFull && isNext && tickets.length < ahead) return this.#seeAllAhead(found)
    if (isFull || !isNext) {
      if (!isComplete(room)) return this.#complete(found, (all) => this.#decide(all))
      return gate?.capacity === undefined ? this.#defineByUse(room, defined) : this.#refuse(found, { left })
    }
    const removed = enough(lapsed, most + needed - defined)
    if (removed.length > MOST_LAPSED) return this.#sweep(removed)
    return this.#grant({
      gate: gate?.capacity === undefined ? { ...this.#gateByUse(defined, gate), heaviest: this.#heaviest(room) } : gate,
      version: room.gateKv?.mod_revision ?? ABSENT,
      weight: most - sum(removed),
      asOf: room.revision,
      isPinned,
      lapsed: removed,
      passed: tickets,
    })
  }

  #complete(found: Found, next: (found: Found) => Verdict | Step): Verdict | Step {
    const withAll = (room: Room): Verdict | Step => next({ ...found, room })
    return completed(found.room, this.#queue, this.#context.readRest, withAll, () => this.#look())
  }

  #seeAllAhead(found: Found): Step {
    const { tickets: key, gate } = this.#queue
    const range = { key, range_end: this.#endOfAhead, revision: found.room.revision }
    const withAll = (kvs: readonly EtcdKeyValue[]): Verdict | Step =>
      this.#decide({ ...found, ahead: kvs.length, tickets: kvs.map(ticketIn) })
    return onceRead(range, gate, this.#context.readRest, withAll, () => this.#look())
  }

  #heaviest({ gate, shares }: Room): number | undefined {
    return gate === undefined ? Math.max(1, ...shares.map(weightIn)) : gate.heaviest
  }

  /** The shares that were observed to have lapsed, and are as they were observed. */
  #lapsedIn({ shares }: Room): EtcdKeyValue[] {
    const { lapsed } = this.#share
    if (lapsed.size === 0) return []
    const { layout, named } = this.#context
    return shares.filter((kv) => {
      const lease = layout.nameOf(kv.key)
      return lapsed.get(lease) === kv.mod_revision && kv.lease !== NO_LEASE && !named.has(lease)
    })
  }

  // ── what follows ──────────────────────────────────────────────────────────────────────────────────────────────

  #granted(grounds: Grounds, gate: Gate, answers: readonly EtcdAnswer[], revision: string): Verdict | Step {
    const { gates, hints } = this.#context
    const verdict = granted(holdingOf(this.#body, revision, { since: revision, pinned: grounds.isPinned }))
    const known = { gate, version: revision, weight: grounds.weight + this.#share.weight, asOf: Number(revision) }
    if (!this.#waits && grounds.passed.length === 0) {
      gates.learn(this.#name, known)
      return verdict
    }
    if (this.#waits) hints?.left(this.#name, this.#place as number)
    const room = { ...roomIn(answers, answers.length - 3, revision), gate }
    gates.learn(this.#name, { ...known, weight: Math.min(known.weight, weightsOf(room).most) })
    const first = ticketsOf(answers, answers.length - 1)
    return fitsFirst(room, first) ? tell(this.#name, this.#queue, first, { verdict }) : verdict
  }

  /** It is the first claim that names a capacity, although there is no room for it. */
  #defineByUse(room: Room, capacity: number): Step {
    const { gate, key } = this.#queue
    const { gateKv, revision } = room
    const after = {
      ...this.#gateByUse(capacity, room.gate),
      heaviest: this.#heaviest(room),
      weight: weightsOf(room).most,
    }
    const conditions =
      gateKv === undefined
        ? [isAbsent(gate), noneNewSince(key, endOf(key), revision)]
        : [isUnchanged(gate, gateKv.mod_revision)]
    return {
      coverMs: undefined,
      gateCoverMs: this.#op.durationMs + DEFINITION_MS,
      counted: this.#name,
      opens: true,
      request: (_lease, gateLease) => when(conditions, [put(gate, gateOf(after), gateLease)], []),
      next: () => this.#look(),
    }
  }

  /** Removes shares that have lapsed, too many for the grant. */
  #sweep(lapsed: readonly EtcdKeyValue[]): Step {
    const removals = lapsed
      .slice(0, MOST_SWEPT)
      .map((kv) => when([isUnchanged(kv.key, kv.mod_revision)], [remove(kv.key)], []))
    return {
      coverMs: undefined,
      counted: this.#name,
      request: () => when([], removals, []),
      next: () => this.#look(),
    }
  }

  /**
   * @param found with all shares
   * @param why.left the room that there is
   * @param why.isOver no wait makes this a share that is granted
   */
  #refuse(
    { room, ahead, tickets, queue, waiting }: Found,
    { left = 0, isOver = false }: { readonly left?: number; readonly isOver?: boolean },
  ): Verdict | Step {
    const { layout, hints } = this.#context
    const { maxWaiters = Number.POSITIVE_INFINITY, place: asked } = this.#op
    const verdict: Verdict = { ...refused(undefined), counted: countedIn(room, layout) }
    const isFull = this.#share.weight > left
    const place = this.#place
    if (place === undefined) {
      const [first] = tickets
      return isOver || isFull || first === undefined || first.weight > left
        ? verdict
        : tell(this.#name, this.#queue, tickets.slice(0, TOLD), { verdict })
    }
    if (place === 0) {
      if (isOver) return verdict
      return isFull && ahead >= maxWaiters ? { ...verdict, isFull: true } : this.#enter(room.revision, ahead, tickets)
    }
    const isTooMany = isFull && waiting > maxWaiters
    if (isOver || isTooMany) {
      // One that came with its ticket leaves by itself.
      if (asked === place) return verdict
      hints?.left(this.#name, place)
      const refusal = isOver ? verdict : { ...verdict, isFull: true }
      return withdrawn(
        this.#own,
        removedTicket(this.#own, () => refusal),
        refusal,
      )
    }
    hints?.queued(this.#name, place, { count: ahead, nearest: nearestOf(tickets) }, room.revision, {
      weight: this.#share.weight,
      room,
    })
    const refusal = { ...verdict, ticket: { place, ahead } }
    const [first] = queue
    if (isFull || first === undefined || first.weight > left) return refusal
    // It has met nothing but tickets, and sees to it that those who have them come. Anyone who has just come knows that they were notified.
    if (!this.#isNew) return tell(this.#name, this.#queue, queue, { verdict: refusal })
    return { ...refusal, told: queue.findLast((ticket) => ticket.place < place)?.place }
  }

  /** The revision of its first refusal is its place. Then it hears of whatever comes after the state that it is answered. */
  #enter(revision: string, ahead: number, tickets: readonly FoundTicket[]): Step {
    const { hints } = this.#context
    const place = Number(revision)
    this.#place = place
    this.#isNew = true
    const joining = { place, ahead: { count: ahead, nearest: nearestOf(tickets) } }
    return this.#look((leftMs) => hints?.join(this.#name, { ...joining, leftMs }))
  }
}

const ABSENT = '0'

/** Of a claim that nothing is known about. */
const FIRST = { version: ABSENT, weight: 0, asOf: '0', isPinned: false, lapsed: [], passed: [] } as const

function sum(shares: readonly EtcdKeyValue[]): number {
  let weight = 0
  for (const kv of shares) weight += weightIn(kv)
  return weight
}

/** So many of the heaviest of these as weigh that much together. */
function enough(shares: readonly EtcdKeyValue[], weight: number): readonly EtcdKeyValue[] {
  const heaviest = shares.toSorted((one, other) => weightIn(other) - weightIn(one))
  let [taken, gone] = [0, 0]
  while (gone < weight && taken < heaviest.length) gone += weightIn(heaviest[taken++] as EtcdKeyValue)
  return heaviest.slice(0, taken)
}

/** As watches want them: the last one first. */
function nearestOf(tickets: readonly FoundTicket[]): FoundTicket[] {
  return tickets.toReversed().slice(0, IN_SIGHT)
}
