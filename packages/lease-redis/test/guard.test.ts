import { expect } from 'chai'
import { Cluster, type ChainableCommander, type Redis } from 'ioredis'
import { ErrNotHeld, ErrNotValid, ErrTrapdoor } from 'lease-core'
import type { Holding } from 'lease-core/adapter'
import { whileLive } from 'lease-core/testing'
import { redisTargets, startProxy, startRedis, until } from 'lease-servers'
import { RedisGuard, RedisSubstrate } from 'lease-redis'
import { caught, claim, grant, pin, settle, unique } from 'lease-scenes'
import { extendOf, LASTING_MS, openSetting, releaseOf, unpinOf, untilLapsed, type Setting } from './setting.ts'

/** How a term goes on, or ends. */
interface Course {
  /** The term lapses on the way. */
  readonly brief?: boolean
  /** What must be done while a brief term is live. */
  readonly first?: (lease: string) => Promise<unknown>
  /** What is done after that, however late. */
  readonly next?: (lease: string) => Promise<unknown>
}

/** A term of the holder `a`. */
interface Term {
  readonly lease: string
  readonly held: Holding
  readonly guard: RedisGuard
  /** Of this term alone; it does not reconnect. */
  readonly connection: Redis
  /** What is written under guard. */
  readonly key: string
}

const set = `return redis.call('SET', KEYS[1], ARGV[1])`

for (const target of redisTargets('server')) {
  describe(`guards, on ${target.name}`, () => {
    let setting: Setting
    let substrate: RedisSubstrate
    let name: string
    let own: string
    const namespace = unique('guards')
    before(() => {
      setting = openSetting(target.url)
      substrate = setting.substrate({ namespace })
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

    const keyOf = (lease: string): string => `lease:{${namespace}}:l:${lease}`
    const past = (lease: string): Promise<void> => untilLapsed(setting.redis, keyOf(lease))
    const pinned = (lease: string): Promise<unknown> => settle(substrate, pin(lease, 'e'))
    const endings: Record<string, Course> = {
      'was released': { next: async (lease) => settle(substrate, await releaseOf(substrate, lease, 'a')) },
      'was taken by another': {
        next: async (lease) => {
          await settle(substrate, await releaseOf(substrate, lease, 'a'))
          await grant(substrate, claim(lease, 'b', LASTING_MS))
        },
      },
      'was claimed anew by the same holder': {
        next: async (lease) => {
          await settle(substrate, await releaseOf(substrate, lease, 'a'))
          await grant(substrate, claim(lease, 'a', LASTING_MS))
        },
      },
      'lapsed by time alone': { brief: true, next: past },
      'lost its last pin past its expiry': {
        brief: true,
        first: pinned,
        next: async (lease) => {
          await past(lease)
          await settle(substrate, await unpinOf(substrate, lease, 'e'))
        },
      },
    }
    const continuations: Record<string, Course> = {
      'was left alone': {},
      'was renewed': { next: async (lease) => grant(substrate, await extendOf(substrate, lease, 'a', 2 * LASTING_MS)) },
      'got a new value': {
        next: async (lease) => grant(substrate, await extendOf(substrate, lease, 'a', LASTING_MS, { value: 'new' })),
      },
      'is pinned, past its expiry': { brief: true, first: pinned, next: past },
    }

    /** Opens a term and takes these steps while it is live. */
    function live<T>({ brief = false }: Course, steps: (term: Term) => Promise<T>): Promise<T> {
      const attempt = async (durationMs: number): Promise<T> => {
        const lease = unique('lease')
        const connection = setting.connect({ retryStrategy: null })
        await connection.ping()
        const held = await grant(substrate, claim(lease, 'a', durationMs))
        return steps({ lease, held, guard: await guardOf(held, lease), connection, key: unique('own') })
      }
      return brief ? whileLive(50, attempt) : attempt(LASTING_MS)
    }

    /** Opens a term that takes its course before it resolves. */
    async function ended(course: Course): Promise<Term> {
      const term = await live(course, async (opened) => {
        await course.first?.(opened.lease)
        return opened
      })
      await course.next?.(term.lease)
      return term
    }

    /** Runs one `transaction()` on a term that takes its course during the first call of the body. */
    function transacted(
      course: Course,
      queue: (multi: ChainableCommander, key: string) => unknown,
    ): Promise<{ readonly results: Promise<unknown>; readonly key: string; readonly bodies: () => number }> {
      return live(course, async ({ lease, guard, connection, key }) => {
        let bodies = 0
        let onFirst = (): void => {}
        const first = new Promise<void>((resolve) => (onFirst = resolve))
        const results = guard.transaction(connection, async (multi) => {
          if (++bodies === 1) {
            await course.first?.(lease)
            onFirst()
            await course.next?.(lease)
          }
          queue(multi, key)
        })
        results.catch(() => {}) // anyone who awaits them hears of it; nobody awaits those of a late attempt
        await Promise.race([first, results])
        return { results, key, bodies: () => bodies }
      })
    }

    describe('for scripts', () => {
      for (const [what, course] of Object.entries(continuations)) {
        it(`run what the caller gave while the lease ${what}`, async () => {
          const { guard } = await ended(course)
          const answer = await guard.run(
            setting.redis,
            `return { KEYS, ARGV, #KEYS, #ARGV }`,
            ['k', 'l'],
            ['x', 2, 'ü'],
          )
          expect(answer).to.deep.equal([['k', 'l'], ['x', '2', 'ü'], 2, 3])
        })
      }

      for (const [what, course] of Object.entries(endings)) {
        it(`run nothing after the lease ${what}`, async () => {
          const { lease, guard, key } = await ended(course)
          const refusal = await caught(guard.run(setting.redis, set, [key], ['x']))
          expect(refusal).to.be.instanceOf(ErrNotHeld)
          expect(refusal).to.include({ lease, holder: 'a' })
          expect(await setting.redis.exists(key)).to.equal(0)
        })
      }

      it('of several terms demand all of them, and name the one that is gone', async () => {
        const guard = new RedisGuard()
        const names = ['one', 'two', 'three'].map((word) => unique(word))
        for (const lease of names) {
          const { fencingToken } = await grant(substrate, claim(lease, 'a', LASTING_MS))
          await substrate.trapdoor(lease, 'a', fencingToken)(guard)
        }
        expect(await guard.run(setting.redis, set, [own], ['x'])).to.equal('OK')
        await settle(substrate, await releaseOf(substrate, names[1] ?? '', 'a'))
        expect(await caught(guard.run(setting.redis, set, [own], ['y']))).to.include({
          lease: names[1],
          code: 'LEASE_NOT_HELD',
        })
        expect(await setting.redis.get(own)).to.equal('x')
      })

      it('of several holders of one lease demand the terms of all, so that one that is over is not forgotten', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        const { fencingToken } = await grant(substrate, claim(name, 'b', LASTING_MS))
        await substrate.trapdoor(name, 'b', fencingToken)(guard)
        expect(await caught(guard.run(setting.redis, set, [own], ['x']))).to.include({
          code: 'LEASE_NOT_HELD',
          holder: 'a',
        })
      })

      it('of one name on two servers, or in two databases, pass on neither', async () => {
        await using server = await startRedis()
        const elsewhere = [setting.connect({}, server.url), setting.connect({ db: 2 })]
        for (const redis of elsewhere) {
          const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
          await settle(substrate, await releaseOf(substrate, name, 'a'))
          const there = setting.substrate({ redis, namespace, listen: false })
          await there.trapdoor(name, 'a', (await grant(there, claim(name, 'a', LASTING_MS))).fencingToken)(guard)
          for (const connection of [redis, setting.redis]) {
            const refusals = [
              await caught(guard.run(connection, set, [own], ['x'])),
              await caught(guard.transaction(connection, (multi) => void multi.set(own, 'x'))),
            ]
            for (const refusal of refusals) expect(refusal.name).to.match(/^Err(NotHeld|Trapdoor)$/)
            expect(await connection.exists(own)).to.equal(0)
          }
        }
      })

      it('of two databases say so over a connection that does not say where it is', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        const there = setting.substrate({ redis: setting.connect({ db: 2 }), namespace, listen: false })
        await there.trapdoor(name, 'a', (await grant(there, claim(name, 'a', LASTING_MS))).fencingToken)(guard)
        const { redis } = setting
        const silent = { eval: redis.eval.bind(redis), evalsha: redis.evalsha.bind(redis) }
        const refusal = await caught(guard.run(silent, set, [own], ['x']))
        expect(refusal).to.be.instanceOf(ErrTrapdoor)
        expect(refusal.message).to.match(/databases 0 and 2/)
      })

      it('take the later term of the same lease and holder instead of the earlier one, and not the other way round', async () => {
        const first = await grant(substrate, claim(name, 'a', LASTING_MS))
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        const second = await grant(substrate, claim(name, 'a', LASTING_MS))
        const checkedBy = async (...terms: readonly Holding[]): Promise<RedisGuard> => {
          const guard = new RedisGuard()
          for (const { fencingToken } of terms) await substrate.trapdoor(name, 'a', fencingToken)(guard)
          return guard
        }
        expect(await (await checkedBy(first, second)).run(setting.redis, set, [own], ['x'])).to.equal('OK')
        const refusal = await caught((await checkedBy(second, first)).run(setting.redis, set, [own], ['y']))
        expect(refusal).to.be.instanceOf(ErrNotHeld)
        expect(await setting.redis.get(own)).to.equal('x')
      })

      it('checked again after a new claim look at the new term', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS))
        await substrate.trapdoor(name, 'a', fencingToken)(guard)
        expect(await guard.run(setting.redis, set, [own], ['x'])).to.equal('OK')
      })

      it('pass the error of the script on as it is, with its line, and what it wrote before stays', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
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
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        expect(await guard.run(setting.redis, `return 1 -- the end`)).to.equal(1)
        expect(
          await guard.run(setting.redis, `local function f() return ARGV[2] end return f()`, [], ['x', 'y']),
        ).to.equal('y')
        const many = Array.from({ length: 20_000 }, (_, index) => index)
        expect(await guard.run(setting.redis, 'return #ARGV', [], many)).to.equal(20_000)
        expect(await guard.run(setting.redis, '')).to.equal(null)
      })

      it('pass bytes through unharmed', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        const bytes = Buffer.from([0, 255, 10, 128])
        await guard.run(setting.redis, set, [own], [bytes])
        expect(await setting.redis.getBuffer(own)).to.deep.equal(bytes)
      })

      it('mind the keyPrefix of either connection', async () => {
        const prefixed = setting.connect({ keyPrefix: 'app:' })
        const inside = setting.substrate({ redis: prefixed })
        const { fencingToken } = await grant(inside, claim(name, 'a', LASTING_MS))
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
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        expect(await caught(guard.run(setting.redis, '#!lua\nreturn 1'))).to.be.instanceOf(ErrNotValid)
        expect(await caught(guard.run(setting.redis, 1 as unknown as string))).to.be.instanceOf(ErrNotValid)
      })
    })

    describe('for transactions', () => {
      const ways: Record<string, (term: Term) => Promise<void>> = {
        'watch()': ({ guard, connection }) => guard.watch(connection),
        'a connection as key': ({ lease, held, connection }) =>
          substrate.trapdoor(lease, held.holder, held.fencingToken)(connection),
      }
      let connection: Redis
      beforeEach(() => (connection = setting.connect({ retryStrategy: null })))

      for (const [way, watch] of Object.entries(ways)) {
        it(`${way}: looks at the lease after WATCH, for what was gone by then EXEC does not miss`, async () => {
          const term = await ended({})
          const sent: string[] = []
          const { connection } = term
          const send = connection.sendCommand.bind(connection)
          connection.sendCommand = (command, ...rest) => {
            sent.push(command.name)
            return send(command, ...rest)
          }
          await watch(term)
          expect(sent.slice(0, 2)).to.deep.equal(['watch', 'evalsha'])
        })

        it(`${way}: EXEC writes while nothing has changed`, async () => {
          const term = await ended({})
          await watch(term)
          expect(await term.connection.multi().set(term.key, 'x').exec()).to.deep.equal([[null, 'OK']])
        })

        for (const [what, course] of Object.entries(endings)) {
          it(`${way}: EXEC writes nothing after the lease ${what}`, async () => {
            const term = await live(course, async (opened) => {
              await watch(opened)
              await course.first?.(opened.lease)
              return opened
            })
            await course.next?.(term.lease)
            expect(await term.connection.multi().set(term.key, 'x').exec()).to.equal(null)
            expect(await setting.redis.exists(term.key)).to.equal(0)
          })

          it(`${way}: is refused when the lease already ${what}, and leaves the connection unwatched`, async () => {
            const term = await ended(course)
            expect(await caught(watch(term))).to.be.instanceOf(ErrNotHeld)
            await grant(substrate, claim(term.lease, 'c', LASTING_MS)).catch(() => {})
            expect(await term.connection.multi().set(term.key, 'x').exec()).to.deep.equal([[null, 'OK']])
          })
        }
      }

      for (const [what, course] of Object.entries(continuations)) {
        it(`transaction() writes, once, though the lease ${what} meanwhile`, async () => {
          const { results, bodies } = await transacted(course, (multi, key) => multi.incr(key))
          expect(await results).to.deep.equal([[null, 1]])
          expect(bodies()).to.be.within(1, 2)
        })
      }

      for (const [what, course] of Object.entries(endings)) {
        it(`transaction() writes nothing once the lease ${what}`, async () => {
          const { results, key } = await transacted(course, (multi, own) => multi.set(own, 'x'))
          expect(await caught(results)).to.be.instanceOf(ErrNotHeld)
          expect(await setting.redis.exists(key)).to.equal(0)
        })
      }

      it('transaction() passes on what its body throws, and leaves the connection unwatched', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        const refusal = await caught(
          guard.transaction(connection, () => {
            throw new Error('mine')
          }),
        )
        expect(refusal.message).to.equal('mine')
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        expect(await connection.multi().set(own, 'x').exec()).to.deep.equal([[null, 'OK']])
      })

      it('one transaction() at a time on a connection', async () => {
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        const first = guard.transaction(connection, (multi) => void multi.incr(own))
        expect(await caught(guard.transaction(connection, () => {}))).to.be.instanceOf(ErrTrapdoor)
        expect(await first).to.deep.equal([[null, 1]])
        expect(await guard.transaction(connection, (multi) => void multi.incr(own))).to.deep.equal([[null, 2]])
      })

      it('a connection that breaks between WATCH and EXEC writes nothing', async () => {
        await using proxy = await startProxy(setting.url)
        const url = proxy.url(setting.url)
        const held = await grant(substrate, claim(name, 'a', LASTING_MS))
        const guard = await guardOf(held)
        const breaking = setting.connect({ retryStrategy: null }, url)
        await guard.watch(breaking)
        proxy.cut()
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        expect(await caught(breaking.multi().set(own, 'x').exec())).to.be.instanceOf(Error)
        expect(await setting.redis.exists(own)).to.equal(0)
      })

      it('with `maxRetriesPerRequest: 0` a script whose answer is lost is not sent again, and rejects', async () => {
        await using proxy = await startProxy(setting.url)
        const guard = await guardOf(await grant(substrate, claim(name, 'a', LASTING_MS)))
        const cautious = setting.connect({ maxRetriesPerRequest: 0, retryStrategy: () => 1 }, proxy.url(setting.url))
        const increase = (): Promise<unknown> => guard.run(cautious, `return redis.call('INCR', KEYS[1])`, [own])
        expect(await increase()).to.equal(1)
        void proxy.cutAfterRequest(1, /evalsha/i)
        expect(await caught(increase())).to.be.instanceOf(Error)
        await until('it to be connected again', () => cautious.status === 'ready')
        expect(await cautious.get(own)).to.equal('2')
      })

      it('a connection that reconnects by itself is refused: it would write all the same', async () => {
        await using proxy = await startProxy(setting.url)
        const term = await ended({})
        const forgetful = setting.connect({ retryStrategy: () => 1 }, proxy.url(setting.url))
        for (const watch of Object.values(ways)) {
          expect(await caught(watch({ ...term, connection: forgetful }))).to.be.instanceOf(ErrTrapdoor)
        }
        await forgetful.watch(keyOf(term.lease))
        proxy.cut()
        await settle(substrate, await releaseOf(substrate, term.lease, 'a'))
        expect(await forgetful.multi().set(term.key, 'x').exec()).to.deep.equal([[null, 'OK']])
      })
    })
  })
}

describe('guards, on a server of their own', () => {
  it('work when the server has forgotten the script', async () => {
    await using server = await startRedis()
    await using setting = openSetting(server.url)
    const substrate = setting.substrate()
    const guard = new RedisGuard()
    const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
    await substrate.trapdoor('l', 'a', fencingToken)(guard)
    await guard.run(setting.redis, 'return 1')
    await setting.redis.script('FLUSH')
    expect(await guard.run(setting.redis, 'return 1')).to.equal(1)
  })
})

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
      const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
      const guard = new RedisGuard()
      await substrate.trapdoor('l', 'a', fencingToken)(guard)
      expect(await guard.run(cluster, `return redis.call('SET', KEYS[1], 'x')`, [`own:{${namespace}}`])).to.equal('OK')
      const error = await caught(guard.run(cluster, `return 1`, ['elsewhere-1', 'elsewhere-2']))
      expect(error.message).to.match(/need the hash tag of the namespace.*CROSSSLOT/)
      expect(error.cause).to.be.instanceOf(Error)
    })

    it('do not watch a Cluster', async () => {
      const { fencingToken } = await grant(substrate, claim('m', 'a', LASTING_MS))
      const guard = new RedisGuard()
      const trapdoor = substrate.trapdoor('m', 'a', fencingToken)
      await trapdoor(guard)
      for (const call of [trapdoor(cluster), guard.watch(cluster)]) {
        expect(await caught(call)).to.be.instanceOf(ErrTrapdoor)
      }
    })
  })
}
