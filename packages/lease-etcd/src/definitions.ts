/** Definitions of counted leases: the capacity in the gate (`gates.ts`), changed where it is of the generation that the caller knows. */
import { granted, refused, TOLD, type DefineOp, type Verdict } from 'lease-core'
import type { EtcdKeyValue, EtcdRequest } from './driver.ts'
import { REMEMBERED_MS } from './epochs.ts'
import { gateOf, weightIn, type Gate } from './gates.ts'
import { endOf, type Keys } from './layout.ts'
import type { Step } from './requests.ts'
import { completed, countedIn, roomIn, roomReads, weightsOf, type Room } from './room.ts'
import { isAbsent, isUnchanged, NO_LEASE, noneNewSince, pageOf, put, when } from './txn.ts'
import { fitsFirst, tell, ticketsOf, type StepContext } from './waiting.ts'

/** How many of those who wait are notified that there is nothing to wait for; those behind look by themselves. */
const MOST_TOLD = 1_000

export function define(op: DefineOp, keys: Keys, context: StepContext): Step {
  const reads = roomReads(keys)
  return {
    coverMs: undefined,
    request: () => when([], reads, []),
    next: ({ response_txn: { responses } }, revision) => decide(op, keys, context, roomIn(responses, 0, revision)),
  }
}

function decide(op: DefineOp, keys: Keys, context: StepContext, found: Room): Verdict | Step {
  return completed(found, keys, context.readRest, (room) => {
    const { gate } = room
    const counted = countedIn(room, context.layout)
    if (gate?.generation === op.generation) return { ...granted(undefined), counted }
    if (counted.generation !== op.from) return { ...refused(undefined), counted }
    if (gate === undefined && op.capacity === undefined) return { ...granted(undefined), counted }
    return change(op, keys, context, room)
  })
}

/** Puts the gate if it is as it was found: a grant that comes in between only makes it look again. */
function change(op: DefineOp, keys: Keys, context: StepContext, room: Room): Step {
  const { lease, capacity, generation } = op
  const { gate, tickets } = keys
  const { gateKv, revision } = room
  const heaviest = room.gate === undefined ? heaviestOf(room.shares) : room.gate.heaviest
  const after: Gate = { capacity, generation, byUse: false, heaviest, weight: weightsOf(room).most }
  const isOver = capacity === undefined
  const conditions =
    gateKv === undefined
      ? [isAbsent(gate), noneNewSince(keys.key, endOf(keys.key), revision)]
      : [isUnchanged(gate, gateKv.mod_revision)]
  const reads = roomReads(keys)
  const toTell: EtcdRequest = pageOf(tickets, endOf(tickets), isOver ? MOST_TOLD : TOLD)
  return {
    coverMs: isOver ? REMEMBERED_MS : undefined,
    counted: lease,
    opens: true,
    request: (etcdLease) =>
      when(conditions, [put(gate, gateOf(after), isOver ? etcdLease : NO_LEASE), ...reads, toTell], reads),
    next: ({ response_txn: { succeeded, responses } }, at) => {
      if (!succeeded) return decide(op, keys, context, roomIn(responses, 0, at))
      const now = roomIn(responses, 1, at)
      context.gates.learn(lease, { gate: after, version: at, weight: weightsOf(now).most, asOf: Number(at) })
      const done = { ...granted(undefined), counted: { ...countedIn(room, context.layout), capacity, generation } }
      const verdict = isOver ? { ...done, counted: { ...done.counted, generation: undefined } } : done
      const waiting = ticketsOf(responses, 3)
      if (isOver) return tell(lease, keys, waiting, { verdict, isOver })
      return fitsFirst(now, waiting) ? tell(lease, keys, waiting, { verdict }) : verdict
    },
  }
}

function heaviestOf(shares: readonly EtcdKeyValue[]): number {
  let heaviest = 1
  for (const kv of shares) heaviest = Math.max(heaviest, weightIn(kv))
  return heaviest
}
