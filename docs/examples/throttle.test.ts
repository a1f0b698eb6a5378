import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { mailsPerMinute, sendMail, trySendMail } from './throttle.ts'

describe('example: so many mails a minute', () => {
  it('are sent by all servers together, and the rest in the minute after', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock })
    const managers = [1, 2].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
    const [first, second] = managers.map((manager) => mailsPerMinute(manager, 3))
    if (first === undefined || second === undefined) throw new Error('two servers')
    let sent = 0
    const send = async (): Promise<void> => void sent++
    const stop = new AbortController()
    const mails = [first, second, first, second, first].map((throttle) => track(sendMail(throttle, send, stop.signal)))
    await clock.advance(1_000)
    expect(sent).to.equal(3)
    expect(await clock.drive(trySendMail(second, send))).to.equal(false)
    await clock.advance(60_000)
    expect(sent).to.equal(5)
    expect(mails.every(({ state }) => state === 'fulfilled')).to.equal(true)
    for (const manager of managers) await manager.stop()
  })
})
