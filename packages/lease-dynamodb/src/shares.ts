/**
 * Counted leases: the item of the counted lease decides each grant (`printers#`), and each share has an item of its own.
 *
 * - A grant writes both in one transaction, on condition that neither has changed since all shares were read. So what was read still counts:
 *   every other grant and every definition changes the counted lease, and all else only makes room.
 * - A release writes the item of the share alone.
 * - The queue is in the item of the counted lease, so no grant overtakes one that has entered it.
 */
import {
  contended,
  countedOf,
  DEFINITION_MS,
  granted,
  late,
  refused,
  type Call,
  type ClaimOp,
  type Counted,
  type DefineOp,
  type PassOverOp,
  type Verdict,
} from 'lease-core/adapter'
import { claimed, isLapsed, isOver, nextToken, opened, tombstoneOf, type DecisionContext } from './decide.ts'
import type { Items } from './items.ts'
import { ABSENT, holdingOf, type Definition, type State, type Ticket } from './layout.ts'
import { aheadOf, queued, served, toldOf, waitersIn } from './queue.ts'

/** What this needs of the substrate. */
export interface SharesHost {
  readonly items: Items
  /** All that there is of a counted lease: its own state, and those of its shares. */
  read(counted: string, call: Call): Promise<Room>
  /** Ends a share that was observed to have lapsed. Returns whether it is gone. */
  expire(share: string, version: string, call: Call): Promise<boolean>
  /** Gives the item another version, if a write that was given up may still arrive. Returns whether none can any more. */
  settle(lease: string, state: State, call: Call): Promise<boolean>
}

/** A counted lease and its shares, as one read has found them. */
export interface Room {
  readonly gate: State
  /** By the name; also what is left of shares that are over. */
  readonly shares: ReadonlyMap<string, State>
}

/** How many times one claim may meet another before it counts as contended. */
const MOST_ROUNDS = 8
/** How many that have lapsed one claim ends at once. */
const MOST_EXPIRED = 25

/** A verdict, and what it was decided on. */
export interface Decided {
  readonly verdict: Verdict
  readonly room?: Room | undefined
}

export async function claimShare(op: ClaimOp, call: Call, host: SharesHost): Promise<Decided> {
  const { lease, share } = op
  const name = countedOf(lease)
  if (share === undefined || name === undefined) return { verdict: refused(undefined) }
  const { items } = host
  for (let round = 0; round < MOST_ROUNDS; round++) {
    // Known before the shares are read: a grant in between changes it, and then the transaction fails.
    const before = items.known.get(name) ?? (await items.fetch(name, call))
    const { gate, shares } = await host.read(name, call)
    if (gate.version !== before.version) {
      items.known.learn(name, gate)
      continue
    }
    const own = shares.get(lease) ?? ABSENT
    const context = items.context(call)
    const decision = claimed(op, own, context)
    if (decision?.outcome === 'late') return { verdict: late }
    if (decision?.outcome === 'refused') {
      return { verdict: (await host.settle(lease, own, call)) ? refused(holdingOf(own)) : contended }
    }
    if (decision?.after !== undefined && decision.after !== 'deleted') {
      const again = await items.write({ lease, was: own.version, after: decision.after }, call)
      if (again.isDone) return { verdict: granted(holdingOf(again.state ?? decision.after)) }
      continue
    }
    const definition = gate.definition ?? definedBy(op)
    const others = [...shares].filter(([other, { term }]) => other !== lease && term !== undefined)
    const isOut = ([other, state]: readonly [string, State]): boolean =>
      isLapsed(state, share.lapsed.get(other)) || isOver(state, context)
    const lapsed = others.filter(isOut)
    const { capacity } = definition ?? {}
    const left = (capacity ?? 0) - weightOf(others.filter((one) => !isOut(one)))
    const isNever = capacity === undefined || (share.capacity ?? capacity) !== capacity || share.weight > capacity
    const isFull = isNever || share.weight > left
    if (lapsed.length > 0 && !isFull) {
      const ends = lapsed.slice(0, MOST_EXPIRED)
      await Promise.all(ends.map(([other, { term }]) => host.expire(other, term?.version ?? '', call)))
      if (lapsed.length > ends.length) round-- // each round ends some of them
      continue
    }
    const ahead = aheadOf(op, waitersIn(gate, context))
    const isNext = ahead.length <= share.passing && ahead.every(({ weight }) => weight <= left)
    if (isFull || !isNext) {
      const room = { gate: { ...gate, definition }, shares }
      const refusal = isNever ? { verdict: refused(undefined) } : refusalOf(op, room, context, { ahead, left })
      const after = 'after' in refusal ? refusal.after : undefined
      if (after === undefined) {
        const verdict = { ...refusal.verdict, counted: countedIn({ gate, shares }) }
        return (await host.settle(lease, own, call)) ? { verdict, room } : { verdict: contended }
      }
      if (!(await items.write({ lease: name, was: gate.version, after }, call)).isDone) continue
      const found = { gate: after, shares }
      return { verdict: { ...refusal.verdict, counted: countedIn(found) }, room: found }
    }
    const fencingToken = nextToken(gate, context)
    const next = openedGate(
      { ...gate, version: context.version, fencingToken, definition, ...served(op, gate, context) },
      op,
      context,
    )
    const opens = opened(op, own, fencingToken, context)
    const writes = [
      { lease: name, was: gate.version, after: next },
      { lease, was: own.version, after: opens },
    ]
    const [ofGate, ofShare] = await items.transact(writes, call)
    if (ofGate?.isDone && ofShare?.isDone) {
      const told = toldIn({ gate: next, shares: new Map([...shares, [lease, opens]]) }, context)
      return { verdict: { ...granted(holdingOf(ofShare.state ?? ABSENT)), told } }
    }
    if (ofGate?.state === undefined) await items.fetch(name, call)
  }
  return { verdict: contended }
}

interface InTheWay {
  readonly ahead: readonly Ticket[]
  /** The room that there is. */
  readonly left: number
}

/** Of a claim that a wait may make granted. One that meets only tickets makes sure that those who have them are notified. */
function refusalOf(
  op: ClaimOp,
  room: Room,
  context: DecisionContext,
  { ahead, left }: InTheWay,
): { readonly after?: State | undefined; readonly verdict: Verdict } {
  const { place, share } = op
  const { gate } = room
  const isHeld = (share?.weight ?? 1) > left
  const { after, queued: more } = queued(op, gate, context, { isHeld })
  const verdict = { ...refused(undefined), ...more }
  if (isHeld || !fitsFirst(room, context)) return { after, verdict }
  if (place === 0) return { after, verdict: { ...verdict, told: toldOf(ahead) } }
  // In another version, the first of those who wait are notified again.
  const again = { ...(after ?? gate), version: context.version }
  return { after: again, verdict: { ...verdict, told: toldOf(waitersIn(again, context)) } }
}

/** Whether there is room for the first of those who wait. */
export function fitsFirst({ gate, shares }: Room, context: Pick<DecisionContext, 'nowMs'>): boolean {
  const [first] = waitersIn(gate, context)
  return first !== undefined && weightOf(shares) + first.weight <= (gate.definition?.capacity ?? 0)
}

/** The last of those who are notified, if there is room for the first. */
export function toldIn(room: Room, context: Pick<DecisionContext, 'nowMs'>): number | undefined {
  return fitsFirst(room, context) ? toldOf(waitersIn(room.gate, context)) : undefined
}

function weightOf(shares: Iterable<readonly [string, State]>): number {
  let sum = 0
  for (const [, { term }] of shares) sum += term?.weight ?? 0
  return sum
}

/** Those with tickets up to this one leave the queue, if there is room for the first of them. */
export async function passOver({ lease, place }: PassOverOp, call: Call, host: SharesHost): Promise<Verdict> {
  const { items } = host
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const { gate, shares } = await host.read(lease, call)
    const context = items.context(call)
    if (!fitsFirst({ gate, shares }, context)) return granted(undefined)
    const queue = waitersIn(gate, context).filter((ticket) => ticket.place > place)
    const after = { ...gate, version: context.version, queue }
    if (!(await items.write({ lease, was: gate.version, after }, call)).isDone) continue
    return { ...granted(undefined), told: toldIn({ gate: after, shares }, context) }
  }
  return contended
}

/** Changes the capacity, if the definition is the one that the caller has seen. */
export async function define(op: DefineOp, call: Call, host: SharesHost): Promise<Verdict> {
  const { lease, capacity, from, generation } = op
  const { items } = host
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const room = await host.read(lease, call)
    const { gate } = room
    const context = items.context(call)
    const present = gate.definition?.generation
    const isDone =
      present === undefined ? capacity === undefined && gate.before[1] === generation : present === generation
    if (isDone) return { ...granted(undefined), counted: countedIn(room) }
    if (context.isStale || gate.before.includes(generation)) return late
    if (present !== from) {
      return (await host.settle(lease, gate, call)) ? { ...refused(undefined), counted: countedIn(room) } : contended
    }
    // Those who can get no share any more are in nobody's way.
    const queue = waitersIn(gate, context).filter(({ weight }) => weight <= (capacity ?? 0))
    const bare: State = { ...gate, version: context.version, queue, expires: undefined }
    const after: State =
      capacity === undefined
        ? tombstoneOf({ ...bare, definition: undefined, before: [present ?? '-', generation] }, context)
        : { ...bare, definition: { capacity, generation, byUse: false } }
    const outcome = await items.write({ lease, was: gate.version, after }, call)
    const found = { gate: after, shares: room.shares }
    if (outcome.isDone) return { ...granted(undefined), counted: countedIn(found), told: toldIn(found, context) }
  }
  return contended
}

export function countedIn({ gate, shares }: Room): Counted {
  const standing = [...shares].flatMap(([name, state]) => {
    const holding = holdingOf(state)
    return holding === undefined ? [] : [[name, holding] as const]
  })
  const { capacity, generation } = gate.definition ?? {}
  return { capacity, generation, shares: new Map(standing) }
}

/** By a claim that names a capacity. */
function definedBy({ nonce, share }: ClaimOp): Definition | undefined {
  return share?.capacity === undefined ? undefined : { capacity: share.capacity, generation: nonce, byUse: true }
}

/** A definition that a claim made may be forgotten some time after the last grant. */
function openedGate(gate: State, { durationMs }: ClaimOp, context: DecisionContext): State {
  return gate.definition?.byUse === true
    ? tombstoneOf(gate, context, durationMs + DEFINITION_MS)
    : { ...gate, expires: undefined }
}
