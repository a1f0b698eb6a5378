/**
 * A wait for others, on a store that may be slow: the bound of the wait must not cut off the answer to a claim.
 *
 *     a try ──granted──▶                  an unanswered try ends with its call, not with the wait
 *       │ refused, and time is left
 *     the wait ──granted, refused──▶
 *       │ over, with a claim in flight
 *     a try ──granted, refused──▶
 *
 * An unbounded wait cuts nothing off, so it needs none of this. A wait for a single lease does not begin with a try, because a try can take
 * the lease ahead of the queue (`waitThenTry`).
 */
import { ErrClaimDenied, ErrUnknown, MAX_DURATION_MS, Stopwatch, type Clock } from 'lease-core'

export interface WaitBudget {
  /** How long to wait for others in all; Infinity: without a bound. */
  readonly waitMs: number
  /** How much of the wait is left now. Not called before the first try has ended. */
  leftMs(): number
  /** The first try was refused. What this throws ends the call. */
  readonly refused?: (error: ErrClaimDenied) => void
}

/** A wait that counts from now on. */
export function waitBudget(waitMs: number, clock: Clock): WaitBudget {
  const begun = new Stopwatch(clock)
  return { waitMs, leftMs: () => waitMs - begun.elapsedMs }
}

/**
 * Tries once, and waits only if others hold it.
 *
 * @param claim makes a `hold` or `holdAny` with this `wait`
 * @throws ErrClaimDenied the store refused the last claim
 * @throws ErrUnknown     the store did not answer
 */
export async function tryThenWait<T>(claim: (wait: number | boolean) => Promise<T>, budget: WaitBudget): Promise<T> {
  const { waitMs, refused } = budget
  if (refused === undefined && waitMs > MAX_DURATION_MS) return claim(true)
  let isAnswered: boolean
  let leftMs: number
  try {
    return await claim(false)
  } catch (error) {
    isAnswered = error instanceof ErrClaimDenied
    if (error instanceof ErrClaimDenied) refused?.(error)
    else if (!(error instanceof ErrUnknown)) throw error
    leftMs = budget.leftMs()
    if (leftMs <= 0) throw error
  }
  if (!isAnswered) return claim(waitFor(leftMs))
  return waitThenTry(claim, leftMs)
}

/**
 * Waits in the queue; if the wait ends without an answer, tries once.
 *
 * @throws as {@link tryThenWait}
 */
export async function waitThenTry<T>(claim: (wait: number | boolean) => Promise<T>, waitMs: number): Promise<T> {
  if (waitMs <= 0) return claim(false)
  try {
    return await claim(waitFor(waitMs))
  } catch (error) {
    if (error instanceof ErrUnknown && error.reason === 'no answer') return claim(false)
    throw error
  }
}

/** The `wait` of a hold: longer than the longest duration is unbounded. */
function waitFor(ms: number): number | true {
  return ms > MAX_DURATION_MS ? true : ms
}
