import { setTimeout as pass } from 'node:timers/promises'
import { expect } from 'chai'
import { Manager } from 'lease-core'
import { nowMs, openClient, raceStores, Workers, type OpenStore } from 'lease-chaos'
import { enough, isMatrix } from 'lease-servers'
import { unique } from 'lease-scenes'
import type { WaiterEntry } from './queue.worker.ts'

const HAND_OFFS = 300
const PROCESSES = 5
/** Nobody lives to see it lapse: only a hint wakes those who wait, and after a minute a look of their own. */
const LEASE_MS = 600_000
/** What no wait for a vacant lease lasts, however slow the machine is, unless a wake-up was lost: a minute ends it then. */
const LOST_MS = 50_000

for (const store of isMatrix() ? raceStores('each') : []) {
  describe(`those who wait in processes that are stopped and killed, on ${store.name}`, () => {
    let opened: OpenStore
    before(async () => {
      opened = await store.open(unique('queue'))
    })
    after(() => opened.close())

    it(`sleep through no vacancy, over ${HAND_OFFS} hand-offs`, async function () {
      this.timeout(enough(300_000))
      const lease = unique('lease')
      const entry: Omit<WaiterEntry, 'name'> = { ...opened.address, leaseMs: LEASE_MS, lease }
      const workers = new Workers('./queue.worker.ts', import.meta.url, entry)
      const judging = openClient(opened.address)
      const judge = new Manager({ client: judging.client })
      const handOffs = (): number =>
        workers.all.flatMap(({ reports }) => reports).filter(({ what }) => what === 'granted').length
      let longestMs = 0
      let vacantSince: number | undefined

      /** Sees how long the lease is vacant, and frees it where a waiter has died while its grant was in flight. */
      async function look(): Promise<void> {
        const before = nowMs()
        const holder = (await judge.find(lease))?.holder
        vacantSince = holder === undefined ? (vacantSince ?? before) : undefined
        longestMs = Math.max(longestMs, vacantSince === undefined ? 0 : nowMs() - vacantSince)
        expect(longestMs, 'for how long the lease was vacant').to.be.below(LOST_MS)
        if (holder !== undefined && !workers.running.some(({ name }) => name === holder)) await judge.revoke(lease)
      }

      try {
        for (let index = 0; index < PROCESSES; index++) workers.start()
        await workers.until('a first hand-off', () => handOffs() > 1)
        while (handOffs() < HAND_OFFS) {
          await pass(Math.random() * 100)
          const worker = workers.running[Math.floor(Math.random() * workers.running.length)]
          if (Math.random() < 0.2) {
            const before = handOffs()
            worker?.kill()
            // Two at once, now and then: nobody stands in for the first.
            if (Math.random() < 0.5) workers.running.find((other) => other !== worker)?.kill()
            while (workers.running.length < PROCESSES) workers.start()
            // Those that live go on, before more of them die.
            while (handOffs() <= before) {
              await pass(20)
              await look()
            }
          } else {
            worker?.pause()
            await pass(Math.random() * 300)
            worker?.resume()
          }
          await look()
        }
        process.stdout.write(`      ${handOffs()} hand-offs, vacant for ${Math.round(longestMs)} ms at most\n`)
      } finally {
        await workers.kill()
        await judge.stop()
        await judging.close()
      }
    })
  })
}
