import { expect } from 'chai'
import { Redis } from 'ioredis'
import { redisTargets, until } from 'lease-servers'
import type { Holding, Verdict } from 'lease-core/adapter'
import { whileLive } from 'lease-core/testing'
import type { RedisSubstrate } from 'lease-redis'
import {
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
  untilLapsed,
  type Setting,
} from './setting.ts'

type Five = [string, string, string, string, string]

for (const target of redisTargets('server')) {
  describe(`the operations, on ${target.name}`, () => {
    let setting: Setting
    let substrate: RedisSubstrate
    let name: string
    let namespace: string
    let base: string
    const key = (): string => `${base}l:${name}`
    const vacant = { outcome: 'granted', holding: undefined, cause: undefined }
    const refusedAsVacant = { outcome: 'refused', holding: undefined, cause: undefined }
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())
    // Each test has a namespace of its own: claims tell also of lapses, of whatever lease.
    beforeEach(() => {
      namespace = unique('operations')
      base = `lease:{${namespace}}:`
      substrate = setting.substrate({ namespace })
      name = unique('lease')
    })

    /** What those hear who watch the namespace while the body runs, and shortly after. */
    async function announced(body: () => Promise<unknown>): Promise<unknown[]> {
      const listener = setting.connect()
      let isWatched = false
      const unwatch = substrate.watch?.(() => (isWatched = true))
      await until('the watch of the namespace', () => isWatched)
      const heard: unknown[] = []
      await listener.subscribe(`${base}c`)
      listener.on('message', (_, message) => heard.push(JSON.parse(message)))
      await body()
      await setting.redis.publish(`${base}c`, '["end"]')
      await until('the end of what is announced', () => JSON.stringify(heard.at(-1)) === '["end"]', 1)
      listener.disconnect()
      unwatch?.()
      return heard.slice(0, -1)
    }

    /** A lease of its own that `a` claims, and then these steps while it is live; later it has lapsed. */
    async function lapsing<T = void>(
      value?: string,
      steps?: (held: Holding, durationMs: number) => Promise<T>,
    ): Promise<T | undefined> {
      const outcome = await whileLive(25, async (durationMs) => {
        name = unique('lease')
        const held = await grant(substrate, claim(name, 'a', durationMs, { value }))
        return steps?.(held, durationMs)
      })
      await untilLapsed(setting.redis, key())
      return outcome
    }

    describe('claim', () => {
      it('grants an unknown lease for the whole duration, with a token near the microseconds of the clock', async () => {
        const holding = await grant(substrate, claim(name, 'a', LASTING_MS, { value: 'v' }))
        expect(holding).to.include({ holder: 'a', value: 'v', pinned: false, version: undefined })
        expect(holding.remainingMs).to.be.within(LASTING_MS, LASTING_MS + 1)
        expect(Number(holding.fencingToken) / 1000).to.be.closeTo(Date.now(), 60_000)
        expect(await readOne(substrate, name)).to.include({
          holder: 'a',
          fencingToken: holding.fencingToken,
          value: 'v',
        })
      })

      it('lets the key go when the lease lapses, not before, and leaves nothing but its name behind', async () => {
        const [seconds = '', micros = ''] = (await setting.redis.time()).map(String)
        await lapsing(undefined, async (_, durationMs) => {
          expect(await setting.redis.pexpiretime(key())).to.be.at.least(
            Number(seconds) * 1000 + Number(micros) / 1000 + durationMs - 1,
          )
        })
        expect(await setting.redis.exists(key())).to.equal(0)
        expect(await setting.redis.sismember(`${base}i`, name)).to.equal(1)
      })

      it('rounds a duration up', async () => {
        expect((await grant(substrate, claim(name, 'a', 0.25))).remainingMs).to.be.within(0.25, 2)
      })

      it('refuses a live lease and brings who holds it', async () => {
        const passedMs = stopwatch()
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS, { value: 'v' }))
        const { outcome, holding } = await settle(substrate, claim(name, 'b', LASTING_MS))
        expect(outcome).to.equal('refused')
        expect(holding).to.include({ holder: 'a', fencingToken, value: 'v', pinned: false })
        expect(holding?.remainingMs).to.be.within(LASTING_MS - passedMs(), LASTING_MS + 1)
      })

      it('refuses the holder of a live lease, whose nonce is another', async () => {
        await grant(substrate, claim(name, 'a', LASTING_MS))
        expect(await settle(substrate, claim(name, 'a', LASTING_MS))).to.have.property('outcome', 'refused')
      })

      it('refuses another holder with the same nonce', async () => {
        const op = claim(name, 'a', LASTING_MS)
        await grant(substrate, op)
        expect(await settle(substrate, { ...op, holder: 'b' })).to.have.property('outcome', 'refused')
      })

      it('answers its replay with the same token, and prolongs but never shortens', async () => {
        const op = claim(name, 'a', LASTING_MS, { value: 'v' })
        const passedMs = stopwatch()
        const first = await grant(substrate, op)
        const shorter = await grant(substrate, { ...op, durationMs: 1_000 })
        expect(shorter).to.include({ fencingToken: first.fencingToken, holder: 'a', value: 'v' })
        expect(shorter.remainingMs).to.be.at.least(LASTING_MS - passedMs())
        const longer = await grant(substrate, { ...op, durationMs: 2 * LASTING_MS })
        expect(longer.fencingToken).to.equal(first.fencingToken)
        expect(longer.remainingMs).to.be.at.least(2 * LASTING_MS - passedMs())
        expect(await setting.redis.pttl(key())).to.be.at.least(2 * LASTING_MS - passedMs())
      })

      it('opens no second term when its replay comes after the lapse', async () => {
        const op = claim(name, 'a', 20)
        await grant(substrate, op)
        await untilLapsed(setting.redis, key())
        expect(await settle(substrate, op)).to.have.property('outcome', 'late')
        expect(await readOne(substrate, name)).to.equal(undefined)
      })

      it('takes over a lapsed lease in one step with a higher token and without the old value', async () => {
        const first = await grant(substrate, claim(name, 'a', 20, { value: 'old' }))
        await untilLapsed(setting.redis, key())
        const second = await grant(substrate, claim(name, 'b', LASTING_MS))
        expect(second).to.include({ holder: 'b', value: undefined })
        expect(second.fencingToken > first.fencingToken).to.equal(true)
      })

      it('keeps any holder and any value apart', async () => {
        for (const [holder, value] of [
          ['a|b|3|=', '=|1|2|\n'],
          ['ü🦉', ''],
          ['=', '='],
          ['1|2', undefined],
        ] as const) {
          name = unique('lease')
          const granted = await grant(substrate, claim(name, holder, LASTING_MS, { value }))
          expect(granted).to.include({ holder, value })
          expect(await readOne(substrate, name)).to.include({ holder, value, fencingToken: granted.fencingToken })
          expect((await settle(substrate, claim(name, 'x', 1_000))).holding).to.include({ holder, value })
          expect(await grant(substrate, await extendOf(substrate, name, holder, 2 * LASTING_MS))).to.include({
            holder,
            value,
          })
        }
      })
    })

    describe('fencing tokens', () => {
      let counter: string
      beforeEach(() => (counter = `${base}t`))

      it('rise one by one past a counter that is ahead of the clock', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS))
        const far = fencingToken + 10n ** 12n
        await setting.redis.set(counter, String(far))
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        expect((await grant(substrate, claim(name, 'b', LASTING_MS))).fencingToken).to.equal(far + 1n)
        await setting.redis.del(counter)
      })

      it('rise when the counter is lost, by the clock', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS))
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        await setting.redis.del(counter)
        expect((await grant(substrate, claim(name, 'b', LASTING_MS))).fencingToken > fencingToken).to.equal(true)
      })

      it('are all different within a batch, and rise over batches', async () => {
        const before = await grant(substrate, claim(name, 'a', LASTING_MS))
        const batch = Array.from({ length: 128 }, () => claim(unique('lease'), 'a', LASTING_MS))
        const tokens = (await substrate.apply(batch, newCall())).map(({ holding }) => holding?.fencingToken ?? 0n)
        expect(new Set(tokens).size).to.equal(128)
        expect(tokens.every((token) => token > before.fencingToken)).to.equal(true)
        const after = await grant(substrate, claim(unique('lease'), 'a', LASTING_MS))
        expect(tokens.every((token) => token < after.fencingToken)).to.equal(true)
      })

      it('are exact beyond what a double can count', async () => {
        const far = 2n ** 53n + 1n
        await setting.redis.set(counter, String(far))
        const batch = ['x', 'y', 'z'].map((word) => claim(unique(word), 'a', LASTING_MS))
        const tokens = (await substrate.apply(batch, newCall())).map(({ holding }) => holding?.fencingToken)
        expect(tokens).to.deep.equal([far + 1n, far + 2n, far + 3n])
        await setting.redis.del(counter)
      })

      it('that have run out, or a counter that is none, fail the claim and nothing else', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS))
        for (const broken of ['9223372036854775807', 'not a number']) {
          await setting.redis.set(counter, broken)
          const fresh = unique('lease')
          const verdicts = await substrate.apply(
            [claim(fresh, 'a', 1_000), extend(name, 'a', LASTING_MS, { fencingToken })],
            newCall(),
          )
          expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['unknown', 'granted'])
          expect(await readOne(substrate, fresh)).to.equal(undefined)
          expect(await setting.redis.get(counter)).to.equal(broken)
        }
        await setting.redis.del(counter)
      })
    })

    describe('extend', () => {
      it('moves the expiry to now plus the duration, never back, and keeps token and value', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS, { value: 'v' }))
        const passedMs = stopwatch()
        const longer = await grant(substrate, extend(name, 'a', 2 * LASTING_MS, { fencingToken }))
        expect(longer).to.include({ fencingToken, value: 'v', holder: 'a' })
        expect(longer.remainingMs).to.be.within(2 * LASTING_MS - passedMs(), 2 * LASTING_MS + 1)
        expect(await setting.redis.pttl(key())).to.be.within(2 * LASTING_MS - passedMs(), 2 * LASTING_MS + 1)
        expect((await grant(substrate, await extendOf(substrate, name, 'a', 1_000))).remainingMs).to.be.at.least(
          2 * LASTING_MS - passedMs(),
        )
      })

      it('takes a new value, the empty one too, even when it moves nothing', async () => {
        const passedMs = stopwatch()
        await grant(substrate, claim(name, 'a', LASTING_MS, { value: 'v' }))
        expect(await grant(substrate, await extendOf(substrate, name, 'a', 1_000, { value: '' }))).to.have.property(
          'value',
          '',
        )
        const stored = await readOne(substrate, name)
        expect(stored).to.have.property('value', '')
        expect(stored?.remainingMs).to.be.at.least(LASTING_MS - passedMs())
        expect(await setting.redis.pttl(key())).to.be.at.least(LASTING_MS - passedMs())
      })

      it('is refused with the holding that forbids it: another holder, another term', async () => {
        const { fencingToken } = await grant(substrate, claim(name, 'a', LASTING_MS))
        for (const op of [extend(name, 'b', 1_000), extend(name, 'a', 1_000, { fencingToken: fencingToken - 1n })]) {
          const { outcome, holding } = await settle(substrate, op)
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ holder: 'a', fencingToken })
        }
      })

      it('is refused with nothing when the lease is vacant, lapsed or unknown', async () => {
        expect(await settle(substrate, await extendOf(substrate, name, 'a', 1_000))).to.deep.equal(refusedAsVacant)
        const { fencingToken } = await grant(substrate, claim(name, 'a', 20))
        await untilLapsed(setting.redis, key())
        expect(await settle(substrate, extend(name, 'a', 1_000, { fencingToken }))).to.deep.equal(refusedAsVacant)
        await settle(substrate, await releaseOf(substrate, name, 'a'))
        expect(await settle(substrate, await extendOf(substrate, name, 'a', 1_000))).to.deep.equal(refusedAsVacant)
      })
    })

    describe('release', () => {
      it('vacates for the holder, by token and nonce if given, and announces it once', async () => {
        const op = claim(name, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, op)
        for (const other of [
          release(name, 'b', { fencingToken }),
          release(name, 'a', { fencingToken: fencingToken + 1n }),
          release(name, 'a', { fencingToken: fencingToken + 1n, nonce: op.nonce }),
          release(name, 'a', { fencingToken, nonce: 'another' }),
          release(name, 'a', { nonce: 'another' }),
          release(name, 'b', { nonce: op.nonce }),
        ]) {
          const { outcome, holding } = await settle(substrate, other)
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ holder: 'a', fencingToken })
        }
        const heard = await announced(async () => {
          expect(await settle(substrate, release(name, 'a', { fencingToken, nonce: op.nonce }))).to.deep.equal(vacant)
          expect(await settle(substrate, release(name, 'a', { fencingToken }))).to.deep.equal(vacant)
        })
        expect(heard).to.deep.equal([[name]])
        expect(await setting.redis.keys(`${base}l:${name}`)).to.deep.equal([])
        expect(await setting.redis.sismember(`${base}i`, name)).to.equal(0)
      })

      it('announces a batch at once', async () => {
        const names = ['one', 'two', 'three "quoted" ü'].map((word) => unique(word))
        await substrate.apply(
          names.map((lease) => claim(lease, 'a', LASTING_MS)),
          newCall(),
        )
        const releases = await Promise.all(names.map((lease) => releaseOf(substrate, lease, 'a')))
        const heard = await announced(() => substrate.apply(releases, newCall()))
        expect(heard).to.deep.equal([names])
      })
    })

    describe('expire', () => {
      it('is refused while the lease is live, and granted and announced once it has lapsed', async () => {
        await lapsing(undefined, async ({ fencingToken }) => {
          const live = await settle(substrate, expire(name))
          expect(live.outcome).to.equal('refused')
          expect(live.holding).to.include({ holder: 'a', fencingToken })
        })
        const heard = await announced(async () => {
          expect(await settle(substrate, expire(name))).to.deep.equal(vacant)
          expect(await settle(substrate, expire(name))).to.deep.equal(vacant)
        })
        expect(heard).to.deep.equal([[name]])
      })
    })

    describe('pins', () => {
      it('keep a lease past its expiry, for every operation', async () => {
        const fencingToken = await lapsing('v', async (held) => {
          expect((await settle(substrate, pin(name, 'e'))).holding).to.include({ holder: 'a', pinned: true })
          expect(await setting.redis.pttl(key())).to.equal(-1)
          return held.fencingToken
        })
        for (const op of [claim(name, 'b', 1_000), expire(name)]) {
          const { outcome, holding } = await settle(substrate, op)
          expect(outcome).to.equal('refused')
          expect(holding).to.include({ holder: 'a', pinned: true, value: 'v' })
          expect(holding?.remainingMs).to.be.lessThan(0)
        }
        expect(await readOne(substrate, name)).to.include({ holder: 'a', pinned: true })
        const extended = await grant(substrate, extend(name, 'a', LASTING_MS, { fencingToken: fencingToken ?? 0n }))
        expect(extended).to.include({ pinned: true, fencingToken })
        expect(await setting.redis.pttl(key())).to.equal(-1)
        expect(await settle(substrate, await releaseOf(substrate, name, 'a'))).to.have.property('outcome', 'granted')
        expect(await readOne(substrate, name)).to.equal(undefined)
      })

      it('of a vacant lease protect its next holder', async () => {
        expect(await settle(substrate, pin(name, 'e'))).to.deep.equal(vacant)
        expect(await grant(substrate, claim(name, 'a', 10))).to.have.property('pinned', true)
        await untilLapsed(setting.redis, key())
        expect(await settle(substrate, claim(name, 'b', 10))).to.have.property('outcome', 'refused')
      })

      it('do not bring a lapsed holder back', async () => {
        await grant(substrate, claim(name, 'a', 10))
        await untilLapsed(setting.redis, key())
        expect(await settle(substrate, pin(name, 'e'))).to.deep.equal(vacant)
        expect(await readOne(substrate, name)).to.equal(undefined)
      })

      it('end one by one; the last gives the expiry back', async () => {
        const passedMs = stopwatch()
        await grant(substrate, claim(name, 'a', LASTING_MS))
        for (const entity of ['e', 'f', 'e']) await settle(substrate, pin(name, entity))
        expect([...((await substrate.pinned(newCall())).get(name)?.keys() ?? [])]).to.deep.equal(['e', 'f'])
        expect((await settle(substrate, await unpinOf(substrate, name, 'e'))).holding).to.have.property('pinned', true)
        expect(await setting.redis.pttl(key())).to.equal(-1)
        expect((await settle(substrate, await unpinOf(substrate, name, 'unknown'))).holding).to.have.property(
          'pinned',
          true,
        )
        expect((await settle(substrate, await unpinOf(substrate, name, 'f'))).holding).to.include({
          pinned: false,
          holder: 'a',
        })
        expect(await setting.redis.pttl(key())).to.be.within(LASTING_MS - passedMs(), LASTING_MS + 1)
        expect((await substrate.pinned(newCall())).has(name)).to.equal(false)
      })

      it('end past the expiry with the lease, which is announced', async () => {
        await lapsing(undefined, () => settle(substrate, pin(name, 'e')))
        const heard = await announced(async () => {
          expect(await settle(substrate, await unpinOf(substrate, name, 'e'))).to.deep.equal(vacant)
        })
        expect(heard).to.deep.equal([[name]])
        expect(await setting.redis.exists(key())).to.equal(0)
      })

      it('that were lost do not keep a lapsed lease for ever', async () => {
        const fencingToken = await lapsing(undefined, async (held) => {
          await settle(substrate, pin(name, 'e'))
          return held.fencingToken
        })
        for (const hash of ['p', 'g']) await setting.redis.hdel(base + hash, name)
        expect(await readOne(substrate, name)).to.equal(undefined)
        expect(await settle(substrate, extend(name, 'a', 10, { fencingToken: fencingToken ?? 0n }))).to.deep.equal(
          refusedAsVacant,
        )
        expect(await grant(substrate, claim(name, 'b', LASTING_MS))).to.include({ holder: 'b' })
      })

      it('cost nothing once they are gone: the hash is removed', async () => {
        for (const [lease, pins] of await substrate.pinned(newCall())) {
          for (const [entity, generation] of pins) await settle(substrate, unpin(lease, entity, generation))
        }
        expect(await setting.redis.exists(`${base}p`, `${base}g`)).to.equal(0)
      })
    })

    describe('news', () => {
      it('of a new term and of a new value are announced if asked for, and nothing else is', async () => {
        const op = claim(name, 'a', LASTING_MS, { value: 'v', announce: true })
        const heard = await announced(async () => {
          await grant(substrate, op)
          await grant(substrate, { ...op, durationMs: 2 * LASTING_MS })
          await settle(substrate, { ...op, holder: 'b' })
          for (const value of ['v', 'w', undefined]) {
            await grant(substrate, await extendOf(substrate, name, 'a', 3 * LASTING_MS, { value, announce: true }))
          }
          await grant(substrate, await extendOf(substrate, name, 'a', 4 * LASTING_MS, { value: 'x' }))
          await grant(substrate, claim(unique('lease'), 'a', LASTING_MS))
        })
        expect(heard).to.deep.equal([{ changed: [name] }, { changed: [name] }])
      })
    })

    describe('a batch', () => {
      it('of all kinds is answered in order', async () => {
        const names = Array.from({ length: 7 }, () => unique('mix')) as [string, ...string[]]
        const [held, gone, mine, lapsed, fresh, pinned, bare] = names as [
          string,
          string,
          string,
          string,
          string,
          string,
          string,
        ]
        for (const lease of [held, mine, pinned])
          await grant(substrate, claim(lease, 'a', LASTING_MS, { value: lease }))
        await grant(substrate, claim(lapsed, 'a', 1))
        await settle(substrate, pin(pinned, 'e'))
        await sleep(5)
        const verdicts = await substrate.apply(
          [
            claim(held, 'b', 1_000),
            release(gone, 'a', { fencingToken: 7n }),
            await extendOf(substrate, mine, 'a', 2 * LASTING_MS, { value: 'new' }),
            expire(lapsed),
            claim(fresh, 'b', 1_000, { value: 'E' }),
            await unpinOf(substrate, pinned, 'e'),
            pin(bare, 'E'),
          ],
          newCall(),
        )
        expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['refused', ...Array<string>(6).fill('granted')])
        expect(verdicts[0]?.holding).to.include({ holder: 'a', value: held })
        expect(verdicts[2]?.holding).to.include({ holder: 'a', value: 'new' })
        expect(verdicts[4]?.holding).to.include({ holder: 'b', value: 'E' })
        expect(verdicts[5]?.holding).to.include({ holder: 'a', value: pinned, pinned: false })
        expect([verdicts[1], verdicts[3], verdicts[6]]).to.deep.equal([vacant, vacant, vacant])
        await settle(substrate, await unpinOf(substrate, bare, 'E'))
      })
    })

    describe('a batch of plain operations, which is done in bulk', () => {
      it('claims what is vacant, by rising tokens, and says of the others why not', async () => {
        const [vacantOne, another, foreign, mine, other] = ['v', 'w', 'foreign', 'mine', 'other'].map(unique) as Five
        const [list, broken, lapsed, pinned, value] = ['list', 'broken', 'lapsed', 'pinned', 'value'].map(
          unique,
        ) as Five
        await grant(substrate, claim(foreign, 'b', LASTING_MS, { value: 'v|1|a|9|' }))
        const own = claim(mine, 'a', LASTING_MS)
        const { fencingToken } = await grant(substrate, own)
        await grant(substrate, claim(other, 'a', LASTING_MS))
        await setting.redis.rpush(`${base}l:${list}`, 'not a lease')
        await setting.redis.set(`${base}l:${broken}`, 'not a lease')
        await setting.redis.set(`${base}l:${lapsed}`, '7|1|b|8|nonce|')
        await settle(substrate, pin(pinned, 'e'))
        const before = await setting.redis.get(`${base}t`)
        const passedMs = stopwatch()
        const verdicts = await substrate.apply(
          [
            claim(vacantOne, 'a', LASTING_MS),
            claim(foreign, 'a', LASTING_MS),
            own,
            claim(other, 'a', LASTING_MS),
            claim(list, 'a', LASTING_MS),
            claim(broken, 'a', LASTING_MS),
            claim(lapsed, 'a', LASTING_MS),
            claim(pinned, 'ä|b=c', LASTING_MS),
            claim(value, 'ä|b=c', LASTING_MS, { value: 'v' }),
            claim(another, 'ä|b=c', 2 * LASTING_MS + 0.5),
          ],
          newCall(),
        )
        expect(verdicts.map(({ outcome }) => outcome).join(' ')).to.equal(
          'granted refused granted refused unknown unknown granted granted granted granted',
        )
        expect(verdicts[1]?.holding).to.include({ holder: 'b', value: 'v|1|a|9|' })
        expect(verdicts[2]?.holding).to.include({ holder: 'a', fencingToken })
        expect(verdicts[3]?.holding).to.include({ holder: 'a' })
        const opened = [0, 6, 7, 8, 9].map((index) => verdicts[index]?.holding)
        expect(new Set([...opened.map((holding) => holding?.fencingToken), BigInt(before ?? 0)]).size).to.equal(6)
        for (const [index, lease] of [vacantOne, lapsed, pinned, value, another].entries()) {
          const stored = await readOne(substrate, lease)
          const { remainingMs = 0, ageMs = 0, ...rest } = stored ?? {}
          const { remainingMs: earlierMs = 0, ageMs: atFirstMs, ...same } = opened[index] ?? {}
          expect(same).to.deep.equal(rest)
          expect(earlierMs).to.be.within(remainingMs, remainingMs + passedMs())
          expect(atFirstMs).to.equal(0)
          expect(ageMs).to.be.within(0, passedMs())
          expect(opened[index]?.fencingToken).to.satisfy((token: bigint) => token > BigInt(before ?? 0))
          expect(await setting.redis.sismember(`${base}i`, lease)).to.equal(1)
        }
        expect(opened[4]?.remainingMs).to.be.within(2 * LASTING_MS, 2 * LASTING_MS + 2)
        await settle(substrate, await unpinOf(substrate, pinned, 'e'))
        await setting.redis.del(`${base}l:${list}`, `${base}l:${broken}`)
      })

      it('releases the very terms that are meant, and announces these and no others', async () => {
        const [plain, foreign, older, empty, valued] = ['plain', 'foreign', 'older', 'empty', 'valued'].map(
          unique,
        ) as Five
        const [lapsed, pinned, nonce, any, list] = ['lapsed', 'pinned', 'nonce', 'any', 'list'].map(unique) as Five
        const tokens = new Map<string, bigint>()
        const nonces = new Map<string, string>()
        for (const lease of [plain, foreign, older, pinned, nonce, any]) {
          const op = claim(lease, 'ä|b=c', LASTING_MS)
          tokens.set(lease, (await grant(substrate, op)).fencingToken)
          nonces.set(lease, op.nonce)
        }
        tokens.set(valued, (await grant(substrate, claim(valued, 'ä|b=c', LASTING_MS, { value: '|' }))).fencingToken)
        await setting.redis.set(`${base}l:${lapsed}`, '7|1|a|8|nonce|')
        await setting.redis.rpush(`${base}l:${list}`, 'not a lease')
        await settle(substrate, pin(pinned, 'e'))
        const term = (lease: string): { fencingToken: bigint } => ({ fencingToken: tokens.get(lease) ?? 0n })
        const ops = [
          release(plain, 'ä|b=c', term(plain)),
          release(foreign, 'b', term(foreign)),
          release(older, 'ä|b=c', { fencingToken: term(older).fencingToken - 1n }),
          release(empty, 'ä|b=c', { fencingToken: 7n }),
          release(valued, 'ä|b=c', term(valued)),
          release(lapsed, 'b', { fencingToken: 7n }),
          release(pinned, 'ä|b=c', term(pinned)),
          release(nonce, 'ä|b=c', { ...term(nonce), nonce: 'of another claim' }),
          release(any, 'ä|b=c', { nonce: nonces.get(any) }),
          release(list, 'ä|b=c', { fencingToken: 7n }),
        ]
        let verdicts: readonly Verdict[] = []
        const heard = await announced(async () => void (verdicts = await substrate.apply(ops, newCall())))
        expect(verdicts.map(({ outcome }) => outcome).join(' ')).to.equal(
          'granted refused refused granted granted granted granted refused granted unknown',
        )
        expect(heard.flat()).to.have.members([plain, valued, lapsed, pinned, any])
        for (const lease of [plain, empty, valued, lapsed, pinned, any]) {
          expect(await readOne(substrate, lease)).to.equal(undefined)
          expect(await setting.redis.sismember(`${base}i`, lease)).to.equal(0)
        }
        for (const lease of [foreign, older, nonce]) expect(await readOne(substrate, lease)).to.include(term(lease))
        await settle(substrate, await unpinOf(substrate, pinned, 'e'))
        await setting.redis.del(`${base}l:${list}`)
      })

      it('extends what stands, and says of each what it says when it comes alone', async () => {
        const [plain, valued, pinned, foreign, older] = ['plain', 'valued', 'pinned', 'foreign', 'older'].map(
          unique,
        ) as Five
        const [lapsed, vacant, broken, list, any] = ['lapsed', 'vacant', 'broken', 'list', 'any'].map(unique) as Five
        const tokens = new Map<string, bigint>()
        for (const lease of [plain, pinned, foreign, older, any]) {
          tokens.set(lease, (await grant(substrate, claim(lease, 'ä|b=c', LASTING_MS))).fencingToken)
        }
        tokens.set(valued, (await grant(substrate, claim(valued, 'ä|b=c', LASTING_MS, { value: 'v|=' }))).fencingToken)
        tokens.set(lapsed, (await grant(substrate, claim(lapsed, 'ä|b=c', 1))).fencingToken)
        await setting.redis.set(`${base}l:${broken}`, 'not a lease')
        await setting.redis.rpush(`${base}l:${list}`, 'not a lease')
        await sleep(5)
        const ops = [
          extend(plain, 'ä|b=c', 2 * LASTING_MS, { fencingToken: tokens.get(plain) ?? 0n }),
          extend(valued, 'ä|b=c', 2 * LASTING_MS, { fencingToken: tokens.get(valued) ?? 0n }),
          extend(pinned, 'ä|b=c', 2 * LASTING_MS, { fencingToken: tokens.get(pinned) ?? 0n }),
          extend(foreign, 'b', 2 * LASTING_MS, { fencingToken: tokens.get(foreign) ?? 0n }),
          extend(older, 'ä|b=c', 2 * LASTING_MS, { fencingToken: (tokens.get(older) ?? 0n) - 1n }),
          extend(lapsed, 'ä|b=c', 2 * LASTING_MS, { fencingToken: tokens.get(lapsed) ?? 0n }),
          extend(vacant, 'ä|b=c', 2 * LASTING_MS, { fencingToken: 7n }),
          extend(broken, 'ä|b=c', 2 * LASTING_MS, { fencingToken: 7n }),
          extend(list, 'ä|b=c', 2 * LASTING_MS, { fencingToken: 7n }),
          extend(any, 'ä|b=c', 5, { fencingToken: tokens.get(any) ?? 0n }),
        ]
        const check = async (): Promise<void> => {
          const passedMs = stopwatch()
          const together = await substrate.apply(ops, newCall())
          expect(together.map(({ outcome }) => outcome).join(' ')).to.equal(
            'granted granted granted refused refused refused refused unknown unknown granted',
          )
          const apart = (await Promise.all(ops.map((op) => substrate.apply([op], newCall())))).flat()
          expect(together.map(({ outcome }) => outcome)).to.deep.equal(apart.map(({ outcome }) => outcome))
          for (const [index, { holding }] of together.entries()) {
            const { remainingMs = 0, ageMs = 0, ...rest } = apart[index]?.holding ?? {}
            const { remainingMs: earlierMs = 0, ageMs: youngerMs, ...same } = holding ?? {}
            expect(same, ops[index]?.lease).to.deep.equal(rest)
            if (youngerMs !== undefined) expect(youngerMs).to.be.within(0, ageMs + 0.128)
            expect(earlierMs).to.be.within(remainingMs - 1, remainingMs + passedMs())
          }
          expect(together.slice(7, 9).map(({ cause }) => String(cause))).to.deep.equal(
            apart.slice(7, 9).map(({ cause }) => String(cause)),
          )
        }
        await check()
        expect((await setting.redis.get(`${base}l:${plain}`))?.split('|').length).to.equal(7)
        await settle(substrate, pin(pinned, 'e'))
        try {
          await check()
        } finally {
          await settle(substrate, await unpinOf(substrate, pinned, 'e'))
          await setting.redis.del(`${base}l:${broken}`, `${base}l:${list}`)
        }
      })

      it('moves expiries to now plus the duration, never back, each by its own', async () => {
        const leases = Array.from({ length: 5 }, () => unique('own'))
        const ops = []
        for (const [index, lease] of leases.entries()) {
          const { fencingToken } = await grant(substrate, claim(lease, `h${index % 2}`, LASTING_MS))
          ops.push(extend(lease, `h${index % 2}`, 2 * LASTING_MS * (index + 1), { fencingToken }))
        }
        const passedMs = stopwatch()
        for (const shorter of [1, 100]) {
          const verdicts = await substrate.apply(
            ops.map((op) => ({ ...op, durationMs: op.durationMs / shorter })),
            newCall(),
          )
          for (const [index, { outcome, holding }] of verdicts.entries()) {
            expect(outcome).to.equal('granted')
            const wholeMs = 2 * LASTING_MS * (index + 1)
            const storedMs = await setting.redis.pttl(`${base}l:${leases[index]}`)
            expect(holding?.remainingMs).to.be.within(wholeMs - passedMs(), wholeMs + 1)
            expect(storedMs).to.be.within(wholeMs - passedMs(), wholeMs + 1)
          }
        }
      })
    })

    describe('reading', () => {
      it('the whole namespace brings what stands, over many steps, and forgets what has lapsed', async () => {
        const own = unique('reading')
        const reader = setting.substrate({ namespace: own })
        const names = Array.from({ length: 2_000 }, (_, index) => `l${index}-ü`)
        for (let from = 0; from < names.length; from += 100) {
          const part = names.slice(from, from + 100)
          await reader.apply(
            part.map((lease, index) => claim(lease, 'a', index % 2 === 0 ? 1 : LASTING_MS, { value: lease })),
            newCall(),
          )
        }
        await sleep(5)
        const all = await reader.read(undefined, newCall())
        expect(all.size).to.equal(1_000)
        expect(all.get('l1-ü')).to.include({ holder: 'a', value: 'l1-ü' })
        expect(await setting.redis.scard(`lease:{${own}}:i`)).to.equal(1_000)
        expect((await reader.read(['l0-ü', 'l1-ü', 'nobody'], newCall())).size).to.equal(1)
        expect((await reader.read([], newCall())).size).to.equal(0)
      })

      for (const [together, rounds] of [
        [100, 50],
        [1, 20],
      ] as const) {
        it(`the index does not grow for ever with names that lapse and never come back, claimed ${together} at once`, async () => {
          const own = unique('index')
          const client = setting.substrate({ namespace: own })
          await grant(client, claim('stays', 'a', 600_000))
          for (let round = 0; round < rounds; round++) {
            for (let from = 0; from < 100; from += together) {
              const ops = Array.from({ length: together }, (_, index) => claim(`once-${round}-${from + index}`, 'a', 1))
              await client.apply(ops, newCall())
            }
            await sleep(3)
          }
          expect(await setting.redis.scard(`lease:{${own}}:i`)).to.be.lessThan(15 * rounds) // of 100 * rounds
          expect(await setting.redis.sismember(`lease:{${own}}:i`, 'stays')).to.equal(1)
        })
      }

      it('of one namespace knows nothing of another, nor of another prefix', async () => {
        await grant(substrate, claim(name, 'a', LASTING_MS))
        const others = [setting.substrate(), setting.substrate({ namespace, prefix: 'other' })]
        for (const other of others) expect(await other.read(undefined, newCall())).to.have.property('size', 0)
      })
    })

    it('the keyPrefix of the connection is part of where the leases are, and waiters hear through it', async () => {
      const redis = setting.connect({ keyPrefix: 'app:' })
      const prefixed = setting.substrate({ redis, namespace })
      await grant(prefixed, claim(name, 'a', LASTING_MS))
      expect(await setting.redis.exists(`app:${key()}`)).to.equal(1)
      expect(await readOne(substrate, name)).to.equal(undefined)
      expect((await prefixed.read(undefined, newCall())).size).to.equal(1)
      const heard: string[] = []
      const stop = prefixed.watch?.((change) => heard.push(change.kind === 'resync' ? 'resync' : change.lease))
      await eventually(() => heard.length >= 1)
      await settle(prefixed, await releaseOf(prefixed, name, 'a'))
      await eventually(() => heard.length >= 2)
      expect(heard).to.deep.equal(['resync', name])
      stop?.()
    })

    it('whatever shape the connection gives to answers', async () => {
      const shapes: Redis[] = [
        new Redis(target.url, { replyMapping: 'resp3' }),
        new Redis(target.url, { protocol: 2 }),
        new Redis(target.url, { stringNumbers: true }),
        new Redis(target.url, { enableAutoPipelining: true }),
        new Redis(target.url, { showFriendlyErrorStack: true }),
      ] as Redis[]
      for (const redis of shapes) {
        const own = unique('shape')
        const shaped = setting.substrate({ redis, namespace: own })
        const held = await grant(shaped, claim(name, 'a', LASTING_MS, { value: 'v' }))
        expect((await settle(shaped, pin(name, 'e', 'generation'))).holding).to.include({ holder: 'a', pinned: true })
        expect(await readOne(shaped, name)).to.include({ holder: 'a', value: 'v', fencingToken: held.fencingToken })
        expect((await shaped.read(undefined, newCall())).get(name)).to.include({ holder: 'a', value: 'v' })
        expect(await shaped.pinned(newCall())).to.deep.equal(new Map([[name, new Map([['e', 'generation']])]]))
        expect(await shaped.inspect()).to.be.an('array')
        const heard: string[] = []
        shaped.watch?.((change) => heard.push(change.kind))
        await eventually(() => heard.length >= 1)
        await settle(shaped, await releaseOf(shaped, name, 'a'))
        await eventually(() => heard.length >= 2)
        redis.disconnect()
      }
    })
  })
}
