/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrUnknown, Manager, type ErrLost, type Hold, type LeaseEvent } from 'lease-core'
import { redisClient, type RedisConnection } from 'lease-redis'
import {
  redisTargets,
  startProxy,
  startRedis,
  startRedisCluster,
  startRedisSentinel,
  type Proxy,
  type Redis as Server,
} from 'lease-servers'
import { describe, it } from 'mocha'
import { eventually, openSetting, sleep, unique, type Setting } from './setting.ts'

/** Whatever is rejected unheard while the body runs. */
async function unheard(body: () => Promise<void>): Promise<unknown[]> {
  const reasons: unknown[] = []
  const onUnheard = (reason: unknown): void => void reasons.push(reason)
  process.on('unhandledRejection', onUnheard)
  try {
    await body()
    await sleep(10)
  } finally {
    process.off('unhandledRejection', onUnheard)
  }
  return reasons
}

for (const target of redisTargets('server')) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let setting: Setting
    let proxy: Proxy

    before(async () => {
      setting = openSetting(target.url)
      proxy = await startProxy(target.url)
    })
    after(async () => {
      await setting[Symbol.asyncDispose]()
      await proxy.close()
    })

    /** A manager with its client over an ordinary connection, all gone in the end. */
    async function managed(
      body: (manager: Manager, events: LeaseEvent[], namespace: string) => Promise<void>,
    ): Promise<void> {
      const namespace = unique('outage')
      const redis = setting.connect({}, proxy.url(target.url))
      const client = redisClient({ redis, namespace, requestTimeout: 1_000 })
      const manager = new Manager({ client })
      const events: LeaseEvent[] = []
      manager.events.subscribe((event) => events.push(event))
      try {
        expect(await unheard(() => body(manager, events, namespace))).to.deep.equal([])
      } finally {
        proxy.resume()
        await proxy.accept()
        await manager.stop()
        await client.close()
        redis.disconnect()
      }
    }

    /** What is stored: token and holder. */
    async function row(namespace: string, lease: string): Promise<{ holder: string; token: string } | undefined> {
      const stored = await setting.redis.get(`lease:{${namespace}}:l:${lease}`)
      if (stored === null) return undefined
      const [token = '', , holder = ''] = stored.split('|')
      return { holder, token }
    }

    it('a claim whose reply is lost is granted, in the term that the lost reply told of', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        let carriedOut: string | undefined
        const cut = proxy.cutAfterRequest(1, /\nC \d+ /).then(async () => {
          carriedOut = (await row(namespace, 'l'))?.token
        })
        await manager.claim('l', 'a', 60_000)
        await cut
        const { fencingToken } = await manager.token('l', 'a').check()
        expect(carriedOut).to.equal(String(fencingToken))
        expect(await row(namespace, 'l')).to.deep.equal({ holder: 'a', token: carriedOut })
      }))

    it('a claim given up while the way is down does not keep others out', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        const controller = new AbortController()
        const cut = proxy.cutAfterRequest(1, /\nC \d+ /).then(() => controller.abort(new Error('enough')))
        const outcome = await manager.claim('l', 'a', 60_000, { signal: controller.signal }).then(
          () => 'granted',
          (error: unknown) => error,
        )
        await cut
        if (outcome === 'granted') return // the retry was faster than the abort: the claim is the caller's
        expect(outcome).to.have.property('message', 'enough')
        await eventually(async () => (await row(namespace, 'l')) === undefined)
        await manager.claim('l', 'b', 60_000)
      }))

    it('a holder behind a half-open connection learns that it lost no later than its trust window ends', () =>
      managed(async (manager) => {
        await manager.claim('warm', 'up', 60_000)
        const durationMs = 2_000
        const startedMs = performance.now()
        const hold = await manager.hold('l', 'a', { duration: durationMs })
        let endedMs = Number.POSITIVE_INFINITY
        hold.signal.addEventListener('abort', () => (endedMs = performance.now()))
        await sleep(900) // one renewal has been answered
        proxy.pause()
        const pausedMs = performance.now()
        await eventually(() => hold.signal.aborted)
        expect(hold.held).to.equal(false)
        expect((hold.signal.reason as ErrLost).reason).to.equal('unreachable')
        expect(endedMs - startedMs).to.be.greaterThan(durationMs * 0.9)
        expect(endedMs - pausedMs).to.be.lessThan(durationMs + 500) // timers of a busy machine are late
        proxy.resume()
        await eventually(() =>
          manager.claim('l', 'b', 1_000).then(
            () => true,
            () => false,
          ),
        )
      })).timeout(20_000)

    it('what was claimed into a half-open connection and given up is held by nobody once it heals', () =>
      managed(async (manager, _, namespace) => {
        await manager.claim('warm', 'up', 60_000)
        proxy.hold() // kept, and delivered late: the worst
        const error: unknown = await manager.claim('l', 'a', 600_000).catch((reason: unknown) => reason)
        expect(error).to.be.instanceOf(ErrUnknown)
        proxy.resume()
        await manager.claim('m', 'a', 60_000) // travels behind all that was kept
        expect(await row(namespace, 'l')).to.equal(undefined)
        await manager.claim('l', 'b', 60_000)
      })).timeout(30_000)

    it('renewals that fail for a while and then succeed keep the hold in its term', () =>
      managed(async (manager, events) => {
        const hold = await manager.hold('l', 'a', { duration: 6_000, renewEvery: 500 })
        await proxy.refuse()
        await eventually(() => events.some((event) => event.type === 'retrying'))
        await proxy.accept()
        await sleep(6_500)
        expect(hold.held).to.equal(true)
        expect((await manager.token('l', 'a').check()).fencingToken).to.equal(hold.fencingToken)
        await hold.release()
      })).timeout(30_000)

    it('a server that cannot be reached is ErrUnknown with its cause, for every call, and then the manager goes on', () =>
      managed(async (manager) => {
        await manager.claim('l', 'a', 60_000)
        await proxy.refuse()
        const calls = {
          claim: manager.claim('m', 'a', 1_000),
          check: manager.token('m', 'a').check(),
          release: manager.release('l', 'a'),
          revoke: manager.revoke('l'),
          pin: manager.pin('l', 'e'),
          pinned: manager.pinned(),
          leases: manager.leases(),
          hold: manager.hold('n', 'a', { duration: 1_000 }),
        }
        const outcomes = await Promise.allSettled<unknown>(Object.values(calls))
        for (const [index, call] of Object.keys(calls).entries()) {
          const outcome = outcomes[index]
          const error: unknown = outcome?.status === 'rejected' ? outcome.reason : undefined
          expect(error, call).to.be.instanceOf(ErrUnknown)
          expect(error, call).to.have.property('cause').that.is.instanceOf(Error)
        }
        await proxy.accept()
        await eventually(() =>
          manager.claim('m', 'a', 1_000).then(
            () => true,
            () => false,
          ),
        )
      })).timeout(60_000)
  })
}

describe('a manager whose server', () => {
  let server: Server
  before(async () => {
    server = await startRedis({ appendonly: true, settings: { appendfsync: 'always' } })
  })
  after(() => server.stop())

  it('is killed and comes back: holds, waiters and contenders recover by themselves, and nothing is rejected unheard', async () => {
    const reasons = await unheard(async () => {
      const connections = [1, 2].map(() => quiet(new Redis(server.url)))
      const [first, second] = connections as [Redis, Redis]
      const clients = [first, second].map((redis) => redisClient({ redis, namespace: 'killed', requestTimeout: 1_000 }))
      const [here, there] = clients.map((client) => new Manager({ client, maxSleep: 2_000 })) as [Manager, Manager]

      const hold = await here.hold('kept', 'a', { duration: 20_000, renewEvery: 500 })
      await here.claim('lapsing', 'a', 4_000)
      const wait = there.waitUntilExpired('lapsing')
      let contender: Hold | undefined
      const contending = there
        .hold('kept', 'b', { duration: 20_000, wait: true })
        .then((granted) => (contender = granted))

      await server.kill()
      await sleep(1_500)
      await server.restart()

      await wait
      await eventually(async () => {
        try {
          return (await there.leases()).get('kept')?.holder === 'a'
        } catch {
          return false
        }
      })
      expect(hold.held).to.equal(true)
      expect(contender).to.equal(undefined)
      await hold.release()
      await contending
      expect(contender?.held).to.equal(true)
      expect(contender?.fencingToken).to.satisfy((token: bigint) => token > hold.fencingToken)

      await there.stop()
      await here.stop()
      for (const client of clients) await client.close()
      for (const connection of connections) connection.disconnect()
    })
    expect(reasons).to.deep.equal([])
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
    if (hold.held)
      await eventually(
        () =>
          hold.release().then(
            () => true,
            () => true,
          ),
        30_000,
      )
    const next = await contending
    expect(hold.held).to.equal(false)
    expect(next.fencingToken > hold.fencingToken).to.equal(true)
    await eventually(
      () =>
        here.claim('m', 'a', 1_000).then(
          () => true,
          () => false,
        ),
      30_000,
    )
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
