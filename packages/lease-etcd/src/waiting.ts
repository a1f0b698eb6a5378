/**
 * Claims of those who wait (`ticket.ts` of lease-core), and what else there is to do in their queues.
 *
 * A ticket is a key whose name says its place and its client. Its place is the revision at which its claim was refused, so it is larger
 * than every place before, and nobody else's. That takes two transactions: one is refused and learns the place and the waiters ahead, the other
 * puts the ticket, and sees the state again. In between the client begins to watch (`client-hints.ts`), so it hears of whatever comes
 * after the state that it is answered.
 *
 * A ticket hangs on an etcd lease and goes by itself. Each further claim with it puts it again, where it is gone too.
 */
import {
  CLIENT_LENGTH,
  clientOf,
  countedOf,
  granted,
  INTEREST_MS,
  refused,
  TOLD,
  type ClaimOp,
  type Holding,
  type LeaveOp,
  type PassOverOp,
  type Verdict,
} from 'lease-core/adapter'
import { IN_SIGHT, type Ahead, type ClientHints } from './client-hints.ts'
import type { EtcdAnswer, EtcdKeyValue, EtcdRequest } from './driver.ts'
import {
  bodyOf,
  endOf,
  holdingOf,
  LEAVES,
  ticketIn,
  ticketNamed,
  ticketOf,
  type FoundTicket,
  type Keys,
  type Layout,
} from './layout.ts'
import type { KnownGates } from './gates.ts'
import type { NamespaceQueues } from './namespace-queues.ts'
import type { Step } from './requests.ts'
import { completed, fits, roomIn, roomReads, type ReadRest, type Room } from './room.ts'
import {
  allBy,
  countOf,
  firstOf,
  foundBy,
  get,
  hasValue,
  isAbsent,
  isEmpty,
  isPresent,
  isUnchanged,
  lastOf,
  NO_LEASE,
  pageOf,
  ping,
  put,
  remove,
  removeAll,
  when,
} from './txn.ts'

/** For whom a step is made. */
export interface StepContext {
  readonly layout: Layout
  readonly client: string
  /** undefined: this client does not listen. */
  readonly hints: ClientHints | undefined
  readonly queues: NamespaceQueues
  readonly gates: KnownGates
  readonly readRest: ReadRest
  /** The leases of the operations that travel together. */
  readonly named: ReadonlySet<string>
}

/** For how long a key stays at least that is put only to tell somebody. */
export const TELLING_MS = 10_000

/** What the step makes of the key that keeps others out. */
type Contend = (kv: EtcdKeyValue) => Verdict | Step

/** For one without a ticket. */
export function openOrQueue(op: ClaimOp, keys: Keys, context: StepContext, contend: Contend): Step {
  const { key, pin, news, counter, tickets } = keys
  const { durationMs, maxWaiters = Number.POSITIVE_INFINITY } = op
  const bytes = bodyOf(op)
  const end = endOf(tickets)
  return {
    coverMs: durationMs,
    opens: true,
    request: (lease) =>
      when(
        [isEmpty(tickets, end), isAbsent(key), isAbsent(pin)],
        [put(key, bytes, lease), ...(op.announce === true ? [ping(news, lease)] : [])],
        [ping(counter, lease), get(key), lastOf(tickets, end, IN_SIGHT)],
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) => {
      if (succeeded) return granted(holdingOf(op, revision, { since: revision, pinned: false }))
      const held = foundBy(responses, 1)
      // Vacant, and yet nothing was put: others wait, or it is pinned.
      const verdict = held === undefined ? refused(undefined) : contend(held)
      if (!isRefusal(verdict)) return verdict
      const ahead = aheadIn(responses, 2)
      if (held !== undefined && ahead.count >= maxWaiters) return { ...verdict, isFull: true }
      const place = Number(revision)
      return {
        ...openInTurn({ ...op, place }, keys, context, contend, { isNew: true }),
        prepare: (leftMs) => context.hints?.join(op.lease, { place, ahead, leftMs }),
      }
    },
  }
}

interface InTurn {
  /** It has no ticket yet, and takes the lease only where nobody waits. */
  readonly isNew?: boolean
  /** For a lease that is pinned, and has no key. */
  readonly pinned?: boolean
}

/** For one with a place. */
export function openInTurn(
  op: ClaimOp & { readonly place: number },
  keys: Keys,
  context: StepContext,
  contend: Contend,
  { isNew = false, pinned = false }: InTurn = {},
): Step {
  const { lease: name, place, durationMs, announce, maxWaiters = Number.POSITIVE_INFINITY } = op
  const { key, pin, news, served, tickets } = keys
  const { client, hints } = context
  const own = keys.ticket(place, client)
  const bytes = bodyOf(op)
  // Those behind count as well: of claims at the same moment the later may be the first to put its ticket.
  const isBounded = isNew && maxWaiters < Number.POSITIVE_INFINITY
  const tidings = Buffer.from(JSON.stringify({ taken: [[name, place, durationMs]] }))
  return {
    coverMs: Math.max(INTEREST_MS, durationMs),
    opens: true,
    request: (lease) =>
      when(
        [isAbsent(key), pinned ? isPresent(pin) : isAbsent(pin), ...(isNew ? [isEmpty(tickets, own)] : [])],
        [
          put(key, bytes, pinned ? NO_LEASE : lease),
          put(served, tidings, lease),
          ...(announce === true ? [ping(news, lease)] : []),
          firstTickets(keys),
          remove(own),
        ],
        [
          // A copy of a claim that was granted puts no ticket.
          when([hasValue(key, bytes)], [], [put(own, ticketOf(op), lease)]),
          get(key),
          lastOf(tickets, own, IN_SIGHT),
          ...(isBounded ? [countOf(tickets, endOf(tickets))] : []),
        ],
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) => {
      if (succeeded) {
        hints?.left(name, place)
        const verdict = granted(holdingOf(op, revision, { since: revision, pinned }))
        // Those ahead who were notified of the vacancy, and did not come.
        const overtaken = ticketsIn(responses, announce === true ? 3 : 2).filter(
          (ticket) => ticket.place < place || (ticket.place === place && ticket.client !== client),
        )
        return overtaken.length === 0 ? verdict : withoutTickets(overtaken, keys, verdict)
      }
      const kv = foundBy(responses, 1)
      if (kv === undefined && !pinned && !isNew) return openInTurn(op, keys, context, contend, { pinned: true })
      const verdict = kv === undefined ? refused(undefined) : contend(kv)
      if (!isRefusal(verdict)) {
        hints?.left(name, place)
        return verdict
      }
      const ahead = aheadIn(responses, 2)
      if (isBounded && kv !== undefined && Number(allBy(responses, 3).count) > maxWaiters) {
        hints?.left(name, place)
        return withdrawn(
          own,
          removedTicket(own, () => ({ ...verdict, isFull: true })),
          verdict,
        )
      }
      hints?.queued(name, place, ahead, revision)
      return { ...verdict, ticket: { place, ahead: ahead.count } }
    },
  }
}

/**
 * The ticket of this client goes; if it was one of the first, and the lease is vacant, those that are the first then are notified anew. Of a
 * counted lease they are if there is room for the first.
 */
export function leave(op: LeaveOp, keys: Keys, { client, hints }: StepContext): Verdict | Step {
  const { lease, place } = op
  if (place === undefined) {
    hints?.unwatched(lease)
    return granted(undefined)
  }
  hints?.left(lease, place)
  const own = keys.ticket(place, client)
  const isCounted = countedOf(lease) !== undefined
  const removal = removedTicket(
    own,
    (responses, revision) => {
      const first = ticketsIn(responses, 2)
      const wasTold = first.filter((ticket) => ticket.place < place).length < TOLD
      if (!wasTold || foundBy(responses, 1) !== undefined) return granted(undefined)
      const mayFit = !isCounted || fitsFirst(roomIn(responses, 3, revision), ticketsOf(responses, 2))
      return mayFit ? tell(lease, keys, first) : granted(undefined)
    },
    [get(keys.key), ...vacancyReads(keys, isCounted, { countOnly: false })],
  )
  return withdrawn(own, removal, granted(undefined))
}

/** Those with tickets up to this one go if the lease is vacant, and those that are the first then are notified. */
export function passOver(op: PassOverOp, keys: Keys, context: StepContext): Step {
  const { lease, place } = op
  if (countedOf(lease) !== undefined) return passOverOfCounted(op, keys, context)
  const { key, tickets } = keys
  const rest = keys.afterTicket(place)
  return {
    coverMs: undefined,
    request: () => when([isAbsent(key)], [firstOf(rest, endOf(tickets), TOLD)], []),
    next: ({ response_txn: { succeeded, responses } }) =>
      succeeded ? tell(lease, keys, ticketsIn(responses, 0), { also: [removeAll(tickets, rest)] }) : granted(undefined),
  }
}

/** If there is room for the first; and the first of the rest are notified if there is room for it. */
function passOverOfCounted(op: PassOverOp, keys: Keys, context: StepContext): Step {
  const { lease, place } = op
  const { tickets, gate } = keys
  const rest = keys.afterTicket(place)
  const pass =
    (first: readonly FoundTicket[], after: readonly FoundTicket[]) =>
    (room: Room): Verdict | Step => {
      if (!fitsFirst(room, first)) return granted(undefined)
      const isTold = fitsFirst(room, after)
      // As long as nobody was granted a share, there is room.
      return {
        coverMs: undefined,
        counted: lease,
        request: () => when([isUnchanged(gate, room.gateKv?.mod_revision ?? '0')], [removeAll(tickets, rest)], []),
        next: ({ response_txn: { succeeded } }) =>
          succeeded && isTold ? tell(lease, keys, after) : granted(undefined),
      }
    }
  const end = endOf(tickets)
  return {
    coverMs: undefined,
    request: () => when([], [...roomReads(keys), pageOf(tickets, end, 1), pageOf(rest, end, TOLD)], []),
    next: ({ response_txn: { responses } }, revision) => {
      const room = roomIn(responses, 0, revision)
      const next = pass(ticketsOf(responses, 2), ticketsOf(responses, 3))
      return completed(room, keys, context.readRest, next, () => passOverOfCounted(op, keys, context))
    },
  }
}

/** The first in the queue, those who are notified of a vacancy. */
export function firstTickets({ tickets }: Keys): EtcdRequest {
  return firstOf(tickets, endOf(tickets), TOLD)
}

/**
 * Finds the waiters to notify that the lease was vacated. Of a share: the queue of its counted lease, and how much room there is; as
 * far as their number says it, for one that only has those passed over who do not come.
 */
export function vacancyReads(
  keys: Keys,
  isCounted: boolean,
  { countOnly = true }: { readonly countOnly?: boolean } = {},
): EtcdRequest[] {
  if (!isCounted) return [firstTickets(keys)]
  const { queue } = keys
  const { tickets } = queue
  return [pageOf(tickets, endOf(tickets), TOLD), ...roomReads(queue, { countOnly })]
}

/** The lease is vacant, and those were notified that `vacancyReads` has found. */
export function vacated(
  answers: readonly EtcdAnswer[],
  index: number,
  {
    counted,
    revision,
    gates,
  }: { readonly counted: string | undefined; readonly revision: string; readonly gates: KnownGates },
): Verdict {
  const last = allBy(answers, index).kvs.at(-1)
  if (last === undefined) return granted(undefined)
  if (counted !== undefined) {
    const room = roomIn(answers, index + 1, revision)
    const { gate, gateKv } = room
    if (gate !== undefined && gateKv !== undefined) {
      gates.see(counted, gate, { version: gateKv.mod_revision, asOf: Number(revision) })
    }
    if (!fitsFirst(room, ticketsOf(answers, index))) return granted(undefined)
  }
  return { ...granted(undefined), told: ticketNamed(last.key).place }
}

/** Whether there is room for the first of these, or may be. */
export function fitsFirst(room: Room, [first]: readonly FoundTicket[]): boolean {
  return first !== undefined && fits(room, first.weight) !== false
}

/** The client that made the nonce of a term, unless it is the one that asks. */
export function makerOf({ nonce = '' }: Holding, { client }: StepContext): string | undefined {
  const maker = clientOf(nonce)
  return maker.length < CLIENT_LENGTH || maker === client ? undefined : maker
}

type Ticket = Pick<FoundTicket, 'place' | 'client'>

interface Telling {
  /** What else is done. */
  readonly also?: readonly EtcdRequest[]
  /** What has become of the operation that makes it necessary. */
  readonly verdict?: Verdict
}

/** Tells these that they are the first in the queue of a vacant lease, if it is vacant; of a counted lease, that there is room. */
export function tell(
  lease: string,
  keys: Keys,
  first: readonly Ticket[],
  { also = [], verdict = granted(undefined) }: Telling = {},
): Step | Verdict {
  if (first.length + also.length === 0) return verdict
  return {
    coverMs: TELLING_MS,
    goesOn: true,
    request: (etcdLease) => {
      const calls = callsOf(
        lease,
        keys,
        first.map((ticket, ahead) => ({ ...ticket, ahead })),
        etcdLease,
      )
      return when([isAbsent(keys.key)], [...also, ...calls], [])
    },
    counted: countedOf(lease),
    instead: also.length > 0 ? undefined : () => verdict,
    next: ({ response_txn: { succeeded } }) => (succeeded ? { ...verdict, told: first.at(-1)?.place } : verdict),
  }
}

/** One message to each client, however many of these are its own. */
function callsOf(
  lease: string,
  keys: Keys,
  tickets: readonly (Ticket & { readonly ahead: number })[],
  etcdLease: string,
): EtcdRequest[] {
  const vacated = new Map<string, unknown[]>()
  for (const { client, place, ahead } of tickets) {
    vacated.set(client, [...(vacated.get(client) ?? []), [lease, place, ahead]])
  }
  return [...vacated].map(([client, its]) =>
    put(keys.toldTo(client), Buffer.from(JSON.stringify({ vacated: its })), etcdLease),
  )
}

/** How many are dismissed in one transaction. */
const MOST_DISMISSED = 50

/**
 * These waiters cannot be granted anything any more: notifies them, and removes them from the queue. A waiter that has claimed since its
 * ticket was read learns it from its refusal.
 *
 * @param verdict what has become of the operation, should this fail
 */
export function dismissed(
  lease: string,
  keys: Keys,
  tickets: readonly EtcdKeyValue[],
  verdict: Verdict,
  next: () => Verdict | Step,
): Verdict | Step {
  if (tickets.length === 0) return next()
  const [part, rest] = [tickets.slice(0, MOST_DISMISSED), tickets.slice(MOST_DISMISSED)]
  const usual = { goesOn: true, counted: lease, instead: () => verdict }
  const removal: Step = {
    ...usual,
    coverMs: undefined,
    request: () =>
      when(
        [],
        part.map(({ key }) => when([hasValue(key, LEAVES)], [remove(key)], [])),
        [],
      ),
    next: () => dismissed(lease, keys, rest, verdict, next),
  }
  return {
    ...usual,
    coverMs: INTEREST_MS,
    request: (etcdLease) => {
      // Waiters behind must not take this for a grant, and must know that others may be ahead yet.
      const leaving = part.map(({ key, mod_revision }) =>
        when([isUnchanged(key, mod_revision)], [put(key, LEAVES, etcdLease)], []),
      )
      const each = part.map(({ key }) => ({ ...ticketNamed(key), ahead: 0 }))
      return when([], [...leaving, ...callsOf(lease, keys, each, etcdLease)], [])
    },
    next: () => removal,
  }
}

function withoutTickets(tickets: readonly Ticket[], keys: Keys, verdict: Verdict): Step {
  const removals = tickets.map(({ place, client }) => remove(keys.ticket(place, client)))
  return { coverMs: undefined, request: () => when([], removals, []), next: () => verdict }
}

/** The ticket says that it leaves, for those behind are to know that it is not granted the lease. Then it is removed, if it is there. */
export function withdrawn(own: Buffer, removal: Step, otherwise: Verdict): Step {
  return {
    coverMs: INTEREST_MS,
    request: (etcdLease) => when([isPresent(own)], [put(own, LEAVES, etcdLease)], []),
    next: ({ response_txn: { succeeded } }) => (succeeded ? removal : otherwise),
  }
}

export function removedTicket(
  own: Buffer,
  next: (responses: readonly EtcdAnswer[], revision: string) => Verdict | Step,
  reads: EtcdRequest[] = [],
): Step {
  return {
    coverMs: undefined,
    request: () => when([], [remove(own), ...reads], []),
    next: ({ response_txn: { responses } }, revision) => next(responses, revision),
  }
}

/** The tickets, with what they say. @throws when one was not written by this library */
export function ticketsOf(answers: readonly EtcdAnswer[], index: number): FoundTicket[] {
  return allBy(answers, index).kvs.map(ticketIn)
}

function ticketsIn(answers: readonly EtcdAnswer[], index: number): Ticket[] {
  return allBy(answers, index).kvs.map(({ key }) => ticketNamed(key))
}

function aheadIn(answers: readonly EtcdAnswer[], index: number): Ahead {
  const { kvs, count } = allBy(answers, index)
  return { count: Number(count), nearest: kvs.map(ticketIn) }
}

function isRefusal(verdict: Verdict | Step): verdict is Verdict {
  return 'outcome' in verdict && verdict.outcome === 'refused'
}
