import { setTimeout as pass } from 'node:timers/promises'
import { expect } from 'chai'
import { openClient, raceStores, trustConflicts, Workers, type OpenStore, type Worker } from 'lease-chaos'
import { ErrClaimDenied, Manager } from 'lease-core'
import { FailClosedLock } from '#src/fenced-lock.ts'
import { unique } from './stores.ts'

const LEASE_MS = 400
const PROCESSES = 2

for (const store of raceStores('sorts', ['redis'])) {
  describe(`FailClosedLock, a race of processes, on ${store.name}`, () => {
    let opened: OpenStore
    let workers: Workers

    before(async () => {
      opened = await store.open(unique('race'))
      workers = new Workers('./fenced-lock.worker.ts', import.meta.url, { ...opened.address, leaseMs: LEASE_MS })
    })
    after(async () => {
      await workers.kill()
      await opened.close()
    })

    /** Processes that wait for the lock. */
    async function contend(count: number): Promise<void> {
      const started = Array.from({ length: count }, () => workers.start())
      await workers.until('start of all', () => started.every((worker) => worker.latest('started') !== undefined))
    }

    /** Who has ever had the lock, and said that it relies on it, the latest last. */
    function winners(): readonly Worker[] {
      const tokenOf = (worker: Worker): bigint => BigInt(worker.latest('relied')?.token ?? -1)
      return workers.all.filter((worker) => tokenOf(worker) >= 0n).toSorted((a, b) => Number(tokenOf(a) - tokenOf(b)))
    }

    /** A person at the store, who leaves when the work is done. */
    async function person<T>(work: (locks: FailClosedLock) => Promise<T>): Promise<T> {
      const visit = openClient(opened.address)
      const manager = new Manager({ client: visit.client })
      try {
        // It is only tried, and must be answered however slow the store is.
        return await work(new FailClosedLock({ manager, leaseDuration: 60_000 }))
      } finally {
        await manager.stop()
        await visit.close()
      }
    }

    async function outcomeOfTry(locks: FailClosedLock): Promise<unknown> {
      return locks.acquireLock('race').catch((error: unknown) => error)
    }

    it('DT-1: the lock of a killed process stays closed, no matter who else is killed, until a person frees it; then one has it', async function () {
      this.timeout(300_000) // processes are slow to start on a busy machine
      await contend(PROCESSES)
      await workers.until('holder', () => winners().length === 1)
      const crashed = winners()[0] as Worker
      const token = BigInt(crashed.latest('relied')?.token ?? 0)
      await pass(Math.random() * LEASE_MS)
      crashed.kill()
      await pass(1.5 * LEASE_MS)
      await workers.kill()
      await pass(LEASE_MS) // nobody is there

      await contend(PROCESSES)
      await pass(2 * LEASE_MS)
      await person(async (locks) => {
        expect(await outcomeOfTry(locks)).to.be.instanceOf(ErrClaimDenied)
        const [info] = await locks.list()
        expect(info).to.include({ id: 'race', owner: crashed.name, fencingToken: token, pinned: true })
      })
      expect(winners()).to.deep.equal([crashed])

      await person((locks) => locks.forceRelease('race'))
      await workers.until('next holder', () => winners().length >= 2)
      await pass(1.5 * LEASE_MS)
      expect(winners()).to.have.length(2)

      winners()[1]?.tell()
      await workers.until('one after it', () => winners().length >= 3)
      await pass(LEASE_MS / 2)
      await workers.kill()
      const windows = workers.windows()
      // One that was killed, or was slow, after a single sample has no window.
      const seen = new Set(windows.map(({ name }) => name))
      expect([...seen]).to.deep.equal(winners().flatMap(({ name }) => (seen.has(name) ? [name] : [])))
      expect(windows).to.have.length(seen.size)
      expect(trustConflicts(windows)).to.deep.equal([])
    })
  })
}
