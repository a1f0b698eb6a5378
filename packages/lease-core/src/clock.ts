/**
 * The port to time. Everything else in this library asks a `Clock`; this is the only file that touches `Date`,
 * `performance` and timers, so that a test can own time completely (see `lease-core/testing`).
 */

import { uptime } from 'node:os'

/** A pending wake-up. */
export interface Timer {
  /** The wake-up will not happen. Harmless when it already did. */
  cancel(): void
}

/** Both clocks of the machine, and wake-ups. Readings are milliseconds and may be fractional. */
export interface Clock {
  /** The wall clock: milliseconds since the epoch. It may jump either way. */
  now(): number
  /** Never goes back and is never set; it may stand still while the machine is suspended. */
  monotonic(): number
  /**
   * Time since the machine started: counts suspends and cannot be set. Coarse (10 ms) and expensive (7 µs): read about once a
   * second. Without it a wall clock that is set back within a second before a suspend hides the suspend.
   */
  boot?(): number
  /**
   * Calls `wake` once, about `delayMs` from now (not before the next turn of the event loop). It may come late, and up
   * to a millisecond early: whoever is woken reads the clock again. Any finite delay is allowed.
   */
  setTimer(delayMs: number, wake: () => void): Timer
}

/** setTimeout's own limit; beyond it Node fires at once. */
const MAX_DELAY_MS = 2 ** 31 - 1

/** The machine's clocks. Its timers keep the process alive until they fire or are cancelled. */
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
 * @throws the signal's reason, at once when it aborts; nothing stays behind
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
