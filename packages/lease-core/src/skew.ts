/**
 * Pure arithmetic of trust. A server answers "r milliseconds are left" at an instant s that we do not know; we know
 * only that it lies between sending and receiving:
 *
 *        tSend ───────── s ───────── tRecv                     local time →
 *          └─ early = tSend + r         └─ late = tRecv + r
 *
 * The holder relies on the early bound, everyone else on the late one, so that nobody's belief overlaps the next term.
 * Two corrections make both safe. Clock *rates* differ: 0.1 % and a millisecond are taken off the holder's side and
 * put on everyone else's. And a machine has two clocks that fail differently (the monotonic one stands still in a
 * suspend, the wall clock is set): a holder counts the larger elapsed time, an observer the smaller.
 *
 * After juju `state/lease/skew.go` (bounds instead of times) and River `internal/leadership` (trust window counted
 * from the start of the attempt).
 */
import type { Clock } from './clock.ts'

/** A local instant, read from both clocks. */
export interface Instant {
  readonly monotonicMs: number
  readonly wallMs: number
}

/** Share by which two clocks may drift apart. */
export const DRIFT_RATE = 0.001
/** Granularity of clocks and timers, in milliseconds. */
export const DRIFT_FLOOR_MS = 1

/** Reads both clocks now. */
export function instant(clock: Clock): Instant {
  return { monotonicMs: clock.monotonic(), wallMs: clock.now() }
}

/** Time that may have passed at most: the larger of the two clocks. For a holder. */
export function elapsedForHolder(since: Instant, now: Instant): number {
  return Math.max(now.monotonicMs - since.monotonicMs, now.wallMs - since.wallMs)
}

/** Time that has passed for certain: the smaller of the two clocks, never negative. For an observer. */
export function elapsedForObserver(since: Instant, now: Instant): number {
  return Math.max(0, Math.min(now.monotonicMs - since.monotonicMs, now.wallMs - since.wallMs))
}

/** How long after *sending* a holder may rely on a grant of `durationMs`. May be negative: then it never may. */
export function trustWindowMs(durationMs: number): number {
  return durationMs - durationMs * DRIFT_RATE - DRIFT_FLOOR_MS
}

/** How long after *receiving* "`remainingMs` are left" the lease might still be valid. */
export function lapseWindowMs(remainingMs: number): number {
  return remainingMs + remainingMs * DRIFT_RATE + DRIFT_FLOOR_MS
}
