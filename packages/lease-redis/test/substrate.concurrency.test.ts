import { expect } from 'chai'
import type { Op } from 'lease-core'
import { redisTargets } from 'lease-servers'
import { claim, expire, extend, newCall, pin, release, settle, sleep, unique, unpin } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`many at once, on ${target.name}`, function () {
    this.timeout(30_000)
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    it('the windows in which two rivals each believe to hold never overlap', async () => {
      const namespace = unique('ns')
      const windows: { lease: string; from: number; to: number; token: bigint }[] = []
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, redis: setting.connect() })
        for (const deadline = performance.now() + 1_500; performance.now() < deadline;) {
          const lease = `l${Math.floor(Math.random() * 2)}`
          const sent = performance.now()
          const [verdict] = await substrate.apply([claim(lease, holder, 25)], newCall())
          if (verdict?.outcome !== 'granted' || verdict.holding === undefined) continue
          const from = performance.now()
          const token = verdict.holding.fencingToken
          let to = sent + 25
          const dice = Math.random()
          if (dice < 0.5) {
            const again = performance.now()
            const [extended] = await substrate.apply([extend(lease, holder, 25, { fencingToken: token })], newCall())
            if (extended?.outcome === 'granted') to = again + 25
          } else if (dice < 0.8) {
            to = Math.min(to, performance.now())
            await settle(substrate, release(lease, holder, { fencingToken: token }))
          } // else it dies silently
          windows.push({ lease, from, to, token })
        }
      }
      await Promise.all(['a', 'b', 'c', 'd'].map(worker))
      expect(windows.length).to.be.greaterThan(5)
      for (const lease of ['l0', 'l1']) {
        const own = windows.filter((window) => window.lease === lease).toSorted((x, y) => Number(x.token - y.token))
        expect(new Set(own.map(({ token }) => token)).size).to.equal(own.length)
        for (const [index, { to }] of own.entries()) {
          const next = own[index + 1]
          if (next !== undefined) expect(next.from).to.be.at.least(to)
        }
      }
    })

    it('batches of all kinds on the same leases end with every lease, name and pin accounted for', async () => {
      const namespace = unique('ns')
      const base = `lease:{${namespace}}:`
      const names = Array.from({ length: 40 }, (_, index) => `l${index}`)
      const outcomes: Record<string, number> = {}
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, redis: setting.connect() })
        for (let round = 0; round < 100; round++) {
          const ops = names
            .filter(() => Math.random() < 0.5)
            .map((lease): Op => {
              const kinds = [
                claim(lease, holder, 5 + Math.random() * 20),
                extend(lease, holder, 10),
                release(lease, holder),
                expire(lease),
                pin(lease, holder),
                unpin(lease, holder),
              ]
              return kinds[Math.floor(Math.random() * kinds.length)] ?? expect.fail()
            })
          for (const verdict of await substrate.apply(ops, newCall())) {
            if (verdict.outcome === 'unknown') throw verdict.cause
            outcomes[verdict.outcome] = (outcomes[verdict.outcome] ?? 0) + 1
          }
        }
        await substrate.apply(
          names.map((lease) => unpin(lease, holder)),
          newCall(),
        )
      }
      await Promise.all(['a', 'b', 'c', 'd'].map(worker))
      expect(outcomes['granted']).to.be.greaterThan(1_000)
      expect(outcomes['refused']).to.be.greaterThan(500)
      await sleep(40)
      const substrate = setting.substrate({ namespace })
      expect(await substrate.pinned()).to.have.property('size', 0)
      expect(await substrate.read(undefined)).to.have.property('size', 0)
      expect(await setting.redis.keys(`${base}*`)).to.deep.equal([`${base}t`])
    })
  })
}
