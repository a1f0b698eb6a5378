/**
 * How a process connects to a store. A driver is loaded with the first connection that needs it: a worker needs one of four, and to load
 * them all takes longer than all else at its start.
 */
import { createRequire } from 'node:module'
import type { Client } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import type * as Etcd from 'etcd3'
import type * as IoRedis from 'ioredis'
import type { Cluster, Redis, RedisOptions } from 'ioredis'
import type * as Pg from 'pg'
import type * as Dynamodb from './dynamodb.ts'

const require = createRequire(import.meta.url)
const drivers = {
  ioredis: () => require('ioredis') as typeof IoRedis,
  pg: () => require('pg') as typeof Pg,
  etcd3: () => require('etcd3') as typeof Etcd,
}

let dynamodb: typeof Dynamodb | undefined

/**
 * Loads what a process needs before it opens anything on a store of this kind. Only for DynamoDB there is something to load: its SDK and the
 * adapter on it take half a second.
 */
export async function loadStore(kind: StoreAddress['kind']): Promise<void> {
  if (kind === 'dynamodb') dynamodb ??= await import('./dynamodb.ts')
}

/** What was loaded for DynamoDB. @throws before {@link loadStore} */
export function dynamodbParts(): typeof Dynamodb {
  if (dynamodb === undefined) throw new Error('await loadStore() before anything is opened on DynamoDB')
  return dynamodb
}

/** How any process reaches a store. */
export interface StoreAddress {
  readonly kind: 'redis' | 'postgres' | 'etcd' | 'dynamodb'
  /** Of several servers, separated by commas: several of Redis are a cluster. Of DynamoDB `dynamodb://host:port/table`. */
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
    const listen =
      listenUrl === undefined ? {} : { listen: () => new (drivers.pg().Client)({ connectionString: listenUrl }) }
    return closing(postgresClient({ pool, namespace, ...listen }), () => pool.end())
  }
  if (kind === 'dynamodb') {
    const { dynamodbClient, openDynamodb } = dynamodbParts()
    const { client, table } = openDynamodb(reach)
    return closing(dynamodbClient({ client, table, namespace }), () => client.destroy())
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
  const { Cluster, Redis } = drivers.ioredis()
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
export function openPool({ url }: Reach, max: number, answerMs?: number): Pg.Pool {
  const limit = answerMs === undefined ? {} : { query_timeout: answerMs }
  const pool = new (drivers.pg().Pool)({ connectionString: url, max, connectionTimeoutMillis: 5_000, ...limit })
  pool.on('error', () => {}) // of an idle connection: the next query makes another
  return pool
}

/** A driver of an etcd. */
export function openEtcd({ url }: Reach): Etcd.Etcd3 {
  return new (drivers.etcd3().Etcd3)({ hosts: url.split(','), ...failFast() })
}

function closing(client: Client, disconnect: () => unknown): OpenClient {
  const close = async (): Promise<void> => {
    await client.close()
    await disconnect()
  }
  return { client, close }
}
