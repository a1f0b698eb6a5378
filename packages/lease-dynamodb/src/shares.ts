/**
 * Counted leases: the item of the counted lease decides each grant (`printers#`), and each share has an item of its own.
 *
 * - A grant writes both in one transaction, on condition that neither has changed since all shares were read. So what was read still counts:
 *   every other grant and every definition changes the counted lease, and all else only makes room.
 * - A release writes the item of the share alone.
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
  type Verdict,
} from 'lease-core/adapter'
import { claimed, isLapsed, isOver, nextToken, opened, tombstoneOf } from './decide.ts'
import type { Items } from './items.ts'
import { ABSENT, holdingOf, type Definition, type State } from './layout.ts'

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

export async function claimShare(op: ClaimOp, call: Call, host: SharesHost): Promise<Verdict> {
  const { lease, share } = op
  const name = countedOf(lease)
  if (share === undefined || name === undefined) return refused(undefined)
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
    if (decision?.outcome === 'late') return late
    if (decision?.outcome === 'refused')
      return (await host.settle(lease, own, call)) ? refused(holdingOf(own)) : contended
    if (decision?.after !== undefined && decision.after !== 'deleted') {
      const again = await items.write({ lease, was: own.version, after: decision.after }, call)
      if (again.isDone) return granted(holdingOf(again.state ?? decision.after))
      continue
    }
    const definition = gate.definition ?? definedBy(op)
    const others = [...shares].filter(([other, { term }]) => other !== lease && term !== undefined)
    const isOut = ([other, state]: readonly [string, State]): boolean =>
      isLapsed(state, share.lapsed.get(other)) || isOver(state, context)
    const lapsed = others.filter(isOut)
    const standing = others.filter((one) => !isOut(one))
    const weight = standing.reduce((sum, [, { term }]) => sum + (term?.weight ?? 0), 0)
    const { capacity } = definition ?? {}
    const isRefused =
      capacity === undefined || (share.capacity ?? capacity) !== capacity || weight + share.weight > capacity
    if (isRefused) {
      const counted = countedIn({ gate, shares })
      return (await host.settle(lease, own, call)) ? { ...refused(undefined), counted } : contended
    }
    if (lapsed.length > 0) {
      const ends = lapsed.slice(0, MOST_EXPIRED)
      await Promise.all(ends.map(([other, { term }]) => host.expire(other, term?.version ?? '', call)))
      if (lapsed.length > ends.length) round-- // each round ends some of them
      continue
    }
    const fencingToken = nextToken(gate, context)
    const next = openedGate({ ...gate, version: context.version, fencingToken, definition }, op, context)
    const writes = [
      { lease: name, was: gate.version, after: next },
      { lease, was: own.version, after: opened(op, own, fencingToken, context) },
    ]
    const [ofGate, ofShare] = await items.transact(writes, call)
    if (ofGate?.isDone && ofShare?.isDone) return granted(holdingOf(ofShare.state ?? ABSENT))
    if (ofGate?.state === undefined) await items.fetch(name, call)
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
    const bare: State = { ...gate, version: context.version, expires: undefined }
    const after: State =
      capacity === undefined
        ? tombstoneOf({ ...bare, definition: undefined, before: [present ?? '-', generation] }, context)
        : { ...bare, definition: { capacity, generation, byUse: false } }
    const outcome = await items.write({ lease, was: gate.version, after }, call)
    if (outcome.isDone) return { ...granted(undefined), counted: countedIn({ gate: after, shares: room.shares }) }
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
function openedGate(gate: State, { durationMs }: ClaimOp, context: Parameters<typeof tombstoneOf>[1]): State {
  return gate.definition?.byUse === true
    ? tombstoneOf(gate, context, durationMs + DEFINITION_MS)
    : { ...gate, expires: undefined }
}
