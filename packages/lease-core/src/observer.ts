/**
 * Lapse without a server clock, for stores that have none to offer (etcd, DynamoDB).
 *
 * The rule of Amazon's DynamoDB lock client: every claim and extension writes a fresh `version`. Anyone who has seen the
 * *same* version for the whole duration that was granted with it, on a clock of its own, knows that the lease has
 * lapsed: its holder has been counting for longer, from an earlier instant. No two clocks are compared; only their
 * rates have to agree (`skew.ts` allows for 0.1 %). The price: a fresh observer watches for one whole duration.
 */
import type { ClockReading } from './elapsed-time.ts'

/** A version and the instant at which a read that returned it had completed. */
export interface Observed {
  readonly version: string | undefined
  readonly seen: ClockReading
}

/** Since when this version has been in view: the instant it was first seen, not the latest. */
export function inViewSince(
  previous: Observed | undefined,
  version: string | undefined,
  now: ClockReading,
): ClockReading {
  return version !== undefined && previous?.version === version ? previous.seen : now
}
