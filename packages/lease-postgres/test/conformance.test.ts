import { SubstrateClient } from 'lease-core/adapter'
import { conformance, faultsOf, type Guard, type Harness } from 'lease-core/conformance'
import { FaultySubstrate } from 'lease-core/testing'
import {
  isMatrix,
  pgbouncerTarget,
  postgresTargets,
  startPgbouncer,
  startPostgres,
  type Pgbouncer,
  type Postgres,
  type PostgresTarget,
} from 'lease-servers'
import { postgresClient, PostgresSubstrate, SqlGuard } from 'lease-postgres'
import { after, before, describe, it } from 'mocha'
import { Client as Connection, Pool } from 'pg'
import { sleep } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

/** Of all clients together: each connection costs the server a process that compiles the functions anew. The server allows 200. */
const CONNECTIONS = 32

// The test command tries the newest behind a pooler, which takes away more than it adds; the matrix tries all.
for (const target of isMatrix() ? postgresTargets() : []) {
  // A server of its own, where there is a choice: the kit restarts it.
  const version = (): 15 | 18 => (target.version === 15 ? 15 : 18)
  declare(target, process.env['DATABASE_URL'] ? undefined : () => startPostgres({ version: version() }))
}
const pooled = pgbouncerTarget()
declare(pooled, () => startPgbouncer(pooled.directUrl))

function declare(target: PostgresTarget, start: (() => Promise<Postgres | Pgbouncer>) | undefined): void {
  describe(`lease-postgres on ${target.name}`, () => {
    let server: Postgres | Pgbouncer | undefined
    let setting: Setting
    let pool: Pool
    before(async () => {
      server = await start?.()
      setting = await openSetting(server ?? target)
      await setting.pool.query('CREATE TABLE written (at serial, text text)')
      pool = new Pool({ connectionString: setting.url, max: CONNECTIONS })
      pool.on('error', () => {}) // the kit restarts the server
    })
    after(async () => {
      await pool.end()
      await setting[Symbol.asyncDispose]()
      await server?.stop()
    })

    // A pooler accepts LISTEN and passes nothing on.
    const listen = (): Connection => new Connection(setting.directUrl)
    const unitMs = 250
    // A server that is slow, or has just started, has not lost the request.
    const requestTimeout = 30_000
    const harness: Harness = {
      name: target.name,
      supports: { notifications: true, queues: true, addressed: true, serverClock: true, shares: true },
      unitMs,
      sleep,
      open: async (namespace) => postgresClient({ pool, namespace, listen, requestTimeout }),
      openFaulty: async (namespace, requestTimeoutMs) => {
        const substrate = new FaultySubstrate(new PostgresSubstrate({ pool, namespace, listen }))
        const client = new SubstrateClient({ substrate, requestTimeout: requestTimeoutMs })
        return { client, faults: faultsOf(substrate) }
      },
      guard: guard(() => setting),
      ...(start ? { restart: async () => server?.restart() } : {}),
    }
    conformance({ describe, it, before, after }, harness)
  })
}

/** Transactions gated by one key and by the other, in turn. */
function guard(setting: () => Setting): Guard {
  let turn = 0
  return {
    async write(trapdoor, text) {
      const client = await setting().pool.connect()
      try {
        await client.query('BEGIN')
        if (turn++ % 2 === 0) {
          await trapdoor(client)
          await client.query('INSERT INTO written (text) VALUES ($1)', [text])
        } else {
          const guard = new SqlGuard(2)
          await trapdoor(guard)
          const insert = `INSERT INTO written (text) SELECT $1 WHERE ${guard.text}`
          const { rowCount } = await client.query(insert, [text, ...guard.values])
          guard.assertHeld(rowCount)
        }
        await client.query('COMMIT')
      } catch (error) {
        await client.query('ROLLBACK')
        throw error
      } finally {
        client.release()
      }
    },
    outside: (trapdoor) => trapdoor(setting().pool),
    async written() {
      const { rows } = await setting().pool.query<{ text: string }>('SELECT text FROM written ORDER BY at')
      return rows.map(({ text }) => text)
    },
  }
}
