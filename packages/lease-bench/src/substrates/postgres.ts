import { migrate } from 'lease-postgres'
import { freshDatabase, startPostgres } from 'lease-servers'
import { Client } from 'pg'
import { advisoryLock } from '../adapters/postgres/advisory-lock.ts'
import { advisoryByHand } from '../adapters/postgres/advisory.ts'
import { ledgerTableSql, postgresLibrary } from '../adapters/postgres/library.ts'
import { openPool } from '../adapters/postgres/pool.ts'
import { postgresRing, ringTableSql } from '../adapters/postgres/ring.ts'
import { postgresRow, postgresRowBatch, rowTableSql } from '../adapters/postgres/row.ts'
import { postgresStatement, postgresStatementBatch } from '../adapters/postgres/statement.ts'
import { verrouKysely, verrouTableSql } from '../adapters/postgres/verrou.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Place, Substrate } from '../bench.ts'
import { countedBytes } from '../counted-bytes.ts'
import { countedCalls, countedEvents } from '../counted-calls.ts'

/** A server as in production (fsync, full_page_writes and synchronous_commit on), or the one that DATABASE_URL names. */
export const postgres: Substrate = {
  name: 'postgres',
  adapters: [
    postgresLibrary,
    postgresStatement({ prepare: false }),
    postgresStatement({ prepare: true }),
    postgresRow,
    postgresRing,
    postgresStatementBatch({ inFlight: 1 }),
    postgresStatementBatch({ inFlight: 2 }),
    postgresRowBatch({ inFlight: 1 }),
    postgresRowBatch({ inFlight: 2 }),
    verrouKysely,
    advisoryLock,
    advisoryByHand,
    roundTrip,
  ],
  open,
  async reach(url) {
    const commands = countedCalls(Client.prototype, 'query')
    const messages = countedEvents(Client.prototype, ['notification'])
    const bytes = countedBytes()
    const beside = openPool(url, 1)
    return {
      substrate: 'postgres',
      url,
      counts: 'process',
      commands: async () => commands(),
      messages: async () => messages(),
      bytes,
      async roundTrip() {
        await beside.query('SELECT 1')
      },
      close: () => beside.end(),
    }
  },
}

async function open(given: string | undefined = process.env['DATABASE_URL']): Promise<Place> {
  // Each of those who wait for a lease has connections of its own, and each holder of an advisory lock needs one.
  const settings = { max_connections: '500' }
  const server = given ? undefined : await startPostgres({ version: 18, durable: true, settings })
  const home = server?.url ?? given ?? ''
  const database = await freshDatabase({ url: home })
  const close = async (): Promise<void> => {
    await database.drop()
    await server?.stop()
  }
  const pool = openPool(database.url, 1)
  try {
    await migrate(pool)
    await pool.query(rowTableSql)
    await pool.query(ledgerTableSql)
    await pool.query(ringTableSql)
    await pool.query(verrouTableSql)
    const { rows } = await pool.query<{ version: string; fsync: string; commit: string }>(
      `SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
        current_setting('synchronous_commit') AS commit`,
    )
    const { version = '', fsync = '', commit = '' } = rows[0] ?? {}
    return {
      about: `PostgreSQL ${version.split(' ')[0]} (fsync ${fsync}, synchronous_commit ${commit})`,
      url: database.url,
      close,
    }
  } catch (error) {
    await close()
    throw error
  } finally {
    await pool.end()
  }
}
