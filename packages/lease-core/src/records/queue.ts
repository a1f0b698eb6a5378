/**
 * The queue of waiters for a lease: part of its record, so that every decision on the lease sees it (`ticket.ts`). That of a counted
 * lease is in the record that decides its grants.
 *
 * A ticket that nobody renews is forgotten after `INTEREST_MS`, by the wall clock of the process that gave it. A clock that is wrong costs
 * somebody its place until its next claim, and nothing else: a ticket grants nothing.
 */
import type { ClaimOp, Verdict } from '../substrate.ts'
import { afterGrant, INTEREST_MS } from '../ticket.ts'
import type { LeaseRecord, QueueTicket } from './record.ts'

/** A ticket is written again when less than this is left of it. Waiters claim at least once a minute. */
const RENEWED_MS = 85_000

/** Of one decision: the wall clock, in milliseconds. */
interface QueueContext {
  readonly nowMs: number
}

/** What a verdict says of the queue. */
export type Queued = Pick<Verdict, 'ticket' | 'told' | 'isFull'>

/** Those who wait now, in the order of their tickets. */
export function waitersIn({ queue }: LeaseRecord, { nowMs }: QueueContext): readonly QueueTicket[] {
  return queue.filter(({ untilMs }) => untilMs >= nowMs)
}

/** Those ahead of this claim. It may have been sent before, and have its ticket, though it does not know it. */
export function aheadOf({ place = 0, nonce }: ClaimOp, waiters: readonly QueueTicket[]): readonly QueueTicket[] {
  const own = place > 0 ? place : waiters.find((ticket) => ticket.nonce === nonce)?.place
  return own === undefined ? waiters : waiters.filter((ticket) => ticket.place < own)
}

/** The refusal of a claim: with its ticket, if it waits. @param isHeld whether `maxWaiters` counts */
export function queued(
  op: ClaimOp,
  record: LeaseRecord,
  context: QueueContext,
  { isHeld }: { readonly isHeld: boolean },
): { readonly after?: LeaseRecord; readonly queued: Queued } {
  const { place, nonce, maxWaiters = Number.POSITIVE_INFINITY, share } = op
  if (place === undefined) return { queued: {} }
  const { nowMs } = context
  const waiters = waitersIn(record, context)
  const known = waiters.find((ticket) => (place === 0 ? ticket.nonce === nonce : ticket.place === place))
  if (place === 0 && known === undefined && isHeld && waiters.length >= maxWaiters) return { queued: { isFull: true } }
  const weight = share?.weight ?? 1
  const own: QueueTicket = {
    nonce,
    ...known,
    place: known?.place ?? (place === 0 ? record.places + 1 : place),
    weight,
    untilMs: Math.ceil(nowMs + INTEREST_MS),
  }
  const others = waiters.filter((ticket) => ticket.place !== own.place)
  const ticket = { place: own.place, ahead: others.filter((other) => other.place < own.place).length }
  if (known?.weight === weight && known.untilMs - nowMs > RENEWED_MS) return { queued: { ticket } }
  const queue = [...others, own].toSorted((one, other) => one.place - other.place)
  return { after: { ...record, queue, places: Math.max(record.places, own.place) }, queued: { ticket } }
}

/** What a grant makes of the queue: those ahead who were notified, and have not come, leave it. */
export function served(
  { place = 0, durationMs }: ClaimOp,
  record: LeaseRecord,
  context: QueueContext,
): Pick<LeaseRecord, 'queue' | 'served'> {
  const waiters = waitersIn(record, context)
  if (place === 0) return { queue: waiters, served: undefined }
  return { queue: afterGrant(waiters, place), served: { place, durationMs } }
}
