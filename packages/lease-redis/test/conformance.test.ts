import { Cluster, Redis } from 'ioredis'
import { SubstrateClient } from 'lease-core/adapter'
import { conformance, faultsOf, type Guard, type Harness } from 'lease-core/conformance'
import { FaultySubstrate } from 'lease-core/testing'
import { isMatrix, startRedis, startRedisCluster, type Redis as Server, type RedisCluster } from 'lease-servers'
import { redisClient, RedisGuard, RedisSubstrate, type RedisConnection } from 'lease-redis'
import { after, before, describe, it } from 'mocha'
import { sleep } from 'lease-scenes'

const unitMs = 250
/** A server that is slow, or has just started, has not lost the request. */
const requestTimeout = 30_000

/** Everything but the way to the server; `opened` hears of every namespace. */
function harnessOf(
  name: string,
  connect: () => RedisConnection,
  opened: (namespace: string) => void = () => {},
): Omit<Harness, 'guard' | 'restart'> {
  return {
    name,
    supports: { notifications: true, queues: true, shares: true, addressed: true, serverClock: true },
    unitMs,
    sleep,
    open: async (namespace) => {
      opened(namespace)
      return redisClient({ redis: connect(), namespace, requestTimeout })
    },
    openFaulty: async (namespace, requestTimeoutMs) => {
      const substrate = new FaultySubstrate(new RedisSubstrate({ redis: connect(), namespace }))
      return {
        client: new SubstrateClient({ substrate, requestTimeout: requestTimeoutMs }),
        faults: faultsOf(substrate),
      }
    },
  }
}

describe('lease-redis on one server', () => {
  let server: Server
  const connections: Redis[] = []
  const connect = (options = {}): Redis => {
    const connection = new Redis(server.url, options)
    connection.on('error', () => {}) // the kit restarts the server
    connections.push(connection)
    return connection
  }
  before(async () => {
    server = await startRedis({ appendonly: true, settings: { appendfsync: 'always' } })
  })
  after(async () => {
    for (const connection of connections) connection.disconnect()
    await server.stop()
  })

  let turn = 0
  let plain: Redis | undefined
  const list = 'written'
  /** Scripts, transactions and watched connections, in turn. */
  const guard: Guard = {
    async write(trapdoor, text) {
      plain ??= connect()
      const way = turn++ % 3
      if (way === 0) {
        const guard = new RedisGuard()
        await trapdoor(guard)
        await guard.run(plain, `return redis.call('RPUSH', KEYS[1], ARGV[1])`, [list], [text])
        return
      }
      const connection = connect({ retryStrategy: null })
      try {
        if (way === 1) {
          const guard = new RedisGuard()
          await trapdoor(guard)
          await guard.transaction(connection, (multi) => void multi.rpush(list, text))
        } else {
          let results: unknown = null
          while (results === null) {
            await trapdoor(connection)
            results = await connection.multi().rpush(list, text).exec()
          }
        }
      } finally {
        connection.disconnect()
      }
    },
    async written() {
      plain ??= connect()
      return plain.lrange(list, 0, -1)
    },
  }
  const harness: Harness = { ...harnessOf('one server', connect), guard, restart: () => server.restart() }
  conformance({ describe, it, before, after }, harness)
})

// The matrix: the scripts are the same, and the Cluster's own ways have tests of their own.
if (isMatrix())
  describe('lease-redis on a Cluster', () => {
    let cluster: RedisCluster
    const connections: Cluster[] = []
    const connect = (): Cluster => {
      const connection = new Cluster([...cluster.nodes])
      connections.push(connection)
      return connection
    }
    before(async () => {
      cluster = await startRedisCluster()
    })
    after(async () => {
      for (const connection of connections) connection.disconnect()
      await cluster.stop()
    })

    // What is gated has to be in the slot of the namespace. Suites have one namespace each, and run one after the other.
    let tag = ''
    const opened = (namespace: string): void => {
      if (!namespace.endsWith('-elsewhere')) tag = namespace
    }
    let plain: Cluster | undefined
    const guard: Guard = {
      async write(trapdoor, text) {
        const guard = new RedisGuard()
        await trapdoor(guard)
        plain ??= connect()
        await guard.run(plain, `return redis.call('RPUSH', KEYS[1], ARGV[1])`, [`written:{${tag}}`], [text])
      },
      async written() {
        plain ??= connect()
        return plain.lrange(`written:{${tag}}`, 0, -1)
      },
    }
    conformance({ describe, it, before, after }, { ...harnessOf('a Cluster', connect, opened), guard })
  })
