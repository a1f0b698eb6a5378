import { Cluster, Redis } from 'ioredis'

/** A connection as an application would open it, once it is there. */
export async function openRedis(url: string): Promise<Redis> {
  const redis = new Redis(url, { lazyConnect: true })
  redis.on('error', () => {}) // what is under way rejects as well
  await redis.connect()
  return redis
}

/** The same to a Cluster. @param url of each node, separated by commas */
export async function openCluster(url: string): Promise<Cluster> {
  const cluster = new Cluster(url.split(','), { lazyConnect: true })
  cluster.on('error', () => {})
  await cluster.connect()
  return cluster
}
