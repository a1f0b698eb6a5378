/**
 * Counted leases: a name with a capacity, and shares of it. A *share* is a lease of one holder, with a weight. It is extended, released,
 * revoked, pinned and guarded like every lease. Only its claim also depends on the counted lease: the weights of the live shares never
 * exceed the capacity, and a claim does not pass waiters.
 *
 *     printers#           the counted lease, as stores name it: its capacity, and its queue
 *     printers#alice      the share of alice: a lease, one per holder
 *
 * No other name has a `#`: a lease and a counted lease may have the same name and are independent. A holder has one share: a second claim
 * continues the first, on every store and under any concurrency.
 *
 * The capacity is *defined* by `define`, or by the first claim that names one. A definition has a generation, and `define` changes it only
 * if it has the generation that the caller names. A definition that a claim made may be forgotten a day after the last grant.
 */

/** The largest capacity: 2³⁰. */
export const MAX_CAPACITY: number = 2 ** 30

/** How long, in milliseconds, a definition that a claim made is remembered after the granted time of the last share. */
export const DEFINITION_MS = 86_400_000

/** What a claim of a share asks for. */
export interface ShareRequest {
  /** How much of the capacity the share takes: a whole number from 1. */
  readonly weight: number
  /** Defines the counted lease if it is not defined. If it has another capacity, the claim is refused. */
  readonly capacity?: number | undefined
  /** Whether the claim passes all waiters, if there is room. */
  readonly ahead?: boolean | undefined
}

/** Returns the name of a counted lease, as stores use it. */
export function countedName(name: string): string {
  return `${name}#`
}

/** Returns the lease name of a share. */
export function shareName(name: string, holder: string): string {
  return `${name}#${holder}`
}

/** Returns the counted lease of a share, as stores name it; undefined: not a share. */
export function countedOf(lease: string): string | undefined {
  const at = lease.indexOf('#')
  return at === -1 ? undefined : lease.slice(0, at + 1)
}

/** The rule that this breaks; undefined: none. */
export function brokenShareRule(share: unknown): string | undefined {
  if (typeof share !== 'object' || share === null) return 'must be an object'
  const { weight, capacity, ahead } = share as Partial<ShareRequest>
  if (ahead !== undefined && typeof ahead !== 'boolean') return 'must have true or false as ahead'
  return (
    brokenCapacityRule(weight, 'weight') ??
    (capacity === undefined ? undefined : brokenCapacityRule(capacity)) ??
    (capacity !== undefined && (weight ?? 0) > capacity
      ? `must have a weight of at most its capacity, ${capacity}`
      : undefined)
  )
}

/** The rule that this number breaks; undefined: none. */
export function brokenCapacityRule(value: unknown, what?: string): string | undefined {
  const isSound = Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= MAX_CAPACITY
  return isSound
    ? undefined
    : `must ${what === undefined ? 'be' : `have a ${what} that is`} a whole number from 1 to ${MAX_CAPACITY}`
}
