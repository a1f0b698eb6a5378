/** What a recipe does about an attempt in the background that failed: which failures end it, and how long it pauses. */
import { ErrNotValid, ErrStopped, ErrUnknown, LeaseError, sleep, type Clock } from 'lease-core'

/**
 * Whether no later attempt can do better: the manager was stopped, its client was closed, or the store does not take the request. Errors
 * of others (a revocation at the wrong moment, a client that fails, a lease that this process has already) are no reason to give up.
 */
export function isFinal(error: unknown): boolean {
  if (error instanceof ErrUnknown) return error.reason === 'closed'
  // A Manager rejects with errors of this library only: what throws anything else is none.
  return error instanceof ErrStopped || error instanceof ErrNotValid || !(error instanceof LeaseError)
}

export interface PauseOptions {
  readonly clock: Clock
  /** @default 1 second: what is away is found within this time after it came back */
  readonly mostMs?: number
  readonly signal: AbortSignal
}

/** Pauses after so many failures in a row, longer each time, up to `mostMs`. Resolves at once when the signal aborts. */
export async function pauseAfter(
  failures: number,
  { clock, mostMs = LONGEST_MS, signal }: PauseOptions,
): Promise<void> {
  const ms = Math.min(mostMs, FIRST_MS * 2 ** (failures - 1))
  // Those that failed together spread out.
  await sleep(clock, ms * (1 + Math.random()) * 0.5, signal).catch(() => {})
}

const FIRST_MS = 100
const LONGEST_MS = 1_000
