/** How long to wait before trying again: exponential with full jitter, so that those who failed together spread out. */

const FIRST_MS = 50
const FACTOR = 1.6

/**
 * Milliseconds before the `retry`-th retry (1 is the first): anywhere between zero and 50 ms × 1.6^(retry − 1), at
 * most `capMs`. After M. Brooker, "Exponential Backoff And Jitter".
 */
export function backoffMs(retry: number, capMs: number = Number.POSITIVE_INFINITY): number {
  return Math.random() * Math.min(capMs, FIRST_MS * FACTOR ** (retry - 1))
}
