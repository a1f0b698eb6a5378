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

/**
 * Both clocks for little more than the price of one, for a holder who asks over and over: within one millisecond of the
 * wall clock the monotonic one is read once, and taken for a millisecond later from then on. A pause, a suspend or a
 * clock that was set shows at the next glance. A clock that is set back into the very millisecond of the last one does
 * not, for what is left of it.
 */
export class Glance implements Instant {
  /** Of the last glance: the true one, or up to a millisecond more. */
  monotonicMs = 0
  wallMs: number = Number.NaN
  readonly #clock: Clock
  #endsAtMs = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Itself, as of now; the next glance changes it. */
  take(): Instant {
    const wallMs = this.#clock.now()
    if (wallMs === this.wallMs) {
      this.monotonicMs = this.#endsAtMs
    } else {
      this.wallMs = wallMs
      this.monotonicMs = this.#clock.monotonic()
      this.#endsAtMs = this.monotonicMs + 1
    }
    return this
  }
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
