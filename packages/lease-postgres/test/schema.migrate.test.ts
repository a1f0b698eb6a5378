import { expect } from 'chai'
import { ErrNotValid, type Op } from 'lease-core'
import { freshDatabase, postgresTargets, startPostgres, type FreshDatabase, type Postgres } from 'lease-servers'
import { migrate, migrationSql, PostgresSubstrate } from 'lease-postgres'
import { Pool } from 'pg'
import { claim, extend, grant, newCall, eventually, readOne, release, settle, sleep } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of postgresTargets()) {
  describe(`migrate, on ${target.name}`, () => {
    let database: FreshDatabase
    let pool: Pool
    beforeEach(async () => {
      database = await freshDatabase(target)
      pool = new Pool({ connectionString: database.url, max: 20 })
      pool.on('error', () => {}) // the database is dropped before the last connection is closed
    })
    afterEach(async () => {
      await pool.end()
      await database.drop()
    })
    const relations = async (): Promise<string[]> => {
      const { rows } = await pool.query<{ name: string }>(
        `SELECT n.nspname || '/' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND relkind IN ('r', 'i') ORDER BY 1`,
      )
      return rows.map(({ name }) => name)
    }

    it('succeeds in 20 processes that start at once, schema included, and again', async () => {
      for (let round = 0; round < 5; round++) {
        const schema = `s${round}`
        await Promise.all(Array.from({ length: 20 }, () => migrate(pool, { schema })))
        await migrate(pool, { schema })
      }
      expect(await relations()).to.have.length(35)
    })

    it('keeps what is in the tables', async () => {
      await migrate(pool)
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      await migrate(pool)
      expect(await readOne(substrate, 'l')).to.include({ holder: 'a', fencingToken })
    })

    it('runs what migrationSql prints', async () => {
      await pool.query(migrationSql({ table: 'by_hand' }))
      await migrate(pool, { table: 'by_call' })
      expect(await relations()).to.deep.equal(
        ['by_call', 'by_hand'].flatMap((table) =>
          ['', '_floor', '_floor_pkey', '_line', '_line_pkey', '_pinned', '_pkey'].map(
            (suffix) => `public/${table}${suffix}`,
          ),
        ),
      )
    })

    it('takes any schema and table name as it is, and so does every statement', async () => {
      const names = [
        { schema: `it's "a"; DROP SCHEMA public; --`, table: `back\\slash $1 $lease$ %s` },
        { schema: 'Übergröße 🐘', table: 'ключ"' },
        { schema: 's'.repeat(63), table: 't'.repeat(56) },
        { schema: undefined, table: 'SELECT' },
      ]
      for (const where of names) {
        await migrate(pool, where)
        await migrate(pool, where)
        const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false, ...where })
        await grant(substrate, claim('l', 'a', 60_000))
        await grant(substrate, extend('l', 'a', 90_000))
        await settle(substrate, { kind: 'pin', lease: 'l', entity: 'e' })
        expect((await substrate.pinned(newCall())).get('l')).to.deep.equal(['e'])
        await settle(substrate, { kind: 'unpin', lease: 'l', entity: 'e' })
        await settle(substrate, { kind: 'expire', lease: 'l', lapsed: undefined })
        expect((await substrate.read(undefined, newCall())).size).to.equal(1)
        expect(await substrate.inspect(newCall())).to.be.an('array')
        const names = await relations()
        expect(names).to.include(`${where.schema ?? 'public'}/${where.table}`)
        expect(names).to.include(`${where.schema ?? 'public'}/${where.table}_floor`)
      }
      expect(await relations()).to.have.length(28)
    })

    it('needs no right to create schemas where the schema is there', async () => {
      await pool.query('CREATE SCHEMA mine; GRANT USAGE, CREATE ON SCHEMA mine TO pg_monitor')
      const humble = new Pool({ connectionString: database.url, options: '-c role=pg_monitor' })
      humble.on('error', () => {})
      try {
        await migrate(humble, { schema: 'mine' })
        const refusal = await migrate(humble, { schema: 'other' }).catch((error: unknown) => error)
        expect(refusal).to.have.property('code', '42501')
      } finally {
        await humble.end()
      }
    })

    it('refuses names that PostgreSQL would cut or not take, all at once', () => {
      const bad = { schema: 'x'.repeat(64), table: 'ü'.repeat(29) }
      expect(() => migrationSql(bad)).to.throw(ErrNotValid, /schema must be at most 63 bytes.*table must be at most 56/)
      for (const table of ['', 'a\0b', '\ud800', 5 as unknown as string]) {
        expect(() => migrationSql({ table })).to.throw(ErrNotValid, 'table')
      }
    })
  })

  describe(`the table, on ${target.name}`, () => {
    it('is read by key: an operation touches a few rows, however many the namespace has and whatever the planner knew', async () => {
      await using setting = await openSetting(target)
      const filler = oneConnection(setting)
      await filler.pool.query('ALTER TABLE lease SET (autovacuum_enabled = off)')
      const allKinds = async (substrate: PostgresSubstrate, leases: readonly string[]): Promise<void> => {
        const apply = (op: (lease: string) => Op): Promise<unknown> => substrate.apply(leases.map(op), newCall())
        await apply((lease) => extend(lease, 'a', 900_000))
        await apply((lease) => claim(lease, 'b', 900_000))
        await apply((lease) => release(lease, 'a'))
        await apply((lease) => claim(lease, 'b', 1, { place: 0 }))
        await sleep(5)
        await apply((lease) => ({ kind: 'expire', lease, lapsed: undefined }))
        await apply((lease) => ({ kind: 'pin', lease, entity: 'e' }))
        await apply((lease) => ({ kind: 'unpin', lease, entity: 'e' }))
        await substrate.read(leases, newCall())
      }
      const experienced = oneConnection(setting)
      for (const statistics of ['SELECT 1', 'ANALYZE lease', 'VACUUM ANALYZE lease']) {
        await filler.pool.query(statistics)
        await grant(experienced.substrate, claim('only', 'a', 60_000))
        await allKinds(experienced.substrate, ['only'])
      }
      const names = Array.from({ length: 10_000 }, (_, index) => `l${index}`)
      for (let from = 0; from < names.length; from += 2_500) {
        const verdicts = await filler.substrate.apply(
          names.slice(from, from + 2_500).map((name) => claim(name, 'a', 600_000)),
          newCall(),
        )
        expect(verdicts.every(({ outcome }) => outcome === 'granted')).to.equal(true)
      }
      const some = names.filter((_, index) => index % 200 === 0)
      const others = names.filter((_, index) => index % 200 === 100)
      for (const [leases, connection] of [
        [some, oneConnection(setting)],
        [others, experienced],
      ] as const) {
        await filler.sendStatistics()
        const before = await connection.statistic('seq_tup_read + idx_tup_fetch')
        await allKinds(connection.substrate, leases)
        const touched = (await connection.statistic('seq_tup_read + idx_tup_fetch')) - before
        expect(touched).to.be.within(8 * leases.length, 8 * 5 * leases.length)
      }
    })
  })
}

// A server of their own: a snapshot reaches back to the oldest transaction of the whole server, and no row that a snapshot
// could see is pruned.
describe('renewals, on a server of their own', () => {
  const servers = new Map<number, Postgres>()
  before(async () => {
    await Promise.all(
      ([18, 15] as const).map(async (version) => servers.set(version, await startPostgres({ version }))),
    )
  })
  after(() => Promise.all([...servers.values()].map((server) => server.stop())))

  for (const version of [18, 15]) {
    it(`stay within their page (HOT) on postgres ${version}, beside pinned leases too`, async () => {
      await using setting = await openSetting(servers.get(version) ?? expect.fail())
      const { substrate, statistic } = oneConnection(setting)
      const names = Array.from({ length: 200 }, (_, index) => `l${index}`)
      await substrate.apply(
        names.map((name) => claim(name, 'a', 60_000)),
        newCall(),
      )
      await substrate.apply(
        names.slice(0, 20).map((lease) => ({ kind: 'pin', lease, entity: 'e' })),
        newCall(),
      )
      const before = await statistic('n_tup_hot_upd')
      for (let round = 1; round <= 20; round++) {
        const verdicts = await substrate.apply(
          names.map((name) => extend(name, 'a', 60_000 + round * 1_000)),
          newCall(),
        )
        expect(verdicts.every(({ outcome }) => outcome === 'granted')).to.equal(true)
        await noOlderTransaction(setting.pool)
      }
      const hot = (await statistic('n_tup_hot_upd')) - before
      expect(hot / (20 * names.length)).to.be.greaterThan(0.9)
    })
  }
})

/** Waits for the transactions that run now: an autovacuum may be one. */
async function noOlderTransaction(pool: Setting['pool']): Promise<void> {
  const { rows } = await pool.query('SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next')
  await eventually(async () => {
    const past = 'SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1::bigint AS past'
    return (await pool.query(past, [rows[0].next])).rows[0].past
  })
}

/** A substrate on one connection, and the statistics of the table, with all that this connection has added to them. */
function oneConnection(setting: Setting): {
  readonly pool: Pool
  readonly substrate: PostgresSubstrate
  readonly sendStatistics: () => Promise<void>
  readonly statistic: (column: string) => Promise<number>
} {
  const pool = setting.newPool({ max: 1 })
  // A connection sends its own now and then; after this, before it answers.
  const sendStatistics = async (): Promise<void> => void (await pool.query('SELECT pg_stat_force_next_flush()'))
  return {
    pool,
    substrate: setting.substrate({ pool, namespace: 'n', listen: false }),
    sendStatistics,
    async statistic(column) {
      await sendStatistics()
      const { rows } = await pool.query(
        `SELECT (${column})::int AS count FROM pg_stat_user_tables WHERE relname = 'lease'`,
      )
      return rows[0].count
    },
  }
}
