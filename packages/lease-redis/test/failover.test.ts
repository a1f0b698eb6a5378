/**
 * Failover by Sentinels, with real servers: what lasts where the replica had everything, and where it had not, that two
 * may hold, and who wins then. The words for it are in `docs/guarantees.md` and `docs/substrates/redis.md`.
 */
import { expect } from 'chai'
import { Redis } from 'ioredis'
import { ErrClaimDenied, ErrNotHeld, ErrUnknown, Manager, type ErrLost, type Hold } from 'lease-core'
import { RedisGuard, redisClient, type RedisConnection } from 'lease-redis'
import { startRedisSentinel, until, type RedisSentinel, type Redis as Server } from 'lease-servers'
import { after, before, describe, it } from 'mocha'
import { caught, eventually, hearUnheard, succeeds } from 'lease-scenes'
import { documentedRights } from './rights.ts'
import type { RedisOptions } from './setting.ts'

/** Longer than any test: what is lost here was forgotten, and has not lapsed, and nobody wakes just because time passes. */
const longMs = 600_000
/** For WAIT: as long as it takes. */
const forever = 0

/** What a process has of its own. */
interface Party {
  readonly redis: Redis
  readonly manager: Manager
}

/** Servers under Sentinels, and the parties that use them; all gone in the end. */
class Fleet implements AsyncDisposable {
  readonly sentinel: RedisSentinel
  readonly #unheard = hearUnheard()
  readonly #sentinels: readonly Redis[]
  #ends: (() => Promise<void>)[] = []

  /** @param downAfterMs no replica is promoted that was cut off for ten times as long: there must be time for what comes before */
  static async start(downAfterMs: number): Promise<Fleet> {
    const fleet = new Fleet(await startRedisSentinel({ downAfterMs }))
    // Sentinels that were kept waiting by a busy machine would do nothing for half a minute.
    await fleet.#set('TILT-PERIOD', 1_000)
    return fleet
  }

  private constructor(sentinel: RedisSentinel) {
    this.sentinel = sentinel
    this.#sentinels = sentinel.sentinels.map(({ port }) => connected({ port }))
  }

  /** Whatever was rejected and nobody heard. */
  get unheard(): readonly unknown[] {
    return this.#unheard.reasons
  }

  /** A party that asks the Sentinels where the master is. */
  join(namespace: string, options: RedisOptions = {}): Party {
    const { sentinels, name } = this.sentinel
    return this.#party(namespace, { sentinels: sentinels.map(({ host, port }) => ({ host, port })), name, ...options })
  }

  /** The same, but it does not show how to make another connection, and so stays with a master that is frozen. */
  stay(namespace: string): Party {
    const { sentinels, name } = this.sentinel
    const options = { sentinels: sentinels.map(({ host, port }) => ({ host, port })), name }
    return this.#party(namespace, options, { stays: true })
  }

  /** A party that knows only the server at this port. */
  joinAt(port: number, namespace: string): Party {
    return this.#party(namespace, { port })
  }

  /** The server that is the master now. */
  async master(): Promise<Server> {
    const port = await this.sentinel.masterPort()
    return [this.sentinel.master, ...this.sentinel.replicas].find((server) => server.port === port) ?? expect.fail()
  }

  /** A connection to the replica that has been promoted instead of this one, once the Sentinels have found out by themselves. */
  async promoted({ port: formerPort }: Server): Promise<Redis> {
    await eventually(async () => (await this.sentinel.masterPort()) !== formerPort, 'a new master')
    const redis = connected({ port: await this.sentinel.masterPort() })
    this.#ends.push(async () => redis.disconnect())
    return redis
  }

  /** The same, but they do not wait to be sure that the former master is down. */
  async promotedAtOnce(former: Server): Promise<Redis> {
    const { name } = this.sentinel
    const [sentinel = expect.fail()] = this.#sentinels
    await until('a failover', async () => {
      const entry = (await sentinel.call('SENTINEL', 'MASTER', name)) as string[]
      const [port, flags = ''] = ['port', 'flags'].map((key) => entry[entry.indexOf(key) + 1])
      if (port !== String(former.port)) return true
      // Not begun, or given up: then it finds no good replica at first, or is begun anew.
      if (!flags.includes('failover_in_progress')) await succeeds(sentinel.call('SENTINEL', 'FAILOVER', name))
      return false
    })
    return this.promoted(former)
  }

  /** A server that calls itself master and is none is made a replica within a second, and not after ten. */
  async hasten(): Promise<void> {
    await this.#set('INFO-PERIOD', 200)
    await this.#set('PUBLISH-PERIOD', 200)
  }

  /** Ends what the parties do and disconnects them. */
  async disband(): Promise<void> {
    const ends = this.#ends
    this.#ends = []
    await Promise.all(ends.map((end) => end()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disband()
    for (const sentinel of this.#sentinels) sentinel.disconnect()
    await this.sentinel.stop()
    this.#unheard.stop()
  }

  async #set(name: string, ms: number): Promise<void> {
    await Promise.all(this.#sentinels.map((sentinel) => sentinel.call('SENTINEL', 'DEBUG', name, ms)))
  }

  #party(namespace: string, options: RedisOptions, { stays = false }: { readonly stays?: boolean } = {}): Party {
    const redis = connected(options)
    const bare = {
      eval: redis.eval.bind(redis) as RedisConnection['eval'],
      evalsha: redis.evalsha.bind(redis) as RedisConnection['evalsha'],
    } as RedisConnection
    const client = stays
      ? redisClient({ redis: bare, namespace, listen: () => redis.duplicate() })
      : redisClient({ redis, namespace })
    const manager = new Manager({ client, maxSleep: longMs })
    this.#ends.push(async () => {
      await manager.stop()
      await client.close()
      redis.disconnect()
    })
    return { redis, manager }
  }
}

function connected(options: RedisOptions): Redis {
  const redis = new Redis(options)
  redis.on('error', () => {}) // what was asked rejects as well
  return redis
}

interface Stored {
  readonly holder: string | undefined
  readonly token: string | undefined
  readonly expiryMs: number
}

/** What this server has under the name of the lease. */
async function stored(redis: Redis, namespace: string, lease: string): Promise<Stored | undefined> {
  const text = await redis.get(`lease:{${namespace}}:l:${lease}`)
  if (text === null) return undefined
  const [token, , holder, expiryMs] = text.split('|')
  return { holder, token, expiryMs: Number(expiryMs) }
}

function waitFor({ manager }: Party, lease: string): Promise<Hold> {
  return manager.hold(lease, 'b', { duration: longMs, wait: true })
}

/** Anyone who has asked for the lease before is denied by then as well. */
async function isDenied({ manager }: Party, lease: string): Promise<void> {
  expect(await caught(manager.claim(lease, 'c', longMs))).to.be.instanceOf(ErrClaimDenied)
}

/** The token of what was granted to `a`, once the server can be asked. @throws what is certain */
async function tokenOf({ manager }: Party, lease: string): Promise<bigint> {
  return until(`the token of ${lease}`, async () => {
    try {
      return (await manager.token(lease, 'a').check()).fencingToken
    } catch (error) {
      if (error instanceof ErrUnknown) return undefined
      throw error
    }
  })
}

/** The message of what was thrown below an ErrUnknown. */
function causeOf(error: unknown): string {
  expect(error).to.be.instanceOf(ErrUnknown)
  expect(error).to.have.property('cause').that.is.instanceOf(Error)
  return ((error as ErrUnknown).cause as Error).message
}

describe('under Sentinels', function () {
  /** Its Sentinels find out by themselves that the master is down. */
  let whole: Fleet | undefined
  /** Its replica is cut off: there is time for that, as its Sentinels are slow to find out. */
  let torn: Fleet | undefined

  before(async () => {
    const starts = await Promise.allSettled([
      Fleet.start(2_000).then((fleet) => (whole = fleet)),
      Fleet.start(6_000).then((fleet) => (torn = fleet)),
    ])
    for (const start of starts) if (start.status === 'rejected') throw start.reason
  })
  after(async () => {
    const fleets = [whole, torn].filter((fleet) => fleet !== undefined)
    await Promise.all(fleets.map((fleet) => fleet[Symbol.asyncDispose]()))
    for (const { unheard } of fleets) expect(unheard).to.deep.equal([])
  })

  describe('a master that has lost the replicas it must have (min-replicas-to-write)', () => {
    const namespace = 'lacking'
    let fleet: Fleet
    before(() => (fleet = whole ?? expect.fail()))
    after(async () => {
      await fleet.sentinel.mendReplication()
      await fleet.disband()
    })

    it('grants nothing until they are back', async () => {
      const { redis, manager } = fleet.join(namespace)
      await redis.config('SET', 'min-replicas-to-write', '1')
      const hold = await manager.hold('held', 'a', { duration: longMs, renewEvery: 500 })
      let retries = 0
      manager.events.subscribe(({ type }) => type === 'retrying' && retries++)
      await fleet.sentinel.cutReplication()
      const term = await stored(redis, namespace, 'held')
      expect(causeOf(await caught(manager.claim('l', 'a', longMs)))).to.match(/min-replicas-to-write/)
      expect(await stored(redis, namespace, 'l')).to.equal(undefined)
      await eventually(() => retries >= 2, 'renewals that are refused')
      expect((await stored(redis, namespace, 'held'))?.expiryMs).to.equal(term?.expiryMs)

      await fleet.sentinel.mendReplication()
      await eventually(() => succeeds(manager.claim('l', 'a', longMs)))
      await eventually(async () => ((await stored(redis, namespace, 'held'))?.expiryMs ?? 0) > Number(term?.expiryMs))
      expect(hold.held).to.equal(true)
      expect((await stored(redis, namespace, 'held'))?.token).to.equal(String(hold.fencingToken))
      await redis.config('SET', 'min-replicas-to-write', '0')
    })
  })

  describe('users of the servers and of the Sentinels', () => {
    it('need the rights that the page names, and no more', async () => {
      const fleet = whole ?? expect.fail()
      const namespace = 'rights'
      const { leases, sentinels } = await documentedRights(namespace)
      const master = connected({ port: (await fleet.master()).port })
      const watchers = fleet.sentinel.sentinels.map(({ port }) => connected({ port }))
      try {
        await master.acl('SETUSER', 'app', ...leases)
        for (const watcher of watchers) await watcher.acl('SETUSER', 'watcher', ...sentinels)
        const asApp = { username: 'app', password: 'secret' }
        const asWatcher = { sentinelUsername: 'watcher', sentinelPassword: 'secret' }
        const { manager } = fleet.join(namespace, { ...asApp, ...asWatcher })
        await manager.claim('l', 'a', longMs)
        await manager.release('l', 'a')
        for (const server of [master, ...watchers]) {
          const log = (await server.acl('LOG')) as unknown[][]
          expect(log.filter((entry) => entry.includes('app') || entry.includes('watcher'))).to.deep.equal([])
        }
      } finally {
        for (const server of [master, ...watchers]) server.disconnect()
        await fleet.disband()
      }
    })
  })

  describe('a failover to a replica that has everything', () => {
    const namespace = 'everything'
    let fleet: Fleet
    before(() => (fleet = whole ?? expect.fail()))
    after(() => fleet.disband())

    it('keeps holds in their terms and serves those who wait; what was said to be granted is, and tokens rise', async () => {
      const [here, there] = [fleet.join(namespace), fleet.join(namespace)]
      const hasty = fleet.join(namespace, { enableOfflineQueue: false }) // fails at once where others wait for the new master
      const granted = new Map<string, bigint>()
      const grantedTo = async (party: Party, lease: string): Promise<void> => {
        await party.manager.claim(lease, 'a', longMs)
        granted.set(lease, await tokenOf(party, lease))
      }

      const hold = await here.manager.hold('held', 'a', { duration: longMs, renewEvery: 500 })
      let next: Hold | undefined
      const waiting = waitFor(there, 'held').then((theirs) => (next = theirs))
      await isDenied(there, 'held')
      for (let n = 0; n < 10; n++) await grantedTo(here, `before-${n}`)
      await eventually(() => succeeds(hasty.redis.ping()))
      const highest = [...granted.values(), hold.fencingToken].reduce((one, other) => (one > other ? one : other))
      expect(await here.redis.wait(1, forever)).to.equal(1)

      const former = await fleet.master()
      await former.kill()
      let master: Redis | undefined
      const promotion = fleet.promoted(former).then((redis) => (master = redis))
      const meanwhile: Promise<unknown>[] = []
      await until(
        'a new master',
        () => {
          const party = meanwhile.length % 2 === 0 ? hasty : there
          meanwhile.push(grantedTo(party, `meanwhile-${meanwhile.length}`).catch((error: unknown) => error))
          return master
        },
        200,
      )
      await promotion
      const unclear = (await Promise.all(meanwhile)).filter((outcome) => outcome !== undefined)
      for (const outcome of unclear) causeOf(outcome) // none, where the failover was as fast as the attempts
      for (const [name, party] of Object.entries({ here, there, hasty })) {
        await eventually(() => succeeds(grantedTo(party, `after-${name}`)))
      }

      const storedNow = async (lease: string): Promise<Stored | undefined> =>
        stored(master ?? expect.fail(), namespace, lease)
      for (const [lease, token] of granted) {
        expect(await storedNow(lease), lease).to.include({ holder: 'a', token: String(token) })
        if (!lease.startsWith('before')) expect(token > highest, lease).to.equal(true)
      }
      expect(hold.held).to.equal(true)
      const term = await storedNow('held')
      expect(term).to.include({ holder: 'a', token: String(hold.fencingToken) })
      await eventually(async () => ((await storedNow('held'))?.expiryMs ?? 0) > Number(term?.expiryMs))

      expect(next).to.equal(undefined)
      await hold.release()
      await waiting
      expect(next?.held).to.equal(true)
      expect(next !== undefined && next.fencingToken > highest).to.equal(true)
      expect((await here.manager.leases()).get('held')?.fencingToken).to.equal(next?.fencingToken)
    })
  })

  describe('two holders after a failover: a grant was forgotten, and the old master comes back', () => {
    const namespace = 'two'
    const account = `{${namespace}}:account`
    const withdraw = `return redis.call('HINCRBY', KEYS[1], 'balance', -ARGV[1])`
    const guard = new RedisGuard()
    let fleet: Fleet
    let former: Server
    let first: Party
    let second: Party
    let earlier: Hold
    let later: Hold
    let master: Redis

    before(async () => {
      fleet = torn ?? expect.fail()
      former = await fleet.master()
      first = fleet.stay(namespace)
      second = fleet.join(namespace, { socketTimeout: 2_000 }) // a frozen server closes no connection
      await first.redis.hset(account, 'balance', 100)
      await eventually(() => succeeds(second.manager.leases()))
      expect(await first.redis.wait(1, forever)).to.equal(1)
      await fleet.sentinel.cutReplication()
      earlier = await first.manager.hold('l', 'a', { duration: longMs, renewEvery: 500 })
      await first.manager.token('l', 'a').check(guard)
      expect(await guard.run(first.redis, withdraw, [account], [10])).to.equal(90)
      const waiting = waitFor(second, 'l')
      await isDenied(second, 'l')
      former.pause()
      master = await fleet.promotedAtOnce(former)
      later = await waiting
    })
    after(async () => {
      former.resume()
      await fleet.sentinel.mendReplication()
      await fleet.disband()
    })

    it('both hold, and the later one has the higher token', async () => {
      expect([earlier.held, later.held]).to.deep.equal([true, true])
      expect((await first.manager.token('l', 'a').check()).fencingToken).to.equal(earlier.fencingToken)
      expect(later.fencingToken > earlier.fencingToken).to.equal(true)
      expect(await stored(master, namespace, 'l')).to.include({ holder: 'b', token: String(later.fencingToken) })
    })

    it('a resource that refuses a lower token than it has seen lets the later one win, no matter who comes first', () => {
      for (const order of [
        [earlier, later],
        [later, earlier],
      ]) {
        let highest = 0n
        let content = ''
        const write = ({ fencingToken }: Hold, text: string): boolean => {
          if (fencingToken < highest) return false
          highest = fencingToken
          content = text
          return true
        }
        const accepted = [...order, earlier, later, earlier].map((hold) => write(hold, hold.holder))
        expect(content).to.equal('b')
        expect(accepted).to.deep.equal([true, order[1] === later, false, true, false])
      }
    })

    it('what the earlier one wrote under guard is gone with its grant, and it can write no more', async () => {
      expect(await master.hget(account, 'balance')).to.equal('100')
      expect(await caught(guard.run(master, withdraw, [account], [10]))).to.be.instanceOf(ErrNotHeld)
      expect(await master.hget(account, 'balance')).to.equal('100')
      const guardOfLater = new RedisGuard()
      await second.manager.token('l', 'b').check(guardOfLater)
      expect(await guardOfLater.run(second.redis, withdraw, [account], [1])).to.equal(99)
    })

    it('the old master grants until it is made a replica, and never again; those grants are lost, and the earlier holder learns', async () => {
      former.resume()
      const straight = fleet.joinAt(former.port, namespace)
      const granted: string[] = []
      let refused = 0
      await until(
        'five refusals of the old master',
        async () => {
          const lease = `old-${granted.length}-${refused}`
          const error: unknown = await straight.manager.claim(lease, 'c', longMs).then(
            () => undefined,
            (reason: unknown) => reason,
          )
          if (error === undefined) {
            expect(refused).to.equal(0)
            granted.push(lease)
            if (granted.length === 1) await fleet.hasten()
          } else if (causeOf(error).startsWith('the server is a replica')) refused++
          return refused === 5
        },
        20,
      )
      expect(granted).not.to.have.length(0)

      await fleet.sentinel.mendReplication()
      const token = String(later.fencingToken)
      await eventually(
        async () => (await stored(straight.redis, namespace, 'l').catch(() => undefined))?.token === token,
      )
      expect(causeOf(await caught(straight.manager.claim('m', 'c', longMs)))).to.match(/^the server is a replica/)
      expect(causeOf(await caught(straight.manager.token('l', 'b').check()))).to.match(/^the server is a replica/)
      expect(causeOf(await caught(straight.manager.leases()))).to.match(/^the server is a replica/)
      expect([...(await second.manager.leases()).keys()]).to.deep.equal(['l'])
      for (const lease of granted) expect(await stored(straight.redis, namespace, lease), lease).to.equal(undefined)

      await eventually(() => earlier.signal.aborted)
      expect((earlier.signal.reason as ErrLost).reason).to.equal('taken')
      expect(later.held).to.equal(true)
      expect((await second.manager.token('l', 'b').check(new RedisGuard())).fencingToken).to.equal(later.fencingToken)
    })
  })

  describe('a failover to a replica that was cut off', () => {
    const namespace = 'cut'
    let fleet: Fleet
    before(() => (fleet = torn ?? expect.fail()))
    after(() => fleet.disband())

    it('ends the hold that was forgotten and serves those who wait, by itself, with a higher token', async () => {
      const [here, there] = [fleet.join(namespace), fleet.join(namespace)]
      await there.manager.claim('kept', 'b', longMs)
      expect(await there.redis.wait(1, forever)).to.equal(1)
      await eventually(() => succeeds(here.manager.leases()))
      await fleet.sentinel.cutReplication()
      const hold = await here.manager.hold('forgotten', 'a', { duration: longMs, renewEvery: 500 })
      const waiting = waitFor(there, 'forgotten')
      await isDenied(there, 'forgotten')

      const former = await fleet.master()
      await former.kill()
      const master = await fleet.promotedAtOnce(former)
      const next = await waiting
      await eventually(() => hold.signal.aborted)
      expect(hold.held).to.equal(false)
      expect((hold.signal.reason as ErrLost).reason).to.be.oneOf(['revoked', 'taken'])
      expect(next.held).to.equal(true)
      expect(next.fencingToken > hold.fencingToken).to.equal(true)
      expect(await stored(master, namespace, 'forgotten')).to.include({ holder: 'b', token: String(next.fencingToken) })
      expect(await stored(master, namespace, 'kept')).to.include({ holder: 'b' })
    })
  })
})
