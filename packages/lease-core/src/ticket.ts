/**
 * Those who wait for one lease in different processes, in a queue that the store keeps: who waits gets a *ticket*, and is told
 * when it is its turn.
 *
 *     claim, waiting ──refused──▶ ticket 7, 2 ahead ──"vacated, 0 ahead"──▶ claims at once
 *                                      │                    └─"vacated, 1 ahead"──▶ stands in: claims a slot later, unless it is
 *                                      │                                            told that the lease was taken
 *                                      └─ the known holding lapses ──▶ claims, a slot later for each who is ahead
 *
 * Only the first claims when the lease is vacated, and only it and the one that stands in are told, so a hand-off costs the same
 * however many wait. A ticket is worth nothing but the moment at which its owner asks: it grants nothing, so a wrong, doubled
 * or forgotten one costs fairness or a few milliseconds, never safety. Whoever is granted the lease takes those out of the queue who
 * were told before it and did not come: the first `TOLD`, as far as they are ahead of it. So one who has died delays those behind by
 * a slot, once, and one who lives gets in again where it was, by the claim for which it was told. Those who were not told stay, for
 * nobody else would tell them later.
 *
 * After the ticket lock, and after the queue of ZooKeeper's lock recipe, in which each waiter watches the one ahead.
 */

/** What the store says of a ticket. */
export interface Place {
  /** Its number: a smaller one is ahead. */
  readonly place: number
  /** How many are ahead. */
  readonly ahead: number
}

/** What a waiter knows of its own: the client writes it. */
export interface Ticket {
  /** 0: it has none yet. */
  place: number
  /** How many were ahead. */
  ahead: number
  /** The claim was refused a ticket, for `maxWaiters`. */
  isFull: boolean
  /** Of a share: so many of those ahead had their turn and did not come; the claim passes them. The waiter writes it. */
  passing?: number
}

/** Of one who is not in the queue yet. */
export function noTicket(): Ticket {
  return { place: 0, ahead: 0, isFull: false }
}

/** Of those in the queue so many are told of a vacancy: the first, and one that stands in. */
export const TOLD = 2

/**
 * So long the store remembers a ticket, or that somebody watches a lease, without hearing of it again. Those who wait look, and so
 * renew it, more than twice as often.
 */
export const INTEREST_MS = 150_000

/** The longest pause between two looks of those who wait. */
export const LONGEST_REST_MS = 60_000

/**
 * After a vacancy that it has made a client waits so long for one of those who were told. Then it has them passed over: they are taken
 * out of the queue, and the next ones are told. So however many have died at its head, and however late the rest would look.
 */
export const PASS_OVER_MS = 400

/**
 * A waiter that was notified of a vacancy, and then of a grant, looks so long afterwards: the second hint may be false or late. A lease
 * that is given up sooner costs no look.
 */
export const LOOK_AGAIN_MS = 10_000

/** What one who has died in the queue costs those behind it; longer than a claim takes to be answered and told of. */
const SHORTEST_SLOT_MS = 20
const LONGEST_SLOT_MS = 100
/** However many are ahead, nobody asks later than so many slots after a vacancy. */
const MOST_SLOTS = 12

/** How long after a vacancy it is this waiter's turn, if nobody who is ahead of it takes the lease. */
export function untilTurnMs({ ahead }: Pick<Ticket, 'ahead'>, claimTookMs: number): number {
  const slotMs = Math.min(LONGEST_SLOT_MS, Math.max(SHORTEST_SLOT_MS, 3 * claimTookMs))
  return Math.min(MOST_SLOTS, ahead) * slotMs
}
