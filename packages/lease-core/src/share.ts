/**
 * Counted leases: a name with a capacity, and shares of it. A *share* is a lease of its own, of one holder, with a weight: it is
 * extended, released, revoked, pinned and guarded like every lease. Only its claim is decided by the counted lease: the weights of
 * the shares that stand never exceed the capacity, and nobody passes those who wait.
 *
 *     printers#           the counted lease, as stores call it: its capacity, and the queue of those who wait for a share
 *     printers#alice      the share of alice, a lease: one for each holder
 *
 * No other name has a `#`, so a lease and a counted lease may have the same name and have nothing to do with each other. A holder
 * has one share: a second claim of it goes on with the first, on every store, however many run at once.
 *
 * The capacity is *defined* by `define`, or by the first claim that names one. A definition has a generation, and `define` changes it
 * only if it is of the generation that the caller has seen. One that a claim has made may be forgotten a day after the last grant.
 */

/** The largest capacity. */
export const MAX_CAPACITY: number = 2 ** 30

/** A definition that a claim has made is remembered for so long after the last grant, and as long as that share was granted for. */
export const DEFINITION_MS = 86_400_000

/** What a claim of a share asks for. */
export interface ShareRequest {
  /** How much of the capacity it takes. */
  readonly weight: number
  /** Defines the counted lease where it is not defined, and refuses the claim where it is with another capacity. */
  readonly capacity?: number | undefined
  /** Goes ahead of those who wait, if there is room for it. */
  readonly ahead?: boolean | undefined
}

/** The name of a counted lease, as stores have it. */
export function countedName(name: string): string {
  return `${name}#`
}

/** The name of a share. */
export function shareName(name: string, holder: string): string {
  return `${name}#${holder}`
}

/** The counted lease that this lease is a share of, as stores have it; undefined: it is no share. */
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
