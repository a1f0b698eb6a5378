/** The accounts in PostgreSQL, beside the leases, in a schema of their own. */
import type { Client, Token } from 'lease-core'
import { migrate, postgresClient, SqlGuard } from 'lease-postgres'
import { startPostgres } from 'lease-servers'
import { escapeIdentifier, Pool } from 'pg'
import type { Entry } from './books.ts'
import type { Balances, LedgerOffice, Posting, Site, Venue, Write } from './ledger.ts'

export const postgres: Venue = {
  name: 'PostgreSQL',
  variable: 'DATABASE_URL',
  title: 'PostgreSQL 18',
  apart: 'a schema',
  async start() {
    const server = await startPostgres({ version: 18 })
    return {
      url: server.url,
      description: `PostgreSQL ${server.version} started for this demo on port ${server.port}`,
      [Symbol.asyncDispose]: async () => server[Symbol.asyncDispose](),
    }
  },
  officeAt: (site) => new PostgresLedger(site),
}

const ignore = (): void => {}

class PostgresLedger implements LedgerOffice {
  readonly client: Client
  readonly #pool: Pool
  readonly #scope: string
  readonly #schema: string

  constructor({ url, scope }: Site) {
    this.#pool = new Pool({ connectionString: url, connectionTimeoutMillis: 30_000, query_timeout: 30_000, max: 8 })
    this.#pool.on('error', () => {}) // an idle connection broke: the next query tells
    this.#scope = scope
    this.#schema = escapeIdentifier(scope)
    this.client = postgresClient({ pool: this.#pool, namespace: 'accounts', schema: scope })
  }

  async balances(accounts: readonly string[]): Promise<Balances> {
    const { rows } = await this.#pool.query<{ name: string; balance: number }>(
      `SELECT name, balance FROM ${this.#schema}.account WHERE name = ANY ($1)`,
      [accounts],
    )
    return Object.fromEntries(rows.map(({ name, balance }) => [name, balance]))
  }

  /** One statement, so that nothing lies between the last check of a worker and the whole of its write. */
  readonly write: Write = async (postings) => {
    await this.#pool.query(
      `WITH posting AS (
         SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::int[], $5::bigint[])
           WITH ORDINALITY AS posting (account, balance, worker, amount, fencing_token, number)
       ), updated AS (
         UPDATE ${this.#schema}.account SET balance = posting.balance FROM posting WHERE name = posting.account
       )
       INSERT INTO ${this.#schema}.entry (account, worker, amount, fencing_token)
       SELECT account, worker, amount, fencing_token FROM posting ORDER BY number
       ON CONFLICT (account, fencing_token) DO NOTHING`,
      [
        postings.map(({ account }) => account),
        postings.map(({ balance }) => balance),
        postings.map(({ worker }) => worker),
        postings.map(({ amount }) => amount),
        postings.map(({ fencingToken }) => String(fencingToken)),
      ],
    )
  }

  async guard(tokens: readonly Token[]): Promise<Write> {
    const guards = new Map<string, SqlGuard>()
    for (const token of tokens) {
      const guard = new SqlGuard(3)
      await token.check(guard)
      guards.set(token.lease, guard)
    }
    return async (postings) => this.#writeGuarded(postings, guards)
  }

  async #writeGuarded(postings: readonly Posting[], guards: ReadonlyMap<string, SqlGuard>): Promise<void> {
    const connection = await this.#pool.connect()
    connection.on('error', ignore) // it may break between two statements; the next one rejects
    let broken = false
    try {
      await connection.query('BEGIN')
      for (const { account, balance, worker, amount, fencingToken } of postings) {
        const guard = guards.get(account)
        if (guard === undefined) throw new Error(`account ${account} is written without a check of its lease`)
        const { rowCount } = await connection.query(
          `UPDATE ${this.#schema}.account SET balance = $1 WHERE name = $2 AND ${guard.text}`,
          [balance, account, ...guard.values],
        )
        guard.assertHeld(rowCount)
        await connection.query(
          `INSERT INTO ${this.#schema}.entry (account, worker, amount, fencing_token) VALUES ($1, $2, $3, $4)
           ON CONFLICT (account, fencing_token) DO NOTHING`,
          [account, worker, amount, String(fencingToken)],
        )
      }
      await connection.query('COMMIT')
    } catch (error) {
      await connection.query('ROLLBACK').catch(() => (broken = true)) // the first error is the one to tell
      throw error
    } finally {
      connection.release(broken)
      if (!broken) connection.removeListener('error', ignore)
    }
  }

  async hasEntry({ account, fencingToken }: Pick<Entry, 'account' | 'fencingToken'>): Promise<boolean> {
    const { rowCount } = await this.#pool.query(
      `SELECT FROM ${this.#schema}.entry WHERE account = $1 AND fencing_token = $2`,
      [account, String(fencingToken)],
    )
    return rowCount === 1
  }

  async open(opening: Balances): Promise<void> {
    await migrate(this.#pool, { schema: this.#scope })
    await this.#pool.query(`
      CREATE TABLE ${this.#schema}.account (name text PRIMARY KEY, balance int NOT NULL);
      CREATE TABLE ${this.#schema}.entry (
        number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        account text NOT NULL REFERENCES ${this.#schema}.account,
        worker text NOT NULL,
        amount int NOT NULL,
        fencing_token bigint NOT NULL,
        UNIQUE (account, fencing_token)
      )`)
    await this.#pool.query(`INSERT INTO ${this.#schema}.account SELECT * FROM unnest($1::text[], $2::int[])`, [
      Object.keys(opening),
      Object.values(opening),
    ])
  }

  async entries(): Promise<readonly Entry[]> {
    const { rows } = await this.#pool.query<Omit<Entry, 'fencingToken'> & { token: string }>(
      `SELECT account, worker, amount, fencing_token AS token FROM ${this.#schema}.entry ORDER BY number`,
    )
    return rows.map(({ token, ...entry }) => ({ ...entry, fencingToken: BigInt(token) }))
  }

  async drop(): Promise<void> {
    await this.#pool.query(`DROP SCHEMA IF EXISTS ${this.#schema} CASCADE`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close()
    await this.#pool.end()
  }
}
