/** A function that is frozen between two invocations, as Lambda does it: a process that is stopped and goes on. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { openClient, raceStores, Workers, type OpenClient, type OpenStore, type Report, type Worker } from 'lease-chaos'
import { Manager } from 'lease-core'
import { until } from 'lease-servers'
import type { FrozenEntry, Order } from './frozen.worker.ts'
import { failure } from './rivals.ts'

for (const store of raceStores('each', ['dynamodb'])) {
  describe(`example: a lease without timers in a process that is frozen, on ${store.name}`, () => {
    let opened: OpenStore
    let manager: Manager
    let own: OpenClient
    let workers: Workers
    let folder: string
    before(async () => {
      opened = await store.open(`frozen-${process.pid}`)
      own = openClient(opened.address)
      manager = new Manager({ client: own.client })
      folder = mkdtempSync(join(tmpdir(), 'frozen-'))
      const entry: Omit<FrozenEntry, 'name'> = { ...opened.address, leaseMs: 0, thawed: join(folder, 'thawed') }
      workers = new Workers('./frozen.worker.ts', import.meta.url, entry)
    })
    after(async () => {
      await workers?.kill()
      await manager?.stop()
      await own?.close()
      await opened?.close()
      rmSync(folder, { recursive: true, force: true })
    })

    async function started(leaseMs: number): Promise<Worker> {
      const worker = workers.start({ entry: { leaseMs } })
      await told(worker, 'holds')
      return worker
    }

    async function told(worker: Worker, what: string): Promise<Report> {
      return await until(`${worker.name} tells: ${what}`, () => worker.latest(what))
    }

    function order(worker: Worker, what: Order): void {
      worker.tell(what)
    }

    it('is not held at the first look after the thaw, if it lapsed meanwhile, and is not renewed', async () => {
      const worker = await started(3_000)
      order(worker, 'spin')
      await told(worker, 'spins')
      worker.pause()
      const next = await manager.hold('order-9', 'run-2', { duration: { minutes: 5 }, wait: true })
      writeFileSync(join(folder, 'thawed'), '')
      worker.resume()
      const thawed = await told(worker, 'thawed')
      expect(JSON.parse(thawed.detail ?? '')).to.deep.equal({ held: false, aborted: true })
      order(worker, 'renew')
      await told(worker, 'ErrLost')
      expect(next.held).to.equal(true)
      expect(next.fencingToken > BigInt(thawed.token ?? '')).to.equal(true)
      await next.release()
      worker.kill()
    })

    it('goes on with the same term after a shorter freeze', async () => {
      const worker = await started(300_000)
      worker.pause()
      const rival = await failure(manager.claim('order-9', 'run-2', { minutes: 1 }))
      expect(rival).to.have.property('code', 'LEASE_CLAIM_DENIED')
      worker.resume()
      order(worker, 'renew')
      const renewed = await told(worker, 'renewed')
      expect(JSON.parse(renewed.detail ?? '')).to.deep.equal({ held: true, aborted: false })
      expect((await manager.find('order-9'))?.fencingToken).to.equal(BigInt(renewed.token ?? ''))
    })
  })
}
