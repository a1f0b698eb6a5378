/** A worker that does its job in one process at a time, for as long as it runs. */
import { ErrLost, type Manager } from 'lease-core'

/** Does one piece of work. The signal aborts when the lease is lost, or when the worker is told to stop. */
export type Step = (signal: AbortSignal) => Promise<void>

/** Takes one step after another while this worker holds the lease, until `stop` aborts. */
export async function runAlone(manager: Manager, worker: string, step: Step, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    try {
      await using hold = await manager.hold('invoices', worker, {
        duration: { seconds: 30 }, // renewed from a third of it on
        wait: true, // until the lease is free, or stop aborts
        signal: stop,
      })
      const signal = AbortSignal.any([hold.signal, stop])
      while (!signal.aborted) await step(signal)
      // Here the lease is released: at once to the next who waits.
    } catch (error) {
      if (stop.aborted) return
      if (!(error instanceof ErrLost)) throw error
      // Another may have it by now: wait for our turn again.
    }
  }
}
