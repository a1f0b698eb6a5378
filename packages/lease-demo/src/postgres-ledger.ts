/** The accounts in PostgreSQL, beside the leases, in a schema of their own. */
import type { Client, Hold } from 'lease-core'
import { migrate, postgresClient, SqlGuard } from 'lease-postgres'
import { escapeIdentifier, Pool, type PoolClient } from 'pg'
import type { Account, Books, Entry } from './books.ts'
import type { Balances, Ledger, LedgerOffice, Order } from './ledger.ts'

/** Where the accounts are. */
export interface PostgresPlace {
  readonly url: string
  readonly schema: string
}

/** What a worker uses. `guarded: false` checks its leases just as carefully, but writes without the guard. */
export class PostgresLedger implements Ledger {
  readonly client: Client
  readonly #pool: Pool
  readonly #schema: string
  readonly #guarded: boolean

  constructor(place: PostgresPlace, options: { readonly guarded: boolean }) {
    this.#pool = connect(place.url)
    this.#schema = escapeIdentifier(place.schema)
    this.#guarded = options.guarded
    this.client = postgresClient({ pool: this.#pool, namespace: 'accounts', schema: place.schema })
  }

  async transfer(
    order: Order,
    holds: ReadonlyMap<string, Hold>,
    beforeWrite: (next: Balances) => Promise<void>,
  ): Promise<void> {
    const connection = await this.#pool.connect()
    try {
      await connection.query('BEGIN')
      // 1. Read and decide. No row is locked: the leases keep others out.
      const changes: Balances = { [order.from]: -order.amount, [order.to]: order.amount }
      const next = await this.#decide(connection, changes)
      // 2. Check. Guarded, the check goes into the statement that writes; unguarded, it was true a moment ago.
      const guards = new Map<string, SqlGuard | undefined>()
      for (const [account, hold] of holds) {
        const guard = this.#guarded ? new SqlGuard(3) : undefined
        await hold.token.check(guard)
        guards.set(account, guard)
      }
      await beforeWrite(next)
      // 3. Write.
      for (const [account, hold] of holds) {
        await this.#write(connection, account, next[account] ?? 0, guards.get(account))
        await connection.query(
          `INSERT INTO ${this.#schema}.entry (account, worker, amount, fencing_token) VALUES ($1, $2, $3, $4)`,
          [account, hold.holder, changes[account], String(hold.fencingToken)],
        )
      }
      await connection.query('COMMIT')
    } catch (error) {
      await connection.query('ROLLBACK').catch(() => {}) // the first error is the one to tell
      throw error
    } finally {
      connection.release()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close()
    await this.#pool.end()
  }

  async #decide(connection: PoolClient, changes: Balances): Promise<Balances> {
    const { rows } = await connection.query<{ name: string; balance: number }>(
      `SELECT name, balance FROM ${this.#schema}.account WHERE name = ANY ($1)`,
      [Object.keys(changes)],
    )
    return Object.fromEntries(rows.map(({ name, balance }) => [name, balance + (changes[name] ?? 0)]))
  }

  async #write(connection: PoolClient, account: string, balance: number, guard: SqlGuard | undefined): Promise<void> {
    const update = `UPDATE ${this.#schema}.account SET balance = $1 WHERE name = $2`
    if (guard === undefined) await connection.query(update, [balance, account])
    else {
      const { rowCount } = await connection.query(`${update} AND ${guard.text}`, [balance, account, ...guard.values])
      guard.assertHeld(rowCount)
    }
  }
}

export class PostgresOffice implements LedgerOffice {
  readonly #pool: Pool
  readonly #place: PostgresPlace
  readonly #schema: string

  constructor(place: PostgresPlace) {
    this.#pool = connect(place.url)
    this.#place = place
    this.#schema = escapeIdentifier(place.schema)
  }

  async open(opening: Balances): Promise<void> {
    await migrate(this.#pool, { schema: this.#place.schema })
    await this.#pool.query(`
      CREATE TABLE ${this.#schema}.account (name text PRIMARY KEY, opening int NOT NULL, balance int NOT NULL);
      CREATE TABLE ${this.#schema}.entry (
        number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        account text NOT NULL REFERENCES ${this.#schema}.account,
        worker text NOT NULL,
        amount int NOT NULL,
        fencing_token bigint NOT NULL
      )`)
    await this.#pool.query(
      `INSERT INTO ${this.#schema}.account SELECT name, money, money FROM unnest($1::text[], $2::int[]) AS t (name, money)`,
      [Object.keys(opening), Object.values(opening)],
    )
  }

  async books(): Promise<Books> {
    const accounts = await this.#pool.query<Account>(
      `SELECT name, opening, balance FROM ${this.#schema}.account ORDER BY name`,
    )
    const entries = await this.#pool.query<Omit<Entry, 'fencingToken'> & { token: string }>(
      `SELECT account, worker, amount, fencing_token AS token FROM ${this.#schema}.entry ORDER BY number`,
    )
    return {
      accounts: accounts.rows,
      entries: entries.rows.map(({ token, ...entry }) => ({ ...entry, fencingToken: BigInt(token) })),
    }
  }

  async drop(): Promise<void> {
    await this.#pool.query(`DROP SCHEMA IF EXISTS ${this.#schema} CASCADE`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool.end()
  }
}

function connect(url: string): Pool {
  const pool = new Pool({ connectionString: url, connectionTimeoutMillis: 10_000, query_timeout: 10_000, max: 8 })
  pool.on('error', () => {}) // an idle connection broke: the next query tells
  return pool
}
