/** How long to wait before trying again: exponential with full jitter, so that those who failed together spread out. */

const FIRST_MS = 50
const FACTOR = 1.6

/**
 * The longest pause of what must go on until the store answers: renewals of holds, and claims and reads of those who wait. A store
 * that answers again is asked within this time, however long it was away.
 */
export const LONGEST_RETRY_MS = 1_000

/**
 * Milliseconds before the `retry`-th retry (1 is the first): anywhere between zero and 50 ms × 1.6^(retry − 1), at
 * most `capMs`. After M. Brooker, "Exponential Backoff And Jitter".
 */
export function backoffMs(retry: number, capMs: number = Number.POSITIVE_INFINITY): number {
  return Math.random() * Math.min(capMs, FIRST_MS * FACTOR ** (retry - 1))
}

/** The same before an attempt after so many failures: the first is repeated at once. */
export function pauseAfterMs(failures: number): number {
  return failures === 1 ? 0 : backoffMs(failures - 1)
}

/** Before the next attempt of an operation that met another request at the same row, which holds it for one statement. */
export function contentionPauseMs(tries: number): number {
  return 1 + Math.random() * Math.min(50, 4 * tries)
}
