/** The example of the README. */
import { Manager, uniqueHolder } from 'lease-core'
import { migrate, postgresClient, SqlGuard } from 'lease-postgres'
import { Pool } from 'pg'

export async function quickStart(url: string | undefined): Promise<void> {
  const pool = new Pool({ connectionString: url })
  await migrate(pool) // creates the tables; safe in every process at every start
  const client = postgresClient({ pool, namespace: 'billing' })
  const manager = new Manager({ client })

  const worker = uniqueHolder('billing') // the name of this caller: two callers with one name are one holder
  const token = await manager.claim('account-42', worker, { seconds: 30 }) // ErrClaimDenied: another holds it
  const guard = new SqlGuard(1) // a predicate with the parameters $1 to $4
  await token.check(guard) // ErrNotHeld: worker does not hold it
  const update = `UPDATE account SET balance = balance - 10 WHERE id = 42 AND ${guard.text}`
  const { rowCount } = await pool.query(update, guard.values)
  guard.assertHeld(rowCount) // ErrNotHeld: the lease was lost since the check, and nothing was written
  await manager.release('account-42', worker)

  await manager.stop()
  await client.close() // the client first, then the pool
  await pool.end()
}
