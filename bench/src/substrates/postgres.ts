import { freshDatabase, startPostgres } from 'lease-servers'
import { migrate } from 'lease-postgres'
import type { Pool } from 'pg'
import { postgresLibrary } from '../adapters/postgres-library.ts'
import { openPool, tellStatistics } from '../adapters/postgres-pool.ts'
import { postgresRow, postgresRowBatch, rowTableSql } from '../adapters/postgres-row.ts'
import { postgresStatement, postgresStatementBatch } from '../adapters/postgres-statement.ts'
import type { Place, Substrate } from '../bench.ts'

/** A server as in production (fsync, full_page_writes and synchronous_commit on), or the one that DATABASE_URL names. */
export const postgres: Substrate = {
  name: 'postgres',
  adapters: [
    postgresLibrary({ prepare: false }),
    postgresLibrary({ prepare: true }),
    postgresStatement({ prepare: false }),
    postgresStatement({ prepare: true }),
    postgresRow,
    postgresStatementBatch({ inFlight: 1 }),
    postgresStatementBatch({ inFlight: 2 }),
    postgresRowBatch({ inFlight: 1 }),
    postgresRowBatch({ inFlight: 2 }),
  ],
  open,
}

async function open(): Promise<Place> {
  const given = process.env['DATABASE_URL']
  // Each of those who wait for a lease has connections of his own.
  const settings = { max_connections: '500' }
  const server = given ? undefined : await startPostgres({ version: 18, durable: true, settings })
  const home = server?.url ?? given ?? ''
  const database = await freshDatabase({ url: home })
  const beside = openPool(home, 1) // in another database, so that it is not counted
  const close = async (): Promise<void> => {
    await beside.end()
    await database.drop()
    await server?.stop()
  }
  const pool = openPool(database.url, 1)
  try {
    await migrate(pool)
    await pool.query(rowTableSql)
    const { rows } = await pool.query<{ version: string; fsync: string; commit: string }>(
      `SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
        current_setting('synchronous_commit') AS commit`,
    )
    const { version = '', fsync = '', commit = '' } = rows[0] ?? {}
    return {
      about: `PostgreSQL ${version.split(' ')[0]} (fsync ${fsync}, synchronous_commit ${commit})`,
      url: database.url,
      commands: countedIn(database.url, beside),
      async roundTrip() {
        await beside.query('SELECT 1')
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  } finally {
    await pool.end()
  }
}

/** Every statement of the library is a transaction. Now and then an autovacuum adds some of its own. */
function countedIn(url: string, beside: Pool): () => Promise<number> {
  const database = new URL(url).pathname.slice(1)
  let own = 0
  return async () => {
    own += await tellStatistics(url)
    const { rows } = await beside.query<{ transactions: number }>(
      'SELECT (xact_commit + xact_rollback)::float8 AS transactions FROM pg_stat_database WHERE datname = $1',
      [database],
    )
    return (rows[0]?.transactions ?? Number.NaN) - own
  }
}
