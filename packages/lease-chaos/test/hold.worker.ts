/** One process of the race: holds leases for a while, one after another, and records how long it relies on each. */
import { setTimeout as pass } from 'node:timers/promises'
import { ErrClaimDenied, ErrNotHeld, ErrUnknown, Manager } from 'lease-core'
import { loadStore, nowMs, openClient, recordReliance, workerEntry, type WorkerEntry } from 'lease-chaos/worker'

export interface HolderEntry extends WorkerEntry {
  readonly leases: readonly string[]
  /** Relies on a lease for as long as its work takes, held or not: what must not be done, and must be found. */
  readonly careless: boolean
}

const { name, leaseMs, leases, careless, ...address } = workerEntry() as HolderEntry
await loadStore(address.kind)
const manager = new Manager({ client: openClient(address).client })

async function race(holder: string): Promise<never> {
  for (;;) {
    const lease = leases[Math.floor(Math.random() * leases.length)] ?? ''
    try {
      const hold = await manager.hold(lease, holder, { duration: leaseMs, wait: { milliseconds: 10 * leaseMs } })
      const fromMs = nowMs()
      // Seldom for several renewals.
      const workMs = Math.random() < 0.1 ? Math.random() * 3 * leaseMs : Math.random() * 20
      await recordReliance(hold, () => (careless || hold.held) && nowMs() - fromMs < workMs, 2)
      await hold.release()
    } catch (error) {
      if (![ErrClaimDenied, ErrUnknown, ErrNotHeld].some((kind) => error instanceof kind)) throw error
    }
    await pass(Math.random() * 5)
  }
}

await Promise.all(['a', 'b'].map((one) => race(`${name}-${one}`)))
