/** A database of one’s own, and pools and substrates that are closed in the end. */
import { freshDatabase } from 'lease-servers'
import { migrate, PostgresSubstrate, type PostgresSubstrateOptions } from 'lease-postgres'
import { Pool, type PoolConfig } from 'pg'
import { unique } from 'lease-scenes'

export interface Setting extends AsyncDisposable {
  readonly url: string
  readonly pool: Pool
  /** A substrate over `pool` that is closed in the end. */
  substrate(options?: Partial<PostgresSubstrateOptions>): PostgresSubstrate
  /** A further pool, ended in the end. */
  newPool(config?: PoolConfig): Pool
}

export async function openSetting(target: { readonly url: string }): Promise<Setting> {
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
  return {
    url: database.url,
    pool,
    newPool,
    substrate(options) {
      const substrate = new PostgresSubstrate({ pool, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      await Promise.all(pools.map((one) => one.end()))
      await database.drop()
    },
  }
}
