/**
 * The kit on the other drivers: the matrix alone runs it, `node-redis.test.ts`, `valkey-glide.test.ts` and `drivers.test.ts` try each
 * in the test command.
 */
import { GlideClient, Logger } from '@valkey/valkey-glide'
import { Redis as Valkey } from 'iovalkey'
import { SubstrateClient } from 'lease-core/adapter'
import { conformance, faultsOf, type Guard } from 'lease-core/conformance'
import { FaultySubstrate } from 'lease-core/testing'
import { redisClient, RedisGuard, RedisSubstrate, type RedisClientOptions, type RedisScripting } from 'lease-redis'
import { sleep, unique } from 'lease-scenes'
import { isMatrix, redisTargets } from 'lease-servers'
import { after, before, describe, it } from 'mocha'
import * as six from 'redis'
import * as five from 'redis-5'

interface Connection extends Pick<RedisClientOptions, 'redis' | 'listen'> {
  end(): void
}

async function glide(url: string): Promise<Connection> {
  const { hostname: host, port } = new URL(url)
  const addresses = [{ host, port: Number(port) }]
  const listen = (): Promise<GlideClient> => GlideClient.createClient({ addresses, requestTimeout: 30_000 })
  const redis = await listen()
  return { redis, listen, end: () => redis.close() }
}

async function nodeRedis(driver: typeof six, url: string): Promise<Connection> {
  const redis = driver.createClient({ url })
  redis.on('error', () => {})
  await redis.connect()
  return { redis, end: () => redis.destroy() }
}

const drivers: Readonly<Record<string, (url: string) => Promise<Connection>>> = {
  'node-redis 6': (url) => nodeRedis(six, url),
  'node-redis 5': (url) => nodeRedis(five as unknown as typeof six, url),
  iovalkey: async (url) => {
    const redis = new Valkey(url)
    return { redis: redis as unknown as RedisClientOptions['redis'], end: () => redis.disconnect() }
  },
  'valkey-glide': glide,
}

Logger.init('off') // it writes every error of the server

for (const target of isMatrix() ? redisTargets('server') : []) {
  for (const [name, connect] of Object.entries(drivers)) {
    describe(`lease-redis over ${name}`, () => {
      const connections: Connection[] = []
      after(() => {
        for (const connection of connections) connection.end()
      })
      const connected = async (): Promise<Pick<RedisClientOptions, 'redis' | 'listen'>> => {
        const connection = await connect(target.url)
        connections.push(connection)
        return { redis: connection.redis, listen: connection.listen }
      }

      const list = unique('written')
      let plain: RedisScripting | undefined
      const run = async (guard: RedisGuard | undefined, lua: string, args: readonly string[]): Promise<unknown> => {
        plain ??= (await connected()).redis as RedisScripting
        // A guard without a term runs nothing, so what is read is read under a lease of its own.
        return guard?.run(plain, lua, [list], args)
      }
      let reader: RedisGuard | undefined
      const guard: Guard = {
        async write(trapdoor, text) {
          const guard = new RedisGuard()
          await trapdoor(guard)
          await run(guard, `return redis.call('RPUSH', KEYS[1], ARGV[1])`, [text])
        },
        async written() {
          if (reader === undefined) {
            const client = redisClient({ ...(await connected()), namespace: unique('reader'), listen: false })
            await client.claimLease('reader', { holder: 'reader', duration: { hours: 1 } })
            reader = new RedisGuard()
            await client.leases().get('reader')?.trapdoor(reader)
          }
          return (await run(reader, `return redis.call('LRANGE', KEYS[1], 0, -1)`, [])) as string[]
        },
      }
      conformance(
        { describe, it, before, after },
        {
          name,
          supports: { notifications: true, queues: true, shares: true, addressed: true, serverClock: true },
          unitMs: 250,
          sleep,
          open: async (namespace) => redisClient({ ...(await connected()), namespace, requestTimeout: 30_000 }),
          openFaulty: async (namespace, requestTimeout) => {
            const substrate = new FaultySubstrate(new RedisSubstrate({ ...(await connected()), namespace }))
            return { client: new SubstrateClient({ substrate, requestTimeout }), faults: faultsOf(substrate) }
          },
          guard,
        },
      )
    })
  }
}
