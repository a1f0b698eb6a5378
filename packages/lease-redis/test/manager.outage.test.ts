/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrUnknown, Manager, type Client, type ErrLost } from 'lease-core'
import { redisClient, type RedisConnection } from 'lease-redis'
import {
  redisTargets,
  startProxy,
  startRedis,
  startRedisCluster,
  startRedisSentinel,
  type Redis as Server,
} from 'lease-servers'
import { describe, it } from 'mocha'
import { eventually, managed, outages, overAccident, sleep, succeeds, unheard, type Way } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let setting: Setting
    let way: Way

    before(async () => {
      setting = openSetting(target.url)
      const proxy = await startProxy(target.url)
      way = {
        proxy,
        open: (namespace) =>
          redisClient({ redis: setting.connect({}, proxy.url(target.url)), namespace, requestTimeout: 1_000 }),
        claiming: /\nC \d+ /,
        async stored(namespace, lease) {
          const stored = await setting.redis.get(`lease:{${namespace}}:l:${lease}`)
          if (stored === null) return undefined
          const [token = '', , holder = ''] = stored.split('|')
          return { holder, token }
        },
      }
    })
    after(async () => {
      await setting[Symbol.asyncDispose]()
      await way.proxy.close()
    })

    outages(() => way)

    it('what was claimed into a half-open connection and given up is held by nobody once it heals', () =>
      managed(way, async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        way.proxy.hold() // kept, and delivered late: the worst
        const error: unknown = await manager.claim('l', 'a', 600_000).catch((reason: unknown) => reason)
        expect(error).to.be.instanceOf(ErrUnknown)
        way.proxy.resume()
        await manager.claim('m', 'a', 60_000) // travels behind all that was kept
        expect(await way.stored(namespace, 'l')).to.equal(undefined)
        await manager.claim('l', 'b', 60_000)
      })).timeout(30_000)
  })
}

describe('a manager whose server', () => {
  let server: Server
  before(async () => {
    server = await startRedis({ appendonly: true, settings: { appendfsync: 'always' } })
  })
  after(() => server.stop())

  it('is killed and comes back: holds, waiters and contenders recover by themselves, and nothing is rejected unheard', async () => {
    const connections: Redis[] = []
    const open = (): Client => {
      const redis = quiet(new Redis(server.url))
      connections.push(redis)
      return redisClient({ redis, namespace: 'killed', requestTimeout: 1_000 })
    }
    await overAccident(open, async () => {
      await server.kill()
      await sleep(1_500)
      await server.restart()
    })
    for (const connection of connections) connection.disconnect()
  }).timeout(60_000)

  it('is frozen: a holder learns that it lost within its trust window', async () => {
    const redis = quiet(new Redis(server.url))
    const client = redisClient({ redis, namespace: 'frozen', requestTimeout: 1_000 })
    const manager = new Manager({ client })
    const hold = await manager.hold('l', 'a', { duration: 1_500 })
    const startedMs = performance.now()
    server.pause()
    try {
      await eventually(() => hold.signal.aborted)
      expect(performance.now() - startedMs).to.be.lessThan(1_500 + 500)
      expect((hold.signal.reason as ErrLost).reason).to.equal('unreachable')
    } finally {
      server.resume()
    }
    await manager.stop()
    await client.close()
    redis.disconnect()
  })
})

describe('a manager by Sentinels', () => {
  it('goes on with the new master after a failover, with higher tokens', async () => {
    await using sentinel = await startRedisSentinel()
    const connections: Redis[] = []
    const connect = (): Redis => {
      const { name } = sentinel
      const sentinels = sentinel.sentinels.map(({ host, port }) => ({ host, port }))
      const connection = quiet(new Redis({ sentinels, name }))
      connections.push(connection)
      return connection
    }
    await failsOver(connect, () => sentinel.master.kill())
    for (const connection of connections) connection.disconnect()
  }).timeout(90_000)
})

describe('a manager on a Cluster', () => {
  it('whose nodes are killed and come back goes on, with higher tokens', async () => {
    await using cluster = await startRedisCluster()
    const connections: Cluster[] = []
    const connect = (): Cluster => {
      const connection = new Cluster([...cluster.nodes])
      connection.on('error', () => {})
      connections.push(connection)
      return connection
    }
    await failsOver(connect, async () => {
      for (const node of cluster.servers) await node.kill()
      for (const node of cluster.servers) await node.restart()
    })
    for (const connection of connections) connection.disconnect()
  }).timeout(90_000)
})

/** Claims and waits before, over and after an accident that may forget what is held. */
async function failsOver(connect: () => RedisConnection, accident: () => Promise<void>): Promise<void> {
  const reasons = await unheard(async () => {
    const clients = [1, 2].map(() => redisClient({ redis: connect(), namespace: 'n', requestTimeout: 1_000 }))
    const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]
    const hold = await here.hold('l', 'a', { duration: 3_000 })
    const contending = there.hold('l', 'b', { duration: 30_000, wait: true })
    await accident()
    // Kept or forgotten, the holder knows before long, and does not keep the next one out for ever.
    await sleep(3_000)
    if (hold.held) await hold.release().catch(() => {})
    const next = await contending
    expect(hold.held).to.equal(false)
    expect(next.fencingToken > hold.fencingToken).to.equal(true)
    await eventually(() => succeeds(here.claim('m', 'a', 1_000)))
    expect((await there.leases()).get('l')?.fencingToken).to.equal(next.fencingToken)
    await next.release()
    await here.stop()
    await there.stop()
    for (const client of clients) await client.close()
  })
  expect(reasons).to.deep.equal([])
}

/** What is asked rejects as well, which is enough. */
function quiet(redis: Redis): Redis {
  redis.on('error', () => {})
  return redis
}
