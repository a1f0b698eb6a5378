/** Shares of counted leases: beyond what the conformance kit asks, what only Redis can show. */
import { connect } from 'node:net'
import { expect } from 'chai'
import type { Redis } from 'ioredis'
import type { LeaseChange, ShareRequest } from 'lease-core'
import {
  DEFINITION_MS,
  LONGEST_DEADLINE_MS,
  type Call,
  type ClaimOp,
  type DefineOp,
  type Op,
  type Verdict,
} from 'lease-core/adapter'
import type { RedisSubstrate } from 'lease-redis'
import {
  caught,
  claim,
  expire,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  sleep,
  unique,
  unpin,
} from 'lease-scenes'
import { redisTargets, until } from 'lease-servers'
import { documentedRights } from './rights.ts'
import { LASTING_MS, openSetting, releaseOf, unpinOf, untilLapsed, type Setting } from './setting.ts'

interface ShareOptions extends Partial<ShareRequest>, Partial<Pick<ClaimOp, 'place' | 'value' | 'nonce'>> {
  readonly durationMs?: number
  readonly passing?: number
}

for (const target of redisTargets('server')) {
  describe(`shares, on ${target.name}`, () => {
    let setting: Setting
    let namespace: string
    let base: string
    let counted: string
    let substrate: RedisSubstrate
    let redis: Redis
    before(() => {
      setting = openSetting(target.url)
      redis = setting.redis
    })
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      namespace = unique('shares')
      base = `lease:{${namespace}}:`
      counted = `${unique('counted')}#`
      substrate = setting.substrate({ namespace })
    })

    const share = (holder: string, options: ShareOptions = {}): ClaimOp => {
      const { weight = 1, capacity = 3, durationMs = LASTING_MS, passing = 0, ...more } = options
      const request = { weight, capacity: 'capacity' in options ? options.capacity : capacity }
      return claim(counted + holder, holder, durationMs, {
        share: { ...request, passing, lapsed: new Map() },
        ...more,
      })
    }
    const define = (
      capacity: number | undefined,
      from?: string,
      generation: string = unique('generation'),
    ): DefineOp => ({
      kind: 'define',
      lease: counted,
      capacity,
      from,
      generation,
    })
    const outcomeOf = async (op: Op, more: Partial<Call> = {}): Promise<Verdict['outcome']> => {
      const [verdict] = await substrate.apply([op], newCall(more))
      if (verdict?.outcome === 'unknown') throw verdict.cause
      return verdict?.outcome ?? expect.fail()
    }
    const end = async (holder: string): Promise<Verdict> =>
      settle(substrate, await releaseOf(substrate, counted + holder, holder))
    const entries = (set: 's' | 'h'): Promise<string[]> => redis.zrange(`${base}${set}:${counted}`, 0, '-1')
    const boundOf = async (holder: string): Promise<number> => Number(await redis.zscore(`${base}s:${counted}`, holder))
    /** As if the share had been granted for so long that its bound has passed by now. */
    const passBound = (holder: string, bound = 1): Promise<unknown> => redis.zadd(`${base}s:${counted}`, bound, holder)
    const expiryOf = async (holder: string): Promise<number> =>
      Number((await redis.get(`${base}l:${counted}${holder}`))?.split('|')[3])
    const sharesNow = async (): Promise<string[]> =>
      [...(await substrate.counted(counted, newCall())).shares.keys()]
        .map((name) => name.slice(counted.length))
        .toSorted()

    /** The commands with keys that scripts run in this namespace at that time; other tests are at the same server. */
    async function commandsOf(body: () => Promise<unknown>): Promise<string[]> {
      // By hand: the driver's own monitor is confused by the commands of others that come while it is set up.
      const { host, port } = redis.options
      const monitor = connect(Number(port), String(host))
      let seen = ''
      monitor.setEncoding('utf8').on('data', (text: string) => (seen += text))
      monitor.write('MONITOR\r\n')
      await until('the monitor', () => seen.startsWith('+OK'))
      await body()
      await redis.get(`${base}end`)
      await until('the end of the commands', () => seen.includes(`${base}end`))
      monitor.destroy()
      const commands = seen.split('\r\n').flatMap((line) => {
        const [, source, words = ''] = /^\+[\d.]+ \[\d+ ([^\]]+)\] (.*)$/.exec(line) ?? []
        const args = Array.from(words.matchAll(/"((?:[^"\\]|\\.)*)"/g), ([, word = '']) => word)
        return source === 'lua' && words.includes(base) ? [args.slice(0, 2).join(' ').replace(base, '')] : []
      })
      // One claim in eight looks after the index as well.
      return commands.filter((command) => !/^(SELECT|SSCAN|EXISTS l:)/.test(command))
    }

    async function listener(): Promise<{ readonly call: () => Call; readonly told: LeaseChange[] }> {
      const name = Math.random().toString(36).slice(2).padEnd(12, '0').slice(0, 12)
      const told: LeaseChange[] = []
      setting.substrate({ namespace }).watch?.((change) => told.push(change), name)
      await until('a client that listens', () => told.length > 0)
      told.length = 0
      return { call: () => newCall({ client: name }), told }
    }

    describe('how they are stored', () => {
      it('as the page says: a key each, by its bound, and the heavier ones by weight', async () => {
        await grant(substrate, share('a', { nonce: 'nonce-a' }))
        const { fencingToken } = await grant(substrate, share('b', { weight: 2, nonce: 'nonce-b', value: 'v' }))
        expect(await redis.get(`${base}k:${counted}`)).to.equal('3 nonce-a')
        expect(await entries('s')).to.deep.equal(['a', 'b'])
        expect(await boundOf('b')).to.equal(await expiryOf('b'))
        expect(await redis.zrange(`${base}h:${counted}`, 0, '-1', 'WITHSCORES')).to.deep.equal(['b', '2'])
        expect(await redis.get(`${base}l:${counted}a`)).to.match(/^\d+\|1\|a\|\d+\|nonce-a\|$/)
        expect(await redis.get(`${base}l:${counted}b`)).to.match(
          new RegExp(`^${fencingToken}\\|1\\|b\\|\\d+\\|nonce-b \\d+ 0 nonce-b 2\\|=v$`),
        )
      })

      it('keep their weight and what is remembered of them through adoptions and values', async () => {
        const op = share('a', { weight: 3 })
        const { fencingToken, ageMs = 0 } = await grant(substrate, op)
        expect(ageMs).to.be.within(0, LASTING_MS)
        const adoption = { from: op.nonce, nonce: 'adopter' }
        for (const more of [{ adoption }, { value: 'v' }, { value: 'w' }]) {
          const extended = await grant(substrate, extend(op.lease, 'a', LASTING_MS, { fencingToken, ...more }))
          expect(extended).to.include({ weight: 3, nonce: 'adopter', fencingToken })
        }
        expect(await readOne(substrate, op.lease)).to.include({ weight: 3, value: 'w' })
        expect((await substrate.read(undefined, newCall())).get(op.lease)).to.include({ weight: 3 })
        expect(await outcomeOf(share('b'))).to.equal('refused')
        await end('a')
        expect(await outcomeOf({ ...op, nonce: op.nonce })).to.equal('late')
        expect(await outcomeOf(share('b'))).to.equal('granted')
      })

      it('leave nothing behind but the definition by use, which is forgotten a day after the last grant', async () => {
        await grant(substrate, share('a', { durationMs: 1 }))
        expect(await redis.pttl(`${base}k:${counted}`)).to.be.within(DEFINITION_MS - LASTING_MS, DEFINITION_MS + 1)
        await grant(substrate, share('b', { weight: 2, durationMs: LASTING_MS }))
        expect(await redis.pttl(`${base}k:${counted}`)).to.be.within(DEFINITION_MS, DEFINITION_MS + LASTING_MS)
        await end('b')
        await untilLapsedShare('a')
        await settle(substrate, expire(`${counted}a`))
        const left = (await redis.keys(`${base}*`)).map((key) => key.slice(base.length).split(':')[0])
        expect(new Set(left)).to.deep.equal(new Set(['f', 'k', 'o', 't', 'v']))
        for (const key of await redis.keys(`${base}[fo]:*`)) {
          expect(await redis.pttl(key)).to.be.within(1, LONGEST_DEADLINE_MS)
        }
      })

      it('a definition that was given is kept for ever, also over one by use', async () => {
        const op = share('a')
        await grant(substrate, op)
        await settle(substrate, define(5, op.nonce, 'g'))
        await grant(substrate, share('b', { capacity: undefined }))
        expect(await redis.pttl(`${base}k:${counted}`)).to.equal(-1)
        expect(await redis.get(`${base}k:${counted}`)).to.equal('5 g')
      })

      it('those that lapse while others claim other leases leave neither the index nor the sets larger', async () => {
        await settle(substrate, define(100))
        const brief = Array.from({ length: 20 }, (_, index) =>
          share(`h${index}`, { durationMs: 1, capacity: undefined }),
        )
        await substrate.apply(brief, newCall())
        await until('claims that look after the index', async () => {
          const other = unique('other')
          await settle(substrate, release(other, 'a', await grant(substrate, claim(other, 'a', LASTING_MS))))
          return (await entries('s')).length === 0
        })
      })

      it('those that lapsed are taken out by a read of the whole namespace', async () => {
        await grant(substrate, share('a', { durationMs: 1, weight: 2 }))
        await untilLapsedShare('a')
        await substrate.read(undefined, newCall())
        expect([...(await entries('s')), ...(await entries('h'))]).to.deep.equal([])
      })
    })

    async function untilLapsedShare(holder: string): Promise<void> {
      await until('its lapse', async () => (await redis.exists(`${base}l:${counted}${holder}`)) === 0)
    }

    describe('bounds', () => {
      it('that have passed are moved to where an extension has moved the expiry, and the share counts on', async () => {
        for (const holder of ['a', 'b', 'c']) await grant(substrate, share(holder))
        const { fencingToken } = (await readOne(substrate, `${counted}a`)) ?? expect.fail()
        await grant(substrate, extend(`${counted}a`, 'a', 2 * LASTING_MS, { fencingToken }))
        await passBound('a')
        expect(await outcomeOf(share('d'))).to.equal('refused')
        expect(await boundOf('a')).to.equal(await expiryOf('a'))
      })

      it('of a pinned share that has lapsed are moved on, and the last unpin frees what it took', async () => {
        await settle(substrate, pin(`${counted}a`, 'e'))
        await grant(substrate, share('a', { weight: 3, durationMs: 1 }))
        await untilLapsed(redis, `${base}l:${counted}a`)
        const nowMs = await substrate.time(newCall())
        expect(await outcomeOf(share('b'))).to.equal('refused')
        expect(await boundOf('a')).to.be.greaterThan(nowMs)
        await settle(substrate, await unpinOf(substrate, `${counted}a`, 'e'))
        expect([...(await entries('s')), ...(await entries('h'))]).to.deep.equal([])
        expect(await outcomeOf(share('b', { weight: 3 }))).to.equal('granted')
      })

      it('of a share that is unpinned before it lapses are those of its expiry', async () => {
        await grant(substrate, share('a'))
        await settle(substrate, pin(`${counted}a`, 'e', 'g'))
        await passBound('a')
        await outcomeOf(share('b'))
        await settle(substrate, unpin(`${counted}a`, 'e', 'g'))
        expect(await boundOf('a')).to.equal(await expiryOf('a'))
      })

      it('whose share is gone are taken out once they have passed, and count until then', async () => {
        await settle(substrate, define(2))
        await redis.zadd(`${base}s:${counted}`, Date.now() + LASTING_MS, 'future', 1, 'past')
        await redis.zadd(`${base}h:${counted}`, 2, 'past')
        expect(await outcomeOf(share('a', { capacity: undefined, weight: 2 }))).to.equal('granted')
        expect(await entries('s')).to.deep.equal(['a'])
        expect(await entries('h')).to.deep.equal(['a'])
      })

      it('a share that nobody can read counts, and others are still granted', async () => {
        await settle(substrate, define(2))
        await redis.set(`${base}l:${counted}text`, 'some text')
        await redis.rpush(`${base}l:${counted}list`, 'x')
        await redis.zadd(`${base}s:${counted}`, 1, 'text')
        expect(await outcomeOf(share('a', { capacity: undefined }))).to.equal('granted')
        await redis.zadd(`${base}s:${counted}`, 1, 'list')
        expect(await outcomeOf(share('b', { capacity: undefined }))).to.equal('refused')
        expect(await sharesNow()).to.deep.equal(['a'])
      })

      it('a refusal shows the share that lapses first, however their extensions have changed that', async () => {
        await settle(substrate, define(5))
        const durations = { a: 10_000, b: 20_000, c: 30_000, d: 40_000, e: 50_000 }
        for (const [holder, durationMs] of Object.entries(durations)) {
          await grant(substrate, share(holder, { capacity: undefined, durationMs }))
        }
        for (const holder of ['a', 'b', 'd']) {
          const { fencingToken } = (await readOne(substrate, counted + holder)) ?? expect.fail()
          await grant(substrate, extend(counted + holder, holder, LASTING_MS, { fencingToken }))
        }
        const shown = async (): Promise<string[]> => {
          const { counted: info } = await settle(substrate, share('f', { capacity: undefined }))
          return [...(info?.shares.keys() ?? [])].map((name) => name.slice(counted.length))
        }
        expect(await shown()).to.deep.equal(['c'])
        for (const holder of ['a', 'b']) expect(await boundOf(holder), holder).to.equal(await expiryOf(holder))
        await settle(substrate, pin(`${counted}c`, 'e'))
        expect(await shown(), 'with a pinned one').to.deep.equal(['e'])
        for (const holder of ['a', 'b', 'd', 'e']) await end(holder)
        await settle(substrate, define(1, (await substrate.counted(counted, newCall())).generation))
        expect(await shown(), 'where all are pinned').to.deep.equal(['c'])
        const { counted: info } = await settle(substrate, share('f', { capacity: undefined }))
        expect(info?.shares.get(`${counted}c`)).to.include({ pinned: true, weight: 1 })
      })

      it('more than one run can look at keep no answer from anybody while all are pinned', async () => {
        const capacity = 2_100
        const holders = Array.from({ length: capacity }, (_, index) => `h${index}`)
        for (let from = 0; from < capacity; from += 100) {
          const some = holders.slice(from, from + 100)
          for (const ops of [
            some.map((holder) => share(holder, { capacity })),
            some.map((holder) => pin(counted + holder, 'e')),
          ]) {
            const verdicts = await substrate.apply(ops, newCall())
            expect(new Set(verdicts.map(({ outcome }) => outcome))).to.deep.equal(new Set(['granted']))
          }
        }
        const [verdict] = await substrate.apply([share('late', { capacity })], newCall())
        expect(verdict?.outcome).to.equal('refused')
        expect([...(verdict?.counted?.shares.values() ?? [])].map(({ pinned }) => pinned)).to.deep.equal([true])
        expect(await outcomeOf(define(capacity + 1, 'not the one'))).to.equal('refused')
      })

      it('more than one run can look at are looked at in several', async () => {
        await settle(substrate, define(5_000))
        const ghosts = Array.from({ length: 4_500 }, (_, index) => [index + 1, `g${index}`]).flat()
        await redis.zadd(`${base}s:${counted}`, ...ghosts)
        const op = share('a', { capacity: undefined, weight: 1_000 })
        expect(await outcomeOf(op)).to.equal('contended')
        expect(await outcomeOf(op)).to.equal('contended')
        expect(await outcomeOf(op)).to.equal('granted')
        expect(await entries('s')).to.deep.equal(['a'])
      })
    })

    describe('thousands', () => {
      it('are counted without being read, whatever they weigh', async () => {
        await settle(substrate, define(2 ** 30))
        const commands: string[][] = []
        for (const count of [0, 1_000]) {
          for (let from = 0; from < count; from += 100) {
            const batch = Array.from({ length: 100 }, (_, index) =>
              share(`h${from + index}`, { capacity: undefined, weight: 1 + (index % 3) }),
            )
            expect((await substrate.apply(batch, newCall())).every(({ outcome }) => outcome === 'granted')).to.equal(
              true,
            )
          }
          const rest = 2 ** 30 - (count / 100) * 199 - 1
          const big = (weight: number): ClaimOp => share('big', { capacity: undefined, weight })
          commands.push(
            await commandsOf(async () => grant(substrate, share(`one-${count}`, { capacity: undefined }))),
            await commandsOf(async () => expect(await outcomeOf(big(rest + 1))).to.equal('refused')),
          )
          await grant(substrate, big(rest))
          await end('big')
          commands.push(await commandsOf(async () => end(`one-${count}`)))
        }
        const [claimed = [], , released = [], claimedOfMany = [], , releasedOfMany = []] = commands
        expect(claimedOfMany.length - claimed.length).to.be.at.most(4)
        expect(releasedOfMany).to.have.length(released.length)
        for (const each of commands) expect(each.length).to.be.below(25)
        const { shares } = await substrate.counted(counted, newCall())
        expect(shares.size).to.equal(1_000)
        const weights = [...shares.values()].reduce((sum, { weight = 0 }) => sum + weight, 0)
        expect(weights).to.equal(1_990)
      })

      it('in one batch are granted up to the capacity, and their releases in another notify the queue once', async () => {
        await settle(substrate, define(50))
        const claims = Array.from({ length: 120 }, (_, index) => share(`h${index}`, { capacity: undefined }))
        const verdicts = await substrate.apply(claims, newCall())
        expect(verdicts.filter(({ outcome }) => outcome === 'granted')).to.have.length(50)
        const { call, told } = await listener()
        const [waiting] = await substrate.apply([share('w', { capacity: undefined, weight: 40, place: 0 })], call())
        const place = waiting?.ticket?.place ?? expect.fail('no ticket')
        const releases: Op[] = []
        for (const [index, { holding }] of verdicts.entries()) {
          if (holding !== undefined)
            releases.push({ ...(await releaseOf(substrate, claims[index]?.lease ?? '', '')), holder: holding.holder })
        }
        const ends = await substrate.apply(releases.slice(0, 45), newCall())
        expect(new Set(ends.map(({ outcome, told: last }) => `${outcome} ${last}`))).to.deep.equal(
          new Set([`granted ${place}`]),
        )
        await until('word of the room', () => told.length > 0)
        await sleep(20)
        expect(told).to.deep.equal([{ kind: 'vacated', lease: counted, to: { place, ahead: 0 } }])
      })
    })

    describe('what fails half-way', () => {
      const broken: Record<string, string> = { s: 'the bounds', h: 'the weights', k: 'the definition' }
      for (const [key, what] of Object.entries(broken)) {
        it(`in place of ${what}, something else grants nothing, and says so`, async () => {
          await redis.rpush(`${base}${key}:${counted}`, 'not ours')
          for (const weight of [1, 2]) {
            const error = await caught(outcomeOf(share('a', { weight })))
            expect(error.message).to.match(/used for something else/)
          }
          expect(await redis.exists(`${base}l:${counted}a`)).to.equal(0)
          expect(await redis.lrange(`${base}${key}:${counted}`, 0, -1)).to.deep.equal(['not ours'])
          await redis.del(`${base}${key}:${counted}`)
          expect(await outcomeOf(share('a'))).to.equal('granted')
        })
      }

      it('in place of the queue, something else changes no verdict', async () => {
        await redis.rpush(`${base}q:${counted}`, 'not ours')
        expect(await outcomeOf(share('a', { place: 0 }))).to.equal('granted')
        expect(await outcomeOf(share('b', { weight: 3, place: 0 }))).to.equal('refused')
      })

      /** One that may do all that the page names but these. */
      async function without(...rights: readonly string[]): Promise<RedisSubstrate> {
        const user = unique('app')
        const { leases } = await documentedRights(namespace)
        await redis.acl('SETUSER', user, ...leases, ...rights.map((right) => `-${right}`))
        return setting.substrate({
          namespace,
          redis: setting.connect({ username: user, password: 'secret' }),
          listen: false,
        })
      }

      it('a grant whose entries cannot be written is none', async () => {
        const other = await without('zadd')
        for (const weight of [1, 2]) {
          const error = await caught(settle(other, share('a', { weight })))
          expect(error.message).to.match(/lacks a right/)
        }
        expect(await redis.exists(`${base}l:${counted}a`)).to.equal(0)
      })

      it('a release whose entry cannot be removed is one, and its room is free when its bound has passed', async () => {
        const other = await without('zrem')
        await settle(substrate, define(2))
        await grant(substrate, share('a', { capacity: undefined, weight: 2 }))
        const verdict = await settle(other, await releaseOf(other, `${counted}a`, 'a'))
        expect(verdict.outcome).to.equal('granted')
        expect(await entries('s')).to.deep.equal(['a'])
        await passBound('a')
        expect(await outcomeOf(share('b', { capacity: undefined, weight: 2 }))).to.equal('granted')
      })

      it('a holder that comes again takes the place of what it has left behind, whatever either weighs', async () => {
        await settle(substrate, define(4, undefined, 'g4'))
        const laterMs = Math.floor(await substrate.time(newCall())) + 2 * LASTING_MS
        const leaveBehind = async (weight: number): Promise<void> => {
          await redis.zadd(`${base}s:${counted}`, laterMs, 'a')
          if (weight > 1) await redis.zadd(`${base}h:${counted}`, weight, 'a')
        }
        await grant(substrate, share('b', { capacity: undefined }))
        for (const [before, now] of [
          [3, 1],
          [1, 3],
          [2, 2],
        ] as const) {
          await leaveBehind(before)
          await grant(substrate, share('a', { capacity: undefined, weight: now }))
          const others = await substrate.apply(
            ['c', 'd', 'e'].map((holder) => share(holder, { capacity: undefined })),
            newCall(),
          )
          expect(others.filter(({ outcome }) => outcome === 'granted')).to.have.length(3 - now)
          for (const holder of (await sharesNow()).filter((name) => name !== 'b')) await end(holder)
        }
        await settle(substrate, define(9, 'g4'))
        await leaveBehind(3)
        await grant(substrate, share('a', { capacity: undefined }))
        expect(await entries('h'), 'where there was room for both').to.deep.equal([])
      })
    })

    describe('late packets', () => {
      /** What a copy says that knows no time at which it was sent: only what it names identifies it. */
      const copyOf = async (): Promise<Partial<Call>> => ({
        notAfterMs: (await substrate.time(newCall())) + LONGEST_DEADLINE_MS,
      })

      it('of a claim do nothing after the release, and nothing after another share of the holder', async () => {
        for (const op of [share('a'), share('a', { weight: 2 }), share('a', { place: 0 })]) {
          const [copy, sentMs] = [await copyOf(), await substrate.time(newCall())]
          await grant(substrate, op)
          await end('a')
          expect(await outcomeOf(op, copy)).to.equal('late')
          expect(await outcomeOf(share('a'), { sentMs })).to.equal('late')
          expect(await entries('s')).to.deep.equal([])
        }
      })

      it('of a claim do not define again what is not defined any more', async () => {
        const [copy, sentMs] = [await copyOf(), await substrate.time(newCall())]
        const op = share('a')
        await grant(substrate, op)
        const refused = share('b', { weight: 3 })
        expect(await outcomeOf(refused)).to.equal('refused')
        await settle(substrate, define(undefined, op.nonce))
        await end('a')
        expect(await outcomeOf(op, copy)).to.equal('late')
        expect(await outcomeOf(refused, { sentMs })).to.equal('late')
        expect((await substrate.counted(counted, newCall())).capacity).to.equal(undefined)
        expect(await outcomeOf(refused, { sentMs: await substrate.time(newCall()) })).to.equal('granted')
      })

      it('of a refused claim that has defined by use do not define again', async () => {
        const copy = await copyOf()
        await settle(substrate, define(1, undefined, 'first'))
        await grant(substrate, share('a', { capacity: undefined }))
        await settle(substrate, define(undefined, 'first'))
        const op = share('b', { capacity: 1 })
        expect(await outcomeOf(op)).to.equal('refused')
        await settle(substrate, define(undefined, op.nonce))
        expect(await outcomeOf(op, copy)).to.equal('late')
        expect((await substrate.counted(counted, newCall())).capacity).to.equal(undefined)
      })

      it('of a definition change nothing after a later one', async () => {
        const [copy, sentMs] = [await copyOf(), await substrate.time(newCall())]
        const [first, second, third] = [
          define(3, undefined, 'g1'),
          define(4, 'g1', 'g2'),
          define(undefined, 'g2', 'g3'),
        ]
        for (const op of [first, second]) expect(await outcomeOf(op)).to.equal('granted')
        for (const op of [first, define(9, undefined)]) {
          expect(await outcomeOf(op, copy)).to.equal(op === first ? 'late' : 'refused')
        }
        expect(await outcomeOf(second, copy), 'a copy of the latest').to.equal('granted')
        expect(await outcomeOf(third)).to.equal('granted')
        for (const op of [first, second]) expect(await outcomeOf(op, copy)).to.equal('late')
        expect(await outcomeOf(third, copy), 'a copy of the latest').to.equal('granted')
        expect(await outcomeOf(define(9), { sentMs }), 'another that was sent before').to.equal('late')
        expect((await substrate.counted(counted, newCall())).capacity).to.equal(undefined)
        expect(await outcomeOf(define(9), { sentMs: await substrate.time(newCall()) })).to.equal('granted')
      })

      it('after their deadline define nothing and claim nothing', async () => {
        const notAfterMs = await substrate.time(newCall())
        await until('the deadline', async () => (await substrate.time(newCall())) > notAfterMs)
        for (const op of [share('a'), define(3)]) expect(await outcomeOf(op, { notAfterMs })).to.equal('late')
        expect(await redis.exists(`${base}k:${counted}`)).to.equal(0)
      })
    })

    describe('whom to notify', () => {
      it('a lapse that the index shows is reported to the queue of the counted lease, once there is room', async () => {
        await settle(substrate, define(2))
        await grant(substrate, share('a', { capacity: undefined, durationMs: 1 }))
        await grant(substrate, share('b', { capacity: undefined }))
        const { call, told } = await listener()
        const [verdict] = await substrate.apply([share('w', { capacity: undefined, weight: 2, place: 0 })], call())
        const place = verdict?.ticket?.place
        const untilSeen = (holder: string): Promise<unknown> =>
          until(`the lapse of ${holder} to be seen`, async () => {
            const other = unique('other')
            await settle(substrate, release(other, 'a', await grant(substrate, claim(other, 'a', LASTING_MS))))
            return (await redis.sismember(`${base}i`, counted + holder)) === 0
          })
        await untilSeen('a')
        await sleep(20)
        expect(told, 'while the first does not fit').to.deep.equal([])
        await redis.del(`${base}l:${counted}b`)
        await untilSeen('b')
        await until('word of the room', () => told.length > 0)
        expect(told).to.deep.equal([{ kind: 'vacated', lease: counted, to: { place, ahead: 0 } }])
      })

      it('a grant past the queue notifies the first in it, if it leaves room', async () => {
        await grant(substrate, share('a', { weight: 3 }))
        const { call, told } = await listener()
        const [verdict] = await substrate.apply([share('w', { place: 0 })], call())
        const place = verdict?.ticket?.place ?? expect.fail('no ticket')
        await end('a')
        await until('word of the room', () => told.length >= 1)
        const passes = await settle(substrate, share('b', { passing: 1 }))
        expect([passes.outcome, passes.told]).to.deep.equal(['granted', place])
        await until('word of the room', () => told.length >= 2)
        const fills = await settle(substrate, share('c', { weight: 2, passing: 1 }))
        expect([fills.outcome, fills.told]).to.deep.equal(['granted', undefined])
        const room = { kind: 'vacated', lease: counted, to: { place, ahead: 0 } }
        expect(told).to.deep.equal([room, room])
      })

      it('one that was not heard of for long keeps nobody out', async () => {
        await grant(substrate, share('a', { weight: 3 }))
        await outcomeOf(share('w', { weight: 3, place: 0 }))
        await end('a')
        expect(await outcomeOf(share('b'))).to.equal('refused')
        const [member = expect.fail()] = await redis.zrange(`${base}d:${counted}`, 0, '-1')
        expect(member).to.match(/^\d+ [^ ]+ 3$/)
        await redis.zadd(`${base}d:${counted}`, 1, member)
        expect(await outcomeOf(share('b'))).to.equal('granted')
        expect(await redis.exists(`${base}q:${counted}`)).to.equal(0)
      })

      it('those for whom nobody listens are passed by, and the next ones know how many are ahead', async () => {
        await grant(substrate, share('a', { weight: 3 }))
        const deaf = newCall({ client: 'nobody-hears' })
        await substrate.apply([share('w0', { place: 0 })], deaf)
        const [one, two, three] = [await listener(), await listener(), await listener()]
        for (const { call } of [one, two, three]) await substrate.apply([share(unique('w'), { place: 0 })], call())
        await end('a')
        await until('word of the room', () => two.told.length > 0)
        const ahead = [one, two, three].map(({ told }) =>
          told.map((change) => ('to' in change ? change.to?.ahead : '')),
        )
        expect(ahead).to.deep.equal([[1], [2], []])
      })
    })
  })
}
