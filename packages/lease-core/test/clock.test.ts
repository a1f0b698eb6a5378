import { getEventListeners } from 'node:events'
import { expect } from 'chai'
import { spy, useFakeTimers, type SinonFakeTimers } from 'sinon'
import { sleep, systemClock } from '#src/clock.ts'
import { TestClock, track } from '#src/testing/index.ts'
import { rejection } from './manager.bench.ts'

describe("systemClock: the machine's clocks", () => {
  let time: SinonFakeTimers
  beforeEach(() => (time = useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] })))
  afterEach(() => time.restore())

  it('reads both clocks, and wakes after the delay', () => {
    const [wallMs, monotonicMs] = [systemClock.now(), systemClock.monotonic()]
    const wake = spy()
    systemClock.setTimer(100, wake)
    time.tick(99)
    expect(wake.callCount).to.equal(0)
    time.tick(1)
    expect(wake.callCount).to.equal(1)
    expect([systemClock.now() - wallMs, systemClock.monotonic() - monotonicMs]).to.deep.equal([100, 100])
  })

  it('a wait over 2³¹ − 1 ms is split, and can be cancelled in any part', () => {
    const limit = 2 ** 31 - 1
    const [wake, never] = [spy(), spy()]
    systemClock.setTimer(2 * limit + 500, wake)
    const cancelled = systemClock.setTimer(2 * limit + 500, never)
    time.tick(limit + 10)
    cancelled.cancel()
    time.tick(limit + 489)
    expect(wake.callCount).to.equal(0)
    time.tick(1)
    expect(wake.callCount).to.equal(1)
    expect(never.callCount).to.equal(0)
    expect(time.countTimers()).to.equal(0)
  })

  it('cancelling is harmless afterwards', () => {
    const timer = systemClock.setTimer(1, () => {})
    time.tick(1)
    timer.cancel()
    timer.cancel()
  })
})

describe('sleep', () => {
  it('resolves after the delay, and leaves no listener', async () => {
    const clock = new TestClock()
    const { signal } = new AbortController()
    const asleep = track(sleep(clock, 100, signal))
    await clock.advance(99)
    expect(asleep.state).to.equal('pending')
    await clock.advance(1)
    expect(asleep.state).to.equal('fulfilled')
    expect(getEventListeners(signal, 'abort')).to.deep.equal([])
  })

  it("rejects with the signal's reason at once, and leaves no timer", async () => {
    const clock = new TestClock()
    const controller = new AbortController()
    const asleep = sleep(clock, 100, controller.signal)
    const reason = new RangeError('enough')
    controller.abort(reason)
    expect(await rejection(asleep, RangeError)).to.equal(reason)
    expect(clock.pending).to.equal(0)
    await rejection(sleep(clock, 100, AbortSignal.abort(reason)), RangeError)
    expect(clock.pending).to.equal(0)
  })
})
