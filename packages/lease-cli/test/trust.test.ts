import { expect } from 'chai'
import { Stopwatch } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { Trust } from '#src/trust.ts'

describe('the trust that lease exec and its guardian count', () => {
  let clock: TestClock

  beforeEach(() => (clock = new TestClock()))

  it('begins before the question, however late the answer comes', async () => {
    const since = new Stopwatch(clock)
    await clock.advance(400)
    expect(new Trust(since, 1000).leftMs).to.equal(600)
  })

  it('runs out while the process is stopped, and while the machine is asleep', async () => {
    const trust = Trust.now(clock, () => 10_000)
    await clock.pause(4_000)
    expect(trust.leftMs).to.equal(6_000)
    await clock.suspend(7_000)
    expect(trust.leftMs).to.be.at.most(-1_000)
  })
})
