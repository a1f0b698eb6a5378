export { until, whatIsAwaited } from './awaited.ts'
export { findChromium } from './chromium.ts'
export { enough, enoughOf, isMatrix } from './enough.ts'
export { ServerHome } from './process.ts'
export { type Dynamodb, type DynamodbOptions, type DynamodbOrigin, startDynamodb } from './dynamodb.ts'
export { type DynamodbTarget, dynamodbTarget } from './dynamodb-targets.ts'
export { etcdProtocol } from './etcd-protocol.ts'
export { type EtcdTarget, etcdTargets } from './etcd-targets.ts'
export {
  type Etcd,
  type EtcdMember,
  type EtcdOptions,
  type EtcdOrigin,
  type EtcdStatus,
  postJson,
  startEtcd,
} from './etcd.ts'
export { npmFolder, type NpmFolderOptions } from './npm-folder.ts'
export { type Pgbouncer, type PgbouncerOptions, startPgbouncer } from './pgbouncer.ts'
export {
  type FreshDatabase,
  freshDatabase,
  pgbouncerTarget,
  type PostgresTarget,
  postgresTargets,
} from './postgres-targets.ts'
export { postgresProtocol } from './postgres-protocol.ts'
export { nodeOptions, programOf } from './program.ts'
export { onStep } from './progress.ts'
export { type Postgres, type PostgresOptions, type PostgresOrigin, postgresQuery, startPostgres } from './postgres.ts'
export { type PostgresPair, startPostgresPair } from './postgres-standby.ts'
export {
  type ClientUnit,
  type Conversation,
  opaqueProtocol,
  type Protocol,
  type Request,
  type ServerUnit,
} from './protocol.ts'
export { type Impairment, type Proxy, type ProxyCounters, startProxy, type Way, type Which } from './proxy.ts'
export { redisProtocol } from './redis-protocol.ts'
export { type RedisCluster, type RedisClusterOptions, startRedisCluster } from './redis-cluster.ts'
export { type RedisSentinel, type RedisSentinelOptions, startRedisSentinel } from './redis-sentinel.ts'
export { type RedisClusterTarget, type RedisServerTarget, type RedisTarget, redisTargets } from './redis-targets.ts'
export { type Redis, type RedisOptions, type RedisOrigin, startRedis } from './redis.ts'
export { type Address, redisCommand, redisCommands, type RespValue } from './resp.ts'
export { askedServers, provideTargets, Servers } from './targets.ts'
export {
  type Authority,
  type Certificate,
  startAuthority,
  startTlsFront,
  type TlsFront,
  type TlsFrontOptions,
} from './tls.ts'
