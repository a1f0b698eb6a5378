/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import { hasMethods, type Clock } from 'lease-core'
import { readAdapterOptions, type SubstrateClientOptions } from 'lease-core/adapter'
import { asIoredis, type AnyConnection, type AnyListenConnection } from './as-ioredis.ts'
import { isPipeline } from './connection.ts'
import { isValkeyGlide, problemOfValkeyGlide } from './valkey-glide.ts'

/** What the substrate needs to know. */
export interface RedisSubstrateOptions {
  /**
   * The connection: a `Redis` or `Cluster` of ioredis, a client, cluster or sentinel of node-redis (connected), a client of
   * valkey-glide, or anything of that shape. It stays yours: close it after the client. Its `keyPrefix`, if it has one, is part of
   * where the leases are.
   */
  readonly redis: AnyConnection
  /**
   * Leases of different namespaces know nothing of each other. At most 255 bytes, without `{` and `}`: it is the hash tag
   * of all its keys, so that a namespace is in one slot of a Cluster. Spread over several for more throughput.
   */
  readonly namespace: string
  /** Begins the name of every key, without `{` and `}`. @default 'lease' */
  readonly prefix?: string | undefined
  /**
   * Makes the connection that hears of vacated leases: `() => redis.duplicate()`, or a promise of one; one of node-redis is connected
   * here. It is used once and then closed, and made anew when it breaks: what it was given, a token for example, is asked for again. All
   * clients that are given the same function share one connection. valkey-glide needs it:
   * `() => GlideClient.createClient(configuration)`. `false`: waiting works by timer alone. @default a connection made as `redis` was, shared
   * by all clients over `redis`
   */
  readonly listen?: (() => AnyListenConnection | Promise<AnyListenConnection>) | false | undefined
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** What `redisClient` needs to know. */
export interface RedisClientOptions
  extends RedisSubstrateOptions, Omit<SubstrateClientOptions, 'substrate' | 'clock'> {}

const own = ['redis', 'prefix', 'listen', 'clock']

/** The options, each read once; `client` says whose they are. @throws ErrNotValid with every problem */
export function parseOptions<O extends RedisSubstrateOptions>(given: O, { client }: { readonly client: boolean }): O {
  const options = readAdapterOptions(given, own, { client, secret: ['redis', 'prefix', 'listen'] })
  const { namespace, prefix, listen } = options.read
  const redis = asIoredis(options.read.redis)
  const isConnection = hasMethods(redis, 'eval', 'evalsha') && !isPipeline(redis)
  const lines =
    'new Redis(url) of ioredis, createClient({ url }) of redis, or GlideClient.createClient(configuration) of valkey-glide'
  options.must('redis', isConnection, `must be a connection (an object with eval and evalsha): ${lines}`)
  const glide = isValkeyGlide(options.read.redis) ? options.read.redis : undefined
  const problem = glide && problemOfValkeyGlide(glide)
  options.must('redis', problem === undefined, problem ?? '')
  if (isConnection) {
    const ofDriver: unknown = redis.options?.keyPrefix
    const isText = ofDriver === undefined || typeof ofDriver === 'string'
    options.must('redis', isText, 'must have a string as keyPrefix')
  }
  const isTag = typeof namespace !== 'string' || !/[{}]/.test(namespace)
  options.must('namespace', isTag, 'must not contain { or }: it is the hash tag of its keys')
  const isName = prefix === undefined || (typeof prefix === 'string' && prefix !== '' && !/\p{Cs}|[{}]/u.test(prefix))
  options.must('prefix', isName, 'must be a string that is not empty, without { and }')
  const canListen = listen === undefined || listen === false || typeof listen === 'function'
  options.must('listen', canListen, 'must be false or a function that makes a connection')
  if (listen === undefined && isConnection) {
    const canCopy = hasMethods(redis, 'duplicate') || hasMethods(redis, 'nodes')
    const line = glide ? ': () => GlideClient.createClient(configuration)' : ''
    options.must('listen', canCopy, `must be given, for this connection does not show how to make another${line}`)
  }
  options.finish()
  return options.read
}
