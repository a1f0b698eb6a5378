/** lease-core on Redis. */
export { redisClient } from './redis-client.ts'
export { RedisSubstrate } from './redis-substrate.ts'
export type { RedisClientOptions, RedisSubstrateOptions } from './options.ts'
export { RedisGuard } from './guard.ts'
export type {
  NodeRedisClient,
  NodeRedisCluster,
  NodeRedisScriptOptions,
  NodeRedisScripting,
  NodeRedisTransactional,
  RedisClusterNodes,
  RedisConnection,
  RedisDuplicable,
  RedisListenConnection,
  RedisListenOverrides,
  RedisPrivateConnection,
  RedisScripting,
  RedisTransactional,
  ValkeyGlideClient,
  ValkeyGlideMessage,
  ValkeyGlideOptions,
} from './driver.ts'
