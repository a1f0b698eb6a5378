import { expect } from 'chai'
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import { ErrNotHeld } from 'lease-core'
import { enoughOf, postgresTargets } from 'lease-servers'
import { openBank, type Bank } from './bank.ts'
import { transfer, withdraw } from './drizzle.ts'
import { failure } from './rivals.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`example: Drizzle, on ${target.name}`, () => {
    let bank: Bank
    let db: NodePgDatabase
    before(async () => {
      bank = await openBank(target)
      db = drizzle({ client: bank.pool })
    })
    after(() => bank[Symbol.asyncDispose]())
    beforeEach(() => bank.reset())

    it('a predicate in the WHERE: the holder withdraws', async () => {
      await withdraw(db, await bank.hold(), 1, 10)
      expect(await bank.balances()).to.deep.equal([90, 100])
      expect(await bank.entries()).to.equal(1)
    })

    it('a predicate in the WHERE: who lost the lease writes nothing, and the transaction is rolled back', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      expect(await failure(withdraw(db, token, 1, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
      expect(await bank.entries()).to.equal(0)
    })

    it('the predicate alone guards the whole transaction: the holder moves money', async () => {
      await transfer(db, await bank.hold(), 1, 2, 10)
      expect(await bank.balances()).to.deep.equal([90, 110])
    })

    it('the predicate alone guards the whole transaction: who lost the lease writes nothing', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      expect(await failure(transfer(db, token, 1, 2, 10))).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
    })
  })
}
