/**
 * Waiters for one lease in different processes have a queue in the store: each waiter gets a *ticket*, and is notified when it is its turn.
 *
 *     claim, waiting ──refused──▶ ticket 7, 2 ahead ──"vacated, 0 ahead"──▶ claims at once
 *                                      │                    └─"vacated, 1 ahead"──▶ stands in: claims a slot later, unless it is
 *                                      │                                            notified that the lease was taken
 *                                      └─ the known holding lapses ──▶ claims, a slot later for each waiter ahead
 *
 * When the lease is vacated, only the first waiter claims it, and only the first two are notified: a hand-over costs the same for any number
 * of waiters. A ticket grants nothing; it only decides when its owner claims. So a wrong, doubled or forgotten ticket costs fairness or a
 * few milliseconds, never safety. A grant removes from the queue the waiters ahead of it that were notified and did not claim: they are
 * among the first `TOLD`. So a dead waiter delays the others by one slot, once. A live one returns to its place with its next claim.
 * Waiters that were not notified stay in the queue, because nothing else would notify them later.
 *
 * After the ticket lock, and after the queue of ZooKeeper's lock recipe, in which each waiter watches the one ahead.
 */

/** A ticket, as the store reports it. */
export interface Place {
  /** The number of the ticket: a smaller one is ahead. */
  readonly place: number
  /** How many tickets are ahead. */
  readonly ahead: number
}

/** A ticket, as its waiter knows it. The client writes it. */
export interface Ticket {
  /** The number of the ticket; 0: none yet. */
  place: number
  /** How many tickets were ahead. */
  ahead: number
  /** Whether the claim got no ticket because of `maxWaiters`. */
  isFull: boolean
  /** Of a share: how many waiters ahead had their turn and did not claim; the claim passes them. The waiter writes it. */
  passing?: number
}

/** Makes the ticket of a waiter that is not in the queue yet. */
export function noTicket(): Ticket {
  return { place: 0, ahead: 0, isFull: false }
}

/** How many waiters are notified of a vacancy: the first, and one that stands in for it. */
export const TOLD = 2

/** The ticket of the last waiter that is notified of a vacancy; undefined: nobody waits. @param queue in the order of the tickets */
export function lastTold(queue: readonly Pick<Place, 'place'>[]): number | undefined {
  return queue.slice(0, TOLD).at(-1)?.place
}

/** The queue after a grant with this ticket: without it, and without those ahead that were notified and did not claim. */
export function afterGrant<T extends Pick<Place, 'place'>>(queue: readonly T[], place: number): T[] {
  return queue.filter((ticket, index) => ticket.place > place || (ticket.place < place && index >= TOLD))
}

/**
 * How long, in milliseconds, the store remembers a ticket, or a watch of a lease, without a renewal. Waiters read, and so renew it, more than
 * twice as often.
 */
export const INTEREST_MS = 150_000

/** The longest time between two reads of a waiter. */
export const LONGEST_REST_MS = 60_000

/**
 * How long a client that vacated a lease waits for a claim of the notified waiters. Then it passes them over: they leave the queue, and the
 * next ones are notified. So dead waiters at the head of the queue do not block the rest.
 */
export const PASS_OVER_MS = 400

/**
 * How long after a grant a waiter reads, if it was notified of a vacancy and then of that grant: the second hint may be false or late. If the
 * lease is released earlier, no read is needed.
 */
export const LOOK_AGAIN_MS = 10_000

/** How long a dead waiter delays those behind it; longer than a claim, its answer and the notification take. */
const SHORTEST_SLOT_MS = 20
const LONGEST_SLOT_MS = 100
/** After a vacancy no waiter claims later than this many slots, for any number ahead. */
const MOST_SLOTS = 12

/** How long after a vacancy this waiter claims, if no waiter ahead of it takes the lease. */
export function untilTurnMs({ ahead }: Pick<Ticket, 'ahead'>, claimTookMs: number): number {
  const slotMs = Math.min(LONGEST_SLOT_MS, Math.max(SHORTEST_SLOT_MS, 3 * claimTookMs))
  return Math.min(MOST_SLOTS, ahead) * slotMs
}
