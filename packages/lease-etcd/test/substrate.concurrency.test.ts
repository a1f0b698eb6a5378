import { expect } from 'chai'
import type { Holding, Op } from 'lease-core/adapter'
import { enough, etcdTargets, until } from 'lease-servers'
import { claim, extend, grant, newCall, pin, release, settle, sleep, unique, unpin } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of etcdTargets()) {
  describe(`many at once, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    it('overlapping batches of all kinds are answered, all of them', async () => {
      const namespace = unique('ns')
      const names = Array.from({ length: 150 }, (_, index) => `l${index}`)
      const outcomes: Record<string, number> = {}
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, etcd: setting.newEtcd() })
        for (let round = 0; round < enough(12); round++) {
          const found =
            round % 6 === 1 || round % 6 === 3 ? await substrate.read(undefined, newCall()) : new Map<string, Holding>()
          const ops = shuffled(names)
            .slice(0, 120)
            .map((lease, index): Op => {
              if (round % 6 === 0) return claim(lease, holder, 60_000)
              if (round % 6 === 1) {
                const seen = found.get(lease)
                return extend(lease, holder, 60_000 + round, { seen, value: String(index) })
              }
              if (round % 6 === 2) return index % 2 === 0 ? pin(lease, holder, 'g') : unpin(lease, holder, 'g')
              if (round % 6 === 3) return { kind: 'expire', lease, lapsed: found.get(lease)?.version }
              return index % 2 === 0 ? release(lease, holder) : unpin(lease, holder, 'g')
            })
          for (const verdict of await substrate.apply(ops, newCall({ timeoutMs: 60_000 }))) {
            if (verdict.outcome === 'unknown') throw verdict.cause
            outcomes[verdict.outcome] = (outcomes[verdict.outcome] ?? 0) + 1
          }
        }
      }
      await Promise.all(['a', 'b', 'c', 'd'].map(worker))
      expect(outcomes['granted']).to.be.greaterThan(500)
      expect(outcomes['refused']).to.be.greaterThan(250)
      // A key has no etcd lease exactly while it is pinned.
      const substrate = setting.substrate({ namespace })
      const pinned = await substrate.pinned(newCall())
      for (const [lease, holding] of await substrate.read(undefined, newCall())) {
        expect(holding.pinned, lease).to.equal(pinned.has(lease))
      }
    })

    it('a release is never lost among contenders, and no two ever hold', async () => {
      const namespace = unique('ns')
      const releases: Record<string, number> = { a: 0, b: 0, c: 0, d: 0 }
      const over = new AbortController()
      let owner: string | undefined
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, etcd: setting.newEtcd() })
        while (!over.signal.aborted) {
          const { outcome, holding } = await settle(substrate, claim('hot', holder, 600_000))
          if (outcome !== 'granted') continue
          expect(owner).to.equal(undefined)
          owner = holder
          const extended = await settle(substrate, extend('hot', holder, 600_000, { seen: holding }))
          expect(extended).to.have.property('outcome', 'granted')
          expect(extended.holding?.fencingToken).to.equal(holding?.fencingToken)
          owner = undefined
          expect(await settle(substrate, release('hot', holder))).to.have.property('outcome', 'granted')
          releases[holder] = (releases[holder] ?? 0) + 1
        }
      }
      // After a lost release nobody would be granted the lease for ten minutes.
      const many = until('many releases, and three of each', () => {
        const counts = Object.values(releases)
        const total = counts.reduce((sum, count) => sum + count, 0)
        return over.signal.aborted || (total >= 60 && Math.min(...counts) >= 3) || undefined
      })
      await raced(Object.keys(releases).map(worker), many, () => over.abort())
    })

    it('extensions and releases that read first never undo what came between', async () => {
      const substrate = setting.substrate()
      for (let round = 0; round < 30; round++) {
        const lease = `l${round}`
        const { fencingToken } = await grant(substrate, claim(lease, 'a', 60_000))
        const writes = Array.from({ length: 6 }, (_, index) =>
          settle(substrate, extend(lease, 'a', 60_000 + index * 1_000, { fencingToken, value: `v${index}` })),
        )
        const taken = settle(substrate, release(lease, 'a')).then(() => settle(substrate, claim(lease, 'b', 60_000)))
        await Promise.all([...writes, settle(substrate, pin(lease, 'e'))])
        const { outcome, holding } = await taken
        expect(outcome).to.equal('granted')
        const now = (await substrate.read([lease], newCall())).get(lease)
        expect(now).to.include({ holder: 'b', fencingToken: holding?.fencingToken, value: undefined, pinned: true })
      }
    })

    it('the windows in which two rivals each believe to hold never overlap', async () => {
      const namespace = unique('ns')
      const windows: { lease: string; from: number; to: number; token: bigint }[] = []
      const over = new AbortController()
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, etcd: setting.newEtcd() })
        while (!over.signal.aborted) {
          const lease = `l${Math.floor(Math.random() * 2)}`
          // Sometimes so long that even a slow machine brings answers in time.
          const durationMs = Math.random() < 0.1 ? 300 : 60
          let sent = performance.now()
          let { outcome, holding } = await settle(substrate, claim(lease, holder, durationMs))
          if (outcome === 'refused' && holding !== undefined) {
            await sleep(holding.remainingMs + 2)
            sent = performance.now()
            const op = claim(lease, holder, durationMs, { lapsed: holding.version })
            ;({ outcome, holding } = await settle(substrate, op))
          }
          if (outcome !== 'granted' || holding === undefined) continue
          const from = performance.now()
          const token = holding.fencingToken
          let to = sent + durationMs
          const dice = Math.random()
          if (dice < 0.5) {
            const again = performance.now()
            const op = extend(lease, holder, durationMs, { fencingToken: token, seen: holding })
            if ((await settle(substrate, op)).outcome === 'granted') to = Math.max(to, again + durationMs)
          } else if (dice < 0.7) {
            to = Math.min(to, performance.now())
            await settle(substrate, release(lease, holder, { fencingToken: token }))
          } // else it dies silently
          windows.push({ lease, from, to, token })
        }
      }
      const live = (): number => windows.filter(({ from, to }) => from < to).length
      const many = until('30 windows in which somebody held', () => over.signal.aborted || live() >= 30 || undefined)
      await raced(['a', 'b', 'c', 'd'].map(worker), many, () => over.abort())
      for (const lease of ['l0', 'l1']) {
        const own = windows.filter((window) => window.lease === lease).toSorted((x, y) => Number(x.token - y.token))
        expect(new Set(own.map(({ token }) => token)).size).to.equal(own.length)
        for (const [index, { from, to }] of own.entries()) {
          const next = own[index + 1]
          if (next !== undefined && from < to) expect(next.from).to.be.at.least(to)
        }
      }
    })
  })
}

/** Ends the workers when enough has happened, or one of them has failed. */
async function raced(workers: readonly Promise<void>[], enough: Promise<unknown>, end: () => void): Promise<void> {
  const all = Promise.all(workers)
  try {
    await Promise.race([all, enough])
  } finally {
    end()
  }
  await all
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .toSorted((x, y) => x.at - y.at)
    .map(({ item }) => item)
}
