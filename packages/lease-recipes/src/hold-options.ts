/** For recipes that accept the options of a hold: core's rules, reported together with the recipe's own problems. */
import type { HoldOptions } from 'lease-core'
import { HOLD_OPTIONS as ALL, readHold, type OptionReader } from 'lease-core/adapter'

/** The options of `manager.hold`, without `share` (shares have recipes of their own) and `acceptLate` (these recipes rely on their Holds). */
export type LeaseOptions = Omit<HoldOptions, 'share' | 'acceptLate'>

/** The names of all of them. */
export const HOLD_OPTIONS: readonly (keyof LeaseOptions)[] = ALL.filter(
  (name) => name !== 'share' && name !== 'acceptLate',
)

/** Notes which options of a hold break a rule. Returns the options of the hold alone, and for how long it waits. */
export function readLeaseOptions(
  options: OptionReader<LeaseOptions>,
): readonly [options: LeaseOptions, waitMs: number] {
  const { waitMs } = readHold(options)
  const { duration, wait, signal, maxWaiters, value, announce, shared, renewEvery } = options.read
  return [{ duration, wait, signal, maxWaiters, value, announce, shared, renewEvery }, waitMs]
}
