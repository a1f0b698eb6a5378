/** A guarded transaction and a guarded statement with plain `pg`. */
import type { Token } from 'lease-core'
import { inTransaction, SqlGuard } from 'lease-postgres'
import { Pool, type PoolConfig } from 'pg'

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
  guard.assertHeld(rowCount) // no row: not held. The account must exist: see withdrawIfThere
}

/** When the row may not exist: a first statement with the predicate alone tells "not held" from "no such row". */
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
 * Inserts or updates the row. The guard is in the SELECT, so it covers the INSERT as well. In the WHERE of DO UPDATE alone it
 * would not cover the INSERT.
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

/** A pool that handles the `error` events of its connections: unhandled, one broken connection would end the process. */
export function openPool(config: PoolConfig): Pool {
  const pool = new Pool({ keepAlive: true, maxLifetimeSeconds: 3600, ...config })
  pool.on('error', ignore) // an idle connection broke, and the pool has removed it
  pool.on('connect', (connection) => connection.on('error', ignore)) // before the pool hands it out
  return pool
}

const ignore = (): void => {}
