import { expect } from 'chai'
import type { Holding } from 'lease-core'
import { postgresTargets } from 'lease-servers'
import type { PostgresSubstrate } from 'lease-postgres'
import { claim, extend, grant, newCall, readOne, release, settle, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of postgresTargets()) {
  describe(`the operations, on ${target.name}`, () => {
    let setting: Setting
    let substrate: PostgresSubstrate
    let name: string
    const namespace = unique('ns')
    before(async () => {
      setting = await openSetting(target)
      substrate = setting.substrate({ namespace })
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => (name = unique('lease')))

    describe('claim', () => {
      it('grants an unknown lease for the whole duration, with a token near the microseconds of the clock', async () => {
        const startedMs = performance.now()
        const holding = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        expect(holding).to.include({ holder: 'a', value: 'v', pinned: false, version: undefined })
        expectWhole(holding, 60_000, startedMs)
        expect(Number(holding.fencingToken) / 1000).to.be.closeTo(Date.now(), 60_000)
        expect((await readOne(substrate, name))?.fencingToken).to.equal(holding.fencingToken)
      })

      it('refuses a live lease and brings who holds it', async () => {
        const startedMs = performance.now()
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        const { outcome, holding } = await settle(substrate, claim(name, 'b', 60_000))
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ holder: 'a', fencingToken, value: 'v', pinned: false })
        expectWhole(holding, 60_000, startedMs)
      })

      it('refuses the holder of a live lease, whose nonce is another', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        expect(await settle(substrate, claim(name, 'a', 60_000))).to.have.property('outcome', 'refused')
      })

      it('answers its replay with the same token and never shortens', async () => {
        const op = claim(name, 'a', 60_000)
        const startedMs = performance.now()
        const first = await grant(substrate, op)
        const again = await grant(substrate, { ...op, durationMs: 1_000 })
        expect(again.fencingToken).to.equal(first.fencingToken)
        expectWhole(again, 60_000, startedMs)
      })

      it('opens a new term when its replay comes after the lapse', async () => {
        const op = claim(name, 'a', 1)
        const first = await grant(substrate, op)
        await setting.lapsed(name)
        expect((await grant(substrate, op)).fencingToken > first.fencingToken).to.equal(true)
      })

      it('takes over a lapsed lease in one step with a higher token', async () => {
        const first = await grant(substrate, claim(name, 'a', 1, { value: 'old' }))
        await setting.lapsed(name)
        const second = await grant(substrate, claim(name, 'b', 60_000))
        expect(second).to.include({ holder: 'b', value: undefined })
        expect(second.fencingToken > first.fencingToken).to.equal(true)
      })

      it('gives a released lease a higher token even when the clock of the tokens stands still', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        const far = fencingToken + 10n ** 15n
        await setting.pool.query('UPDATE lease SET token = $1, holder = NULL WHERE name = $2', [String(far), name])
        expect((await grant(substrate, claim(name, 'b', 60_000))).fencingToken).to.equal(far + 1n)
      })

      it('is contended, not refused, while a rival has the lapsed row locked', async () => {
        await grant(substrate, claim(name, 'a', 1))
        await setting.lapsed(name)
        const rival = await setting.pool.connect()
        try {
          await rival.query('BEGIN')
          await rival.query('SELECT FROM lease WHERE name = $1 FOR UPDATE', [name])
          const [verdict] = await substrate.apply([claim(name, 'b', 60_000)], newCall())
          expect(verdict).to.deep.equal({ outcome: 'contended', holding: undefined, cause: undefined })
        } finally {
          await rival.query('ROLLBACK')
          rival.release()
        }
      })

      it('is contended when the row came after its snapshot', async () => {
        const rival = await setting.pool.connect()
        try {
          await rival.query('BEGIN')
          await rival.query(
            `INSERT INTO lease (ns, name, holder, token, expiry, nonce) VALUES ($1, $2, 'z', 1, now() + interval '1 hour', 'z')`,
            [namespace, name],
          )
          const pending = substrate.apply([claim(name, 'b', 60_000)], newCall())
          await setting.waitedFor(rival)
          await rival.query('COMMIT')
          expect(await pending).to.deep.equal([{ outcome: 'contended', holding: undefined, cause: undefined }])
        } finally {
          rival.release()
        }
      })
    })

    describe('extend', () => {
      it('moves the expiry to now plus the duration, never back, and keeps token and value', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        const startedMs = performance.now()
        const longer = await grant(substrate, extend(name, 'a', 600_000, { fencingToken }))
        expect(longer).to.include({ fencingToken, value: 'v' })
        expectWhole(longer, 600_000, startedMs)
        expectWhole(await grant(substrate, extend(name, 'a', 1_000)), 600_000, startedMs)
      })

      it('takes a new value, the empty one too', async () => {
        await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        expect(await grant(substrate, extend(name, 'a', 60_000, { value: '' }))).to.have.property('value', '')
      })

      it('is refused with the holding that forbids it: another holder, another term', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        for (const op of [extend(name, 'b', 1_000), extend(name, 'a', 1_000, { fencingToken: fencingToken - 1n })]) {
          const { outcome, holding } = await settle(substrate, op)
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ holder: 'a', fencingToken })
        }
      })

      it('is refused with nothing when the lease is vacant, lapsed or unknown', async () => {
        expect(await settle(substrate, extend(name, 'a', 1_000))).to.deep.include({
          outcome: 'refused',
          holding: undefined,
        })
        const { fencingToken } = await grant(substrate, claim(name, 'a', 1))
        await setting.lapsed(name)
        const lapsed = await settle(substrate, extend(name, 'a', 1_000, { fencingToken }))
        expect(lapsed).to.deep.include({ outcome: 'refused', holding: undefined })
        await settle(substrate, release(name, 'a'))
        expect(await settle(substrate, extend(name, 'a', 1_000))).to.deep.include({
          outcome: 'refused',
          holding: undefined,
        })
      })
    })

    describe('release', () => {
      it('vacates, for its holder, by token, and by nonce', async () => {
        const nonce = unique('nonce')
        for (const pick of ['holder', 'token', 'nonce']) {
          const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000, { nonce, value: 'v' }))
          const more = pick === 'token' ? { fencingToken } : pick === 'nonce' ? { nonce } : {}
          expect(await settle(substrate, release(name, 'a', more))).to.deep.include({
            outcome: 'granted',
            holding: undefined,
          })
          expect(await readOne(substrate, name)).to.equal(undefined)
        }
      })

      it('is granted when vacant, lapsed or unknown', async () => {
        expect(await settle(substrate, release(name, 'a'))).to.have.property('outcome', 'granted')
        await grant(substrate, claim(name, 'b', 1))
        await setting.lapsed(name)
        expect(await settle(substrate, release(name, 'a'))).to.deep.include({ outcome: 'granted', holding: undefined })
      })

      it('is refused with the holding when another term stands: of another, or its own holder by another claim', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        const stale = [
          release(name, 'b'),
          release(name, 'a', { fencingToken: fencingToken - 1n }),
          release(name, 'a', { nonce: unique('nonce') }),
        ]
        for (const op of stale) {
          const { outcome, holding } = await settle(substrate, op)
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ holder: 'a', fencingToken })
        }
        expect(await readOne(substrate, name)).to.include({ holder: 'a' })
      })

      it('waits for whoever has the row locked instead of losing its way', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        const rival = await setting.pool.connect()
        await rival.query('BEGIN')
        await rival.query('SELECT FROM lease WHERE name = $1 FOR UPDATE', [name])
        const pending = substrate.apply([release(name, 'a')], newCall())
        await setting.waitedFor(rival)
        await rival.query('ROLLBACK')
        rival.release()
        expect((await pending)[0]).to.deep.include({ outcome: 'granted' })
        expect(await readOne(substrate, name)).to.equal(undefined)
      })

      it('by nonce finds the claim that is about to commit', async () => {
        await grant(substrate, claim(name, 'z', 60_000))
        await settle(substrate, release(name, 'z'))
        const late = await setting.pool.connect() // a claim whose reply was given up
        await late.query('BEGIN')
        await late.query(
          `UPDATE lease SET holder = 'a', nonce = 'n1', expiry = now() + interval '1 hour' WHERE name = $1`,
          [name],
        )
        const pending = substrate.apply([release(name, 'a', { nonce: 'n1' })], newCall())
        await setting.waitedFor(late)
        await late.query('COMMIT')
        late.release()
        expect((await pending)[0]).to.deep.include({ outcome: 'granted' })
        expect(await readOne(substrate, name)).to.equal(undefined)
      })
    })

    describe('expire', () => {
      it('is granted when lapsed, vacant or unknown, and refused with the holding when live', async () => {
        expect(await settle(substrate, { kind: 'expire', lease: name, lapsed: undefined })).to.have.property(
          'outcome',
          'granted',
        )
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        const { outcome, holding } = await settle(substrate, { kind: 'expire', lease: name, lapsed: undefined })
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ holder: 'a', fencingToken })
        await setting.lapse(name)
        for (let twice = 0; twice < 2; twice++) {
          const verdict = await settle(substrate, { kind: 'expire', lease: name, lapsed: undefined })
          expect(verdict).to.deep.include({ outcome: 'granted', holding: undefined })
        }
        const { rows } = await setting.pool.query('SELECT holder, nonce, value FROM lease WHERE name = $1', [name])
        expect(rows).to.deep.equal([{ holder: null, nonce: null, value: null }])
      })
    })

    describe('pins', () => {
      const pin = (entity: string) => ({ kind: 'pin', lease: name, entity }) as const
      const unpin = (entity: string) => ({ kind: 'unpin', lease: name, entity }) as const

      it('keep a lease past its expiry: others are refused, its holder may extend it, nobody may expire it', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        expect(await grant(substrate, pin('e'))).to.include({ holder: 'a', pinned: true })
        await setting.lapse(name)
        const { outcome, holding } = await settle(substrate, claim(name, 'b', 1_000))
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ holder: 'a', fencingToken, pinned: true })
        expect(holding?.remainingMs).to.be.at.most(0)
        expect(await settle(substrate, { kind: 'expire', lease: name, lapsed: undefined })).to.have.property(
          'outcome',
          'refused',
        )
        expect(await readOne(substrate, name)).to.include({ holder: 'a', pinned: true })
        const startedMs = performance.now()
        const extended = await grant(substrate, extend(name, 'a', 60_000, { fencingToken }))
        expect(extended).to.include({ fencingToken, pinned: true })
        expectWhole(extended, 60_000, startedMs)
      })

      it('do not keep the holder from releasing, and stay for the next', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        await settle(substrate, pin('e'))
        await settle(substrate, release(name, 'a'))
        expect(await grant(substrate, claim(name, 'b', 60_000))).to.include({ holder: 'b', pinned: true })
      })

      it('can come before the lease does, and before its first claim the lease is vacant', async () => {
        expect(await settle(substrate, pin('e'))).to.deep.include({ outcome: 'granted', holding: undefined })
        expect(await readOne(substrate, name)).to.equal(undefined)
        expect((await substrate.pinned(newCall())).get(name)).to.deep.equal(['e'])
        expect(await grant(substrate, claim(name, 'a', 1_000))).to.include({ pinned: true })
      })

      it('do not bring a lapsed holder back', async () => {
        await grant(substrate, claim(name, 'a', 1))
        await setting.lapsed(name)
        expect(await settle(substrate, pin('e'))).to.deep.include({ outcome: 'granted', holding: undefined })
        expect(await readOne(substrate, name)).to.equal(undefined)
        expect(await settle(substrate, extend(name, 'a', 1_000))).to.have.property('outcome', 'refused')
      })

      it('are a set, listed sorted, and the last one gone past the expiry vacates', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        for (const entity of ['z', 'b', 'z']) await settle(substrate, pin(entity))
        expect((await substrate.pinned(newCall())).get(name)).to.deep.equal(['b', 'z'])
        await settle(substrate, unpin('nobody'))
        await setting.lapse(name)
        expect(await grant(substrate, unpin('b'))).to.include({ holder: 'a', pinned: true })
        expect(await settle(substrate, unpin('z'))).to.deep.include({ outcome: 'granted', holding: undefined })
        expect((await substrate.pinned(newCall())).has(name)).to.equal(false)
        expect(await grant(substrate, claim(name, 'b', 1_000))).to.include({ holder: 'b', pinned: false })
      })

      it('withdrawn before the expiry leave the lease as it was', async () => {
        await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        await settle(substrate, pin('e'))
        expect(await grant(substrate, unpin('e'))).to.include({ holder: 'a', pinned: false, value: 'v' })
      })
    })

    describe('a batch', () => {
      it('of all kinds gets one verdict each, in order', async () => {
        const names = Array.from({ length: 7 }, () => unique('lease'))
        const [a, b, c, d, e, f, g] = names as [string, string, string, string, string, string, string]
        for (const lease of [b, c, d]) await grant(substrate, claim(lease, 'a', 60_000))
        await settle(substrate, { kind: 'pin', lease: f, entity: 'e' })
        const verdicts = await substrate.apply(
          [
            release(d, 'a'),
            claim(a, 'a', 60_000),
            { kind: 'unpin', lease: f, entity: 'e' },
            extend(b, 'a', 90_000),
            claim(c, 'b', 60_000),
            { kind: 'expire', lease: e, lapsed: undefined },
            { kind: 'pin', lease: g, entity: 'e' },
          ],
          newCall(),
        )
        expect(verdicts.map(({ outcome, holding }) => [outcome, holding?.holder])).to.deep.equal([
          ['granted', undefined],
          ['granted', 'a'],
          ['granted', undefined],
          ['granted', 'a'],
          ['refused', 'a'],
          ['granted', undefined],
          ['granted', undefined],
        ])
        expect((await substrate.read(undefined, newCall())).has(d)).to.equal(false)
      })

      it('grants everything but the one lease that a guard keeps from being taken over', async () => {
        const names = Array.from({ length: 100 }, () => unique('lease'))
        await substrate.apply(
          names.map((lease) => claim(lease, 'a', 1)),
          newCall(),
        )
        await setting.lapsed(names)
        const guard = await setting.pool.connect()
        await guard.query('BEGIN')
        await guard.query('SELECT FROM lease WHERE name = $1 FOR KEY SHARE', [names[50]])
        const verdicts = await substrate.apply(
          names.map((lease) => claim(lease, 'b', 1_000)),
          newCall(),
        )
        await guard.query('ROLLBACK')
        guard.release()
        expect(verdicts.filter(({ outcome }) => outcome === 'granted')).to.have.length(99)
        expect(verdicts[50]?.outcome).to.equal('contended')
      })
    })

    it('names, holders and values of any characters come back as they went', async () => {
      const odd = [
        'NULL',
        '{}',
        'a,b',
        '"',
        '\\',
        '\\"',
        '\\n',
        '\n\t\u0001',
        "it's",
        'ü 🐘',
        '\u2028',
        ' ',
        '$1',
        '[1]',
        'true',
      ]
      const leases = odd.map((text) => name + text)
      const verdicts = await substrate.apply(
        odd.map((text, index) => claim(leases[index] ?? '', text, 60_000, { value: text })),
        newCall(),
      )
      const seen = await substrate.read(leases, newCall())
      for (const [index, text] of odd.entries()) {
        expect(verdicts[index], text).to.have.property('outcome', 'granted')
        expect(verdicts[index]?.holding, text).to.include({ holder: text, value: text })
        expect(seen.get(leases[index] ?? ''), text).to.include({ holder: text, value: text })
      }
    })

    it('a namespace sees only its own', async () => {
      const other = setting.substrate()
      await grant(substrate, claim(name, 'a', 60_000))
      await settle(substrate, { kind: 'pin', lease: name, entity: 'e' })
      expect(await grant(other, claim(name, 'b', 60_000))).to.include({ holder: 'b', pinned: false })
      expect([...(await other.read(undefined, newCall())).keys()]).to.deep.equal([name])
      expect((await other.pinned(newCall())).size).to.equal(0)
    })
  })
}

/** Expects all of the duration to remain, except what has passed here since before the operation was sent. */
function expectWhole(holding: Holding | undefined, durationMs: number, startedMs: number): void {
  const passedMs = performance.now() - startedMs
  expect(holding?.remainingMs).to.be.within(durationMs - passedMs - 1, durationMs)
}
