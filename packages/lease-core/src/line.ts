/**
 * Those who wait for one lease in different processes, in a line that the store keeps by two numbers: the last place
 * that it gave, and the last one served.
 *
 *     claim, waiting ──refused──▶ place 7, 4 served ──"vacated"──▶ two are ahead: claim after two slots,
 *                                                        └─"taken by place 5"──▶ one is ahead; wait for the next vacancy
 *
 * Only the first claims when the lease is vacated, so a hand-off costs the same however many wait; the others do so when
 * it did not, each a slot later than the one ahead of it. A place is worth nothing but the moment at which its owner
 * asks: it grants nothing, so a wrong, doubled or forgotten one costs fairness or a few milliseconds, never safety. One
 * who has died in the line delays those behind it by a slot, once.
 *
 * After the ticket lock, whose "now serving" is a hint here.
 */

/** Where a claimer stands in line, as far as the store has told: the client writes it, at each refusal. */
export interface Turn {
  /** From 1 on; 0: it has none yet. */
  place: number
  /** The last place served ahead of this one. */
  served: number
}

/** Of one who is not in line yet. */
export function noTurn(): Turn {
  return { place: 0, served: 0 }
}

/** What one who has died in the line costs those behind it; longer than a claim takes to be answered and announced. */
const SHORTEST_SLOT_MS = 20
const LONGEST_SLOT_MS = 100
/** However many are ahead, nobody asks later than so many slots after a vacancy. */
const MOST_SLOTS = 12

/** How long after a vacancy it is this claimer's turn, if nobody who is ahead of it takes the lease. */
export function untilTurnMs({ place, served }: Turn, claimTookMs: number): number {
  const ahead = place === 0 ? 0 : Math.max(0, place - served - 1)
  const slotMs = Math.min(LONGEST_SLOT_MS, Math.max(SHORTEST_SLOT_MS, 3 * claimTookMs))
  return Math.min(MOST_SLOTS, ahead) * slotMs
}

/** Takes over what a refusal tells. */
export function learnTurn(turn: Turn, { place, served }: Turn): void {
  if (place !== turn.place) turn.served = served
  turn.place = place
  noteServed(turn, served)
}

/** A place behind this one that was served is none of its business: those who were overtaken keep their order. */
export function noteServed(turn: Turn, served: number): void {
  if (served < turn.place) turn.served = Math.max(turn.served, served)
}

/**
 * The claimer has waited for its turn, none of those ahead of it took the lease, and yet its claim was refused: half of them count
 * as gone. So those who have left do not delay the rest at one vacancy after the other, and those who have not stay ahead.
 */
export function passOver(turn: Turn): void {
  const ahead = Math.max(0, turn.place - turn.served - 1)
  turn.served += Math.ceil(ahead / 2)
}
