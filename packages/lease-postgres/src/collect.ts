/**
 * Tombstones: rows of leases that nobody has held for long. They keep fencing tokens rising; collected, the floor does. And counted
 * leases that nobody has defined or used for long.
 */
import { sleep, systemClock, type Request } from 'lease-core'
import { arrayOf } from './array.ts'
import { codeOf, onConnection } from './connection.ts'
import type { PostgresPool, PostgresPoolClient } from './driver.ts'
import type { DatabaseFunction } from './function-text.ts'
import { functionsOf } from './functions.ts'
import { checkPool, parseCollectOptions } from './options.ts'
import { withPool, type OpenPostgresJs } from './postgres-js.ts'
import { tablesOf, type TableOptions } from './schema.ts'

export interface CollectOptions extends TableOptions {
  readonly namespace: string
  /**
   * For how long a lease must have been vacant; ten seconds at least (`LONGEST_DEADLINE_MS`), for the row remembers who held it last
   * for as long. An hour at least is wise: anyone who looks into the past finds it there.
   */
  readonly retention: Request['duration']
}

/** Rows looked at, without a lock, before those that are old among them are removed. */
const ROWS_AT_ONCE = 2_000
/** Counted leases tidied up in one transaction, which keeps each of them from being claimed. */
const COUNTS_AT_ONCE = 50

/**
 * Claims and renewals queue behind a lock that waits, for a VACUUM say. So it waits for no more than this, a few times, and lets
 * them pass in between.
 */
const LOCK_PATIENCE_MS = 100
const LOCK_ATTEMPTS = 10
const LOCK_PAUSE_MS = 200
const LOCK_NOT_AVAILABLE = '55P03'
const DENIED = '42501'

/**
 * Removes the rows of this namespace that have been vacant for longer than `retention` and are not pinned, and returns
 * how many. Those of counted leases that are not defined go as well, and those that a claim has defined a day after the last grant.
 * Fencing tokens keep rising over it. Safe at any time and from several processes. It searches without a lock; while
 * it removes what it has found, claims and renewals wait for a few milliseconds, guards not at all. It stops early where
 * somebody else, a VACUUM for one, keeps the table from it for some seconds: call it again later.
 *
 * @throws ErrNotValid an option breaks a rule; otherwise what the driver throws
 */
export async function collect(pool: PostgresPool | OpenPostgresJs, options: CollectOptions): Promise<number> {
  checkPool(pool)
  const read = parseCollectOptions(options)
  return withPool(pool, (own) => collectFrom(own, read))
}

async function collectFrom(
  pool: PostgresPool,
  { where, namespace, retentionMs }: ReturnType<typeof parseCollectOptions>,
): Promise<number> {
  const { findOld, removeOld, forget, findCounts, tidy } = functionsOf(tablesOf(where))
  const answerTo = async (client: PostgresPoolClient, { call }: DatabaseFunction, ...values: unknown[]) => {
    const { rows } = await client.query(call, [namespace, ...values])
    return (rows[0] as { readonly answer: string | null }).answer
  }
  /** Counted leases first: a share that is over counts until it is cleared. */
  const tidyUp = async (): Promise<void> => {
    for (let last = ''; ;) {
      const found = await onConnection(pool, undefined, (client) => answerTo(client, findCounts, last, COUNTS_AT_ONCE))
      const names = JSON.parse(found ?? '[]') as string[]
      if (names.length === 0) return
      await underLock(pool, (client) => answerTo(client, tidy, retentionMs, arrayOf(names)))
      last = names.at(-1) as string
    }
  }
  try {
    await onConnection(pool, undefined, (client) => answerTo(client, forget))
    await tidyUp()
  } catch (error) {
    if (codeOf(error) !== DENIED) throw error // a role that may not use these tables leaves them to others
  }
  let collected = 0
  for (let last = '', isLast = false; !isLast;) {
    const answer = await onConnection(pool, undefined, (client) =>
      answerTo(client, findOld, retentionMs, last, ROWS_AT_ONCE),
    )
    const [names, hasMore, lookedUpTo] = JSON.parse(answer ?? '[]') as [string[] | null, boolean, string | null]
    if (names !== null) {
      const removed = await underLock(pool, (client) => answerTo(client, removeOld, retentionMs, arrayOf(names)))
      if (removed === undefined) return collected
      collected += Number(removed)
    }
    last = lookedUpTo ?? ''
    isLast = !hasMore
  }
  return collected
}

/** Resolves with undefined where the lock was not to be had. */
async function underLock<T>(
  pool: PostgresPool,
  body: (client: PostgresPoolClient) => Promise<T>,
): Promise<T | undefined> {
  for (let attempt = 1; attempt <= LOCK_ATTEMPTS; attempt++) {
    if (attempt > 1) await sleep(systemClock, LOCK_PAUSE_MS)
    const result = await onConnection(pool, undefined, (client) => inTransaction(client, body))
    if (result !== undefined) return result
  }
  return undefined
}

/** READ COMMITTED whatever the default is. Resolves with undefined where the lock was not to be had. */
async function inTransaction<T>(
  client: PostgresPoolClient,
  body: (client: PostgresPoolClient) => Promise<T>,
): Promise<T | undefined> {
  try {
    await client.query('BEGIN ISOLATION LEVEL READ COMMITTED')
    await client.query(`SET LOCAL lock_timeout = ${LOCK_PATIENCE_MS}`)
    const result = await body(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {}) // what went wrong first is what the caller must learn
    if (codeOf(error) === LOCK_NOT_AVAILABLE) return undefined
    throw error
  }
}
