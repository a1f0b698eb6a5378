import { expect } from 'chai'
import { contended, type Holding } from 'lease-core/adapter'
import { isMatrix, postgresTargets } from 'lease-servers'
import type { PostgresSubstrate } from 'lease-postgres'
import { claim, expire, extend, grant, newCall, pin, readOne, release, settle, unique, unpin } from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'

for (const [index, target] of postgresTargets().entries()) {
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
        expectWhole(await grant(substrate, extend(name, 'a', 1_000, { fencingToken })), 600_000, startedMs)
      })

      it('takes a new value, the empty one too', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        const extended = await grant(substrate, extend(name, 'a', 60_000, { fencingToken, value: '' }))
        expect(extended).to.have.property('value', '')
      })

      it('is refused with the holding that forbids it: another holder, another term', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        const others = [
          extend(name, 'b', 1_000, { fencingToken }),
          extend(name, 'a', 1_000, { fencingToken: fencingToken - 1n }),
        ]
        for (const op of others) {
          const { outcome, holding } = await settle(substrate, op)
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ holder: 'a', fencingToken })
        }
      })

      it('is refused with nothing when the lease is vacant, lapsed or unknown', async () => {
        const nothing = { outcome: 'refused', holding: undefined }
        expect(await settle(substrate, extend(name, 'a', 1_000, { fencingToken: 1n }))).to.deep.include(nothing)
        const { fencingToken, nonce } = await grant(substrate, claim(name, 'a', 1))
        await setting.lapsed(name)
        const again = extend(name, 'a', 1_000, { fencingToken })
        expect(await settle(substrate, again)).to.deep.include(nothing)
        await settle(substrate, release(name, 'a', { fencingToken, nonce }))
        expect(await settle(substrate, again)).to.deep.include(nothing)
      })

      it('adopts by replacing the nonce it names, again when it is sent again, and no other', async () => {
        const { fencingToken, nonce: from } = await grant(substrate, claim(name, 'a', 60_000))
        const adopt = extend(name, 'a', 60_000, { fencingToken, adoption: { from, nonce: unique('nonce') } })
        for (let times = 0; times < 2; times++) {
          expect(await grant(substrate, adopt)).to.include({ fencingToken, nonce: adopt.adoption?.nonce })
        }
        const late = { ...adopt, adoption: { from, nonce: unique('nonce') } }
        const { outcome, holding } = await settle(substrate, late)
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ fencingToken, nonce: adopt.adoption?.nonce })
        expect(await grant(substrate, extend(name, 'a', 60_000, { fencingToken }))).to.include({
          nonce: adopt.adoption?.nonce,
        })
      })
    })

    describe('release', () => {
      it('vacates by token, by nonce, and by both', async () => {
        for (const names of ['token', 'nonce', 'both']) {
          const { fencingToken, nonce } = await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
          const term = names === 'token' ? { fencingToken } : names === 'nonce' ? { nonce } : { fencingToken, nonce }
          expect(await settle(substrate, release(name, 'a', term))).to.deep.include({
            outcome: 'granted',
            holding: undefined,
          })
          expect(await readOne(substrate, name)).to.equal(undefined)
        }
      })

      it('is granted when vacant, lapsed or unknown', async () => {
        const terms = [{ fencingToken: 1n }, { nonce: unique('nonce') }]
        for (const term of terms) {
          expect(await settle(substrate, release(unique('lease'), 'a', term))).to.have.property('outcome', 'granted')
        }
        await grant(substrate, claim(name, 'b', 1))
        await setting.lapsed(name)
        for (const term of terms) {
          expect(await settle(substrate, release(name, 'a', term))).to.deep.include({
            outcome: 'granted',
            holding: undefined,
          })
        }
      })

      it('is refused with the holding when another term stands: of another, or its own holder by another claim', async () => {
        const { fencingToken, nonce } = await grant(substrate, claim(name, 'a', 60_000))
        const stale = [
          release(name, 'b', { fencingToken, nonce }),
          release(name, 'a', { fencingToken: fencingToken - 1n, nonce }),
          release(name, 'a', { fencingToken, nonce: unique('nonce') }),
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

      it('by nonce is contended while the claim is about to commit, and then ends its term', async () => {
        await grant(substrate, claim(name, 'z', 60_000))
        await releaseHeld(substrate, name)
        const slow = await setting.pool.connect() // a claim whose reply was given up
        await slow.query('BEGIN')
        await slow.query(
          `UPDATE lease SET holder = 'a', nonce = 'n1', expiry = now() + interval '1 hour' WHERE name = $1`,
          [name],
        )
        const op = release(name, 'a', { nonce: 'n1' })
        expect(await substrate.apply([op], newCall())).to.deep.equal([contended])
        await slow.query('COMMIT')
        slow.release()
        expect(await settle(substrate, op)).to.deep.include({ outcome: 'granted' })
        expect(await readOne(substrate, name)).to.equal(undefined)
      })

      it('by nonce finds the claim that is about to insert the row', async () => {
        const slow = await setting.pool.connect()
        await slow.query('BEGIN')
        await slow.query(
          `INSERT INTO lease (ns, name, holder, token, expiry, nonce) VALUES ($1, $2, 'a', 1, now() + interval '1 hour', 'n1')`,
          [namespace, name],
        )
        const pending = settle(substrate, release(name, 'a', { nonce: 'n1' }))
        await setting.waitedFor(slow)
        await slow.query('COMMIT')
        slow.release()
        expect(await pending).to.deep.include({ outcome: 'granted' })
        expect(await readOne(substrate, name)).to.equal(undefined)
      })
    })

    describe('expire', () => {
      it('is granted when lapsed, vacant or unknown, and refused with the holding when live', async () => {
        expect(await settle(substrate, expire(name))).to.have.property('outcome', 'granted')
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        const { outcome, holding } = await settle(substrate, expire(name))
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ holder: 'a', fencingToken })
        await setting.lapse(name)
        for (let twice = 0; twice < 2; twice++) {
          const verdict = await settle(substrate, expire(name))
          expect(verdict).to.deep.include({ outcome: 'granted', holding: undefined })
        }
        expect(await setting.row(name)).to.include({ holder: null, value: null })
      })
    })

    describe('pins', () => {
      const pinsOf = async (lease: string): Promise<Record<string, string>> =>
        Object.fromEntries((await substrate.pinned(newCall(), [lease])).get(lease) ?? [])

      it('keep a lease past its expiry: others are refused, its holder may extend it, nobody may expire it', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        expect(await grant(substrate, pin(name, 'e'))).to.include({ holder: 'a', pinned: true })
        await setting.lapse(name)
        const { outcome, holding } = await settle(substrate, claim(name, 'b', 1_000))
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ holder: 'a', fencingToken, pinned: true })
        expect(holding?.remainingMs).to.be.at.most(0)
        expect(await settle(substrate, expire(name))).to.have.property('outcome', 'refused')
        expect(await readOne(substrate, name)).to.include({ holder: 'a', pinned: true })
        const startedMs = performance.now()
        const extended = await grant(substrate, extend(name, 'a', 60_000, { fencingToken }))
        expect(extended).to.include({ fencingToken, pinned: true })
        expectWhole(extended, 60_000, startedMs)
      })

      it('do not keep the holder from releasing, and stay for the next', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        await settle(substrate, pin(name, 'e'))
        await releaseHeld(substrate, name)
        expect(await grant(substrate, claim(name, 'b', 60_000))).to.include({ holder: 'b', pinned: true })
      })

      it('can come before the lease does, and before its first claim the lease is vacant', async () => {
        const op = pin(name, 'e')
        expect(await settle(substrate, op)).to.deep.include({ outcome: 'granted', holding: undefined })
        expect(await readOne(substrate, name)).to.equal(undefined)
        expect(await pinsOf(name)).to.deep.equal({ e: op.generation })
        expect(await grant(substrate, claim(name, 'a', 1_000))).to.include({ pinned: true })
      })

      it('do not bring a lapsed holder back', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 1))
        await setting.lapsed(name)
        expect(await settle(substrate, pin(name, 'e'))).to.deep.include({ outcome: 'granted', holding: undefined })
        expect(await readOne(substrate, name)).to.equal(undefined)
        const late = await settle(substrate, extend(name, 'a', 1_000, { fencingToken }))
        expect(late).to.have.property('outcome', 'refused')
      })

      it('are one for each entity, of its last generation, and the last one gone past the expiry vacates', async () => {
        await grant(substrate, claim(name, 'a', 60_000))
        for (const op of [pin(name, 'z', 'z1'), pin(name, 'b', 'b1'), pin(name, 'z', 'z2')]) await grant(substrate, op)
        expect(Object.entries(await pinsOf(name))).to.deep.equal([
          ['b', 'b1'],
          ['z', 'z2'],
        ])
        await settle(substrate, unpin(name, 'nobody', 'b1'))
        await setting.lapse(name)
        expect(await grant(substrate, unpin(name, 'b', 'b1'))).to.include({ holder: 'a', pinned: true })
        expect(await grant(substrate, unpin(name, 'z', 'z1'))).to.include({ holder: 'a', pinned: true })
        expect(await settle(substrate, unpin(name, 'z', 'z2'))).to.deep.include({
          outcome: 'granted',
          holding: undefined,
        })
        expect(await pinsOf(name)).to.deep.equal({})
        expect(await grant(substrate, claim(name, 'b', 1_000))).to.include({ holder: 'b', pinned: false })
      })

      it('withdrawn before the expiry leave the lease as it was', async () => {
        await grant(substrate, claim(name, 'a', 60_000, { value: 'v' }))
        await settle(substrate, pin(name, 'e', 'g'))
        expect(await grant(substrate, unpin(name, 'e', 'g'))).to.include({ holder: 'a', pinned: false, value: 'v' })
      })

      it('of entities of any name come back as they went', async () => {
        for (const entity of ['{"a":1}', '"', 'null', '__proto__', "it's", 'ü 🐘', '\\u0001', 'a,b']) {
          const op = pin(name, entity)
          await settle(substrate, op)
          expect((await substrate.pinned(newCall(), [name])).get(name)?.get(entity), entity).to.equal(op.generation)
          await settle(substrate, unpin(name, entity, op.generation))
          expect(await pinsOf(name)).to.deep.equal({})
        }
      })

      it('of the named leases are listed, or of all', async () => {
        const other = unique('lease')
        for (const lease of [name, other]) await settle(substrate, pin(lease, 'e'))
        expect([...(await substrate.pinned(newCall(), [name, unique('unheard-of')])).keys()]).to.deep.equal([name])
        expect([...(await substrate.pinned(newCall())).keys()]).to.include.members([name, other])
      })
    })

    it('what somebody else wrote into the only column without a form of its own hides no lease and no pin', async () => {
      const own = setting.substrate({ listen: false })
      const odd = ['5', '"word"', '[]', 'null', '{"e": 5}', '{"e": null}', '{"e": []}', '{"e": {"0": 1}}']
      const names = odd.map((_, index) => `odd-${index}`)
      for (const [index, text] of odd.entries()) {
        const lease = names[index] as string
        await grant(own, claim(lease, 'a', 60_000))
        await settle(own, pin(lease, 'e', 'g'))
        await setting.pool.query('UPDATE lease SET generations = $1 WHERE name = $2', [text, lease])
      }
      for (const named of [names, undefined]) {
        expect([...(await own.read(named, newCall())).keys()]).to.have.members(names)
        expect([...(await own.pinned(newCall(), named)).keys()]).to.have.members(names)
      }
    })

    describe('a batch', () => {
      it('of all kinds gets one verdict each, in order', async () => {
        const names = Array.from({ length: 7 }, () => unique('lease'))
        const [a, b, c, d, e, f, g] = names as [string, string, string, string, string, string, string]
        await grant(substrate, claim(c, 'a', 60_000))
        const { fencingToken } = await grant(substrate, claim(b, 'a', 60_000))
        const { nonce } = await grant(substrate, claim(d, 'a', 60_000))
        await settle(substrate, pin(f, 'e', 'g'))
        const verdicts = await substrate.apply(
          [
            release(d, 'a', { nonce }),
            claim(a, 'a', 60_000),
            unpin(f, 'e', 'g'),
            extend(b, 'a', 90_000, { fencingToken }),
            claim(c, 'b', 60_000),
            expire(e),
            pin(g, 'e'),
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

    // Once is enough: what it is about is not of the server. It takes seconds.
    if (index === 0 && isMatrix()) {
      it('a namespace of 150,000 leases is read, though a call takes no such number of arguments', async () => {
        const large = setting.substrate()
        await grant(large, claim(name, 'a', 600_000))
        await setting.pool.query(
          `INSERT INTO lease (ns, name, holder, nonce, token, expiry)
           SELECT ns, name || n, holder, nonce, token, expiry FROM lease CROSS JOIN generate_series(2, 150000) AS n
           WHERE name = $1`,
          [name],
        )
        const holdings = await large.read(undefined, newCall())
        expect(holdings.size).to.equal(150_000)
        expect(holdings.get(`${name}150000`)).to.include({ holder: 'a', pinned: false })
        await setting.pool.query('DELETE FROM lease WHERE name ^@ $1', [name])
      })
    }

    it('a namespace sees only its own', async () => {
      const other = setting.substrate()
      await grant(substrate, claim(name, 'a', 60_000))
      await settle(substrate, pin(name, 'e'))
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
