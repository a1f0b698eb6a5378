/** A worker loop that runs in one process at a time. */
import { ErrLost, type Manager } from 'lease-core'

/** Does one piece of work. The signal aborts when the lease is lost, and when the worker must stop. */
export type Step = (signal: AbortSignal) => Promise<void>

/** Takes one step after another while this worker holds the lease, until `stop` aborts. */
export async function runAlone(manager: Manager, worker: string, step: Step, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    try {
      await using hold = await manager.hold('invoices', worker, {
        duration: { seconds: 30 }, // renewed after a third of it
        wait: true, // until the lease is granted, or `stop` aborts
        signal: stop,
      })
      const signal = AbortSignal.any([hold.signal, stop])
      while (!signal.aborted) await step(signal)
      // The lease is released here, and the next waiter is granted it.
    } catch (error) {
      if (stop.aborted) return
      if (!(error instanceof ErrLost)) throw error
      // Another may hold it now: wait again.
    }
  }
}
