/**
 * A real PostgreSQL of our own with a standby that it streams to. Whether a COMMIT waits for the standby can be changed at any
 * time, and the standby can be promoted.
 */
import { until } from './awaited.ts'
import { newPostgres, type Postgres, type PostgresOptions, postgresQuery, type PostgresServer } from './postgres.ts'
import { stopAll } from './server.ts'

/** A primary and its standby. Both are there to be paused, killed and restarted. */
export interface PostgresPair extends AsyncDisposable {
  readonly primary: Postgres
  /** Answers reads from the beginning. */
  readonly standby: Postgres
  /**
   * With `on`, a COMMIT of the primary waits from now on until the standby has it, for ever if need be; at first it does not.
   * Resolves once every new transaction does so, and, with `on`, once a standby that runs has everything.
   */
  synchronous(wanted: 'on' | 'off'): Promise<void>
  /** Resolves once the standby has everything that the primary has now. */
  caughtUp(): Promise<void>
  /** Makes the standby a primary; resolves once it takes writes. End the primary first. */
  promote(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

/**
 * Starts them on free ports of 127.0.0.1 and resolves once the standby has what the primary has; they die with this process.
 * @throws with one line per origin when there is no such version.
 */
export async function startPostgresPair(options: PostgresOptions = {}): Promise<PostgresPair> {
  const settings = {
    // The processes may be killed; the machine goes on, so that nothing needs to be flushed for it.
    synchronous_commit: 'on',
    wal_keep_size: '256MB', // for a standby that is down for a while
    wal_retrieve_retry_interval: '100ms',
    ...options.settings,
  }
  const primary = await newPostgres({ ...options, settings })
  const standby = await newPostgres({ ...options, settings })
  const pair = new Pair(primary, standby)
  try {
    await primary.init()
    await standby.copy(primary)
    await primary.launch()
    await standby.launch()
    await pair.caughtUp()
    return pair
  } catch (error) {
    await pair.stop()
    throw error
  }
}

class Pair implements PostgresPair {
  readonly primary: PostgresServer
  readonly standby: PostgresServer

  constructor(primary: PostgresServer, standby: PostgresServer) {
    this.primary = primary
    this.standby = standby
  }

  async caughtUp(): Promise<void> {
    const { url } = this.primary
    const [now] = await postgresQuery<{ lsn: string }>(url, 'SELECT pg_current_wal_lsn() AS lsn')
    await until('the standby has what the primary has', async () => {
      const rows = await postgresQuery(
        url,
        `SELECT FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= '${now?.lsn}'`,
      )
      return rows.length > 0
    })
  }

  async synchronous(wanted: 'on' | 'off'): Promise<void> {
    const { url } = this.primary
    const names = wanted === 'on' ? '*' : ''
    await postgresQuery(url, `ALTER SYSTEM SET synchronous_standby_names = '${names}'`)
    await postgresQuery(url, 'SELECT pg_reload_conf()')
    await until(`synchronous replication is ${wanted}`, async () => {
      const [row] = await postgresQuery<{ inForce: boolean }>(
        url,
        `SELECT current_setting('synchronous_standby_names') = '${names}'
           AND NOT EXISTS (SELECT FROM pg_stat_replication WHERE (sync_state = 'sync') <> (${wanted === 'on'})) AS "inForce"`,
      )
      return row?.inForce
    })
    if (wanted === 'on' && this.standby.pid !== undefined) await this.caughtUp()
  }

  async promote(): Promise<void> {
    const { url } = this.standby
    await postgresQuery(url, 'SELECT pg_promote(false)')
    await until('the standby is a primary', async () => {
      const [row] = await postgresQuery<{ standby: boolean }>(url, 'SELECT pg_is_in_recovery() AS standby')
      return row?.standby === false
    })
  }

  async stop(): Promise<void> {
    await stopAll([this.standby, this.primary])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}
