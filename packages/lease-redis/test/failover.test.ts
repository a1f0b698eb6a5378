/**
 * Failover by Sentinels, with real servers: what lasts where the replica had everything, and where it had not, that two
 * may hold, and who wins then. The words for it are in `docs/guarantees.md` and `docs/substrates/redis.md`.
 */
import { expect } from 'chai'
import { Redis } from 'ioredis'
import { ErrClaimDenied, ErrNotHeld, ErrUnknown, Manager, type ErrLost, type Hold } from 'lease-core'
import { RedisGuard, redisClient } from 'lease-redis'
import { startRedisSentinel, type RedisSentinel, type RedisSentinelOptions } from 'lease-servers'
import { describe, it } from 'mocha'
import { caught, eventually, hearUnheard, sleep } from 'lease-scenes'
import type { RedisOptions } from './setting.ts'

const namespace = 'failover'
/** Sentinels that were kept waiting by a busy machine do nothing for half a minute. */
const patienceMs = 90_000
/** Longer than any test: what is lost here was forgotten, and has not lapsed, and nobody wakes just because time passes. */
const longMs = 600_000

/** What a process has of its own. */
interface Party {
  readonly redis: Redis
  readonly manager: Manager
}

/** Servers under Sentinels, and the parties that use them; all gone in the end. */
class Fleet implements AsyncDisposable {
  readonly sentinel: RedisSentinel
  readonly #unheard = hearUnheard()
  readonly #ends: (() => Promise<void>)[] = []

  static async start(options: RedisSentinelOptions = {}): Promise<Fleet> {
    // No replica is promoted that was cut off for ten times as long: there must be time for what comes before.
    return new Fleet(await startRedisSentinel({ downAfterMs: 1_000, ...options }))
  }

  private constructor(sentinel: RedisSentinel) {
    this.sentinel = sentinel
  }

  /** Whatever was rejected and nobody heard. */
  get unheard(): readonly unknown[] {
    return this.#unheard.reasons
  }

  /** A party that asks the Sentinels where the master is. */
  join(options: RedisOptions = {}): Party {
    const { sentinels, name } = this.sentinel
    return this.#party({ sentinels: sentinels.map(({ host, port }) => ({ host, port })), name, ...options })
  }

  /** A party that knows only the server at this port. */
  joinAt(port: number): Party {
    return this.#party({ port })
  }

  /** The replica that has been promoted, once it has. */
  async promoted(): Promise<Redis> {
    const { sentinel } = this
    await eventually(async () => (await sentinel.masterPort()) !== sentinel.master.port)
    const redis = this.#connect({ port: await sentinel.masterPort() })
    this.#ends.push(async () => redis.disconnect())
    return redis
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#ends.map((end) => end()))
    await this.sentinel.stop()
    this.#unheard.stop()
  }

  #connect(options: RedisOptions): Redis {
    const redis = new Redis(options)
    redis.on('error', () => {}) // what was asked rejects as well
    return redis
  }

  #party(options: RedisOptions): Party {
    const redis = this.#connect(options)
    const client = redisClient({ redis, namespace, requestTimeout: 1_000 })
    const manager = new Manager({ client, maxSleep: longMs })
    this.#ends.push(async () => {
      await manager.stop()
      await client.close()
      redis.disconnect()
    })
    return { redis, manager }
  }
}

interface Stored {
  readonly holder: string | undefined
  readonly token: string | undefined
  readonly expiryMs: number
}

/** What this server has under the name of the lease. */
async function stored(redis: Redis, lease: string): Promise<Stored | undefined> {
  const text = await redis.get(`lease:{${namespace}}:l:${lease}`)
  if (text === null) return undefined
  const [token, , holder, expiryMs] = text.split('|')
  return { holder, token, expiryMs: Number(expiryMs) }
}

function succeeds(call: Promise<unknown>): Promise<boolean> {
  return call.then(
    () => true,
    () => false,
  )
}

function waitFor({ manager }: Party, lease: string): Promise<Hold> {
  return manager.hold(lease, 'b', { duration: longMs, wait: true })
}

/** Whoever has asked for the lease before is denied by then as well. */
async function isDenied({ manager }: Party, lease: string): Promise<void> {
  expect(await caught(manager.claim(lease, 'c', longMs))).to.be.instanceOf(ErrClaimDenied)
}

/** The message of what was thrown below an ErrUnknown. */
function causeOf(error: unknown): string {
  expect(error).to.be.instanceOf(ErrUnknown)
  expect(error).to.have.property('cause').that.is.instanceOf(Error)
  return ((error as ErrUnknown).cause as Error).message
}

describe('a failover to a replica that has everything', () => {
  it('keeps holds in their terms and serves those who wait; what was said to be granted is, and tokens rise', async () => {
    await using fleet = await Fleet.start()
    const [here, there] = [fleet.join(), fleet.join()]
    const hasty = fleet.join({ enableOfflineQueue: false }) // fails at once where others wait for the new master
    const granted = new Map<string, bigint>()
    const grantedTo = async (party: Party, lease: string): Promise<void> => {
      await party.manager.claim(lease, 'a', longMs)
      granted.set(lease, -1n) // it was said, even if nobody can tell the token
      granted.set(lease, (await party.manager.token(lease, 'a').check()).fencingToken)
    }

    const hold = await here.manager.hold('held', 'a', { duration: patienceMs, renewEvery: 500 })
    let next: Hold | undefined
    const waiting = waitFor(there, 'held').then((theirs) => (next = theirs))
    await isDenied(there, 'held')
    for (let n = 0; n < 10; n++) await grantedTo(here, `before-${n}`)
    await eventually(() => succeeds(hasty.redis.ping()))
    const highest = [...granted.values(), hold.fencingToken].reduce((one, other) => (one > other ? one : other))
    expect(await here.redis.wait(1, patienceMs)).to.equal(1)

    await fleet.sentinel.master.kill()
    const promotion = fleet.promoted()
    const meanwhile: Promise<unknown>[] = []
    do {
      const party = meanwhile.length % 2 === 0 ? hasty : there
      meanwhile.push(grantedTo(party, `meanwhile-${meanwhile.length}`).catch((error: unknown) => error))
    } while ((await Promise.race([promotion, sleep(200)])) === undefined)
    const master = await promotion
    const unclear = (await Promise.all(meanwhile)).filter((outcome) => outcome !== undefined)
    expect(unclear).not.to.have.length(0)
    for (const outcome of unclear) causeOf(outcome)
    for (const [name, party] of Object.entries({ here, there, hasty })) {
      await eventually(() => succeeds(grantedTo(party, `after-${name}`)))
    }

    for (const [lease, token] of granted) {
      expect(await stored(master, lease), lease).to.include({ holder: 'a', token: String(token) })
      if (!lease.startsWith('before')) expect(token > highest, lease).to.equal(true)
    }
    expect(hold.held).to.equal(true)
    const term = await stored(master, 'held')
    expect(term).to.include({ holder: 'a', token: String(hold.fencingToken) })
    await eventually(async () => ((await stored(master, 'held'))?.expiryMs ?? 0) > Number(term?.expiryMs))

    expect(next).to.equal(undefined)
    await hold.release()
    await waiting
    expect(next?.held).to.equal(true)
    expect(next !== undefined && next.fencingToken > highest).to.equal(true)
    expect(fleet.unheard).to.deep.equal([])
  }).timeout(300_000)
})

describe('a failover to a replica that was cut off', () => {
  it('ends the hold that was forgotten and serves those who wait, by itself, with a higher token', async () => {
    await using fleet = await Fleet.start()
    const [here, there] = [fleet.join(), fleet.join()]
    await there.manager.claim('kept', 'b', longMs)
    expect(await there.redis.wait(1, patienceMs)).to.equal(1)
    await fleet.sentinel.cutReplication()
    const hold = await here.manager.hold('forgotten', 'a', { duration: longMs, renewEvery: 500 })
    const waiting = waitFor(there, 'forgotten')
    await isDenied(there, 'forgotten')

    await fleet.sentinel.master.kill()
    const master = await fleet.promoted()
    const next = await waiting
    await eventually(() => hold.signal.aborted)
    expect(hold.held).to.equal(false)
    expect((hold.signal.reason as ErrLost).reason).to.be.oneOf(['revoked', 'taken'])
    expect(next.held).to.equal(true)
    expect(next.fencingToken > hold.fencingToken).to.equal(true)
    expect(await stored(master, 'forgotten')).to.include({ holder: 'b', token: String(next.fencingToken) })
    expect(await stored(master, 'kept')).to.include({ holder: 'b' })
    expect(fleet.unheard).to.deep.equal([])
  }).timeout(300_000)
})

describe('two holders after a failover: a grant was forgotten, and the old master comes back', () => {
  const account = `{${namespace}}:account`
  const withdraw = `return redis.call('HINCRBY', KEYS[1], 'balance', -ARGV[1])`
  const guard = new RedisGuard()
  let fleet: Fleet
  let first: Party
  let second: Party
  let earlier: Hold
  let later: Hold
  let master: Redis

  before(async function () {
    this.timeout(200_000)
    fleet = await Fleet.start()
    first = fleet.join()
    second = fleet.join({ failoverDetector: true }) // a frozen server closes no connection
    await first.redis.hset(account, 'balance', 100)
    expect(await first.redis.wait(1, patienceMs)).to.equal(1)
    await fleet.sentinel.cutReplication()
    earlier = await first.manager.hold('l', 'a', { duration: longMs, renewEvery: 500 })
    await first.manager.token('l', 'a').check(guard)
    expect(await guard.run(first.redis, withdraw, [account], [10])).to.equal(90)
    const waiting = waitFor(second, 'l')
    await isDenied(second, 'l')
    fleet.sentinel.master.pause()
    master = await fleet.promoted()
    later = await waiting
  })
  after(async function () {
    this.timeout(30_000)
    fleet.sentinel.master.resume()
    await fleet[Symbol.asyncDispose]()
    expect(fleet.unheard).to.deep.equal([])
  })

  it('both hold, and the later one has the higher token', async () => {
    expect([earlier.held, later.held]).to.deep.equal([true, true])
    expect((await first.manager.token('l', 'a').check()).fencingToken).to.equal(earlier.fencingToken)
    expect(later.fencingToken > earlier.fencingToken).to.equal(true)
    expect(await stored(master, 'l')).to.include({ holder: 'b', token: String(later.fencingToken) })
  })

  it('a resource that refuses a lower token than it has seen lets the later one win, whoever comes first', () => {
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
    const { sentinel } = fleet
    sentinel.master.resume()
    const straight = fleet.joinAt(sentinel.master.port)
    const granted: string[] = []
    let refused = 0
    for (const deadlineMs = performance.now() + patienceMs; refused < 5; await sleep(100)) {
      expect(performance.now()).to.be.lessThan(deadlineMs)
      const lease = `old-${granted.length}-${refused}`
      const error = await straight.manager.claim(lease, 'c', longMs).catch((reason: unknown) => reason)
      if (error === undefined) {
        expect(refused).to.equal(0)
        granted.push(lease)
      } else if (causeOf(error).startsWith('the server is a replica')) refused++
    }
    expect(granted).not.to.have.length(0)

    await sentinel.mendReplication()
    const token = String(later.fencingToken)
    await eventually(async () => (await stored(straight.redis, 'l').catch(() => undefined))?.token === token)
    expect(causeOf(await caught(straight.manager.claim('m', 'c', longMs)))).to.match(/^the server is a replica/)
    expect(causeOf(await caught(straight.manager.token('l', 'b').check()))).to.match(/^the server is a replica/)
    expect(causeOf(await caught(straight.manager.leases()))).to.match(/^the server is a replica/)
    expect([...(await second.manager.leases()).keys()]).to.deep.equal(['l'])
    for (const lease of granted) expect(await stored(straight.redis, lease), lease).to.equal(undefined)

    await eventually(() => earlier.signal.aborted)
    expect((earlier.signal.reason as ErrLost).reason).to.equal('taken')
    expect(later.held).to.equal(true)
    expect((await second.manager.token('l', 'b').check(new RedisGuard())).fencingToken).to.equal(later.fencingToken)
  }).timeout(300_000)
})

describe('a master that has lost the replicas it must have (min-replicas-to-write)', () => {
  it('grants nothing until they are back', async () => {
    await using fleet = await Fleet.start({ settings: { 'min-replicas-to-write': '1' } })
    const { redis, manager } = fleet.join()
    const hold = await manager.hold('held', 'a', { duration: longMs, renewEvery: 500 })
    await fleet.sentinel.cutReplication()
    const term = await stored(redis, 'held')
    expect(causeOf(await caught(manager.claim('l', 'a', longMs)))).to.match(/min-replicas-to-write/)
    expect(await stored(redis, 'l')).to.equal(undefined)
    await sleep(1_000)
    expect((await stored(redis, 'held'))?.expiryMs).to.equal(term?.expiryMs)

    await fleet.sentinel.mendReplication()
    await eventually(() => succeeds(manager.claim('l', 'a', longMs)))
    await eventually(async () => ((await stored(redis, 'held'))?.expiryMs ?? 0) > Number(term?.expiryMs))
    expect(hold.held).to.equal(true)
    expect((await stored(redis, 'held'))?.token).to.equal(String(hold.fencingToken))
    expect(fleet.unheard).to.deep.equal([])
  }).timeout(300_000)
})
