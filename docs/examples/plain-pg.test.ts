import { expect } from 'chai'
import { ErrNotHeld } from 'lease-core'
import { postgresTargets } from 'lease-servers'
import { openBank, type Bank } from './bank.ts'
import { inTransaction, transfer, withdraw, withdrawIfThere } from './plain-pg.ts'
import { failure } from './rivals.ts'

for (const target of postgresTargets()) {
  describe(`example: plain pg, on ${target.name}`, () => {
    let bank: Bank
    before(async () => (bank = await openBank(target)))
    after(() => bank[Symbol.asyncDispose]())
    beforeEach(() => bank.reset())

    it('a connection inside a transaction as key: the holder moves money', async () => {
      await transfer(bank.pool, await bank.hold(), 1, 2, 10)
      expect(await bank.balances()).to.deep.equal([90, 110])
    })

    it('a connection inside a transaction as key: who lost the lease writes nothing', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      await token.check() // worker-1 still relies on its grant: only the trapdoor asks the database
      expect(await failure(transfer(bank.pool, token, 1, 2, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('what was written before the guard refused is rolled back', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      const work = inTransaction(bank.pool, async (connection) => {
        await connection.query('UPDATE account SET balance = 0')
        await token.check(connection)
      })
      expect(await failure(work)).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('a predicate in the WHERE: the holder withdraws', async () => {
      await withdraw(bank.pool, await bank.hold(), 1, 10)
      expect(await bank.balances()).to.deep.equal([90, 100])
    })

    it('a predicate in the WHERE: who lost the lease writes nothing', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      expect(await failure(withdraw(bank.pool, token, 1, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })

    it('a predicate asked alone first tells "not held" from "no such account"', async () => {
      const token = await bank.hold()
      expect(await withdrawIfThere(bank.pool, token, 1, 10)).to.equal(true)
      expect(await withdrawIfThere(bank.pool, token, 3, 10)).to.equal(false)
      await bank.takeOver(token)
      expect(await failure(withdrawIfThere(bank.pool, token, 1, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([90, 100])
    })
  })
}
