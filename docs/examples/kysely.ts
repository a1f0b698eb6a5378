/** Guarded writes with Kysely. */
import { sql, type Kysely } from 'kysely'
import type { Token } from 'lease-core'
import { SqlGuard } from 'lease-postgres'

export interface Tables {
  readonly account: { readonly id: number; readonly balance: number }
  readonly ledger: { readonly account: number; readonly amount: number }
}

/** The guard as a predicate, through Kysely's own `sql` tag. Kysely numbers the parameters. */
export async function withdraw(db: Kysely<Tables>, token: Token, account: number, amount: number): Promise<void> {
  const guard = new SqlGuard()
  await token.check(guard)
  await db.transaction().execute(async (trx) => {
    await trx.insertInto('ledger').values({ account, amount: -amount }).execute()
    const { numUpdatedRows } = await trx
      .updateTable('account')
      .set((eb) => ({ balance: eb('balance', '-', amount) }))
      .where('id', '=', account)
      .where(guard.with(sql<boolean>))
      .executeTakeFirstOrThrow()
    guard.assertHeld(numUpdatedRows) // throws ErrNotHeld, which rolls the transaction back
  })
}

/** The transaction is the key: guard first, then any number of statements. */
export async function transfer(
  db: Kysely<Tables>,
  token: Token,
  from: number,
  to: number,
  amount: number,
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    await token.check(trx)
    for (const [id, delta] of [[from, -amount] as const, [to, amount] as const]) {
      await trx
        .updateTable('account')
        .set((eb) => ({ balance: eb('balance', '+', delta) }))
        .where('id', '=', id)
        .execute()
    }
  })
}
