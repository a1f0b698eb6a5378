/** A process that has a lease without timers, and is frozen: it looks at its hold in the very moment in which it goes on. */
import { existsSync } from 'node:fs'
import { loadStore, nowMs, openClient, record, whenTold, workerEntry, type WorkerEntry } from 'lease-chaos/worker'
import { Manager } from 'lease-core'

/** An order to it. `spin`: do nothing else until there is this file. */
export type Order = 'spin' | 'renew'

export interface FrozenEntry extends WorkerEntry {
  readonly thawed: string
}

const entry = workerEntry() as FrozenEntry
await loadStore(entry.kind)
const manager = new Manager({ client: openClient(entry).client })
const hold = await manager.hold('order-9', 'run-1', { duration: entry.leaseMs, renewEvery: false })
const tell = (what: string): void => {
  const detail = JSON.stringify({ held: hold.held, aborted: hold.signal.aborted })
  record({ what, atMs: nowMs(), token: String(hold.fencingToken), detail })
}

whenTold((order) => {
  if (order === 'spin') {
    tell('spins')
    while (!existsSync(entry.thawed));
    tell('thawed')
  } else {
    hold.renew().then(
      () => tell('renewed'),
      (error: unknown) => tell((error as Error).name),
    )
  }
})
tell('holds')
