import { expect } from 'chai'
import { ErrLost, ErrNotHeld, ErrStopped, type Held } from 'lease-core'
import {
  FencingGate,
  lead,
  MemoryFencingStore,
  using,
  type Candidate,
  type LeaderTerm,
  type LeadWork,
  type LeadOptions,
} from 'lease-recipes'
import { Bench, rejection, type Process } from './bench.ts'
import { stores } from './stores.ts'

/** Work that a test looks into and ends. */
class Work {
  /** The terms of those that have begun, in order. */
  readonly terms: LeaderTerm[] = []
  /** How many are running now. */
  running = 0
  mostRunning = 0
  #end: (() => void)[] = []

  /** Runs until `end`, or until its signal aborts. */
  readonly run = async (term: LeaderTerm): Promise<void> => {
    await this.#during(term, (done) => {
      this.#end.push(done)
      term.signal.addEventListener('abort', done)
    })
  }

  /** Runs until `end`, whatever its signal says. */
  readonly stubborn = async (term: LeaderTerm): Promise<void> => {
    await this.#during(term, (done) => this.#end.push(done))
  }

  end(): void {
    for (const done of this.#end.splice(0)) done()
  }

  async #during(term: LeaderTerm, begin: (done: () => void) => void): Promise<void> {
    this.terms.push(term)
    this.mostRunning = Math.max(this.mostRunning, ++this.running)
    await new Promise<void>((resolve) => begin(resolve))
    this.running--
  }
}

for (const store of stores('redis')) {
  describe(`lead on ${store.name}`, () => {
    /** Of leases that do not lapse, however slow the machine. */
    const lasting = 1000 * store.briefMs
    let bench: Bench
    let here: Process
    let there: Process
    let work: Work

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
      work = new Work()
    })
    afterEach(() => {
      work.end()
      return bench.close()
    })

    function candidate(process: Process, run: LeadWork = work.run, options: LeadOptions = {}): Candidate {
      const all = { clock: store.clock, duration: lasting, ...options }
      return bench.own(lead(process.manager, 'scheduler', run, all))
    }

    const begun = (count: number): Promise<void> =>
      store.until(`${count} runs of the work`, () => work.terms.length >= count)

    it('one leads at a time, and the next begins when the work of the one before has ended', async () => {
      const first = candidate(here)
      await begun(1)
      const second = candidate(there)
      await bench.settled()
      expect([first.isLeader, second.isLeader, work.running]).to.deep.equal([true, false, 1])
      await bench.within(first.stop())
      await begun(2)
      expect([first.isLeader, first.isWorking, second.isLeader]).to.deep.equal([false, false, true])
      const [before, after] = work.terms as [LeaderTerm, LeaderTerm]
      expect(after.fencingToken > before.fencingToken).to.equal(true)
      expect(work.mostRunning).to.equal(1)
    })

    it('the lease is released when the work has ended, and not before', async () => {
      const stubborn = candidate(here, work.stubborn)
      await begun(1)
      const term = work.terms[0] as LeaderTerm
      const stopped = stubborn.stop()
      expect(term.signal.reason).to.be.instanceOf(ErrStopped)
      await store.pass(store.momentMs)
      expect((await bench.within(there.manager.find('scheduler')))?.holder).to.equal(stubborn.holder)
      expect([stubborn.isLeader, stubborn.isWorking]).to.deep.equal([true, true])
      work.end()
      await bench.within(stopped)
      expect(await bench.within(there.manager.find('scheduler'))).to.equal(undefined)
      await stubborn.finished
    })

    it('a term is a Held: `using`, a gate and a check take it', async () => {
      const one = candidate(here)
      await begun(1)
      const term: Held = one.term as Held
      term.assertHeld()
      expect(term.held).to.equal(true)
      expect(term.holder).to.equal(one.holder)
      expect(term.remaining().toMillis()).to.be.within(1, lasting)
      await new FencingGate({ store: new MemoryFencingStore() }).admit('scheduler', term)
      expect((await bench.within(term.token.check())).fencingToken).to.equal(term.fencingToken)
      await bench.within(using(term, () => undefined))
      expect([term.held, term.signal.aborted]).to.deep.equal([false, true])
      expect(() => term.assertHeld()).to.throw(ErrLost)
      await rejection(bench.within(term.token.check()), ErrNotHeld)
    })

    it('work whose lease is revoked is notified, and the candidate campaigns again when it has ended', async () => {
      const losses: string[] = []
      const one = candidate(here, work.stubborn)
      one.on('lost', ({ reason }) => losses.push(reason))
      await begun(1)
      const { signal } = work.terms[0] as LeaderTerm
      await bench.within(there.manager.revoke('scheduler'))
      await store.until('the news', () => signal.aborted)
      expect(signal.reason).to.be.instanceOf(ErrLost)
      expect([one.isLeader, one.isWorking]).to.deep.equal([false, true])
      await store.pass(store.momentMs)
      expect(work.terms).to.have.length(1)
      work.end()
      await begun(2)
      await store.until('the term', () => one.isLeader)
      expect([losses, work.mostRunning]).to.deep.equal([['revoked'], 1])
    })

    it('work that throws resigns, and another leads', async () => {
      const errors: unknown[] = []
      const mine = new Error('mine')
      const failing = candidate(here, () => Promise.reject(mine), { maxPause: lasting })
      failing.on('error', (error) => errors.push(error))
      await store.until('the error', () => errors.length > 0)
      candidate(there)
      await begun(1)
      expect(errors[0]).to.equal(mine)
    })

    it('with `again: false` a candidate ends with its first term, as its work did', async () => {
      const done = candidate(here, async () => 'done', { again: false })
      await bench.within(done.finished)
      const mine = new Error('mine')
      const failing = candidate(here, () => Promise.reject(mine), { again: false })
      expect(await rejection(bench.within(failing.finished), Error)).to.equal(mine)
      expect(await bench.within(there.manager.find('scheduler'))).to.equal(undefined)
    })

    it('a candidate that is stopped while it waits does not lead, and leaves the others waiting', async () => {
      candidate(here)
      await begun(1)
      const second = candidate(there)
      await bench.settled()
      await bench.within(second.stop())
      await second.finished
      expect([second.isLeader, work.terms.length]).to.deep.equal([false, 1])
    })

    it('a manager that is stopped ends the candidacy', async () => {
      const one = candidate(here)
      await begun(1)
      await here.manager.stop()
      await rejection(bench.within(one.finished), ErrStopped)
      expect((work.terms[0] as LeaderTerm).signal.aborted).to.equal(true)
      expect(one.isLeader).to.equal(false)
    })

    it('a lease that is not renewed any more lapses, and another leads beside a work that does not end', async () => {
      const brief = candidate(here, work.stubborn, { duration: store.briefMs })
      await begun(1)
      await bench.within(brief.stop())
      expect([brief.isWorking, work.running]).to.deep.equal([true, 1])
      const next = candidate(there)
      await begun(2)
      await store.until('the term', () => next.isLeader)
      expect(work.running).to.equal(2)
      const [late, current] = work.terms as [LeaderTerm, LeaderTerm]
      await rejection(bench.within(late.token.check()), ErrNotHeld)
      await bench.within(current.token.check())
    })
  })
}
