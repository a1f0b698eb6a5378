import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import { ErrNotHeld } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { etcdTargets } from 'lease-servers'
import { setBalance, setUnderBoth, withdraw } from './etcd-guard.ts'
import { failure, openRivals, type Rivals } from './rivals.ts'

for (const target of etcdTargets()) {
  describe(`example: guards in etcd, on ${target.name}`, () => {
    const root = `examples-${process.pid}/`
    const account = `${root}account`
    let etcd: Etcd3
    let rivals: Rivals
    before(() => {
      etcd = new Etcd3({ hosts: [...target.endpoints], ...failFast() })
      rivals = openRivals(() => etcdClient({ etcd, namespace: 'bank', prefix: `${root}lease/` }))
    })
    beforeEach(async () => void (await etcd.put(account).value(100)))
    after(async () => {
      await rivals[Symbol.asyncDispose]()
      await etcd.delete().prefix(root)
      etcd.close()
    })

    async function balance(): Promise<number> {
      return Number(await etcd.get(account))
    }

    it('a comparison: the holder writes', async () => {
      await setBalance(etcd, await rivals.hold(), account, 90)
      expect(await balance()).to.equal(90)
    })

    it('a comparison: who lost the lease writes nothing', async () => {
      const token = await rivals.hold()
      await rivals.takeOver(token)
      await token.check() // worker-1 still relies on its grant: only the trapdoor asks the server
      expect(await failure(setBalance(etcd, token, account, 90))).to.be.instanceOf(ErrNotHeld)
      expect(await balance()).to.equal(100)
    })

    it('two leases: it takes both', async () => {
      const tokens = [await rivals.hold(), await rivals.hold()] as const
      await setUnderBoth(etcd, tokens, account, 1)
      await rivals.takeOver(tokens[1])
      expect(await failure(setUnderBoth(etcd, tokens, account, 2))).to.be.instanceOf(ErrNotHeld)
      expect(await balance()).to.equal(1)
    })

    it('a condition of its own besides: tells "not held" from "changed meanwhile"', async () => {
      const token = await rivals.hold()
      expect(await withdraw(etcd, token, account, 10)).to.equal(true)
      expect(await withdraw(etcd, token, `${root}no-such-account`, 10)).to.equal(false)
      const overtaken = {
        ...token,
        check: async (key: unknown) => {
          await etcd.put(account).value(90) // after the account was read
          return token.check(key)
        },
      }
      expect(await withdraw(etcd, overtaken, account, 10)).to.equal(false)
      await rivals.takeOver(token)
      expect(await failure(withdraw(etcd, token, account, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await balance()).to.equal(90)
    })
  })
}
