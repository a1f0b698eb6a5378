/** Tombstones: rows of leases that nobody has held for long. They keep fencing tokens rising; collected, the floor does. */
import type { Request } from 'lease-core'
import { codeOf, onConnection } from './connection.ts'
import type { PostgresPool } from './driver.ts'
import { parseCollectOptions } from './options.ts'
import { tablesOf, type TableOptions } from './schema.ts'
import { collectLockSql, collectSql } from './sql.ts'

export interface CollectOptions extends TableOptions {
  readonly namespace: string
  /**
   * For how long a lease must have been vacant; ten seconds at least (`LONGEST_DEADLINE_MS`), for the row remembers who held it last
   * for as long. An hour at least is wise: whoever looks into the past finds it there.
   */
  readonly retention: Request['duration']
}

/** Rows removed under one lock: a few milliseconds during which claims wait. */
const ROWS_PER_LOCK = 2_000

/**
 * Claims queue behind a lock that waits, for a VACUUM say; so it does not wait long: just enough for an autovacuum to
 * make room, which it does after a second.
 */
const LOCK_PATIENCE_MS = 2_000
const LOCK_NOT_AVAILABLE = '55P03'

/**
 * Removes the rows of this namespace that have been vacant for longer than `retention` and are not pinned, and returns
 * how many. Fencing tokens keep rising over it. Safe at any time and from several processes; claims wait for a few
 * milliseconds, guards not at all. It stops early while somebody else, a VACUUM for one, keeps the table from it for
 * longer than two seconds: call it again later.
 *
 * @throws ErrNotValid an option breaks a rule; otherwise what the driver throws
 */
export async function collect(pool: PostgresPool, options: CollectOptions): Promise<number> {
  const { namespace, retentionMs } = parseCollectOptions(options)
  const tables = tablesOf(options)
  let collected = 0
  for (;;) {
    const rows = await onConnection(pool, undefined, async (client) => {
      try {
        await client.query('BEGIN ISOLATION LEVEL READ COMMITTED')
        await client.query(`SET LOCAL lock_timeout = ${LOCK_PATIENCE_MS}`)
        await client.query(collectLockSql(tables))
        const result = await client.query(collectSql(tables), [namespace, retentionMs, ROWS_PER_LOCK])
        await client.query('COMMIT')
        return Number(result.rows[0]?.collected)
      } catch (error) {
        await client.query('ROLLBACK').catch(() => {}) // what went wrong first is what the caller must learn
        if (codeOf(error) === LOCK_NOT_AVAILABLE) return 0
        throw error
      }
    })
    collected += rows
    if (rows < ROWS_PER_LOCK) return collected
  }
}
