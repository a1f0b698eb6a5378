/** The quick start on Redis. */
import { Redis } from 'ioredis'
import { Manager, uniqueHolder } from 'lease-core'
import { redisClient, RedisGuard } from 'lease-redis'

export async function redisQuickStart(url: string): Promise<void> {
  const redis = new Redis(url) // or new Cluster(nodes)
  const client = redisClient({ redis, namespace: 'billing' })
  const manager = new Manager({ client })

  const worker = uniqueHolder('billing') // the name of this caller: two callers with one name are one holder
  const token = await manager.claim('account-42', worker, { seconds: 30 }) // ErrClaimDenied: another holds it
  const guard = new RedisGuard()
  await token.check(guard) // ErrNotHeld: worker does not hold it
  const withdraw = `return redis.call('HINCRBY', KEYS[1], 'balance', -ARGV[1])`
  await guard.run(redis, withdraw, ['{billing}:account-42'], [10]) // ErrNotHeld: the lease was lost since the check, and nothing was run
  await manager.release('account-42', worker)

  await manager.stop()
  await client.close() // the client first, then the connection
  redis.disconnect()
}
