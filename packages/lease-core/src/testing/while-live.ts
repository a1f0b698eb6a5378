import { systemClock, type Clock } from '../clock.ts'
import { trustWindowMs } from '../skew.ts'

/** How often the duration is doubled before the last outcome counts: from 30 ms to two minutes. */
const DOUBLINGS = 12

/**
 * Runs steps whose outcome means something only while a lease is live, on a machine that may stall at any moment.
 *
 * `attempt` claims a lease for the duration that it is given, and takes its steps. An attempt that takes so long that the
 * lease may have lapsed proves nothing, whether it resolved or rejected: it is repeated with twice the duration, as often as
 * needed. Each attempt must use a lease of its own, or leave nothing behind.
 *
 * @returns what the first attempt in time resolved to
 * @throws what the first attempt in time rejected with
 */
export async function whileLive<T>(
  firstDurationMs: number,
  attempt: (durationMs: number) => Promise<T>,
  clock: Clock = systemClock,
): Promise<T> {
  for (let doublings = 0; ; doublings++) {
    const durationMs = firstDurationMs * 2 ** doublings
    const startedMs = clock.monotonic()
    const [outcome] = await Promise.allSettled([attempt(durationMs)])
    const inTime = clock.monotonic() - startedMs < trustWindowMs(durationMs)
    if (!inTime && doublings < DOUBLINGS) continue
    if (outcome.status === 'rejected') throw outcome.reason
    if (!inTime) throw new Error(`no attempt was in time, not even one with a lease of ${durationMs} ms`)
    return outcome.value
  }
}
