import { expect } from 'chai'
import { ErrNotHeld, Manager } from 'lease-core'
import { postgresClient } from 'lease-postgres'
import { enoughOf, postgresTargets } from 'lease-servers'
import { openBank, type Bank } from './bank.ts'
import { transferBetween } from './hold-all.ts'
import { failure } from './rivals.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`example: a transfer between two accounts, on ${target.name}`, () => {
    let bank: Bank
    let manager: Manager
    const clients: { close(): Promise<void> }[] = []

    function open(): Manager {
      const client = postgresClient({ pool: bank.pool, namespace: 'transfers' })
      clients.push(client)
      return new Manager({ client })
    }

    before(async () => {
      bank = await openBank(target)
      manager = open()
    })
    after(async () => {
      await manager.stop()
      await Promise.all(clients.map((client) => client.close()))
      await bank[Symbol.asyncDispose]()
    })
    beforeEach(() => bank.reset())

    it('transfers in both directions at once do not block each other', async () => {
      const there = open()
      const transfers = Array.from({ length: 6 }, (_, index) => {
        const [from, to] = index % 2 === 0 ? [1, 2] : [2, 1]
        return transferBetween({ manager: index < 3 ? manager : there, pool: bank.pool }, { from, to, amount: index })
      })
      await Promise.all(transfers)
      await there.stop()
      expect(await bank.balances()).to.deep.equal([103, 97])
      expect((await manager.leases()).size).to.equal(0)
    })

    it('a transfer that loses one of its leases writes nothing', async () => {
      const rival = open()
      const pool = new Proxy(bank.pool, {
        get: (target, name) => {
          if (name !== 'connect') return Reflect.get(target, name) as unknown
          return async () => {
            await rival.revoke('account-2') // an operator, at the last moment
            return target.connect()
          }
        },
      })
      expect(await failure(transferBetween({ manager, pool }, { from: 1, to: 2, amount: 5 }))).to.be.instanceOf(
        ErrNotHeld,
      )
      expect(await bank.balances()).to.deep.equal([100, 100])
      await rival.stop()
    })
  })
}
