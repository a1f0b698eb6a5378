/** What may befall a PostgreSQL server from inside: other sessions, operators, maintenance. */
import { collect } from 'lease-postgres'
import { type Postgres, until } from 'lease-servers'
import { Client, Pool } from 'pg'
import type { ReportLoss } from '../ground.ts'
import { nowMs } from '../recorder.ts'
import { between, fault, type Fault, lasting, type Mend, oneOf, repeatedly, type Span } from './strike.ts'

const USUAL: Span = { fromMs: 800, toMs: 4000 }
/** The library keeps a vacated lease for as long at least. */
const RETENTION_MS = 10_000

export interface PostgresField {
  readonly server: Postgres
  /** The database of the leases, as superuser. */
  readonly url: string
  readonly database: string
  /** The role of the workers, which is no superuser. */
  readonly role: string
  readonly namespace: string
  readonly lost: ReportLoss
}

/** On the server that workers use. */
export function postgresNemeses(field: PostgresField): readonly Fault[] {
  const { url, role } = field
  return [
    fault('pg-terminate', { breaks: 'server', lasts: USUAL }, (battle, say) => {
      const share = oneOf(battle, [0.05, 0.2, 1])
      say(`${share * 100} %`)
      return repeatedly(battle, { fromMs: 100, toMs: 1000 }, async () => terminate(field, share))
    }),
    fault('pg-role-timeouts', { breaks: 'server', lasts: USUAL }, async (battle, say) => {
      const names = ['lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout'] as const
      const name = oneOf(battle, names)
      const ms = Math.round(between(battle, { fromMs: 3, toMs: 30 }))
      say(`${name} = ${ms} ms`)
      return setForSessions(field, `ALTER ROLE ${role} SET ${name} = ${ms}`, `ALTER ROLE ${role} RESET ${name}`)
    }),
    fault('pg-max-connections', { breaks: 'server', lasts: USUAL }, async (battle) => {
      const taken: Client[] = []
      // Those of workers that become free are taken, too.
      const end = repeatedly(battle, { fromMs: 20, toMs: 100 }, async () => {
        for (let one = await connectionAs(field); one !== undefined; one = await connectionAs(field)) taken.push(one)
      })
      return async () => {
        await end()
        await Promise.all(taken.map(async (one) => one.end()))
      }
    }),
    fault('pg-row-locks', { breaks: 'server', lasts: { fromMs: 100, toMs: 2000 } }, async (battle, say) => {
      const mode = oneOf(battle, ['UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE'])
      const share = oneOf(battle, [0.1, 0.3, 1])
      say(`FOR ${mode}, ${share * 100} %`)
      return inTransaction(url, `SELECT FROM lease WHERE random() < ${share} FOR ${mode} SKIP LOCKED`)
    }),
    fault('pg-table-lock', { breaks: 'server', lasts: { fromMs: 100, toMs: 2000 } }, async (battle, say) => {
      const mode = oneOf(battle, ['SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE'])
      say(mode)
      return inTransaction(url, `LOCK TABLE lease IN ${mode} MODE`)
    }),
    fault('pg-maintenance', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async (battle, say) => {
      const statement = oneOf(battle, [
        'VACUUM FULL lease',
        'REINDEX TABLE lease',
        'CLUSTER lease USING lease_pkey',
        'CHECKPOINT',
      ])
      say(statement)
      await alone(url, async (client) => client.query(statement))
      return () => undefined
    }),
    fault('pg-collect', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async () => {
      const pool = new Pool({ connectionString: url, max: 1 })
      pool.on('error', () => undefined)
      try {
        await collect(pool, { namespace: field.namespace, retention: RETENTION_MS })
      } finally {
        await pool.end()
      }
      return () => undefined
    }),
    fault(
      'pg-async-kill',
      { breaks: 'server', lasts: { fromMs: 500, toMs: 1500 }, isControl: true },
      async (battle) => {
        const { database, server, lost } = field
        const fromMs = nowMs()
        const mend = await setForSessions(
          field,
          `ALTER DATABASE ${database} SET synchronous_commit = off`,
          `ALTER DATABASE ${database} RESET synchronous_commit`,
        )
        await lasting(battle, between(battle, { fromMs: 300, toMs: 1500 }))
        await server.kill()
        lost({ what: 'pg-async-kill', fromMs, toMs: nowMs() })
        return async () => {
          await server.restart()
          await mend()
        }
      },
    ),
  ]
}

/** Changes a setting that sessions take over when they begin, for all sessions of workers; the mend ends that for all. */
async function setForSessions(field: PostgresField, change: string, reset: string): Promise<Mend> {
  const run = async (statement: string): Promise<void> => {
    await alone(field.url, async (client) => client.query(statement))
    await terminate(field, 1)
  }
  await run(change)
  return async () => run(reset)
}

/** Ends a share of the workers' backends, by chance. */
async function terminate({ url, role }: PostgresField, share: number): Promise<void> {
  await alone(url, async (client) =>
    client.query(
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND pid <> pg_backend_pid() AND random() < $2',
      [role, share],
    ),
  )
}

/** Runs a statement whose locks are kept until the mend. */
async function inTransaction(url: string, statement: string): Promise<Mend> {
  const client = await connected(url)
  try {
    await client.query('BEGIN')
    // Who waits for a lock lets nobody pass, so it does not wait for long.
    await client.query("SET LOCAL lock_timeout = '1s'")
    await client.query(statement)
  } catch (error) {
    await client.end()
    if ((error as { readonly code?: string }).code !== '55P03') throw error
  }
  return async () => client.end()
}

/** One more session like those of the workers; undefined when there is no room. */
async function connectionAs({ url, role }: PostgresField): Promise<Client | undefined> {
  const as = new URL(url)
  as.username = role
  return await connected(as.href).catch((error: unknown) => {
    if ((error as { readonly code?: string }).code === '53300') return undefined
    throw error
  })
}

/** Does something on a connection of its own, as soon as the server takes one. */
async function alone<T>(url: string, act: (client: Client) => Promise<T>): Promise<T> {
  const client = await until('a connection for a nemesis', async () => connected(url).catch(() => undefined), 50)
  try {
    return await act(client)
  } finally {
    await client.end()
  }
}

async function connected(connectionString: string): Promise<Client> {
  const client = new Client({ connectionString })
  client.on('error', () => undefined)
  await client.connect()
  return client
}
