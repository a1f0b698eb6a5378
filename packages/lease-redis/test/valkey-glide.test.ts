/** valkey-glide: it does all that a client asks of it, and its guards run scripts. */
import {
  Batch,
  ClosingError,
  Decoder,
  GlideClient,
  GlideClusterClient,
  Logger,
  ProtocolVersion,
  RequestError,
  type GlideRecord,
} from '@valkey/valkey-glide'
import { expect } from 'chai'
import { ErrClaimDenied, ErrNotHeld, ErrNotValid, ErrTrapdoor, ErrUnknown, Manager } from 'lease-core'
import { RedisGuard, redisClient, type RedisClientOptions } from 'lease-redis'
import { caught, unique } from 'lease-scenes'
import { redisTargets, startProxy, until } from 'lease-servers'
import { ValkeyGlideOwn } from '#src/valkey-glide.ts'
import { LASTING_MS, queued } from './setting.ts'

const set = `return redis.call('SET', KEYS[1], ARGV[1])`

/** The driver's own is 250 ms, which a slow machine exceeds. */
const requestTimeout = 30_000

Logger.init('off') // it writes every error of the server

/** Whether it resolves. @throws what it rejects with, unless that is such an error */
function succeeds(work: Promise<unknown>, failure: new (...args: never[]) => Error): Promise<boolean> {
  return work.then(
    () => true,
    (error: unknown) => {
      if (error instanceof failure) return false
      throw error
    },
  )
}

/** Ends the connection of a client. */
async function kill(redis: GlideClient, by: GlideClient): Promise<void> {
  await by.customCommand(['CLIENT', 'KILL', 'ID', JSON.stringify(await redis.customCommand(['CLIENT', 'ID']))])
}

/** Ends the connections of a client of a Cluster. */
async function cut(redis: GlideClusterClient, by: GlideClusterClient): Promise<void> {
  const ids = (await redis.customCommand(['CLIENT', 'ID'], { route: 'allPrimaries' })) as GlideRecord<number>
  for (const { key, value } of ids) {
    const [host = '', port] = String(key).split(':')
    const node = { route: { type: 'routeByAddress', host, port: Number(port) } } as const
    await by.customCommand(['CLIENT', 'KILL', 'ID', String(value)], node)
  }
}

interface Manned {
  readonly manager: Manager
  /** Warnings, by their word. */
  readonly warnings: string[]
}

describe('valkey-glide', () => {
  const open: (() => unknown)[] = []
  afterEach(async () => {
    for (const close of open.splice(0).toReversed()) await close()
  })

  function managed(options: RedisClientOptions): Manned {
    const client = redisClient(options)
    const manager = new Manager({ client })
    const warnings: string[] = []
    manager.events.subscribe((event) => {
      if (event.type === 'warning') warnings.push(`${event.warning}: ${event.message}`)
    })
    open.push(() => client.close())
    open.push(() => manager.stop())
    return { manager, warnings }
  }

  /** Two managers of one namespace do what clients are asked for. */
  async function doAll(connect: () => Promise<GlideClient | GlideClusterClient>): Promise<void> {
    const namespace = unique('driver')
    const [redis, other] = [await connect(), await connect()]
    const [one, two] = [redis, other].map((each) => managed({ redis: each, namespace, listen: connect }).manager) as [
      Manager,
      Manager,
    ]
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
  }

  for (const target of redisTargets('server')) {
    describe(`on ${target.name}`, () => {
      async function connected(options: object = {}): Promise<GlideClient> {
        const { hostname: host, port } = new URL(target.url)
        const addresses = [{ host, port: Number(port) }]
        const redis = await GlideClient.createClient({ addresses, requestTimeout, ...options })
        open.push(() => redis.close())
        return redis
      }

      for (const options of [{}, { databaseId: 2 }, { defaultDecoder: Decoder.Bytes }]) {
        it(`does all that a client asks of it, with the options ${JSON.stringify(options)}`, async () => {
          await doAll(() => connected(options))
        })
      }

      it('with another driver in the same database, each hears of what the other releases', async () => {
        const { Redis } = await import('ioredis')
        const ioredis = new Redis(target.url, { db: 2 })
        open.push(() => ioredis.disconnect())
        const namespace = unique('driver')
        const listen = (): Promise<GlideClient> => connected({ databaseId: 2 })
        const { manager: one } = managed({ redis: await listen(), namespace, listen })
        const { manager: two } = managed({ redis: ioredis, namespace })
        await one.claim('l', 'one', LASTING_MS)
        const waiting = two.hold('l', 'two', { duration: LASTING_MS, wait: true })
        await queued(one, 'l')
        await one.release('l', 'one')
        const hold = await waiting
        const again = one.hold('l', 'one', { duration: LASTING_MS, wait: true })
        await queued(two, 'l')
        await hold.release()
        await (await again).release()
      })

      it('what the script of a guard throws is in the words of the server', async () => {
        const redis = await connected()
        const { manager } = managed({ redis, namespace: unique('driver'), listen: false })
        const guard = new RedisGuard()
        await (await manager.claim('l', 'one', LASTING_MS)).check(guard)
        const messages: string[] = []
        for (const words of ['OWN words', 'ERR words', 'NOSCRIPT words', 'WRONGTYPE words']) {
          const error = await caught(guard.run(redis, `return redis.error_reply('${words}')`))
          messages.push(error.message)
        }
        expect(messages).to.deep.equal(['OWN words', 'ERR words', 'NOSCRIPT words', 'WRONGTYPE words'])
        expect(await guard.run(redis, `return { 1, ARGV[1], false, { string.char(255) } }`, [], ['é'])).to.deep.equal([
          1,
          'é',
          null,
          ['\uFFFD'],
        ])
      })

      it('no transaction depends on a lease: it would be executed after a reconnection', async () => {
        const redis = await connected()
        const other = await connected()
        const { manager } = managed({ redis, namespace: unique('driver'), listen: false })
        const token = await manager.claim('l', 'one', LASTING_MS)
        const guard = new RedisGuard()
        await token.check(guard)
        for (const refused of [
          await caught(guard.transaction(redis as never, () => {})),
          await caught(guard.watch(redis as never)),
          await caught(token.check(redis)),
        ]) {
          expect(refused).to.be.instanceOf(ErrTrapdoor).with.property('message').that.contains('guard.run()')
        }
        // This is why: a reconnection between WATCH and EXEC shows nowhere, and what was watched has changed.
        const watched = unique('watched')
        await redis.watch([watched])
        await kill(redis, other)
        await other.set(watched, 'changed')
        expect(await redis.exec(new Batch(true).set(unique('own'), 'written'), true)).to.deep.equal(['OK'])
      })

      it('a claim is granted after the driver has connected again', async () => {
        const redis = await connected()
        const other = await connected()
        const { manager } = managed({ redis, namespace: unique('driver'), listen: false })
        await manager.claim('l', 'one', LASTING_MS)
        await kill(redis, other)
        // What was under way may be unknown.
        await until('a claim over the new connection', () =>
          succeeds(manager.claim('l', 'one', LASTING_MS), ErrUnknown),
        )
      })

      it('where the server falls silent over this connection, another one is opened', async () => {
        await using proxy = await startProxy(target.url)
        const { hostname: host, port } = new URL(proxy.url(target.url))
        const listen = (): Promise<GlideClient> => connected({ addresses: [{ host, port: Number(port) }] })
        const { manager } = managed({ redis: await listen(), namespace: unique('driver'), listen })
        await manager.claim('l', 'one', LASTING_MS)
        proxy.silence() // the connections that there are
        await manager.claim('l', 'one', 2 * LASTING_MS)
      })

      for (const rights of ['+@all', '+@all -client|id']) {
        it(`a connection that listens ends where the driver has connected again, with the rights ${rights}`, async () => {
          const owner = await connected()
          const username = unique('user')
          await owner.customCommand(['ACL', 'SETUSER', username, 'on', '>p', '~*', '&*', ...rights.split(' ')])
          const redis = await connected({ credentials: { username, password: 'p' } })
          const own = new ValkeyGlideOwn(redis)
          let ended = false
          own.on('end', () => (ended = true))
          await own.subscribe(unique('channel'))
          await own.ping()
          expect(ended).to.equal(false)
          await owner.customCommand(['CLIENT', 'KILL', 'USER', username])
          await until('a sign of life over the new connection', () => succeeds(own.ping(), RequestError))
          expect(ended).to.equal(rights === '+@all')
          own.disconnect()
          await until('its client is closed', async () => !(await succeeds(redis.ping(), ClosingError)))
        })
      }

      it('a client that is closed is refused, and one that is closed later is an error that says what to do', async () => {
        const redis = await connected()
        const options = { redis, namespace: unique('driver'), listen: false } as const
        const { manager } = managed(options)
        redis.close()
        const claim = await caught(manager.claim('l', 'one', LASTING_MS))
        expect(claim).to.be.instanceOf(ErrUnknown).with.property('reason', 'set-up')
        expect(String(claim)).to.contain('create another one')
        expect(() => redisClient(options)).to.throw(ErrNotValid, 'create another client of valkey-glide')
      })

      it('needs a function that makes the client that listens; a batch and an old version are refused', async () => {
        const redis = await connected()
        const namespace = unique('driver')
        expect(() => redisClient({ redis, namespace })).to.throw(ErrNotValid, 'GlideClient.createClient(configuration)')
        expect(() => redisClient({ redis: new Batch(true) as never, namespace })).to.throw(ErrNotValid, 'eval')
        const old = { customCommand: () => {}, invokeScript: () => {}, close: () => {} } as never
        expect(() => redisClient({ redis: old, namespace, listen: false })).to.throw(ErrNotValid, '2.3 or later')
      })

      it('a client in subscriber mode is an error that says what to do', async () => {
        const redis = await connected({ protocol: ProtocolVersion.RESP2 })
        await redis.subscribeLazy([unique('channel')])
        const { manager } = managed({ redis, namespace: unique('driver'), listen: false })
        await until('the subscription', async () => !(await succeeds(redis.get('any'), RequestError)))
        const claim = await caught(manager.claim('l', 'one', LASTING_MS))
        expect(claim).to.be.instanceOf(ErrUnknown).with.property('reason', 'set-up')
        expect(String(claim)).to.contain('subscriber mode: pass another one')
      })
    })
  }

  for (const target of redisTargets('cluster')) {
    describe(`on ${target.name}`, () => {
      const connect = async (options: object = {}): Promise<GlideClusterClient> => {
        const addresses = target.nodes.map(({ host, port }) => ({ host, port }))
        const redis = await GlideClusterClient.createClient({ addresses, requestTimeout, ...options })
        open.push(() => redis.close())
        return redis
      }

      it('does all that a client asks of it', async () => {
        await doAll(connect)
      })

      it('a connection that listens ends where the driver has connected again', async () => {
        const [redis, other] = [await connect(), await connect()]
        const own = new ValkeyGlideOwn(redis)
        let ended = false
        own.on('end', () => (ended = true))
        await own.subscribe(unique('channel'))
        for (let n = 0; n < 10; n++) await own.ping()
        expect(ended).to.equal(false)
        await cut(redis, other)
        await until('a sign of life over the new connections', () => succeeds(own.ping(), RequestError))
        expect(ended).to.equal(true)
      })

      it('a guard asks the primary of the slot, and refuses keys of another', async () => {
        const namespace = unique('driver')
        const redis = await connect({ readFrom: 'preferReplica' })
        const { manager } = managed({ redis, namespace, listen: false })
        const guard = new RedisGuard()
        await (await manager.claim('l', 'one', LASTING_MS)).check(guard)
        expect(await guard.run(redis, set, [`{${namespace}}:own`], ['x'])).to.equal('OK')
        expect(String(await caught(guard.run(redis, set, ['{elsewhere}:own'], ['x'])))).to.contain('CROSSSLOT')
        expect(await caught(guard.transaction(redis as never, () => {}))).to.be.instanceOf(ErrTrapdoor)
      })
    })
  }
})
