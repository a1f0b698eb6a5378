import { expect } from 'chai'
import { ErrNotHeld, ErrTrapdoor, Manager } from 'lease-core'
import { etcdTargets } from 'lease-servers'
import { etcdClient, EtcdGuard } from 'lease-etcd'
import { unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

for (const target of etcdTargets(1)) {
  describe(`a guarded transaction, on ${target.name}`, () => {
    let setting: Setting
    let manager: Manager
    let key: string
    before(() => {
      setting = openSetting(target)
      manager = new Manager({ client: etcdClient({ etcd: setting.etcd, namespace: unique('ns') }) })
    })
    after(async () => {
      await manager.stop()
      await setting[Symbol.asyncDispose]()
    })
    beforeEach(() => (key = unique('account')))

    const written = (): Promise<string | null> => setting.etcd.get(key).string()

    it('is done while the term stands, renewals in between or not, and not afterwards', async () => {
      const { etcd } = setting
      await manager.claim('l', 'a', 60_000)
      const guard = new EtcdGuard()
      await manager.token('l', 'a').check(guard)
      await manager.claim('l', 'a', 90_000)
      guard.assertHeld(await guard.if(etcd).then(etcd.put(key).value('1')).commit())
      expect(await written()).to.equal('1')
      await manager.release('l', 'a')
      const late = await etcd
        .if(...guard.comparison)
        .then(etcd.put(key).value('2'))
        .commit()
      expect(() => guard.assertHeld(late))
        .to.throw(ErrNotHeld)
        .that.includes({ lease: 'l', holder: 'a' })
      await manager.claim('l', 'a', 60_000) // a later term of the same holder
      expect((await guard.if(etcd).then(etcd.put(key).value('3')).commit()).succeeded).to.equal(false)
      expect(await written()).to.equal('1')
      await manager.release('l', 'a')
    })

    it('demands every term that was checked with the guard', async () => {
      const { etcd } = setting
      await Promise.all([manager.claim('from', 'a', 60_000), manager.claim('to', 'a', 60_000)])
      const guard = new EtcdGuard()
      await manager.token('from', 'a').check(guard)
      await manager.token('to', 'a').check(guard)
      expect(guard.comparisons).to.have.length(2)
      expect(() => guard.comparison).to.throw(ErrTrapdoor, /several/)
      guard.assertHeld(await guard.if(etcd).then(etcd.put(key).value('1')).commit())
      await manager.release('to', 'a')
      const late = await guard.if(etcd).then(etcd.put(key).value('2')).commit()
      expect(() => guard.assertHeld(late)).to.throw(ErrNotHeld, /another of the 2 terms/)
      expect(await written()).to.equal('1')
    })

    it('demands the terms of several holders of one lease, and of one name over two drivers', async () => {
      const { etcd } = setting
      const guard = new EtcdGuard()
      await (await manager.claim('handed', 'a', 60_000)).check(guard)
      await manager.release('handed', 'a')
      await (await manager.claim('handed', 'b', 60_000)).check(guard)
      expect(guard.comparisons).to.have.length(2)
      const result = await guard.if(etcd).then(etcd.put(key).value('1')).commit()
      expect(() => guard.assertHeld(result)).to.throw(ErrNotHeld)

      const twice = new EtcdGuard()
      const namespace = unique('ns')
      for (const one of [etcd, setting.newEtcd()]) {
        await setting.substrate({ etcd: one, namespace }).trapdoor('l', 'a', 7n)(twice)
      }
      expect(twice.comparisons).to.have.length(2)
    })

    it('takes the later term of the same lease and holder instead of the earlier one', async () => {
      const { etcd } = setting
      const guard = new EtcdGuard()
      for (let term = 0; term < 2; term++) {
        await (await manager.claim('again', 'a', 60_000)).check(guard)
        guard.assertHeld(await guard.if(etcd).then(etcd.put(key).value('1')).commit())
        await manager.release('again', 'a')
      }
      expect(guard.comparisons).to.have.length(1)
    })

    it('may have conditions of its own, which the guard cannot tell from its own', async () => {
      const { etcd } = setting
      await manager.claim('own', 'a', 60_000)
      const guard = new EtcdGuard()
      await manager.token('own', 'a').check(guard)
      const transaction = () => guard.if(etcd).and(key, 'Version', '==', 0).then(etcd.put(key).value('1')).commit()
      expect((await transaction()).succeeded).to.equal(true)
      const second = await transaction()
      expect(() => guard.assertHeld(second)).to.throw(ErrNotHeld)
    })

    it('guards nothing before the check, and says so', async () => {
      const guard = new EtcdGuard()
      for (const use of [
        () => guard.comparison,
        () => guard.comparisons,
        () => guard.if(setting.etcd),
        () => guard.assertHeld({ succeeded: true }),
      ]) {
        expect(use).to.throw(ErrTrapdoor, /check\(\) first/)
      }
      await manager
        .token('nobody', 'a')
        .check(guard)
        .catch(() => {})
      expect(() => guard.comparison).to.throw(ErrTrapdoor, /check\(\) first/)
    })

    it('of a namespace() is refused, for its keys are others', async () => {
      await manager.claim('n', 'a', 60_000)
      const guard = new EtcdGuard()
      await manager.token('n', 'a').check(guard)
      expect(() => guard.if(setting.etcd.namespace('app/'))).to.throw(ErrTrapdoor, /namespace\(\)/)
      expect(() => guard.assertHeld({} as { succeeded: boolean })).to.throw(ErrTrapdoor, /commit\(\)/)
    })

    it('with any other key is refused as such', async () => {
      await manager.claim('k', 'a', 60_000)
      for (const key of [{}, setting.etcd, 'guard', 0, null]) {
        const error: unknown = await manager
          .token('k', 'a')
          .check(key)
          .catch((thrown: unknown) => thrown)
        expect(error).to.be.instanceOf(ErrTrapdoor)
      }
    })
  })
}
