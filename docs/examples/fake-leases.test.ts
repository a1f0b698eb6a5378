/** How to test an application on fake timers: those of sinon here, of Jest and Vitest in the same way. */
import { expect } from 'chai'
import type { Manager } from 'lease-core'
import { ErrLost } from 'lease-core'
import { FakeLeases } from 'lease-core/testing'
import { spy, useFakeTimers, type SinonFakeTimers } from 'sinon'
import { sendNewsletter } from './newsletter.ts'

/** The application: does a step a minute, for as long as it leads. */
async function lead(manager: Manager, step: () => void): Promise<unknown> {
  const hold = await manager.hold('leader', 'web-1', { duration: { seconds: 30 }, wait: true })
  const timer = setInterval(step, 60_000)
  return await new Promise((resolve) => {
    hold.signal.addEventListener('abort', () => {
      clearInterval(timer)
      resolve(hold.signal.reason)
    })
  })
}

describe('example: testing an application on fake timers', () => {
  let timers: SinonFakeTimers
  let leases: FakeLeases

  beforeEach(() => {
    timers = useFakeTimers()
    leases = new FakeLeases()
  })
  afterEach(async () => {
    await leases[Symbol.asyncDispose]()
    timers.restore()
  })

  it('does nothing while another instance is at it', async () => {
    await leases.take('newsletter') // another process holds it
    const sent = await sendNewsletter(leases.manager, 'web-1', ['ann'], async () => {})
    expect(sent).to.equal(false)
  })

  it('leads when the leader is gone, and stops when it has lost the lease', async () => {
    const step = spy()
    await leases.take('leader')
    const leading = lead(leases.manager, step)
    await timers.tickAsync(600_000)
    expect(step.callCount).to.equal(0)

    await leases.free('leader') // the other process has gone
    await timers.tickAsync(600_000) // renewed all the time
    expect(step.callCount).to.equal(10)

    await leases.take('leader')
    expect(await leading).to.be.instanceOf(ErrLost)
  })

  it('stops in time when the store does not answer', async () => {
    const leading = lead(leases.manager, () => {})
    await timers.tickAsync(600_000)
    leases.cut()
    await timers.tickAsync(30_000)
    expect(await leading).to.include({ reason: 'unreachable' })
  })
})
