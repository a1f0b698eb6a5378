/** Definitions of counted leases: the capacity in the gate (`gates.ts`), changed where it is of the generation that the caller knows. */
import { granted, late, refused, TOLD, type DefineOp, type Verdict } from 'lease-core/adapter'
import type { EtcdAnswer, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { REMEMBERED_MS } from './epochs.ts'
import { gateOf, weightIn, type Gate } from './gates.ts'
import { endOf, ticketIn, type Keys } from './layout.ts'
import type { Step } from './requests.ts'
import { completed, countedIn, onceRead, roomIn, roomReads, weightsOf, type Room } from './room.ts'
import { allBy, isAbsent, isUnchanged, NO_LEASE, noneNewSince, pageOf, put, when } from './txn.ts'
import { dismissed, fitsFirst, tell, type StepContext } from './waiting.ts'

/** How many waiters are read in the same transaction; the rest is read afterwards. */
const PAGE = 100

export function define(op: DefineOp, keys: Keys, context: StepContext): Step {
  const reads = roomReads(keys)
  return {
    coverMs: undefined,
    request: () => when([], reads, []),
    next: ({ response_txn: { responses } }, revision) => decide(op, keys, context, roomIn(responses, 0, revision)),
  }
}

function decide(op: DefineOp, keys: Keys, context: StepContext, found: Room): Verdict | Step {
  const next = (room: Room): Verdict | Step => {
    const { gate } = room
    const counted = countedIn(room, context.layout)
    if (gate?.generation === op.generation) return again(op, keys, context, { ...granted(undefined), counted })
    if (gate?.first === op.generation) return late // it was done, and another has changed it since
    if (counted.generation !== op.from) return { ...refused(undefined), counted }
    if (gate === undefined && op.capacity === undefined) return { ...granted(undefined), counted }
    return change(op, keys, context, room)
  }
  return completed(found, keys, context.readRest, next, () => define(op, keys, context))
}

/** Puts the gate if it is as it was found: a grant that comes in between only makes it look again. */
function change(op: DefineOp, keys: Keys, context: StepContext, room: Room): Step {
  const { lease, capacity, generation } = op
  const { gate } = keys
  const { gateKv, revision } = room
  const heaviest = room.gate === undefined ? heaviestOf(room.shares) : room.gate.heaviest
  const isOver = capacity === undefined
  const first = room.gate?.capacity === undefined && !isOver ? generation : room.gate?.first
  const after: Gate = { capacity, generation, byUse: false, heaviest, weight: weightsOf(room).most, first }
  const conditions =
    gateKv === undefined
      ? [isAbsent(gate), noneNewSince(keys.key, endOf(keys.key), revision)]
      : [isUnchanged(gate, gateKv.mod_revision)]
  return {
    coverMs: isOver ? REMEMBERED_MS : undefined,
    counted: lease,
    opens: true,
    request: (etcdLease) =>
      when(
        conditions,
        [put(gate, gateOf(after), isOver ? etcdLease : NO_LEASE), ...roomReads(keys), firstPage(keys)],
        roomReads(keys),
      ),
    next: ({ response_txn: { succeeded, responses } }, at) => {
      if (!succeeded) return decide(op, keys, context, roomIn(responses, 0, at))
      const now = roomIn(responses, 1, at)
      context.gates.learn(lease, { gate: after, version: at, weight: weightsOf(now).most, asOf: Number(at) })
      const done = { ...granted(undefined), counted: { ...countedIn(room, context.layout), capacity, generation } }
      const verdict = isOver ? { ...done, counted: { ...done.counted, generation: undefined } } : done
      return called(op, keys, context, { verdict, room: now, page: allBy(responses, 3) })
    },
  }
}

/** It was done already, and the answer was lost: perhaps nobody was notified. */
function again(op: DefineOp, keys: Keys, context: StepContext, verdict: Verdict): Step {
  return {
    coverMs: undefined,
    goesOn: true,
    request: () => when([], [...roomReads(keys), firstPage(keys)], []),
    next: ({ response_txn: { responses } }, revision) => {
      const room = roomIn(responses, 0, revision)
      // Another may have changed it meanwhile, and calls them by itself.
      if (room.gate?.generation !== op.generation) return verdict
      return called(op, keys, context, { verdict, room, page: allBy(responses, 2) })
    },
  }
}

function firstPage({ tickets }: Keys): EtcdRequest {
  return pageOf(tickets, endOf(tickets), PAGE)
}

interface Done {
  readonly verdict: Verdict
  readonly room: Room
  /** The first waiters. */
  readonly page: EtcdAnswer['response_range']
}

/** Dismisses the waiters that cannot get a share any more, then notifies the first of the others if there is room. */
function called(op: DefineOp, keys: Keys, context: StepContext, done: Done): Verdict | Step {
  const { lease, capacity = 0 } = op
  const { verdict, room, page } = done
  const call = (waiting: readonly EtcdKeyValue[]): Verdict | Step => {
    const isInVain = (kv: EtcdKeyValue): boolean => ticketIn(kv).weight > capacity
    return dismissed(lease, keys, waiting.filter(isInVain), verdict, () => {
      const first = waiting
        .filter((kv) => !isInVain(kv))
        .slice(0, TOLD)
        .map(ticketIn)
      return fitsFirst(room, first) ? tell(lease, keys, first, { verdict }) : verdict
    })
  }
  if (page.kvs.length >= Number(page.count)) return call(page.kvs)
  const { tickets, gate } = keys
  const all = { key: tickets, range_end: endOf(tickets), revision: room.revision }
  return onceRead(all, gate, context.readRest, call, () => again(op, keys, context, verdict))
}

function heaviestOf(shares: readonly EtcdKeyValue[]): number {
  let heaviest = 1
  for (const kv of shares) heaviest = Math.max(heaviest, weightIn(kv))
  return heaviest
}
