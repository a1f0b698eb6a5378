/** What the examples on PostgreSQL are run with: a database with two accounts, and a lease that can be taken away. */
import { Manager, type Client, type Token } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import { freshDatabase } from 'lease-servers'
import { Pool } from 'pg'

export interface Bank extends AsyncDisposable {
  readonly pool: Pool
  /** A new lease, held by worker-1, who relies on it. */
  hold(): Promise<Token>
  /** An operator frees the lease and worker-2, another process, claims it. Worker-1 does not know yet. */
  takeOver(token: Token): Promise<void>
  /** Sets accounts 1 and 2 to 100 and empties the ledger. */
  reset(): Promise<void>
  balances(): Promise<number[]>
  /** How many entries the ledger has. */
  entries(): Promise<number>
}

export async function openBank(target: { readonly url: string }): Promise<Bank> {
  const database = await freshDatabase(target)
  const pool = new Pool({ connectionString: database.url })
  await migrate(pool)
  await pool.query('CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)')
  await pool.query('CREATE TABLE ledger (account integer NOT NULL, amount integer NOT NULL)')
  const clients: Client[] = []
  const [mine, theirs] = [newManager(), newManager()]
  let leases = 0

  function newManager(): Manager {
    const client = postgresClient({ pool, namespace: 'bank' })
    clients.push(client)
    return new Manager({ client })
  }

  return {
    pool,
    async hold() {
      const lease = `accounts-${++leases}`
      await mine.claim(lease, 'worker-1', { seconds: 30 })
      return mine.token(lease, 'worker-1')
    },
    async takeOver({ lease }) {
      await theirs.revoke(lease)
      await theirs.claim(lease, 'worker-2', { seconds: 30 })
    },
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
      await Promise.all([mine.stop(), theirs.stop()])
      await Promise.all(clients.map((client) => client.close()))
      await pool.end()
      await database.drop()
    },
  }
}

/** What the work rejected with; undefined when it did not. */
export async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}
