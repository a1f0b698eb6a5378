import { startRedisCluster } from 'lease-servers'
import { openCluster } from '../adapters/redis/connection.ts'
import { redisClusterLibrary } from '../adapters/redis/library.ts'
import { redisClusterRing } from '../adapters/redis/ring.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Place, Substrate } from '../bench.ts'
import { groundOf } from './redis.ts'

/** Three masters on this machine, each with an append-only file, or those that REDIS_CLUSTER_URL names. */
export const redisCluster: Substrate = {
  name: 'redis-cluster',
  adapters: [redisClusterLibrary, redisClusterRing, roundTrip],
  workloads: ['W1', 'W2', 'W4', 'W9'],
  open,
  reach: (url) => groundOf('redis-cluster', url, { connect: openCluster, ask: (beside) => beside.exists('nobody') }),
}

async function open(given: string | undefined = process.env['REDIS_CLUSTER_URL']): Promise<Place> {
  const cluster = given
    ? undefined
    : await startRedisCluster({ settings: { appendonly: 'yes', appendfsync: 'everysec' } })
  const url = cluster?.nodes.map(({ host, port }) => `redis://${host}:${port}`).join() ?? given ?? ''
  try {
    const beside = await openCluster(url)
    const masters = beside.nodes('master').length
    const [master] = beside.nodes('master')
    const version = /redis_version:(\S+)/.exec((await master?.info('server')) ?? '')?.[1] ?? ''
    beside.disconnect()
    const appends = cluster === undefined ? '' : ', append-only files'
    return { about: `Redis Cluster ${version} (${masters} masters${appends})`, url, close: async () => cluster?.stop() }
  } catch (error) {
    await cluster?.stop()
    throw error
  }
}
