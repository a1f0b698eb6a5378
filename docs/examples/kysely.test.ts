import { expect } from 'chai'
import { Kysely, PostgresDialect } from 'kysely'
import { ErrNotHeld } from 'lease-core'
import { enoughOf, postgresTargets } from 'lease-servers'
import { openBank, type Bank } from './bank.ts'
import { transfer, withdraw, type Tables } from './kysely.ts'
import { failure } from './rivals.ts'

for (const target of enoughOf(postgresTargets())) {
  describe(`example: Kysely, on ${target.name}`, () => {
    let bank: Bank
    let db: Kysely<Tables>
    before(async () => {
      bank = await openBank(target)
      db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: bank.pool }) })
    })
    after(() => bank[Symbol.asyncDispose]()) // it ends the pool that db uses
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

    it('the transaction as key: the holder moves money', async () => {
      await transfer(db, await bank.hold(), 1, 2, 10)
      expect(await bank.balances()).to.deep.equal([90, 110])
    })

    it('the transaction as key: who lost the lease writes nothing, and the transaction is rolled back', async () => {
      const token = await bank.hold()
      await bank.takeOver(token)
      expect(await failure(transfer(db, token, 1, 2, 10))).to.be.instanceOf(ErrNotHeld)
      const late = db.transaction().execute(async (trx) => {
        await trx.insertInto('ledger').values({ account: 1, amount: 10 }).execute()
        await token.check(trx)
      })
      expect(await failure(late)).to.be.instanceOf(ErrNotHeld)
      expect(await bank.balances()).to.deep.equal([100, 100])
      expect(await bank.entries()).to.equal(0)
    })
  })
}
