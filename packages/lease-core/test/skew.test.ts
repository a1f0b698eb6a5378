import { expect } from 'chai'
import { Belief } from '#src/belief.ts'
import { systemClock } from '#src/clock.ts'
import { inViewSince } from '#src/observer.ts'
import { elapsedForHolder, elapsedForObserver, Glance, instant, lapseWindowMs, trustWindowMs } from '#src/skew.ts'
import { TestClock } from '#src/testing/index.ts'

const at = (monotonicMs: number, wallMs: number) => ({ monotonicMs, wallMs })

describe('Skew: the arithmetic of trust (decision 1)', () => {
  it('decision 1: a holder trusts 0.1 % and a millisecond less; everyone else waits as much longer', () => {
    expect(trustWindowMs(30_000)).to.equal(29_969)
    expect(lapseWindowMs(30_000)).to.equal(30_031)
    expect(trustWindowMs(1)).to.be.lessThan(0)
  })

  it('decision 1: a holder counts the larger elapsed time, an observer the smaller, never below zero', () => {
    expect(elapsedForHolder(at(0, 0), at(10, 50))).to.equal(50)
    expect(elapsedForHolder(at(0, 0), at(50, -10))).to.equal(50)
    expect(elapsedForObserver(at(0, 0), at(10, 50))).to.equal(10)
    expect(elapsedForObserver(at(0, 0), at(50, 10))).to.equal(10)
    expect(elapsedForObserver(at(0, 0), at(50, -10))).to.equal(0)
  })

  it('decision 1: two clocks that drift apart by 0.1 % never make two believe', () => {
    for (const duration of [1, 100, 30_000, 86_400_000]) {
      expect(trustWindowMs(duration) * 1.001).to.be.lessThan(duration)
      expect(lapseWindowMs(duration) * 0.999).to.be.at.least(duration * 0.999)
    }
  })

  it('decision 1: a version is in view since it was first seen, not last', () => {
    const seen = at(1, 1)
    expect(inViewSince({ version: 'v', seen }, 'v', at(9, 9))).to.equal(seen)
    expect(inViewSince({ version: 'v', seen }, 'w', at(9, 9))).to.deep.equal(at(9, 9))
    expect(inViewSince(undefined, 'v', at(9, 9))).to.deep.equal(at(9, 9))
    expect(inViewSince({ version: undefined, seen }, undefined, at(9, 9))).to.deep.equal(at(9, 9))
  })

  it('decision 2: a later grant never moves the end of trust back', async () => {
    const clock = new TestClock()
    const belief = new Belief('a', 1n, instant(clock), 60_000)
    belief.extend(instant(clock), 1000)
    await clock.advance(59_938)
    expect(belief.trusted(instant(clock))).to.equal(true)
    await clock.advance(1)
    expect(belief.trusted(instant(clock))).to.equal(false)
    expect(belief.leftMs(instant(clock))).to.equal(0)
  })

  it('decision 23: a glance reads the monotonic clock once in a millisecond of the wall clock, and is never behind it', () => {
    const reads: string[] = []
    let [wallMs, monotonicMs] = [1_000, 500.7]
    const clock = {
      ...systemClock,
      now: () => wallMs,
      monotonic: () => {
        reads.push('monotonic')
        return monotonicMs
      },
    }
    const glance = new Glance(clock)
    expect(glance.take()).to.include({ wallMs: 1_000, monotonicMs: 500.7 })
    for (monotonicMs = 500.8; monotonicMs < 501.7; monotonicMs += 0.1) {
      const { monotonicMs: taken } = glance.take()
      expect(taken).to.be.within(monotonicMs, 501.7)
    }
    expect(reads).to.have.length(1)
  })

  it('decision 23: a glance sees a suspend and a clock that was set at once', async () => {
    const clock = new TestClock()
    const glance = new Glance(clock)
    const before = { ...instant(clock), ...glance.take() }
    await clock.suspend(60_000)
    expect(elapsedForHolder(before, glance.take())).to.equal(60_000)
    await clock.jumpWall(-90_000)
    expect(elapsedForHolder(before, glance.take())).to.equal(0)
    expect(glance.take().wallMs).to.equal(clock.now())
  })
})
