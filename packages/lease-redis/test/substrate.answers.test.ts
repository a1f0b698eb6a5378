/** Whatever is not an answer of the script is unknown. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrUnknown, Manager } from 'lease-core'
import { RedisGuard, redisClient, type RedisConnection } from 'lease-redis'
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

    // Somebody who shares the connection has the server leave out an answer: what comes next counts as that one, and so on.
    it('of another request is never taken for its own: another connection is used, and holds stay', async () => {
      const namespace = unique('ns')
      const direct = setting.substrate({ namespace })
      const taken = await grant(direct, claim('taken', 'b', LASTING_MS))
      const shared = setting.connect()
      const client = redisClient({ redis: shared, namespace, listen: false })
      const manager = new Manager({ client })
      const hold = await manager.hold('held', 'a', { duration: LASTING_MS })
      void shared.call('CLIENT', 'REPLY', 'SKIP').catch(() => {})
      const one = async (lease: string): Promise<void> => {
        await manager.claim(lease, 'a', LASTING_MS)
        expect((await readOne(direct, lease))?.holder).to.equal('a')
      }
      const other = async (): Promise<void> => {
        expect(await caught(manager.claim('taken', 'a', LASTING_MS))).to.be.instanceOf(ErrClaimDenied)
      }
      await Promise.all([one('l'), other(), manager.find('taken')]) // several, so that the first gets the answer to the last
      for (const lease of ['m', 'n']) {
        await one(lease)
        await other()
      }
      await hold.renew()
      expect(hold.held).to.equal(true)
      expect(await readOne(direct, 'taken')).to.include({ holder: 'b', fencingToken: taken.fencingToken })
      expect(shared.status).to.equal('ready')
      await manager.stop()
      await client.close()
    })

    it('of another guard is never taken for its own: the outcome is unknown', async () => {
      const namespace = unique('ns')
      const shared = setting.connect()
      const client = redisClient({ redis: shared, namespace, listen: false })
      const manager = new Manager({ client })
      const [gone, held] = [new RedisGuard(), new RedisGuard()]
      await (await manager.claim('gone', 'a', LASTING_MS)).check(gone)
      await (await manager.claim('held', 'a', LASTING_MS)).check(held)
      await manager.release('gone', 'a')
      const run = (guard: RedisGuard): Promise<unknown> => guard.run(shared, 'return 1')
      await run(held) // the server knows the script
      for (const [one, others] of [
        [gone, held],
        [held, gone],
      ] as const) {
        void shared.call('CLIENT', 'REPLY', 'SKIP').catch(() => {})
        const first = run(one)
        for (let n = 0; n < 4; n++) void run(others).catch(() => {})
        expect(await caught(first)).to.be.instanceOf(ErrUnknown)
        shared.disconnect(true)
        await shared.ping()
      }
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
