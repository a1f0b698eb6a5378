/** Whatever is not an answer of the script is unknown. */
import { expect } from 'chai'
import { ErrUnknown, Manager } from 'lease-core'
import { redisClient, type RedisConnection } from 'lease-redis'
import { caught, claim, extend, grant, newCall, pin, readOne, release, unique } from 'lease-scenes'
import { redisTargets } from 'lease-servers'
import { LASTING_MS, openSetting, type Setting } from './setting.ts'

for (const target of redisTargets('server')) {
  describe(`what is no answer, on ${target.name}`, () => {
    let setting: Setting
    before(() => (setting = openSetting(target.url)))
    after(() => setting[Symbol.asyncDispose]())

    it('from a connection in the MULTI of somebody leaves every outcome unknown, and says why', async () => {
      const namespace = unique('ns')
      const shared = setting.connect()
      const substrate = setting.substrate({ redis: shared, namespace })
      const { fencingToken, nonce } = await grant(substrate, claim('l', 'a', LASTING_MS))
      await shared.multi({ pipeline: false })
      for (const call of [
        () => substrate.time(newCall()),
        () => substrate.apply([claim('m', 'a', LASTING_MS)], newCall()),
        () => substrate.apply([extend('l', 'a', 2 * LASTING_MS, { fencingToken })], newCall()),
        () => substrate.apply([release('l', 'a', { fencingToken, nonce })], newCall()),
        () => substrate.apply([pin('l', 'e')], newCall()),
        () => substrate.read(['l'], newCall()),
        () => substrate.read(undefined, newCall()),
        () => substrate.pinned(newCall()),
        () => substrate.inspect(),
      ]) {
        expect((await caught(call())).message).to.match(/opened a MULTI.*QUEUED/)
      }
      await shared.discard()
      expect(await readOne(substrate, 'l')).to.include({ holder: 'a', fencingToken })
    })

    it('to a manager that is queued and discarded makes nobody a holder', async () => {
      const shared = setting.connect()
      const client = redisClient({ redis: shared, namespace: unique('ns'), listen: false, requestTimeout: 1_000 })
      const manager = new Manager({ client })
      await manager.claim('warm', 'up', LASTING_MS)
      await shared.multi({ pipeline: false })
      expect(await caught(manager.claim('l', 'a', LASTING_MS))).to.be.instanceOf(ErrUnknown)
      expect(await caught(manager.leases())).to.be.instanceOf(ErrUnknown)
      await shared.discard()
      expect([...(await manager.leases()).keys()]).to.deep.equal(['warm'])
      await manager.stop()
      await client.close()
    })

    const nonsense: Record<string, unknown> = {
      'a word': 'OK',
      nothing: null,
      'an empty list': [],
      'a list without the time': ['x', ''],
      'the time alone': [1_700_000_000_000_000],
      'fewer verdicts than operations': [1_700_000_000_000_000, ''],
    }
    for (const [what, answer] of Object.entries(nonsense)) {
      it(`such as ${what}, is neither granted nor refused`, async () => {
        const redis = { eval: async () => answer, evalsha: async () => answer } as unknown as RedisConnection
        const substrate = setting.substrate({ redis, listen: false })
        const ops = [claim('l', 'a', LASTING_MS), claim('m', 'a', LASTING_MS)]
        expect((await caught(substrate.apply(ops, newCall()))).message).to.match(/gave no answer/)
        expect((await caught(substrate.read(['l', 'm'], newCall()))).message).to.match(/gave no answer/)
      })
    }
  })
}
