/** Test set-up for the PostgreSQL examples: a database with two accounts, and a lease that a rival can take over. */
import { migrate, postgresClient } from 'lease-postgres'
import { freshDatabase } from 'lease-servers'
import type { Pool } from 'pg'
import { openPool } from './plain-pg.ts'
import { openRivals, type Rivals } from './rivals.ts'

export interface Bank extends Rivals {
  readonly url: string
  readonly pool: Pool
  /** Sets accounts 1 and 2 to 100 and empties the ledger. */
  reset(): Promise<void>
  balances(): Promise<number[]>
  /** How many entries the ledger has. */
  entries(): Promise<number>
}

export async function openBank(target: { readonly url: string }): Promise<Bank> {
  const database = await freshDatabase(target)
  const pool = openPool({ connectionString: database.url })
  await migrate(pool)
  await pool.query('CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)')
  await pool.query('CREATE TABLE ledger (account integer NOT NULL, amount integer NOT NULL)')
  const rivals = openRivals(() => postgresClient({ pool, namespace: 'bank' }))

  return {
    ...rivals,
    url: database.url,
    pool,
    async reset() {
      await pool.query('TRUNCATE account, ledger')
      await pool.query('INSERT INTO account VALUES (1, 100), (2, 100)')
    },
    async balances() {
      const { rows } = await pool.query<{ balance: number }>('SELECT balance FROM account ORDER BY id')
      return rows.map(({ balance }) => balance)
    },
    async entries() {
      return (await pool.query('SELECT FROM ledger')).rowCount ?? 0
    },
    async [Symbol.asyncDispose]() {
      await rivals[Symbol.asyncDispose]()
      await pool.end()
      await database.drop()
    },
  }
}
