import { expect } from 'chai'
import { ErrClaimDenied, ErrNotValid, Manager, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { ErrLimitMismatch } from '#src/semaphore.ts'
import { Throttle, type ThrottleOptions } from '#src/throttle.ts'
import { Bench, rejection, type Process } from './bench.ts'
import { stores } from './stores.ts'

for (const store of stores('redis')) {
  describe(`Throttle on ${store.name}`, () => {
    const period = 2 * store.unitMs
    const long = 8000 * store.unitMs
    let bench: Bench
    let here: Process
    let there: Process

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
    })
    afterEach(() => bench.close())

    function throttle({ manager }: Process, options: Partial<ThrottleOptions> = {}): Throttle {
      return new Throttle({ manager, name: 'mails', n: 3, period, clock: store.clock, ...options })
    }

    it('lets n start at once, in all processes together, and denies the next one', async () => {
      const [a, b] = [throttle(here, { period: long }), throttle(there, { period: long })]
      expect(await bench.within(Promise.all([a.tryStart(), b.tryStart(), a.tryStart()]))).to.deep.equal([
        true,
        true,
        true,
      ])
      for (const one of [a, b]) {
        expect(await bench.within(one.tryStart())).to.equal(false)
        const error = await rejection(bench.within(one.start({ wait: false })), ErrClaimDenied)
        expect(error.message).to.equal('"mails" may not start: 3 have in the last period, or others are ahead')
      }
      expect(await bench.within(throttle(there, { name: 'others', period: long }).tryStart())).to.equal(true)
    })

    it('never lets more than n start within a period, however many wait', async () => {
      const throttles = [throttle(here), throttle(there), throttle(bench.process())]
      const starts: { readonly fromMs: number; readonly toMs: number }[] = []
      const work = async (one: Throttle): Promise<void> => {
        for (let turn = 0; turn < 3; turn++) {
          await one.start()
          starts.push({ fromMs: store.clock.monotonic(), toMs: store.clock.monotonic() })
        }
      }
      const beganMs = store.clock.monotonic()
      await bench.within(Promise.all(throttles.map(work)))
      expect(starts).to.have.length(9)
      // Nine starts, three at most in each period, take two periods at least.
      expect(store.clock.monotonic() - beganMs).to.be.at.least(0.99 * 2 * period)
      if (!store.exact) return
      for (const [index, { toMs }] of starts.slice(3).entries()) {
        expect(toMs - (starts[index]?.fromMs ?? 0)).to.be.at.least(0.99 * period)
      }
    })

    it('serves those who wait in order, and forgets one that has given up', async () => {
      const [a, b] = [throttle(here, { n: 1 }), throttle(there, { n: 1 })]
      await bench.within(a.start())
      const order: string[] = []
      const giveUp = new AbortController()
      const given = rejection(b.start({ signal: giveUp.signal }), Error)
      const waiting = ['first', 'second'].map((name) => a.start().then(() => order.push(name)))
      await store.pass(store.unitMs / 10)
      giveUp.abort(new Error('never mind'))
      expect((await bench.within(given)).message).to.equal('never mind')
      await bench.within(Promise.all(waiting))
      expect(order).to.deep.equal(['first', 'second'])
    })

    it('those who share it must agree on n', async () => {
      await bench.within(throttle(here, { period: long }).start())
      const error = await rejection(bench.within(throttle(there, { n: 4, period: long }).start()), ErrLimitMismatch)
      expect(error).to.include({ n: 3, asked: 4 })
      expect(error.message).to.match(/^throttle ".+" has n equal to 3, not 4$/)
      await rejection(bench.within(throttle(there, { n: 4, period: long }).tryStart()), ErrLimitMismatch)
    })

    it('a single try takes no `wait`', async () => {
      const call = throttle(here).tryStart({ wait: true } as never)
      expect((await rejection(call, ErrNotValid)).message).to.match(/^wait is not an option/)
    })

    if (!store.exact) return

    it('tells of no loss, sends one request for each start, and leaves nothing behind', async () => {
      const events: string[] = []
      here.manager.events.subscribe(({ type }) => events.push(type))
      const one = throttle(here)
      await bench.within(one.start())
      const before = here.sent
      await bench.within(one.start())
      expect(here.sent - before).to.equal(1)
      await store.pass(2 * period)
      expect(events).to.deep.equal(['claimed', 'claimed'])
      expect((await bench.within(there.manager.leases())).size).to.equal(0)
    })

    it('a bounded wait ends in a denial', async () => {
      const one = throttle(here, { n: 1, period: long })
      await bench.within(one.start())
      const waiting = track(one.start({ wait: 500 }))
      await store.pass(499)
      expect(waiting.state).to.equal('pending')
      await store.pass(10)
      expect(waiting.error).to.be.instanceOf(ErrClaimDenied)
    })

    it('options that make no sense are refused, all at once, and nothing is sent', async () => {
      const problems = (create: () => unknown): string[] => {
        try {
          create()
        } catch (error) {
          return (error as ErrNotValid).problems.map(({ argument, rule }) => `${argument} ${rule}`)
        }
        throw new Error('accepted')
      }
      const bad = { manager: 1, name: '', n: 0, period: 1, prefix: 'a b', clock: {}, burst: 2 } as never
      expect(problems(() => new Throttle(bad))).to.deep.equal([
        'burst is not an option',
        'manager must be a Manager',
        'prefix must not contain white space or control characters',
        'name must not be empty',
        'n must be a whole number from 1 to 1073741824',
        'period must be longer than the margin for clocks, 1 ms and 0.1 %',
        'clock must be a Clock',
      ])
      const error = await rejection(throttle(here).start({ wait: -1, signal: 5, retries: 1 } as never), ErrNotValid)
      expect(error.problems.map(({ argument }) => argument)).to.deep.equal(['retries', 'wait', 'signal'])
      expect(here.sent).to.equal(0)
    })
  })
}

describe('Throttle, over a network that takes longer than a period', () => {
  for (const period of [20, 3]) {
    it(`lets one start with the first grant, with a period of ${period} ms and 30 ms for a request`, async () => {
      const clock = new TestClock()
      const store = new MemorySubstrate({ store: new MemoryStore({ clock }) })
      const client = new SubstrateClient({ substrate: new FaultySubstrate(store, { clock, latency: 15 }), clock })
      const manager = new Manager({ client, clock })
      let claims = 0
      manager.events.subscribe(({ type }) => void (type === 'claimed' && claims++))
      const throttle = new Throttle({ manager, name: 'mails', n: 1, period, clock })
      for (const start of [() => throttle.start(), () => throttle.tryStart(), () => throttle.start({ wait: 500 })]) {
        claims = 0
        const started = track<unknown>(start())
        await clock.advance(400)
        expect(started.state).to.equal('fulfilled')
        expect(claims).to.equal(1)
      }
      await manager.stop()
    })
  }
})
