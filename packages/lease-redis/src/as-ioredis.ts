/**
 * Connections of other drivers in the shape of ioredis, which is what the rest of this package calls. What is passed in tells which
 * driver it is.
 */
import type {
  NodeRedisClient,
  NodeRedisCluster,
  NodeRedisScripting,
  RedisConnection,
  RedisListenConnection,
  ValkeyGlideClient,
} from './driver.ts'
import { isNodeRedis, listeningOverNodeRedis, overNodeRedis } from './node-redis.ts'
import { isValkeyGlide, ValkeyGlideOwn, ValkeyGlideScripting } from './valkey-glide.ts'

/** A connection of one of the drivers. */
export type AnyConnection =
  | RedisConnection
  | NodeRedisClient
  | NodeRedisCluster
  | NodeRedisScripting
  | ValkeyGlideClient

/** A connection that listens, of one of the drivers. */
export type AnyListenConnection = RedisListenConnection | NodeRedisClient | ValkeyGlideClient

/** By what was passed in: the same client gives the same connection. */
const known = new WeakMap<object, object>()

/** The same in the shape of ioredis; anything else as it is. */
export function asIoredis(given: AnyConnection): RedisConnection
export function asIoredis<T>(given: T): T
export function asIoredis(given: unknown): unknown {
  const make = isNodeRedis(given) ? overNodeRedis : isValkeyGlide(given) ? overValkeyGlide : undefined
  if (make === undefined) return given
  const made = known.get(given as object) ?? make(given as never)
  known.set(given as object, made)
  return made
}

function overValkeyGlide(client: ValkeyGlideClient): ValkeyGlideScripting {
  return new ValkeyGlideScripting(client)
}

/** A connection that listens: one of another driver is connected, and ends as those of ioredis do. */
export function asListenConnection(made: AnyListenConnection): RedisListenConnection {
  if (isValkeyGlide(made)) return new ValkeyGlideOwn(made)
  return isNodeRedis(made) ? listeningOverNodeRedis(made) : made
}

/** What makes another connection where this one does not show how: the function that makes one to listen, for valkey-glide. */
export function anotherBy(
  given: AnyConnection,
  listen: (() => AnyListenConnection | Promise<AnyListenConnection>) | false | undefined,
): (() => ValkeyGlideOwn) | undefined {
  if (!isValkeyGlide(given) || typeof listen !== 'function') return undefined
  const make = async (): Promise<ValkeyGlideClient> => {
    const made = await listen()
    if (isValkeyGlide(made)) return made
    asListenConnection(made).disconnect()
    throw new Error('the function that makes a connection to listen makes one of another driver')
  }
  return () => new ValkeyGlideOwn(make())
}
