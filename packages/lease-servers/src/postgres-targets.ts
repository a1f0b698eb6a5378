/**
 * Which PostgreSQL the tests run against: `DATABASE_URL` names the one and only; otherwise 18 and 15 are started.
 */
import { randomBytes } from 'node:crypto'
import { Client } from 'pg'
import { startPostgres } from './postgres.ts'
import { ANSWER_MS, nothing, type Opened, shared, unreachable } from './targets.ts'

/** A server to test against. `name` is known at once; the rest from the first `before` hook on. */
export interface PostgresTarget {
  /** For titles: `postgres 18`. */
  readonly name: string
  readonly version: number
  readonly url: string
  /** The same server as a role whose password is checked; undefined on a server that is not ours. */
  readonly passwordUrl: string | undefined
}

/** A database of one's own. */
export interface FreshDatabase extends AsyncDisposable {
  readonly url: string
  /** Removes it, whoever is still connected. Idempotent. */
  drop(): Promise<void>
}

interface Reached {
  readonly version: number
  readonly url: string
  readonly passwordUrl?: string
}

/**
 * The servers of this run. Call it while the test file is loaded, outside of any hook or test: that call is what makes
 * the global setup start them.
 */
export function postgresTargets(): readonly PostgresTarget[] {
  const url = process.env['DATABASE_URL']
  if (url) return [target('postgres (DATABASE_URL)', async () => givenPostgres(url))]
  return ([18, 15] as const).map((version) => target(`postgres ${version}`, async () => started(version)))
}

function target(name: string, open: () => Promise<Opened<Reached>>): PostgresTarget {
  const server = shared(name, open)
  server.ask()
  return {
    name,
    get version() {
      return server.reached.version
    },
    get url() {
      return server.reached.url
    },
    get passwordUrl() {
      return server.reached.passwordUrl
    },
  }
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
    client = new Client({ connectionString: url, connectionTimeoutMillis: withinMs, query_timeout: withinMs })
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
export async function freshDatabase(on: { readonly url: string }): Promise<FreshDatabase> {
  const name = `lease_${process.pid}_${randomBytes(6).toString('hex')}`
  await statement(on.url, `CREATE DATABASE ${name} TEMPLATE template0`)
  const url = new URL(on.url)
  url.pathname = `/${name}`
  const drop = async (): Promise<void> => statement(on.url, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
  return { url: url.href, drop, [Symbol.asyncDispose]: drop }
}

async function statement(url: string, text: string): Promise<void> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(text)
  } finally {
    await client.end()
  }
}
