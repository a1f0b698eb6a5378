/** The substrate of a worker that goes past the managers. */
import type { Substrate } from 'lease-core/adapter'
import { dynamodbParts, openEtcd, openPool, openRedis, type StoreAddress } from 'lease-chaos/worker'
import { EtcdSubstrate } from 'lease-etcd'
import { PostgresSubstrate } from 'lease-postgres'
import { RedisSubstrate } from 'lease-redis'

export function openSubstrate(address: StoreAddress): Substrate {
  const { kind, namespace } = address
  if (kind === 'redis') return new RedisSubstrate({ redis: openRedis(address), namespace })
  if (kind === 'postgres') return new PostgresSubstrate({ pool: openPool(address, 1), namespace })
  if (kind === 'dynamodb') {
    const { DynamodbSubstrate, openDynamodb } = dynamodbParts()
    return new DynamodbSubstrate({ ...openDynamodb(address), namespace })
  }
  return new EtcdSubstrate({ etcd: openEtcd(address), namespace })
}
