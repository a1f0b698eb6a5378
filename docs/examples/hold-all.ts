/** A transfer between two accounts. Each account has its own lease. */
import { uniqueHolder, type Manager } from 'lease-core'
import { inTransaction } from 'lease-postgres'
import { holdAll } from 'lease-recipes'
import type { Pool } from 'pg'

export async function transferBetween(
  { manager, pool }: { readonly manager: Manager; readonly pool: Pool },
  { from, to, amount }: { readonly from: number; readonly to: number; readonly amount: number },
): Promise<void> {
  const accounts = [`account-${from}`, `account-${to}`]
  await using both = await holdAll(manager, accounts, uniqueHolder('transfer'), {
    duration: { seconds: 30 },
    wait: { seconds: 10 }, // for both together
  })
  await inTransaction(pool, async (connection) => {
    await both.token.check(connection) // ErrNotHeld: one was lost, and nothing is written
    await connection.query('UPDATE account SET balance = balance - $1 WHERE id = $2', [amount, from])
    await connection.query('UPDATE account SET balance = balance + $1 WHERE id = $2', [amount, to])
  })
}
