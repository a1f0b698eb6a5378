/** A database of one’s own, with pools and substrates that are closed in the end, and what a test does behind their backs. */
import { freshDatabase, until } from 'lease-servers'
import { migrate, PostgresSubstrate, type PostgresSubstrateOptions } from 'lease-postgres'
import { Pool, type PoolClient, type PoolConfig } from 'pg'
import type { Substrate } from 'lease-core/adapter'
import { readOne, release, settle, unique } from 'lease-scenes'

export interface Setting extends AsyncDisposable {
  readonly url: string
  /** Past the pooler, for LISTEN; the `url` where there is none. */
  readonly directUrl: string
  readonly pool: Pool
  /** A substrate over `pool` that is closed in the end. */
  substrate(options?: Partial<PostgresSubstrateOptions>): PostgresSubstrate
  /** A further pool, ended in the end. */
  newPool(config?: PoolConfig): Pool
  /** Moves the expiry of these leases to now. So a lease can be long for as long as it must live. Writes to the rows. */
  lapse(...leases: readonly string[]): Promise<void>
  /** Resolves once these leases are past their expiry by `byMs`. Leaves the rows as they are. */
  lapsed(leases: string | readonly string[], byMs?: number): Promise<void>
  /** Makes those of these leases that are vacant look as if their rows had been written an hour ago. */
  age(...leases: readonly string[]): Promise<void>
  /** The row of this lease, with all its columns. */
  row(lease: string): Promise<Record<string, unknown> | undefined>
  /** Whether another connection waits for a lock that this one has. */
  isWaitedFor(client: PoolClient): Promise<boolean>
  /** Resolves once another connection waits for a lock that this one has. */
  waitedFor(client: PoolClient): Promise<void>
}

export async function openSetting(target: { readonly url: string; readonly directUrl?: string }): Promise<Setting> {
  const database = await freshDatabase(target)
  const pools: Pool[] = []
  const substrates: PostgresSubstrate[] = []
  const newPool = (config?: PoolConfig): Pool => {
    const pool = new Pool({ connectionString: database.url, ...config })
    pool.on('error', () => {}) // the database is dropped before the last connection is closed
    pools.push(pool)
    return pool
  }
  const pool = newPool()
  await migrate(pool)
  const isWaitedFor = async (client: PoolClient): Promise<boolean> => {
    const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
    const { rowCount } = await pool.query(
      `SELECT FROM pg_stat_activity
       WHERE datname = current_database() AND wait_event_type = 'Lock' AND $1 = ANY(pg_blocking_pids(pid))`,
      [rows[0]?.pid],
    )
    return rowCount !== null && rowCount > 0
  }
  return {
    url: database.url,
    directUrl: database.directUrl,
    pool,
    newPool,
    substrate(options) {
      const substrate = new PostgresSubstrate({ pool, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async lapse(...leases) {
      const { rowCount } = await pool.query('UPDATE lease SET expiry = clock_timestamp() WHERE name = ANY($1)', [
        leases,
      ])
      if (rowCount !== leases.length) throw new Error(`${rowCount} rows for ${leases.length} leases`)
    },
    async lapsed(leases, byMs = 0) {
      const names = typeof leases === 'string' ? [leases] : leases
      await until(`${names.length} leases have lapsed`, async () => {
        const { rows } = await pool.query(
          `SELECT bool_and(expiry <= clock_timestamp() - $2::float8 * interval '1 millisecond') AS lapsed
           FROM lease WHERE name = ANY($1)`,
          [names, byMs],
        )
        return rows[0].lapsed === true
      })
    },
    async age(...leases) {
      await pool.query(
        `UPDATE lease SET expiry = expiry - interval '1 hour', unpinned = unpinned - 3600000000
         WHERE holder IS NULL AND name = ANY($1)`,
        [leases],
      )
    },
    async row(lease) {
      return (await pool.query('SELECT * FROM lease WHERE name = $1', [lease])).rows[0]
    },
    isWaitedFor,
    async waitedFor(client) {
      await until('a connection waits for the lock of another', () => isWaitedFor(client))
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      await Promise.all(pools.map((one) => one.end()))
      await database.drop()
    },
  }
}

/** Releases the term that stands, as its holder does. @throws where none stands */
export async function releaseHeld(substrate: Substrate, lease: string): Promise<void> {
  const held = await readOne(substrate, lease)
  if (held === undefined) throw new Error(`${lease} is not held`)
  const { holder, fencingToken, nonce } = held
  const { outcome } = await settle(substrate, release(lease, holder, { fencingToken, nonce }))
  if (outcome !== 'granted') throw new Error(`the release of ${lease} was ${outcome}`)
}
