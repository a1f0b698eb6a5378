import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import type { Op } from 'lease-core/adapter'
import {
  enough,
  enoughOf,
  freshDatabase,
  postgresTargets,
  startPostgres,
  type FreshDatabase,
  type Postgres,
} from 'lease-servers'
import { collect, migrate, migrationSql, PostgresSubstrate } from 'lease-postgres'
import { Pool } from 'pg'
import {
  caught,
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  sleep,
  unpin,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

/** The tables as the releases before the version of the layout made them. */
const firstLayout = `CREATE TABLE lease (
  ns text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, holder text, token bigint NOT NULL, expiry timestamptz NOT NULL,
  nonce text, value text, pins text[] NOT NULL DEFAULT '{}', PRIMARY KEY (ns, name)
);
CREATE INDEX lease_pinned ON lease (ns) WHERE pins <> '{}';
CREATE TABLE lease_floor (ns text COLLATE "C" PRIMARY KEY, token bigint NOT NULL);
CREATE UNLOGGED TABLE lease_line (
  ns text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, last int NOT NULL, served int NOT NULL, at timestamptz NOT NULL,
  PRIMARY KEY (ns, name)
)`

/** How many tables and indexes there are. */
const RELATIONS = 11

for (const target of enoughOf(postgresTargets())) {
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

    it('succeeds in many processes that start at once, schema included, and again', async () => {
      const rounds = enough(1)
      for (let round = 0; round < rounds; round++) {
        const schema = `s${round}`
        await Promise.all(Array.from({ length: enough(6) }, () => migrate(pool, { schema })))
        await migrate(pool, { schema })
      }
      expect(await relations()).to.have.length(rounds * RELATIONS)
    })

    it('keeps what is in the tables', async () => {
      await migrate(pool)
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      await migrate(pool)
      expect(await readOne(substrate, 'l')).to.include({ holder: 'a', fencingToken })
    })

    it('upgrades the tables of the first layout in place, with their leases and pins', async () => {
      await pool.query(firstLayout)
      await pool.query(
        `INSERT INTO lease (ns, name, holder, token, expiry, nonce, value, pins) VALUES
         ('n', 'l', 'a', (extract(epoch FROM now()) * 1000000)::bigint, now() + interval '1 hour', 'n1', 'v', '{e}'),
         ('n', 'vacant', NULL, 7, now(), NULL, NULL, '{}')`,
      )
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      expect((await caught(substrate.time(newCall()))).message).to.match(/run migrate\(\)/)
      await migrate(pool)
      const line = 'SELECT FROM lease_line'
      await pool.query(line) // a process of that release may be using it
      const { outdated } = await migrate(pool)
      expect(outdated).to.deep.equal(['DROP TABLE public.lease_line'])
      for (const statement of outdated) await pool.query(statement)
      expect(await caught(pool.query(line))).to.have.property('code', '42P01')
      expect(await migrate(pool)).to.deep.equal({ outdated: [] })
      await substrate.time(newCall())
      const held = (await readOne(substrate, 'l')) ?? expect.fail()
      expect(held).to.include({ holder: 'a', nonce: 'n1', value: 'v', pinned: true })
      expect(held.ageMs).to.be.within(0, 60_000)
      expect((await substrate.pinned(newCall())).get('l')).to.deep.equal(new Map([['e', '']]))
      const { fencingToken } = held
      expect(await grant(substrate, extend('l', 'a', 60_000, { fencingToken }))).to.include({ fencingToken })
      expect(await grant(substrate, unpin('l', 'e', ''))).to.include({ pinned: false })
      const late = await substrate.apply([claim('l', 'a', 1_000, { nonce: 'n1' })], newCall())
      expect(late[0]?.holding).to.include({ fencingToken })
      expect((await grant(substrate, claim('vacant', 'b', 60_000))).fencingToken > 7n).to.equal(true)
    })

    it('adds to the tables of an earlier release what counted leases need, beside processes of that release', async () => {
      await migrate(pool)
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      await pool.query('DROP TABLE lease_counts; DROP INDEX lease_share')
      await pool.query('ALTER TABLE lease DROP COLUMN weight; ALTER TABLE lease_waiter DROP COLUMN weight')
      await pool.query(
        `INSERT INTO lease (ns, name, holder, token, expiry) VALUES ('n', 'l', 'a', 7, now() + interval '1 hour')`,
      )
      await pool.query(
        `INSERT INTO lease_waiter (ns, name, client, until) VALUES ('n', 'l', 'c', now() + interval '1 hour')`,
      )
      await migrate(pool)
      expect(await readOne(substrate, 'l')).to.include({ holder: 'a', fencingToken: 7n })
      const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map() }
      await grant(substrate, claim('c#a', 'a', 60_000, { share }))
      expect(await settle(substrate, claim('c#b', 'b', 60_000, { share, place: 0 }))).to.deep.include({
        outcome: 'refused',
      })
      // As an earlier release writes.
      await pool.query(`INSERT INTO lease (ns, name, token, expiry) VALUES ('n', 'm', 1, now())`)
      await pool.query(`UPDATE lease SET holder = NULL, value = NULL WHERE name = 'l'`)
      expect((await pool.query('SELECT version FROM lease_layout')).rows).to.deep.equal([{ version: 2 }])
      expect(await migrate(pool)).to.deep.equal({ outdated: [] })
    })

    it('leaves alone, and collect removes, what a claim of any of several leases by an earlier release has left', async () => {
      await migrate(pool)
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      await pool.query(
        `INSERT INTO lease (ns, name, token, expiry) VALUES ('n', ' nonce', 0, now() - interval '1 hour'), ('n', ' new', 0, now())`,
      )
      await migrate(pool)
      expect((await substrate.read(undefined, newCall())).size).to.equal(0)
      expect(await collect(pool, { namespace: 'n', retention: 10_000 })).to.equal(1)
    })

    it('waits half a second at a time for the tables of the first layout, and lets others pass', async () => {
      await pool.query(firstLayout)
      const busy = await pool.connect()
      try {
        await busy.query('BEGIN')
        await busy.query('SELECT FROM lease') // whatever touches the table, a guard for one
        const migration = migrate(pool)
        const waiting = `SELECT FROM pg_locks WHERE relation = 'lease'::regclass AND NOT granted`
        await eventually(async () => (await pool.query(waiting)).rowCount === 1)
        await pool.query(`INSERT INTO lease (ns, name, token, expiry) VALUES ('n', 'other', 1, now())`)
        await busy.query('COMMIT')
        await migration
      } finally {
        busy.release()
      }
      await new PostgresSubstrate({ pool, namespace: 'n', listen: false }).time(newCall())
    })

    it('refuses tables of a later release, and so does the client', async () => {
      await migrate(pool)
      await pool.query('UPDATE lease_layout SET version = 3')
      expect((await caught(migrate(pool))).message).to.match(/layout 3.*up to 2.*update it/)
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      expect((await caught(substrate.time(newCall()))).message).to.match(/layout 3.*up to 2.*update it/)
      expect((await pool.query('SELECT version FROM lease_layout')).rows).to.deep.equal([{ version: 3 }])
    })

    it('runs what migrationSql prints', async () => {
      await pool.query(migrationSql({ table: 'by_hand' }))
      await migrate(pool, { table: 'by_call' })
      expect(await relations()).to.deep.equal(
        ['by_call', 'by_hand'].flatMap((table) =>
          [
            '',
            '_counts',
            '_counts_pkey',
            '_floor',
            '_floor_pkey',
            '_layout',
            '_pinned',
            '_pkey',
            '_share',
            '_waiter',
            '_waiter_pkey',
          ].map((suffix) => `public/${table}${suffix}`),
        ),
      )
    })

    it('takes any schema and table name as it is, and so does every statement', async () => {
      const names = [
        { schema: `it's "a"; DROP SCHEMA public; --`, table: `back\\slash $1 $lease$ %s` },
        { schema: 'Übergröße 🐘', table: 'ключ"' },
        { schema: 's'.repeat(63), table: 't'.repeat(56) },
        { schema: undefined, table: 'SELECT' },
        // What `String.replace` understands as a part of the text.
        ...['$$', '$&', "$'", '$`', 'a$$b$1'].map((name) => ({ schema: name, table: name })),
      ]
      for (const where of names) {
        await migrate(pool, where)
        await migrate(pool, where)
        const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false, ...where })
        expect(await substrate.time(newCall())).to.be.greaterThan(0)
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
        await grant(substrate, extend('l', 'a', 90_000, { fencingToken }))
        await settle(substrate, pin('l', 'e', 'g'))
        expect((await substrate.pinned(newCall())).get('l')).to.deep.equal(new Map([['e', 'g']]))
        await settle(substrate, unpin('l', 'e', 'g'))
        await settle(substrate, expire('l'))
        expect((await substrate.read(undefined, newCall())).size).to.equal(1)
        expect(await substrate.inspect(newCall())).to.be.an('array')
        const names = await relations()
        expect(names).to.include(`${where.schema ?? 'public'}/${where.table}`)
        expect(names).to.include(`${where.schema ?? 'public'}/${where.table}_floor`)
      }
      expect(await relations()).to.have.length(RELATIONS * names.length)
    })

    it('refuses the name of a table that is there for something else, and says which names it needs', async () => {
      await migrate(pool)
      await pool.query('CREATE TABLE other_pinned (a int)')
      for (const table of ['lease_waiter', 'lease_counts', 'lease_floor', 'lease_layout', 'lease_pinned', 'other']) {
        const error = await caught(migrate(pool, { table }))
        expect(error, table).to.be.instanceOf(ErrNotValid)
        expect(error.message).to.include(`${table}_pinned`)
        expect(error.cause).to.have.property('code')
      }
      await migrate(pool)
      expect(await caught(migrate(pool, { schema: 'pg_own' }))).to.be.instanceOf(ErrNotValid)
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
        const held = await substrate.read(leases, newCall())
        const fencingToken = (lease: string): bigint => held.get(lease)?.fencingToken ?? 0n
        await apply((lease) => extend(lease, 'a', 900_000, { fencingToken: fencingToken(lease) }))
        await apply((lease) => claim(lease, 'b', 900_000))
        await apply((lease) => release(lease, 'a', { fencingToken: fencingToken(lease) }))
        await apply((lease) => claim(lease, 'b', 1, { place: 0 }))
        await apply((lease) => claim(lease, 'c', 1, { place: 0 }))
        await substrate.read(leases, newCall(), leases)
        await apply((lease) => ({ kind: 'leave', lease, place: undefined }))
        await apply((lease) => ({ kind: 'passOver', lease, place: 1 }))
        await sleep(5)
        await apply((lease) => expire(lease))
        await apply((lease) => pin(lease, 'e', 'g'))
        await substrate.pinned(newCall(), leases)
        await apply((lease) => unpin(lease, 'e', 'g'))
        await apply((lease) => release(lease, 'a', { nonce: 'unheard of' }))
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
        expect(touched).to.be.within(10 * leases.length, 10 * 4 * leases.length)
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
      const granted = await substrate.apply(
        names.map((name) => claim(name, 'a', 60_000)),
        newCall(),
      )
      await substrate.apply(
        names.slice(0, 20).map((lease) => pin(lease, 'e')),
        newCall(),
      )
      const before = await statistic('n_tup_hot_upd')
      for (let round = 1; round <= 20; round++) {
        const verdicts = await substrate.apply(
          names.map((name, index) =>
            extend(name, 'a', 60_000 + round * 1_000, { fencingToken: granted[index]?.holding?.fencingToken ?? 0n }),
          ),
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
