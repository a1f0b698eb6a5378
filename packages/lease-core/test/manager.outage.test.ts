/** A store that was away for long, and answers again: it is asked within a second. */
import { expect } from 'chai'
import { LONGEST_RETRY_MS } from '#src/backoff.ts'
import { track } from '#src/testing/index.ts'
import { Bench } from './manager.bench.ts'

/** Instants at which a store answers again: the pauses before are at their longest, and chance decides where it falls into one. */
const outagesMs = Array.from({ length: 10 }, () => 60_000 + Math.random() * 5_000)

describe('A store that answers again after a long outage', () => {
  // Long beside the outages, or the pauses would be cut short by these.
  const more = { wire: { watch: false }, maxSleep: 3_600_000 }

  it('is read for those who wait within a second, and hears of them now and then before', async () => {
    for (const outageMs of outagesMs) {
      const bench = new Bench(more)
      const away = bench.wire.reject(new Error('away'), { kind: 'read' })
      const wait = track(bench.manager.waitUntilExpired('db'))
      await bench.clock.advance(outageMs)
      away.heal()
      await bench.clock.advance(1 + LONGEST_RETRY_MS)
      expect(wait.state).to.equal('fulfilled')
      // Four requests in a row, and then a pause of half a second on average.
      expect(away.hits, 'not a busy loop').to.be.lessThan((outageMs / LONGEST_RETRY_MS) * 12)
      await bench.manager.stop()
    }
  })

  it('is sent the claim of those who wait to hold within a second', async () => {
    for (const outageMs of outagesMs) {
      const bench = new Bench(more)
      const away = bench.wire.reject(new Error('away'), { kind: 'claim' })
      const hold = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
      await bench.clock.advance(outageMs)
      away.heal()
      await bench.clock.advance(1 + LONGEST_RETRY_MS)
      expect(hold.state).to.equal('fulfilled')
      expect(away.hits, 'not a busy loop').to.be.lessThan((outageMs / LONGEST_RETRY_MS) * 12)
      await bench.manager.stop()
    }
  })

  it('is sent the renewal of a hold within a second, however seldom it is renewed', async () => {
    for (const outageMs of outagesMs) {
      const bench = new Bench(more)
      const renewEvery = 200_000
      const hold = await bench.manager.hold('db', 'a', { duration: 3 * renewEvery, renewEvery })
      const away = bench.wire.reject(new Error('away'), { kind: 'extend' })
      await bench.clock.advance(renewEvery + outageMs)
      expect(away.hits).to.be.greaterThan(0)
      const before = bench.wire.counts.extend
      away.heal()
      await bench.clock.advance(1 + LONGEST_RETRY_MS)
      expect(bench.wire.counts.extend).to.be.greaterThan(before)
      const info = await hold.token.check()
      expect(info.expiry.toMillis() - bench.clock.now()).to.be.within(3 * renewEvery - 2_000, 3 * renewEvery + 2_000)
      expect(away.hits, 'not a busy loop').to.be.lessThan((outageMs / LONGEST_RETRY_MS) * 12)
      await bench.manager.stop()
    }
  })

  it('loses no hold whose window outlasts the outage by a second', async () => {
    for (let turn = 0; turn < 10; turn++) {
      const bench = new Bench(more)
      const hold = await bench.manager.hold('db', 'a', { duration: 30_000 })
      const away = bench.wire.reject(new Error('away'), { kind: 'extend' })
      await bench.clock.advance(28_500)
      away.heal()
      await bench.clock.advance(30_000)
      expect(hold.held).to.equal(true)
      await bench.manager.stop()
    }
  })
})
