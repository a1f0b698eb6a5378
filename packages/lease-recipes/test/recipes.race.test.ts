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
import { enough, isMatrix, until } from 'lease-servers'
import { OncePer } from '#src/once-per.ts'
import { ReadWriteLock } from '#src/read-write-lock.ts'
import { Semaphores } from '#src/semaphore.ts'
import type { RecipesEntry } from './recipes.worker.ts'
import { unique } from './stores.ts'

/** Of each semaphore, of the lock, and of all jobs together. */
const GRANTS = isMatrix() ? 2000 : 20
/**
 * A request is given up after a third of it, at least 250 ms, and each that is given up costs a connection on PostgreSQL and on a busy
 * etcd: a slow machine does nothing else then. With 1.8 seconds on PostgreSQL, at ten times its load, nobody was granted anything.
 */
const LEASE_MS = { redis: 1200, postgres: 6000, etcd: 1800, dynamodb: 3000 } as const
const SLOT_MS = 1000
const PROCESSES = 3
const RUNNERS = 2
/** A process is expensive to start, so few are killed; in between, one after another is stopped. */
const KILLS = isMatrix() ? 10 : 1
const STOPS = isMatrix() ? 60 : 4

const SEMAPHORES: Readonly<Record<string, number>> = { one: 1, two: 2, fifty: 50 }
const LOCK = 'lock'
const JOBS = Array.from({ length: 10 }, (_, index) => ({ name: `job-${index}`, retry: index % 2 === 1 }))
const CAPACITIES: Readonly<Record<string, number>> = { ...SEMAPHORES, [LOCK]: MAX_CAPACITY }
const KINDS = [...Object.keys(CAPACITIES), 'jobs']

const stores = raceStores('sorts', ['redis'])
const [first] = stores

function kindOf(lease: string): string {
  return lease in CAPACITIES ? lease : 'jobs'
}

for (const store of stores) {
  describe(`Semaphore, ReadWriteLock and OncePer, a race of processes, on ${store.name}`, () => {
    const leaseMs = LEASE_MS[store.kind]
    let opened: OpenStore
    let workers: Workers
    /** By what was granted. */
    let grants: Map<string, number>
    /** How many reports of each worker they are counted from. */
    let counted: Map<Worker, number>

    beforeEach(async () => {
      grants = new Map()
      counted = new Map()
      opened = await store.open(unique('race'))
    })
    afterEach(async () => {
      await workers.kill()
      await opened.close()
    })

    function start({ processes, careless }: { readonly processes: number; readonly careless: boolean }): void {
      const entry: Omit<RecipesEntry, 'name'> = {
        ...opened.address,
        leaseMs,
        semaphores: SEMAPHORES,
        lock: LOCK,
        jobs: JOBS,
        slotMs: SLOT_MS,
        runners: RUNNERS,
        careless,
      }
      workers = new Workers('./recipes.worker.ts', import.meta.url, entry)
      for (let index = 0; index < processes; index++) workers.start()
    }

    /** How many grants there were, of what has the fewest. */
    function fewest(): number {
      for (const worker of workers.all) {
        const { reports } = worker
        for (let index = counted.get(worker) ?? 0; index < reports.length; index++) {
          const { what, lease = '' } = reports[index] ?? expect.fail()
          const kind = kindOf(lease)
          if (what === 'granted') grants.set(kind, (grants.get(kind) ?? 0) + 1)
        }
        counted.set(worker, reports.length)
      }
      return Math.min(...KINDS.map((kind) => grants.get(kind) ?? 0))
    }

    /** Whether it is in the middle of a long run, as far as has been heard. */
    function runs({ reports }: Worker): boolean {
      return JOBS.some(({ name }) => {
        const begun = reports.findLast(({ what, lease }) => what === 'begun' && lease === name)
        const last = reports.findLast(({ lease }) => lease === name)
        if (begun === undefined || last?.what !== 'relied') return false
        return last.atMs - begun.atMs > 30 && nowMs() - last.atMs < 30
      })
    }

    /** It stands still, as a rule for longer than permits last. */
    async function stopOne(leastMs = 0): Promise<void> {
      const { running } = workers
      const worker = running[Math.floor(Math.random() * running.length)] as Worker
      worker.pause()
      await pass(leastMs + Math.random() * 2 * leaseMs)
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

    /** When all are dead, what they had and their places in the queues end by themselves. */
    async function outlives(): Promise<void> {
      const visit = openClient(opened.address)
      const manager = new Manager({ client: visit.client })
      const semaphores = new Semaphores({ manager })
      const lock = new ReadWriteLock({ manager, name: LOCK })
      const once = new OncePer({ manager })
      const slot = new Date(Date.now() + 60_000)
      const isRun = async (job: string): Promise<boolean> => (await once.run(job, slot, () => {})).ran
      await Promise.all([
        ...Object.entries(SEMAPHORES).map(async ([id, n]) => {
          await semaphores.post(id, 'heir', 60_000, { permits: n })
          expect(await semaphores.read(id)).to.include({ n, active: n })
        }),
        lock.wlock('heir'),
        ...JOBS.map(({ name }) => until(`a run of ${name}`, () => isRun(name))),
      ])
      await manager.stop()
      await visit.close()
    }

    /** How many slots were run again, because their process was killed or stood still. */
    function repeats(): number {
      const begun = workers.all.flatMap(({ reports }) => reports.filter(({ what }) => what === 'begun'))
      return begun.length - new Set(begun.map(({ lease, detail }) => `${lease} ${detail}`)).size
    }

    function figures({ fromMs, kills, stops }: { fromMs: number; kills: number; stops: number }): string {
      const counts = Array.from(grants, ([kind, count]) => `${kind} ${count}`).join(', ')
      return `${counts}; ${kills} kills, ${stops} pauses, ${repeats()} slots again, longest wait ${Math.round(longestWaitMs())} ms, ${Math.round((nowMs() - fromMs) / 1000)} s`
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
      start({ processes: PROCESSES, careless: false })
      await workers.until('grant', () => fewest() > 0)
      let kills = 0
      let stops = 0
      for (let done = 0; done < GRANTS || kills < KILLS || stops < STOPS; done = fewest()) {
        if (kills < KILLS && done >= ((kills + 0.5) * GRANTS) / KILLS) {
          kills++
          await killOne()
        } else if (stops < STOPS && done >= (stops * GRANTS) / STOPS) {
          stops++
          await stopOne()
        }
        await pass(Math.random() * 50)
        expect(workers.crashes).to.deep.equal([])
      }
      await servesAll()
      await workers.kill()
      await outlives()
      process.stdout.write(`      ${figures({ fromMs, kills, stops })}\n`)
      expect(violations()).to.deep.equal({})
    })

    if (store !== first || !isMatrix()) return
    const found = KINDS.length + 1 // of each semaphore, of the lock, and of both sorts of jobs
    it(`are relied on by too many, and the checker says so of ${found} sorts, when a worker does not look whether it still holds`, async function () {
      this.timeout(enough(400_000))
      start({ processes: 2, careless: true })
      await workers.until('grants to all', () => workers.running.every(({ reports }) => reports.length > 0))
      for (let seen: string[] = []; seen.length < found; seen = Object.keys(violations())) {
        await stopOne(1.2 * leaseMs)
        await pass(Math.random() * leaseMs)
        expect(workers.crashes).to.deep.equal([])
      }
    })
  })
}
