/** The quick start on PostgreSQL with postgres.js. */
import { Manager, uniqueHolder } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import postgres from 'postgres'

export async function postgresJsQuickStart(url: string): Promise<void> {
  const sql = postgres(url) // yours: the leases have connections of their own
  const pool = (): postgres.Sql => postgres(url, { max: 1, onnotice: () => {} })
  await migrate(pool) // creates the tables; safe in every process at every start
  const client = postgresClient({ pool, namespace: 'billing' })
  const manager = new Manager({ client })

  const token = await manager.claim('account-42', uniqueHolder('billing'), { seconds: 30 })
  await sql.begin(async (tx) => {
    await token.check(tx) // ErrNotHeld, or nobody else is granted the lease before this transaction ends
    await tx`UPDATE account SET balance = balance - 10 WHERE id = 42`
  })
  await manager.release('account-42', token.holder)

  await manager.stop()
  await client.close() // ends the connections that it has made
  await sql.end()
}
