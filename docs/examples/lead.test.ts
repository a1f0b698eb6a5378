import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { sendInvoices, shutDown, type Invoices } from './lead.ts'

describe('example: one of several servers sends the invoices', () => {
  it('one sends, and the next goes on when it shuts down: each invoice is sent once', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    const managers = ['a', 'b'].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
    const [a, b] = managers as [Manager, Manager]
    const due = ['1', '2', '3', '4']
    const sent: string[] = []
    let hurry = (): void => {}
    const invoicesOf = (server: string): Invoices => ({
      next: (signal) => {
        const invoice = due.shift()
        if (invoice !== undefined) return Promise.resolve(invoice)
        return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
      },
      send: async (invoice, token) => {
        if (invoice === '2') await new Promise<void>((resolve) => (hurry = resolve))
        await token.check()
        sent.push(`${invoice} by ${server}`)
      },
    })
    const warnings: unknown[] = []
    const first = sendInvoices(a, invoicesOf('a'), (error) => warnings.push(error))
    await clock.settle()
    const second = sendInvoices(b, invoicesOf('b'), (error) => warnings.push(error))
    await clock.settle()
    expect([first.isLeader, second.isLeader]).to.deep.equal([true, false])

    const down = shutDown(first, a)
    await clock.settle()
    expect(sent).to.deep.equal(['1 by a'])
    hurry()
    await down
    await clock.settle()
    expect(sent).to.deep.equal(['1 by a', '2 by a', '3 by b', '4 by b'])
    await shutDown(second, b)
    expect(warnings).to.deep.equal([])
  })
})
