/** For recipes that accept all options of a hold: core's rules, reported together with the recipe's own problems. */
import type { HoldOptions } from 'lease-core'
import type { Checks } from './checks.ts'

/** The options of `manager.hold`, without `share` (shares have recipes of their own) and `acceptLate` (these recipes rely on their Holds). */
export type LeaseOptions = Omit<HoldOptions, 'share' | 'acceptLate'>

const ALL: Readonly<Record<keyof LeaseOptions, true>> = {
  duration: true,
  wait: true,
  signal: true,
  maxWaiters: true,
  value: true,
  announce: true,
  shared: true,
  renewEvery: true,
}

/** The names of all options of a hold. */
export const HOLD_OPTIONS: readonly string[] = Object.keys(ALL)

/** Notes which options of a hold break a rule. Returns the options of the hold alone, each read once. */
export function checkHoldOptions(checks: Checks, options: LeaseOptions): LeaseOptions {
  const { duration, wait, signal, maxWaiters, value, announce, shared, renewEvery } = options
  const check = renewEvery === undefined ? 'renewedDuration' : 'leaseDuration'
  const durationMs = checks[check]('duration', duration)
  checks.wait('wait', wait === undefined ? false : wait)
  checks.signal('signal', signal)
  checks.value('value', value)
  for (const [option, given] of Object.entries({ announce, shared })) {
    checks.must(option, given === undefined || typeof given === 'boolean', 'must be true or false', given)
  }
  if (renewEvery !== undefined && renewEvery !== false) {
    checks.renewal('renewEvery', checks.duration('renewEvery', renewEvery), 'duration', durationMs)
  }
  const isCount = maxWaiters === undefined || (Number.isInteger(maxWaiters) && maxWaiters >= 1)
  checks.must('maxWaiters', isCount, 'must be a whole number of at least 1', maxWaiters)
  return { duration, wait, signal, maxWaiters, value, announce, shared, renewEvery }
}
