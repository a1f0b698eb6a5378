import { expect } from 'chai'
import type { Op } from 'lease-core/adapter'
import { redisTargets, until } from 'lease-servers'
import { briefMs, claim, expire, extend, newCall, pin, release, settle, sleep, unique, unpin } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

/** From when until when a worker believed to hold a lease, by the clock of this process. */
interface Window {
  readonly lease: string
  readonly from: number
  readonly to: number
  readonly token: bigint
  readonly end: 'lapsed' | 'extended' | 'released'
}

for (const target of redisTargets('server')) {
  describe(`many at once, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    it('the windows in which two rivals each believe to hold never overlap', async () => {
      const namespace = unique('ns')
      const windows: Window[] = []
      // A window that ended before its grant was known shows nothing.
      const shown = (end: Window['end']): number =>
        windows.filter((window) => window.end === end && window.from < window.to).length
      const enough = (): boolean => shown('lapsed') >= 10 && shown('extended') >= 10 && shown('released') >= 10
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, redis: setting.connect() })
        while (!enough()) {
          const lease = `l${Math.floor(Math.random() * 2)}`
          const durationMs = briefMs()
          const sent = performance.now()
          const [verdict] = await substrate.apply([claim(lease, holder, durationMs)], newCall())
          if (verdict?.outcome !== 'granted' || verdict.holding === undefined) continue
          const from = performance.now()
          const token = verdict.holding.fencingToken
          let to = sent + durationMs
          let end: Window['end'] = 'lapsed'
          const dice = Math.random()
          if (dice < 0.5) {
            const again = performance.now()
            const [extended] = await substrate.apply(
              [extend(lease, holder, durationMs, { fencingToken: token })],
              newCall(),
            )
            if (extended?.outcome === 'granted') {
              to = again + durationMs
              end = 'extended'
            }
          } else if (dice < 0.8) {
            to = Math.min(to, performance.now())
            end = 'released'
            await settle(substrate, release(lease, holder, { fencingToken: token }))
          } // else it dies silently
          windows.push({ lease, from, to, token, end })
        }
      }
      await Promise.all([until('ten windows of each kind', enough), ...['a', 'b', 'c', 'd'].map(worker)])
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
          const seen = await substrate.read(names, newCall())
          const pins = await substrate.pinned(newCall(), names)
          const ops = names
            .filter(() => Math.random() < 0.5)
            .map((lease): Op => {
              const { fencingToken = 0n, nonce = 'none' } = seen.get(lease) ?? {}
              const adoption = Math.random() < 0.5 ? { from: nonce, nonce: unique('nonce') } : undefined
              const kinds = [
                claim(lease, holder, 5 + Math.random() * 20),
                extend(lease, holder, 10, { fencingToken, adoption }),
                release(lease, holder, { fencingToken, nonce }),
                expire(lease),
                pin(lease, holder),
                unpin(lease, holder, pins.get(lease)?.get(holder) ?? 'none'),
              ]
              return kinds[Math.floor(Math.random() * kinds.length)] ?? expect.fail()
            })
          for (const verdict of await substrate.apply(ops, newCall())) {
            if (verdict.outcome === 'unknown') throw verdict.cause
            outcomes[verdict.outcome] = (outcomes[verdict.outcome] ?? 0) + 1
          }
        }
        const left = await substrate.pinned(newCall())
        await substrate.apply(
          [...left].map(([lease, own]) => unpin(lease, holder, own.get(holder) ?? 'none')),
          newCall(),
        )
      }
      await Promise.all(['a', 'b', 'c', 'd'].map(worker))
      expect(outcomes['granted']).to.be.greaterThan(1_000)
      expect(outcomes['refused']).to.be.greaterThan(500)
      await sleep(40)
      const substrate = setting.substrate({ namespace })
      expect(await substrate.pinned(newCall())).to.have.property('size', 0)
      expect(await substrate.read(undefined, newCall())).to.have.property('size', 0)
      // What is remembered of claims and unpins goes by itself.
      const kept = (await setting.redis.keys(`${base}*`)).filter((key) => !/:[ou]:/.test(key))
      expect(kept.toSorted()).to.deep.equal([`${base}t`, `${base}v`])
    })
  })
}
