/** The stores of a race: the judge opens one, and every worker connects to it. */
import type { Client } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { migrate, postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import { etcdTargets, freshDatabase, isMatrix, type PostgresTarget, postgresTargets, redisTargets } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import { Client as PgClient, Pool } from 'pg'

/** How any process reaches a store. */
export interface StoreAddress {
  readonly kind: 'redis' | 'postgres' | 'etcd'
  /** Of several servers, separated by commas: several of Redis are a cluster. */
  readonly url: string
  readonly namespace: string
}

/** How one worker reaches the store: through a proxy of its own, where the ground has proxies. */
export interface Reach extends StoreAddress {
  /** PostgreSQL: where it listens, if not at `url`. */
  readonly listenUrl?: string
  /** Redis: the Sentinels to ask for the master, separated by commas (`redis://host:port`), and the name of their master. */
  readonly sentinels?: string
  readonly master?: string
  /** Environment of the worker's process, for instance a clock shim. */
  readonly env?: Readonly<Record<string, string>>
}

/** A store that a race may use. */
export interface RaceStore {
  /** For titles. */
  readonly name: string
  readonly kind: StoreAddress['kind']
  open(namespace: string): Promise<OpenStore>
}

export interface OpenStore {
  readonly address: StoreAddress
  close(): Promise<void>
}

/**
 * What a race runs on in the matrix. `each`: one server of each kind. `sorts`: and a Redis Cluster. `all`: every server, and no cluster.
 * Call it while the test file is loaded.
 *
 * @param few the kinds on which the test command runs the race, on one server each: every process costs half a second. @default all three
 */
export function raceStores(
  which: 'each' | 'sorts' | 'all',
  few: readonly StoreAddress['kind'][] = ['redis', 'postgres', 'etcd'],
): readonly RaceStore[] {
  const isWanted = (kind: StoreAddress['kind']): boolean => isMatrix() || few.includes(kind)
  const most = which === 'all' && isMatrix() ? undefined : 1
  return [
    ...(isWanted('redis') ? redisTargets('server') : []).map((target) =>
      shared(target.name, 'redis', () => target.url),
    ),
    ...(which === 'sorts' && isMatrix() ? redisTargets('cluster') : []).map((target) =>
      shared(target.name, 'redis', () => target.nodes.map(({ host, port }) => `redis://${host}:${port}`).join(',')),
    ),
    ...(isWanted('postgres') ? postgresTargets().slice(0, most) : []).map((target) => ({
      name: target.name,
      kind: 'postgres' as const,
      open: (namespace: string) => openPostgres(target, namespace),
    })),
    ...(isWanted('etcd') ? etcdTargets(most) : []).map((target) =>
      shared(target.name, 'etcd', () => target.endpoints.join(',')),
    ),
  ]
}

function shared(name: string, kind: StoreAddress['kind'], url: () => string): RaceStore {
  const open = async (namespace: string): Promise<OpenStore> => ({
    address: { kind, url: url(), namespace },
    close: async () => {},
  })
  return { name, kind, open }
}

async function openPostgres(target: PostgresTarget, namespace: string): Promise<OpenStore> {
  const database = await freshDatabase(target)
  const pool = new Pool({ connectionString: database.url, max: 1 })
  await migrate(pool)
  await pool.end()
  return { address: { kind: 'postgres', url: database.url, namespace }, close: () => database.drop() }
}

export interface OpenClient {
  readonly client: Client
  close(): Promise<void>
}

/** A client of this process. */
export function openClient(reach: Reach): OpenClient {
  const { kind, namespace } = reach
  if (kind === 'redis') {
    const redis = openRedis(reach)
    return closing(redisClient({ redis, namespace }), () => redis.disconnect())
  }
  if (kind === 'postgres') {
    const pool = openPool(reach, 3)
    const { listenUrl } = reach
    const listen = listenUrl === undefined ? {} : { listen: () => new PgClient({ connectionString: listenUrl }) }
    return closing(postgresClient({ pool, namespace, ...listen }), () => pool.end())
  }
  const etcd = openEtcd(reach)
  return closing(etcdClient({ etcd, namespace }), () => etcd.close())
}

/** How a connection to Redis differs from the driver's own. */
export type ConnectionOptions = Pick<
  RedisOptions,
  'autoResendUnfulfilledCommands' | 'commandTimeout' | 'maxRetriesPerRequest' | 'retryStrategy'
>

/** A connection to a Redis, a Cluster, or the master that its Sentinels name. */
export function openRedis(reach: Reach, options: ConnectionOptions = {}): Redis | Cluster {
  const redis = connect(reach, options)
  redis.on('error', () => {}) // each command reports it
  return redis
}

function connect({ url, sentinels, master = 'mymaster' }: Reach, options: ConnectionOptions): Redis | Cluster {
  if (sentinels !== undefined) {
    const addresses = sentinels.split(',').map((one) => new URL(one))
    return new Redis({
      ...options,
      sentinels: addresses.map(({ hostname, port }) => ({ host: hostname, port: Number(port) })),
      name: master,
      socketTimeout: 2_000,
    })
  }
  const nodes = url.split(',')
  if (nodes.length === 1) return new Redis(url, { ...options })
  const { retryStrategy: _, ...redisOptions } = options
  return new Cluster(nodes, { redisOptions })
}

/** Connections to a PostgreSQL. @param answerMs how long a query may take. @default for ever */
export function openPool({ url }: Reach, max: number, answerMs?: number): Pool {
  const limit = answerMs === undefined ? {} : { query_timeout: answerMs }
  const pool = new Pool({ connectionString: url, max, connectionTimeoutMillis: 5_000, ...limit })
  pool.on('error', () => {}) // of an idle connection: the next query makes another
  return pool
}

/** A driver of an etcd. */
export function openEtcd({ url }: Reach): Etcd3 {
  return new Etcd3({ hosts: url.split(','), ...failFast() })
}

function closing(client: Client, disconnect: () => unknown): OpenClient {
  const close = async (): Promise<void> => {
    await client.close()
    await disconnect()
  }
  return { client, close }
}
