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
import { lastTold } from '../ticket.ts'
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
import { aheadOf, queued, served, waitersIn } from './queue.ts'
import { ABSENT, holdingOf, type Definition, type LeaseRecord, type QueueTicket, type RecordWrite } from './record.ts'

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

/** What an operation makes of a counted lease and of one share. */
interface Change {
  readonly verdict: Verdict
  /** Absent: it stays as it is. */
  readonly gate?: LeaseRecord | undefined
  readonly share?: LeaseRecord | undefined
  /** Whether the verdict carries what there is then of the counted lease. */
  readonly counts?: boolean
  /** Whether the first waiters are notified, if there is room. */
  readonly tells?: boolean
  readonly ends?: Decision['ends']
}

/** Decides an operation on a counted lease. */
export function decideCounted({ counted, op }: CountedOp, room: Room, context: DecisionContext): Decision<Room> {
  const change = changeBy(op, room, context)
  const { verdict, counts = false, tells = false, ends } = change
  const after = { gate: room.gate, shares: new Map(room.shares) }
  const writes: RecordWrite[] = []
  if (change.gate !== undefined) {
    after.gate = written(change.gate, context)
    writes.push({ lease: counted, was: room.gate.version, after: after.gate })
  }
  if (change.share !== undefined) {
    const share = written(change.share, context)
    after.shares.set(op.lease, share)
    writes.push({ lease: op.lease, was: room.shares.get(op.lease)?.version, after: share })
  }
  const shown = counts ? { counted: countedIn(after) } : {}
  const told = tells ? { told: toldIn(after, context) } : {}
  return { verdict: { ...verdict, ...shown, ...told }, writes, after, ends }
}

function changeBy(op: CountedOp['op'], room: Room, context: DecisionContext): Change {
  if (op.kind === 'claim') return claimShare(op, room, context)
  if (op.kind === 'define') return define(op, room, context)
  // Those with tickets up to this one leave the queue, if there is room for the first of them.
  if (!fitsFirst(room, context)) return { verdict: granted(undefined) }
  const queue = waitersIn(room.gate, context).filter((ticket) => ticket.place > op.place)
  return { verdict: granted(undefined), gate: { ...room.gate, queue }, tells: true }
}

function claimShare(op: ClaimOp & { readonly share: ShareOp }, room: Room, context: DecisionContext): Change {
  const { lease, share } = op
  const own = room.shares.get(lease) ?? ABSENT
  const change = claimed(op, own, context)
  if (change !== undefined) return { verdict: decisionOf(lease, own, change, context).verdict, share: change.after }

  const made = room.gate.definition === undefined ? definedBy(op) : undefined
  if (made !== undefined && room.gate.before.includes(made.generation)) return { verdict: late }
  // A definition that a claim made may be forgotten some time after the latest grant.
  const forgottenAt = (record: LeaseRecord): number => expiryOf(record, context, op.durationMs + DEFINITION_MS)
  // Also a refused claim defines what was not defined.
  const defined = made && { ...room.gate, definition: made, expires: forgottenAt(room.gate) }
  const gate = defined ?? room.gate
  const others = [...room.shares].filter(([other, { term }]) => other !== lease && term !== undefined)
  const isOut = ([other, record]: readonly [string, LeaseRecord]): boolean =>
    isLapsed(record, share.lapsed.get(other)) || isOver(record, context)
  const lapsed = others.filter(isOut)
  const { capacity } = gate.definition ?? {}
  const left = (capacity ?? 0) - weightOf(others.filter((one) => !isOut(one)))
  const isNever = capacity === undefined || (share.capacity ?? capacity) !== capacity || share.weight > capacity
  if (isNever) return { verdict: refused(undefined), gate: defined, counts: true }
  const isFull = share.weight > left
  if (lapsed.length > 0 && !isFull) {
    const ends = lapsed.map(([other, { term }]) => ({ kind: 'expire', lease: other, lapsed: term?.version }) as const)
    return { verdict: refused(undefined), ends }
  }

  const ahead = aheadOf(op, waitersIn(gate, context))
  const isNext = ahead.length <= share.passing && ahead.every(({ weight }) => weight <= left)
  if (isFull || !isNext) {
    const refusal = refusalOf(op, { ...room, gate }, context, { ahead, isFull })
    return { ...refusal, gate: refusal.gate ?? defined }
  }

  const fencingToken = nextToken(gate, context)
  const term = opened(op, own, fencingToken, context)
  const next: LeaseRecord = { ...gate, fencingToken, ...served(op, gate, context) }
  return { verdict: granted(holdingOf(term)), gate: { ...next, expires: forgottenAt(next) }, share: term, tells: true }
}

/** The refusal of a claim that may wait. If only tickets are in its way, their waiters are notified. */
function refusalOf(
  op: ClaimOp,
  room: Room,
  context: DecisionContext,
  { ahead, isFull }: { readonly ahead: readonly QueueTicket[]; readonly isFull: boolean },
): Change {
  const { after, queued: more } = queued(op, room.gate, context, { isHeld: isFull })
  const verdict = { ...refused(undefined), ...more }
  if (isFull || !fitsFirst(room, context)) return { verdict, gate: after, counts: true }
  if (op.place === 0) return { verdict: { ...verdict, told: lastTold(ahead) }, gate: after, counts: true }
  // In another version, the first waiters are notified again.
  const gate = after ?? room.gate
  return { verdict: { ...verdict, told: lastTold(waitersIn(gate, context)) }, gate, counts: true }
}

/** Changes the capacity, if the definition is the one that the caller has seen. */
function define({ capacity, from, generation }: DefineOp, { gate }: Room, context: DecisionContext): Change {
  const present = gate.definition?.generation
  const isDone =
    present === undefined ? capacity === undefined && gate.before[1] === generation : present === generation
  if (isDone) return { verdict: granted(undefined), counts: true }
  if (context.isStale || gate.before.includes(generation)) return { verdict: late }
  if (present !== from) return { verdict: refused(undefined), counts: true }
  // Waiters that can get no share any more leave the queue.
  const queue = waitersIn(gate, context).filter(({ weight }) => weight <= (capacity ?? 0))
  const definition = capacity === undefined ? undefined : { capacity, generation, byUse: false }
  const before = capacity === undefined ? [present ?? '-', generation] : gate.before
  return { verdict: granted(undefined), gate: { ...gate, queue, definition, before }, counts: true, tells: true }
}

/** Whether there is room for the first waiter. */
export function fitsFirst({ gate, shares }: Room, context: Pick<DecisionContext, 'nowMs'>): boolean {
  const [first] = waitersIn(gate, context)
  return first !== undefined && weightOf(shares) + first.weight <= (gate.definition?.capacity ?? 0)
}

/** The last waiter that is notified, if there is room for the first. */
export function toldIn(room: Room, context: Pick<DecisionContext, 'nowMs'>): number | undefined {
  return fitsFirst(room, context) ? lastTold(waitersIn(room.gate, context)) : undefined
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
