/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import { hasMethods, type Clock } from 'lease-core'
import { OptionChecks, type SubstrateClientOptions } from 'lease-core/adapter'
import { isPipeline } from './connection.ts'
import type {
  NodeRedisClient,
  NodeRedisCluster,
  NodeRedisScripting,
  RedisConnection,
  RedisListenConnection,
} from './driver.ts'
import { asIoredis } from './node-redis.ts'

/** What the substrate needs to know. */
export interface RedisSubstrateOptions {
  /**
   * The connection: a `Redis` or `Cluster` of ioredis, a client, cluster or sentinel of node-redis (connected), or anything of that
   * shape. It stays yours: close it after the client. Its `keyPrefix`, if it has one, is part of where the leases are.
   */
  readonly redis: RedisConnection | NodeRedisClient | NodeRedisCluster | NodeRedisScripting
  /**
   * Leases of different namespaces know nothing of each other. At most 255 bytes, without `{` and `}`: it is the hash tag
   * of all its keys, so that a namespace is in one slot of a Cluster. Spread over several for more throughput.
   */
  readonly namespace: string
  /** Begins the name of every key, without `{` and `}`. @default 'lease' */
  readonly prefix?: string | undefined
  /**
   * Makes the connection that hears of vacated leases: `() => redis.duplicate()`, or a promise of one; one of node-redis is connected
   * here. It is used once and then
   * closed, and made anew when it breaks: what it was given, a token for example, is asked for again. All clients that are given
   * the same function share one connection. `false`: waiting works by timer alone. @default a connection made as `redis` was, shared
   * by all clients over `redis`
   */
  readonly listen?:
    | (() => RedisListenConnection | NodeRedisClient | Promise<RedisListenConnection | NodeRedisClient>)
    | false
    | undefined
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** What `redisClient` needs to know. */
export interface RedisClientOptions
  extends RedisSubstrateOptions, Omit<SubstrateClientOptions, 'substrate' | 'clock'> {}

const own = ['redis', 'prefix', 'listen', 'clock']

/** @throws ErrNotValid with every problem; `client` says whose options they are */
export function checkOptions(options: RedisClientOptions, { client }: { readonly client: boolean }): void {
  const checks = new OptionChecks(options, own, { client })
  const { namespace, prefix, listen } = options
  const redis = asIoredis(options.redis)
  // A URL or a configuration that is passed by mistake has a password in it: only its kind is shown.
  const must = (argument: 'redis' | 'prefix' | 'listen', sound: boolean, rule: string): void => {
    if (!sound) checks.add([{ argument, rule, value: kindOf(options[argument]) }])
  }
  const connection = hasMethods(redis, 'eval', 'evalsha') && !isPipeline(redis)
  const lines = 'new Redis(url) of ioredis, or createClient({ url }) of redis'
  must('redis', connection, `must be a connection (an object with eval and evalsha): ${lines}`)
  if (connection) {
    const driverPrefix: unknown = redis.options?.keyPrefix
    must('redis', driverPrefix === undefined || typeof driverPrefix === 'string', 'must have a string as keyPrefix')
  }
  const tagged = typeof namespace !== 'string' || !/[{}]/.test(namespace)
  checks.must('namespace', tagged, 'must not contain { or }: it is the hash tag of its keys')
  const named = prefix === undefined || (typeof prefix === 'string' && prefix !== '' && !/\p{Cs}/u.test(prefix))
  must('prefix', named && !/[{}]/.test(prefix ?? ''), 'must be a string that is not empty, without { and }')
  const listens = listen === undefined || listen === false || typeof listen === 'function'
  must('listen', listens, 'must be false or a function that makes a connection')
  if (listen === undefined && connection) {
    const tells = hasMethods(redis, 'duplicate') || hasMethods(redis, 'nodes')
    must('listen', tells, 'must be given, for this connection does not show how to make another')
  }
  checks.finish()
}

function kindOf(value: unknown): unknown {
  if (value === undefined || value === null || typeof value === 'boolean' || value === '') return value
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`
}
