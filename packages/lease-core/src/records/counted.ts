/**
 * What is asked of counted leases, decided on what was read of one: pure functions. The record of the counted lease decides each grant
 * (`printers#`), and each share has a record of its own.
 *
 * - A grant writes both, on condition that neither has changed since all shares were read. So what was read still counts: every other grant
 *   and every definition changes the counted lease, and all else only makes room.
 * - A release writes the record of the share alone.
 * - The queue is in the record of the counted lease, so no grant overtakes one that has entered it.
 */
import { DEFINITION_MS } from '../share.ts'
import {
  granted,
  late,
  refused,
  type ClaimOp,
  type Counted,
  type DefineOp,
  type PassOverOp,
  type ShareOp,
  type Verdict,
} from '../substrate.ts'
import {
  claimed,
  decisionOf,
  expiryOf,
  isLapsed,
  isOver,
  nextToken,
  opened,
  written,
  type Decision,
  type DecisionContext,
} from './decide.ts'
import { aheadOf, queued, served, toldOf, waitersIn } from './queue.ts'
import { ABSENT, holdingOf, type Definition, type LeaseRecord } from './record.ts'

/** A counted lease and its shares, as one read has found them. */
export interface Room {
  readonly gate: LeaseRecord
  /** By the name; also what is left of shares that are over. */
  readonly shares: ReadonlyMap<string, LeaseRecord>
}

/** An operation on a counted lease and its shares, under this name. */
export type CountedOp =
  | { readonly counted: string; readonly op: ClaimOp & { readonly share: ShareOp } }
  | { readonly counted: string; readonly op: DefineOp | PassOverOp }

/** Decides an operation on a counted lease. */
export function decideCounted({ counted, op }: CountedOp, room: Room, context: DecisionContext): Decision<Room> {
  if (op.kind === 'claim') return decideShare(op, counted, room, context)
  return op.kind === 'define' ? decideDefine(op, room, context) : decidePassOver(op, room, context)
}

function decideShare(
  op: ClaimOp & { readonly share: ShareOp },
  counted: string,
  room: Room,
  context: DecisionContext,
): Decision<Room> {
  const { lease, share } = op
  const { gate, shares } = room
  const own = shares.get(lease) ?? ABSENT
  const change = claimed(op, own, context)
  if (change !== undefined) return { ...decisionOf(lease, own, change, context), after: room }

  const definition = gate.definition ?? definedBy(op)
  const others = [...shares].filter(([other, { term }]) => other !== lease && term !== undefined)
  const isOut = ([other, record]: readonly [string, LeaseRecord]): boolean =>
    isLapsed(record, share.lapsed.get(other)) || isOver(record, context)
  const lapsed = others.filter(isOut)
  const { capacity } = definition ?? {}
  const left = (capacity ?? 0) - weightOf(others.filter((one) => !isOut(one)))
  const isNever = capacity === undefined || (share.capacity ?? capacity) !== capacity || share.weight > capacity
  const isFull = isNever || share.weight > left
  if (lapsed.length > 0 && !isFull) {
    const ends = lapsed.map(([other, { term }]) => ({ kind: 'expire', lease: other, lapsed: term?.version }) as const)
    return { ...unchanged(refused(undefined), room), ends }
  }

  const ahead = aheadOf(op, waitersIn(gate, context))
  const isNext = ahead.length <= share.passing && ahead.every(({ weight }) => weight <= left)
  if (isNever) return unchanged({ ...refused(undefined), counted: countedIn(room) }, room)
  if (isFull || !isNext) {
    const asked = { gate: { ...gate, definition }, shares }
    const { after, verdict } = refusalOf(op, asked, context, { told: toldOf(ahead), isHeld: isFull })
    const decision = after === undefined ? unchanged(verdict, asked) : changed(counted, room, after, verdict, context)
    return { ...decision, verdict: { ...verdict, counted: countedIn({ gate: after ?? gate, shares }) } }
  }

  const fencingToken = nextToken(gate, context)
  const granting: LeaseRecord = { ...gate, fencingToken, definition, ...served(op, gate, context) }
  // A definition that a claim made may be forgotten some time after the last grant.
  const expires = expiryOf(granting, context, op.durationMs + DEFINITION_MS)
  const next = written({ ...granting, expires }, context)
  const opens = written(opened(op, own, fencingToken, context), context)
  const after = { gate: next, shares: new Map([...shares, [lease, opens]]) }
  return {
    verdict: { ...granted(holdingOf(opens)), told: toldIn(after, context) },
    writes: [
      { lease: counted, was: gate.version, after: next },
      { lease, was: own.version, after: opens },
    ],
    after,
  }
}

/** Of a claim that a wait may make granted. One that meets only tickets makes sure that those who have them are notified. */
function refusalOf(
  op: ClaimOp,
  room: Room,
  context: DecisionContext,
  { told, isHeld }: { readonly told: number | undefined; readonly isHeld: boolean },
): { readonly after?: LeaseRecord | undefined; readonly verdict: Verdict } {
  const { gate } = room
  const { after, queued: more } = queued(op, gate, context, { isHeld })
  const verdict = { ...refused(undefined), ...more }
  if (isHeld || !fitsFirst(room, context)) return { after, verdict }
  if (op.place === 0) return { after, verdict: { ...verdict, told } }
  // In another version, the first of those who wait are notified again.
  const again = after ?? gate
  return { after: again, verdict: { ...verdict, told: toldOf(waitersIn(again, context)) } }
}

/** Those with tickets up to this one leave the queue, if there is room for the first of them. */
function decidePassOver({ lease, place }: PassOverOp, room: Room, context: DecisionContext): Decision<Room> {
  if (!fitsFirst(room, context)) return unchanged(granted(undefined), room)
  const queue = waitersIn(room.gate, context).filter((ticket) => ticket.place > place)
  return told(changed(lease, room, { ...room.gate, queue }, granted(undefined), context), context)
}

/** Changes the capacity, if the definition is the one that the caller has seen. */
function decideDefine(op: DefineOp, room: Room, context: DecisionContext): Decision<Room> {
  const { lease, capacity, from, generation } = op
  const { gate } = room
  const present = gate.definition?.generation
  const isDone =
    present === undefined ? capacity === undefined && gate.before[1] === generation : present === generation
  if (isDone) return unchanged({ ...granted(undefined), counted: countedIn(room) }, room)
  if (context.isStale || gate.before.includes(generation)) return unchanged(late, room)
  if (present !== from) return unchanged({ ...refused(undefined), counted: countedIn(room) }, room)
  // Those who can get no share any more are in nobody's way.
  const queue = waitersIn(gate, context).filter(({ weight }) => weight <= (capacity ?? 0))
  const definition = capacity === undefined ? undefined : { capacity, generation, byUse: false }
  const before = capacity === undefined ? [present ?? '-', generation] : gate.before
  const after: LeaseRecord = { ...gate, queue, definition, before }
  const counted = countedIn({ gate: after, shares: room.shares })
  return told(changed(lease, room, after, { ...granted(undefined), counted }, context), context)
}

function unchanged(verdict: Verdict, room: Room): Decision<Room> {
  return { verdict, writes: [], after: room }
}

/** The counted lease becomes this. */
function changed(
  counted: string,
  { gate, shares }: Room,
  becomes: LeaseRecord,
  verdict: Verdict,
  context: DecisionContext,
): Decision<Room> {
  const after = written(becomes, context)
  return { verdict, writes: [{ lease: counted, was: gate.version, after }], after: { gate: after, shares } }
}

function told(decision: Decision<Room>, context: DecisionContext): Decision<Room> {
  return { ...decision, verdict: { ...decision.verdict, told: toldIn(decision.after, context) } }
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

export function countedIn({ gate, shares }: Room): Counted {
  const standing = [...shares].flatMap(([name, record]) => {
    const holding = holdingOf(record)
    return holding === undefined ? [] : [[name, holding] as const]
  })
  const { capacity, generation } = gate.definition ?? {}
  return { capacity, generation, shares: new Map(standing) }
}

function weightOf(shares: Iterable<readonly [string, LeaseRecord]>): number {
  let sum = 0
  for (const [, { term }] of shares) sum += term?.weight ?? 0
  return sum
}

/** By a claim that names a capacity. */
function definedBy({ nonce, share }: ClaimOp): Definition | undefined {
  return share?.capacity === undefined ? undefined : { capacity: share.capacity, generation: nonce, byUse: true }
}
