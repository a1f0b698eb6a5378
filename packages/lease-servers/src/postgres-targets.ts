/**
 * Which PostgreSQL the tests run against: `DATABASE_URL` names the one and only; otherwise 18 and 15 are started. A pgbouncer
 * stands before the first of them.
 */
import { randomBytes } from 'node:crypto'
import type { Client } from 'pg'
import { startPgbouncer } from './pgbouncer.ts'
import { postgresQuery, startPostgres } from './postgres.ts'
import { ANSWER_MS, nothing, type Opened, type Shared, shared, unreachable } from './targets.ts'

/** A server to test against. `name` is known at once; the rest from the first `before` hook on. */
export interface PostgresTarget {
  /** For titles: `postgres 18`. */
  readonly name: string
  readonly version: number
  readonly url: string
  /** The same server past the pooler, for LISTEN; the `url` where there is none. */
  readonly directUrl: string
  /** The same server as a role whose password is checked; undefined on a server that is not ours. */
  readonly passwordUrl: string | undefined
}

/** A database of its own. */
export interface FreshDatabase extends AsyncDisposable {
  readonly url: string
  /** Past the pooler; the `url` where there is none. */
  readonly directUrl: string
  /** Removes it, no matter who is still connected. Idempotent. */
  drop(): Promise<void>
}

interface Reached {
  readonly version: number
  readonly url: string
  readonly directUrl?: string
  readonly passwordUrl?: string
}

/**
 * The servers of this run. Call it while the test file is loaded, outside of any hook or test: that call is what makes
 * the global setup start them.
 */
export function postgresTargets(): readonly PostgresTarget[] {
  return servers().map(target)
}

/** The first of these servers behind a pgbouncer in transaction mode. Ask for it as for them. */
export function pgbouncerTarget(): PostgresTarget {
  const [behind] = servers()
  if (behind === undefined) throw new Error('there is no PostgreSQL')
  behind.ask()
  return target(shared(`${behind.name} behind pgbouncer`, async (reach) => pooled(await reach(behind))))
}

function servers(): readonly Shared<Reached>[] {
  const url = process.env['DATABASE_URL']
  if (url) return [shared('postgres (DATABASE_URL)', async () => givenPostgres(url))]
  return ([18, 15] as const).map((version) => shared(`postgres ${version}`, async () => started(version)))
}

function target(server: Shared<Reached>): PostgresTarget {
  server.ask()
  return {
    name: server.name,
    get version() {
      return server.reached.version
    },
    get url() {
      return server.reached.url
    },
    get directUrl() {
      return server.reached.directUrl ?? server.reached.url
    },
    get passwordUrl() {
      return server.reached.passwordUrl
    },
  }
}

async function pooled({ url, version }: Reached): Promise<Opened<Reached>> {
  const pgbouncer = await startPgbouncer(url)
  return { reached: { url: pgbouncer.url, version, directUrl: url }, stop: async () => pgbouncer.stop() }
}

async function started(major: 18 | 15): Promise<Opened<Reached>> {
  const server = await startPostgres({ version: major })
  const { url, version, passwordUrl } = server
  return { reached: { url, version, passwordUrl }, stop: async () => server.stop() }
}

/** The server that DATABASE_URL names. @throws with a message of one line when it does not answer within `withinMs` */
export async function givenPostgres(url: string, withinMs: number = ANSWER_MS): Promise<Opened<Reached>> {
  let client: Client | undefined
  try {
    const pg = await import('pg')
    client = new pg.Client({ connectionString: url, connectionTimeoutMillis: withinMs, query_timeout: withinMs })
    client.on('error', () => undefined)
    await client.connect()
    const { rows } = await client.query<{ version: string }>(`SELECT current_setting('server_version_num') AS version`)
    return { reached: { url, version: Math.floor(Number(rows[0]?.version) / 10_000) }, stop: nothing }
  } catch (cause) {
    throw unreachable('DATABASE_URL', cause)
  } finally {
    client?.end().catch(() => undefined) // one that hangs would not let it end
  }
}

/** Makes an empty database with a name of its own on that server. */
export async function freshDatabase(on: { readonly url: string; readonly directUrl?: string }): Promise<FreshDatabase> {
  const { url, directUrl = url } = on
  const name = `lease_${process.pid}_${randomBytes(6).toString('hex')}`
  await postgresQuery(directUrl, `CREATE DATABASE ${name} TEMPLATE template0 STRATEGY file_copy`)
  const drop = async (): Promise<void> => {
    await postgresQuery(directUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
  }
  return { url: databaseAt(url, name), directUrl: databaseAt(directUrl, name), drop, [Symbol.asyncDispose]: drop }
}

function databaseAt(server: string, name: string): string {
  const url = new URL(server)
  url.pathname = `/${name}`
  return url.href
}
