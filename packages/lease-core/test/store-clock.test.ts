import { expect } from 'chai'
import { systemClock } from '#src/clock.ts'
import { StoreClock } from '#src/store-clock.ts'

describe('StoreClock: what the clock of the store says by now', () => {
  const setUp = () => {
    let nowMs = 1_000
    const clock = { ...systemClock, monotonic: () => nowMs, advance: (ms: number) => void (nowMs += ms) }
    const store = new StoreClock(clock)
    /** An answer of a store whose clock is that far ahead, after these two trips. */
    const answer = (aheadMs: number, thereMs: number, backMs: number): void => {
      const sentMs = clock.monotonic()
      clock.advance(thereMs)
      const storeMs = clock.monotonic() + aheadMs
      clock.advance(backMs)
      store.learn(storeMs, sentMs)
    }
    /** By how much it is thought to be ahead, at least and at most. */
    const aheadMs = (inMs: number = 0): readonly [number, number] => {
      const thenMs = clock.monotonic() + inMs
      return [store.earliestMs(thenMs) - thenMs, store.latestMs(thenMs) - thenMs]
    }
    return { clock, store, answer, aheadMs }
  }

  it('is unknown before the first answer', () => {
    const { store, answer } = setUp()
    expect(store.known).to.equal(false)
    answer(0, 1, 1)
    expect(store.known).to.equal(true)
  })

  it('lies between the sending and the arrival of each answer: the range narrows with every one', () => {
    const { answer, aheadMs } = setUp()
    answer(5_000, 40, 10)
    expect(aheadMs()).to.deep.equal([4_990, 5_040])
    answer(5_000, 1, 80)
    expect(aheadMs()[0]).to.be.within(4_989, 4_990)
    expect(aheadMs()[1]).to.equal(5_001)
    answer(5_000, 300, 1)
    expect(aheadMs()[0]).to.equal(4_999)
    expect(aheadMs()[1]).to.be.within(5_001, 5_002)
  })

  it('is known less well as time passes, for clocks drift; also where answers an hour apart are alike', () => {
    const { clock, answer, aheadMs } = setUp()
    answer(5_000, 1, 1)
    clock.advance(10_000)
    expect(aheadMs()).to.deep.equal([4_989, 5_011])
    expect(aheadMs(10_000)).to.deep.equal([4_979, 5_021])
    clock.advance(3_600_000)
    answer(5_000, 50, 50)
    expect(aheadMs()).to.deep.equal([4_950, 5_050])
  })

  it('is learned anew when the clock was set either way, or another server answers', () => {
    const { answer, aheadMs } = setUp()
    for (const ahead of [5_000, 4_000, 60_000, 0]) {
      answer(ahead, 2, 2)
      expect(aheadMs()).to.deep.equal([ahead - 2, ahead + 2])
    }
  })
})
