import { expect } from 'chai'
import { ErrNotHeld, ErrNotValid, ErrTrapdoor } from 'lease-core'
import { whileLive } from 'lease-core/testing'
import { postgresTargets } from 'lease-servers'
import { migrate, SqlGuard, type PostgresSubstrate } from 'lease-postgres'
import { claim, grant, newCall, release, settle, unique } from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'

for (const target of postgresTargets()) {
  describe(`SqlGuard, on ${target.name}`, () => {
    let setting: Setting
    let substrate: PostgresSubstrate
    let name: string
    before(async () => {
      setting = await openSetting(target)
      substrate = setting.substrate({ namespace: `it's "quoted" $1 \\ ü` })
      await setting.pool.query('CREATE TABLE account (id text PRIMARY KEY, holder text, token bigint, balance int)')
      await setting.pool.query(`INSERT INTO account VALUES ('alice', 'h', 7, 100)`)
    })
    after(() => setting[Symbol.asyncDispose]())
    const rename = (): void => void (name = unique(`l'"$x`.replace('$', '')))
    beforeEach(rename)

    async function checked(from: number | undefined, holder: string, fencingToken: bigint): Promise<SqlGuard> {
      const guard = new SqlGuard(from)
      await substrate.trapdoor(name, holder, fencingToken)(guard)
      return guard
    }
    const write = 'UPDATE account l SET balance = balance + $1 WHERE l.id = $2 AND'

    it('is a predicate for any WHERE, numbered from where the caller says', async () => {
      const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
      const guard = await checked(3, 'a', fencingToken)
      const { rowCount } = await setting.pool.query(`${write} ${guard.text}`, [1, 'alice', ...guard.values])
      expect(rowCount).to.equal(1)
      guard.assertHeld(rowCount)
      await releaseHeld(substrate, name)
      const stale = await setting.pool.query(`${write} ${guard.text}`, [1, 'alice', ...guard.values])
      expect(stale.rowCount).to.equal(0)
      expect(() => guard.assertHeld(stale.rowCount)).to.throw(ErrNotHeld, name)
      expect(() => guard.assertHeld(0n)).to.throw(ErrNotHeld)
    })

    it('can be asked alone, which tells "not held" from "no such row"', async () => {
      const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
      const guard = await checked(undefined, 'a', fencingToken)
      const held = async (): Promise<unknown> =>
        (await setting.pool.query(`SELECT ${guard.text} AS held`, guard.values)).rows[0].held
      expect(await held()).to.equal(true)
      await releaseHeld(substrate, name)
      expect(await held()).to.equal(false)
    })

    it('gives a sql tag its strings and values', async () => {
      const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
      const guard = await checked(undefined, 'a', fencingToken)
      const { strings, values } = guard.with((strings, ...values) => ({ strings, values }))
      expect(values).to.deep.equal(guard.values)
      expect(strings.raw).to.deep.equal([...strings])
      const text = strings.reduce((all, one, index) => `${all}$${index}${one}`)
      expect(text).to.equal(guard.text)
    })

    /** Whether a statement guarded by all of these terms passes on a connection of this pool. */
    const passes = async (guard: SqlGuard, pool = setting.pool): Promise<boolean> => {
      const { rows } = await pool.query<{ held: boolean }>(`SELECT ${guard.text} AS held`, guard.values)
      return rows[0]?.held === true
    }

    it('demands the terms of several holders of one lease, so that one that is over is not forgotten', async () => {
      const guard = new SqlGuard()
      for (const holder of ['a', 'b']) {
        const { fencingToken } = await grant(substrate, claim(name, holder, 60_000))
        await substrate.trapdoor(name, holder, fencingToken)(guard)
        expect(await passes(guard)).to.equal(holder === 'a')
        if (holder === 'a') await releaseHeld(substrate, name)
      }
      expect(guard.values).to.have.length(8)
    })

    it('demands the terms of one name in two schemas, which the pools find by their paths', async () => {
      await setting.pool.query('CREATE SCHEMA IF NOT EXISTS elsewhere')
      const pool = setting.newPool({ connectionString: setting.directUrl, options: '-c search_path=elsewhere,public' })
      await migrate(pool)
      const there = setting.substrate({ pool, namespace: `it's "quoted" $1 \\ ü` })
      const guard = await checked(1, 'a', (await grant(substrate, claim(name, 'a', 60_000))).fencingToken)
      await there.trapdoor(name, 'a', (await grant(there, claim(name, 'a', 60_000))).fencingToken)(guard)
      for (const pools of [setting.pool, pool]) expect(await passes(guard, pools)).to.equal(false)
    })

    it('takes the later term of the same lease and holder instead of the earlier one, and not the other way round', async () => {
      const tokens: bigint[] = []
      for (let term = 0; term < 2; term++) {
        tokens.push((await grant(substrate, claim(name, 'a', 60_000))).fencingToken)
        if (term === 0) await releaseHeld(substrate, name)
      }
      const [first = 0n, second = 0n] = tokens
      const guard = await checked(1, 'a', first)
      await substrate.trapdoor(name, 'a', second)(guard)
      expect(await passes(guard)).to.equal(true)
      await substrate.trapdoor(name, 'a', first)(guard)
      expect(await passes(guard)).to.equal(false)
    })

    it('keeps takeovers away until the transaction of its statement ends', async () => {
      const client = await setting.pool.connect()
      try {
        // The lease lapses by itself: to write its expiry would make another row of the one that the guard has locked.
        await whileLive(50, async (durationMs) => {
          rename()
          const { fencingToken } = await grant(substrate, claim(name, 'a', durationMs))
          const guard = await checked(3, 'a', fencingToken)
          await client.query('ROLLBACK')
          await client.query('BEGIN')
          const { rowCount } = await client.query(`${write} ${guard.text}`, [1, 'alice', ...guard.values])
          guard.assertHeld(rowCount)
        })
        await setting.lapsed(name)
        const [verdict] = await substrate.apply([claim(name, 'b', 1_000)], newCall())
        expect(verdict?.outcome).to.equal('contended')
        await client.query('COMMIT')
      } finally {
        client.release(true)
      }
      expect(await grant(substrate, claim(name, 'b', 1_000))).to.include({ holder: 'b' })
    })

    it('checked anew by the same holder guards the new term', async () => {
      const first = await grant(substrate, claim(name, 'a', 60_000))
      const guard = await checked(1, 'a', first.fencingToken)
      await releaseHeld(substrate, name)
      const second = await grant(substrate, claim(name, 'a', 60_000))
      await substrate.trapdoor(name, 'a', second.fencingToken)(guard)
      expect(guard.values.slice(1)).to.deep.equal([name, 'a', String(second.fencingToken)])
    })

    it('demands all of the terms that it was checked by, the latest of each lease and holder', async () => {
      const [one, two] = [unique('l'), unique('l')]
      const guard = new SqlGuard(2)
      const held = async (): Promise<unknown> => {
        const { rows } = await setting.pool.query(`SELECT $1::int AS one, ${guard.text} AS held`, [1, ...guard.values])
        return (rows[0] as { held: unknown }).held
      }
      const terms = new Map<string, bigint>()
      for (const lease of [one, two]) {
        const { fencingToken } = await grant(substrate, claim(lease, 'a', 60_000))
        terms.set(lease, fencingToken)
        await substrate.trapdoor(lease, 'a', fencingToken)(guard)
      }
      expect(await held()).to.equal(true)
      expect(guard.values.length).to.equal(8)
      await settle(substrate, release(one, 'a', { fencingToken: terms.get(one) }))
      expect(await held()).to.equal(false)
      expect(() => guard.assertHeld(0)).to.throw(ErrNotHeld, `${one}" by "a" with ${terms.get(one)}, "${two}"`)
      const again = await grant(substrate, claim(one, 'a', 60_000))
      await substrate.trapdoor(one, 'a', again.fencingToken)(guard)
      expect(await held()).to.equal(true)
      expect(guard.with((strings) => Object.isFrozen(strings) && Object.isFrozen(strings.raw))).to.equal(true)
    })

    it('has nothing to give before the check', () => {
      const guard = new SqlGuard(1)
      expect(() => guard.text).to.throw(ErrTrapdoor)
      expect(() => guard.values).to.throw(ErrTrapdoor)
      expect(() => guard.with(() => 0)).to.throw(ErrTrapdoor)
      expect(() => guard.assertHeld(1)).to.throw(ErrTrapdoor)
    })

    it('does not take what is no number', async () => {
      for (const from of [0, -1, 1.5, Number.NaN, 65_533, '1' as unknown as number]) {
        expect(() => new SqlGuard(from)).to.throw(ErrNotValid, 'from')
      }
      const guard = await checked(1, 'a', 1n)
      for (const affected of [-1, -1n, null, undefined, 1.5, Number.NaN]) {
        expect(() => guard.assertHeld(affected)).to.throw(ErrNotValid, 'affected')
      }
    })
  })
}
