/** Guarded writes with Drizzle on `pg`. */
import { and, eq, sql } from 'drizzle-orm'
import type { NodePgDatabase } from 'drizzle-orm/node-postgres'
import { integer, pgTable } from 'drizzle-orm/pg-core'
import type { Token } from 'lease-core'
import { SqlGuard } from 'lease-postgres'

export const account = pgTable('account', { id: integer().primaryKey(), balance: integer().notNull() })
export const ledger = pgTable('ledger', { account: integer().notNull(), amount: integer().notNull() })

/** The guard as a predicate, through Drizzle's own `sql` tag. Drizzle numbers the parameters. */
export async function withdraw(db: NodePgDatabase, token: Token, id: number, amount: number): Promise<void> {
  const guard = new SqlGuard()
  await token.check(guard)
  await db.transaction(async (tx) => {
    await tx.insert(ledger).values({ account: id, amount: -amount })
    const { rowCount } = await tx
      .update(account)
      .set({ balance: sql`${account.balance} - ${amount}` })
      .where(and(eq(account.id, id), guard.with(sql)))
    guard.assertHeld(rowCount) // throws ErrNotHeld, which rolls the transaction back
  })
}

/** The transaction is the key: guard first, then any number of statements. */
export async function transfer(
  db: NodePgDatabase,
  token: Token,
  from: number,
  to: number,
  amount: number,
): Promise<void> {
  await db.transaction(async (tx) => {
    await token.check(tx) // throws ErrNotHeld, which rolls the transaction back
    for (const [id, delta] of [[from, -amount] as const, [to, amount] as const]) {
      await tx
        .update(account)
        .set({ balance: sql`${account.balance} + ${delta}` })
        .where(eq(account.id, id))
    }
  })
}
