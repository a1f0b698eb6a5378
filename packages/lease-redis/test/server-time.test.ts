import { expect } from 'chai'
import { systemClock } from 'lease-core'
import { ServerTime } from '#src/server-time.ts'

describe('the time of the server', () => {
  const setUp = () => {
    let nowMs = 1_000
    const clock = { ...systemClock, monotonic: () => nowMs, advance: (ms: number) => void (nowMs += ms) }
    const time = new ServerTime(clock)
    /** An answer of a server whose clock is that far ahead, after these two trips. */
    const answer = (aheadMs: number, thereMs: number, backMs: number): void => {
      const sentMs = clock.monotonic()
      clock.advance(thereMs)
      const micros = Math.floor((clock.monotonic() + aheadMs) * 1000)
      clock.advance(backMs)
      time.learn(micros, sentMs)
    }
    /** By how much it is thought to be ahead at most. */
    const mostAheadMs = (inMs: number = 0): number =>
      time.latestMicros(clock.monotonic() + inMs) / 1000 - clock.monotonic() - inMs
    return { clock, time, answer, mostAheadMs }
  }

  it('is unknown before the first answer', () => {
    const { time, answer } = setUp()
    expect(time.known).to.equal(false)
    answer(0, 1, 1)
    expect(time.known).to.equal(true)
  })

  it('is never thought to be earlier than it is, and hardly later than the trip there took', () => {
    const { answer, mostAheadMs } = setUp()
    answer(5_000, 40, 10)
    expect(mostAheadMs()).to.be.within(5_000, 5_041)
    answer(5_000, 1, 80)
    expect(mostAheadMs()).to.be.within(5_000, 5_002)
    answer(5_000, 300, 1)
    expect(mostAheadMs()).to.be.within(5_000, 5_003)
  })

  it('is known less well as time passes, for clocks drift', () => {
    const { clock, answer, mostAheadMs } = setUp()
    answer(5_000, 1, 1)
    clock.advance(10_000)
    expect(mostAheadMs()).to.be.within(5_010, 5_012)
    expect(mostAheadMs(10_000)).to.be.within(5_020, 5_022)
  })

  it('is learned anew when the clock was set either way, or another server answers', () => {
    const { answer, mostAheadMs } = setUp()
    for (const aheadMs of [5_000, 4_000, 60_000, 0]) {
      answer(aheadMs, 2, 2)
      expect(mostAheadMs()).to.be.within(aheadMs, aheadMs + 3)
    }
  })
})
