/** postgres.js in the place of `pg`: what a client asks of it, and what of it must not reach an answer. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrNotHeld, ErrNotValid, ErrTrapdoor, Manager } from 'lease-core'
import { enoughOf, isMatrix, postgresTargets, startProxy, until } from 'lease-servers'
import {
  collect,
  migrate,
  postgresClient,
  PostgresSubstrate,
  SqlGuard,
  type OpenPostgresJs,
  type PostgresOptions,
} from 'lease-postgres'
import { caught, claim, grant, newCall, noneUnheard, readOne, sleep, unique } from 'lease-scenes'
import postgres from 'postgres'
import { PostgresJsListener, PostgresJsPool } from '#src/postgres-js.ts'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

const LASTING_MS = 60_000

type Options = NonNullable<Parameters<typeof postgres>[1]>

for (const target of enoughOf(postgresTargets())) {
  describe(`postgres.js, on ${target.name}`, () => {
    let setting: Setting
    before(async () => {
      setting = await openSetting(target)
      await setting.pool.query('CREATE TABLE written (text text)')
    })
    after(() => setting[Symbol.asyncDispose]())

    const opening =
      (options: Options = {}, url: string = setting.directUrl): OpenPostgresJs =>
      () =>
        postgres(url, { max: 1, onnotice: () => {}, ...options } as Options)

    /** The same `pool` twice, as two processes have it. */
    const doAll = async (pool: OpenPostgresJs): Promise<void> => {
      const sql = postgres(setting.directUrl, { max: 2 })
      const namespace = unique('ns')
      const clients = [0, 1].map(() => postgresClient({ pool, namespace }))
      const [one, two] = clients.map((client) => new Manager({ client })) as [Manager, Manager]
      try {
        expect(await migrate(pool)).to.deep.equal({ outdated: [] })
        const value = String.raw`{"quotes": "'\"", "back": "\\", "ü": "🐘"} {NULL,1}`
        const token = await one.claim('l', 'one', LASTING_MS, { value })
        expect(await caught(two.claim('l', 'two', LASTING_MS))).to.be.instanceOf(ErrClaimDenied)
        await one.claim('l', 'one', 2 * LASTING_MS)
        expect((await two.leases()).get('l')).to.include({ holder: 'one', value })
        await one.pin('l', 'operator')
        expect([...(await two.pinned()).keys()]).to.deep.equal(['l'])
        await one.unpin('l', 'operator')
        await sql.begin(async (tx) => {
          await token.check(tx)
          const guard = new SqlGuard()
          await token.check(guard)
          const { count } = await tx`INSERT INTO written SELECT ${namespace} WHERE ${guard.with(tx)}`
          guard.assertHeld(count)
        })
        expect(await caught(token.check(sql))).to.be.instanceOf(ErrTrapdoor)
        const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
        await until('it waits', async () => (await one.waiting('l')) === 1)
        await one.release('l', 'one')
        const hold = await waiting // by a hint, for the lease lasts longer than this test may
        expect(await caught(sql.begin((tx) => token.check(tx)))).to.be.instanceOf(ErrNotHeld)
        await hold.release()
        const held = await one.holdAny(['m', 'n'], 'one', { duration: LASTING_MS })
        expect(held.lease).to.equal('m')
        await held.release()
        let collected = 0
        await until('both are old and collected', async () => {
          await setting.age('l', 'm') // a last message of a client may still write
          collected += await collect(pool, { namespace, retention: { minutes: 1 } })
          return collected === 2
        })
        expect(await sql`SELECT text FROM written WHERE text = ${namespace}`).to.have.length(1)
      } finally {
        await Promise.all([one.stop(), two.stop()])
        await Promise.all(clients.map((client) => client.close()))
        await sql.end()
      }
    }

    it('does all that a client asks of it', () => doAll(opening()))

    it('does it all the same where the caller has serializers and parsers', async () => {
      const odd = {
        serialize: () => 'not what was given',
        parse: () => 'not what was answered',
      }
      // text, bigint, integer, float8, boolean, json, jsonb, timestamptz, and arrays of text and bigint
      const types = Object.fromEntries(
        [25, 20, 23, 701, 16, 114, 3802, 1184, 1009, 1016].map((oid) => [`t${oid}`, { to: oid, from: [oid], ...odd }]),
      )
      await doAll(opening({ types, prepare: false, fetch_types: false } as Options))
    })

    it('leaves no connection behind when the client is closed', async () => {
      const application = unique('closed')
      const client = postgresClient({
        pool: opening({ connection: { application_name: application } }),
        namespace: 'n',
      })
      const manager = new Manager({ client })
      const lease = unique('l')
      await manager.claim(lease, 'one', LASTING_MS)
      const abort = new AbortController()
      const waiting = caught(
        manager.hold(lease, 'two', { duration: LASTING_MS, wait: true, signal: abort.signal }), // listens
      )
      await until('it waits', async () => (await manager.waiting(lease)) === 1)
      abort.abort()
      await waiting
      await manager.stop()
      await client.close()
      await until('its backends have ended', async () => {
        const { rowCount } = await setting.pool.query('SELECT FROM pg_stat_activity WHERE application_name = $1', [
          application,
        ])
        return rowCount === 0
      })
    })

    it('counts no answer that came in a transaction that somebody else had begun', async () => {
      const shared = postgres(setting.directUrl, { max: 1 })
      await shared.unsafe('BEGIN')
      let made = 0
      const pool: OpenPostgresJs = () => (made++ === 0 ? shared : opening()())
      const substrate = new PostgresSubstrate({ pool, namespace: unique('ns'), listen: false })
      await grant(substrate, claim('l', 'one', LASTING_MS))
      await shared.end({ timeout: 0 })
      expect(made).to.equal(2)
      expect(await readOne(substrate, 'l')).to.include({ holder: 'one' })
      await substrate.close()
    })

    it('gives a connection up that has fallen silent, and goes on with another', async () => {
      await using proxy = await startProxy(setting.directUrl)
      let made = 0
      const open = opening({}, proxy.url(setting.directUrl))
      const pool: OpenPostgresJs = () => {
        made++
        return open()
      }
      const substrate = new PostgresSubstrate({ pool, namespace: unique('ns'), listen: false })
      await grant(substrate, claim('warm', 'one', LASTING_MS))
      proxy.silence()
      const giveUp = new AbortController()
      const before = proxy.counters.bytesSwallowed
      const pending = substrate.apply([claim('lost', 'one', LASTING_MS)], newCall({ signal: giveUp.signal }))
      await until('the statement is on its way', () => proxy.counters.bytesSwallowed > before)
      giveUp.abort(Object.assign(new Error('no answer'), { code: 'CLOSED' }))
      expect((await pending)[0]?.outcome).to.equal('unknown')
      await grant(substrate, claim('next', 'one', LASTING_MS))
      expect(made).to.equal(2)
      await substrate.close()
    })

    it('cancels a statement that is given up while it waits for a lock', async () => {
      const application = unique('cancelled')
      const pool = opening({ connection: { application_name: application } })
      const client = postgresClient({ pool, namespace: unique('ns'), listen: false, requestTimeout: 300 })
      await client.refresh()
      const locker = await setting.pool.connect()
      try {
        await locker.query('BEGIN; LOCK TABLE lease IN ACCESS EXCLUSIVE MODE')
        await caught(client.refresh(['l']))
        await until('its backend has ended', async () => {
          const { rowCount } = await setting.pool.query(
            `SELECT FROM pg_stat_activity WHERE application_name = $1 AND state = 'active'`,
            [application],
          )
          return rowCount === 0
        })
      } finally {
        await locker.query('ROLLBACK')
        locker.release()
      }
      await client.close()
    })

    it('hears of changes again after the connection that listens was lost', async () => {
      await using proxy = await startProxy(setting.directUrl)
      const namespace = unique('ns')
      const listen = opening({}, proxy.url(setting.directUrl))
      const clients = [0, 1].map(() => postgresClient({ pool: opening(), listen, namespace }))
      const [one, two] = clients.map((client) => new Manager({ client })) as [Manager, Manager]
      await one.claim('l', 'one', LASTING_MS)
      const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
      await until('it waits', async () => (await one.waiting('l')) === 1)
      proxy.cut()
      const { connections } = proxy.counters
      await until('it listens again', () => proxy.counters.connections > connections)
      await one.release('l', 'one')
      await (await waiting).release()
      await Promise.all([one.stop(), two.stop()])
      await Promise.all(clients.map((client) => client.close()))
    })

    it('runs nothing outside of a transaction that was begun, when the connection was lost in it', async () => {
      let hasClosed = false
      const pool = new PostgresJsPool(opening({ onclose: () => void (hasClosed = true) }))
      const client = await pool.connect()
      await client.query('BEGIN')
      expect(client.getTransactionStatus?.()).to.equal('T')
      const { rows } = await client.query('SELECT pg_backend_pid() AS pid')
      await setting.pool.query('SELECT pg_terminate_backend($1)', [rows[0].pid])
      await until('the connection is closed', () => hasClosed) // so that postgres.js would make another
      const text = unique('outside')
      const failure = await caught(client.query('INSERT INTO written VALUES ($1)', [text]))
      expect(failure).to.be.instanceOf(Error)
      client.release()
      expect((await setting.pool.query('SELECT FROM written WHERE text = $1', [text])).rowCount).to.equal(0)
      const next = await pool.connect()
      expect((await next.query('SELECT $1::int4 + 1 AS sum', [41])).rows).to.deep.equal([{ sum: '42' }])
      next.release()
      await pool.end()
    })

    it('does not lend a connection again by which something failed', async () => {
      const pool = new PostgresJsPool(opening())
      const client = await pool.connect()
      expect(await caught(client.query('SELECT pg_terminate_backend(pg_backend_pid())'))).to.be.instanceOf(Error)
      expect(client.getTransactionStatus?.()).to.equal(null)
      client.release()
      expect(pool.idleCount).to.equal(0)
      await pool.end()
    })

    it('ends a connection that is given back inside of a transaction', async () => {
      const pool = new PostgresJsPool(opening())
      const client = await pool.connect()
      const { rows } = await client.query('SELECT pg_backend_pid() AS pid')
      await client.query('BEGIN')
      client.release()
      expect(pool.idleCount).to.equal(0)
      await until('its backend has ended', async () => {
        const { rowCount } = await setting.pool.query('SELECT FROM pg_stat_activity WHERE pid = $1', [rows[0].pid])
        return rowCount === 0
      })
      await pool.end()
    })

    it('lends ten connections at once, and what is given back to the one that waits', async () => {
      const pool = new PostgresJsPool(opening())
      const lent = await Promise.all(Array.from({ length: pool.options.max }, () => pool.connect()))
      const waiting = pool.connect()
      lent[0]?.release()
      expect(await waiting).to.equal(lent[0])
      const refused = caught(pool.connect())
      await pool.end()
      expect((await refused).message).to.equal('this client is closed')
      for (const client of lent) client.release()
      expect(pool.idleCount).to.equal(0)
    })

    for (const isListening of [true, false]) {
      it(`a connection that listens to ${isListening ? 'something' : 'nothing yet'} ends when it was lost`, async () => {
        await using proxy = await startProxy(setting.directUrl)
        const listener = PostgresJsListener.by(opening({}, proxy.url(setting.directUrl)), 'listen')
        let isOver = false
        listener.on('end', () => (isOver = true))
        await listener.connect()
        if (isListening) await listener.listen(unique('channel'))
        proxy.cut()
        await until('its end', async () => {
          if (!isListening) await listener.query().catch(() => {}) // only a sign of life shows that it is another one
          return isOver
        })
        await listener.end()
      })
    }

    it('rejects nothing unheard when it is closed at any moment while it connects', async () => {
      const step = isMatrix() ? 1 : 5
      let isAnswered = false
      for (let afterMs = 0; !isAnswered; afterMs += step * (1 + Math.floor(afterMs / 20))) {
        const pool = new PostgresJsPool(opening())
        const listener = PostgresJsListener.by(opening(), 'listen')
        const client = await pool.connect()
        const asked = Promise.allSettled([client.query('SELECT 1'), listener.connect()])
        await sleep(afterMs)
        client.release(true)
        await Promise.all([pool.end(), listener.end()])
        isAnswered = (await asked).every(({ status }) => status === 'fulfilled')
      }
    })

    it('keeps the SQLSTATE of an error, and the connection', async () => {
      const pool = new PostgresJsPool(opening())
      const client = await pool.connect()
      expect(await caught(client.query('SELECT 1 / $1::int4', [0]))).to.include({ code: '22012' })
      client.release()
      expect(pool.idleCount).to.equal(1)
      await pool.end()
      expect(await caught(pool.connect())).to.be.instanceOf(Error)
      const missing = postgresClient({ pool: opening(), namespace: 'n', table: 'nowhere' })
      const error = await caught(missing.claimLease('l', { holder: 'a', duration: LASTING_MS }))
      expect(error.message).to.match(/run migrate\(\)/)
      await missing.close()
    })

    describe('refuses what is no function that makes connections:', () => {
      const problemOf = (error: unknown): string => {
        expect(error).to.be.instanceOf(ErrNotValid)
        return (error as ErrNotValid).problems.map(({ argument, rule }) => `${argument} ${rule}`).join()
      }
      const refusal = async (pool: unknown): Promise<string> => {
        try {
          const substrate = new PostgresSubstrate({ pool, namespace: 'n' } as PostgresOptions)
          const error = await caught(substrate.time(newCall()))
          await substrate.close()
          return problemOf(error)
        } catch (error) {
          return problemOf(error)
        }
      }
      const line = '() => postgres(url, { max: 1 })'

      it('an sql, a reserved one, a transaction', async () => {
        const sql = postgres(setting.directUrl, { max: 2 })
        const reserved = await sql.reserve()
        const rule = `pool must be a function that makes a connection of postgres.js, and not an sql itself: ${line}`
        expect(await refusal(sql)).to.equal(rule)
        expect(await refusal(reserved)).to.equal(rule)
        expect(problemOf(await caught(migrate(sql as unknown as OpenPostgresJs)))).to.equal(rule)
        await sql.begin(async (tx) => {
          expect(await refusal(tx)).to.match(/^pool must not be a transaction of postgres\.js \(that is a key/)
        })
        reserved.release()
        await sql.end()
      })

      it('one that is ended, has many connections or transforms, or is the one of before', async () => {
        const ended = postgres(setting.directUrl, { max: 1 })
        await ended.end()
        expect(await refusal(() => ended)).to.equal(
          `pool must make a new connection at each call, and this one is ended: ${line}`,
        )
        expect(await refusal(() => ended)).to.equal(`pool must make a new connection at each call: ${line}`)
        expect(await refusal(() => postgres(setting.directUrl))).to.equal(
          `pool must make an sql of one connection: ${line}`,
        )
        expect(await refusal(opening({ transform: postgres.camel }))).to.match(/^pool must make connections without/)
        expect(await refusal(() => setting.pool)).to.match(/^pool must make a connection of postgres\.js/)
      })
    })
  })
}
