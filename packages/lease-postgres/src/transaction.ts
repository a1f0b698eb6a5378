/** A transaction of the application, on a connection of its pool. */
import { allLeftOpen, isInTransaction, MOST_LEFT_OPEN } from './connection.ts'
import type { PostgresPoolClient, PostgresResult } from './driver.ts'
import { checkTransaction } from './options.ts'
import { watchStandbyWaits } from './standby-wait.ts'

/** A pool with `connect()`. `pg.Pool` fits. */
export interface TransactionPool {
  connect(): Promise<PostgresPoolClient>
}

/** The connections of a pool, with their own type: of `pg.Pool` a `pg.PoolClient`. */
export type ConnectionOf<Pool> = Pool extends { connect(): Promise<infer Connection> }
  ? unknown extends Connection // `connect` of `pg.Pool` has a second signature, with a callback
    ? Pool extends { connect: { (): Promise<infer First>; (...callback: never[]): unknown } }
      ? First
      : PostgresPoolClient
    : Connection
  : never

/**
 * Runs the body between BEGIN and COMMIT on one connection of the pool, and returns what the body returns. After a failure the
 * transaction is rolled back, and the first error is thrown: an error of ROLLBACK does not replace it. A connection that broke
 * fails this call and not the process, and is closed. A connection that somebody has left inside of a transaction is closed as well,
 * and another one is used.
 *
 * The isolation is the default of the connection. Nothing is tried again.
 *
 * @throws ErrNotValid `pool` is no pool of `pg`, or `body` no function; what the body throws; what the driver throws: when `connect`, BEGIN or a statement failed, nothing was written. When
 *   COMMIT failed, the transaction may have been committed. An error of this function when the server rolled back at COMMIT
 *   because the body caught the error of a statement, or when a cancel has ended the wait of COMMIT for a synchronous standby: the
 *   transaction is committed, and may be on no standby
 */
export async function inTransaction<Pool extends TransactionPool, Result>(
  pool: Pool,
  body: (connection: ConnectionOf<Pool>) => Promise<Result>,
): Promise<Result> {
  checkTransaction(pool, body)
  const connection = await fitConnection(pool)
  connection.on?.('error', ignore) // any pool: between two statements nothing else listens
  let isBroken = false
  try {
    const assertWaited = watchStandbyWaits(connection)
    await connection.query('BEGIN')
    const result = await body(connection as ConnectionOf<Pool>)
    const { command }: PostgresResult & { readonly command?: string } = await connection.query('COMMIT')
    if (command === 'ROLLBACK') {
      throw new Error(
        'COMMIT was a rollback, and nothing was written: a statement failed, and the body did not throw its error. ' +
          'To go on after an error, set a SAVEPOINT before the statement',
      )
    }
    assertWaited()
    return result
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => (isBroken = true))
    throw error
  } finally {
    connection.release(isBroken) // a broken connection is closed, and keeps its listener until then
    if (!isBroken) connection.removeListener?.('error', ignore)
  }
}

/**
 * One that nobody has left inside of a transaction, as far as the driver tells: COMMIT would commit what is not ours, in the isolation of
 * somebody else. One that is left so is closed, which undoes what was done there.
 */
async function fitConnection(pool: TransactionPool): Promise<PostgresPoolClient> {
  for (let leftOpen = 0; leftOpen < MOST_LEFT_OPEN; leftOpen++) {
    const connection = await pool.connect()
    if (!isInTransaction(connection)) return connection
    connection.on?.('error', ignore) // it may break once more before it is gone
    connection.release(true)
  }
  throw allLeftOpen()
}

const ignore = (): void => {}
