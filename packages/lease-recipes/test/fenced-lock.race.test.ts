import { expect } from 'chai'
import { ErrClaimDenied, Manager } from 'lease-core'
import { FailClosedLock } from '#src/fenced-lock.ts'
import { conflicts, pass, racecourses, Racers, type OpenRacecourse, type Racer } from './racecourse.ts'
import { openClient } from './racer.ts'
import { unique } from './stores.ts'

const LEASE_MS = 800
const PROCESSES = 2

for (const course of racecourses()) {
  describe(`FailClosedLock, a race of processes, on ${course.name}`, () => {
    let opened: OpenRacecourse
    let racers: Racers

    before(async () => {
      opened = await course.open(unique('race'))
      racers = new Racers('fenced-lock.racer.ts', { ...opened.entry, leaseMs: LEASE_MS })
    })
    after(async () => {
      await racers.kill()
      await opened.close()
    })

    /** Processes that wait for the lock. */
    async function contend(count: number): Promise<void> {
      const started = Array.from({ length: count }, () => racers.start())
      await racers.until('start of all', () => started.every((racer) => racer.latest('started') !== undefined))
    }

    /** Who has ever had the lock, the latest last. */
    function winners(): readonly Racer[] {
      const tokenOf = (racer: Racer): bigint => BigInt(racer.latest('locked')?.token ?? -1)
      return racers.all.filter((racer) => tokenOf(racer) >= 0n).toSorted((a, b) => Number(tokenOf(a) - tokenOf(b)))
    }

    /** A person at the store, who leaves when the work is done. */
    async function person<T>(work: (locks: FailClosedLock) => Promise<T>): Promise<T> {
      const visit = openClient(opened.entry)
      const manager = new Manager({ client: visit.client })
      try {
        return await work(new FailClosedLock({ manager, leaseDuration: LEASE_MS }))
      } finally {
        await manager.stop()
        await visit.close()
      }
    }

    async function outcomeOfTry(locks: FailClosedLock): Promise<unknown> {
      return locks.acquireLock('race').catch((error: unknown) => error)
    }

    it('DT-1: the lock of a killed process stays closed, whoever else is killed, until a person frees it; then one has it', async function () {
      this.timeout(400_000) // processes are slow to start on a busy machine
      await contend(PROCESSES)
      await racers.until('holder', () => winners().length === 1)
      const crashed = winners()[0] as Racer
      const token = BigInt(crashed.latest('locked')?.token ?? 0)
      await pass(Math.random() * LEASE_MS)
      crashed.kill()
      await pass(2 * LEASE_MS)
      await racers.kill()
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
      await racers.until('next holder', () => winners().length === 2)
      await pass(1.5 * LEASE_MS)
      expect(winners()).to.have.length(2)

      winners()[1]?.tell()
      await racers.until('one after it', () => winners().length === 3)
      await pass(LEASE_MS / 2)
      await racers.kill()
      const windows = racers.windows()
      expect(windows.map(({ name }) => name)).to.deep.equal(winners().map(({ name }) => name))
      expect(conflicts(windows)).to.deep.equal([])
    })
  })
}
