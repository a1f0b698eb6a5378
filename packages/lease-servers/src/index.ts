export { until, whatIsAwaited } from './awaited.ts'
export { Den } from './process.ts'
export { etcdProtocol } from './etcd-protocol.ts'
export { type EtcdTarget, etcdTargets } from './etcd-targets.ts'
export { type Etcd, type EtcdMember, type EtcdOptions, type EtcdOrigin, startEtcd } from './etcd.ts'
export { type FreshDatabase, freshDatabase, type PostgresTarget, postgresTargets } from './postgres-targets.ts'
export { postgresProtocol } from './postgres-protocol.ts'
export { type Postgres, type PostgresOptions, type PostgresOrigin, startPostgres } from './postgres.ts'
export {
  type ClientUnit,
  type Conversation,
  opaqueProtocol,
  type Protocol,
  type Request,
  type ServerUnit,
} from './protocol.ts'
export { type Proxy, type ProxyCounters, startProxy } from './proxy.ts'
export { redisProtocol } from './redis-protocol.ts'
export { type RedisCluster, type RedisClusterOptions, startRedisCluster } from './redis-cluster.ts'
export { type RedisSentinel, type RedisSentinelOptions, startRedisSentinel } from './redis-sentinel.ts'
export { type RedisClusterTarget, type RedisServerTarget, type RedisTarget, redisTargets } from './redis-targets.ts'
export { type Redis, type RedisOptions, type RedisOrigin, startRedis } from './redis.ts'
export { type Address } from './resp.ts'
