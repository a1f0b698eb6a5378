/** lease-core on Redis. */
export { redisClient } from './redis-client.ts'
export { RedisSubstrate } from './redis-substrate.ts'
export type { RedisClientOptions, RedisSubstrateOptions } from './options.ts'
export { RedisGuard } from './guard.ts'
export type {
  RedisClusterNodes,
  RedisConnection,
  RedisDuplicable,
  RedisListenConnection,
  RedisListenOverrides,
  RedisPrivateConnection,
  RedisScripting,
  RedisTransactional,
} from './driver.ts'
