/** One process of the race: waits for a fail-closed lock and keeps it. It releases it when it is told anything. */
import { Manager } from 'lease-core'
import { FailClosedLock } from '../src/fenced-lock.ts'
import { nowMs, openClient, racerEntry, report, reportReliance } from './racer.ts'

const entry = racerEntry()
const { client } = openClient(entry)
const manager = new Manager({ client })
const locks = new FailClosedLock({ manager, owner: entry.name, leaseDuration: entry.leaseMs })

report({ what: 'started', atMs: nowMs() })
const lock = await locks.acquireLock('race', { wait: true })
report({ what: 'locked', token: String(lock.fencingToken), atMs: nowMs() })
process.on('message', () => {
  report({ what: 'releasing', token: String(lock.fencingToken), atMs: nowMs() })
  void lock.release()
})
await reportReliance(lock.fencingToken, () => lock.held)
