/**
 * Pure arithmetic of trust. A server answers "r milliseconds are left" at an instant s that we do not know; we know
 * only that it lies between sending and receiving:
 *
 *        tSend ───────── s ───────── tRecv                     local time →
 *          └─ early = tSend + r         └─ late = tRecv + r
 *
 * The holder relies on the early bound, everyone else on the late one, so that nobody's belief overlaps the next term.
 * Two corrections make both safe. Clock *rates* differ: 0.1 % and a millisecond are taken off the holder's side and
 * put on everyone else's. And the clocks of a machine fail in different ways: a holder counts the time that may have passed
 * at most, an observer the time that has passed for certain (`elapsed-time.ts`).
 *
 * After juju `state/lease/skew.go` (bounds instead of times) and River `internal/leadership` (trust window counted
 * from the start of the attempt).
 */

/** Share by which two clocks may drift apart. */
export const DRIFT_RATE = 0.001
/** Granularity of clocks and timers, in milliseconds. */
export const DRIFT_FLOOR_MS = 1

/** So long before the end of the trust window Holds are notified: timers are late, and listeners need a moment. */
export const EARLY_MS = 2
/** Timers fire up to a millisecond early or late, and their times are whole milliseconds. */
const TIMER_MS = 2

/** How long, in milliseconds after *sending* the request, a holder may rely on a grant of `durationMs`. Zero or less: not at all. */
export function trustWindowMs(durationMs: number): number {
  return durationMs - durationMs * DRIFT_RATE - DRIFT_FLOOR_MS
}

/** How long, in milliseconds after *receiving* "`remainingMs` are left", the lease may still be valid. */
export function lapseWindowMs(remainingMs: number): number {
  return remainingMs + remainingMs * DRIFT_RATE + DRIFT_FLOOR_MS
}

/** A renewal that is due so long after a grant of `durationMs`, or later, may come after the Hold was notified of its end. */
export function tooLateMs(durationMs: number): number {
  return trustWindowMs(durationMs) - EARLY_MS - TIMER_MS
}

/** The shortest duration, in whole milliseconds, that can be renewed when a third of it is over. */
export const SHORTEST_RENEWED_MS: number = Math.ceil((DRIFT_FLOOR_MS + EARLY_MS + TIMER_MS) / (1 - DRIFT_RATE - 1 / 3))
