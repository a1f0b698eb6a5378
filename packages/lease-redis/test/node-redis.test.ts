/** node-redis 5 and 6: each does all that a client and a guard ask of it. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrNotHeld, ErrNotValid, ErrTrapdoor, ErrUnknown, Manager } from 'lease-core'
import {
  RedisGuard,
  redisClient,
  type NodeRedisClient,
  type RedisClientOptions,
  type RedisListenConnection,
} from 'lease-redis'
import { caught, unique } from 'lease-scenes'
import { enoughOf, redisTargets, startProxy, startRedisSentinel, until } from 'lease-servers'
import * as six from 'redis'
import * as five from 'redis-5'
import { listeningOverNodeRedis } from '#src/node-redis.ts'
import { LASTING_MS, queued } from './setting.ts'

const set = `return redis.call('SET', KEYS[1], ARGV[1])`

/** The types of the two versions differ in what is not used here. */
const drivers = { 'node-redis 6': six, 'node-redis 5': five as unknown as typeof six }

type Client = ReturnType<typeof six.createClient>

for (const [name, driver] of Object.entries(drivers)) {
  for (const target of redisTargets('server')) {
    describe(`${name}, on ${target.name}`, () => {
      const open: (() => unknown)[] = []
      afterEach(async () => {
        for (const close of open.splice(0).toReversed()) await close()
      })

      async function connected(options: object = {}): Promise<Client> {
        const redis: Client = driver.createClient({ url: target.url, ...options })
        redis.on('error', () => {})
        await redis.connect()
        open.push(() => {
          if (redis.isOpen) redis.destroy()
        })
        return redis
      }

      function managerOf(options: RedisClientOptions): Manager {
        const client = redisClient(options)
        const manager = new Manager({ client })
        open.push(() => client.close())
        open.push(() => manager.stop())
        return manager
      }

      const { SIMPLE_STRING, BLOB_STRING, NUMBER } = driver.RESP_TYPES
      const mapped = { [SIMPLE_STRING]: Buffer, [BLOB_STRING]: Buffer, [NUMBER]: String }
      const settings = {
        'no options': {},
        'a database': { database: 2 },
        RESP3: { RESP: 3 as const },
        'a mapping of answers': { commandOptions: { typeMapping: mapped } },
      }
      for (const [what, options] of enoughOf(Object.entries(settings))) {
        it(`does all that a client asks of it, with ${what}`, async () => {
          const namespace = unique('driver')
          const [redis, other] = [await connected(options), await connected(options)]
          const [one, two] = [managerOf({ redis, namespace }), managerOf({ redis: other, namespace })]
          const token = await one.claim('l', 'one', LASTING_MS, { value: 'here' })
          expect(await caught(two.claim('l', 'two', LASTING_MS))).to.be.instanceOf(ErrClaimDenied)
          expect((await two.leases()).get('l')).to.include({ holder: 'one', value: 'here' })
          await one.pin('l', 'operator')
          expect([...(await two.pinned()).keys()]).to.deep.equal(['l'])
          await one.unpin('l', 'operator')
          const guard = new RedisGuard()
          await token.check(guard)
          const own = `{${namespace}}:own`
          expect(await guard.run(redis, set, [own], ['x'])).to.equal('OK')
          const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
          await queued(one, 'l')
          await one.release('l', 'one')
          const hold = await waiting // by a hint, for the lease lasts longer than this test may
          expect(await caught(guard.run(redis, set, [own], ['y']))).to.be.instanceOf(ErrNotHeld)
          expect(String(await redis.get(own))).to.equal('x')
          await hold.release()
        })
      }

      it('executes guarded transactions, and again when the lease was renewed meanwhile', async () => {
        const namespace = unique('driver')
        const redis = await connected()
        const manager = managerOf({ redis, namespace, listen: false })
        const token = await manager.claim('l', 'one', LASTING_MS)
        const guard = new RedisGuard()
        await token.check(guard)
        const own = unique('own')
        let bodies = 0
        const answers = await guard.transaction(redis, async (multi) => {
          if (++bodies === 1) await manager.claim('l', 'one', 2 * LASTING_MS)
          multi.incr(own)
        })
        expect([answers, bodies]).to.deep.equal([[1], 2])
        await manager.release('l', 'one')
        expect(await caught(guard.transaction(redis, (multi) => void multi.incr(own)))).to.be.instanceOf(ErrNotHeld)
        expect(await redis.get(own)).to.equal('1')
      })

      const texts = { [SIMPLE_STRING]: Buffer, [BLOB_STRING]: Buffer }
      for (const options of [{ commandOptions: { typeMapping: texts } }, { keyPrefix: 'app:' }]) {
        const [what] = Object.keys(options)
        it(`executes guarded transactions with ${what}, and a connection with it is a key`, async () => {
          const namespace = unique('driver')
          const redis = await connected(options)
          const manager = managerOf({ redis, namespace, listen: false })
          const token = await manager.claim('l', 'one', LASTING_MS)
          const guard = new RedisGuard()
          await token.check(guard)
          const own = unique('own')
          expect(await guard.transaction(redis, (multi) => void multi.incr(own))).to.deep.equal([1])
          const key = await connected(options)
          await token.check(key)
          expect(await key.multi().incr(own).exec()).to.deep.equal([2])
          await manager.release('l', 'one')
          expect(await caught(guard.transaction(redis, (multi) => void multi.incr(own)))).to.be.instanceOf(ErrNotHeld)
        })
      }

      it('as a key it is watched: an EXEC after the release writes nothing', async () => {
        const redis = await connected()
        const manager = managerOf({ redis, namespace: unique('driver'), listen: false })
        const key = await connected()
        const token = await manager.claim('l', 'one', LASTING_MS)
        await token.check(key)
        await manager.release('l', 'one')
        const own = unique('own')
        expect(await caught(key.multi().incr(own).exec()))
          .to.have.property('name')
          .that.is.a('string')
        expect(await redis.get(own)).to.equal(null)
        expect(await caught(token.check(key))).to.be.instanceOf(ErrNotHeld)
      })

      it('where the server falls silent over this connection, another one is opened', async () => {
        await using proxy = await startProxy(target.url)
        const redis = await connected({ url: proxy.url(target.url) })
        const manager = managerOf({ redis, namespace: unique('driver'), listen: false })
        await manager.claim('l', 'one', LASTING_MS)
        proxy.silence() // the connections that there are
        await manager.claim('l', 'one', 2 * LASTING_MS)
      })

      it('hears of vacancies over a connection that a factory makes, connected or not', async () => {
        const namespace = unique('driver')
        const redis = await connected()
        const listen = (): NodeRedisClient => {
          const made = driver.createClient({ url: target.url })
          made.on('error', () => {})
          return made
        }
        const [one, two] = [managerOf({ redis, namespace }), managerOf({ redis, namespace, listen })]
        await one.claim('l', 'one', LASTING_MS)
        const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
        await queued(one, 'l')
        await one.release('l', 'one')
        await (await waiting).release()
      })

      /** A connection that listens, over a client that would connect again by itself, and what it reports. */
      function listening(url: string): {
        readonly own: RedisListenConnection
        readonly redis: Client
        readonly heard: string[]
      } {
        const redis: Client = driver.createClient({ url })
        const own = listeningOverNodeRedis(redis)
        const heard: string[] = []
        for (const event of ['error', 'end'] as const) own.on(event as 'end', () => heard.push(event))
        open.push(() => own.disconnect())
        return { own, redis, heard }
      }

      it('a connection that listens ends for good when it is lost or refused', async () => {
        await using proxy = await startProxy(target.url)
        const lost = listening(proxy.url(target.url))
        await lost.own.subscribe(unique('channel'))
        proxy.cut()
        const refused = listening('redis://127.0.0.1:1')
        for (const { own, redis, heard } of [lost, refused]) {
          await until('its end', () => heard.includes('end'))
          expect(redis.isOpen, 'it connects again').to.equal(false)
          expect(await caught(own.ping())).to.be.instanceOf(Error)
          expect(heard).to.deep.equal(['error', 'end'])
        }
      })

      it('a connection that listens ends when its client is closed, and closes it when it is ended', async () => {
        const [closed, ended] = [listening(target.url), listening(target.url)]
        for (const { own } of [closed, ended]) await own.subscribe(unique('channel'))
        closed.redis.destroy()
        expect(closed.heard).to.deep.equal(['end'])
        ended.own.disconnect()
        await until('its client is closed', () => !ended.redis.isOpen)
        expect(ended.heard).to.deep.equal(['end'])
      })

      it('a client that is not connected, or was closed, is an error that says what to do, at once', async () => {
        const redis = driver.createClient({ url: target.url })
        const manager = managerOf({ redis, namespace: unique('driver'), listen: false })
        const claim = await caught(manager.claim('l', 'one', LASTING_MS))
        expect(claim).to.be.instanceOf(ErrUnknown).with.property('reason', 'set-up')
        expect(String(claim)).to.contain('await redis.connect() first')
        const wait = await caught(manager.hold('l', 'one', { duration: LASTING_MS, wait: true }))
        expect(wait).to.be.instanceOf(ErrUnknown).with.property('reason', 'set-up')
      })

      it('no guarded transaction goes over a client that its owner has closed, until it is connected again', async () => {
        const redis = await connected()
        const manager = managerOf({ redis, namespace: unique('driver'), listen: false })
        const guard = new RedisGuard()
        await (await manager.claim('l', 'one', LASTING_MS)).check(guard)
        const own = unique('own')
        const increment = (): Promise<unknown> => guard.transaction(redis, (multi) => void multi.incr(own))
        expect(await increment()).to.deep.equal([1])
        redis.destroy()
        expect(await caught(increment()))
          .to.be.instanceOf(ErrTrapdoor)
          .with.property('message', 'this connection is closed')
        expect(String(await caught(manager.claim('m', 'one', LASTING_MS)))).to.contain('await redis.connect() first')
        await redis.connect()
        expect(await increment()).to.deep.equal([2])
      })

      it('not yet connected, it is refused by a guarded transaction, and no connection is opened beside it', async () => {
        const redis = await connected()
        const manager = managerOf({ redis, namespace: unique('driver'), listen: false })
        const guard = new RedisGuard()
        await (await manager.claim('l', 'one', LASTING_MS)).check(guard)
        const fresh = driver.createClient({ url: target.url })
        let made = 0
        const duplicate = fresh.duplicate.bind(fresh)
        fresh.duplicate = ((...args: Parameters<typeof duplicate>) => {
          made++
          return duplicate(...args)
        }) as typeof fresh.duplicate
        const refused = await caught(guard.transaction(fresh, (multi) => void multi.incr('own')))
        expect(refused).to.be.instanceOf(ErrTrapdoor)
        expect(String(refused)).to.contain('await redis.connect() first')
        expect(made).to.equal(0)
        const other = await caught(guard.transaction({} as never, () => {}))
        expect(String(other)).to.contain('a client of node-redis')
      })

      it('a transaction of it is no connection, and a URL is refused without being shown', async () => {
        const redis = await connected()
        expect(() => redisClient({ redis: redis.multi() as never, namespace: 'n' })).to.throw(
          ErrNotValid,
          'createClient',
        )
        const url = 'redis://user:secret@host' as never
        expect(() => redisClient({ redis: url, namespace: 'n' }))
          .to.throw(ErrNotValid, 'createClient({ url }) of redis')
          .and.satisfy(({ message }: Error) => !message.includes('secret'))
      })
    })
  }

  for (const target of redisTargets('cluster')) {
    describe(`${name}, on ${target.name}`, () => {
      it('does all that a client asks of it', async () => {
        const namespace = unique('driver')
        const rootNodes = target.nodes.map(({ host, port }) => ({ url: `redis://${host}:${port}` }))
        const clusters = [driver.createCluster({ rootNodes }), driver.createCluster({ rootNodes })]
        for (const cluster of clusters) {
          cluster.on('error', () => {})
          await cluster.connect()
        }
        const clients = clusters.map((redis) => redisClient({ redis, namespace }))
        const [one, two] = clients.map((client) => new Manager({ client })) as [Manager, Manager]
        try {
          const token = await one.claim('l', 'one', LASTING_MS)
          expect(await caught(two.claim('l', 'two', LASTING_MS))).to.be.instanceOf(ErrClaimDenied)
          const guard = new RedisGuard()
          await token.check(guard)
          const [redis] = clusters as [(typeof clusters)[number]]
          expect(await guard.run(redis, set, [`{${namespace}}:own`], ['x'])).to.equal('OK')
          const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
          await queued(one, 'l')
          await one.release('l', 'one')
          await (await waiting).release()
        } finally {
          await Promise.all([one.stop(), two.stop()])
          await Promise.all(clients.map((client) => client.close()))
          for (const cluster of clusters) cluster.destroy()
        }
      })

      it('a guard passes over the cluster and the node of the slot, with a keyPrefix too', async () => {
        const namespace = unique('driver')
        const rootNodes = target.nodes.map(({ host, port }) => ({ url: `redis://${host}:${port}` }))
        const redis = driver.createCluster({ rootNodes, keyPrefix: 'app:' })
        redis.on('error', () => {})
        await redis.connect()
        const client = redisClient({ redis, namespace, listen: false })
        const manager = new Manager({ client })
        try {
          const guard = new RedisGuard()
          await (await manager.claim('l', 'one', LASTING_MS)).check(guard)
          const own = `{${namespace}}:own`
          expect(await guard.run(redis, set, [own], ['x'])).to.equal('OK')
          const refusals: unknown[] = []
          for (const master of redis.masters) {
            const node = await redis.nodeClient(master)
            const transaction = guard.transaction(node, (multi) => void multi.set(own, 'y'))
            await transaction.catch((error: unknown) => refusals.push(error))
          }
          expect(refusals).to.have.length(redis.masters.length - 1)
          for (const refusal of refusals) expect(refusal).to.be.instanceOf(ErrTrapdoor)
        } finally {
          await manager.stop()
          await client.close()
          redis.destroy()
        }
      })
    })
  }

  describe(`${name}, by Sentinels`, () => {
    it('does what a client asks of it, with a function that makes the connection that listens', async () => {
      await using servers = await startRedisSentinel()
      const sentinelRootNodes = servers.sentinels.map(({ host, port }) => ({ host, port }))
      const redis = driver.createSentinel({ name: servers.name, sentinelRootNodes })
      redis.on('error', () => {})
      await redis.connect()
      expect(() => redisClient({ redis, namespace: 'n' })).to.throw(ErrNotValid, 'listen must be given')
      const listen = (): NodeRedisClient => driver.createClient({ url: servers.master.url })
      const client = redisClient({ redis, namespace: 'n', listen })
      const manager = new Manager({ client })
      try {
        const token = await manager.claim('l', 'one', LASTING_MS)
        const guard = new RedisGuard()
        await token.check(guard)
        expect(await guard.run(redis, set, ['own'], ['x'])).to.equal('OK')
        const waiting = manager.hold('l', 'two', { duration: LASTING_MS, wait: true })
        await queued(manager, 'l')
        await manager.release('l', 'one')
        await (await waiting).release()
      } finally {
        await manager.stop()
        await client.close()
        await redis.close()
      }
    })
  })
}
