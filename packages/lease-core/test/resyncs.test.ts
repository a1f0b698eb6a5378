import { expect } from 'chai'
import { TimerQueue } from '#src/timer-queue.ts'
import { Resyncs } from '#src/resyncs.ts'
import { TestClock } from '#src/testing/index.ts'
import { Bench } from './manager.bench.ts'

describe('Resyncs: how often everything is read anew', () => {
  it('serves a few at once, then one every two seconds, and the last one after it came', async () => {
    const clock = new TestClock()
    const served: number[] = []
    const startedMs = clock.monotonic()
    const resyncs = new Resyncs(clock, new TimerQueue(clock), () => served.push(clock.monotonic() - startedMs))
    for (let ms = 0; ms < 60_000; ms += 75) {
      resyncs.request()
      await clock.advance(75)
    }
    expect(served.slice(0, 5)).to.deep.equal([0, 75, 150, 225, 300])
    expect(served.length).to.be.within(30, 36)
    resyncs.request()
    const { length } = served
    await clock.advance(2_000)
    expect(served).to.have.length(length + 1)
    expect(clock.pending).to.equal(0)
    await clock.advance(60_000)
    for (let count = 0; count < 5; count++) resyncs.request()
    expect(served).to.have.length(length + 6)
  })

  it('a store that cries wolf does not make holds and waiters read each time', async () => {
    const bench = new Bench()
    const { manager, wire, clock } = bench
    for (let index = 0; index < 10; index++) await manager.hold(`l${index}`, 'a', { duration: { hours: 1 } })
    await bench.other().manager.claim('db', 'x', { hours: 1 })
    const waiting = manager.waitUntilExpired('db')
    waiting.catch(() => {})
    await clock.settle()
    wire.resetCounts()
    for (let ms = 0; ms < 60_000; ms += 75) {
      wire.emit({ kind: 'resync' })
      await clock.advance(75)
    }
    expect(wire.counts.read).to.be.lessThan(80)
    await bench.manager.stop()
  })
})
