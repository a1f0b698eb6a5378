/** Opens the grounds. */
import { loadStore } from '../connections.ts'
import type { Ground, GroundName } from '../ground.ts'
import type { GroundOptions } from './assemble.ts'
import { openEtcd } from './etcd.ts'
import { openPgbouncer, openPostgres, openStandby } from './postgres.ts'
import { openRedis, openRedisCluster, openSentinel } from './redis.ts'

export type { GroundOptions } from './assemble.ts'

const openers: Readonly<Record<GroundName, (options: GroundOptions) => Promise<Ground>>> = {
  postgres: openPostgres,
  pgbouncer: openPgbouncer,
  standby: openStandby,
  redis: openRedis,
  sentinel: openSentinel,
  'redis-cluster': openRedisCluster,
  etcd: async (options) => openEtcd(1, options),
  etcd3: async (options) => openEtcd(3, options),
  dynamodb: async (options) => {
    await loadStore('dynamodb')
    return await (await import('./dynamodb.ts')).openDynamodbGround(options)
  },
}

/**
 * Starts the servers of a ground, on 127.0.0.1; they end with this process.
 * @throws with one line when a server cannot be had
 */
export async function openGround(name: GroundName, options: GroundOptions): Promise<Ground> {
  return await openers[name](options)
}
