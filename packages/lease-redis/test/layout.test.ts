import { expect } from 'chai'
import { redisTargets } from 'lease-servers'
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
  unique,
  unpin,
} from 'lease-scenes'
import { LASTING_MS, openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`the layout, on ${target.name}`, () => {
    let setting: Setting
    let substrate: RedisSubstrate
    let base: string
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())
    beforeEach(() => {
      const namespace = unique('layout')
      base = `lease:{${namespace}}:`
      substrate = setting.substrate({ namespace })
    })

    it('has a version from the first write on', async () => {
      await substrate.read(undefined, newCall())
      expect(await setting.redis.keys(`${base}*`)).to.deep.equal([])
      await substrate.time(newCall())
      expect(await setting.redis.get(`${base}v`)).to.equal('2')
      expect(await setting.redis.pttl(`${base}v`)).to.equal(-1)
    })

    it('of a newer release is refused by every call, which says what to do and changes nothing', async () => {
      const { fencingToken } = await grant(substrate, claim('l', 'a', LASTING_MS))
      await settle(substrate, pin('l', 'e', 'g'))
      await setting.redis.set(`${base}v`, '3')
      const before = await setting.redis.get(`${base}l:l`)
      for (const call of [
        () => substrate.time(newCall()),
        () => substrate.apply([claim('m', 'b', LASTING_MS)], newCall()),
        () => substrate.apply([extend('l', 'a', 2 * LASTING_MS, { fencingToken }), unpin('l', 'e', 'g')], newCall()),
        () => substrate.read(['l'], newCall()),
        () => substrate.read(undefined, newCall()),
        () => substrate.pinned(newCall()),
        () => substrate.counted('n#', newCall()),
      ]) {
        expect((await caught(call())).message).to.match(/newer release.*upgrade lease-redis.*LAYOUT 3 is above 2/)
      }
      expect(await setting.redis.get(`${base}l:l`)).to.equal(before)
      expect(await setting.redis.exists(`${base}l:m`, `${base}u:l`)).to.equal(0)
    })

    it('that is no number is reported as something else under our names', async () => {
      await setting.redis.set(`${base}v`, 'x')
      expect((await caught(substrate.time(newCall()))).message).to.match(/used for something else/)
    })

    describe('of the release before it, which had no version', () => {
      const held: Record<string, (expiryMs: number) => string> = {
        plain: (expiryMs) => `1700000000000001|1|a|${expiryMs}|nonce-1|`,
        valued: (expiryMs) => `1700000000000002|6|ä|b=c|${expiryMs}|nonce-2|=v|=`,
      }
      const [plain, valued] = [{ fencingToken: 1700000000000001n }, { fencingToken: 1700000000000002n }]
      beforeEach(async () => {
        const expiryMs = Math.floor(await substrate.time(newCall())) + LASTING_MS
        await setting.redis.del(`${base}v`)
        for (const [lease, content] of Object.entries(held)) {
          await setting.redis.set(`${base}l:${lease}`, content(expiryMs), 'PXAT', expiryMs)
          await setting.redis.sadd(`${base}i`, lease)
        }
        await setting.redis.set(`${base}t`, '1700000000000002')
        await setting.redis.set(`${base}l:pinned`, '1700000000000000|1|a|1700000000000|nonce-0|')
        await setting.redis.sadd(`${base}i`, 'pinned')
        await setting.redis.hset(`${base}p`, 'pinned', JSON.stringify(['f', 'e']))
      })

      it('keeps its terms: they are read, refused to others, extended, adopted and released', async () => {
        const all = await substrate.read(undefined, newCall())
        expect([...all.keys()].toSorted()).to.deep.equal(['pinned', 'plain', 'valued'])
        expect(all.get('valued')).to.include({ holder: 'ä|b=c', value: 'v|=', nonce: 'nonce-2', ...valued })
        expect(await readOne(substrate, 'plain')).to.include({
          holder: 'a',
          value: undefined,
          nonce: 'nonce-1',
          ...plain,
        })
        for (const lease of ['plain', 'valued', 'pinned']) {
          expect(await settle(substrate, claim(lease, 'b', LASTING_MS))).to.have.property('outcome', 'refused')
        }
        expect(await grant(substrate, extend('plain', 'a', 2 * LASTING_MS, plain))).to.include({ nonce: 'nonce-1' })
        const adoption = { from: 'nonce-2', nonce: 'nonce-3' }
        const adopted = await grant(substrate, extend('valued', 'ä|b=c', LASTING_MS, { ...valued, adoption }))
        expect(adopted).to.include({ value: 'v|=', nonce: 'nonce-3', ...valued })
        await settle(substrate, release('plain', 'a', { ...plain, nonce: 'nonce-1' }))
        await settle(substrate, release('valued', 'ä|b=c', valued))
        expect([...(await substrate.read(undefined, newCall())).keys()]).to.deep.equal(['pinned'])
        const { fencingToken } = await grant(substrate, claim('valued', 'b', LASTING_MS))
        expect(fencingToken > valued.fencingToken).to.equal(true)
      })

      it('keeps its pins, which are withdrawn by the generation that is read', async () => {
        await settle(substrate, pin('pinned', 'g', 'of-g'))
        const pins = (await substrate.pinned(newCall())).get('pinned')
        expect([...(pins?.keys() ?? [])]).to.deep.equal(['e', 'f', 'g'])
        expect(await settle(substrate, expire('pinned'))).to.have.property('outcome', 'refused')
        await settle(substrate, unpin('pinned', 'e', 'another'))
        expect((await substrate.pinned(newCall(), ['pinned'])).get('pinned')?.size).to.equal(3)
        for (const [entity, generation] of pins ?? []) await settle(substrate, unpin('pinned', entity, generation))
        expect(await substrate.pinned(newCall())).to.have.property('size', 0)
        expect(await readOne(substrate, 'pinned')).to.equal(undefined)
      })

      it('reads what this release writes: the same strings, and entities as they were', async () => {
        const { fencingToken } = await grant(substrate, claim('l', 'a|b', LASTING_MS, { value: 'v' }))
        for (const value of ['w', 'x']) await grant(substrate, extend('l', 'a|b', LASTING_MS, { fencingToken, value }))
        const stored = String(await setting.redis.get(`${base}l:l`))
        const [, token, length, rest = ''] = /^(\d+)\|(\d+)\|(.*)$/.exec(stored) ?? []
        expect([token, length, rest.slice(0, 3)]).to.deep.equal([String(fencingToken), '3', 'a|b'])
        expect(rest.slice(3)).to.match(/^\|\d+\|[^|]*\|=x$/)
        await settle(substrate, pin('l', 'e'))
        expect(await setting.redis.hget(`${base}p`, 'l')).to.equal('["e"]')
      })
    })
  })
}
