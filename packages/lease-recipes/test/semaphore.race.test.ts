import { setTimeout as pass } from 'node:timers/promises'
import { expect } from 'chai'
import { crowds, openClient, raceStores, trustConflicts, Workers, type OpenStore, type Worker } from 'lease-chaos'
import { Manager } from 'lease-core'
import { enough } from 'lease-servers'
import { Semaphores } from '#src/semaphore.ts'
import { unique } from './stores.ts'

const GRANTS = enough(600)
const LIMIT = 3
const LEASE_MS = 400
const PROCESSES = 3
/** A process is expensive to start, so few are killed; in between, one after another is stopped. */
const KILLS = 2
const STOPS = 6

for (const store of raceStores('each')) {
  describe(`Semaphore, a race of processes, on ${store.name}`, () => {
    let opened: OpenStore
    let workers: Workers

    before(async () => {
      opened = await store.open(unique('race'))
      workers = new Workers('./semaphore.worker.ts', import.meta.url, { ...opened.address, leaseMs: LEASE_MS })
    })
    after(async () => {
      await workers.kill()
      await opened.close()
    })

    async function create(): Promise<void> {
      const visit = openClient(opened.address)
      const manager = new Manager({ client: visit.client })
      await new Semaphores({ manager }).create('race', LIMIT)
      await manager.stop()
      await visit.close()
    }

    /** It stands still for longer than some permits last. */
    async function stop(worker: Worker): Promise<void> {
      worker.pause()
      await pass(Math.random() * 2 * LEASE_MS)
      worker.resume()
    }

    it(`DSM-5: never more than n hold a permit, in ${GRANTS} grants to processes that are stopped and killed`, async function () {
      this.timeout(enough(300_000)) // processes are slow to start on a busy machine
      await create()
      for (let index = 0; index < PROCESSES; index++) workers.start()
      await workers.until('grant', () => workers.windows().length > 0)
      for (let kills = 0, stops = 0, grants = 0; grants < GRANTS || kills < KILLS || stops < STOPS;) {
        if (workers.crashes.length > 0) break
        await pass(Math.random() * LEASE_MS)
        const { running } = workers
        const worker = running[Math.floor(Math.random() * running.length)] as Worker
        grants = workers.windows().length
        if (kills < KILLS && grants >= ((kills + 0.5) * GRANTS) / KILLS) {
          kills++
          worker.kill()
          workers.start()
        } else {
          stops++
          await stop(worker)
        }
      }
      expect(workers.crashes).to.deep.equal([])
      await workers.kill()
      const windows = workers.windows()
      expect(windows.length).to.be.at.least(GRANTS)
      expect(crowds(windows, LIMIT)).to.deep.equal([])
      expect(trustConflicts(windows)).to.deep.equal([])
    })
  })
}
