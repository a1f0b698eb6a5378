import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import { migrate, migrationSql, PostgresSubstrate } from 'lease-postgres'
import { enough, enoughOf, freshDatabase, type FreshDatabase, postgresTargets, until } from 'lease-servers'
import { Pool, type PoolClient } from 'pg'
import { caught, claim, extend, grant, newCall } from 'lease-scenes'

for (const target of enoughOf(postgresTargets())) {
  describe(`migrate at every start, on ${target.name}`, () => {
    let database: FreshDatabase
    let pool: Pool
    const pools: Pool[] = []
    const others: PoolClient[] = []
    beforeEach(async () => {
      database = await freshDatabase(target)
      pool = connect()
    })
    afterEach(async () => {
      others.splice(0).forEach((client) => client.release(true))
      await Promise.all(pools.splice(0).map((one) => one.end()))
      await database.drop()
    })
    function connect(options?: string): Pool {
      const made = new Pool({ connectionString: database.url, options })
      made.on('error', () => {}) // the database is dropped before the last connection is closed
      pools.push(made)
      return made
    }
    const withTransaction = async (...statements: readonly string[]): Promise<PoolClient> => {
      const client = await pool.connect()
      others.push(client)
      for (const statement of ['BEGIN', ...statements]) await client.query(statement)
      return client
    }
    it('waits for nobody where everything is there: not for a lock on the leases, nor for another that migrates', async () => {
      await migrate(pool)
      await withTransaction(
        'LOCK TABLE lease, lease_floor, lease_waiter IN ACCESS EXCLUSIVE MODE',
        'SELECT pg_advisory_xact_lock(7811887010271462)',
      )
      await migrate(connect('-c statement_timeout=60s'))
    })

    it('locks nothing stronger than a read and changes nothing where everything is there', async () => {
      await migrate(pool)
      const all = `SELECT (SELECT json_agg(p.xmin::text || p.oid ORDER BY p.oid) FROM pg_proc p WHERE proname LIKE 'lease%')::text AS functions,
        (SELECT json_agg(c.xmin::text || c.oid ORDER BY c.oid) FROM pg_class c WHERE relname LIKE 'lease%')::text AS tables`
      const before = (await pool.query(all)).rows
      const client = await withTransaction()
      await client.query(migrationSql())
      const { rows } = await client.query(
        `SELECT DISTINCT locktype, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'`,
      )
      expect(rows).to.deep.equal([{ locktype: 'relation', mode: 'AccessShareLock' }])
      const { rows: drawn } = await client.query('SELECT pg_current_xact_id_if_assigned() AS xid')
      expect(drawn).to.deep.equal([{ xid: null }])
      await client.query('COMMIT')
      expect((await pool.query(all)).rows).to.deep.equal(before)
    })

    it('leaves the settings of its connection as they were', async () => {
      const client = await withTransaction(
        'SET LOCAL search_path = pg_catalog, public',
        `SET LOCAL lock_timeout = '7s'`,
      )
      await client.query(migrationSql({ schema: 'own' }))
      const { rows } = await client.query(
        `SELECT current_setting('search_path') AS path, current_setting('lock_timeout') AS patience`,
      )
      expect(rows).to.deep.equal([{ path: 'pg_catalog, public', patience: '7s' }])
    })

    for (const isolation of ['repeatable read', 'serializable']) {
      it(`succeeds in many processes at once where transactions are ${isolation} by default`, async () => {
        const strict = connect(`-c default_transaction_isolation=${isolation.replace(' ', '\\ ')}`)
        strict.options.max = enough(5)
        await Promise.all(Array.from({ length: strict.options.max }, () => migrate(strict, { schema: 's' })))
        const substrate = new PostgresSubstrate({ pool: strict, namespace: 'n', schema: 's', listen: false })
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
        await grant(substrate, extend('l', 'a', 90_000, { fencingToken }))
      })
    }

    it('succeeds in a read-only session where everything is there, and says what is wrong where it is not', async () => {
      const readOnly = connect('-c default_transaction_read_only=on')
      expect(await caught(migrate(readOnly))).to.have.property('code', '25006')
      await migrate(pool)
      await migrate(readOnly)
    })

    it('makes anew what somebody has dropped, and keeps the rest', async () => {
      await migrate(pool)
      const substrate = new PostgresSubstrate({ pool, namespace: 'n', listen: false })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      await pool.query('DROP TABLE lease_waiter; DROP INDEX lease_pinned; ALTER TABLE lease DROP COLUMN valued')
      await migrate(pool)
      expect(
        (await pool.query(`SELECT to_regclass('lease_pinned') AS index, to_regclass('lease_waiter') AS waiter`)).rows,
      ).to.deep.equal([{ index: 'lease_pinned', waiter: 'lease_waiter' }])
      await grant(substrate, extend('l', 'a', 60_000, { fencingToken, value: 'v' }))
      await pool.query('DROP TABLE lease, lease_floor, lease_waiter, lease_layout')
      await migrate(pool)
      await grant(substrate, claim('l', 'b', 60_000))
    })

    it('gives way to another that migrates, and finds what that has made', async () => {
      const other = await withTransaction('SELECT pg_advisory_xact_lock(7811887010271462)')
      const migration = migrate(pool)
      await until('the migration sleeps between two tries', async () => {
        const { rows } = await pool.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`,
        )
        return rows.length > 0
      })
      await other.query(migrationSql())
      await other.query('COMMIT')
      expect(await migration).to.deep.equal({ outdated: [] })
    })

    it('lists the functions of an earlier release, and neither those of a later one nor those of another table', async () => {
      const older = 'lease_claim_0123456789abcdef'
      const newer = 'lease_claim_fedcba9876543210'
      const make = async (name: string, table: string): Promise<unknown> =>
        pool.query(
          `CREATE FUNCTION ${name}(text, text[]) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM FROM "${table}" l; RETURN 1; END'`,
        )
      await make(older, 'lease')
      await make('lease_pin_0123456789abcdef', 'lease_2')
      expect(await migrate(pool)).to.deep.equal({ outdated: [`DROP FUNCTION public.${older}(text,text[])`] })
      await make(newer, 'lease')
      await pool.query(`COMMENT ON FUNCTION ${newer}(text, text[]) IS 'lease-postgres, made at 9000000000000000'`)
      const { outdated } = await migrate(pool)
      expect(outdated).to.deep.equal([`DROP FUNCTION public.${older}(text,text[])`])
      const notices: (string | undefined)[] = []
      const client = await withTransaction()
      client.on('notice', ({ message }) => notices.push(message))
      await client.query(migrationSql())
      expect(notices.join('\n')).to.include(older)
      await client.query('COMMIT')
      for (const statement of outdated) await pool.query(statement)
      expect(await migrate(pool)).to.deep.equal({ outdated: [] })
      await new PostgresSubstrate({ pool, namespace: 'n', listen: false }).time(newCall())
    })

    it('refuses an owner that no role can have', () => {
      for (const owner of ['', 'a\0b', 5 as unknown as string, 'x'.repeat(64)]) {
        expect(() => migrationSql({ owner })).to.throw(ErrNotValid, 'owner')
      }
    })
  })
}
