/** Users who have the rights that the page names, and no other. */
import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { Manager } from 'lease-core'
import { RedisGuard, RedisSubstrate, redisClient, type RedisConnection } from 'lease-redis'
import { caught, claim, grant, unique } from 'lease-scenes'
import { redisTargets, until } from 'lease-servers'
import { documentedRights } from './rights.ts'
import { LASTING_MS, openSetting, type Setting } from './setting.ts'

const set = `return redis.call('SET', KEYS[1], ARGV[1])`

/** What this user was denied, of all that it asked of these servers. */
async function deniedTo(user: string, servers: readonly Redis[]): Promise<unknown[]> {
  const logs = await Promise.all(servers.map((server) => server.acl('LOG') as Promise<unknown[][]>))
  return logs.flat().filter((entry) => entry.includes(user))
}

/** All that a manager does, and a hand-over by a hint. */
async function useLeases(redis: RedisConnection, namespace: string): Promise<void> {
  const client = redisClient({ redis, namespace })
  const manager = new Manager({ client })
  try {
    const hold = await manager.hold('l', 'one', { duration: LASTING_MS, value: 'v' })
    const waiting = manager.hold('l', 'two', { duration: LASTING_MS, wait: true })
    await manager.pin('l', 'operator')
    await manager.unpin('l', 'operator')
    await hold.update('w')
    await hold.release()
    await (await waiting).release()
    const part = await manager.hold('s', 'one', { duration: LASTING_MS, share: { weight: 2, capacity: 3 } })
    const parted = manager.hold('s', 'two', { duration: LASTING_MS, share: { weight: 2 }, wait: true })
    const { generation } = await manager.counted('s')
    await manager.define('s', 2, { from: generation })
    await part.release()
    await (await parted).release()
    await (await manager.holdAny(['m', 'n'], 'one', { duration: LASTING_MS })).release()
    expect((await manager.leases()).size).to.equal(0)
  } finally {
    await manager.stop()
    await client.close()
  }
}

for (const target of redisTargets('server')) {
  describe(`the rights of the page, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let user: string
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('billing')
      user = unique('app')
    })
    afterEach(() => setting.redis.acl('DELUSER', user))

    it('are enough for leases, for scripts and for transactions', async () => {
      const { leases, transactions } = await documentedRights(namespace)
      await setting.redis.acl('SETUSER', user, ...leases, ...transactions, `~{${namespace}}:*`)
      const redis = setting.connect({ username: user, password: 'secret' })
      await useLeases(redis, namespace)
      const substrate = setting.substrate({ redis, namespace })
      const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
      const guard = new RedisGuard()
      await substrate.trapdoor('l', 'a', fencingToken)(guard)
      const own = `{${namespace}}:own`
      await guard.run(redis, set, [own], ['x'])
      const failing = guard.transaction(redis, () => {
        throw new Error('of the body')
      })
      expect((await caught(failing)).message).to.equal('of the body')
      expect(await guard.transaction(redis, (multi) => void multi.set(own, 'y'))).to.deep.equal([[null, 'OK']])
      const key = setting.connect({ username: user, password: 'secret', retryStrategy: null })
      await substrate.trapdoor('l', 'a', fencingToken)(key)
      await substrate.inspect()
      expect(await deniedTo(user, [setting.redis])).to.deep.equal([])
    })

    it('are enough in another database', async () => {
      const { leases } = await documentedRights(namespace)
      await setting.redis.acl('SETUSER', user, ...leases)
      await useLeases(setting.connect({ username: user, password: 'secret', db: 2 }), namespace)
      expect(await deniedTo(user, [setting.redis])).to.deep.equal([])
    })
  })
}

for (const target of redisTargets('cluster')) {
  describe(`the rights of the page, on ${target.name}`, () => {
    it('are enough for leases and scripts', async () => {
      const [namespace, user] = [unique('billing'), unique('app')]
      const { leases, cluster: more } = await documentedRights(namespace)
      const nodes = target.nodes.map(({ host, port }) => new Redis({ host, port }))
      const cluster = new Cluster([...target.nodes], {
        lazyConnect: true,
        redisOptions: { username: user, password: 'secret' },
      })
      try {
        for (const node of nodes) await node.acl('SETUSER', user, ...leases, ...more, `~{${namespace}}:*`)
        await useLeases(cluster, namespace)
        const substrate = new RedisSubstrate({ redis: cluster, namespace, listen: false })
        const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
        const guard = new RedisGuard()
        await substrate.trapdoor('l', 'a', fencingToken)(guard)
        expect(await guard.run(cluster, set, [`{${namespace}}:own`], ['x'])).to.equal('OK')
        // The driver may ask for more when it has time, which a denial would show.
        await until('the slots', async () => cluster.status === 'ready')
        expect(await deniedTo(user, nodes)).to.deep.equal([])
      } finally {
        cluster.disconnect()
        for (const node of nodes) {
          await node.acl('DELUSER', user)
          node.disconnect()
        }
      }
    })
  })
}
