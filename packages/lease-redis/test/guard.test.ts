import { expect } from 'chai'
import { Cluster, type Redis } from 'ioredis'
import { ErrNotHeld, ErrNotValid, ErrTrapdoor, type Holding } from 'lease-core'
import { redisTargets, startProxy } from 'lease-servers'
import { RedisGuard, RedisSubstrate } from 'lease-redis'
import { caught, claim, extend, grant, pin, release, settle, sleep, unique, unpin } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`guards, on ${target.name}`, () => {
    let setting: Setting
    let substrate: RedisSubstrate
    let name: string
    let own: string
    before(() => {
      setting = openSetting(target.url)
      substrate = setting.substrate()
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      name = unique('lease')
      own = unique('own')
    })

    /** A guard of this term. */
    async function guardOf({ holder, fencingToken }: Holding, lease: string = name): Promise<RedisGuard> {
      const guard = new RedisGuard()
      await substrate.trapdoor(lease, holder, fencingToken)(guard)
      return guard
    }
    const set = `return redis.call('SET', KEYS[1], ARGV[1])`

    /** Makes the term end, or not, in one way. */
    const endings: Record<string, (holding: Holding) => Promise<unknown>> = {
      'was released': () => settle(substrate, release(name, 'a')),
      'was taken by another': async () => {
        await settle(substrate, release(name, 'a'))
        await grant(substrate, claim(name, 'b', 10_000))
      },
      'was claimed anew by the same holder': async () => {
        await settle(substrate, release(name, 'a'))
        await grant(substrate, claim(name, 'a', 10_000))
      },
      'lapsed by time alone': () => sleep(320),
      'lost its last pin past its expiry': async () => {
        await settle(substrate, pin(name, 'e'))
        await sleep(320)
        await settle(substrate, unpin(name, 'e'))
      },
    }
    const lasting: Record<string, (holding: Holding) => Promise<unknown>> = {
      'was left alone': async () => {},
      'was renewed': () => grant(substrate, extend(name, 'a', 10_000)),
      'got a new value': () => grant(substrate, extend(name, 'a', 10_000, { value: 'new' })),
      'is pinned, past its expiry': async () => {
        await settle(substrate, pin(name, 'e'))
        await sleep(320)
      },
    }
    const short = (): Promise<Holding> => grant(substrate, claim(name, 'a', 300))

    describe('for scripts', () => {
      for (const [what, end] of Object.entries(lasting)) {
        it(`run what the caller gave while the lease ${what}`, async () => {
          const held =
            what === 'is pinned, past its expiry' ? await short() : await grant(substrate, claim(name, 'a', 10_000))
          const guard = await guardOf(held)
          await end(held)
          const answer = await guard.run(
            setting.redis,
            `return { KEYS, ARGV, #KEYS, #ARGV }`,
            ['k', 'l'],
            ['x', 2, 'ü'],
          )
          expect(answer).to.deep.equal([['k', 'l'], ['x', '2', 'ü'], 2, 3])
        })
      }

      for (const [what, end] of Object.entries(endings)) {
        it(`run nothing after the lease ${what}`, async () => {
          const held = await short()
          const guard = await guardOf(held)
          await end(held)
          const refusal = await caught(guard.run(setting.redis, set, [own], ['x']))
          expect(refusal).to.be.instanceOf(ErrNotHeld)
          expect(refusal).to.include({ lease: name, holder: 'a' })
          expect(await setting.redis.exists(own)).to.equal(0)
        })
      }

      it('of several terms demand all of them, and name the one that is gone', async () => {
        const guard = new RedisGuard()
        const names = ['one', 'two', 'three'].map((word) => unique(word))
        for (const lease of names) {
          const { fencingToken } = await grant(substrate, claim(lease, 'a', 10_000))
          await substrate.trapdoor(lease, 'a', fencingToken)(guard)
        }
        expect(await guard.run(setting.redis, set, [own], ['x'])).to.equal('OK')
        await settle(substrate, release(names[1] ?? '', 'a'))
        expect(await caught(guard.run(setting.redis, set, [own], ['y']))).to.include({
          lease: names[1],
          code: 'LEASE_NOT_HELD',
        })
        expect(await setting.redis.get(own)).to.equal('x')
      })

      it('checked again after a new claim look at the new term', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        await settle(substrate, release(name, 'a'))
        const { fencingToken } = await grant(substrate, claim(name, 'a', 10_000))
        await substrate.trapdoor(name, 'a', fencingToken)(guard)
        expect(await guard.run(setting.redis, set, [own], ['x'])).to.equal('OK')
      })

      it('pass the error of the script on as it is, with its line, and what it wrote before stays', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        const lua = `redis.call('SET', KEYS[1], 'half')\nreturn redis.call('INCR', KEYS[1])`
        const error = await caught(guard.run(setting.redis, lua, [own]))
        expect(error.message).to.match(/^ERR value is not an integer.*:2/)
        expect(error.name).to.equal('ReplyError')
        expect(await setting.redis.get(own)).to.equal('half')
        expect((await caught(guard.run(setting.redis, `return redis.error_reply('MINE own')`))).message).to.equal(
          'MINE own',
        )
        expect((await caught(guard.run(setting.redis, 'this is not Lua'))).message).to.match(/compiling script/)
      })

      it('take scripts with a comment at the end, with locals, functions, and many arguments', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        expect(await guard.run(setting.redis, `return 1 -- the end`)).to.equal(1)
        expect(
          await guard.run(setting.redis, `local function f() return ARGV[2] end return f()`, [], ['x', 'y']),
        ).to.equal('y')
        const many = Array.from({ length: 20_000 }, (_, index) => index)
        expect(await guard.run(setting.redis, 'return #ARGV', [], many)).to.equal(20_000)
        expect(await guard.run(setting.redis, '')).to.equal(null)
      })

      it('pass bytes through unharmed', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        const bytes = Buffer.from([0, 255, 10, 128])
        await guard.run(setting.redis, set, [own], [bytes])
        expect(await setting.redis.getBuffer(own)).to.deep.equal(bytes)
      })

      it('work when the server has forgotten the script', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        await guard.run(setting.redis, 'return 1')
        await setting.redis.script('FLUSH')
        expect(await guard.run(setting.redis, 'return 1')).to.equal(1)
      })

      it('mind the keyPrefix of either connection', async () => {
        const prefixed = setting.connect({ keyPrefix: 'app:' })
        const inside = setting.substrate({ redis: prefixed })
        const { fencingToken } = await grant(inside, claim(name, 'a', 10_000))
        const guard = new RedisGuard()
        await inside.trapdoor(name, 'a', fencingToken)(guard)
        expect(await guard.run(prefixed, set, [own], ['x'])).to.equal('OK')
        expect(await setting.redis.get(`app:${own}`)).to.equal('x')
        expect(await guard.run(setting.redis, set, [own], ['y'])).to.equal('OK')
        expect(await setting.redis.get(own)).to.equal('y')
        const elsewhere = setting.connect({ keyPrefix: 'other:' })
        expect(await caught(guard.run(elsewhere, set, [own], ['z']))).to.be.instanceOf(ErrTrapdoor)
      })

      it('refuse what they cannot gate', async () => {
        expect(await caught(new RedisGuard().run(setting.redis, set, [own], ['x']))).to.be.instanceOf(ErrTrapdoor)
        expect(await caught(new RedisGuard().watch(setting.redis))).to.be.instanceOf(ErrTrapdoor)
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        expect(await caught(guard.run(setting.redis, '#!lua\nreturn 1'))).to.be.instanceOf(ErrNotValid)
        expect(await caught(guard.run(setting.redis, 1 as unknown as string))).to.be.instanceOf(ErrNotValid)
      })
    })

    describe('for transactions', () => {
      const ways: Record<string, (guard: RedisGuard, held: Holding, connection: Redis) => Promise<void>> = {
        'watch()': (guard, _, connection) => guard.watch(connection),
        'a connection as key': (_, { holder, fencingToken }, connection) =>
          substrate.trapdoor(name, holder, fencingToken)(connection),
      }
      let connection: Redis
      beforeEach(() => (connection = setting.connect({ retryStrategy: null })))

      for (const [way, watch] of Object.entries(ways)) {
        it(`${way}: EXEC writes while nothing has changed`, async () => {
          const held = await grant(substrate, claim(name, 'a', 10_000))
          await watch(await guardOf(held), held, connection)
          expect(await connection.multi().set(own, 'x').exec()).to.deep.equal([[null, 'OK']])
        })

        for (const [what, end] of Object.entries(endings)) {
          it(`${way}: EXEC writes nothing after the lease ${what}`, async () => {
            const held = await short()
            await watch(await guardOf(held), held, connection)
            await end(held)
            expect(await connection.multi().set(own, 'x').exec()).to.equal(null)
            expect(await setting.redis.exists(own)).to.equal(0)
          })

          it(`${way}: is refused when the lease already ${what}, and leaves the connection unwatched`, async () => {
            const held = await short()
            const guard = await guardOf(held)
            await end(held)
            expect(await caught(watch(guard, held, connection))).to.be.instanceOf(ErrNotHeld)
            await grant(substrate, claim(name, 'c', 10_000)).catch(() => {})
            expect(await connection.multi().set(own, 'x').exec()).to.deep.equal([[null, 'OK']])
          })
        }
      }

      for (const [what, end] of Object.entries(lasting)) {
        it(`transaction() writes, once, though the lease ${what} meanwhile`, async () => {
          const held = await short()
          const guard = await guardOf(held)
          let bodies = 0
          const results = await guard.transaction(connection, async (multi) => {
            if (++bodies === 1) await end(held)
            multi.incr(own)
          })
          expect(results).to.deep.equal([[null, 1]])
          expect(bodies).to.be.within(1, 2)
        })
      }

      for (const [what, end] of Object.entries(endings)) {
        it(`transaction() writes nothing once the lease ${what}`, async () => {
          const held = await short()
          const guard = await guardOf(held)
          const refusal = await caught(
            guard.transaction(connection, async (multi) => {
              await end(held)
              multi.set(own, 'x')
            }),
          )
          expect(refusal).to.be.instanceOf(ErrNotHeld)
          expect(await setting.redis.exists(own)).to.equal(0)
        })
      }

      it('transaction() passes on what its body throws, and leaves the connection unwatched', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        const refusal = await caught(
          guard.transaction(connection, () => {
            throw new Error('mine')
          }),
        )
        expect(refusal.message).to.equal('mine')
        await settle(substrate, release(name, 'a'))
        expect(await connection.multi().set(own, 'x').exec()).to.deep.equal([[null, 'OK']])
      })

      it('one transaction() at a time on a connection', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', 10_000)))
        const first = guard.transaction(connection, (multi) => void multi.incr(own))
        expect(await caught(guard.transaction(connection, () => {}))).to.be.instanceOf(ErrTrapdoor)
        expect(await first).to.deep.equal([[null, 1]])
        expect(await guard.transaction(connection, (multi) => void multi.incr(own))).to.deep.equal([[null, 2]])
      })

      it('a connection that breaks between WATCH and EXEC writes nothing', async () => {
        await using proxy = await startProxy(setting.url)
        const url = proxy.url(setting.url)
        const held = await grant(substrate, claim(name, 'a', 10_000))
        const guard = await guardOf(held)
        const breaking = setting.connect({ retryStrategy: null }, url)
        await guard.watch(breaking)
        proxy.cut()
        await settle(substrate, release(name, 'a'))
        expect(await caught(breaking.multi().set(own, 'x').exec())).to.be.instanceOf(Error)
        expect(await setting.redis.exists(own)).to.equal(0)
      })

      it('a connection that reconnects by itself is refused: it would write all the same', async () => {
        await using proxy = await startProxy(setting.url)
        const held = await grant(substrate, claim(name, 'a', 10_000))
        const guard = await guardOf(held)
        const forgetful = setting.connect({ retryStrategy: () => 1 }, proxy.url(setting.url))
        expect(await caught(guard.watch(forgetful))).to.be.instanceOf(ErrTrapdoor)
        expect(await caught(ways['a connection as key']?.(guard, held, forgetful) ?? expect.fail())).to.be.instanceOf(
          ErrTrapdoor,
        )
        const key = (await setting.redis.keys(`*l:${name}`))[0] ?? ''
        await forgetful.watch(key)
        proxy.cut()
        await settle(substrate, release(name, 'a'))
        expect(await forgetful.multi().set(own, 'x').exec()).to.deep.equal([[null, 'OK']])
      })
    })
  })
}

for (const target of redisTargets('cluster')) {
  describe(`guards, on ${target.name}`, () => {
    let cluster: Cluster
    let substrate: RedisSubstrate
    const namespace = unique('guards')
    before(() => {
      cluster = new Cluster([...target.nodes])
      substrate = new RedisSubstrate({ redis: cluster, namespace })
    })
    after(async () => {
      await substrate.close()
      cluster.disconnect()
    })

    it('run scripts on keys with the tag of the namespace, and say so of others', async () => {
      const { fencingToken } = await grant(substrate, claim('l', 'a', 10_000))
      const guard = new RedisGuard()
      await substrate.trapdoor('l', 'a', fencingToken)(guard)
      expect(await guard.run(cluster, `return redis.call('SET', KEYS[1], 'x')`, [`own:{${namespace}}`])).to.equal('OK')
      const error = await caught(guard.run(cluster, `return 1`, ['elsewhere-1', 'elsewhere-2']))
      expect(error.message).to.match(/need the hash tag of the namespace.*CROSSSLOT/)
      expect(error.cause).to.be.instanceOf(Error)
    })

    it('do not watch a Cluster', async () => {
      const { fencingToken } = await grant(substrate, claim('m', 'a', 10_000))
      const guard = new RedisGuard()
      const trapdoor = substrate.trapdoor('m', 'a', fencingToken)
      await trapdoor(guard)
      for (const call of [trapdoor(cluster), guard.watch(cluster)]) {
        expect(await caught(call)).to.be.instanceOf(ErrTrapdoor)
      }
    })
  })
}
