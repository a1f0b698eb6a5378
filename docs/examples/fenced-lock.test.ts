import { expect } from 'chai'
import { ErrClaimDenied, Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { freeLedger, moveLedger, sendInvoices } from './fenced-lock.ts'

describe('example: jobs under a lock', () => {
  let clock: TestClock
  let managers: [Manager, Manager]

  beforeEach(() => {
    clock = new TestClock()
    const store = new MemoryStore({ clock })
    const newManager = () => new Manager({ client: memoryClient({ store, clock }), clock })
    managers = [newManager(), newManager()]
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  it('the invoices of a month are sent by one, those of another month by another', async () => {
    const [a, b] = managers
    const done: string[] = []
    let finish = (): void => {}
    const sending = sendInvoices(a, '2026-03', () => new Promise((resolve) => (finish = resolve)))
    await clock.settle()
    const send = async (): Promise<void> => void done.push('sent')
    expect(await sendInvoices(b, '2026-03', send)).to.equal(false)
    expect(await sendInvoices(b, '2026-04', send)).to.equal(true)
    finish()
    expect(await sending).to.equal(true)
    expect(await sendInvoices(b, '2026-03', send)).to.equal(true)
    expect(done).to.have.length(2)
  })

  it('a move that fails leaves the ledger closed as well', async () => {
    const failed: unknown = await moveLedger(managers[0], () => Promise.reject(new Error('half'))).catch(
      (error) => error,
    )
    expect(failed).to.have.property('message', 'half')
    const next = track(moveLedger(managers[1], async () => {}))
    await clock.advance({ minutes: 10 })
    expect(next.error).to.be.instanceOf(ErrClaimDenied)
  })

  it('after a crash the ledger stays closed until a person has looked at it', async () => {
    const [a, b] = managers
    const moving = track(moveLedger(a, () => new Promise(() => {})))
    await clock.settle()
    await a.stop() // and then crashes
    const next = track(moveLedger(b, async () => {}))
    await clock.advance({ minutes: 10 })
    expect(next.error).to.be.instanceOf(ErrClaimDenied)
    const log = console.log
    const lines: unknown[][] = []
    console.log = (...line) => void lines.push(line)
    await freeLedger(b).finally(() => (console.log = log))
    expect(lines).to.deep.equal([['ledger', 'is locked by', 'ledger-mover@eu-1', '(pinned)']])
    const later = moveLedger(b, async () => {})
    await clock.advance({ seconds: 1 }) // waiters that gave up stay ahead in the queue for a moment
    await later
    expect(moving.state).to.equal('pending')
  })
})
