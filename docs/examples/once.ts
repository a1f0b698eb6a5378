/** Each payment is made once, however often the client sends its request. */
import { ErrClaimDenied, type Manager } from 'lease-core'
import { inTransaction } from 'lease-postgres'
import { ErrNotRecorded, Once } from 'lease-recipes'
import type { Pool } from 'pg'

export interface Answer {
  readonly status: number
  readonly receipt?: unknown
}

export function openPayments(manager: Manager): Once {
  return new Once({
    manager,
    prefix: 'payments',
    duration: { seconds: 30 }, // after a crash the key stays in progress for this long
    keepResult: { hours: 24 }, // for this long a repeated request gets the same receipt
  })
}

/** @param key the client sends the same key with each attempt of one payment */
export async function pay(
  payments: Once,
  key: string,
  charge: (signal: AbortSignal) => Promise<unknown>,
): Promise<Answer> {
  try {
    const receipt = await payments.run(key, ({ signal }) => charge(signal), { wait: { seconds: 10 } })
    return { status: 201, receipt } // from this request or an earlier one
  } catch (error) {
    if (error instanceof ErrClaimDenied) return { status: 409 } // an earlier request is still in progress
    if (error instanceof ErrNotRecorded) return { status: 201, receipt: error.result } // paid, but a retry may not get this receipt
    throw error
  }
}

/** The work writes to a database: its transaction makes a second run harmless. */
export async function credit(payments: Once, pool: Pool, key: string, amount: number): Promise<number> {
  return payments.run(key, ({ token }) =>
    inTransaction(pool, async (connection) => {
      await token.check(connection) // a run that has lost its lease writes nothing
      const { rowCount } = await connection.query('INSERT INTO credit (key) VALUES ($1) ON CONFLICT DO NOTHING', [key])
      if (rowCount === 1) await connection.query('UPDATE account SET balance = balance + $1 WHERE id = 1', [amount])
      const { rows } = await connection.query<{ balance: number }>('SELECT balance FROM account WHERE id = 1')
      return rows[0]?.balance ?? 0
    }),
  )
}
