import { setTimeout as pass } from 'node:timers/promises'
import { expect } from 'chai'
import {
  kinds,
  misreportedWrites,
  raceStores,
  staleWrites,
  UNGUARDED,
  Workers,
  type Ledger,
  type OpenStore,
  type Report,
  type StoreEvent,
} from 'lease-chaos'
import { enough, enoughOf, isMatrix } from 'lease-servers'
import { unique } from 'lease-scenes'
import type { Order } from './guard.worker.ts'

const PROCESSES = 2
/** How many writes, and how many refusals, a race has at least. */
const EACH = isMatrix() ? 30 : 15

/** What has happened in a race so far. */
interface Course {
  readonly reports: readonly Report[]
  readonly log: readonly StoreEvent[]
}

for (const store of raceStores('all', ['postgres'])) {
  describe(`stale holders in a race, on ${store.name}`, function () {
    this.timeout(enough(300_000)) // processes are slow to start on a busy machine
    const kind = kinds[store.kind]
    const grants = isMatrix() ? 5 * kind.grants : kind.grants / 5
    let opened: OpenStore
    let ledger: Ledger
    let workers: Workers
    before(async () => {
      opened = await store.open(unique('race'))
      ledger = kind.openLedger(opened.address)
      workers = new Workers('./guard.worker.ts', import.meta.url, { ...opened.address, leaseMs: 0 })
      for (let index = 0; index < PROCESSES; index++) workers.start()
    })
    after(async () => {
      await workers.kill()
      await ledger[Symbol.asyncDispose]()
      await opened.close()
    })

    function tell(order: Order): void {
      for (const worker of workers.running) worker.tell(order)
    }

    /** Goes on until enough has happened, however long that takes; now and then a process stands still. */
    async function race(way: string, isEnough: (course: Course) => boolean): Promise<Course> {
      const leases = Array.from({ length: kind.leases }, () => unique('lease'))
      await ledger.open(leases)
      tell({ way, leases })
      let course: Course = { reports: [], log: [] }
      await workers.until('enough grants, writes and refusals', async () => {
        const worker = workers.running[Math.floor(Math.random() * PROCESSES)]
        worker?.pause()
        await pass(Math.random() * 2 * kind.pauseMs)
        worker?.resume()
        await pass(100)
        const reports = workers.all.flatMap((one) => one.reports.filter(({ lease = '' }) => leases.includes(lease)))
        course = { reports, log: await ledger.read(leases, reports) }
        return isEnough(course)
      })
      tell({ way, leases: [] })
      return course
    }

    for (const way of enoughOf(kind.guarded)) {
      it(`with ${way} never commit after a newer grant, over ${grants} grants`, async () => {
        const { reports, log } = await race(
          way,
          (course) =>
            staleWrites(course.log).length > 0 ||
            (count(course, 'granted') >= grants &&
              count(course, 'written') >= EACH &&
              count(course, 'refused') >= EACH),
        )
        expect(staleWrites(log)).to.deep.equal([])
        expect(misreportedWrites(log, reports)).to.deep.equal([])
      })
    }

    it('do so without a guard: this race would show it', async () => {
      const { log } = await race(UNGUARDED, (course) => staleWrites(course.log).length > 0)
      expect(staleWrites(log)).not.to.deep.equal([])
    })
  })
}

function count({ reports }: Course, what: string): number {
  return reports.filter((report) => report.what === what).length
}
