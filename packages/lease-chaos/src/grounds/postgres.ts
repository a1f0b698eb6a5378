/** PostgreSQL: one server, one behind a pgbouncer, and one with a standby that each COMMIT waits for. */
import { migrate } from 'lease-postgres'
import { type Postgres, postgresQuery, startPgbouncer, startPostgres, startPostgresPair } from 'lease-servers'
import { Pool } from 'pg'
import type { Ground, Loss, Reach } from '../ground.ts'
import { bouncerNemeses } from '../nemeses/bouncer.ts'
import { connectionNemeses, listenerNemeses } from '../nemeses/connections.ts'
import { postgresNemeses } from '../nemeses/postgres.ts'
import { kill, pause, restart, SERVER_CLOCK_NEMESES, serverClockNemeses } from '../nemeses/server.ts'
import { assembled, type GroundOptions, inParts } from './assemble.ts'
import { Ways } from './ways.ts'

const DATABASE = 'chaos'
/** Workers are no superusers: what an operator sets for them, or takes from them, leaves the judge alone. */
const ROLE = 'worker'
const SETTINGS = {
  max_connections: '60',
  // Long, so that a server that does not wait for its log really loses something when it is killed.
  wal_writer_delay: '2s',
}

export async function openPostgres(options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    const shim = ways.shim?.control()
    const server = stack.use(await startPostgres({ durable: true, settings: SETTINGS, ...(shim && { env: shim.env }) }))
    const { worker, superuser } = await prepared(server)
    const losses: Loss[] = []
    const lost = (loss: Loss): void => void losses.push(loss)
    const proxies = (): Ways['proxies'] => ways.proxies
    return assembled({
      name: 'postgres',
      ways,
      stack,
      judge: { kind: 'postgres', url: superuser, namespace: options.namespace },
      reach: reachBy(ways, options, worker),
      withShim: SERVER_CLOCK_NEMESES,
      losses: () => losses,
      faults: [
        ...serverFaults(server),
        ...connectionNemeses(proxies),
        ...listenerNemeses(proxies),
        ...postgresNemeses({
          server,
          url: superuser,
          database: DATABASE,
          role: ROLE,
          namespace: options.namespace,
          lost,
        }),
        ...(shim === undefined ? [] : serverClockNemeses(shim, server)),
      ],
    })
  })
}

export async function openPgbouncer(options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    const server = stack.use(await startPostgres({ durable: true, settings: SETTINGS }))
    const { worker, superuser } = await prepared(server)
    // Few connections to the server: workers share them, and wait for them.
    const settings = { server_login_retry: '1' } // for fifteen seconds it would not look for a server that was down
    const bouncer = stack.use(await startPgbouncer(worker, { poolSize: 3, settings }))
    return assembled({
      name: 'pgbouncer',
      ways,
      stack,
      judge: { kind: 'postgres', url: superuser, namespace: options.namespace },
      reach: reachBy(ways, options, bouncer.url, worker),
      faults: [
        ...serverFaults(server),
        ...connectionNemeses(() => ways.proxies),
        ...listenerNemeses(() => ways.proxies),
        ...bouncerNemeses(bouncer, DATABASE),
      ],
    })
  })
}

/** Workers use the primary. Nobody promotes the standby, so nothing may be lost. */
export async function openStandby(options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    // A standby starts with no less than the primary had when its data was made.
    const settings = { ...SETTINGS, max_connections: '100', synchronous_commit: 'on' }
    const pair = stack.use(await startPostgresPair({ durable: true, settings }))
    const { primary, standby } = pair
    const { worker, superuser } = await prepared(primary)
    await pair.synchronous('on')
    const losses: Loss[] = []
    return assembled({
      name: 'standby',
      ways,
      stack,
      losses: () => losses,
      judge: { kind: 'postgres', url: superuser, namespace: options.namespace },
      reach: reachBy(ways, options, worker),
      faults: [
        ...serverFaults(primary),
        pause('standby-pause', () => standby),
        kill('standby-kill', () => standby),
        ...connectionNemeses(() => ways.proxies),
        ...listenerNemeses(() => ways.proxies),
        // A COMMIT that does not wait for the disk does not wait for the standby either.
        ...postgresNemeses({
          server: primary,
          url: superuser,
          database: DATABASE,
          role: ROLE,
          namespace: options.namespace,
          lost: (loss) => void losses.push(loss),
        }),
      ],
    })
  })
}

function serverFaults(server: Postgres): readonly ReturnType<typeof pause>[] {
  return [
    pause('server-pause', () => server),
    kill('server-kill', () => server),
    restart('server-restart', () => server),
  ]
}

function reachBy(ways: Ways, { namespace }: GroundOptions, url: string, listenUrl?: string): Ground['reach'] {
  return async (worker): Promise<Reach> => {
    const { urls, env } = await ways.add(worker, listenUrl === undefined ? [url] : [url, listenUrl])
    const [own = '', listens] = urls
    return { kind: 'postgres', url: own, namespace, env, ...(listens !== undefined && { listenUrl: listens }) }
  }
}

/** Makes the database and the role of the workers, and the tables of the library. */
async function prepared({ url }: Postgres): Promise<{ readonly worker: string; readonly superuser: string }> {
  await postgresQuery(url, `CREATE ROLE ${ROLE} LOGIN`)
  await postgresQuery(url, `CREATE DATABASE ${DATABASE} OWNER ${ROLE} TEMPLATE template0`)
  const superuser = new URL(url)
  superuser.pathname = `/${DATABASE}`
  const worker = new URL(superuser)
  worker.username = ROLE
  // Also what the judge makes there belongs to all.
  for (const kind of ['TABLES', 'SEQUENCES', 'FUNCTIONS']) {
    await postgresQuery(superuser.href, `ALTER DEFAULT PRIVILEGES GRANT ALL ON ${kind} TO ${ROLE}`)
  }
  await postgresQuery(superuser.href, `ALTER SCHEMA public OWNER TO ${ROLE}`)
  const pool = new Pool({ connectionString: worker.href, max: 1 })
  try {
    await migrate(pool)
  } finally {
    await pool.end()
  }
  return { worker: worker.href, superuser: superuser.href }
}
