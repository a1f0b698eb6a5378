/** One process of the race: waits for a fail-closed lock and keeps it. It releases it when it gets a message. */
import { ErrUnknown, Manager } from 'lease-core'
import { FailClosedLock, type FencedLock } from '#src/fenced-lock.ts'
import { loadStore, nowMs, openClient, record, recordReliance, whenTold, workerEntry } from 'lease-chaos/worker'

const entry = workerEntry()
await loadStore(entry.kind)
const { client } = openClient(entry)
const manager = new Manager({ client })
const locks = new FailClosedLock({ manager, owner: entry.name, leaseDuration: entry.leaseMs })

record({ what: 'started', atMs: nowMs() })

/** A grant that came too late to be pinned is given back: this process was slow, and tries again. */
async function acquire(): Promise<FencedLock> {
  for (;;) {
    try {
      return await locks.acquireLock('race', { wait: true })
    } catch (error) {
      if (!(error instanceof ErrUnknown)) throw error
    }
  }
}

const lock = await acquire()
record({ what: 'locked', token: String(lock.fencingToken), atMs: nowMs() })
whenTold(() => {
  record({ what: 'releasing', token: String(lock.fencingToken), atMs: nowMs() })
  void lock.release()
})
await recordReliance({ fencingToken: lock.fencingToken }, () => lock.held)
