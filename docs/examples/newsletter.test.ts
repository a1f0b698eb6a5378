/** How to test an application that uses leases: no server, no sleeping, and a clock that the test moves. */
import { expect } from 'chai'
import { ErrNotHeld, Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { sendNewsletter } from './newsletter.ts'

describe('example: testing an application', () => {
  let clock: TestClock
  let managers: [Manager, Manager]
  let sent: string[]

  beforeEach(() => {
    clock = new TestClock()
    const store = new MemoryStore({ clock }) // both instances use one store, as they would use one database
    const newManager = () => new Manager({ client: memoryClient({ store, clock }), clock })
    managers = [newManager(), newManager()]
    sent = []
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  const send = async (recipient: string): Promise<void> => void sent.push(recipient)

  it('a second instance does nothing while the first is at it', async () => {
    expect(await sendNewsletter(managers[0], 'web-1', ['ann', 'bob'], send)).to.equal(true)
    expect(await sendNewsletter(managers[1], 'web-2', ['ann', 'bob'], send)).to.equal(false)
    expect(sent).to.deep.equal(['ann', 'bob'])
  })

  it('an instance that takes too long stops before the next mail', async () => {
    const slow = async (recipient: string): Promise<void> => {
      sent.push(recipient)
      await clock.advance({ minutes: 6 })
      await managers[1].claim('newsletter', 'web-2', { minutes: 5 })
    }
    const error: unknown = await sendNewsletter(managers[0], 'web-1', ['ann', 'bob'], slow).catch((thrown) => thrown)
    expect(error).to.be.instanceOf(ErrNotHeld)
    expect(sent).to.deep.equal(['ann'])
  })

  it('after a crash another instance takes over when the five minutes are past', async () => {
    await managers[0].claim('newsletter', 'web-1', { minutes: 5 }) // and then crashes
    const takeover = managers[1].waitUntilExpired('newsletter')
    await clock.advance({ minutes: 6 })
    await takeover
    expect(await sendNewsletter(managers[1], 'web-2', ['ann'], send)).to.equal(true)
  })
})
