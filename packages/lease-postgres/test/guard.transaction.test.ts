import { expect } from 'chai'
import { ErrNotHeld, ErrTrapdoor, Manager, type Info } from 'lease-core'
import { CLIENT_LENGTH, type Call, type Holding } from 'lease-core/adapter'
import { whileLive } from 'lease-core/testing'
import { enoughOf, postgresTargets, until } from 'lease-servers'
import { postgresClient, type PostgresSubstrate, type PostgresTransaction } from 'lease-postgres'
import type { PoolClient } from 'pg'
import { claim, expire, extend, grant, newCall, pin, settle, unique, unpin } from 'lease-scenes'
import { openSetting, releaseHeld, type Setting } from './setting.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`a connection as trapdoor key, on ${target.name}`, () => {
    let setting: Setting
    let substrate: PostgresSubstrate
    let name: string
    let client: PoolClient
    before(async () => {
      setting = await openSetting(target)
      substrate = setting.substrate()
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(async () => {
      name = unique('lease')
      client = await setting.pool.connect()
    })
    afterEach(async () => {
      await client.query('ROLLBACK')
      client.release()
    })

    const guard = (holder: string, { fencingToken }: Holding, key: unknown): Promise<void> =>
      substrate.trapdoor(name, holder, fencingToken)(key)
    /**
     * A transaction begun by these statements was guarded in time, and the lease has lapsed since. Nobody has written to its
     * row: that would make another row of the one that the guard has locked.
     */
    const guardedAndLapsed = async (...statements: readonly string[]): Promise<Holding> => {
      const held = await whileLive(50, async (durationMs) => {
        name = unique('lease')
        const held = await grant(substrate, claim(name, 'a', durationMs))
        for (const statement of ['ROLLBACK', ...statements]) await client.query(statement)
        await guard('a', held, client)
        return held
      })
      await setting.lapsed(name)
      return held
    }
    const outcomeOf = async (op: Parameters<PostgresSubstrate['apply']>[0][number]): Promise<string | undefined> =>
      (await substrate.apply([op], newCall()))[0]?.outcome

    it('passes the holder inside a transaction', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await client.query('BEGIN')
      await guard('a', held, client)
      await client.query('COMMIT')
    })

    it('refuses a term that is gone: released, lapsed, another holder, another token, unheard of', async () => {
      const gone: [string, Holding][] = []
      const first = await grant(substrate, claim(name, 'a', 60_000))
      gone.push(['b', first], ['a', { ...first, fencingToken: first.fencingToken + 1n }])
      await client.query('BEGIN')
      for (const [holder, holding] of gone)
        expect(await caught(guard(holder, holding, client))).to.be.instanceOf(ErrNotHeld)
      await releaseHeld(substrate, name)
      expect(await caught(guard('a', first, client))).to.be.instanceOf(ErrNotHeld)
      const second = await grant(substrate, claim(name, 'a', 1))
      await setting.lapsed(name)
      const refusal = await caught(guard('a', second, client))
      expect(refusal).to.be.instanceOf(ErrNotHeld)
      expect(refusal).to.include({ lease: name, holder: 'a' })
      name = unique('lease')
      expect(await caught(guard('a', first, client))).to.be.instanceOf(ErrNotHeld)
    })

    it('passes the holder of a pinned lease past its expiry', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await settle(substrate, pin(name, 'e', 'g'))
      await setting.lapse(name)
      await client.query('BEGIN')
      await guard('a', held, client)
    })

    it('does not understand a connection outside of a transaction, nor a pool, whether the driver tells or not', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      const silent: PostgresTransaction = { query: (text, values) => client.query(text, values) }
      const unsure: PostgresTransaction = { ...silent, getTransactionStatus: () => null }
      for (const key of [client, setting.pool, silent, unsure]) {
        expect(await caught(guard('a', held, key))).to.be.instanceOf(ErrTrapdoor)
      }
      await client.query('BEGIN')
      await guard('a', held, silent)
      await guard('a', held, unsure)
    })

    it('does not understand anything else, and undefined is no key', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      for (const key of [null, 0, '', 'key', true, {}, [], () => client, { query: 1 }, { query: async () => 5 }]) {
        expect(await caught(guard('a', held, key))).to.be.instanceOf(ErrTrapdoor)
      }
      await guard('b', held, undefined)
    })

    it('hands what the driver throws to the caller as it is', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await client.query('BEGIN READ ONLY')
      expect(await caught(guard('a', held, client))).to.have.property('code', '25006')
      expect(await caught(guard('a', held, client))).to.have.property('code', '25P02')
    })

    it('lets a renewal pass at once', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await client.query('BEGIN')
      await guard('a', held, client)
      expect(
        (await grant(substrate, extend(name, 'a', 600_000, { fencingToken: held.fencingToken }))).remainingMs,
      ).to.be.greaterThan(60_000)
      await client.query('COMMIT')
    })

    it('held past the expiry keeps takeover and expiry away without making them wait, until the COMMIT', async () => {
      await guardedAndLapsed('BEGIN')
      // Whichever waited for the guard would wait forever: the COMMIT is sent after their answers.
      expect(await outcomeOf(claim(name, 'b', 1_000))).to.equal('contended')
      expect(await outcomeOf(expire(name))).to.equal('contended')
      await client.query('COMMIT')
      expect(await grant(substrate, claim(name, 'b', 1_000))).to.include({ holder: 'b' })
    })

    it('held past the expiry keeps those who wait away as well, whatever their place in the queue, until the COMMIT', async () => {
      await guardedAndLapsed('BEGIN')
      expect(await outcomeOf(claim(name, 'b', 1_000, { place: 0 }))).to.equal('contended')
      expect(await outcomeOf(claim(name, 'b', 1_000, { place: 7 }))).to.equal('contended')
      await client.query('COMMIT')
      expect(await grant(substrate, claim(name, 'b', 1_000, { place: 7 }))).to.include({ holder: 'b' })
    })

    it('keeps those who wait away also after the holder released the lease', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await client.query('BEGIN')
      await guard('a', held, client)
      const waiters: { readonly call: Call; readonly holder: string; readonly place: number }[] = []
      for (const holder of ['b', 'c']) {
        const call = newCall({ client: holder.repeat(CLIENT_LENGTH) })
        const [verdict] = await substrate.apply([claim(name, holder, 1_000, { place: 0 })], call)
        waiters.push({ call, holder, place: verdict?.ticket?.place ?? expect.fail('no ticket') })
      }
      await releaseHeld(substrate, name)
      const outcomes = async (): Promise<unknown[]> => {
        const all: unknown[] = []
        for (const { call, holder, place } of waiters) {
          const [verdict] = await substrate.apply([claim(name, holder, 60_000, { place })], call)
          all.push(verdict?.outcome)
        }
        return all
      }
      expect(await outcomes()).to.deep.equal(['contended', 'contended'])
      await client.query('COMMIT')
      expect(await outcomes()).to.deep.equal(['granted', 'refused'])
    })

    it('keeps a takeover away also after the holder released the lease', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await client.query('BEGIN')
      await guard('a', held, client)
      await releaseHeld(substrate, name)
      expect(await outcomeOf(claim(name, 'b', 1_000))).to.equal('contended')
      await client.query('COMMIT')
      expect(await outcomeOf(claim(name, 'b', 1_000))).to.equal('granted')
    })

    it('keeps a takeover away also when the guarded version of the row was renewed meanwhile', async () => {
      const held = await grant(substrate, claim(name, 'a', 60_000))
      await client.query('BEGIN')
      await guard('a', held, client)
      await grant(substrate, extend(name, 'a', 90_000, { fencingToken: held.fencingToken }))
      await releaseHeld(substrate, name)
      expect(await outcomeOf(claim(name, 'b', 1_000))).to.equal('contended')
    })

    const shapes: Readonly<Record<string, (rows: readonly Record<string, unknown>[]) => readonly unknown[]>> = {
      arrays: (rows) => rows.map((row) => Object.values(row)),
      'columns in upper case': (rows) =>
        rows.map((row) =>
          Object.fromEntries(Object.entries(row).map(([column, value]) => [column.toUpperCase(), value])),
        ),
      'no rows': () => [],
      null: () => [null],
      'values parsed as JSON': (rows) => rows.map(({ answer }) => ({ answer: JSON.parse(String(answer)) as unknown })),
    }

    for (const [shape, reshape] of Object.entries(shapes)) {
      for (const isKnown of [true, false]) {
        it(`that answers with ${shape} is refused for its shape, and not as a lease that is not held${isKnown ? '' : ', by a token of another process'}`, async () => {
          const namespace = unique('ns')
          const [one, other] = [0, 1].map(
            () => new Manager({ client: postgresClient({ pool: setting.pool, namespace, listen: false }) }),
          )
          const token = await one?.claim(name, 'a', 60_000)
          const key: PostgresTransaction = {
            query: async (text, values) => ({ rows: reshape((await client.query(text, values)).rows) as never }),
          }
          await client.query('BEGIN')
          const refusal: unknown = await caught(
            (isKnown ? token : other?.token(name, 'a'))?.check(key) ?? Promise.resolve(),
          )
          expect(refusal).to.be.instanceOf(ErrTrapdoor)
          expect((refusal as Error).message)
            .to.match(/await token.check\(/)
            .and.not.match(/standby/)
          await Promise.all([one?.stop(), other?.stop()])
        })
      }
    }

    it('whose driver changes the texts of the server is refused for its shape, by a token of a lease that is not held', async () => {
      const manager = new Manager({
        client: postgresClient({ pool: setting.pool, namespace: unique('ns'), listen: false }),
      })
      const key: PostgresTransaction = {
        query: async (text, values) => {
          const { rows } = await client.query<{ answer: string | null }>(text, values)
          return { rows: rows.map(({ answer }) => ({ answer: answer && `text: ${answer}` })) as never }
        },
      }
      await client.query('BEGIN')
      const refusal: unknown = await caught(manager.token(name, 'a').check(key))
      expect(refusal).to.be.instanceOf(ErrTrapdoor)
      expect((refusal as Error).message).to.match(/await token.check\(/)
      await manager.stop()
    })

    it('is dropped by ROLLBACK TO SAVEPOINT', async () => {
      const held = await guardedAndLapsed('BEGIN', 'SAVEPOINT s')
      expect(await outcomeOf(claim(name, 'b', 1_000))).to.equal('contended')
      await client.query('ROLLBACK TO SAVEPOINT s')
      expect(await outcomeOf(claim(name, 'b', 1_000))).to.equal('granted')
      expect(await caught(guard('a', held, client))).to.be.instanceOf(ErrNotHeld)
    })

    // A guard whose snapshot is older than the takeover. KEY SHARE passes a plain UPDATE: only because the takeover took
    // FOR UPDATE first does the guard see that the row it finds is no longer the one.
    for (const renewed of [false, true]) {
      it(`with a snapshot older than the takeover says no in READ COMMITTED${renewed ? ', over a renewal too' : ''}`, async () => {
        const held = await grant(substrate, claim(name, 'a', 60_000))
        // Past its expiry for us, but not in the guard's eyes: the row it finds says pinned.
        await settle(substrate, pin(name, 'e', 'g'))
        await setting.lapse(name)
        // The statement inside of the guard takes its snapshot, then waits for the gate, then looks at the row.
        const { rows } = await client.query<{ prosrc: string }>(
          `SELECT prosrc FROM pg_proc WHERE proname LIKE 'lease\\_guard\\_%'`,
        )
        const wait = 'FROM (SELECT pg_advisory_xact_lock(1)) gate, "public"."lease" l WHERE gate IS NOT NULL AND'
        const body = rows[0]?.prosrc.replace(/FROM "public"."lease" l\s+WHERE/, wait) ?? ''
        expect(body).to.include(wait)
        await client.query(`CREATE OR REPLACE FUNCTION parked(text, text, text, bigint) RETURNS text
          LANGUAGE plpgsql AS $parked$${body}$parked$`)
        const parked: PostgresTransaction = {
          query: async (text, values) => client.query(text.replace(/lease_guard_\w+/, 'parked'), values),
          getTransactionStatus: () => 'T',
        }
        const gate = await setting.pool.connect()
        try {
          await gate.query('BEGIN')
          await gate.query('SELECT pg_advisory_xact_lock(1)')
          await client.query('BEGIN')
          const pending = caught(guard('a', held, parked))
          await setting.waitedFor(gate)
          if (renewed) {
            await grant(substrate, extend(name, 'a', 1, { fencingToken: held.fencingToken }))
            await setting.lapsed(name)
          }
          await settle(substrate, unpin(name, 'e', 'g'))
          expect(await grant(substrate, claim(name, 'b', 60_000))).to.include({ holder: 'b' })
          await gate.query('COMMIT')
          expect(await pending).to.be.instanceOf(ErrNotHeld)
        } finally {
          gate.release(true)
        }
      })

      it(`with a snapshot older than the takeover fails in REPEATABLE READ${renewed ? ', over a renewal too' : ''}`, async () => {
        const held = await grant(substrate, claim(name, 'a', 60_000))
        await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
        await client.query('SELECT 1 FROM lease LIMIT 1') // the snapshot
        if (renewed) await grant(substrate, extend(name, 'a', 90_000, { fencingToken: held.fencingToken }))
        await releaseHeld(substrate, name)
        await grant(substrate, claim(name, 'b', 60_000))
        expect(await caught(guard('a', held, client))).to.have.property('code', '40001')
      })
    }

    for (const isolation of ['REPEATABLE READ', 'SERIALIZABLE']) {
      const beginWithSnapshot = async (): Promise<void> => {
        await client.query(`BEGIN ISOLATION LEVEL ${isolation}`)
        await client.query('SELECT 1 FROM lease LIMIT 1')
      }

      it(`with a snapshot in ${isolation} that is older than a renewal, and past the expiry that it shows, fails`, async () => {
        const held = await whileLive(100, async (durationMs) => {
          name = unique('lease')
          const held = await grant(substrate, claim(name, 'a', durationMs))
          await client.query('ROLLBACK')
          await beginWithSnapshot()
          await grant(substrate, extend(name, 'a', 60_000, { fencingToken: held.fencingToken }))
          return held
        })
        await until('the expiry in the snapshot has passed', async () => {
          const { rows } = await client.query('SELECT expiry < clock_timestamp() AS past FROM lease WHERE name = $1', [
            name,
          ])
          return rows[0].past === true
        })
        expect(await caught(guard('a', held, client))).to.have.property('code', '40001')
        await client.query('ROLLBACK')
        await client.query(`BEGIN ISOLATION LEVEL ${isolation}`)
        expect(await caught(guard('a', held, client))).to.equal(undefined)
      })

      it(`with a snapshot in ${isolation} that is older than the term fails, be it the first or a later one`, async () => {
        for (const isFirst of [true, false]) {
          const lease = isFirst ? name : `${name}-again`
          if (!isFirst) {
            await grant(substrate, claim(lease, 'a', 60_000))
            await releaseHeld(substrate, lease)
          }
          await beginWithSnapshot()
          const held = await grant(substrate, claim(lease, 'a', 60_000))
          const trapdoor = substrate.trapdoor(lease, 'a', held.fencingToken)
          expect(await caught(trapdoor(client))).to.have.property('code', '40001')
          await client.query('ROLLBACK')
        }
      })

      it(`with a snapshot in ${isolation} that does not show the lease says no of a term that began more than a minute before`, async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', 60_000))
        await beginWithSnapshot()
        const collected = substrate.trapdoor(`${name}-collected`, 'a', fencingToken - 61_000_000n)
        expect(await caught(collected(client))).to.be.instanceOf(ErrNotHeld)
      })

      it(`with a snapshot in ${isolation} that shows the term to be over says no: released, lapsed, or another's since`, async () => {
        const ends: Record<string, (lease: string) => Promise<unknown>> = {
          released: (lease) => releaseHeld(substrate, lease),
          lapsed: (lease) => setting.lapse(lease),
          taken: async (lease) => {
            await releaseHeld(substrate, lease)
            await grant(substrate, claim(lease, 'b', 60_000))
          },
        }
        for (const [how, end] of Object.entries(ends)) {
          const lease = `${name}-${how}`
          const held = await grant(substrate, claim(lease, 'a', 60_000))
          await end(lease)
          await beginWithSnapshot()
          const trapdoor = substrate.trapdoor(lease, 'a', held.fencingToken)
          expect(await caught(trapdoor(client)), how).to.be.instanceOf(ErrNotHeld)
          await client.query('ROLLBACK')
        }
      })
    }
  })
}

for (const target of postgresTargets()) {
  describe(`a check with a connection as key, of a lease that this process was not granted, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    before(async () => {
      setting = await openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => (namespace = unique('ns')))

    /** With a pool of so many connections. The work has one of them. */
    const withConnection = async (
      max: number,
      work: (connection: PoolClient, check: (key?: unknown) => Promise<Info>) => Promise<void>,
    ): Promise<void> => {
      const pool = setting.newPool({ max })
      const client = postgresClient({ pool, namespace, listen: false })
      const connection = await pool.connect()
      try {
        await work(connection, (key) => new Manager({ client }).token('l', 'a').check(key))
      } finally {
        connection.release(true)
        await client.close()
      }
    }
    const held = (): Promise<Holding> => grant(setting.substrate({ namespace, listen: false }), claim('l', 'a', 60_000))

    it('needs no second one', async () => {
      await withConnection(1, async (connection, check) => {
        await connection.query('BEGIN')
        expect(await caught(check(connection))).to.be.instanceOf(ErrNotHeld)
        const { fencingToken } = await held()
        expect(await check(connection)).to.include({ holder: 'a', fencingToken })
        await connection.query('COMMIT')
        expect(await caught(check(connection)), 'outside of a transaction').to.be.instanceOf(ErrTrapdoor)
      })
    })

    it('hands what the driver throws to the caller as it is', async () => {
      await held()
      await withConnection(1, async (connection, check) => {
        await connection.query('BEGIN')
        await connection.query('SELECT 1/0').catch(() => {})
        expect(await caught(check(connection))).to.have.property('code', '25P02')
      })
    })

    it('reads over another one where the snapshot may be too old to say no', async () => {
      await withConnection(2, async (connection, check) => {
        await connection.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
        await connection.query('SELECT 1 FROM lease LIMIT 1')
        expect(await caught(check(connection)), 'nobody has it').to.be.instanceOf(ErrNotHeld)
        await held()
        expect(await caught(check(connection)), 'claimed since').to.have.property('code', '40001')
      })
    })
  })
}

async function caught(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  )
}
