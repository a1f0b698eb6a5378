/** A guarded transaction and a guarded statement with plain `pg`. */
import type { Token } from 'lease-core'
import { SqlGuard } from 'lease-postgres'
import { Pool, type PoolClient, type PoolConfig } from 'pg'

/** The key is the connection: the guard runs first, and nobody else is granted the lease before the transaction ends. */
export async function transfer(pool: Pool, token: Token, from: number, to: number, amount: number): Promise<void> {
  await inTransaction(pool, async (connection) => {
    await token.check(connection)
    await connection.query('UPDATE account SET balance = balance - $1 WHERE id = $2', [amount, from])
    await connection.query('UPDATE account SET balance = balance + $1 WHERE id = $2', [amount, to])
  })
}

/** The key is a predicate: guard and write are one statement, one round trip, and need no BEGIN. */
export async function withdraw(pool: Pool, token: Token, account: number, amount: number): Promise<void> {
  const guard = new SqlGuard(3) // its four parameters are $3 to $6
  await token.check(guard)
  const { rowCount } = await pool.query(`UPDATE account SET balance = balance - $1 WHERE id = $2 AND ${guard.text}`, [
    amount,
    account,
    ...guard.values,
  ])
  guard.assertHeld(rowCount) // no row: not held. The account must exist, see withdrawIfThere
}

/** Where the rest of the WHERE may not match: asked alone first, the predicate tells "not held" from "no such row". */
export async function withdrawIfThere(pool: Pool, token: Token, account: number, amount: number): Promise<boolean> {
  return inTransaction(pool, async (connection) => {
    const guard = new SqlGuard()
    await token.check(guard)
    const held = await connection.query(`SELECT 1 WHERE ${guard.text}`, guard.values)
    guard.assertHeld(held.rowCount)
    const { rowCount } = await connection.query('UPDATE account SET balance = balance - $1 WHERE id = $2', [
      amount,
      account,
    ])
    return rowCount === 1
  })
}

/**
 * Writes the row, whether it is there or not. The guard is in the SELECT, so it decides about the INSERT as well: in the
 * WHERE of DO UPDATE alone it would let the INSERT pass.
 */
export async function deposit(pool: Pool, token: Token, account: number, amount: number): Promise<void> {
  const guard = new SqlGuard(3)
  await token.check(guard)
  const { rowCount } = await pool.query(
    `INSERT INTO account (id, balance) SELECT $1::integer, $2::integer WHERE ${guard.text}
     ON CONFLICT (id) DO UPDATE SET balance = account.balance + excluded.balance`,
    [account, amount, ...guard.values],
  )
  guard.assertHeld(rowCount)
}

/** A pool whose connections end no process: one that breaks emits `error`, and what uses it fails in any case. */
export function openPool(config: PoolConfig): Pool {
  const pool = new Pool({ keepAlive: true, maxLifetimeSeconds: 3600, ...config })
  pool.on('error', ignore) // an idle connection broke, and the pool has dropped it
  pool.on('connect', (connection) => connection.on('error', ignore)) // before anybody is handed it
  return pool
}

/** BEGIN, the body, COMMIT; or ROLLBACK, and the body's error. */
export async function inTransaction<T>(pool: Pool, body: (connection: PoolClient) => Promise<T>): Promise<T> {
  const connection = await pool.connect()
  connection.on('error', ignore) // of any pool: between two statements nobody else listens
  let broken: Error | undefined
  try {
    await connection.query('BEGIN')
    const result = await body(connection)
    await connection.query('COMMIT')
    return result
  } catch (error) {
    await connection.query('ROLLBACK').catch((thrown: Error) => (broken = thrown))
    throw error // the first one says what went wrong
  } finally {
    connection.release(broken) // a broken connection is closed, and keeps its listener until it is gone
    if (broken === undefined) connection.off('error', ignore)
  }
}

const ignore = (): void => {}
