/** The quick start on Redis or Valkey with the package `@valkey/valkey-glide`. */
import { GlideClient } from '@valkey/valkey-glide'
import { Manager, uniqueHolder } from 'lease-core'
import { redisClient, RedisGuard } from 'lease-redis'

export async function valkeyGlideQuickStart(url: string): Promise<void> {
  const { hostname: host, port } = new URL(url)
  const configuration = { addresses: [{ host, port: Number(port) }], requestTimeout: 5_000 }
  const connect = (): Promise<GlideClient> => GlideClient.createClient(configuration) // or GlideClusterClient
  const redis = await connect()
  const client = redisClient({ redis, listen: connect, namespace: 'billing' })
  const manager = new Manager({ client })

  const token = await manager.claim('account-42', uniqueHolder('billing'), { seconds: 30 })
  const guard = new RedisGuard()
  await token.check(guard)
  const withdraw = `return redis.call('HINCRBY', KEYS[1], 'balance', -ARGV[1])`
  await guard.run(redis, withdraw, ['{billing}:account-42'], [10]) // no transactions: see below
  await manager.release('account-42', token.holder)

  await manager.stop()
  await client.close() // the client first, then the connection
  redis.close()
}
