/** How a recipe handles a failed attempt in the background: which failures are final, and how long it pauses. */
import { ErrNotValid, ErrStopped, ErrUnknown, isFinalUnknown, LeaseError, sleep, type Clock } from 'lease-core'

/**
 * Whether no retry can help: the manager was stopped, its client was closed, the set-up of the store cannot work, or the request is not valid. Other errors (a revocation at a
 * bad moment, a failing client, a lease that this process holds already) are retried.
 */
export function isFinal(error: unknown): boolean {
  if (error instanceof ErrUnknown) return isFinalUnknown(error)
  // A Manager rejects only with errors of this library: another error means that this is not a Manager.
  return error instanceof ErrStopped || error instanceof ErrNotValid || !(error instanceof LeaseError)
}

export interface PauseOptions {
  readonly clock: Clock
  /** The longest pause. @default 1 second: a store that comes back is reached within this time */
  readonly mostMs?: number
  readonly signal: AbortSignal
}

/** Pauses after this many failures in a row: 50 to 100 ms at first, doubled each time, up to `mostMs`. Ends when the signal aborts. */
export async function pauseAfter(
  failures: number,
  { clock, mostMs = LONGEST_MS, signal }: PauseOptions,
): Promise<void> {
  const ms = Math.min(mostMs, FIRST_MS * 2 ** (failures - 1))
  // Random, so that attempts that failed together spread out.
  await sleep(clock, ms * (1 + Math.random()) * 0.5, signal).catch(() => {})
}

const FIRST_MS = 100
const LONGEST_MS = 1_000
