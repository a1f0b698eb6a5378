import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { logLeases, takeAway, whoHolds } from './operator.ts'

describe('example: an operator', () => {
  it('sees who holds a lease, takes it away, and finds all of it in the log', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    const newManager = (): Manager => new Manager({ client: memoryClient({ store, clock }), clock })
    const [worker, operator] = [newManager(), newManager()]
    const lines: string[] = []
    const end = logLeases(worker, {
      info: (line) => lines.push(`info ${line}`),
      warn: (line) => lines.push(`warn ${line}`),
    })

    expect(await whoHolds(operator, 'invoices')).to.equal('nobody')
    const hold = await worker.hold('invoices', 'ann', { duration: { seconds: 30 } })
    const text = await whoHolds(operator, 'invoices')
    expect(text)
      .to.match(/^ann until 2024-01-01T00:00:30/)
      .and.include(`term ${hold.fencingToken}`)
    await takeAway(operator, 'invoices')
    await clock.advance({ seconds: 30 })
    expect(hold.held).to.equal(false)
    expect(await whoHolds(operator, 'invoices')).to.equal('nobody')

    expect(lines[0]).to.match(/^info \{"type":"claimed",.*"lease":"invoices","holder":"ann"/)
    expect(lines.at(-1)).to.match(/^warn \{"type":"lost",.*"reason":"revoked"/)
    end()
    await worker.stop()
    await operator.stop()
  })
})
