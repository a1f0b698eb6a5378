/** A guarded transaction and a guarded statement with plain `pg`. */
import type { Token } from 'lease-core'
import { SqlGuard } from 'lease-postgres'
import type { Pool, PoolClient } from 'pg'

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

/** BEGIN, the body, COMMIT; or ROLLBACK, and the body's error. */
export async function inTransaction<T>(pool: Pool, body: (connection: PoolClient) => Promise<T>): Promise<T> {
  const connection = await pool.connect()
  try {
    await connection.query('BEGIN')
    const result = await body(connection)
    await connection.query('COMMIT')
    return result
  } catch (error) {
    await connection.query('ROLLBACK')
    throw error
  } finally {
    connection.release()
  }
}
