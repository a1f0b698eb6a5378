import { Manager } from 'lease-core'
import { redisClient } from 'lease-redis'
import { redisTargets, startProxy, until } from 'lease-servers'
import { openRedis } from './redis-connection.ts'

for (const target of redisTargets('server')) {
  describe(`example: a connection with a socketTimeout, on ${target.name}`, () => {
    it('claims again over a new connection when the old one has fallen silent', async () => {
      await using proxy = await startProxy(target.url)
      const redis = openRedis(proxy.url(target.url), 200)
      redis.on('error', () => {})
      const client = redisClient({ redis, namespace: `silent-${process.pid}`, listen: false, requestTimeout: 500 })
      const manager = new Manager({ client })
      // A slow machine may need more than one attempt: these timeouts are short.
      const claim = (lease: string): Promise<boolean> =>
        manager.claim(lease, 'ann', { minutes: 1 }).then(
          () => true,
          () => false,
        )
      await until('a claim over the first connection', () => claim('job'))
      proxy.silence() // the open connections; new ones work
      await until('a claim over a new connection', () => claim('job-2'))
      await manager.stop()
      await client.close()
      redis.disconnect()
    })
  })
}
