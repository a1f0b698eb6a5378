/** Guards on connections that others use too, on replicas, and on what only looks like a connection. */
import { expect } from 'chai'
import { Cluster, type Redis } from 'ioredis'
import { ErrNotHeld, ErrNotValid, ErrTrapdoor, ErrUnknown, type Trapdoor } from 'lease-core'
import { redisClient, RedisGuard, RedisSubstrate, type RedisConnection, type RedisScripting } from 'lease-redis'
import { caught, claim, eventually, grant, settle, unique } from 'lease-scenes'
import { redisTargets, startProxy, startRedis, until } from 'lease-servers'
import { LASTING_MS, openSetting, releaseOf, type Setting } from './setting.ts'

/** What somebody else may do on a connection while our transaction is under way. */
const strangers: Record<string, (redis: Redis, key: string) => Promise<unknown>> = {
  'an EXEC': (redis, key) => redis.multi().set(key, 1).exec(),
  'an UNWATCH': (redis) => redis.unwatch(),
  'a MULTI that is discarded': async (redis) => {
    await redis.multi({ pipeline: false })
    await redis.discard()
  },
  'a WATCH of their own, and its EXEC': async (redis, key) => {
    await redis.watch(key)
    await redis.multi().exec()
  },
}

async function guardOf(substrate: RedisSubstrate, lease: string): Promise<{ guard: RedisGuard; trapdoor: Trapdoor }> {
  const { fencingToken } = await grant(substrate, claim(lease, 'a', LASTING_MS))
  const trapdoor = substrate.trapdoor(lease, 'a', fencingToken)
  const guard = new RedisGuard()
  await trapdoor(guard)
  return { guard, trapdoor }
}

async function takeOver(substrate: RedisSubstrate, lease: string): Promise<void> {
  await settle(substrate, await releaseOf(substrate, lease, 'a'))
  await grant(substrate, claim(lease, 'rival', LASTING_MS))
}

for (const target of redisTargets('cluster')) {
  describe(`a guarded transaction on a node of ${target.name} that all of the process use`, () => {
    let cluster: Cluster
    let substrate: RedisSubstrate
    const namespace = unique('shared')
    before(() => {
      cluster = new Cluster([...target.nodes])
      substrate = new RedisSubstrate({ redis: cluster, namespace, listen: false })
    })
    after(async () => {
      await substrate.close()
      cluster.disconnect()
    })

    it('is refused on a node that does not have the slot, and so is a script, with the remedy', async () => {
      const lease = unique('l')
      const { guard } = await guardOf(substrate, lease)
      let refused = 0
      for (const node of cluster.nodes('master')) {
        for (const work of [() => guard.transaction(node, () => {}), () => guard.run(node, 'return 1')]) {
          const outcome: unknown = await work().catch((error: unknown) => error)
          if (!(outcome instanceof Error)) continue
          expect(outcome).to.be.instanceOf(ErrTrapdoor)
          expect(outcome.message).to.match(/on another node of the Cluster: pass/)
          refused++
        }
      }
      expect(refused).to.be.greaterThan(0)
    })

    for (const [what, disturb] of Object.entries(strangers)) {
      it(`writes nothing after a take-over, though ${what} of others came before its own`, async () => {
        const lease = unique('l')
        const own = `{${namespace}}${unique('own')}`
        const { guard } = await guardOf(substrate, lease)
        let node: Redis | undefined
        for (const one of cluster.nodes('master')) {
          if ((await one.exists(`lease:{${namespace}}:l:${lease}`).catch(() => 0)) === 1) node = one
        }
        const shared = node ?? expect.fail('no node has the lease')
        const refusal = await caught(
          guard.transaction(shared, async (multi) => {
            await disturb(shared, `{${namespace}}other`)
            await takeOver(substrate, lease)
            multi.set(own, 'x')
          }),
        )
        expect(refusal).to.be.instanceOf(ErrNotHeld)
        expect(await cluster.exists(own)).to.equal(0)
      })
    }

    it('refuses the Cluster itself, and names what to pass', async () => {
      const { guard } = await guardOf(substrate, unique('l'))
      const refusal = await caught(guard.transaction(cluster as unknown as Redis, () => {}))
      expect(refusal).to.be.instanceOf(ErrTrapdoor)
      expect(refusal.message).to.match(/cluster\.nodes\(\)/)
    })
  })
}

for (const target of redisTargets('server')) {
  describe(`guards on a connection to ${target.name} that others use`, () => {
    let setting: Setting
    let substrate: RedisSubstrate
    let lease: string
    let own: string
    before(() => {
      setting = openSetting(target.url)
      substrate = setting.substrate()
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      lease = unique('l')
      own = unique('own')
    })

    for (const [what, disturb] of Object.entries(strangers)) {
      it(`a transaction writes nothing after a take-over, though ${what} of others came before its own`, async () => {
        const { guard } = await guardOf(substrate, lease)
        const shared = setting.connect() // and it reconnects by itself
        const refusal = await caught(
          guard.transaction(shared, async (multi) => {
            await disturb(shared, unique('other'))
            await takeOver(substrate, lease)
            multi.set(own, 'x')
          }),
        )
        expect(refusal).to.be.instanceOf(ErrNotHeld)
        expect(await setting.redis.exists(own)).to.equal(0)
      })
    }

    it('transactions go over one connection of their own, which ends with the shared one', async () => {
      const { guard } = await guardOf(substrate, lease)
      const connectionName = unique('name')
      const shared = setting.connect({ connectionName })
      const count = async (): Promise<number> => {
        const all = String(await setting.redis.client('LIST'))
        return all.split('\n').filter((line) => line.includes(`name=${connectionName} `)).length
      }
      for (const sum of [1, 2, 3]) {
        expect(await guard.transaction(shared, (multi) => void multi.incr(own))).to.deep.equal([[null, sum]])
      }
      await shared.ping()
      await eventually(async () => (await count()) === 2)
      shared.disconnect()
      await until('the end of both', async () => (await count()) === 0)
      expect(await caught(guard.transaction(shared, () => {}))).to.be.instanceOf(ErrTrapdoor)
    })

    it('a transaction works again after the server ended the connection that it went over', async () => {
      const { guard } = await guardOf(substrate, lease)
      const connectionName = unique('name')
      const shared = setting.connect({ connectionName })
      const killed = guard.transaction(shared, async (multi) => {
        const all = String(await setting.redis.client('LIST')).split('\n')
        const id = /id=(\d+)/.exec(all.find((line) => line.includes(`name=${connectionName} `)) ?? '')?.[1] ?? ''
        await setting.redis.client('KILL', 'ID', id)
        multi.set(own, 'x')
      })
      expect(await caught(killed)).to.be.instanceOf(Error)
      expect(await setting.redis.exists(own)).to.equal(0)
      expect(await guard.transaction(shared, (multi) => void multi.set(own, 'y'))).to.deep.equal([[null, 'OK']])
    })

    it('a transaction is given up when the server falls silent, and the next one gets another connection', async () => {
      await using proxy = await startProxy(target.url)
      const [one, other] = [0, 1].map(() => setting.connect({}, proxy.url(target.url))) as [Redis, Redis]
      const { guard } = await guardOf(substrate, unique('l'))
      let refusedToLook: Promise<Error> | undefined
      const append = (connection: Redis, first: () => void = () => {}): Promise<unknown> =>
        guard.transaction(connection, (multi) => {
          first()
          multi.append(own, 'x')
        })
      for (const connection of [one, other]) await append(connection)
      const refusals = await Promise.all([
        caught(
          append(one, () => {
            proxy.silence()
            refusedToLook = caught(append(other))
          }),
        ),
        eventually(() => refusedToLook !== undefined).then(() => refusedToLook),
      ])
      expect(refusals[0]).to.be.instanceOf(ErrUnknown)
      expect(refusals[1]).to.be.instanceOf(ErrTrapdoor)
      expect(refusals[1]?.message).to.match(/no answer within/)
      for (const connection of [one, other]) {
        connection.disconnect(true) // as its owner does with a time-out for silence
        await append(connection)
      }
      expect(await setting.redis.get(own)).to.equal('xxxx')
    })

    it('a script that is queued behind the MULTI of somebody is reported as unknown, and not as run', async () => {
      const { guard } = await guardOf(substrate, lease)
      const shared = setting.connect()
      await shared.multi({ pipeline: false })
      const refusal = await caught(guard.run(shared, `return redis.call('SET', KEYS[1], 'x')`, [own]))
      expect(refusal).to.be.instanceOf(ErrUnknown)
      expect(refusal.message).to.match(/MULTI/)
      await shared.discard()
      expect(await setting.redis.exists(own)).to.equal(0)
      expect(await guard.run(shared, `return 'QUEUED'`)).to.equal('QUEUED')
    })

    it('a connection in the MULTI of somebody is not watched', async () => {
      const { guard, trapdoor } = await guardOf(substrate, lease)
      const shared = setting.connect({ retryStrategy: null })
      await shared.multi({ pipeline: false })
      for (const watch of [() => guard.watch(shared), () => trapdoor(shared)]) {
        expect(await caught(watch())).to.be.instanceOf(Error)
      }
      await shared.discard()
    })

    it('what a script answers arrives as it is', async () => {
      const { guard } = await guardOf(substrate, lease)
      const run = (lua: string): Promise<unknown> => guard.run(setting.redis, lua)
      expect(await run('')).to.equal(null)
      expect(await run('return nil')).to.equal(null)
      expect(await run('return false')).to.equal(null)
      expect(await run('return {}')).to.deep.equal([])
      expect(await run('return { 1, { 2 } }')).to.deep.equal([1, [2]])
      expect(await run(`return redis.status_reply('FINE')`)).to.equal('FINE')
      expect(await run('return 1, 2')).to.equal(1)
    })

    it('a pipeline is no connection and no key, and neither is what only has some of the methods', async () => {
      const { guard, trapdoor } = await guardOf(substrate, lease)
      const { redis } = setting
      const things: unknown[] = [
        redis.pipeline(),
        redis.multi(),
        { watch() {}, unwatch() {}, get() {} },
        'a key',
        1,
        null,
      ]
      for (const thing of things) {
        for (const call of [
          () => trapdoor(thing),
          () => guard.watch(thing as Redis),
          () => guard.run(thing as RedisScripting, 'return 1'),
          () => guard.transaction(thing as Redis, () => {}),
        ]) {
          const refusal = await caught(call())
          expect(refusal, String(refusal)).to.be.instanceOf(ErrTrapdoor)
        }
      }
      const redisOption = redis.pipeline() as unknown as RedisConnection
      expect(() => redisClient({ redis: redisOption, namespace: 'n', listen: false })).to.throw(ErrNotValid)
    })
  })
}

describe('a guard asks for the right to write first', () => {
  it('so that none passes on a replica, also if it only reads', async () => {
    await using master = await startRedis({ settings: { 'repl-diskless-sync-delay': '0' } })
    await using replica = await startRedis()
    await using setting = openSetting(master.url)
    const substrate = setting.substrate()
    const { guard, trapdoor } = await guardOf(substrate, 'l')
    const behind = setting.connect({ retryStrategy: null }, replica.url)
    await behind.replicaof('127.0.0.1', master.port)
    // What was last written has arrived, so the lease has.
    await setting.redis.set('last', 'x')
    await until('a copy of the lease', async () => (await behind.get('last').catch(() => null)) === 'x')
    for (const call of [
      () => guard.run(behind, `return redis.call('GET', KEYS[1])`, ['last']),
      () => guard.run(behind, 'return 1'),
      () => guard.watch(behind),
      () => trapdoor(behind),
      () => guard.transaction(behind, (multi) => void multi.get('last')),
    ]) {
      const refusal = await caught(call())
      expect(refusal, String(refusal)).to.be.instanceOf(ErrTrapdoor)
      expect(refusal.message).to.match(/is a replica.*connect to the master/)
    }
  })

  it('so that none passes where the server refuses writes, save where it only lacks memory', async () => {
    await using server = await startRedis()
    await using setting = openSetting(server.url)
    const { guard } = await guardOf(setting.substrate(), 'l')
    await setting.redis.set('own', 'x')
    await setting.redis.config('SET', 'min-replicas-to-write', '1')
    const refusal = await caught(guard.run(setting.redis, 'return 1'))
    expect(refusal).to.be.instanceOf(ErrTrapdoor)
    expect(refusal.message).to.match(/fewer replicas/)
    await setting.redis.config('SET', 'min-replicas-to-write', '0')
    await setting.redis.config('SET', 'maxmemory', '1')
    expect(await guard.run(setting.redis, `return redis.call('DEL', 'own')`)).to.equal(1)
  })
})
