/**
 * The substrate on DynamoDB: one item for each lease (`layout.ts`), and each operation one conditional write.
 *
 *     what is known of the item ──decide──▶ write, on condition that the item has that version ──▶ done
 *               ▲                                      │ it has another one
 *               └────────────── the item as it is ◀────┘ (a refused write returns it)
 *
 * - *No clocks.* Leases lapse by observation. A lease is taken over on the version that was observed to have lapsed.
 * - *Every request may be executed twice, and late*: it demands a version that never comes again. A copy of a write that was executed finds
 *   the version that it has written itself, and counts as done.
 * - *A write that was given up* may arrive as long as the item has the version that it demands. So the next operation on that lease changes
 *   the version, also if it has nothing else to write (`known-items.ts`).
 * - *Reads are consistent*, always. A refusal is answered only from a read, or from what a refused write has returned.
 */
import { systemClock, type Clock, type LeaseChange, type Trapdoor } from 'lease-core'
import {
  contended,
  countedOf,
  granted,
  late,
  refused,
  unknown,
  warnOfNoHints,
  type Call,
  type ClaimOp,
  type Counted,
  type Holding,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from 'lease-core/adapter'
import { bumped, decide, type Decision, type SingleOp } from './decide.ts'
import type { Item } from './driver.ts'
import { explained, isContended } from './explain.ts'
import { dynamoTrapdoor } from './guard.ts'
import { Items } from './items.ts'
import { ABSENT, holdingOf, nameOf, stateIn, type State } from './layout.ts'
import { parseOptions, type DynamodbSubstrateOptions } from './options.ts'
import { HINT_DELAY_MS, PolledHints, type Sight } from './polled-hints.ts'
import { waitersIn } from './queue.ts'
import { Requests, type Abortable } from './requests.ts'
import { claimShare, countedIn, define, passOver, toldIn, type Room, type SharesHost } from './shares.ts'
import { sightOf, sightOfCounted } from './sights.ts'
import { tableWarnings } from './table.ts'

/** Each operation is a request of its own. At most as many are under way as the SDK has sockets, which is 50. */
const limits: Substrate['limits'] = { maxOps: 10, maxInFlight: 5, enoughOps: 1 }
/** How many leases that cannot be read are remembered; beyond this they are reported once more. */
const MOST_NAMED = 1_000
/** How long one look of those who wait may take. */
const LOOK_MS = 5_000
/** How many times one operation may meet another at the same item before it counts as contended. */
const MOST_ROUNDS = 6

export class DynamodbSubstrate implements Substrate {
  readonly #requests: Requests
  readonly #items: Items
  readonly #shares: SharesHost
  readonly #table: string
  readonly #clock: Clock
  /** By the client; undefined: of those who hear of everything. */
  readonly #hints = new Map<string | undefined, PolledHints>()
  readonly #onWarning: DynamodbSubstrateOptions['onWarning']
  /** Leases that a warning has named. */
  readonly #unreadable = new Set<string>()

  /** @throws ErrNotValid with every problem */
  constructor(options: DynamodbSubstrateOptions) {
    const {
      client,
      table,
      namespace,
      maxSkewMs,
      clock = systemClock,
      onWarning,
    } = parseOptions(options, { client: false })
    this.#table = table
    this.#clock = clock
    this.#onWarning = onWarning
    this.#requests = new Requests(client, table, namespace)
    this.#items = new Items(this.#requests, clock, maxSkewMs)
    this.#shares = {
      items: this.#items,
      read: (counted, call) => this.#room(counted, call),
      expire: async (lease, lapsed, call) =>
        (await this.#applied({ kind: 'expire', lease, lapsed }, call)).verdict.outcome === 'granted',
      settle: (lease, state, call) => this.#settled(lease, state, call),
    }
  }

  get page(): string {
    return 'docs/substrates/dynamodb.md'
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  get hintDelayMs(): number {
    return HINT_DELAY_MS
  }

  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    this.#items.known.sent(call.client, call.epoch)
    return Promise.all(ops.map((op) => this.#verdict(op, call)))
  }

  async #verdict(op: Op, call: Call): Promise<Verdict> {
    const hints = this.#hints.get(call.client)
    try {
      if (op.kind === 'define') return await define(op, call, this.#shares)
      const counted = countedOf(op.lease)
      if (op.kind === 'passOver' && counted !== undefined) return await passOver(op, call, this.#shares)
      if (op.kind === 'claim') return await this.#claim(op, call)
      if (op.kind === 'leave') {
        if (op.place === undefined) hints?.unwatch(op.lease)
        else hints?.left(op.lease, op.place)
        if (op.place === undefined) return granted(undefined)
      } else if (op.kind !== 'extend') hints?.ends(op.lease)
      const { verdict, state } = await this.#applied(op, call)
      if (op.kind === 'extend' && verdict.outcome === 'granted') hints?.holds(op.lease, this.#sight(state))
      const mayTell =
        op.kind !== 'extend' && op.kind !== 'pin' && verdict.outcome === 'granted' && verdict.holding === undefined
      if (!mayTell || counted === undefined || hints === undefined) return verdict
      return { ...verdict, told: await this.#toldOf(counted, call) }
    } catch (error) {
      return isContended(error) ? contended : unknown(error)
    }
  }

  /** Who waits for the room that is there now: those are passed over who do not come. A release whose read fails has vacated it all the same. */
  async #toldOf(counted: string, call: Call): Promise<number | undefined> {
    try {
      const { queue } = await this.#items.fetch(counted, call)
      if (queue.length === 0) return undefined
      return toldIn(await this.#room(counted, call), { nowMs: this.#clock.now() })
    } catch {
      return undefined
    }
  }

  async #claim(op: ClaimOp, call: Call): Promise<Verdict> {
    const { share, place } = op
    const name = share === undefined ? op.lease : (countedOf(op.lease) ?? op.lease)
    let verdict: Verdict
    let sight = (): Sight | undefined => undefined
    if (share === undefined) {
      const applied = await this.#applied(op, call)
      verdict = applied.verdict
      sight = () => this.#sight(applied.state)
    } else {
      const { verdict: decided, room } = await claimShare(op, call, this.#shares)
      verdict = decided
      if (room !== undefined) sight = () => sightOfCounted(room, this.#clock.now())
    }
    const hints = this.#hints.get(call.client) // those who have begun to listen in the meantime, too
    if (hints === undefined) return verdict
    const { outcome, ticket } = verdict
    if (outcome === 'granted') {
      if (place !== undefined && place > 0) hints.left(name, place)
      hints.holds(op.lease, this.#sight(this.#items.known.get(op.lease)))
    }
    const seen = ticket === undefined ? undefined : sight()
    if (ticket !== undefined && seen !== undefined) {
      hints.waits(name, { place: ticket.place, weight: share?.weight ?? 1 }, seen)
    }
    return verdict
  }

  async #applied(op: SingleOp, call: Call): Promise<{ readonly verdict: Verdict; readonly state?: State }> {
    const { lease } = op
    const { known } = this.#items
    let state = known.get(lease)
    let isFresh = false
    for (let round = 0; round < MOST_ROUNDS; round++) {
      if (state === undefined) {
        state = await this.#items.fetch(lease, call)
        isFresh = true
      }
      const context = this.#items.context(call)
      const decision = decide(op, state, context)
      if (decision.outcome === 'late') return { verdict: late }
      const { after } = decision
      if (after === undefined) {
        if (isFresh && (await this.#settled(lease, state, call))) return { verdict: verdictOf(decision, state), state }
        state = isFresh ? known.get(lease) : undefined
        continue
      }
      const outcome = await this.#items.write({ lease, was: state.version, after }, call)
      if (outcome.isDone)
        return { verdict: verdictOf(decision, outcome.state ?? ABSENT), state: outcome.state ?? ABSENT }
      state = outcome.state
      isFresh = true
    }
    return { verdict: contended }
  }

  /** Sees to it that no write that was given up can still arrive. Returns false if the item has changed in the meantime. */
  async #settled(lease: string, state: State, call: Call): Promise<boolean> {
    if (!this.#items.known.doubts(lease).some(({ was }) => was === state.version)) return true
    const after = bumped(lease, state, this.#items.context(call))
    return (await this.#items.write({ lease, was: state.version, after }, call)).isDone
  }

  async read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    const holdings = new Map<string, Holding>()
    const states = await this.#read(leases, call)
    for (const lease of watched) this.#hints.get(call.client)?.watches(lease, this.#sight(states.get(lease)))
    for (const [lease, state] of states) {
      const holding = holdingOf(state)
      if (holding !== undefined) holdings.set(lease, holding)
    }
    return holdings
  }

  async counted(lease: string, call: Call): Promise<Counted> {
    return countedIn(await this.#room(lease, call))
  }

  async waiting(lease: string, call: Call): Promise<number> {
    return waitersIn(await this.#items.fetch(lease, call), { nowMs: this.#clock.now() }).length
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    const all = [...(await this.#read(leases, call))]
    return new Map(all.flatMap(([lease, { pins }]) => (pins.size === 0 ? [] : [[lease, pins]])))
  }

  async inspect(call: Call): Promise<readonly SubstrateWarning[]> {
    return tableWarnings(await this.#requests.describe(call))
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return dynamoTrapdoor({ table: this.#table, key: this.#requests.key(lease), lease, holder, fencingToken })
  }

  async close(): Promise<void> {}

  watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    const own = (change: LeaseChange): void => listener(change)
    const options = {
      clock: this.#clock,
      client,
      look: (leases: readonly string[] | undefined) => this.#look(leases),
      failed: warnOfNoHints((warning) => this.#onWarning?.(warning), explained),
    }
    const hints = this.#hints.get(client) ?? new PolledHints(options)
    if (client !== undefined && !this.#hints.has(client)) {
      // Terms that it got before it began to listen.
      for (const [lease, state] of this.#items.known.all()) {
        const sight = this.#sight(state)
        if (sight.isHeld && sight.maker === client) hints.holds(lease, sight)
      }
    }
    this.#hints.set(client, hints)
    hints.add(own)
    return () => {
      hints.delete(own)
      if (!hints.isUsed && this.#hints.get(client) === hints) this.#hints.delete(client)
    }
  }

  #sight(state: State | undefined): Sight {
    return sightOf(state, this.#clock.now())
  }

  async #look(leases: readonly string[] | undefined): Promise<ReadonlyMap<string, Sight>> {
    const controller = new AbortController()
    const { signal } = controller
    const timer = this.#clock.setTimer(LOOK_MS, () => controller.abort())
    const counted = leases?.filter((lease) => countedOf(lease) === lease) ?? []
    try {
      const [states, rooms] = await Promise.all([
        this.#read(
          leases?.filter((lease) => !counted.includes(lease)),
          { signal },
        ),
        Promise.all(counted.map(async (lease) => [lease, await this.#room(lease, { signal })] as const)),
      ])
      const standing = ([, state]: readonly [string, State]): boolean => !this.#items.isOver(state)
      const sights = new Map<string, Sight>()
      const nowMs = this.#clock.now()
      for (const one of states)
        sights.set(one[0], sightOf(standing(one) ? one[1] : { ...one[1], term: undefined }, nowMs))
      for (const [lease, { gate, shares }] of rooms) {
        sights.set(lease, sightOfCounted({ gate, shares: new Map([...shares].filter(standing)) }, nowMs))
      }
      return sights
    } finally {
      timer.cancel()
    }
  }

  async #room(counted: string, call: Abortable): Promise<Room> {
    const states = this.#readable(await this.#requests.query(counted, call))
    const gate = states.get(counted) ?? ABSENT
    states.delete(counted)
    return { gate, shares: states }
  }

  async #read(leases: readonly string[] | undefined, call: Abortable): Promise<ReadonlyMap<string, State>> {
    const items = await (leases === undefined ? this.#requests.query('', call) : this.#requests.getAll(leases, call))
    return this.#readable(items)
  }

  /** What the items say. One that somebody else wrote hides no other, and is reported, once for each lease. */
  #readable(items: readonly Item[]): Map<string, State> {
    const states = new Map<string, State>()
    for (const item of items) {
      const lease = nameOf(item)
      try {
        states.set(lease, stateIn(item))
      } catch (error) {
        this.#warnOf(lease, error as Error)
      }
    }
    return states
  }

  #warnOf(lease: string, { message }: Error): void {
    if (this.#unreadable.has(lease)) return
    if (this.#unreadable.size >= MOST_NAMED) this.#unreadable.clear()
    this.#unreadable.add(lease)
    this.#onWarning?.({
      warning: 'unreadable-item',
      message: `What is stored of lease ${JSON.stringify(lease)} is not a lease, and was passed over: nobody can claim it. ${message} Remove the item, or choose another table or namespace.`,
    })
  }
}

/** @param state that which the operation has left, or found */
function verdictOf({ outcome, isVacant, queued }: Decision, state: State): Verdict {
  const holding = isVacant === true ? undefined : holdingOf(state)
  return { ...(outcome === 'granted' ? granted(holding) : refused(holding)), ...queued }
}
