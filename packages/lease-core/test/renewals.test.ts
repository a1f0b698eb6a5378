import { expect } from 'chai'
import { Renewals, type Renewable } from '#src/renewals.ts'
import { TestClock } from '#src/testing/index.ts'
import { TimerQueue } from '#src/timer-queue.ts'
import { collectGarbage } from './garbage.ts'

class Bench {
  readonly clock = new TestClock()
  readonly timers = new TimerQueue(this.clock)
  readonly renewals = new Renewals(this.timers, () => this.now)
  /** Which have begun, and how to end them. */
  readonly begun: number[] = []
  readonly dones: (() => void)[] = []

  get now() {
    const monotonicMs = this.clock.monotonic()
    return { monotonicMs, wallMs: 0, atMostMs: monotonicMs, atLeastMs: monotonicMs }
  }

  due(count: number, useless: (index: number) => boolean = () => false): Renewable[] {
    const { begun, dones } = this
    return Array.from({ length: count }, (_, index) => {
      const renewable: Renewable = {
        renewalIndex: -1,
        renewNow(_now, done) {
          if (useless(index)) return false
          begun.push(index)
          dones.push(done)
          return true
        },
      }
      this.renewals.due(renewable, this.now)
      return renewable
    })
  }

  /** Ends so many of those under way. */
  async done(count: number): Promise<void> {
    for (const done of this.dones.splice(0, count)) done()
    await Promise.resolve()
  }
}

describe('Renewals: so many at once, first come, first served', () => {
  it('begins at once while few are under way, and the next as others are done, in order', async () => {
    const bench = new Bench()
    const { begun } = bench
    bench.due(3_000)
    const window = begun.length
    expect(window).to.be.within(512, 2_000)
    const turn = bench.done(100)
    expect(begun.length, 'together, once all of one answer are done').to.equal(window)
    await turn
    expect(begun.length).to.equal(window + 100)
    while (begun.length < 3_000) await bench.done(1)
    expect(begun).to.deep.equal(Array.from({ length: 3_000 }, (_, index) => index))
    expect(bench.clock.pending, 'nothing waits: no timer').to.equal(0)
  })

  it('those whose turn is of no use to them take no place', async () => {
    const bench = new Bench()
    bench.due(5_000, (index) => index >= 1_000 && index < 4_000)
    await bench.done(1_000)
    expect(bench.begun.length).to.equal(2_000)
    expect(bench.begun.at(-1)).to.equal(4_999)
  })

  it('one that is withdrawn has no turn; the others keep their order', async () => {
    const bench = new Bench()
    const all = bench.due(5_000)
    const window = bench.begun.length
    for (const [index, one] of all.entries()) if (index >= window && index % 10 !== 0) bench.renewals.withdraw(one)
    const again = all[2_000] as Renewable
    bench.renewals.withdraw(again)
    bench.renewals.withdraw(again) // harmless
    bench.renewals.due(again, bench.now)
    while (bench.dones.length > 0) await bench.done(500)
    const expected = all.map((_, index) => index).filter((index) => index >= window && index % 10 === 0)
    expect(bench.begun.slice(window)).to.deep.equal([...expected.filter((index) => index !== 2_000), 2_000])
  })

  it('does not refer to what had its turn, nor to what was withdrawn, while thousands wait', async () => {
    const bench = new Bench()
    const all = bench.due(9_000)
    await bench.done(500)
    const served = all.slice(1_100, 1_400).map((one) => new WeakRef(one))
    const withdrawn = all.slice(8_000, 8_200).map((one) => (bench.renewals.withdraw(one), new WeakRef(one)))
    all.length = 0
    await collectGarbage()
    expect(served.filter((ref) => ref.deref() !== undefined).length).to.equal(0)
    expect(withdrawn.filter((ref) => ref.deref() !== undefined).length).to.equal(0)
  })

  it('renewals that hang let the others have their turns soon, up to eight windows', async () => {
    const bench = new Bench()
    bench.due(20_000)
    const window = bench.begun.length
    await bench.clock.advance(20)
    expect(bench.begun.length, 'a store that answers soon is not asked for more').to.equal(window)
    await bench.clock.advance(200)
    expect(bench.begun.length).to.be.at.least(2 * window)
    await bench.clock.advance(10_000)
    expect(bench.begun.length).to.equal(8 * window)
    expect(bench.clock.pending).to.equal(0)
    await bench.done(100)
    await bench.clock.advance(200)
    expect(bench.begun.length).to.equal(8 * window + 100)
  })

  it('while all are answered soon, no more than one window is under way, however long others wait', async () => {
    const bench = new Bench()
    bench.due(20_000)
    const window = bench.begun.length
    for (let round = 0; round < 15; round++) {
      await bench.clock.advance(30)
      expect(bench.dones.length).to.equal(window)
      await bench.done(window)
    }
  })

  it('one that throws takes no place, and the others have their turns', async () => {
    const bench = new Bench()
    const warned = new Promise((resolve) => process.once('warning', resolve))
    const error = new Error('a bad renewal')
    bench.due(1_500, (index) => {
      if (index === 1_200) throw error
      return false
    })
    await bench.done(1_000)
    expect(bench.begun.length).to.equal(1_499)
    expect(await warned).to.equal(error)
  })
})
