import { setTimeout as pass } from 'node:timers/promises'
import { expect } from 'chai'
import {
  crowds,
  misorderedShares,
  nowMs,
  openClient,
  raceStores,
  repeatedRuns,
  trustConflicts,
  Workers,
  type OpenStore,
  type Worker,
} from 'lease-chaos'
import { Manager, MAX_CAPACITY } from 'lease-core'
import { enough, isMatrix } from 'lease-servers'
import { Semaphores } from '#src/semaphore.ts'
import type { RecipesEntry } from './recipes.worker.ts'
import { unique } from './stores.ts'

/** Of each semaphore, of the lock, and of all jobs together. */
const GRANTS = isMatrix() ? 2000 : 80
const LEASE_MS = 400
const SLOT_MS = 500
const PROCESSES = 3
const RUNNERS = 3
/** A process is expensive to start, so few are killed; in between, one after another is stopped. */
const KILLS = enough(2)
const STOPS = enough(4)
/** What no wait lasts, however slow the machine is, unless a wake-up was lost: a look of its own after a minute ends it then. */
const LOST_MS = 50_000

const SEMAPHORES: Readonly<Record<string, number>> = { one: 1, two: 2, fifty: 50 }
const LOCK = 'lock'
const JOBS = Array.from({ length: 10 }, (_, index) => ({ name: `job-${index}`, retry: index % 2 === 1 }))
const CAPACITIES: Readonly<Record<string, number>> = { ...SEMAPHORES, [LOCK]: MAX_CAPACITY }

const stores = raceStores('sorts')
const [first] = stores

for (const store of stores) {
  describe(`Semaphore, ReadWriteLock and OncePer, a race of processes, on ${store.name}`, () => {
    let opened: OpenStore
    let workers: Workers

    beforeEach(async () => {
      opened = await store.open(unique('race'))
    })
    afterEach(async () => {
      await workers.kill()
      await opened.close()
    })

    function start(careless: boolean): void {
      const entry: Omit<RecipesEntry, 'name'> = {
        ...opened.address,
        leaseMs: LEASE_MS,
        semaphores: SEMAPHORES,
        lock: LOCK,
        jobs: JOBS,
        slotMs: SLOT_MS,
        runners: RUNNERS,
        careless,
      }
      workers = new Workers('./recipes.worker.ts', import.meta.url, entry)
      for (let index = 0; index < PROCESSES; index++) workers.start()
    }

    /** How many grants there were, of what has the fewest. */
    function fewest(): number {
      const counts = new Map<string, number>([...Object.keys(CAPACITIES), 'jobs'].map((lease) => [lease, 0]))
      for (const { reports } of workers.all) {
        for (const { what, lease = '' } of reports) {
          const kind = lease in CAPACITIES ? lease : 'jobs'
          if (what === 'granted') counts.set(kind, (counts.get(kind) ?? 0) + 1)
        }
      }
      return Math.min(...counts.values())
    }

    /** The job that it runs now, as far as has been heard. */
    function runs(worker: Worker): boolean {
      return JOBS.some(({ name }) => {
        const last = worker.reports.findLast(({ lease }) => lease === name)
        return last?.what === 'relied' && nowMs() - last.atMs < 50
      })
    }

    async function stopOne(): Promise<void> {
      const { running } = workers
      const worker = running[Math.floor(Math.random() * running.length)] as Worker
      worker.pause()
      // For longer than some permits last.
      await pass(Math.random() * 2 * LEASE_MS)
      worker.resume()
    }

    /** In the middle of a run. */
    async function killOne(): Promise<void> {
      await workers.until('run under way', () => workers.running.some(runs))
      workers.running.find(runs)?.kill()
      while (workers.running.length < PROCESSES) workers.start()
    }

    /** What must not have been, by what it was found in. */
    function violations(): Readonly<Record<string, readonly string[]>> {
      const windows = workers.windows()
      const found = new Map<string, readonly string[]>()
      for (const [lease, capacity] of Object.entries(CAPACITIES)) {
        const shares = windows.filter((window) => window.lease === lease)
        found.set(lease, [...crowds(shares, capacity), ...misorderedShares(shares, capacity)])
      }
      for (const retry of [false, true]) {
        const jobs = new Set(JOBS.filter((job) => job.retry === retry).map(({ name }) => name))
        const reports = workers.all.flatMap((worker) => worker.reports).filter(({ lease = '' }) => jobs.has(lease))
        const turns = windows.filter(({ lease }) => jobs.has(lease))
        found.set(`jobs ${retry ? 'with' : 'without'} retry`, [
          ...trustConflicts(turns),
          ...repeatedRuns(reports, { retry }),
        ])
      }
      return Object.fromEntries([...found].filter(([, wrong]) => wrong.length > 0))
    }

    /** Everybody who asks, in every process, is granted something, and every job runs. */
    async function servesAll(): Promise<void> {
      const sinceMs = nowMs()
      await workers.until('grants to everybody', () => {
        const granted = new Set<string>()
        for (const worker of workers.running) {
          for (let index = worker.reports.length - 1; index >= 0; index--) {
            const { what, lease, detail, atMs } = worker.reports[index] ?? expect.fail()
            if (atMs < sinceMs) break
            if (what === 'granted') granted.add(`${lease} ${detail}`)
          }
        }
        const runnersOf = Object.keys(CAPACITIES).length * RUNNERS * workers.running.length
        return granted.size === runnersOf + JOBS.length
      })
    }

    /** When all are dead, the permits of all and the places of those who waited end by themselves. */
    async function frees(): Promise<void> {
      const visit = openClient(opened.address)
      const manager = new Manager({ client: visit.client })
      const semaphores = new Semaphores({ manager })
      await Promise.all(
        Object.entries(SEMAPHORES).map(async ([id, n]) => {
          const permit = await semaphores.post(id, 'heir', 60_000, { permits: n })
          expect(await semaphores.read(id)).to.include({ n, active: n })
          await permit.close()
        }),
      )
      await manager.stop()
      await visit.close()
    }

    function figures({ fromMs, kills, stops }: { fromMs: number; kills: number; stops: number }): string {
      const windows = workers.windows()
      const counts = new Map<string, number>()
      for (const { lease } of windows) {
        const kind = lease in CAPACITIES ? lease : 'jobs'
        counts.set(kind, (counts.get(kind) ?? 0) + 1)
      }
      const grants = Array.from(counts, ([kind, count]) => `${kind} ${count}`).join(', ')
      return `${grants}; ${kills} kills, ${stops} pauses, longest wait ${Math.round(longestWaitMs())} ms, ${Math.round((nowMs() - fromMs) / 1000)} s`
    }

    function longestWaitMs(): number {
      const waits = workers
        .windows()
        .map(({ lease, fromMs, askedMs = fromMs }) => (lease in CAPACITIES ? fromMs - askedMs : 0))
      return waits.reduce((longest, one) => Math.max(longest, one), 0)
    }

    it(`DSM-5: never more than n permits, a writer beside nobody, and one run per slot, in ${GRANTS} grants of each to processes that are stopped and killed`, async function () {
      this.timeout(enough(400_000)) // processes are slow to start on a busy machine
      const fromMs = nowMs()
      start(false)
      await workers.until('grant', () => fewest() > 0)
      let kills = 0
      let stops = 0
      for (let grants = 0; grants < GRANTS || kills < KILLS || stops < STOPS; grants = fewest()) {
        await pass(Math.random() * LEASE_MS)
        if (kills < KILLS && grants >= ((kills + 0.5) * GRANTS) / KILLS) {
          kills++
          await killOne()
        } else {
          stops++
          await stopOne()
        }
        expect(workers.crashes).to.deep.equal([])
      }
      await servesAll()
      await workers.kill()
      await frees()
      process.stdout.write(`      ${figures({ fromMs, kills, stops })}\n`)
      expect(violations()).to.deep.equal({})
      expect(longestWaitMs()).to.be.below(LOST_MS)
    })

    if (store !== first) return
    it('are relied on by too many, and the checker says so of each, when a worker does not look whether it still holds', async function () {
      this.timeout(enough(400_000))
      start(true)
      const all = Object.keys(CAPACITIES).length + 2
      await workers.until('grant', () => fewest() > 0)
      while (Object.keys(violations()).length < all) {
        await pass(Math.random() * LEASE_MS)
        await stopOne()
        expect(workers.crashes).to.deep.equal([])
      }
    })
  })
}
