import { expect } from 'chai'
import type { Op } from 'lease-core/adapter'
import { enoughOf, postgresTargets, until } from 'lease-servers'
import { collect } from 'lease-postgres'
import { Pool } from 'pg'
import {
  briefMs,
  claim,
  eventually,
  extend,
  grant,
  newCall,
  pin,
  release,
  settle,
  sleep,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`many at once, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    it('overlapping batches in any order and of all kinds never deadlock', async () => {
      const namespace = unique('ns')
      const names = Array.from({ length: 200 }, (_, index) => `l${index}`)
      const granted = await setting.substrate({ namespace }).apply(
        names.map((lease) => claim(lease, 'a', 60_000)),
        newCall(),
      )
      const tokens = new Map(granted.map(({ holding }, index) => [names[index] ?? '', holding?.fencingToken ?? 0n]))
      const outcomes: Record<string, number> = {}
      const pools: Pool[] = []
      const application = unique('batches')
      const worker = async (): Promise<void> => {
        const options = { application_name: application, options: '-c deadlock_timeout=5ms' }
        const pool = new Pool({ connectionString: setting.url, ...options })
        pool.on('error', () => {})
        pools.push(pool)
        const substrate = setting.substrate({ namespace, pool })
        for (let round = 0; round < 25; round++) {
          const kind = round % 4
          const ops = shuffled(names)
            .slice(0, 150)
            .map((lease, index): Op => {
              // Most lock rows that stay as they are, so that the batches keep meeting.
              if (kind < 2) return extend(lease, 'a', 60_000 + round, { fencingToken: tokens.get(lease) ?? 0n })
              if (kind === 2) return release(lease, 'a', { nonce: 'another' })
              return index % 2 === 0 ? claim(lease, 'a', 60_000) : { kind: 'expire', lease, lapsed: undefined }
            })
          for (const verdict of await substrate.apply(ops, newCall())) {
            if (verdict.outcome === 'unknown') throw verdict.cause
            outcomes[verdict.outcome] = (outcomes[verdict.outcome] ?? 0) + 1
          }
        }
      }
      await Promise.all(Array.from({ length: 6 }, worker))
      await Promise.all(pools.map((pool) => pool.end()))
      expect(outcomes['granted']).to.be.greaterThan(1_000)
      expect(outcomes['refused']).to.be.greaterThan(1_000)
      await eventually(async () => {
        // A connection sends its statistics just before it is no longer listed.
        const listed = 'SELECT FROM pg_stat_activity WHERE application_name = $1'
        return (await setting.pool.query(listed, [application])).rowCount === 0
      })
      const { rows } = await setting.pool.query(
        'SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()',
      )
      expect(rows).to.deep.equal([{ deadlocks: 0 }])
    })

    it('a release is never lost among contenders', async () => {
      const namespace = unique('ns')
      let releases = 0
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, pool: setting.newPool({ max: 2 }) })
        while (releases < 100) {
          const op = claim('hot', holder, 600_000)
          const [verdict] = await substrate.apply([op], newCall())
          if (verdict?.outcome === 'unknown') throw verdict.cause
          if (verdict?.outcome !== 'granted') continue
          const { nonce } = op
          expect(await settle(substrate, release('hot', holder, { nonce }))).to.have.property('outcome', 'granted')
          releases++
        }
      }
      // A lost release would end it for ten minutes.
      const enough = until('100 releases in a row that let somebody claim', () => releases >= 100)
      await Promise.all([...['a', 'b', 'c', 'd'].map(worker), enough])
    })

    for (const isolation of ['repeatable read', 'serializable']) {
      it(`works where ${isolation} is the default isolation`, async () => {
        const namespace = unique('ns')
        const options = `-c default_transaction_isolation=${isolation.replace(' ', '\\ ')}`
        const held = new Map<string, string>()
        let grants = 0
        const worker = async (holder: string): Promise<void> => {
          const substrate = setting.substrate({ namespace, pool: setting.newPool({ options, max: 3 }) })
          while (grants < 60) {
            const lease = `l${Math.floor(Math.random() * 3)}`
            const { outcome, holding } = await settle(substrate, claim(lease, holder, 60_000))
            if (outcome !== 'granted' || holding === undefined) continue
            const { fencingToken } = holding
            expect(held.get(lease)).to.equal(undefined)
            held.set(lease, holder)
            grants++
            await settle(substrate, extend(lease, holder, 90_000, { fencingToken }))
            held.delete(lease)
            const released = await settle(substrate, release(lease, holder, { fencingToken }))
            expect(released).to.have.property('outcome', 'granted')
          }
        }
        await Promise.all(['a', 'b', 'c', 'd'].map(worker))
      })
    }

    it('the windows in which two rivals each believe to hold never overlap', async () => {
      const namespace = unique('ns')
      const windows: { lease: string; from: number; to: number; token: bigint }[] = []
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, pool: setting.newPool({ max: 2 }) })
        while (windows.filter(({ from, to }) => from < to).length < 60) {
          const lease = `l${Math.floor(Math.random() * 2)}`
          const durationMs = briefMs()
          const sent = performance.now()
          const [verdict] = await substrate.apply([claim(lease, holder, durationMs)], newCall())
          if (verdict?.outcome === 'unknown') throw verdict.cause
          if (verdict?.outcome !== 'granted' || verdict.holding === undefined) continue
          const from = performance.now()
          const token = verdict.holding.fencingToken
          let to = sent + durationMs
          const dice = Math.random()
          if (dice < 0.5) {
            const again = performance.now()
            const longer = extend(lease, holder, durationMs, { fencingToken: token })
            const [extended] = await substrate.apply([longer], newCall())
            if (extended?.outcome === 'granted') to = again + durationMs
          } else if (dice < 0.8) {
            to = Math.min(to, performance.now())
            await settle(substrate, release(lease, holder, { fencingToken: token }))
          } // else it dies silently
          windows.push({ lease, from, to, token })
        }
      }
      await Promise.all(['a', 'b', 'c', 'd'].map(worker))
      for (const lease of ['l0', 'l1']) {
        const own = windows.filter((window) => window.lease === lease).toSorted((x, y) => Number(x.token - y.token))
        expect(new Set(own.map(({ token }) => token)).size).to.equal(own.length)
        for (const [index, { to }] of own.entries()) {
          const next = own[index + 1]
          if (next !== undefined) expect(next.from).to.be.at.least(to)
        }
      }
    })
  })

  describe(`collect, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    it('removes what has been vacant for long, lapsed or released, and nothing held, pinned, recent or of others', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const other = setting.substrate()
      for (const lease of ['lapsed', 'pinned']) await grant(substrate, claim(lease, 'a', 1))
      for (const lease of ['released', 'held']) await grant(substrate, claim(lease, 'a', 60_000))
      await settle(substrate, pin('pinned', 'e'))
      await releaseHeld(substrate, 'released')
      await settle(other, claim('other', 'a', 1))
      await setting.pool.query(`UPDATE lease SET expiry = expiry - interval '2 hours' WHERE name <> 'held'`)
      await settle(substrate, claim('recent', 'a', 1))
      await setting.lapsed('recent')
      expect(await collect(setting.pool, { namespace, retention: { hours: 1 } })).to.equal(2)
      const { rows } = await setting.pool.query('SELECT name FROM lease ORDER BY name')
      expect(rows.map(({ name }) => name)).to.deep.equal(['held', 'other', 'pinned', 'recent'])
      expect(await collect(setting.pool, { namespace, retention: 3_600_000 })).to.equal(0)
    })

    it('leaves what a late request must not undo, however short the retention', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const sentMs = await substrate.time(newCall())
      const op = claim('released', 'a', 60_000)
      await grant(substrate, op)
      await releaseHeld(substrate, 'released')
      await settle(substrate, unpin('unpinned', 'e', 'g'))
      await setting.pool.query(`UPDATE lease SET expiry = expiry - interval '1 hour' WHERE name = 'unpinned'`)
      await collect(setting.pool, { namespace, retention: 0.001 })
      const late = await substrate.apply([op, pin('unpinned', 'e', 'g')], newCall({ sentMs }))
      expect(late.map(({ outcome }) => outcome)).to.deep.equal(['late', 'late'])
    })

    it('leaves the highest token behind: tokens rise even when the clock has gone back', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      const far = fencingToken + 10n ** 15n
      await setting.pool.query('UPDATE lease SET token = $1 WHERE ns = $2', [String(far), namespace])
      await releaseHeld(substrate, 'l')
      await setting.age('l')
      expect(await collect(setting.pool, { namespace, retention: 1 })).to.equal(1)
      await settle(substrate, pin('p', 'e'))
      expect((await grant(substrate, claim('l', 'a', 1))).fencingToken).to.equal(far + 1n)
      expect((await grant(substrate, claim('p', 'a', 1))).fencingToken > far).to.equal(true)
    })

    it('raises the token that it leaves behind with each run, and lowers it with none', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      const { fencingToken: now } = await grant(substrate, claim('held', 'a', 60_000))
      let highest = now
      for (const [lease, ahead] of [
        ['first', 10n ** 15n],
        ['higher', 2n * 10n ** 15n],
        ['lower', 10n ** 14n],
      ] as const) {
        await grant(substrate, claim(lease, 'a', 60_000))
        await setting.pool.query('UPDATE lease SET token = $1 WHERE ns = $2 AND name = $3', [
          String(now + ahead),
          namespace,
          lease,
        ])
        await releaseHeld(substrate, lease)
        await setting.age(lease)
        expect(await collect(setting.pool, { namespace, retention: 1 })).to.equal(1)
        if (now + ahead > highest) highest = now + ahead
        const { fencingToken } = await grant(substrate, claim(`after the ${lease}`, 'a', 60_000))
        expect(fencingToken, `after the ${lease}`).to.equal(highest + 1n)
      }
    })

    it('run without pause, never lets a token go back', async () => {
      const namespace = unique('ns')
      const last = new Map<string, bigint>()
      let grants = 0
      let collected = 0
      const isEnough = (): boolean => grants >= 40 && collected >= 8
      const worker = async (holder: string): Promise<void> => {
        const substrate = setting.substrate({ namespace, pool: setting.newPool({ max: 2 }) })
        while (!isEnough()) {
          const ops = shuffled(['x', 'y', 'z']).map((lease) => claim(lease, holder, 60_000))
          const verdicts = await substrate.apply(ops, newCall())
          for (const [index, { outcome, holding }] of verdicts.entries()) {
            const lease = ops[index]?.lease ?? ''
            if (outcome !== 'granted' || holding === undefined) continue
            grants++
            expect(holding.fencingToken > (last.get(lease) ?? 0n)).to.equal(true)
            last.set(lease, holding.fencingToken)
            await settle(substrate, release(lease, holder, { fencingToken: holding.fencingToken }))
            await setting.age(lease)
          }
          await sleep(Math.random() * 20) // or hardly anything is ever left to collect
        }
      }
      const collector = async (): Promise<void> => {
        const pool = setting.newPool({ max: 1 })
        while (!isEnough()) {
          const count = await collect(pool, { namespace, retention: 0.001 })
          collected += count // not in one expression: the other collector adds meanwhile
        }
      }
      await Promise.all([...['a', 'b', 'c', 'd'].map(worker), collector(), collector()])
    })

    it('waits for claims that are running, whose tokens are in no row yet', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      await grant(substrate, claim('l', 'a', 60_000))
      await releaseHeld(substrate, 'l')
      await setting.age('l')
      const running = await setting.pool.connect()
      let collected: number | undefined
      try {
        await running.query('BEGIN')
        await running.query('LOCK TABLE lease IN ROW EXCLUSIVE MODE') // as a claim does
        const pending = collect(setting.pool, { namespace, retention: 1 }).then((count) => (collected = count))
        await eventually(async () => collected !== undefined || (await setting.isWaitedFor(running)))
        expect(collected ?? 0).to.equal(0) // it waits, or has waited for two seconds in vain
        await running.query('COMMIT')
        await pending
      } finally {
        running.release(true)
      }
      expect((collected ?? 0) + (await collect(setting.pool, { namespace, retention: 1 }))).to.equal(1)
    })

    it('does not wait for a guard, and skips the lease it guards', async () => {
      const client = await setting.pool.connect()
      try {
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace })
        const { fencingToken } = await grant(substrate, claim('guarded', 'a', 60_000))
        await client.query('BEGIN')
        await substrate.trapdoor('guarded', 'a', fencingToken)(client)
        await releaseHeld(substrate, 'guarded')
        await setting.age('guarded')
        let collected: number | undefined
        const pending = collect(setting.pool, { namespace, retention: 1 }).then((count) => (collected = count))
        // One that waited would give up after two seconds and answer 0 as well.
        let waited = false
        await eventually(async () => (waited = await setting.isWaitedFor(client)) || collected !== undefined)
        expect(waited).to.equal(false)
        expect(await pending).to.equal(0)
        await client.query('COMMIT')
        expect(await collect(setting.pool, { namespace, retention: 1 })).to.equal(1)
      } finally {
        client.release(true)
      }
    })
  })
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .toSorted(([a], [b]) => a - b)
    .map(([, item]) => item)
}
