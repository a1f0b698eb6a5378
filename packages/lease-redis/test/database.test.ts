/** A server has several databases. Leases are in the one that was asked for, and nowhere else. */
import { expect } from 'chai'
import type { Redis } from 'ioredis'
import { ErrTrapdoor, type LeaseChange } from 'lease-core'
import { RedisGuard, type RedisSubstrate } from 'lease-redis'
import { caught, claim, eventually, grant, newCall, readOne, settle, unique } from 'lease-scenes'
import { startRedis, type Redis as Server } from 'lease-servers'
import { extendOf, LASTING_MS, openSetting, releaseOf, type RedisOptions, type Setting } from './setting.ts'

const set = `return redis.call('SET', KEYS[1], ARGV[1])`

describe('leases in a database', () => {
  let server: Server
  let setting: Setting
  let namespace: string
  before(async () => {
    server = await startRedis()
    setting = openSetting(server.url)
    const rights = ['on', '>secret', 'allkeys', 'allchannels', 'allcommands', '-select']
    await setting.redis.acl('SETUSER', 'bound', ...rights)
  })
  after(async () => {
    await setting[Symbol.asyncDispose]()
    await server.stop()
  })
  beforeEach(() => (namespace = unique('db')))

  const inDatabase = (db: number, options: RedisOptions = {}): Redis => setting.connect({ db, ...options })
  /** A connection of a user without SELECT: in whichever database it asks to be, it is in 0. */
  const bound = (db: number, options: RedisOptions = {}): Redis =>
    inDatabase(db, { username: 'bound', password: 'secret', ...options })
  const on = (redis: Redis): RedisSubstrate => setting.substrate({ redis, namespace })
  const leasesIn = (db: number): Promise<string[]> => inDatabase(db).keys(`lease:{${namespace}}:l:*`)

  it('that the user may not select are not claimed, read or believed in another one, and the reason is given', async () => {
    const substrate = on(bound(2))
    for (const call of [
      () => substrate.time(newCall()),
      () => substrate.apply([claim('l', 'a', LASTING_MS)], newCall()),
      () => substrate.read(['l'], newCall()),
      () => substrate.read(undefined, newCall()),
      () => substrate.pinned(newCall()),
      () => substrate.inspect(),
    ]) {
      const error = await caught(call())
      expect(error.message).to.match(/allow this user SELECT.*DATABASE 2/)
      expect(error.cause).to.be.instanceOf(Error)
    }
    await grant(on(inDatabase(2)), claim('l', 'b', LASTING_MS))
    expect([await leasesIn(0), await leasesIn(2)]).to.deep.equal([[], [`lease:{${namespace}}:l:l`]])
  })

  it('that the server does not have are refused in the same way', async () => {
    const error = await caught(on(inDatabase(999)).apply([claim('l', 'a', LASTING_MS)], newCall()))
    expect(error.message).to.match(/DATABASE 999.*out of range/)
  })

  it('0 need no right to select', async () => {
    await grant(on(bound(0)), claim('l', 'a', LASTING_MS))
    expect(await settle(on(inDatabase(0)), claim('l', 'b', LASTING_MS)).then(({ outcome }) => outcome)).to.equal(
      'refused',
    )
  })

  const selections: Record<string, (redis: Redis) => Promise<unknown>> = {
    'select()': (redis) => redis.select(5),
    'a bare command': (redis) => redis.call('SELECT', 5),
    'a transaction': (redis) => redis.multi().select(5).exec(),
  }
  for (const [how, select] of Object.entries(selections)) {
    for (const db of [0, 3]) {
      it(`${db} stay there when somebody selects another on their connection by ${how}`, async () => {
        const shared = inDatabase(db)
        const substrate = on(shared)
        const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
        await select(shared)
        await grant(substrate, claim('m', 'a', LASTING_MS))
        await grant(substrate, await extendOf(substrate, 'l', 'a', 2 * LASTING_MS))
        const elsewhere = on(inDatabase(db))
        expect(await readOne(elsewhere, 'l')).to.include({ holder: 'a', fencingToken })
        expect(await readOne(elsewhere, 'm')).to.include({ holder: 'a' })
        expect(await leasesIn(5)).to.deep.equal([])
      })
    }
  }

  it('hear of no hand-over in another one', async () => {
    const [here, there] = [on(inDatabase(0)), on(inDatabase(4))]
    const heard: LeaseChange[] = []
    const unwatch = [here.watch?.((change) => heard.push(change)), there.watch?.(() => {})]
    await eventually(() => heard.some(({ kind }) => kind === 'resync'))
    const twice = [there, here]
    for (const [index, substrate] of twice.entries()) {
      await grant(substrate, claim(`l${index}`, 'a', LASTING_MS, { value: 'v', announce: true }))
      await settle(substrate, await releaseOf(substrate, `l${index}`, 'a'))
    }
    await eventually(() => heard.some((change) => change.kind === 'vacated'))
    expect(heard.filter((change) => 'lease' in change && change.lease === 'l0')).to.deep.equal([])
    unwatch.forEach((stop) => stop?.())
  })

  it('other than 0 are announced to those in the same one', async () => {
    const [one, two] = [on(inDatabase(4)), on(inDatabase(4))]
    const heard: LeaseChange[] = []
    const unwatch = one.watch?.((change) => heard.push(change))
    await eventually(() => heard.some(({ kind }) => kind === 'resync'))
    await grant(two, claim('l', 'a', LASTING_MS))
    await settle(two, await releaseOf(two, 'l', 'a'))
    await eventually(() => heard.some((change) => change.kind === 'vacated' && change.lease === 'l'))
    unwatch?.()
  })

  describe('are guarded', () => {
    let guard: RedisGuard
    let own: string
    beforeEach(async () => {
      own = unique('own')
      guard = new RedisGuard()
      const substrate = on(inDatabase(2))
      const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
      await substrate.trapdoor('l', 'a', fencingToken)(guard)
    })

    it('by connections in the same one', async () => {
      const redis = inDatabase(2, { retryStrategy: null })
      expect(await guard.run(redis, set, [own], ['x'])).to.equal('OK')
      expect(await guard.transaction(redis, (multi) => void multi.append(own, 'y'))).to.deep.equal([[null, 2]])
      expect(await redis.get(own)).to.equal('xy')
    })

    const strangers: Record<string, () => Redis> = {
      'that asks for another one': () => inDatabase(1, { retryStrategy: null }),
      'whose user may not select it': () => bound(2, { retryStrategy: null }),
    }
    for (const [which, connect] of Object.entries(strangers)) {
      it(`and not by a connection ${which}, which is no reason to call the lease lost`, async () => {
        const redis = connect()
        for (const call of [
          () => guard.run(redis, set, [own], ['x']),
          () => guard.watch(redis),
          () => guard.transaction(redis, (multi) => void multi.set(own, 'x')),
        ]) {
          const refusal = await caught(call())
          expect(refusal, String(refusal)).to.be.instanceOf(ErrTrapdoor)
          expect(refusal.message).to.match(/database/)
        }
        for (const db of [0, 1, 2]) expect(await inDatabase(db).exists(own)).to.equal(0)
      })
    }

    it('and not by a connection on which somebody has selected another', async () => {
      const redis = inDatabase(2, { retryStrategy: null })
      await redis.select(6)
      expect(await caught(guard.run(redis, set, [own], ['x']))).to.be.instanceOf(ErrTrapdoor)
      const bare = inDatabase(2, { retryStrategy: null })
      await bare.call('SELECT', 6)
      expect(await caught(guard.watch(bare))).to.be.instanceOf(ErrTrapdoor)
      expect(await guard.run(bare, set, [own], ['x'])).to.equal('OK')
      expect(await inDatabase(2).get(own)).to.equal('x')
    })
  })
})
