/** One process that waits for a lease, holds it for a moment, and waits again. */
import { Manager } from 'lease-core'
import { loadStore, nowMs, openClient, record, workerEntry, type WorkerEntry } from 'lease-chaos/worker'

export interface WaiterEntry extends WorkerEntry {
  readonly lease: string
}

const { name, leaseMs, lease, ...address } = workerEntry() as WaiterEntry
await loadStore(address.kind)
const manager = new Manager({ client: openClient(address).client })

for (;;) {
  const hold = await manager.hold(lease, name, { duration: leaseMs, wait: true })
  record({ what: 'granted', token: String(hold.fencingToken), atMs: nowMs() })
  await new Promise((resolve) => setTimeout(resolve, Math.random() * 3))
  await hold.release()
}
