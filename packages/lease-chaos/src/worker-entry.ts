/** The other side of a worker process: how it was called, and what it is notified. */
import type { StoreAddress } from './connections.ts'

/** How a worker is called. */
export interface WorkerEntry extends StoreAddress {
  /** Of this process alone. */
  readonly name: string
  /** How long its leases last. */
  readonly leaseMs: number
}

/** In a worker: how it was called, with whatever else its race has for it. From now on the worker ends when its race has ended. */
export function workerEntry(): WorkerEntry {
  process.once('disconnect', () => process.exit(1))
  return JSON.parse(process.argv[2] ?? '') as WorkerEntry
}

/** In a worker: calls back with each message from the parent. */
export function whenTold(obey: (order: unknown) => void): void {
  process.on('message', obey)
}
