import { readFile } from 'node:fs/promises'
import { expect } from 'chai'
import { Cluster, type Redis } from 'ioredis'
import { redisTargets, startProxy, startRedis, until, type Redis as Server } from 'lease-servers'
import { RedisSubstrate } from 'lease-redis'
import type { Op, Verdict } from 'lease-core/adapter'
import {
  noneUnheard,
  caught,
  claim,
  eventually,
  expire,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  sleep,
  succeeds,
  unique,
  unpin,
} from 'lease-scenes'
import {
  extendOf,
  LASTING_MS,
  openSetting,
  releaseOf,
  stopwatch,
  unpinOf,
  type RedisOptions,
  type Setting,
} from './setting.ts'

noneUnheard()

async function verdictOf(substrate: RedisSubstrate, op: Op = claim(unique('l'), 'a', 1_000)): Promise<Verdict> {
  return (await substrate.apply([op], newCall()))[0] ?? expect.fail()
}

/** What the server calls the only subscriber with this name: others share the server. */
async function subscriberId(redis: Redis, connectionName: string): Promise<string> {
  return until(`a subscriber named ${connectionName}`, async () => {
    const list = String(await redis.call('CLIENT', 'LIST', 'TYPE', 'pubsub'))
    const line = list.split('\n').find((entry) => entry.includes(` name=${connectionName} `))
    return /^id=(\d+) /.exec(line ?? '')?.[1]
  })
}

/** Why one operation is unknown, or the whole batch. */
async function causeOf(substrate: RedisSubstrate, op?: Op): Promise<Error> {
  try {
    const { outcome, cause } = await verdictOf(substrate, op)
    expect(outcome).to.equal('unknown')
    return cause as Error
  } catch (error) {
    return error as Error
  }
}

for (const target of redisTargets('server')) {
  describe(`failures, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    describe('a connection that breaks', () => {
      it('after a claim was carried out: the driver sends it again, and it finds its own term', async () => {
        await using proxy = await startProxy(setting.url)
        const redis = setting.connect({}, proxy.url(setting.url))
        const namespace = unique('ns')
        const substrate = setting.substrate({ redis, namespace })
        await grant(substrate, claim('warm', 'a', 1_000))
        const cut = proxy.cutAfterRequest(1, /evalsha/i)
        const pending = grant(substrate, claim('l', 'a', LASTING_MS))
        await cut
        const stored = await setting.redis.get(`lease:{${namespace}}:l:l`)
        expect(stored?.split('|')[0]).to.equal(String((await pending).fencingToken))
      })

      it('and is not sent again: unknown, and the same claim finds its own term', async () => {
        await using proxy = await startProxy(setting.url)
        const redis = setting.connect({ maxRetriesPerRequest: 0 }, proxy.url(setting.url))
        const substrate = setting.substrate({ redis })
        await grant(substrate, claim('warm', 'a', 1_000))
        const op = claim('l', 'a', LASTING_MS)
        const cut = proxy.cutAfterRequest(1, /evalsha/i)
        const error = await causeOf(substrate, op)
        await cut
        expect(error.message).to.match(/server cannot be reached/)
        expect(error.cause).to.have.property('name', 'MaxRetriesPerRequestError')
        const again = await grant(substrate, op)
        expect(again.fencingToken).to.equal((await readOne(substrate, 'l'))?.fencingToken)
        expect(await settle(substrate, claim('l', 'a', LASTING_MS))).to.have.property('outcome', 'refused')
      })

      /** A claim whose caller hears that it timed out, and that the driver sends all the same once it is connected again. */
      async function zombie(deadlineMs: number | undefined): Promise<string | null> {
        await using proxy = await startProxy(setting.url)
        const redis = setting.connect({ retryStrategy: () => 1 }, proxy.url(setting.url))
        const namespace = unique('ns')
        const substrate = setting.substrate({ redis, namespace })
        const direct = setting.substrate({ namespace })
        await grant(substrate, claim('warm', 'a', LASTING_MS))
        const notAfterMs = deadlineMs === undefined ? undefined : (await substrate.time(newCall())) + deadlineMs
        proxy.pause()
        redis.options.commandTimeout = 50 // for this claim alone: what comes before and after must succeed
        const op = claim('zombie', 'a', 600_000)
        const error = await caught(substrate.apply([op], newCall({ notAfterMs })))
        delete redis.options.commandTimeout
        expect(error.message).to.equal('Command timed out')
        await eventually(async () => (await direct.time(newCall())) > (notAfterMs ?? 0))
        const requests = proxy.counters.requests
        proxy.resume()
        await redis.ping() // what is sent again comes before
        expect(proxy.counters.requests).to.be.greaterThan(requests + 1)
        return await setting.redis.get(`lease:{${namespace}}:l:zombie`)
      }

      it('a claim that timed out and is sent again after its deadline holds nothing', async () => {
        expect(await zombie(50)).to.equal(null)
      })

      it('which it would without a deadline', async () => {
        expect(await zombie(undefined)).to.match(/^\d+\|1\|a\|/)
      })
    })

    describe('what is not ours under our names', () => {
      const cases: Record<string, { key: string; fails: Op['kind'][] }> = {
        'the lease': { key: 'l:l', fails: ['claim', 'extend', 'release', 'expire', 'pin', 'unpin'] },
        'the index': { key: 'i', fails: ['claim'] },
        'the counter of the tokens': { key: 't', fails: ['claim'] },
        'the pins': { key: 'p', fails: ['claim', 'extend', 'release', 'expire', 'pin', 'unpin'] },
      }
      for (const [what, { key, fails }] of Object.entries(cases)) {
        it(`in place of ${what}, that is reported and left as it was`, async () => {
          const namespace = unique('ns')
          const substrate = setting.substrate({ namespace })
          const base = `lease:{${namespace}}:`
          await setting.redis.rpush(`${base}${key}`, 'not ours')
          const ops: Op[] = [
            claim('l', 'a', 1_000),
            extend('l', 'a', 1_000),
            release('l', 'a', { fencingToken: 1n }),
            expire('l'),
            pin('l', 'e', 'generation'),
            unpin('l', 'e', 'generation'),
          ]
          for (const op of ops) {
            if (!fails.includes(op.kind)) {
              expect(['granted', 'refused'], op.kind).to.include((await verdictOf(substrate, op)).outcome)
              continue
            }
            const cause = await causeOf(substrate, op)
            expect(cause.message, op.kind).to.match(/used for something else/)
            expect((cause.cause as Error).message).to.match(/WRONGTYPE/)
          }
          expect(await setting.redis.lrange(`${base}${key}`, 0, -1)).to.deep.equal(['not ours'])
          expect(await setting.redis.exists(`${base}l:l`)).to.equal(what === 'the lease' ? 1 : 0)
          await setting.redis.del(`${base}${key}`)
          expect(await grant(substrate, claim('l', 'a', 1_000))).to.include({ holder: 'a' })
        })
      }

      it('one such lease fails alone: the others of its batch, and readers, go on', async () => {
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace })
        await setting.redis.set(`lease:{${namespace}}:l:text`, 'some text')
        await setting.redis.rpush(`lease:{${namespace}}:l:list`, 'x')
        const verdicts = await substrate.apply(
          ['first', 'text', 'list', 'last'].map((lease) => claim(lease, 'a', LASTING_MS)),
          newCall(),
        )
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'unknown', 'unknown', 'granted'])
        expect([...(await substrate.read(['first', 'text', 'list', 'last'], newCall())).keys()]).to.deep.equal([
          'first',
          'last',
        ])
        expect((await substrate.read(undefined, newCall())).size).to.equal(2)
        expect(await setting.redis.get(`lease:{${namespace}}:l:text`)).to.equal('some text')
      })
    })

    describe('bad connections', () => {
      const dead = (options: RedisOptions = {}): RedisSubstrate =>
        setting.substrate({ redis: setting.connect({ maxRetriesPerRequest: 1, ...options }, 'redis://127.0.0.1:1') })

      it('nothing listens there: each call says so', async () => {
        for (const error of [
          await causeOf(dead()),
          await caught(dead().read(undefined, newCall())),
          await caught(dead().pinned(newCall())),
        ]) {
          expect(error.message).to.match(/cannot be reached: is it running/)
          expect(error.cause).to.have.property('name', 'MaxRetriesPerRequestError')
        }
      })

      it('a connection that was closed, or has no queue', async () => {
        const closed = setting.connect()
        await closed.ping()
        await closed.quit()
        const error = await causeOf(setting.substrate({ redis: closed }))
        expect(error.message).to.match(/connection is closed/)
        expect(error.cause).to.have.property('message', 'Connection is closed.')
        const bare = dead({ enableOfflineQueue: false })
        expect((await causeOf(bare)).message).to.match(/not established/)
      })
    })

    describe('the connection that listens', () => {
      it('comes back with a resync when it is killed, and hears again', async () => {
        const namespace = unique('ns')
        const connectionName = unique('listener')
        const substrate = setting.substrate({ namespace, redis: setting.connect({ connectionName }) })
        const heard: string[] = []
        substrate.watch?.((change) => heard.push(change.kind === 'resync' ? 'resync' : change.lease))
        await eventually(() => heard.length >= 1)
        for (let round = 1; round <= 2; round++) {
          const id = await subscriberId(setting.redis, connectionName)
          expect(await setting.redis.call('CLIENT', 'KILL', 'ID', id)).to.equal(1)
          await eventually(() => heard.length >= 1 + round)
        }
        await grant(substrate, claim('l', 'a', LASTING_MS))
        await settle(substrate, await releaseOf(substrate, 'l', 'a'))
        await eventually(() => heard.length >= 4)
        expect(heard).to.deep.equal(['resync', 'resync', 'resync', 'l'])
      })

      it('is gone when nobody watches any more, and when the substrate is closed', async () => {
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace })
        const listeners = async (): Promise<unknown> => {
          const [, count] = (await setting.redis.pubsub('NUMSUB', `lease:{${namespace}}:c`)) as [string, number]
          return count
        }
        const stop = substrate.watch?.(() => {})
        await eventually(async () => (await listeners()) === 1)
        stop?.()
        await eventually(async () => (await listeners()) === 0)
        substrate.watch?.(() => {})
        await eventually(async () => (await listeners()) === 1)
        await substrate.close()
        await eventually(async () => (await listeners()) === 0)
        expect(await setting.redis.ping()).to.equal('PONG') // the caller's own is unchanged
      })

      it('one that the caller makes is used instead, and closed', async () => {
        const made: ReturnType<Setting['connect']>[] = []
        const substrate = setting.substrate({
          listen: () => {
            const connection = setting.connect()
            made.push(connection)
            return connection
          },
        })
        const heard: string[] = []
        const stop = substrate.watch?.((change) => heard.push(change.kind))
        await eventually(() => heard.length >= 1)
        made[0]?.disconnect(true)
        await eventually(() => heard.length >= 2)
        stop?.()
        await eventually(() => made.every(({ status }) => status !== 'ready'))
        await sleep(100) // a driver's first attempt comes after 50 ms
        expect(made.map(({ status }) => status)).to.not.include('ready') // none has connected again by itself
        expect(made.length).to.equal(2)
      })

      it('one that cannot be made does not disturb the rest', async () => {
        const substrate = setting.substrate({
          listen: () => {
            throw new Error('no')
          },
        })
        substrate.watch?.(() => {})
        expect(await grant(substrate, claim('l', 'a', 1_000))).to.include({ holder: 'a' })
        await substrate.close()
      })

      it('a message that is not ours makes everybody look again', async () => {
        const namespace = unique('ns')
        const substrate = setting.substrate({ namespace })
        const heard: string[] = []
        substrate.watch?.((change) => heard.push(change.kind))
        await eventually(() => heard.length >= 1)
        for (const message of ['', '{}', '[1]']) await setting.redis.publish(`lease:{${namespace}}:c`, message)
        await eventually(() => heard.length >= 4)
        expect(new Set(heard)).to.deep.equal(new Set(['resync']))
      })
    })
  })
}

describe('a server of our own', () => {
  let server: Server
  let setting: Setting
  before(async () => {
    server = await startRedis({ appendonly: true, settings: { appendfsync: 'always' } })
    setting = openSetting(server.url)
  })
  after(async () => {
    await setting[Symbol.asyncDispose]()
    await server.stop()
  })

  /** Runs the body with a setting of the server changed. */
  async function withSetting(name: string, value: string, body: () => Promise<void>): Promise<void> {
    const before = String((await setting.redis.config('GET', name))[1])
    await setting.redis.config('SET', name, value)
    try {
      await body()
    } finally {
      await setting.redis.config('SET', name, before)
    }
  }

  it('that forgot the scripts is sent them again', async () => {
    const substrate = setting.substrate()
    await grant(substrate, claim('l', 'a', LASTING_MS))
    for (let round = 0; round < 3; round++) {
      await setting.redis.script('FLUSH')
      expect(await grant(substrate, await extendOf(substrate, 'l', 'a', LASTING_MS))).to.include({ holder: 'a' })
      await setting.redis.script('FLUSH')
      expect(await readOne(substrate, 'l')).to.include({ holder: 'a' })
      expect(await substrate.read(undefined, newCall())).to.have.property('size', 1)
      expect(await substrate.pinned(newCall())).to.have.property('size', 0)
    }
  })

  it('with its memory full refuses what needs more, says so, and does nothing by halves', async () => {
    const namespace = unique('ns')
    const substrate = setting.substrate({ namespace })
    const base = `lease:{${namespace}}:`
    const tokens = new Map<string, bigint>()
    for (const lease of ['held', 'pinned', 'gone']) {
      tokens.set(lease, (await grant(substrate, claim(lease, 'a', LASTING_MS, { value: 'v' }))).fencingToken)
    }
    const named = (lease: string): { fencingToken: bigint } => ({ fencingToken: tokens.get(lease) ?? 0n })
    for (const entity of ['e', 'f']) await settle(substrate, pin('pinned', entity, `of-${entity}`))
    const counter = await setting.redis.get(`${base}t`)
    const passedMs = stopwatch()
    await withSetting('maxmemory', '1', async () => {
      for (const batch of [
        [
          release('gone', 'a', named('gone')),
          claim('new', 'a', LASTING_MS),
          pin('held', 'e'),
          unpin('pinned', 'e', 'of-e'),
          extend('held', 'a', 2 * LASTING_MS, named('held')),
        ],
        [
          claim('new', 'a', LASTING_MS),
          pin('held', 'e'),
          unpin('pinned', 'e', 'of-e'),
          extend('held', 'a', 3 * LASTING_MS, { ...named('held'), value: 'w' }),
        ],
        [extend('held', 'a', 4 * LASTING_MS, named('held')), extend('pinned', 'a', 4 * LASTING_MS, named('pinned'))],
      ]) {
        const verdicts = await substrate.apply(batch, newCall())
        for (const [index, { outcome, cause }] of verdicts.entries()) {
          const { kind } = batch[index] as Op
          expect(outcome, kind).to.equal(kind === 'claim' || kind === 'pin' ? 'unknown' : 'granted')
          if (outcome !== 'unknown') continue
          expect((cause as Error).message).to.match(/memory is full/)
          expect(((cause as Error).cause as Error).message).to.match(/^OOM/)
        }
      }
      expect(await verdictOf(substrate, claim('held', 'b', 1_000))).to.have.property('outcome', 'refused')
      expect(await readOne(substrate, 'held')).to.include({ value: 'w', pinned: false })
    })
    expect((await readOne(substrate, 'held'))?.remainingMs).to.be.at.least(4 * LASTING_MS - passedMs())
    expect(await setting.redis.get(`${base}t`)).to.equal(counter)
    expect((await setting.redis.smembers(`${base}i`)).toSorted()).to.deep.equal(['held', 'pinned'])
    expect(await substrate.pinned(newCall())).to.deep.equal(new Map([['pinned', new Map([['f', 'of-f']])]]))
    expect(await grant(substrate, claim('new', 'a', LASTING_MS))).to.include({ holder: 'a' })
  })

  it('that lacks the replicas it wants refuses everything but reading, and says so', async () => {
    const substrate = setting.substrate()
    await grant(substrate, claim('held', 'a', LASTING_MS))
    await withSetting('min-replicas-to-write', '1', async () => {
      const released = await releaseOf(substrate, 'held', 'a')
      for (const op of [claim('l', 'a', 1_000), claim('held', 'b', 1_000), released]) {
        expect((await causeOf(substrate, op)).message).to.match(/fewer replicas/)
      }
      expect(await readOne(substrate, 'held')).to.include({ holder: 'a' })
      expect((await substrate.inspect()).map(({ warning }) => warning)).to.deep.equal(['no-writes'])
    })
  })

  it('as a replica grants nothing, refuses nothing, and tells nothing that may be old', async () => {
    const master = await startRedis({ settings: { 'repl-diskless-sync-delay': '0' } }) // of five seconds
    const old = openSetting(master.url)
    try {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      await grant(old.substrate({ namespace }), claim('held', 'a', LASTING_MS))
      await setting.redis.replicaof('127.0.0.1', master.port)
      const copied = (): Promise<number> => setting.redis.exists(`lease:{${namespace}}:l:held`).catch(() => 0) // it loads
      await eventually(async () => (await copied()) === 1)
      const named = { fencingToken: 1n }
      for (const op of [
        claim('l', 'a', 1_000),
        claim('held', 'b', 1_000),
        extend('held', 'a', 1, named),
        release('l', 'a', named),
      ]) {
        const error = await causeOf(substrate, op)
        expect(error.message, op.kind).to.match(/is a replica.*connect to the master.*READONLY/)
      }
      for (const call of [
        () => substrate.read(['held'], newCall()),
        () => substrate.read(['held'], newCall(), ['held']),
        () => substrate.read(undefined, newCall()),
        () => substrate.pinned(newCall()),
        () => substrate.pinned(newCall(), ['held']),
        () => substrate.counted('held#', newCall()),
        () => substrate.time(newCall()),
      ]) {
        expect((await caught(call())).message).to.match(/is a replica/)
      }
      expect((await substrate.inspect()).map(({ warning }) => warning)).to.deep.equal(['replica'])
    } finally {
      await setting.redis.replicaof('NO', 'ONE')
      await old[Symbol.asyncDispose]()
      await master.stop()
    }
  })

  describe('with users', () => {
    const url = (user: string): string => `redis://${user}:secret@127.0.0.1:${server.port}`
    const as = (user: string, namespace: string = unique('ns')): RedisSubstrate =>
      setting.substrate({ redis: setting.connect({ maxRetriesPerRequest: 1 }, url(user)), namespace })
    const user = (name: string, ...rules: string[]): Promise<unknown> =>
      setting.redis.acl('SETUSER', name, 'on', '>secret', 'allkeys', 'allchannels', 'allcommands', ...rules)

    it('a wrong password is reported as such, and so is a missing one', async () => {
      await user('known')
      const wrong = setting.connect({ maxRetriesPerRequest: 1 }, url('known').replace('secret', 'wrong'))
      const error = await causeOf(setting.substrate({ redis: wrong }))
      expect(error.message).to.match(/refused the credentials/)
      expect((error.cause as Error).message).to.match(/^WRONGPASS/)
      await withSetting('requirepass', 'hidden', async () => {
        const none = setting.connect({ maxRetriesPerRequest: 1 })
        expect((await causeOf(setting.substrate({ redis: none }))).message).to.match(/wants a password/)
        await setting.redis.auth('hidden')
      })
    })

    it('a right that lacks is reported as such, and nothing is done by halves', async () => {
      await user('nokeys', 'resetkeys', '~other:*')
      await user('noeval', '-eval', '-evalsha')
      await user('noset', '-set')
      await user('nosadd', '-sadd')
      await user('nodel', '-del')
      for (const name of ['nokeys', 'noeval', 'noset', 'nosadd']) {
        const namespace = unique('ns')
        const error = await causeOf(as(name, namespace), claim('l', 'a', LASTING_MS))
        expect(error.message, name).to.match(/lacks a right/)
        expect(error.cause).to.be.instanceOf(Error)
        expect(await setting.redis.keys(`lease:{${namespace}}:l:*`)).to.deep.equal([])
      }
      const able = setting.substrate({ namespace: 'kept' })
      const term = await grant(able, claim('l', 'a', LASTING_MS))
      const released = await causeOf(as('nodel', 'kept'), release('l', 'a', { fencingToken: term.fencingToken }))
      expect(released.message).to.match(/lacks a right/)
      expect(await readOne(able, 'l')).to.include({ holder: 'a', fencingToken: term.fencingToken })
    })

    it('the rights that the documentation names are enough for everything', async () => {
      const docs = await readFile(new URL('../../../docs/substrates/redis.md', import.meta.url), 'utf8')
      const words =
        /ACL SETUSER app [^`]+/
          .exec(docs)?.[0]
          .split(/\s+/)
          .filter((word) => word !== '') ?? []
      await setting.redis.acl('SETUSER', 'app', ...words.slice(3).map((word) => word.replace('{billing}', '{rights}')))
      await setting.redis.acl('LOG', 'RESET')
      const client = as('app', 'rights')
      let heard = 0
      const unwatch = client.watch?.(() => heard++)
      await eventually(() => heard > 0)
      await grant(client, claim('held', 'a', LASTING_MS, { value: 'v', announce: true }))
      const [refusal] = await client.apply([claim('held', 'b', LASTING_MS, { place: 0 })], newCall())
      expect(refusal).to.have.property('outcome', 'refused')
      expect(refusal?.ticket).to.have.property('ahead', 0)
      await client.apply([claim('held', 'c', LASTING_MS, { place: 0 })], newCall())
      await settle(client, await extendOf(client, 'held', 'a', 2 * LASTING_MS))
      for (const entity of ['e', 'f']) await settle(client, pin('held', entity))
      await settle(client, await unpinOf(client, 'held', 'f'))
      const batch = [claim('plain', 'a', LASTING_MS), claim('brief', 'a', 1)]
      expect((await client.apply(batch, newCall())).map(({ outcome }) => outcome)).to.deep.equal(['granted', 'granted'])
      await sleep(5)
      await settle(client, await unpinOf(client, 'held', 'e'))
      for (const lease of ['held', 'plain']) await settle(client, await releaseOf(client, lease, 'a'))
      await settle(client, expire('brief'))
      await grant(client, claim('held', 'b', LASTING_MS, { place: 1 }))
      await settle(client, await releaseOf(client, 'held', 'b'))
      await grant(client, claim('held', 'c', LASTING_MS, { place: 2 }))
      await grant(client, claim('x', 'a', LASTING_MS))
      expect((await client.read(undefined, newCall())).size).to.equal(2)
      expect((await client.read(['x'], newCall())).size).to.equal(1)
      expect((await client.pinned(newCall())).size).to.equal(0)
      expect(await client.inspect()).to.deep.equal([])
      await setting.redis.set('lease:{rights}:t', '9007199254740990')
      await grant(client, claim('late', 'a', LASTING_MS))
      unwatch?.()
      const denied = ((await setting.redis.acl('LOG')) as unknown[][]).filter((entry) => entry.includes('app'))
      expect(denied).to.deep.equal([])
    })

    it('a pin that cannot be set, or withdrawn, changes nothing, however often it is tried', async () => {
      await user('nopersist', '-persist')
      await user('nopexpireat', '-pexpireat')
      await user('nohdel', '-hdel')
      for (const name of ['nopersist', 'nopexpireat', 'nohdel']) {
        const namespace = unique('ns')
        const able = setting.substrate({ namespace })
        const held = await grant(able, claim('l', 'a', LASTING_MS))
        const pins = name !== 'nopersist'
        if (pins) await settle(able, pin('l', 'e', 'generation'))
        for (let twice = 0; twice < 2; twice++) {
          const op = pins ? unpin('l', 'e', 'generation') : pin('l', 'e')
          const error = await causeOf(as(name, namespace), op)
          expect(error.message, name).to.match(/lacks a right/)
        }
        expect(await readOne(able, 'l'), name).to.include({ fencingToken: held.fencingToken, pinned: pins })
        expect((await able.pinned(newCall())).has('l'), name).to.equal(pins)
        const leftMs = await setting.redis.pttl(`lease:{${namespace}}:l:l`)
        expect(leftMs > 0, name).to.equal(!pins)
      }
    })

    it('one who may not announce is served, and warned', async () => {
      await user('silent', 'resetchannels')
      const substrate = as('silent')
      await grant(substrate, claim('l', 'a', LASTING_MS))
      expect(await verdictOf(substrate, await releaseOf(substrate, 'l', 'a'))).to.have.property('outcome', 'granted')
      expect((await substrate.inspect()).map(({ warning }) => warning)).to.deep.equal(['publish-forbidden'])
    })

    it('one who may not look at the settings is served, and warned', async () => {
      await user('blind', '-info')
      const redis = setting.connect({ enableReadyCheck: false }, url('blind'))
      const substrate = setting.substrate({ redis })
      await grant(substrate, claim('l', 'a', LASTING_MS))
      expect((await substrate.inspect()).map(({ warning }) => warning)).to.deep.equal(['settings-unreadable'])
    })
  })

  it('is inspected for what weakens a grant, and for nothing else', async () => {
    const substrate = setting.substrate()
    const warnings = async (): Promise<string[]> => (await substrate.inspect()).map(({ warning }) => warning)
    expect(await warnings()).to.deep.equal([])
    await withSetting('maxmemory-policy', 'volatile-lru', async () => {
      expect(await warnings()).to.deep.equal(['eviction'])
    })
    await withSetting('appendonly', 'no', async () => {
      expect(await warnings()).to.deep.equal(['no-append-only-file'])
    })
    // Turned on again the file is written anew, and holds nothing before that is done.
    await eventually(async () =>
      /aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0/.test(await setting.redis.info('persistence')),
    )
  })

  it('that is killed and comes back finds leases, tokens and listeners where they were', async () => {
    const redis = setting.connect({ maxRetriesPerRequest: 1, retryStrategy: () => 50 })
    const substrate = setting.substrate({ redis })
    let resyncs = 0
    let vacated = 0
    substrate.watch?.((change) => (change.kind === 'resync' ? resyncs++ : vacated++))
    await eventually(() => resyncs >= 1)
    const { fencingToken } = await grant(substrate, claim('l', 'a', 600_000))
    await server.kill()
    expect((await causeOf(substrate, claim('m', 'a', 1_000))).message).to.match(/cannot be reached/)
    await server.restart()
    await eventually(() => resyncs >= 2)
    await eventually(() => succeeds(redis.ping()))
    expect(await readOne(substrate, 'l')).to.include({ holder: 'a', fencingToken })
    await settle(substrate, await releaseOf(substrate, 'l', 'a'))
    await eventually(() => vacated >= 1)
    expect((await grant(substrate, claim('l', 'b', 1_000))).fencingToken > fencingToken).to.equal(true)
  })
})

for (const target of redisTargets('cluster')) {
  describe(`failures, on ${target.name}`, () => {
    let cluster: Cluster
    before(() => (cluster = new Cluster([...target.nodes])))
    after(() => cluster.disconnect())

    it('a single connection to a node says that the server is part of a Cluster', async () => {
      const node = target.nodes[0] ?? expect.fail()
      const setting = openSetting(`redis://${node.host}:${node.port}`)
      try {
        const errors = await Promise.all(
          Array.from({ length: 12 }, (_, index) =>
            setting
              .substrate({ namespace: `slot-${index}` })
              .apply([claim('l', 'a', 1)], newCall())
              .catch(String),
          ),
        )
        expect(
          errors.filter((error) => typeof error === 'string' && /pass a Cluster of ioredis.*MOVED/.test(error)).length,
        ).to.be.within(1, 11)
      } finally {
        await setting[Symbol.asyncDispose]()
      }
    })

    it('no node in reach says so', async () => {
      const nowhere = new Cluster([{ host: '127.0.0.1', port: 1 }], {
        clusterRetryStrategy: () => null,
        lazyConnect: true,
      })
      nowhere.on('error', () => {})
      const substrate = new RedisSubstrate({ redis: nowhere, namespace: 'n' })
      const error = await causeOf(substrate)
      expect(error.message).to.match(/no node of the Cluster can be reached|connection is closed/)
      await substrate.close()
      nowhere.disconnect()
    })

    it('is inspected where the leases are', async () => {
      const substrate = new RedisSubstrate({ redis: cluster, namespace: unique('ns') })
      expect((await substrate.inspect()).map(({ warning }) => warning)).to.deep.equal(['no-append-only-file'])
      await substrate.close()
    })

    it('waiters hear of a release through any node', async () => {
      for (let round = 0; round < 5; round++) {
        const substrate = new RedisSubstrate({ redis: cluster, namespace: unique('ns') })
        const heard: string[] = []
        substrate.watch?.((change) => heard.push(change.kind))
        await eventually(() => heard.length >= 1)
        await grant(substrate, claim('l', 'a', LASTING_MS))
        await settle(substrate, await releaseOf(substrate, 'l', 'a'))
        await eventually(() => heard.length >= 2)
        await substrate.close()
      }
    })
  })
}
