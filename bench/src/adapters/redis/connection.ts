import { Redis } from 'ioredis'

/** A connection as an application would open it, once it is there. */
export async function openRedis(url: string): Promise<Redis> {
  const redis = new Redis(url, { lazyConnect: true })
  redis.on('error', () => {}) // what is under way rejects as well
  await redis.connect()
  return redis
}
