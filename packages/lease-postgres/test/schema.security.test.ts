import { expect } from 'chai'
import { ErrNotHeld, type LeaseChange } from 'lease-core'
import type { ClaimOp } from 'lease-core/adapter'
import {
  collect,
  migrate,
  migrationSql,
  PostgresSubstrate,
  SqlGuard,
  type PostgresSubstrateOptions,
} from 'lease-postgres'
import { enoughOf, freshDatabase, postgresTargets, type FreshDatabase } from 'lease-servers'
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
  unique,
  unpin,
} from 'lease-scenes'

for (const target of enoughOf(postgresTargets())) {
  describe(`roles and schemas, on ${target.name}`, () => {
    let database: FreshDatabase
    let admin: Pool
    const pools: Pool[] = []
    const roles: string[] = []
    beforeEach(async () => {
      database = await freshDatabase(target)
      admin = connectAs(undefined)
      await admin.query('REVOKE CREATE ON SCHEMA public FROM PUBLIC')
    })
    afterEach(async () => {
      await Promise.all(pools.splice(0).map((pool) => pool.end()))
      await database.drop()
      const last = new Pool({ connectionString: target.url, max: 1 })
      for (const role of roles.splice(0)) await last.query(`DROP ROLE ${role}`)
      await last.end()
    })
    /** @param path the search_path, if not that of the server */
    function connectAs(role: string | undefined, path?: string): Pool {
      const settings = [
        role === undefined ? '' : `-c role=${role}`,
        path === undefined ? '' : `-c search_path=${path.replaceAll(' ', '')}`,
      ]
      const pool = new Pool({ connectionString: database.url, options: settings.join(' ') })
      pool.on('error', () => {}) // the database is dropped before the last connection is closed
      pools.push(pool)
      return pool
    }
    const newRole = async (stem: string): Promise<string> => {
      const role = unique(stem).replaceAll(/\W/g, '_').toLowerCase()
      await admin.query(`CREATE ROLE ${role}`)
      roles.push(role)
      return role
    }
    const substrateOn = (pool: Pool, options?: Partial<PostgresSubstrateOptions>): PostgresSubstrate =>
      new PostgresSubstrate({ pool, namespace: 'n', listen: false, ...options })

    /** An application with a schema of its own, and a stranger who may create in another schema of its path. */
    const besideAStranger = async () => {
      const [application, stranger] = [await newRole('application'), await newRole('stranger')]
      await admin.query(
        `CREATE SCHEMA shared; GRANT USAGE ON SCHEMA shared TO ${application}; GRANT USAGE, CREATE ON SCHEMA shared TO ${stranger};
         CREATE SCHEMA own AUTHORIZATION ${application};
         CREATE TABLE public.seen (who text); GRANT INSERT, SELECT ON public.seen TO PUBLIC`,
      )
      const seen = async (): Promise<string[]> => {
        const { rows } = await admin.query<{ who: string }>('SELECT DISTINCT who FROM public.seen')
        return rows.map(({ who }) => who)
      }
      return { application, evil: connectAs(stranger, 'shared'), seen }
    }
    /** All that is called here: every operation, and what is asked beside them. */
    const useAll = async (substrate: PostgresSubstrate, pool: Pool, schema?: string): Promise<void> => {
      await substrate.time(newCall())
      await substrate.inspect(newCall())
      const lease = unique('lease')
      const { fencingToken, nonce } = await grant(substrate, claim(lease, 'a', 60_000, { value: 'v', place: 0 }))
      await settle(substrate, claim(lease, 'b', 60_000, { place: 0 }))
      await settle(substrate, claim(lease, 'b', 60_000, { place: 0, maxWaiters: 1 }))
      await settle(substrate, claim(lease, 'b', 60_000))
      await substrate.read([lease, unique('new')], newCall(), [lease, unique('new')])
      await grant(substrate, extend(lease, 'a', 60_000, { fencingToken }))
      await grant(substrate, extend(lease, 'a', 60_000, { fencingToken, value: 'w' }))
      await settle(substrate, pin(lease, 'e', 'g'))
      await substrate.pinned(newCall())
      await substrate.pinned(newCall(), [lease])
      await settle(substrate, unpin(lease, 'e', 'g'))
      await substrate.read(undefined, newCall())
      await readOne(substrate, lease)
      const transaction = await pool.connect()
      try {
        await transaction.query('BEGIN')
        await substrate.trapdoor(lease, 'a', fencingToken)(transaction)
        // A driver that does not tell whether it is inside of a transaction: the server is asked.
        const untold = { query: (text: string, values: unknown[]) => transaction.query(text, values) }
        await substrate.trapdoor(lease, 'a', fencingToken)(untold)
        const guard = new SqlGuard()
        await substrate.trapdoor(lease, 'a', fencingToken)(guard)
        const { rows } = await transaction.query(`SELECT ${guard.text} AS held`, guard.values)
        expect(rows).to.deep.equal([{ held: true }])
        await transaction.query('COMMIT')
      } finally {
        transaction.release()
      }
      await settle(substrate, release(lease, 'a', { fencingToken, nonce }))
      await settle(substrate, { kind: 'leave', lease, place: 1 })
      await settle(substrate, { kind: 'passOver', lease, place: 1 })
      await settle(substrate, release(lease, 'a', { nonce: 'unheard of' }))
      await settle(substrate, expire(lease))
      await collect(pool, { namespace: 'n', schema, retention: 60_000 })
    }

    /** The same of counted leases. */
    const useShares = async (substrate: PostgresSubstrate): Promise<void> => {
      const [name, other] = [unique('counted'), unique('counted')]
      const share = (holder: string, capacity: number | undefined, more: Partial<ClaimOp> = {}): ClaimOp =>
        claim(`${name}#${holder}`, holder, 60_000, {
          share: { weight: 1, capacity, passing: 0, lapsed: new Map() },
          ...more,
        })
      const { fencingToken } = await grant(substrate, share('a', 1))
      await settle(substrate, share('b', undefined))
      await settle(substrate, share('b', 1, { place: 0 }))
      await settle(substrate, pin(`${name}#a`, 'e', 'g'))
      await settle(substrate, unpin(`${name}#a`, 'e', 'g'))
      await settle(substrate, release(`${name}#a`, 'a', { fencingToken }))
      await grant(substrate, share('b', 1, { place: 1 }))
      await settle(substrate, expire(`${name}#b`))
      await settle(substrate, { kind: 'passOver', lease: `${name}#`, place: 1 })
      await settle(substrate, { kind: 'leave', lease: `${name}#`, place: 1 })
      const generation = unique('generation')
      await settle(substrate, { kind: 'define', lease: `${other}#`, capacity: 3, from: undefined, generation })
      await settle(substrate, {
        kind: 'define',
        lease: `${other}#`,
        capacity: undefined,
        from: generation,
        generation: 'end',
      })
      expect((await substrate.counted(`${name}#`, newCall())).shares.size).to.equal(1)
    }

    describe('what a stranger may create in a schema of the path', () => {
      /** Functions and operators that would be found, or be the better match, and that note who runs them. */
      const traps = `
        CREATE FUNCTION trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (current_user); END $$;
        CREATE FUNCTION cardinality(bigint[]) RETURNS int LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN pg_catalog.cardinality($1); END $$;
        CREATE FUNCTION concat(text, bigint, text, json, text) RETURNS text LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN pg_catalog.concat($1, $2, $3, $4, $5); END $$;
        CREATE FUNCTION array_agg(text) RETURNS text[] LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN NULL; END $$;
        CREATE FUNCTION times(float8, int) RETURNS float8 LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN $1 * $2::float8; END $$;
        CREATE OPERATOR * (leftarg = float8, rightarg = int, procedure = times);
        CREATE FUNCTION unlike(text[], text[]) RETURNS boolean LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN true; END $$;
        CREATE OPERATOR <> (leftarg = text[], rightarg = text[], procedure = unlike);
        CREATE FUNCTION alike(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN true; END $$;
        CREATE OPERATOR = (leftarg = oid, rightarg = regclass, procedure = alike);
        CREATE FUNCTION under(timestamptz, interval) RETURNS timestamptz LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN NULL; END $$;
        CREATE OPERATOR - (leftarg = timestamptz, rightarg = interval, procedure = under);
        CREATE FUNCTION max(int) RETURNS int LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN 2; END $$;
        CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN '2000-01-01'; END $$;
        CREATE FUNCTION pg_current_xact_id_if_assigned() RETURNS xid8 LANGUAGE plpgsql AS
          $$ BEGIN PERFORM shared.trap(); RETURN pg_catalog.pg_current_xact_id_if_assigned(); END $$;`

      for (const path of enoughOf(['own, shared, pg_catalog', 'shared', 'shared, pg_catalog', 'own, shared'])) {
        it(`is never run, with the path ${path}`, async () => {
          const { application, evil, seen } = await besideAStranger()
          await evil.query(traps)
          const pool = connectAs(application, path)
          const schema = path.startsWith('own') ? undefined : 'own'
          await migrate(pool, { schema })
          await useShares(substrateOn(pool, { schema }))
          await useAll(substrateOn(pool, { schema }), pool, schema)
          expect(await seen()).to.deep.equal([])
        })
      }

      it('is never run, though it has the name of our functions and parameters that text fits better', async () => {
        const { application, evil, seen } = await besideAStranger()
        const pool = connectAs(application, 'own, shared')
        await migrate(pool)
        const { rows } = await admin.query<{ name: string; count: number }>(
          `SELECT proname AS name, pronargs AS count FROM pg_proc WHERE pronamespace = 'own'::regnamespace`,
        )
        expect(rows).to.have.length.greaterThan(10)
        for (const { name, count } of rows) {
          const parameters = Array.from({ length: count }, () => 'text').join(', ')
          await evil.query(`CREATE FUNCTION ${name}(${parameters}) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN '[1]'; END $$`)
        }
        await useShares(substrateOn(pool))
        await useAll(substrateOn(pool), pool)
        expect(await seen()).to.deep.equal([])
      })

      it('makes no guard pass after the lease has lapsed', async () => {
        const { application, evil } = await besideAStranger()
        await evil.query(traps)
        const pool = connectAs(application, 'shared')
        await migrate(pool, { schema: 'own' })
        const substrate = substrateOn(pool, { schema: 'own' })
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
        await admin.query('UPDATE own.lease SET expiry = clock_timestamp()')
        const transaction = await pool.connect()
        await transaction.query('BEGIN')
        expect(await caught(substrate.trapdoor('l', 'a', fencingToken)(transaction))).to.be.instanceOf(ErrNotHeld)
        transaction.release(true)
      })
    })

    describe('migrate refuses', () => {
      /** A schema in which a stranger may create as well. */
      const sharedSchema = async () => {
        const [application, stranger] = [await newRole('application'), await newRole('stranger')]
        await admin.query(`CREATE SCHEMA ours; GRANT USAGE, CREATE ON SCHEMA ours TO ${application}, ${stranger}`)
        return { application, stranger, pool: connectAs(application, 'ours'), evil: connectAs(stranger, 'ours') }
      }
      const refusal = async (pool: Pool, options?: Parameters<typeof migrate>[1]) => {
        const error = await caught(migrate(pool, options))
        const { rowCount } = await admin.query(
          `SELECT FROM pg_proc p JOIN pg_roles r ON r.oid = proowner
           WHERE pronamespace = 'ours'::regnamespace AND proname LIKE 'lease\\_%' AND rolname LIKE 'application%'`,
        )
        expect(rowCount, 'functions made all the same').to.equal(0)
        return error
      }
      /** The function as the migration prints it: its name and its parameters. */
      const guardFunction = (): string =>
        /^ *\('(lease_guard_\w+)', '([^']+)'/m.exec(migrationSql())?.slice(1, 3).join('(').concat(')') ?? expect.fail()

      it('a function that a stranger has planted', async () => {
        const { stranger, pool, evil } = await sharedSchema()
        await evil.query(`CREATE FUNCTION ${guardFunction()} RETURNS text LANGUAGE sql AS $$ SELECT '1' $$`)
        const error = await refusal(pool)
        expect(error).to.have.property('code', '42501')
        expect(error.message).to.match(/function ours\.lease_guard_\w+\(.*\) belongs to role "stranger.*drop it/)
        expect(error.message).to.include(stranger)
      })

      it('the same for a superuser, who may do everything', async () => {
        const { evil } = await sharedSchema()
        await evil.query(`CREATE FUNCTION ${guardFunction()} RETURNS text LANGUAGE sql AS $$ SELECT '1' $$`)
        expect(await refusal(connectAs(undefined, 'ours'))).to.have.property('code', '42501')
      })

      for (const planted of enoughOf(['lease', 'lease_floor', 'lease_waiter', 'lease_layout'])) {
        it(`a table ${planted} that a stranger has planted`, async () => {
          const { pool, evil } = await sharedSchema()
          await evil.query(`CREATE TABLE ${planted} (version int); GRANT ALL ON ${planted} TO PUBLIC`)
          const error = await refusal(pool)
          expect(error).to.have.property('code', '42501')
          expect(error.message).to.match(new RegExp(`table ours\\.${planted} belongs to role`))
        })
      }

      it('a view in the place of a table, without reading it', async () => {
        const { pool, evil } = await sharedSchema()
        await admin.query('CREATE TABLE public.seen (who text); GRANT INSERT ON public.seen TO PUBLIC')
        await evil.query(`CREATE FUNCTION spy() RETURNS int LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO public.seen VALUES (current_user); RETURN 2; END $$;
          CREATE VIEW lease_layout AS SELECT spy() AS version; GRANT ALL ON lease_layout TO PUBLIC`)
        expect(await refusal(pool)).to.have.property('code', '42501')
        expect((await admin.query('SELECT FROM public.seen')).rowCount).to.equal(0)
      })

      it('a function of its own with another text', async () => {
        const { pool } = await sharedSchema()
        await pool.query(`CREATE FUNCTION ${guardFunction()} RETURNS text LANGUAGE sql AS $$ SELECT '1' $$`)
        const error = await caught(migrate(pool))
        expect(error).to.have.property('code', '42P17')
        expect(error.message).to.match(/lease_guard_\w+.*is not as this release makes it: drop it/)
      })

      it('a function of its own that somebody has altered', async () => {
        const { pool } = await sharedSchema()
        await migrate(pool)
        for (const [alter, back] of [
          ['IMMUTABLE', 'VOLATILE'],
          ['STRICT', 'CALLED ON NULL INPUT'],
          ['RESET search_path', ''],
        ]) {
          await pool.query(`ALTER FUNCTION ${guardFunction()} ${alter}`)
          expect(await caught(migrate(pool)), alter).to.have.property('code', '42P17')
          if (back !== '') await pool.query(`ALTER FUNCTION ${guardFunction()} ${back}`)
        }
      })

      it('nothing that belongs to a role that the role is a member of, or that is named as owner', async () => {
        const { application, stranger, pool, evil } = await sharedSchema()
        await migrate(evil)
        expect(await caught(migrate(pool))).to.have.property('code', '42501')
        await evil.query(`GRANT ALL ON ALL TABLES IN SCHEMA ours TO ${application}`)
        await migrate(pool, { owner: stranger })
        await grant(substrateOn(pool), claim('l', 'a', 60_000))
        await admin.query(`GRANT ${stranger} TO ${application}`)
        await migrate(pool)
      })
    })

    describe('a role', () => {
      const setUp = async (grants: (role: string) => string) => {
        const [owner, role] = [await newRole('owner'), await newRole('role')]
        await admin.query(`CREATE SCHEMA leases AUTHORIZATION ${owner}`)
        const schema = 'leases'
        await migrate(connectAs(owner), { schema })
        await connectAs(owner).query(`GRANT USAGE ON SCHEMA leases TO ${role}; ${grants(role)}`)
        const pool = connectAs(role)
        const full = substrateOn(connectAs(owner), { schema })
        return { pool, schema, full, substrate: substrateOn(pool, { schema }), owner, role }
      }

      it('that claims needs the rights of the page, and no ownership for migrate, and may do everything else', async () => {
        const { pool, schema, substrate } = await setUp(
          (role) =>
            `GRANT SELECT, INSERT, UPDATE, DELETE ON leases.lease, leases.lease_floor, leases.lease_waiter, leases.lease_counts TO ${role}`,
        )
        await migrate(pool, { schema })
        await useShares(substrate)
        await useAll(substrate, pool, schema)
      })

      it('that may not use the table of counted leases does everything with leases, and learns which right it lacks', async () => {
        const { pool, schema, substrate } = await setUp(
          (role) =>
            `GRANT SELECT, INSERT, UPDATE, DELETE ON leases.lease, leases.lease_floor, leases.lease_waiter TO ${role}`,
        )
        await useAll(substrate, pool, schema)
        const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map() }
        const [verdict] = await substrate.apply([claim('c#a', 'a', 60_000, { share, place: 0 })], newCall())
        expect(verdict?.outcome).to.equal('unknown')
        expect(String(verdict?.cause)).to.match(/lease_counts/)
        // It goes on with the table of those who wait.
        await grant(substrate, claim('l', 'a', 60_000))
        expect((await settle(substrate, claim('l', 'b', 60_000, { place: 0 }))).ticket).to.include({ ahead: 0 })
      })

      it('that may not use the table of those who wait has shares all the same, and tells everyone what it ends', async () => {
        const { schema, owner, substrate } = await setUp(
          (role) =>
            `GRANT SELECT, INSERT, UPDATE, DELETE ON leases.lease, leases.lease_floor, leases.lease_counts TO ${role}`,
        )
        const share = { weight: 1, capacity: 1, passing: 0, lapsed: new Map() }
        const listening = substrateOn(connectAs(owner), { schema, listen: undefined })
        const call = newCall({ client: 'of-the-owner' })
        const heard: LeaseChange[] = []
        listening.watch?.((change) => void heard.push(change), call.client)
        try {
          await eventually(() => heard.length > 0)
          const { fencingToken } = await grant(substrate, claim('c#a', 'a', 60_000, { share }))
          expect(await settle(substrate, claim('c#b', 'b', 60_000, { share, place: 0 }))).to.not.have.property('ticket')
          const [waiting] = await listening.apply([claim('c#w', 'w', 60_000, { share, place: 0 })], call)
          expect(waiting?.ticket).to.include({ ahead: 0 })
          await settle(substrate, release('c#a', 'a', { fencingToken }))
          await eventually(() => heard.some((change) => change.kind === 'vacated' && change.lease === 'c#a'))
        } finally {
          await listening.close()
        }
        await useShares(substrate)
      })

      it('that only guards needs UPDATE on one column that does not matter, and can change no term', async () => {
        const { pool, schema, full, substrate } = await setUp(
          (role) => `GRANT SELECT, UPDATE (valued) ON leases.lease TO ${role}`,
        )
        await migrate(pool, { schema })
        const { fencingToken } = await grant(full, claim('l', 'a', 60_000))
        await substrate.time(newCall())
        const transaction = await pool.connect()
        try {
          await transaction.query('BEGIN')
          await substrate.trapdoor('l', 'a', fencingToken)(transaction)
          await admin.query('UPDATE leases.lease SET expiry = clock_timestamp()')
          expect((await full.apply([claim('l', 'b', 60_000)], newCall()))[0]?.outcome).to.equal('contended')
          await transaction.query('COMMIT')
        } finally {
          transaction.release()
        }
        expect(await settle(full, claim('l', 'b', 60_000))).to.include({ outcome: 'granted' })
        const before = await admin.query('SELECT * FROM leases.lease')
        for (const op of [
          claim('l', 'c', 60_000),
          claim('new', 'c', 60_000),
          extend('l', 'b', 90_000, { fencingToken: BigInt(before.rows[0].token) }),
          release('l', 'b', { fencingToken: BigInt(before.rows[0].token) }),
          pin('l', 'e', 'g'),
        ]) {
          const [verdict] = await substrate.apply([op], newCall())
          expect(verdict?.outcome, op.kind).to.be.oneOf(['unknown', 'refused'])
        }
        for (const column of ['holder', 'token', 'expiry', 'pins', 'nonce', 'ns', 'name']) {
          const error = await caught(pool.query(`UPDATE leases.lease SET ${column} = ${column}`))
          expect(error, column).to.have.property('code', '42501')
        }
        expect(await caught(pool.query('DELETE FROM leases.lease'))).to.have.property('code', '42501')
        expect((await admin.query('SELECT * FROM leases.lease')).rows).to.deep.equal(before.rows)
      })

      it('that only reads needs SELECT, and its guard says which right it lacks', async () => {
        const { pool, full, substrate } = await setUp((role) => `GRANT SELECT ON leases.lease TO ${role}`)
        const { fencingToken } = await grant(full, claim('l', 'a', 60_000))
        expect((await substrate.read(undefined, newCall())).get('l')).to.include({ holder: 'a', fencingToken })
        expect((await substrate.pinned(newCall())).size).to.equal(0)
        const guard = new SqlGuard()
        await substrate.trapdoor('l', 'a', fencingToken)(guard)
        const error = await caught(pool.query(`SELECT ${guard.text} AS held`, guard.values))
        expect(error).to.have.property('code', '42501')
      })

      it('that may not use the table of those who wait claims, renews and releases, and tells everyone what it vacates', async () => {
        const { pool, schema, owner, substrate } = await setUp(
          (role) => `GRANT SELECT, INSERT, UPDATE, DELETE ON leases.lease, leases.lease_floor TO ${role}`,
        )
        await useAll(substrate, pool, schema)
        const warningsOf = async (one: PostgresSubstrate): Promise<string[]> =>
          (await one.inspect(newCall())).map(({ warning }) => warning)
        expect(await warningsOf(substrate)).to.include('waiter-table-denied')
        const listening = substrateOn(connectAs(owner), { schema, listen: undefined })
        expect(await warningsOf(listening)).to.not.include('waiter-table-denied')
        const call = newCall({ client: 'of-the-owner' })
        const heard: LeaseChange[] = []
        listening.watch?.((change) => void heard.push(change), call.client)
        try {
          await eventually(() => heard.length > 0)
          const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
          const [waiting] = await listening.apply([claim('l', 'b', 60_000, { place: 0 })], call)
          expect(waiting?.ticket).to.include({ ahead: 0 })
          const own = await settle(substrate, claim('l', 'c', 60_000, { place: 0 }))
          expect(own).to.include({ outcome: 'refused' })
          expect(own).to.not.have.property('ticket')
          expect((await substrate.read(['l'], newCall(), ['l'])).get('l')).to.include({ holder: 'a' })
          expect(await settle(substrate, release('l', 'a', { fencingToken }))).to.include({ outcome: 'granted' })
          const isWord = (change: LeaseChange): boolean => change.kind === 'vacated' && change.lease === 'l'
          await eventually(() => heard.some(isWord))
        } finally {
          await listening.close()
        }
      })

      for (const [which, policy] of [
        ['no policy', ''],
        ['a policy', 'CREATE POLICY p ON leases.lease USING (holder IS NULL) WITH CHECK (true)'],
      ] as const) {
        it(`from which row level security may hide leases, by ${which}, fails with that reason, and never says that a lease is not held`, async () => {
          const { pool, full, substrate } = await setUp(
            (role) =>
              `GRANT SELECT, INSERT, UPDATE, DELETE ON leases.lease, leases.lease_floor, leases.lease_waiter TO ${role};
               ALTER TABLE leases.lease ENABLE ROW LEVEL SECURITY; ${policy}`,
          )
          const { fencingToken } = await grant(full, claim('l', 'a', 60_000)) // the owner sees all
          const guard = new SqlGuard()
          await substrate.trapdoor('l', 'a', fencingToken)(guard)
          const connection = await pool.connect()
          await connection.query('BEGIN')
          for (const refused of [
            () => pool.query(`SELECT ${guard.text} AS held`, guard.values),
            () => substrate.trapdoor('l', 'a', fencingToken)(connection),
          ]) {
            expect(await caught(refused())).to.have.property('code', '42501')
          }
          await connection.query('ROLLBACK')
          connection.release()
          for (const leases of [['l'], undefined]) {
            expect((await caught(substrate.read(leases, newCall()))).message).to.match(
              /row level security may hide leases/,
            )
          }
          const [verdict] = await substrate.apply([claim('l', 'b', 60_000)], newCall())
          expect(verdict?.outcome).to.equal('unknown')
          expect(String(verdict?.cause)).to.match(/row level security may hide leases/)
          await admin.query('ALTER TABLE leases.lease_layout ENABLE ROW LEVEL SECURITY')
          expect((await caught(substrate.time(newCall()))).message).to.match(/row level security may hide leases/)
        })
      }

      it('that may not notify releases all the same', async () => {
        const { pool, substrate } = await setUp(
          (role) =>
            `GRANT SELECT, INSERT, UPDATE, DELETE ON leases.lease, leases.lease_floor, leases.lease_waiter TO ${role}`,
        )
        await admin.query('REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC')
        expect(await caught(pool.query(`SELECT pg_notify('any', '')`))).to.have.property('code', '42501')
        expect((await substrate.inspect(newCall())).map(({ warning }) => warning)).to.include('notify-denied')
        await substrate.read(['l'], newCall(), ['l'])
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000, { announce: true }))
        expect(await settle(substrate, release('l', 'a', { fencingToken }))).to.include({ outcome: 'granted' })
        expect(await readOne(substrate, 'l')).to.equal(undefined)
      })
    })
  })
}
