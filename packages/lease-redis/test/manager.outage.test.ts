/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrUnknown, Manager, type Client, type ErrLost } from 'lease-core'
import { redisClient, type RedisConnection } from 'lease-redis'
import { whileLive } from 'lease-core/testing'
import { redisTargets, startProxy, startRedis, startRedisCluster, type Redis as Server } from 'lease-servers'
import { describe, it } from 'mocha'
import {
  eventually,
  foundAgain,
  outages,
  overAccident,
  sleep,
  succeeds,
  unheard,
  unique,
  type SilentWay,
  type Way,
} from 'lease-scenes'
import { openSetting, stopwatch, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let setting: Setting
    let way: Way

    before(async () => {
      setting = openSetting(target.url)
      const proxy = await startProxy(target.url)
      way = {
        proxy,
        open: (namespace, requestTimeout = 1_000) =>
          redisClient({ redis: setting.connect({}, proxy.url(target.url)), namespace, requestTimeout }),
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

    const silentWay = (): SilentWay => ({
      proxies: [way.proxy],
      open: (namespace) => way.open(namespace),
      async bare() {
        const redis = quiet(new Redis(way.proxy.url(target.url)))
        await redis.ping()
        redis.disconnect()
      },
    })
    foundAgain(silentWay, { onNewConnections: true })

    it('what was claimed into a half-open connection and given up is held by nobody once it heals', async () => {
      const { proxy } = way
      const namespace = unique('outage')
      const redis = setting.connect({}, proxy.url(target.url))
      // The same connection twice: one client gives up soon, and the other is patient.
      const clients = [250, 60_000].map((requestTimeout) => redisClient({ redis, namespace, requestTimeout }))
      const [hasty, patient] = clients.map((client) => new Manager({ client })) as [Manager, Manager]
      try {
        const reasons = await unheard(async () => {
          await patient.claim('warm', 'up', 600_000)
          await eventually(() => succeeds(hasty.leases()))
          const passedMs = stopwatch()
          await eventually(() => succeeds(hasty.leases()))
          const tripMs = passedMs() // so well it knows the server's time
          proxy.hold() // kept, and delivered late: the worst
          const error: unknown = await hasty.claim('l', 'a', 600_000).catch((reason: unknown) => reason)
          expect(error).to.be.instanceOf(ErrUnknown)
          await sleep(tripMs + 20)
          proxy.resume()
          await patient.claim('m', 'a', 600_000) // travels behind all that was kept
          expect(await way.stored(namespace, 'l')).to.equal(undefined)
          await patient.claim('l', 'b', 600_000)
        })
        expect(reasons).to.deep.equal([])
      } finally {
        proxy.resume()
        for (const manager of [hasty, patient]) await manager.stop()
        for (const client of clients) await client.close()
      }
    })
  })
}

describe('a manager whose server', () => {
  let server: Server
  before(async () => {
    server = await startRedis({ appendonly: true, settings: { appendfsync: 'always' } })
  })
  after(() => server.stop())

  it('is killed and comes back: holds, waiters and contenders recover by themselves, and nothing is rejected unheard', async () => {
    const connections = [quiet(new Redis(server.url)), quiet(new Redis(server.url))]
    await Promise.all(connections.map((connection) => connection.ping()))
    let opened = 0
    const open = (): Client => redisClient({ redis: connections[opened++] ?? expect.fail(), namespace: 'killed' })
    await overAccident(open, async (_, noticed) => {
      await server.kill()
      await noticed()
      await server.restart()
    })
    for (const connection of connections) connection.disconnect()
  })

  it('is frozen: a holder learns that it lost within its trust window', async () => {
    const redis = quiet(new Redis(server.url))
    const client = redisClient({ redis, namespace: 'frozen' })
    const manager = new Manager({ client })
    await manager.claim('warm', 'up', 60_000)
    try {
      const [signal, held, windowEnded] = await whileLive(1_000, async (durationMs) => {
        server.resume() // a late attempt has left it frozen
        const hold = await manager.hold(unique('l'), 'a', { duration: durationMs })
        server.pause()
        // No renewal that was answered has been sent later than now.
        return [hold.signal, () => hold.held, timer(durationMs)] as const
      })
      await windowEnded
      expect(signal.aborted, 'once another timer of this process fires at the end of the window').to.equal(true)
      expect(held()).to.equal(false)
      // A stall may keep a renewal from being sent at all. With the clock of a test there is one reason: unreachable.
      expect((signal.reason as ErrLost).reason).to.be.oneOf(['unreachable', 'expired'])
    } finally {
      server.resume()
    }
    await manager.stop()
    await client.close()
    redis.disconnect()
  })
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
      await Promise.all(cluster.servers.map((node) => node.kill()))
      await Promise.all(cluster.servers.map((node) => node.restart()))
    })
    for (const connection of connections) connection.disconnect()
  })
})

/** Claims and waits before, over and after an accident that may forget what is held. */
async function failsOver(connect: () => RedisConnection, accident: () => Promise<void>): Promise<void> {
  const reasons = await unheard(async () => {
    const clients = [1, 2].map(() => redisClient({ redis: connect(), namespace: 'n' }))
    const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]
    // Should the counter of the tokens be forgotten, it has some way to go.
    for (let n = 0; n < 20; n++) await here.claim(`earlier-${n}`, 'a', 60_000)
    const hold = await here.hold('l', 'a', { duration: 60_000, renewEvery: 500 })
    const contending = there.hold('l', 'b', { duration: 60_000, wait: true })
    await accident()
    // Kept or forgotten, the holder knows once a renewal is answered, and does not keep the next one out for ever.
    await eventually(() => succeeds(here.claim('m', 'a', 60_000)))
    await hold.release().catch(() => {}) // the next one has it already
    const next = await contending
    expect(hold.held).to.equal(false)
    expect(next.fencingToken > hold.fencingToken).to.equal(true)
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

/** Resolves not before this time has passed, and as late as other timers of this process are. */
async function timer(ms: number): Promise<void> {
  for (const endMs = performance.now() + ms; performance.now() < endMs;) await sleep(endMs - performance.now())
}
