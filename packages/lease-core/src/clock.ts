/**
 * The interface to time. Only this file uses `Date`, `performance` and timers; everything else uses a `Clock`. So a test can control time
 * completely (see `lease-core/testing`).
 */

import { uptime } from 'node:os'

/** A pending wake-up. */
export interface Timer {
  /** Cancels the wake-up. Does nothing if it has happened. */
  cancel(): void
}

/** The clocks of the machine, and timers. Readings are in milliseconds and may be fractional. */
export interface Clock {
  /** The wall clock: milliseconds since the epoch. It may jump in either direction. */
  now(): number
  /** The monotonic clock: never goes back and is never set. It may stand still while the machine is suspended. */
  monotonic(): number
  /**
   * The time since the machine started: counts suspends and cannot be set. It is coarse (10 ms) and expensive (7 µs), so it is read about
   * once a second. Without it, a suspend stays hidden if the wall clock was set back within a second before it.
   */
  boot?(): number
  /**
   * Calls `wake` once, about `delayMs` from now, in a later turn of the event loop. It may be late, or up to a millisecond early: read the
   * clock again in `wake`. Any finite delay is allowed.
   */
  setTimer(delayMs: number, wake: () => void): Timer
}

/** setTimeout's own limit; beyond it Node fires at once. */
const MAX_DELAY_MS = 2 ** 31 - 1

/** The clocks of this machine. Its timers keep the process alive until they fire or are cancelled. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  boot: () => uptime() * 1000,
  setTimer(delayMs, wake) {
    let handle: ReturnType<typeof setTimeout>
    const arm = (leftMs: number): void => {
      if (leftMs <= MAX_DELAY_MS) handle = setTimeout(wake, leftMs)
      else handle = setTimeout(() => arm(leftMs - MAX_DELAY_MS), MAX_DELAY_MS)
    }
    arm(delayMs)
    return { cancel: () => clearTimeout(handle) }
  },
}

/**
 * Resolves after `delayMs` on this clock.
 *
 * @throws the signal's reason, at once when it aborts; no timer is left
 */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason as Error)
      return
    }
    const onAbort = (): void => {
      timer.cancel()
      reject(signal?.reason as Error)
    }
    const timer = clock.setTimer(delayMs, () => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}
