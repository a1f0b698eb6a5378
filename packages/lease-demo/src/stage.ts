/** Where the story plays: a schema of its own on the server of `DATABASE_URL`, or on one started for it. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { startPostgres } from 'lease-servers'
import type { Books } from './books.ts'
import type { Balances } from './ledger.ts'
import { PostgresOffice, type PostgresPlace } from './postgres-ledger.ts'

const FAREWELL_MS = 3000

export class Stage implements AsyncDisposable {
  readonly place: PostgresPlace
  /** For the reader. */
  readonly description: string
  readonly #office: PostgresOffice
  readonly #server: AsyncDisposable | undefined

  private constructor(place: PostgresPlace, description: string, server: AsyncDisposable | undefined) {
    this.place = place
    this.description = description
    this.#office = new PostgresOffice(place)
    this.#server = server
  }

  /** @throws when there is no server or it refuses; nothing is left behind. */
  static async set(databaseUrl: string | undefined, opening: Balances): Promise<Stage> {
    const schema = `lease_demo_${process.pid}_${randomBytes(4).toString('hex')}`
    const server = databaseUrl === undefined ? await startPostgres({ version: 18 }) : undefined
    const url = databaseUrl ?? server?.url ?? ''
    const where =
      server === undefined
        ? `the server of DATABASE_URL, in a schema of its own (${schema})`
        : `PostgreSQL ${server.version} started for this demo on port ${server.port}`
    const stage = new Stage({ url, schema }, where, server)
    try {
      await stage.#office.open(opening)
      return stage
    } catch (error) {
      await stage[Symbol.asyncDispose]().catch(() => {}) // the first error is the one to tell
      throw error
    }
  }

  async books(): Promise<Books> {
    return await this.#office.books()
  }

  /** Removes the schema, or the server with all its data. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#server === undefined) await this.#office.drop()
    } finally {
      // A server that hangs would never let a connection end.
      await Promise.race([this.#office[Symbol.asyncDispose](), sleep(FAREWELL_MS)])
      await this.#server?.[Symbol.asyncDispose]()
    }
  }
}
