import { expect } from 'chai'
import { systemClock } from '#src/clock.ts'
import {
  elapsedForHolder,
  elapsedForObserver,
  ElapsedTime,
  elapsedTimeOf,
  RecentReading,
  Stopwatch,
} from '#src/elapsed-time.ts'
import { TestClock } from '#src/testing/index.ts'

/** What a process counts from its first reading to its last; it takes one with each `after`, as timers do each second. */
class Counting {
  readonly clock: TestClock
  readonly #time: ElapsedTime
  readonly #since: ReturnType<ElapsedTime['read']>

  constructor(boot: boolean) {
    this.clock = new TestClock({ boot })
    this.#time = new ElapsedTime(this.clock)
    this.#since = this.#time.read()
  }

  /** Something happens to the clocks, and a reading is taken. */
  async after(happens: (clock: TestClock) => unknown): Promise<this> {
    await happens(this.clock)
    this.#time.read()
    return this
  }

  /** Time passes, with a reading each second. */
  async pass(seconds: number): Promise<this> {
    for (let second = 0; second < seconds; second++) await this.after((clock) => clock.advance(1_000))
    return this
  }

  get holderMs(): number {
    return elapsedForHolder(this.#since, this.#time.read())
  }

  get observerMs(): number {
    return elapsedForObserver(this.#since, this.#time.read())
  }
}

for (const boot of [true, false]) {
  describe(`elapsed time, ${boot ? 'with' : 'without'} the time since boot`, () => {
    it('is what has passed while both clocks run', async () => {
      const counting = await new Counting(boot).pass(100)
      expect([counting.holderMs, counting.observerMs]).to.deep.equal([100_000, 100_000])
    })

    it('wall clock set forward: a holder loses its lease early, an observer is not affected', async () => {
      const counting = await new Counting(boot).pass(5)
      await counting.after((clock) => clock.jumpWall(3_600_000))
      await counting.pass(5)
      expect(counting.holderMs).to.equal(3_610_000)
      expect(counting.observerMs).to.equal(10_000)
    })

    it('wall clock set back: a holder goes on counting, an observer loses one step at most', async () => {
      const counting = await new Counting(boot).pass(5)
      await counting.after((clock) => clock.jumpWall(-3_600_000))
      await counting.pass(5)
      expect(counting.holderMs).to.equal(10_000)
      expect(counting.observerMs).to.be.within(9_000, 10_000)
    })

    it('wall clock set back between two readings that are far apart: a holder goes on counting, an observer never counts too much', async () => {
      const counting = new Counting(boot)
      await counting.clock.jumpWall(-3_600_000)
      await counting.clock.advance(60_000)
      expect(counting.holderMs).to.equal(60_000)
      expect(counting.observerMs).to.equal(boot ? 60_000 : 0)
    })

    it('wall clock frozen: a holder goes on counting, an observer waits where nothing else tells the time', async () => {
      const counting = await new Counting(boot).pass(1)
      counting.clock.freezeWall()
      await counting.pass(10)
      expect(counting.holderMs).to.equal(11_000)
      expect(counting.observerMs).to.equal(boot ? 11_000 : 1_000)
    })

    it('suspended: a holder counts it at the next reading, an observer counts nothing', async () => {
      const counting = await new Counting(boot).pass(1)
      await counting.clock.suspend(70_000)
      expect(counting.holderMs).to.equal(71_000)
      expect(counting.observerMs).to.equal(1_000)
    })

    it('wall clock set back, and suspended for as long after a reading: a holder counts the suspend', async () => {
      const counting = await new Counting(boot).pass(1)
      await counting.after((clock) => clock.jumpWall(-70_000))
      await counting.clock.suspend(70_000)
      expect(counting.holderMs).to.equal(71_000)
    })

    it('a clock that is set again and again never gives a holder time back, nor an observer time that did not pass', async () => {
      const counting = new Counting(boot)
      let [holderMs, observerMs] = [0, 0]
      for (const jumpMs of [-3_600_000, 3, -3, 0.5, 3_600_000, -100, 100, -1, 1, 5_000]) {
        await counting.clock.advance(100)
        await counting.after((clock) => clock.jumpWall(jumpMs))
        expect(counting.holderMs).to.be.at.least(holderMs + 100 - 1)
        expect(counting.observerMs).to.be.within(observerMs, observerMs + 100)
        ;[holderMs, observerMs] = [counting.holderMs, counting.observerMs]
      }
    })

    it('reading more often changes nothing while the clocks run together, though the wall clock shows whole milliseconds', () => {
      let nowMs = 0.9
      const clock = {
        ...systemClock,
        monotonic: () => nowMs,
        now: () => Math.floor(nowMs),
        boot: () => Math.floor(nowMs / 10) * 10,
      }
      const time = new ElapsedTime(clock)
      const since = time.read()
      let now = since
      for (; nowMs < 10_000; nowMs += 0.37) now = time.read()
      expect(elapsedForHolder(since, now)).to.be.closeTo(nowMs - 0.9, 1)
      expect(elapsedForObserver(since, now)).to.be.closeTo(nowMs - 0.9, 1)
    })
  })
}

describe('elapsed time', () => {
  it('wall clock set back and suspended for as long within one second: the time since boot shows it within a second', async () => {
    const counting = await new Counting(true).pass(1)
    await counting.clock.jumpWall(-70_000)
    await counting.clock.suspend(70_000)
    await counting.pass(1)
    expect(counting.holderMs).to.be.at.least(72_000 - 10)
  })

  it('wall clock set forward, then set back and suspended within one second: what it added does not make up for the suspend', async () => {
    const counting = new Counting(true)
    await counting.after((clock) => clock.jumpWall(3_600_000))
    const before = counting.holderMs
    await counting.after((clock) => {
      void clock.jumpWall(-5_000)
      return clock.suspend(900)
    })
    expect(counting.holderMs - before).to.be.at.least(900)
  })

  it('is one for all who use a clock, and a stopwatch counts as a holder does', async () => {
    const clock = new TestClock()
    expect(elapsedTimeOf(clock)).to.equal(elapsedTimeOf(clock))
    const watch = new Stopwatch(clock)
    await clock.suspend(60_000)
    expect(watch.elapsedMs).to.equal(60_000)
    await clock.jumpWall(-90_000)
    expect(watch.elapsedMs).to.equal(60_000)
    await clock.advance(500)
    expect(watch.elapsedMs).to.equal(60_500)
  })

  it('the machine tells the time since it started', () => {
    expect(systemClock.boot?.()).to.be.greaterThan(0)
  })
})

describe('a recent reading', () => {
  /** A clock that counts its readings. */
  function counted() {
    const reads = { monotonic: 0 }
    const at = { monotonicMs: 500.7, wallMs: 1_000 }
    const monotonic = (): number => {
      reads.monotonic++
      return at.monotonicMs
    }
    return { reads, at, clock: { now: () => at.wallMs, monotonic, setTimer: () => ({ cancel: () => {} }) } }
  }

  it('reads the monotonic clock once in a millisecond of the wall clock, and is never behind it', () => {
    const { reads, at, clock } = counted()
    const recent = new RecentReading(clock)
    const since = recent.take()
    const before = reads.monotonic
    for (at.monotonicMs = 500.8; at.monotonicMs < 501.7; at.monotonicMs += 0.1) {
      expect(elapsedForHolder(since, recent.take())).to.be.within(at.monotonicMs - 500.7, 1)
    }
    expect(reads.monotonic).to.equal(before)
    at.wallMs++
    recent.take()
    expect(reads.monotonic).to.equal(before + 1)
  })

  it('sees time pass though the wall clock stands still, after an await and in a loop without one', async () => {
    const { at, clock } = counted()
    const recent = new RecentReading(clock)
    const since = recent.take()
    at.monotonicMs += 60_000
    await Promise.resolve()
    expect(elapsedForHolder(since, recent.take())).to.equal(60_000)
    at.monotonicMs += 60_000
    let elapsedMs = 0
    for (let times = 0; times < 2_000; times++) elapsedMs = elapsedForHolder(since, recent.take())
    expect(elapsedMs).to.be.within(120_000, 120_001)
  })

  it('sees a suspend and a clock that was set at once', async () => {
    const clock = new TestClock()
    const recent = new RecentReading(clock)
    const since = recent.take()
    await clock.suspend(60_000)
    expect(elapsedForHolder(since, recent.take())).to.equal(60_000)
    await clock.jumpWall(-90_000)
    expect(elapsedForHolder(since, recent.take())).to.equal(60_000)
  })
})
