/**
 * Which servers the tests run against. `DATABASE_URL` names the one and only; otherwise PostgreSQL 18 and 15 are started
 * once for the whole run, and only if some test file asked.
 */
import { randomBytes } from 'node:crypto'
import { Client } from 'pg'
import { type Postgres, startPostgres } from './postgres.ts'

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

const versions = [18, 15] as const
const ours = 'LEASE_SERVERS_TARGETS'
let asked = false

/**
 * The servers of this run. Call it while the test file is loaded, outside of any hook or test: that call is what makes
 * the global setup start them.
 */
export function postgresTargets(): readonly PostgresTarget[] {
  asked = true
  const names = process.env['DATABASE_URL'] ? ['postgres (DATABASE_URL)'] : versions.map((one) => `postgres ${one}`)
  return names.map((name, index) => ({
    name,
    get version() {
      return reached(index).version
    },
    get url() {
      return reached(index).url
    },
    get passwordUrl() {
      return reached(index).passwordUrl
    },
  }))
}

/** Makes an empty database with a name of its own on that server. */
export async function freshDatabase(target: { readonly url: string }): Promise<FreshDatabase> {
  const name = `lease_${process.pid}_${randomBytes(6).toString('hex')}`
  await statement(target.url, `CREATE DATABASE ${name} TEMPLATE template0`)
  const url = new URL(target.url)
  url.pathname = `/${name}`
  const drop = async (): Promise<void> => statement(target.url, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)
  return { url: url.href, drop, [Symbol.asyncDispose]: drop }
}

/** Starts what test files have asked for and lets their targets find it. @throws with a hint when a server cannot be had. */
export async function openTargets(): Promise<() => Promise<void>> {
  if (!asked) return async () => undefined
  const given = process.env['DATABASE_URL']
  if (given) {
    publish([{ url: given, version: await versionOf(given) }])
    return async () => undefined
  }
  const started = await Promise.allSettled(versions.map(async (version) => startPostgres({ version })))
  const servers: Postgres[] = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  const close = async (): Promise<void> => {
    await Promise.all(servers.map(async (server) => server.stop()))
  }
  const failure = started.find((one) => one.status === 'rejected')
  if (failure) {
    await close()
    throw failure.reason
  }
  publish(servers.map(({ url, version, passwordUrl }) => ({ url, version, passwordUrl })))
  return close
}

function publish(targets: readonly Reached[]): void {
  process.env[ours] = JSON.stringify(targets)
}

function reached(index: number): Reached {
  const published = process.env[ours]
  if (!published) throw new Error('no server yet: call postgresTargets() while the file loads, use its url in before()')
  const target = (JSON.parse(published) as readonly Reached[])[index]
  if (!target) throw new Error(`no target ${index}`)
  return target
}

async function versionOf(url: string): Promise<number> {
  const client = new Client({ connectionString: url })
  try {
    await client.connect()
    const { rows } = await client.query<{ version: string }>(`SELECT current_setting('server_version_num') AS version`)
    return Math.floor(Number(rows[0]?.version) / 10_000)
  } catch (cause) {
    throw new Error(`the server that DATABASE_URL names cannot be reached (${reason(cause)})`, { cause })
  } finally {
    await client.end().catch(() => undefined)
  }
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

/** Node reports a refused connection by its code, and without a message when it has tried several addresses. */
function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && error.message === '' ? String(error.code) : error.message
}
