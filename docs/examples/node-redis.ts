/** The quick start on Redis with the package `redis`. */
import { Manager, uniqueHolder } from 'lease-core'
import { redisClient, RedisGuard } from 'lease-redis'
import { createClient } from 'redis'

export async function nodeRedisQuickStart(url: string): Promise<void> {
  const redis = createClient({ url }) // or createCluster({ rootNodes })
  redis.on('error', (error) => console.error(error)) // node-redis throws what nobody hears
  await redis.connect()
  const client = redisClient({ redis, namespace: 'billing' })
  const manager = new Manager({ client })

  const token = await manager.claim('account-42', uniqueHolder('billing'), { seconds: 30 })
  const guard = new RedisGuard()
  await token.check(guard)
  await guard.transaction(redis, (multi) => {
    multi.hIncrBy('{billing}:account-42', 'balance', -10)
  })
  await manager.release('account-42', token.holder)

  await manager.stop()
  await client.close() // the client first, then the connection
  await redis.close()
}
