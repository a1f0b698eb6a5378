/** The versions of the driver that the package names as its peer: each does all that a client and a guard ask of it. */
import { inspect } from 'node:util'
import { expect } from 'chai'
import * as six from 'ioredis'
import * as five from 'ioredis-5'
import * as valkey from 'iovalkey'
import { ErrClaimDenied, ErrNotHeld, Manager } from 'lease-core'
import { redisClient, RedisGuard, RedisSubstrate, type RedisConnection } from 'lease-redis'
import { caught, unique } from 'lease-scenes'
import { redisTargets, until } from 'lease-servers'
import { LASTING_MS, queued } from './setting.ts'

const set = `return redis.call('SET', KEYS[1], ARGV[1])`

/** What is used of either version. */
interface Driver {
  connect(
    url: string,
    options?: { db?: number; keyPrefix?: string; username?: string; password?: string },
  ): five.Redis | six.Redis
  cluster(nodes: { host: string; port: number }[], options?: { maxRedirections?: number }): five.Cluster | six.Cluster
}

const drivers: Record<string, Driver> = {
  'ioredis 5': {
    connect: (url, options = {}) => new five.Redis(url, options),
    cluster: (nodes, options = {}) => new five.Cluster(nodes, options),
  },
  'ioredis 6': {
    connect: (url, options = {}) => new six.Redis(url, options),
    cluster: (nodes, options = {}) => new six.Cluster(nodes, options),
  },
  // A fork of ioredis 5, with its types but for names.
  iovalkey: {
    connect: (url, options = {}) => new valkey.Redis(url, options) as unknown as five.Redis,
    cluster: (nodes, options = {}) => new valkey.Cluster(nodes, options) as unknown as five.Cluster,
  },
}

/** Two managers of one namespace, each over a connection of its own. */
async function doAll(connections: readonly [RedisConnection, RedisConnection], namespace: string): Promise<void> {
  const clients = connections.map((redis) => redisClient({ redis, namespace }))
  const [one, two] = clients.map((client) => new Manager({ client })) as [Manager, Manager]
  try {
    const token = await one.claim('l', 'one', LASTING_MS, { value: 'here' })
    expect(await caught(two.claim('l', 'two', LASTING_MS))).to.be.instanceOf(ErrClaimDenied)
    await one.claim('l', 'one', 2 * LASTING_MS)
    expect((await two.leases()).get('l')).to.include({ holder: 'one', value: 'here' })
    await one.pin('l', 'operator')
    expect([...(await two.pinned()).keys()]).to.deep.equal(['l'])
    await one.unpin('l', 'operator')
    const guard = new RedisGuard()
    await token.check(guard)
    const [redis] = connections
    const own = `{${namespace}}:own`
    expect(await guard.run(redis, set, [own], ['x'])).to.equal('OK')
    const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
    await queued(one, 'l')
    await one.release('l', 'one')
    const hold = await waiting // by a hint, for the lease lasts longer than this test may
    expect(await caught(guard.run(redis, set, [own], ['y']))).to.be.instanceOf(ErrNotHeld)
    await hold.release()
    const held = await one.holdAny(['m', 'n'], 'one', { duration: LASTING_MS })
    expect(held.lease).to.equal('m')
    await held.release()
  } finally {
    await Promise.all([one.stop(), two.stop()])
    await Promise.all(clients.map((client) => client.close()))
  }
}

for (const [name, driver] of Object.entries(drivers)) {
  for (const target of redisTargets('server')) {
    describe(`${name}, on ${target.name}`, () => {
      for (const options of [{}, { db: 2, keyPrefix: 'app:' }]) {
        it(`does all that a client asks of it, with the options ${JSON.stringify(options)}`, async () => {
          const pair = [driver.connect(target.url, options), driver.connect(target.url, options)] as const
          try {
            await doAll(pair, unique('driver'))
          } finally {
            for (const redis of pair) redis.disconnect()
          }
        })
      }

      it('shows no password in the cause of an error, nor in an event, where the server refuses it', async () => {
        const password = unique('unguessable')
        const owner = driver.connect(target.url)
        const username = unique('user')
        await owner.call('ACL', 'SETUSER', username, 'on', '>right', 'allkeys', 'allchannels', 'allcommands')
        owner.disconnect()
        const refused = (options: object): six.Redis => {
          const redis = driver.connect(target.url, { username, password, ...options }) as six.Redis
          redis.on('error', () => {}) // what was asked rejects as well
          return redis
        }
        const [redis, key] = [refused({}), refused({ retryStrategy: null })]
        const client = redisClient({ redis, namespace: unique('driver'), requestTimeout: 1_000 })
        const manager = new Manager({ client })
        const events: unknown[] = []
        manager.events.subscribe((event) => events.push(event))
        try {
          const guard = new RedisGuard()
          const substrate = new RedisSubstrate({ redis, namespace: 'ns', listen: false })
          await substrate.trapdoor('l', 'one', 1n)(guard)
          const errors = [
            await caught(manager.claim('l', 'one', LASTING_MS)),
            await caught(
              manager.hold('l', 'one', { duration: LASTING_MS, wait: true, signal: AbortSignal.timeout(2_500) }),
            ),
            await caught(guard.run(redis, set, ['x'], ['y'])),
            await caught(guard.transaction(redis, () => {})),
            await caught(guard.watch(key)),
          ]
          const words = errors.map((error) => inspect(error, { depth: 10 }))
          expect(words.join('\n')).to.match(/WRONGPASS/)
          expect(words.filter((text) => text.includes(password))).to.deep.equal([])
          expect(inspect(events, { depth: 10 })).not.to.include(password)
          await substrate.close()
        } finally {
          await manager.stop()
          await client.close()
          for (const one of [redis, key]) one.disconnect()
        }
      })

      it('executes guarded transactions, and watches as a key', async () => {
        const redis = driver.connect(target.url)
        const client = redisClient({ redis, namespace: unique('driver'), listen: false })
        const manager = new Manager({ client })
        const key = redis.duplicate({ retryStrategy: null })
        try {
          const token = await manager.claim('l', 'one', LASTING_MS)
          const guard = new RedisGuard()
          await token.check(guard)
          const own = unique('own')
          expect(await guard.transaction(redis as six.Redis, (multi) => void multi.incr(own))).to.deep.equal([
            [null, 1],
          ])
          await token.check(key)
          await manager.release('l', 'one')
          expect(await key.multi().incr(own).exec()).to.equal(null)
          expect(await caught(guard.transaction(redis as six.Redis, () => {}))).to.be.instanceOf(ErrNotHeld)
          expect(await redis.get(own)).to.equal('1')
        } finally {
          await manager.stop()
          await client.close()
          for (const one of [redis, key]) one.disconnect()
        }
      })
    })
  }

  for (const target of redisTargets('cluster')) {
    describe(`${name}, on ${target.name}`, () => {
      it('does all that a client asks of it where it follows no redirection', async () => {
        const pair = [0, 1].map(() => driver.cluster([...target.nodes], { maxRedirections: 0 }))
        try {
          for (const cluster of pair) {
            await until('the Cluster knows its slots', () => cluster.status === 'ready')
            for (const node of cluster.nodes('master')) await node.script('FLUSH')
          }
          await doAll(pair as unknown as readonly [RedisConnection, RedisConnection], unique('driver'))
        } finally {
          for (const cluster of pair) cluster.disconnect()
        }
      })

      it('does all that a client asks of it', async () => {
        const pair = [driver.cluster([...target.nodes]), driver.cluster([...target.nodes])] as const
        try {
          await doAll(pair, unique('driver'))
        } finally {
          for (const cluster of pair) cluster.disconnect()
        }
      })
    })
  }
}
