import { expect } from 'chai'
import { CLIENT_LENGTH, LONGEST_DEADLINE_MS, type Call, type Op, type Verdict } from 'lease-core/adapter'
import { redisTargets, startRedis, until, type Redis as Server } from 'lease-servers'
import type { RedisSubstrate } from 'lease-redis'
import {
  claim,
  expire,
  extend,
  grant,
  newCall,
  noneUnheard,
  pin,
  readOne,
  release,
  settle,
  sleep,
  unique,
  unpin,
} from 'lease-scenes'
import { extendOf, LASTING_MS, openSetting, releaseOf, unpinOf, untilLapsed, type Setting } from './setting.ts'
import { startStallingProxy, type StallingProxy } from './stalling-proxy.ts'

noneUnheard()

for (const target of redisTargets('server')) {
  describe(`late requests, on ${target.name}`, () => {
    let setting: Setting
    let substrate: RedisSubstrate
    let name: string
    const namespace = unique('late')
    const base = `lease:{${namespace}}:`
    before(() => {
      setting = openSetting(target.url)
      substrate = setting.substrate({ namespace })
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => (name = unique('lease')))

    const now = (): Promise<number> => substrate.time(newCall())
    /** What a copy says that knows no time at which it was sent: only what it names identifies it. */
    const copyOf = async (): Promise<Partial<Call>> => ({ notAfterMs: (await now()) + LONGEST_DEADLINE_MS })
    const heldBy = async (lease: string = name): Promise<string | undefined> =>
      (await readOne(substrate, lease))?.holder
    async function outcomeOf(op: Op, more: Partial<Call> = {}): Promise<Verdict['outcome']> {
      const [verdict] = await substrate.apply([op], newCall(more))
      if (verdict?.outcome === 'unknown') throw verdict.cause
      return verdict?.outcome ?? expect.fail()
    }
    const vacate = async (lease: string = name, holder: string = 'a'): Promise<unknown> =>
      settle(substrate, await releaseOf(substrate, lease, holder))

    describe('a deadline', () => {
      it('that has passed stops every kind of operation, and the answer tells the time', async () => {
        const pinned = unique('pinned')
        const { fencingToken, nonce } = await grant(substrate, claim(name, 'a', LASTING_MS))
        await settle(substrate, pin(pinned, 'e', 'first'))
        const fresh = unique('lease')
        const ops = [
          extend(name, 'a', 2 * LASTING_MS, { fencingToken, value: 'v' }),
          claim(fresh, 'b', LASTING_MS),
          unpin(pinned, 'e', 'first'),
        ]
        const others = [release(name, 'a', { fencingToken, nonce }), pin(fresh, 'e'), expire(unique('lease'))]
        const before = await setting.redis.get(`${base}l:${name}`)
        const told: number[] = []
        const notAfterMs = await now()
        await until('the deadline', async () => (await now()) > notAfterMs)
        const call = newCall({ notAfterMs, answered: (ms) => told.push(ms) })
        for (const batch of [ops, others]) {
          const verdicts = await substrate.apply(batch, call)
          expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(Array(3).fill('late'))
        }
        expect(told.length).to.equal(2)
        expect(Math.min(...told)).to.be.greaterThan(notAfterMs)
        expect(await setting.redis.get(`${base}l:${name}`)).to.equal(before)
        expect(await readOne(substrate, fresh)).to.equal(undefined)
        expect([...(await substrate.pinned(newCall())).keys()]).to.deep.equal([pinned])
        await settle(substrate, unpin(pinned, 'e', 'first'))
      })

      it('that lies ahead stops nothing', async () => {
        const notAfterMs = (await now()) + LASTING_MS
        expect(await outcomeOf(claim(name, 'a', LASTING_MS), { notAfterMs })).to.equal('granted')
      })

      it('is never further away than what happened is remembered', async () => {
        const sentMs = (await now()) - LONGEST_DEADLINE_MS - 1
        const notAfterMs = sentMs + 10 * LONGEST_DEADLINE_MS
        expect(await outcomeOf(claim(name, 'a', LASTING_MS), { sentMs, notAfterMs })).to.equal('late')
        expect(await outcomeOf(claim(name, 'a', LASTING_MS), { sentMs })).to.equal('late')
      })
    })

    describe('a claim', () => {
      // In bulk, and one by one.
      const shapes = { plain: {}, valued: { value: 'v' }, waiting: { place: 0 }, announced: { announce: true } }
      for (const [shape, more] of Object.entries(shapes)) {
        it(`that is ${shape} opens no second term when its copy arrives after the release`, async () => {
          const op = claim(name, 'a', LASTING_MS, more)
          const copy = await copyOf()
          const { fencingToken, nonce } = await grant(substrate, op)
          await settle(substrate, release(name, 'a', { fencingToken, nonce }))
          expect(await outcomeOf(op, copy)).to.equal('late')
          expect(await heldBy()).to.equal(undefined)
          expect(await outcomeOf(claim(name, 'b', LASTING_MS))).to.equal('granted')
        })

        it(`that is ${shape} opens no term when another was opened and ended since it was sent`, async () => {
          const sentMs = await now()
          await grant(substrate, claim(name, 'a', LASTING_MS))
          await vacate()
          expect(await outcomeOf(claim(name, 'b', LASTING_MS, more), { sentMs })).to.equal('late')
          expect(await heldBy()).to.equal(undefined)
          const again = await now()
          expect(await outcomeOf(claim(name, 'b', LASTING_MS, more), { sentMs: again })).to.equal('granted')
        })
      }

      const endings: Record<string, (fencingToken: bigint, nonce: string) => Promise<unknown>> = {
        'is revoked by its token': (fencingToken) => settle(substrate, release(name, 'a', { fencingToken })),
        'is released by one that adopted it': async (fencingToken, from) => {
          const adopt = (nonce: string): Op =>
            extend(name, 'a', LASTING_MS, { fencingToken, adoption: { from, nonce } })
          await settle(substrate, adopt('adopter'))
          await settle(substrate, extend(name, 'a', 2 * LASTING_MS, { fencingToken, value: 'v' }))
          await settle(substrate, release(name, 'a', { fencingToken, nonce: 'adopter' }))
        },
        'is released by the second that adopted it': async (fencingToken, opener) => {
          const nonces = [opener, 'adopter', 'adopter-2'] as const
          for (const [index, from] of nonces.slice(0, -1).entries()) {
            const adoption = { from, nonce: nonces[index + 1] as string }
            await settle(substrate, extend(name, 'a', LASTING_MS, { fencingToken, adoption }))
          }
          await settle(substrate, release(name, 'a', { fencingToken, nonce: 'adopter-2' }))
        },
        'is ended by its nonce': (_, nonce) => settle(substrate, release(name, 'a', { nonce })),
        'is released in a batch with others': async (fencingToken, nonce) => {
          const other = unique('other')
          const held = await grant(substrate, claim(other, 'a', LASTING_MS))
          const batch = [
            release(other, 'a', held),
            release(name, 'a', { fencingToken, nonce }),
            expire(unique('vacant')),
          ]
          await substrate.apply(batch, newCall())
        },
        'is released while it is pinned': async () => {
          await settle(substrate, pin(name, 'e'))
          await vacate()
          await settle(substrate, await unpinOf(substrate, name, 'e'))
        },
      }
      for (const [ending, end] of Object.entries(endings)) {
        it(`opens no second term when its copy arrives after the first one ${ending}`, async () => {
          const [sentMs, copy] = [await now(), await copyOf()]
          const op = claim(name, 'a', LASTING_MS)
          const { fencingToken } = await grant(substrate, op)
          await end(fencingToken, op.nonce)
          expect(await heldBy()).to.equal(undefined)
          expect(await outcomeOf(op, copy)).to.equal('late')
          expect(await outcomeOf(claim(name, 'b', LASTING_MS), { sentMs })).to.equal('late')
        })
      }

      for (const [way, more] of Object.entries({ bulk: {}, 'one by one': { value: 'v' } })) {
        it(`of a brief lease opens no second term when its copy arrives after the lapse, ${way}`, async () => {
          const [sentMs, copy] = [await now(), await copyOf()]
          const op = claim(name, 'a', 1, more)
          await grant(substrate, op)
          await untilLapsed(setting.redis, `${base}l:${name}`)
          expect(await outcomeOf(op, copy)).to.equal('late')
          expect(await outcomeOf(claim(name, 'b', LASTING_MS), { sentMs })).to.equal('late')
          await settle(substrate, expire(name))
          expect(await outcomeOf(op, copy)).to.equal('late')
        })
      }

      it('opens no second term after a brief term of another has come and gone', async () => {
        const sentMs = await now()
        const op = claim(name, 'a', LASTING_MS)
        await grant(substrate, op)
        await vacate()
        await grant(substrate, claim(name, 'b', 1))
        await untilLapsed(setting.redis, `${base}l:${name}`)
        expect(await outcomeOf(op, { sentMs })).to.equal('late')
      })

      it('opens no second term after its pinned term has lapsed and lost its last pin', async () => {
        const op = claim(name, 'a', 1)
        const copy = await copyOf()
        await settle(substrate, pin(name, 'e', 'g'))
        await grant(substrate, op)
        await untilLapsed(setting.redis, `${base}l:${name}`)
        await settle(substrate, unpin(name, 'e', 'g'))
        expect(await heldBy()).to.equal(undefined)
        expect(await outcomeOf(op, copy)).to.equal('late')
      })

      it('finds its own term for as long as that stands, however late it is, and writes it once more', async () => {
        const changes = async (): Promise<number> =>
          Number(/rdb_changes_since_last_save:(\d+)/.exec(await setting.redis.info('persistence'))?.[1])
        const sentMs = await now()
        const op = claim(name, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, op)
        const before = await changes()
        const [verdict] = await substrate.apply([{ ...op, durationMs: 1 }], newCall({ sentMs }))
        expect(verdict?.holding).to.include({ fencingToken, nonce: op.nonce })
        expect(await changes()).to.be.greaterThan(before)
      })

      it('says nothing about one that was sent later, nor about other leases', async () => {
        await grant(substrate, claim(name, 'a', LASTING_MS))
        const sentMs = await now()
        await vacate()
        expect(await outcomeOf(claim(name, 'b', LASTING_MS), { sentMs })).to.equal('granted')
        expect(await outcomeOf(claim(unique('lease'), 'b', LASTING_MS), { sentMs })).to.equal('granted')
      })

      it('is remembered for as long as it may take, and no longer, and not at all once it is old', async () => {
        for (const way of ['alone', 'in bulk', 'one by one']) {
          name = unique('lease')
          const { fencingToken, nonce } = await grant(substrate, claim(name, 'a', LASTING_MS))
          if (way === 'one by one')
            await grant(substrate, await extendOf(substrate, name, 'a', LASTING_MS, { value: 'v' }))
          const beforeMs = await now()
          const call = way === 'in bulk' ? { client: 'b'.repeat(CLIENT_LENGTH) } : {}
          expect(await outcomeOf(release(name, 'a', { fencingToken, nonce }), call)).to.equal('granted')
          const leftMs = await setting.redis.pttl(`${base}o:${name}`)
          const passedMs = (await now()) - beforeMs
          expect(leftMs, way).to.be.at.most(LONGEST_DEADLINE_MS).and.not.equal(-1)
          if (passedMs < LONGEST_DEADLINE_MS) expect(leftMs, way).to.be.at.least(LONGEST_DEADLINE_MS - passedMs - 1)
        }
        const old = [unique('old'), unique('old')]
        const token = String(Math.floor(((await now()) - LONGEST_DEADLINE_MS) * 1000) - 1)
        const expiry = String(Math.floor((await now()) + LASTING_MS))
        for (const [index, lease] of old.entries()) {
          await setting.redis.set(`${base}l:${lease}`, `${token}|1|a|${expiry}|n|${index === 0 ? '' : '=v'}`)
          await settle(substrate, release(lease, 'a', index === 0 ? { fencingToken: BigInt(token) } : { nonce: 'n' }))
          expect(await setting.redis.exists(`${base}o:${lease}`, `${base}l:${lease}`)).to.equal(0)
        }
      })

      it('is not refused for what was remembered before the clock was set back', async () => {
        const sentMs = await now()
        const future = String(Math.floor((sentMs + 3_600_000) * 1000))
        await setting.redis.set(`${base}o:${name}`, `${future} other`)
        expect(await outcomeOf(claim(name, 'a', LASTING_MS, { nonce: 'other' }), { sentMs })).to.equal('late')
        expect(await outcomeOf(claim(name, 'a', LASTING_MS), { sentMs })).to.equal('granted')
      })

      it('is compared with the clock, not with a fencing token that is ahead of the clock', async () => {
        const counter = `${base}t`
        await setting.redis.set(counter, String(Math.floor(((await now()) + 3_600_000) * 1000)))
        try {
          for (const more of [{}, { value: 'v' }]) {
            name = unique('lease')
            const [earlyMs, copy] = [await now(), await copyOf()]
            const op = claim(name, 'a', LASTING_MS, more)
            const { fencingToken, nonce } = await grant(substrate, op)
            const sentMs = await now()
            const { ageMs = 0 } = (await readOne(substrate, name)) ?? {}
            expect(ageMs)
              .to.be.greaterThan(0)
              .and.at.most((await now()) - earlyMs)
            const extended = await grant(substrate, extend(name, 'a', 2 * LASTING_MS, { fencingToken }))
            expect(extended).to.include({ nonce: op.nonce, fencingToken })
            expect(extended.ageMs).to.be.at.least(ageMs)
            await settle(substrate, release(name, 'a', { fencingToken, nonce }))
            expect(await outcomeOf(op, copy)).to.equal('late')
            expect(await outcomeOf(claim(name, 'b', LASTING_MS), { sentMs: earlyMs })).to.equal('late')
            expect(await outcomeOf(claim(name, 'b', LASTING_MS), { sentMs })).to.equal('granted')
          }
        } finally {
          await setting.redis.del(counter)
        }
      })
    })

    describe('an extension', () => {
      it('that adopts replaces the nonce, and a release that was sent before ends nothing', async () => {
        const op = claim(name, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, op)
        const adoption = { from: op.nonce, nonce: unique('nonce') }
        const adopted = await grant(substrate, extend(name, 'a', LASTING_MS, { fencingToken, adoption }))
        expect(adopted).to.include({ fencingToken, nonce: adoption.nonce })
        for (const named of [{ fencingToken, nonce: op.nonce }, { nonce: op.nonce }]) {
          const { outcome, holding } = await settle(substrate, release(name, 'a', named))
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ fencingToken, nonce: adoption.nonce })
        }
        // What was sent by the one who has adopted may be repeated.
        expect(await outcomeOf(extend(name, 'a', LASTING_MS, { fencingToken, adoption }))).to.equal('granted')
        expect(await outcomeOf(claim(name, 'a', LASTING_MS, { nonce: op.nonce }))).to.equal('refused')
      })

      it('that adopts does nothing when its copy arrives after another adoption', async () => {
        const op = claim(name, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, op)
        const first = { from: op.nonce, nonce: unique('first') }
        const second = { from: first.nonce, nonce: unique('second') }
        for (const adoption of [first, second]) {
          await grant(substrate, extend(name, 'a', LASTING_MS, { fencingToken, adoption }))
        }
        expect(await outcomeOf(extend(name, 'a', LASTING_MS, { fencingToken, adoption: first }))).to.equal('refused')
        const none = { from: undefined, nonce: unique('none') }
        expect(await outcomeOf(extend(name, 'a', LASTING_MS, { fencingToken, adoption: none }))).to.equal('refused')
        expect(await readOne(substrate, name)).to.have.property('nonce', second.nonce)
      })

      it('that adopts nothing keeps the nonce, with a value and without', async () => {
        const op = claim(name, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, op)
        for (const more of [{}, { value: 'v' }, {}, { value: 'w' }]) {
          const held = await grant(substrate, extend(name, 'a', 2 * LASTING_MS, { fencingToken, ...more }))
          expect(held.nonce).to.equal(op.nonce)
          expect(await readOne(substrate, name)).to.have.property('nonce', op.nonce)
        }
        expect(await outcomeOf(release(name, 'a', { fencingToken, nonce: op.nonce }))).to.equal('granted')
      })

      it('of an earlier term is refused', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS))
        await vacate()
        const next = await grant(substrate, claim(name, 'a', LASTING_MS))
        for (const more of [{}, { value: 'v' }, { adoption: { from: next.nonce, nonce: 'x' } }]) {
          expect(await outcomeOf(extend(name, 'a', LASTING_MS, { fencingToken, ...more }))).to.equal('refused')
        }
        expect(await readOne(substrate, name)).to.include({ nonce: next.nonce, value: undefined })
      })

      it('does not bring back the value that a later one has replaced', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS, { value: 'first' }))
        const sentMs = await now()
        const older = extend(name, 'a', LASTING_MS, { fencingToken, value: 'older' })
        for (const value of ['first', 'newer']) {
          await grant(substrate, extend(name, 'a', LASTING_MS, { fencingToken, value }))
          expect(await outcomeOf(older, { sentMs })).to.equal('late')
          expect(await readOne(substrate, name)).to.have.property('value', value)
        }
        expect(await outcomeOf(older, { sentMs: await now() })).to.equal('granted')
      })

      it('is not undone by the copy of the claim, whose value was another', async () => {
        const op = claim(name, 'a', LASTING_MS, { value: 'first' })
        const { fencingToken } = await grant(substrate, op)
        await grant(substrate, extend(name, 'a', LASTING_MS, { fencingToken, value: 'newer' }))
        expect(await grant(substrate, op)).to.have.property('value', 'newer')
      })
    })

    describe('a release', () => {
      it('ends no later term of its holder', async () => {
        const first = claim(name, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, first)
        const op = release(name, 'a', { fencingToken, nonce: first.nonce })
        expect(await outcomeOf(op)).to.equal('granted')
        const next = await grant(substrate, claim(name, 'a', LASTING_MS))
        for (const named of [op, release(name, 'a', { fencingToken }), release(name, 'a', { nonce: first.nonce })]) {
          expect(await outcomeOf(named)).to.equal('refused')
        }
        expect(await readOne(substrate, name)).to.have.property('fencingToken', next.fencingToken)
      })

      it('that names nothing ends nothing', async () => {
        await grant(substrate, claim(name, 'a', LASTING_MS))
        expect(await outcomeOf(release(name, 'a'))).to.equal('refused')
      })
    })

    describe('a pin', () => {
      const pins = async (): Promise<Record<string, string>> =>
        Object.fromEntries((await substrate.pinned(newCall(), [name])).get(name) ?? [])
      afterEach(async () => {
        for (const entity of Object.keys(await pins())) await settle(substrate, await unpinOf(substrate, name, entity))
      })

      it('that was withdrawn is not set again by its copy, nor by one that was sent before the withdrawal', async () => {
        for (const others of [[], ['f']]) {
          for (const other of others) await settle(substrate, pin(name, other, 'of-f'))
          const [sentMs, copy] = [await now(), await copyOf()]
          const op = pin(name, 'e', unique('generation'))
          await settle(substrate, op)
          await settle(substrate, unpin(name, 'e', op.generation))
          expect(await outcomeOf(op, copy)).to.equal('late')
          expect(await outcomeOf(pin(name, 'e'), { sentMs })).to.equal('late')
          expect(await outcomeOf(pin(name, 'g'), { sentMs })).to.equal('late')
          expect(Object.keys(await pins())).to.deep.equal(others)
          expect(await outcomeOf(pin(name, 'e', 'later'), { sentMs: await now() })).to.equal('granted')
          await settle(substrate, unpin(name, 'e', 'later'))
        }
      })

      it('that was withdrawn before it arrived is not set', async () => {
        const [sentMs, copy] = [await now(), await copyOf()]
        const op = pin(name, 'e')
        expect(await outcomeOf(unpin(name, 'e', op.generation))).to.equal('granted')
        expect(await outcomeOf(op, copy)).to.equal('late')
        expect(await outcomeOf(pin(name, 'e'), { sentMs })).to.equal('late')
        expect(await pins()).to.deep.equal({})
        expect(await setting.redis.pttl(`${base}u:${name}`))
          .to.be.at.most(LONGEST_DEADLINE_MS)
          .and.not.equal(-1)
      })

      it('is replaced by a newer one of its entity, which its copy does not undo', async () => {
        const sentMs = await now()
        for (const generation of ['first', 'second']) await settle(substrate, pin(name, 'e', generation))
        expect(await outcomeOf(pin(name, 'e', 'first'), { sentMs })).to.equal('late')
        expect(await pins()).to.deep.equal({ e: 'second' })
        expect(await outcomeOf(pin(name, 'e', 'second'), { sentMs })).to.equal('granted')
        expect(await outcomeOf(pin(name, 'f', 'other'), { sentMs })).to.equal('granted')
        expect(await pins()).to.deep.equal({ e: 'second', f: 'other' })
      })

      it('is withdrawn only by its generation', async () => {
        await settle(substrate, pin(name, 'e', 'first'))
        await settle(substrate, pin(name, 'e', 'second'))
        const { outcome } = await settle(substrate, unpin(name, 'e', 'first'))
        expect(outcome).to.equal('granted')
        expect(await pins()).to.deep.equal({ e: 'second' })
        await settle(substrate, unpin(name, 'e', 'second'))
        expect(await pins()).to.deep.equal({})
      })
    })

    it('copies of every request that arrive at any moment change nothing', async () => {
      const others = [setting.connect(), setting.connect()].map((redis) => setting.substrate({ namespace, redis }))
      const copies = new Set<Promise<unknown>>()
      /** What one process does with a lease that nobody else wants; each step is known to be done before the next. */
      const worker = async (lease: string): Promise<void> => {
        /** What came too late is made anew, as core does: a copy of something else may have come before it. */
        const send = async <T extends Op>(make: () => T): Promise<T> => {
          const op = make()
          const call = newCall({ sentMs: await now() })
          const [verdict = expect.fail()] = await substrate.apply([op], call)
          for (const other of others) {
            const copy = sleep(Math.random() * 6).then(() => other.apply([op], call))
            copies.add(copy)
            void copy.finally(() => copies.delete(copy))
          }
          if (verdict.outcome === 'late') return send(make)
          expect(verdict.outcome, op.kind).to.equal('granted')
          return op
        }
        const stored = async (): Promise<unknown> => {
          const [holding, pins] = [await readOne(substrate, lease), await substrate.pinned(newCall(), [lease])]
          const { fencingToken, nonce, value } = holding ?? {}
          return { fencingToken, nonce, value, pins: Object.fromEntries(pins.get(lease) ?? []) }
        }
        const vacant = { fencingToken: undefined, nonce: undefined, value: undefined, pins: {} }
        for (let round = 0; round < 25; round++) {
          const op = await send(() => claim(lease, 'a', LASTING_MS, round % 2 === 0 ? {} : { value: 'v' }))
          const { fencingToken = 0n } = (await readOne(substrate, lease)) ?? {}
          const term = { ...vacant, fencingToken, nonce: op.nonce, value: op.value }
          expect(await stored()).to.deep.equal(term)
          const adopted = { ...term, nonce: unique('nonce'), value: 'newer' }
          for (const value of ['older', 'newer']) {
            await send(() => extend(lease, 'a', LASTING_MS, { fencingToken, value }))
          }
          const adoption = { from: op.nonce, nonce: adopted.nonce }
          await send(() => extend(lease, 'a', LASTING_MS, { fencingToken, adoption }))
          expect(await stored()).to.deep.equal(adopted)
          for (let pins = 0; pins < 2; pins++) {
            const { generation } = await send(() => pin(lease, 'e'))
            expect(await stored()).to.deep.equal({ ...adopted, pins: { e: generation } })
            if (round % 3 === 0 && pins === 0) continue // the second one replaces the first one
            await send(() => unpin(lease, 'e', generation))
            expect(await stored()).to.deep.equal(adopted)
          }
          await send(() => release(lease, 'a', { fencingToken, nonce: adopted.nonce }))
          expect(await stored()).to.deep.equal(vacant)
        }
        await Promise.all(copies)
        expect(await stored()).to.deep.equal(vacant)
      }
      await Promise.all(Array.from({ length: 4 }, () => worker(unique('lease'))))
    })
  })
}

describe('a driver that sends twice', () => {
  let server: Server
  let setting: Setting
  before(async () => {
    server = await startRedis({})
    setting = openSetting(server.url)
  })
  after(async () => {
    await setting[Symbol.asyncDispose]()
    await server.stop()
  })

  const namespace = 'twice'
  let direct: RedisSubstrate
  let name: string
  beforeEach(() => {
    direct = setting.substrate({ namespace })
    name = unique('lease')
  })

  const scripts = async (): Promise<number> =>
    Number(/cmdstat_evalsha:calls=(\d+)/.exec(await setting.redis.info('commandstats'))?.[1])

  /**
   * Sends the operation over a connection that stands still. ioredis gives this connection up after its `socketTimeout`, and
   * sends the operation once more on a new one. When that is answered and `then` is done, the first copy arrives.
   */
  async function sentTwice(
    send: (substrate: RedisSubstrate, call: Call) => Promise<unknown>,
    then: () => Promise<unknown>,
  ): Promise<void> {
    await using proxy: StallingProxy = await startStallingProxy(server.url)
    const redis = setting.connect({ retryStrategy: () => 1, maxRetriesPerRequest: null }, proxy.url)
    const substrate = setting.substrate({ redis, namespace, listen: false })
    const sentMs = await substrate.time(newCall())
    proxy.stall()
    redis.options.socketTimeout = 200
    redis.once('close', () => delete redis.options.socketTimeout) // the new one may answer as late as it likes
    await send(substrate, newCall({ sentMs, notAfterMs: sentMs + LONGEST_DEADLINE_MS }))
    await then()
    const before = await scripts()
    proxy.deliver()
    await until('the first copy to be executed', async () => (await scripts()) > before)
  }
  const sends =
    (op: Op, outcome: Verdict['outcome'] = 'granted') =>
    async (substrate: RedisSubstrate, call: Call): Promise<void> => {
      expect((await substrate.apply([op], call)).map((verdict) => verdict.outcome)).to.deep.equal([outcome])
    }
  const vacate = async (): Promise<unknown> => settle(direct, await releaseOf(direct, name, 'a'))

  for (const [shape, more] of Object.entries({ plain: {}, valued: { value: 'v' } })) {
    it(`opens no second term by a ${shape} claim that arrives after the release`, async () => {
      await sentTwice(sends(claim(name, 'a', LASTING_MS, more)), vacate)
      expect(await readOne(direct, name)).to.equal(undefined)
    })
  }

  it('opens no second term by a claim that arrives after the lapse of a brief lease', async () => {
    await sentTwice(sends(claim(name, 'a', 1)), () => untilLapsed(setting.redis, `lease:{${namespace}}:l:${name}`))
    expect(await readOne(direct, name)).to.equal(undefined)
  })

  it('takes no room by the claim of a share that arrives after the release, and defines nothing again', async () => {
    const share = { weight: 2, capacity: 2, passing: 0, lapsed: new Map<string, string>() }
    const op = claim(`${name}#a`, 'a', LASTING_MS, { share })
    await sentTwice(sends(op), async () => {
      await settle(direct, await releaseOf(direct, op.lease, 'a'))
      await settle(direct, {
        kind: 'define',
        lease: `${name}#`,
        capacity: undefined,
        from: op.nonce,
        generation: 'none',
      })
    })
    expect(await readOne(direct, op.lease)).to.equal(undefined)
    const { capacity, shares } = await direct.counted(`${name}#`, newCall())
    expect([capacity, shares.size]).to.deep.equal([undefined, 0])
  })

  it('does not bring a definition back that arrives after the next', async () => {
    const op = (capacity: number, from: string | undefined, generation: string): Op => {
      return { kind: 'define', lease: `${name}#`, capacity, from, generation }
    }
    await sentTwice(sends(op(2, undefined, 'first')), () => settle(direct, op(3, 'first', 'second')))
    expect(await direct.counted(`${name}#`, newCall())).to.include({ capacity: 3, generation: 'second' })
  })

  it('ends no later term by a release', async () => {
    const op = claim(name, 'a', LASTING_MS)
    const { fencingToken } = await grant(direct, op)
    const again = claim(name, 'a', LASTING_MS)
    await sentTwice(sends(release(name, 'a', { fencingToken, nonce: op.nonce })), () => grant(direct, again))
    expect(await readOne(direct, name)).to.include({ holder: 'a', nonce: again.nonce })
  })

  it('takes no term back by an adoption that arrives after another', async () => {
    const op = claim(name, 'a', LASTING_MS)
    const { fencingToken } = await grant(direct, op)
    const [first, second] = [
      { from: op.nonce, nonce: 'first' },
      { from: 'first', nonce: 'second' },
    ]
    const adopt = (adoption: typeof first): Op => extend(name, 'a', LASTING_MS, { fencingToken, adoption })
    await sentTwice(sends(adopt(first)), () => grant(direct, adopt(second)))
    expect(await readOne(direct, name)).to.include({ fencingToken, nonce: 'second' })
  })

  it('brings no value back by an extension that arrives after a later one', async () => {
    const { fencingToken } = await grant(direct, claim(name, 'a', LASTING_MS))
    const set = (value: string): Op => extend(name, 'a', LASTING_MS, { fencingToken, value })
    await sentTwice(sends(set('older')), () => grant(direct, set('newer')))
    expect(await readOne(direct, name)).to.have.property('value', 'newer')
  })

  it('sets no pin again that was withdrawn', async () => {
    await sentTwice(sends(pin(name, 'e', 'g')), () => settle(direct, unpin(name, 'e', 'g')))
    expect((await direct.pinned(newCall())).has(name)).to.equal(false)
  })

  it('withdraws no later pin', async () => {
    await settle(direct, pin(name, 'e', 'first'))
    await sentTwice(sends(unpin(name, 'e', 'first')), () => settle(direct, pin(name, 'e', 'second')))
    expect((await direct.pinned(newCall())).get(name)).to.deep.equal(new Map([['e', 'second']]))
  })
})
