/** A set-up that cannot work fails at once; a store that is merely away is asked again, and the process is warned of it. */
import { expect } from 'chai'
import { StoreFailure } from '#src/adapter.ts'
import { ErrUnknown, type LeaseEvent, type LeaseEvents } from '#src/index.ts'
import { track } from '#src/testing/index.ts'
import { Bench } from './manager.bench.ts'

const noTables = (): StoreFailure => new StoreFailure('the tables are missing: run migrate()', { isSetUp: true })

type Warning = LeaseEvent & { readonly type: 'warning' }

function warningsOf(events: LeaseEvents): readonly Warning[] {
  const warnings: Warning[] = []
  events.subscribe((event) => void (event.type === 'warning' && warnings.push(event)))
  return warnings
}

describe('A set-up of the store that cannot work', () => {
  const waits = {
    'a hold that waits': (bench: Bench) => bench.manager.hold('db', 'a', { duration: 30_000, wait: true }),
    'a hold of any that waits': (bench: Bench) =>
      bench.manager.holdAny(['db', 'dc'], 'a', { duration: 30_000, wait: true }),
    'a wait for a vacancy': (bench: Bench) => bench.manager.waitUntilExpired('db'),
    'an observation': (bench: Bench) => bench.manager.observe('db').next(),
    'a claim': (bench: Bench) => bench.manager.claim('db', 'a', 30_000),
    'a check': (bench: Bench) => bench.manager.token('db', 'a').check(),
    'a release': (bench: Bench) => bench.manager.release('db', 'a'),
    'the pinned leases': (bench: Bench) => bench.manager.pinned(),
  }
  for (const [name, wait] of Object.entries(waits)) {
    it(`ends ${name} at once, with the reason set-up and the words of the store`, async () => {
      const bench = new Bench()
      const broken = bench.wire.reject(noTables())
      const outcome = track<unknown>(wait(bench))
      await bench.clock.advance(0)
      expect(outcome.state).to.equal('rejected')
      expect(outcome.error).to.be.instanceOf(ErrUnknown)
      expect((outcome.error as ErrUnknown).reason).to.equal('set-up')
      expect((outcome.error as Error).message).to.match(/: the tables are missing: run migrate\(\)$/)
      const { hits } = broken
      expect(hits, 'sent once, or twice where hints may have been lost').to.be.within(1, 2)
      await bench.clock.advance(60_000)
      expect(broken.hits, 'not sent again').to.equal(hits)
      await bench.manager.stop()
    })
  }

  it('is tried again once it has worked: somebody is changing it', async () => {
    const bench = new Bench()
    await bench.manager.claim('other', 'a', 30_000)
    await bench.manager.find('other')
    const broken = bench.wire.reject(noTables())
    const hold = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
    const vacancy = track(bench.manager.waitUntilExpired('dc'))
    await bench.clock.advance(10_000)
    expect([hold.state, vacancy.state]).to.deep.equal(['pending', 'pending'])
    broken.heal()
    await bench.clock.advance(2_000)
    expect([hold.state, vacancy.state]).to.deep.equal(['fulfilled', 'fulfilled'])
    await bench.manager.stop()
  })

  it('is not excused by reads that work: a claim without the right to write ends at once', async () => {
    const bench = new Bench()
    await bench.manager.find('db')
    bench.wire.reject(new StoreFailure('this role lacks a right', { isSetUp: true }), { kind: 'claim' })
    const hold = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
    await bench.clock.advance(0)
    expect((hold.error as ErrUnknown).reason).to.equal('set-up')
    await bench.manager.stop()
  })

  it('may have happened is said of a claim whose answer was lost, and not of one that was not sent', async () => {
    const bench = new Bench()
    const away = bench.wire.reject(new StoreFailure('no connection', { isNotDone: true }), { kind: 'claim' })
    const unsent = track(bench.manager.claim('db', 'a', 3_000))
    await bench.clock.advance(10_000)
    expect((unsent.error as Error).message).to.equal('could not claim lease "db": no connection')

    away.heal()
    bench.wire.reject(new Error('reset'), { kind: 'claim' })
    const lost = track(bench.manager.claim('db', 'a', 3_000))
    await bench.clock.advance(10_000)
    expect((lost.error as Error).message).to.equal('could not claim lease "db", it may have happened: reset')
    await bench.manager.stop()
  })
})

describe('A store that is away', () => {
  it('is a warning after five seconds, once for each outage, that names the cause', async () => {
    const bench = new Bench()
    const warnings = warningsOf(bench.manager.events)
    for (const outage of [1, 2]) {
      const away = bench.wire.reject(new Error('connect ECONNREFUSED 127.0.0.1:5432'))
      const hold = track(bench.manager.hold(`db${outage}`, 'a', { duration: 30_000, wait: true }))
      await bench.clock.advance(4_900)
      expect(warnings.length).to.equal(outage - 1)
      await bench.clock.advance(60_000)
      expect(warnings.length).to.equal(outage)
      expect(warnings.at(-1)?.warning).to.equal('store-away')
      expect(warnings.at(-1)?.message).to.include('connect ECONNREFUSED 127.0.0.1:5432')
      away.heal()
      await bench.clock.advance(2_000)
      expect(hold.state).to.equal('fulfilled')
    }
    await bench.manager.stop()
  })
})
