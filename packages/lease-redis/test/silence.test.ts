/** A connection that is open and silent: nobody closes it, and the driver, which has no time-out for that, stays with it. */
import { expect } from 'chai'
import { Cluster, type Redis } from 'ioredis'
import { Manager, type Client } from 'lease-core'
import { redisClient, type RedisConnection } from 'lease-redis'
import { succeeds, unique } from 'lease-scenes'
import { redisTargets, startProxy, until, type Proxy } from 'lease-servers'
import { LASTING_MS, openSetting, type Setting } from './setting.ts'

interface Party {
  readonly client: Client
  readonly manager: Manager
}

for (const target of redisTargets('server')) {
  describe(`a silent connection to ${target.name}, without socketTimeout`, () => {
    let setting: Setting
    let proxy: Proxy
    let connectionName: string
    let shared: Redis
    const parties: Party[] = []

    before(async () => {
      setting = openSetting(target.url)
      proxy = await startProxy(target.url)
    })
    after(async () => {
      await setting[Symbol.asyncDispose]()
      await proxy.close()
    })
    beforeEach(async () => {
      connectionName = unique('silent')
      shared = setting.connect({ connectionName }, proxy.url(target.url))
      await shared.ping()
    })
    afterEach(async () => {
      proxy.resume()
      for (const { manager, client } of parties.splice(0)) {
        await manager.stop()
        await client.close()
      }
    })

    function party(redis: RedisConnection = shared, namespace: string = unique('ns')): Party {
      const client = redisClient({ redis, namespace, listen: false })
      const one = { client, manager: new Manager({ client }) }
      parties.push(one)
      return one
    }

    /** Connections that the server has under this name. */
    async function connections(): Promise<number> {
      const all = String(await setting.redis.client('LIST')).split('\n')
      return all.filter((line) => line.includes(`name=${connectionName} `)).length
    }

    it('is left alone, and another one made as it was is used: holds stay, and claims are granted', async () => {
      const { manager } = party()
      const hold = await manager.hold('held', 'a', { duration: LASTING_MS })
      let reconnected = 0
      shared.on('reconnecting', () => reconnected++)
      proxy.silence()
      await manager.claim('l', 'a', LASTING_MS)
      await hold.renew()
      expect(hold.held).to.equal(true)
      expect({ reconnected, status: shared.status }).to.deep.equal({ reconnected: 0, status: 'ready' })
    })

    it('is replaced by one for all clients over it, which ends with the last of them', async () => {
      const [one, two] = [party(), party()]
      for (const { manager } of [one, two]) await manager.claim('warm', 'up', LASTING_MS)
      proxy.silence()
      await Promise.all([one, two].map(({ manager }) => manager.claim('l', 'a', LASTING_MS)))
      await until('one that is used', async () => (await connections()) === 2)
      await one.client.close()
      await two.manager.claim('m', 'a', LASTING_MS)
      await two.client.close()
      await until('the end of the one that was used', async () => (await connections()) === 1)
    })

    it('is replaced again when that one is silent, too', async () => {
      const { manager } = party()
      await manager.claim('warm', 'up', LASTING_MS)
      for (const lease of ['l', 'm', 'n']) {
        proxy.silence()
        await manager.claim(lease, 'a', LASTING_MS)
      }
    })

    it('is replaced by one that ends when its owner closes the silent one', async () => {
      const { manager } = party()
      await manager.claim('warm', 'up', LASTING_MS)
      proxy.silence()
      await manager.claim('l', 'a', LASTING_MS)
      shared.disconnect()
      await until('the end of all', async () => (await connections()) === 0)
      expect(await succeeds(manager.claim('m', 'a', LASTING_MS))).to.equal(false)
    })

    it('is replaced also while it is being made: the server accepts it and says nothing', async () => {
      proxy.pause()
      const late = setting.connect({ connectionName }, proxy.url(target.url))
      const { manager } = party(late)
      const claiming = manager.claim('l', 'a', LASTING_MS).catch(() => manager.claim('l', 'a', LASTING_MS))
      await until('an attempt of the driver', () => late.status === 'connect')
      proxy.resume() // cuts what lost bytes
      await claiming
    })

    it('with a server that says nothing at all is found again when the server answers, and no lease is lost by that', async () => {
      const { manager } = party()
      const hold = await manager.hold('held', 'a', { duration: LASTING_MS, renewEvery: 200 })
      let retries = 0
      manager.events.subscribe(({ type }) => type === 'retrying' && retries++)
      const { connections: before } = proxy.counters
      proxy.pause()
      await until('several attempts', () => proxy.counters.connections >= before + 3)
      proxy.resume()
      await hold.renew()
      expect(hold.held).to.equal(true)
    })

    it('that is only slow executes what was sent over it late, and that changes nothing', async () => {
      const namespace = unique('ns')
      const { manager } = party(shared, namespace)
      await manager.claim('warm', 'up', LASTING_MS)
      const { connections: before } = proxy.counters
      proxy.hold()
      const claiming = manager.claim('l', 'a', LASTING_MS)
      const direct = party(setting.connect(), namespace)
      await until('an attempt', () => proxy.counters.connections > before + 1)
      proxy.resume() // in order: what was sent over the slow one first
      const { fencingToken } = await (await claiming).check()
      await manager.release('l', 'a')
      const next = await direct.manager.claim('l', 'b', LASTING_MS)
      expect((await next.check()).fencingToken > fencingToken).to.equal(true)
      await shared.ping()
      expect((await direct.manager.leases()).get('l')?.holder).to.equal('b')
    })

    it('shares its options as they are when another one is made: a password that was changed meanwhile', async () => {
      const user = unique('rotated')
      const rights = ['on', 'allkeys', 'allchannels', 'allcommands']
      await setting.redis.acl('SETUSER', user, ...rights, '>old')
      const redis = setting.connect({ username: user, password: 'old', connectionName }, proxy.url(target.url))
      const { manager } = party(redis)
      await manager.claim('warm', 'up', LASTING_MS)
      await setting.redis.acl('SETUSER', user, '<old', '>new')
      redis.options.password = 'new'
      proxy.silence()
      await manager.claim('l', 'a', LASTING_MS)
      await setting.redis.acl('DELUSER', user)
    })
  })
}

for (const target of redisTargets('cluster')) {
  describe(`silent connections to ${target.name}`, () => {
    it('are replaced as those to a single server are', async () => {
      const proxies = await Promise.all(target.nodes.map(({ port }) => startProxy(`redis://127.0.0.1:${port}`)))
      const natMap = Object.fromEntries(
        target.nodes.map(({ host, port }, n) => [
          `${host}:${port}`,
          { host: '127.0.0.1', port: proxies[n]?.port ?? 0 },
        ]),
      )
      const cluster = new Cluster(
        proxies.map(({ port }) => ({ host: '127.0.0.1', port })),
        { natMap },
      )
      cluster.on('error', () => {})
      const client = redisClient({ redis: cluster, namespace: unique('ns'), listen: false })
      const manager = new Manager({ client })
      try {
        const hold = await manager.hold('held', 'a', { duration: LASTING_MS })
        for (const proxy of proxies) proxy.silence()
        await manager.claim('l', 'a', LASTING_MS)
        await hold.renew()
        expect(hold.held).to.equal(true)
      } finally {
        await manager.stop()
        await client.close()
        cluster.disconnect()
        await Promise.all(proxies.map((proxy) => proxy.close()))
      }
    })
  })
}
