import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { postgresClient } from 'lease-postgres'
import { Once } from 'lease-recipes'
import { postgresTargets } from 'lease-servers'
import { openBank, type Bank } from './bank.ts'
import { credit, openPayments, pay } from './once.ts'

describe('example: payments that are made once', () => {
  let managers: readonly [Manager, Manager]
  let charges: number

  beforeEach(() => {
    const store = new MemoryStore()
    managers = [new Manager({ client: memoryClient({ store }) }), new Manager({ client: memoryClient({ store }) })]
    charges = 0
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  const charge = async (): Promise<unknown> => ({ id: `receipt ${++charges}` })

  it('a request that is repeated, in another process too, gets the same receipt', async () => {
    const [here, there] = managers.map(openPayments) as [Once, Once]
    const answers = await Promise.all([pay(here, 'order 1', charge), pay(there, 'order 1', charge)])
    answers.push(await pay(there, 'order 1', charge))
    for (const answer of answers) expect(answer).to.deep.equal({ status: 201, receipt: { id: 'receipt 1' } })
    expect((await pay(here, 'order 2', charge)).receipt).to.deep.equal({ id: 'receipt 2' })
  })

  it('a payment that fails may be tried again', async () => {
    const payments = openPayments(managers[0])
    const declined = pay(payments, 'order 1', () => Promise.reject(new Error('declined')))
    expect(await declined.catch((error: Error) => error.message)).to.equal('declined')
    expect((await pay(payments, 'order 1', charge)).status).to.equal(201)
  })

  it('a payment whose request is still at work is a 409; one that is done and not recorded has its receipt', async () => {
    const clock = new TestClock()
    const manager = new Manager({ client: memoryClient({ store: new MemoryStore({ clock }), clock }), clock })
    const payments = new Once({ manager, clock })
    let end: (receipt: unknown) => void = () => {}
    const first = track(pay(payments, 'order 1', () => new Promise((resolve) => (end = resolve))))
    const second = track(pay(payments, 'order 1', charge))
    await clock.advance(10_001)
    expect(second.value).to.deep.equal({ status: 409 })
    await manager.revoke('once/order%201')
    end('receipt')
    await clock.settle()
    expect(first.value).to.deep.equal({ status: 201, receipt: 'receipt' })
    await manager.stop()
  })
})

for (const target of postgresTargets().slice(0, 1)) {
  describe(`example: credits that are written once, on ${target.name}`, () => {
    let bank: Bank
    before(async () => {
      bank = await openBank(target)
      await bank.reset()
      await bank.pool.query('CREATE TABLE credit (key text PRIMARY KEY)')
    })
    after(() => bank[Symbol.asyncDispose]())

    it('a run that is repeated after a crash writes nothing twice', async () => {
      const client = postgresClient({ pool: bank.pool, namespace: 'bank' })
      const manager = new Manager({ client })
      const payments = openPayments(manager)
      expect(await credit(payments, bank.pool, 'a', 10)).to.equal(110)
      expect(await credit(payments, bank.pool, 'a', 10)).to.equal(110)
      await payments.forget('a') // as if the process had died after its COMMIT
      expect(await credit(payments, bank.pool, 'a', 10)).to.equal(110)
      expect(await credit(payments, bank.pool, 'b', 5)).to.equal(115)
      await manager.stop()
      await client.close()
    })
  })
}
