import { expect } from 'chai'
import { getEventListeners } from 'node:events'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrNotValid,
  ErrUnknown,
  Manager,
  MemoryStore,
  MemorySubstrate,
} from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track, type Tracked } from 'lease-core/testing'
import { ErrNoResult, ErrNotRecorded, Once, type OnceOptions, type OnceScope, type OnceStore } from 'lease-recipes'
import { Bench, rejection, unhandledDuring, type Process } from './bench.ts'
import { moments } from './moments.ts'
import { stores } from './stores.ts'

/** Work that goes on until the test ends it. */
class Work<T> {
  begun = 0
  scope: OnceScope | undefined
  end: (result: T) => void = () => {}
  fail: (error: unknown) => void = () => {}
  readonly #outcome: Promise<T>

  constructor() {
    this.#outcome = new Promise((resolve, reject) => Object.assign(this, { end: resolve, fail: reject }))
    this.#outcome.catch(() => {})
  }

  readonly run = (scope: OnceScope): Promise<T> => {
    this.begun++
    this.scope = scope
    return this.#outcome
  }
}

for (const store of stores('redis')) {
  describe(`Once on ${store.name}`, () => {
    const lasting = 1000 * store.briefMs
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

    function once(process: Process, more: Partial<OnceOptions> = {}): Once {
      const { manager } = process
      return new Once({ manager, duration: lasting, keepResult: lasting, clock: store.clock, ...more })
    }

    /** Begins work that goes on until it is ended. */
    async function begin(
      process: Process,
      key: string,
      more: Partial<OnceOptions> = {},
    ): Promise<[Work<string>, Tracked<string>]> {
      const work = new Work<string>()
      const call = track(once(process, more).run(key, work.run))
      await store.until('the work', () => work.begun > 0 || call.state !== 'pending')
      return [work, call]
    }

    const never = (): never => {
      throw new Error('the work was done again')
    }

    it('run does the work of a key once, and later calls get its result, in any process', async () => {
      const result = { id: 5, tags: ['a', null], text: 'ä\0\n€' }
      expect(await once(here).run('order 1', () => result)).to.equal(result)
      expect(await once(here).run('order 1', never)).to.deep.equal(result)
      expect(await once(there).run('order 1', never, { wait: true })).to.deep.equal(result)
      expect(await once(there).run('order 2', () => 'another')).to.equal('another')
      expect(await once(there, { prefix: 'other' }).run('order 1', () => 'another')).to.equal('another')
    })

    it('work that fails leaves the key free, and its error is the caller’s', async () => {
      const mine = new Error('mine')
      expect(
        await once(here)
          .run('k', () => Promise.reject(mine))
          .catch((error: unknown) => error),
      ).to.equal(mine)
      expect(await once(there).run('k', () => 'second')).to.equal('second')
    })

    it('a key in progress elsewhere is refused to a call that does not wait', async () => {
      const [work, call] = await begin(here, 'k')
      expect(await rejection(once(there).run('k', never), ErrClaimDenied)).to.have.property('lease', 'once/k')
      await rejection(once(here).run('k', never), ErrClaimDenied)
      const brief = rejection(once(there).run('k', never, { wait: store.exact ? 10 : 1 }), ErrClaimDenied)
      await bench.within(brief)
      work.end('done')
      expect(await call.promise).to.equal('done')
    })

    it('calls that wait get the result of the run in progress', async () => {
      const [work, call] = await begin(here, 'k')
      const waiting = [there, there, here].map((process) => track(once(process).run('k', never, { wait: true })))
      await bench.settled()
      work.end('done')
      await store.until('all results', () => waiting.every(({ state }) => state !== 'pending'))
      expect(waiting.map(({ value }) => value)).to.deep.equal(['done', 'done', 'done'])
      expect(await call.promise).to.equal('done')
    })

    it('a call that waits does the work when the run in progress fails', async () => {
      const [work, call] = await begin(here, 'k')
      const next = new Work<string>()
      const waiting = track(once(there).run('k', next.run, { wait: true }))
      await bench.settled(there)
      work.fail(new Error('mine'))
      await store.until('the next run', () => next.begun > 0)
      next.end('second')
      expect(await waiting.promise).to.equal('second')
      expect(call.error).to.have.property('message', 'mine')
      expect((next.scope?.fencingToken as bigint) > (work.scope?.fencingToken as bigint)).to.equal(true)
    })

    it('of many calls at once, in two processes, one does the work', async () => {
      let runs = 0
      const calls = Array.from({ length: 20 }, (_, index) =>
        once(index % 2 === 0 ? here : there).run('k', async () => ++runs, { wait: true }),
      )
      expect(new Set(await bench.within(Promise.all(calls)))).to.deep.equal(new Set([1]))
      expect(runs).to.equal(1)
    })

    it('a run whose process died is repeated, and what it returns after all is not recorded', async () => {
      const [work, call] = await begin(here, 'k', { duration: store.briefMs })
      here.pause()
      const waiting = once(there).run('k', () => 'of the second', { wait: true })
      expect(await bench.within(waiting)).to.equal('of the second')
      work.end('of the first')
      here.resume()
      const error = await rejection(bench.within(call.promise), ErrNotRecorded)
      expect([error.reason, error.result, error.key]).to.deep.equal(['lost', 'of the first', 'k'])
      expect(await once(there).run('k', never)).to.equal('of the second')
      expect(work.scope?.signal.aborted).to.equal(true)
    })

    it('a result is not recorded when the key was forgotten meanwhile, and the key is free', async () => {
      const [work, call] = await begin(here, 'k')
      await once(there).forget('k')
      work.end('of the first')
      expect((await rejection(call.promise, ErrNotRecorded)).reason).to.equal('lost')
      expect(await there.manager.find('once/k')).to.equal(undefined)
      expect(await once(there).run('k', () => 'of the second')).to.equal('of the second')
      await once(here).forget('k')
      await once(here).forget('k')
      expect(await once(here).run('k', () => 'of the third')).to.equal('of the third')
    })

    it('the token of the scope is of the run', async () => {
      await once(here)
        .run('k', async ({ token, fencingToken, signal }) => {
          expect((await token.check()).fencingToken).to.equal(fencingToken)
          expect(signal.aborted).to.equal(false)
          await there.manager.revoke('once/k')
          await there.manager.claim('once/k', 'rival', lasting)
          await store.until('the news', () =>
            here.manager
              .token('once/k', token.holder)
              .check()
              .then(
                () => here.manager.find('once/k').then(() => false),
                () => true,
              ),
          )
          await rejection(token.check(), ErrNotHeld)
        })
        .catch((error: unknown) => expect(error).to.be.instanceOf(ErrNotRecorded))
    })
  })
}

describe('Once', () => {
  const DAY_MS = 86_400_000
  let clock: TestClock
  let memory: MemoryStore
  let network: FaultySubstrate
  let manager: Manager
  let rival: Manager
  let once: Once
  let other: Once

  beforeEach(() => {
    clock = new TestClock()
    memory = new MemoryStore({ clock })
    network = new FaultySubstrate(new MemorySubstrate({ store: memory }), { clock })
    manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
    rival = new Manager({
      client: new SubstrateClient({ substrate: new MemorySubstrate({ store: memory }), clock }),
      clock,
    })
    once = new Once({ manager, clock })
    other = new Once({ manager: rival, clock })
  })
  afterEach(() => Promise.all([manager.stop(), rival.stop()]))

  const never = (): never => {
    throw new Error('the work was done again')
  }

  async function begin(by = once): Promise<[Work<unknown>, Tracked<unknown>]> {
    const work = new Work<unknown>()
    const call = track(by.run('k', work.run))
    await clock.settle()
    expect(work.begun).to.equal(1)
    return [work, call]
  }

  it('a run is two requests, and a result that is kept costs nothing until it lapses by itself', async () => {
    await once.run('warm', () => 1)
    network.resetCounts()
    await once.run('k', () => 1)
    expect([network.counts.roundTrips, network.counts.claim, network.counts.extend]).to.deep.equal([2, 1, 1])
    await clock.advance(DAY_MS - 1000)
    expect(network.counts.roundTrips).to.equal(2)
    expect(await other.run('k', never)).to.equal(1)
    await clock.advance(1001)
    expect(await other.run('k', () => 2)).to.equal(2)
  })

  it('a run is renewed for as long as the work goes on, also where a renewal fails', async () => {
    const [work, call] = await begin()
    await clock.advance(300_000)
    network.reject(new Error('away'), { kind: 'extend', times: 8 })
    await clock.advance(300_000)
    expect([call.state, work.scope?.signal.aborted]).to.deep.equal(['pending', false])
    await rejection(other.run('k', never), ErrClaimDenied)
    work.end(1)
    expect(await call.promise).to.equal(1)
  })

  it('a run whose renewals fail is lost before another can begin, and says so', async () => {
    const [work, call] = await begin()
    network.reject(new Error('away'), {})
    const second = track(other.run('k', () => 'of the second', { wait: true }))
    await clock.advance(29_900)
    expect(work.scope?.signal.aborted).to.equal(false)
    await clock.advance(70)
    expect(work.scope?.signal.reason).to.be.instanceOf(ErrLost).with.property('reason', 'unreachable')
    expect(second.state).to.equal('pending')
    await clock.advance(100)
    expect(second.value).to.equal('of the second')
    network.heal()
    work.end('of the first')
    await clock.settle()
    expect(call.error).to.be.instanceOf(ErrNotRecorded).with.property('reason', 'lost')
  })

  it('a renewal finds out that the lease was revoked or taken, and leaves nothing behind', async () => {
    for (const reason of ['revoked', 'taken']) {
      const [work, call] = await begin()
      network.dropHints()
      await rival.revoke('once/k')
      if (reason === 'taken') await rival.claim('once/k', 'rival', 60_000)
      await clock.advance(10_100)
      expect(work.scope?.signal.reason).to.be.instanceOf(ErrLost).with.property('reason', reason)
      expect((await rival.find('once/k'))?.holder).to.equal(reason === 'taken' ? 'rival' : undefined)
      work.end(1)
      await clock.settle()
      expect(call.error).to.be.instanceOf(ErrNotRecorded).with.property('reason', 'lost')
      network.heal()
    }
  })

  it('renewals that fail are repeated with pauses', async () => {
    const [work, call] = await begin()
    await clock.advance(9_000)
    network.reject(new Error('away'), { kind: 'extend' })
    network.resetCounts()
    await clock.advance(20_000)
    expect(network.counts.extend).to.be.within(8, 300)
    network.heal()
    await clock.advance(1000)
    work.end(1)
    await clock.settle()
    expect([call.state, call.value]).to.deep.equal(['fulfilled', 1])
  })

  it('a suspend shows within a second, and before anything is marked', async () => {
    const [work, call] = await begin()
    await clock.suspend(40_000)
    await clock.advance(1000)
    expect(work.scope?.signal.reason).to.be.instanceOf(ErrLost).with.property('reason', 'expired')
    work.end(1)
    await clock.settle()
    expect(call.error).to.be.instanceOf(ErrNotRecorded)
    await clock.advance(30_000) // the clock of the store stood still as well
    const [second, secondCall] = await begin()
    await clock.suspend(40_000)
    network.resetCounts()
    second.end(2) // no timer has fired yet
    await clock.settle()
    expect(secondCall.error).to.be.instanceOf(ErrNotRecorded)
    expect(network.counts.claim + network.counts.extend).to.equal(0)
  })

  it('a mark of unknown outcome is tried again for as long as the run holds', async () => {
    for (const fault of ['loseReply', 'loseRequest'] as const) {
      const [work, call] = await begin()
      network[fault]({ kind: 'extend' })
      work.end(1)
      await clock.advance(9000)
      expect(call.state).to.equal('pending')
      network.heal()
      await clock.advance(5000)
      expect(call.value).to.equal(1)
      expect(await other.run('k', never)).to.equal(1)
      await other.forget('k')
    }
  })

  it('a mark that is never answered is an ErrNotRecorded with the result, recorded or not', async () => {
    for (const fault of ['loseReply', 'loseRequest'] as const) {
      const [work, call] = await begin()
      network[fault]({ kind: ['extend', 'claim', 'read'] })
      work.end(1)
      while (call.state === 'pending') await clock.advance(1000)
      expect(call.error).to.be.instanceOf(ErrNotRecorded)
      const { reason, result, cause } = call.error as ErrNotRecorded
      expect([reason, result]).to.deep.equal(['no answer', 1])
      expect(cause).to.be.instanceOf(ErrUnknown)
      network.heal()
      await clock.advance(60_000)
      expect(await other.run('k', () => 2)).to.equal(fault === 'loseReply' ? 1 : 2)
      await other.forget('k')
    }
  })

  it('a claim of unknown outcome begins nothing', async () => {
    network.loseReply({ kind: 'claim' })
    const call = track(once.run('k', never))
    while (call.state === 'pending') await clock.advance(1000)
    expect(call.error).to.be.instanceOf(ErrUnknown).and.not.instanceOf(ErrNotRecorded)
    network.heal()
    await clock.advance(20_000)
    expect(await other.run('k', () => 2)).to.equal(2)
  })

  it('a grant whose answer took longer than the lease begins nothing: another is asked for', async () => {
    once = new Once({ manager, clock, duration: 200 })
    const late = network.delay(220, { kind: 'claim', at: 'reply', times: 1 })
    const work = new Work<number>()
    const call = track(once.run('k', work.run))
    await clock.advance(219)
    expect(work.begun).to.equal(0)
    await clock.advance(1000)
    expect([late.hits, work.begun, work.scope?.signal.aborted]).to.deep.equal([1, 1, false])
    work.end(1)
    expect(await call.promise).to.equal(1)
  })

  it('a run hears at once that its lease was revoked', async () => {
    const [work, call] = await begin()
    await rival.revoke('once/k')
    await clock.settle()
    expect(work.scope?.signal.reason).to.be.instanceOf(ErrLost).with.property('reason', 'revoked')
    work.end(1)
    await clock.settle()
    expect(call.error).to.be.instanceOf(ErrNotRecorded).with.property('reason', 'lost')
  })

  it('a mark that comes when the lease was revoked opens no term, and does not count', async () => {
    for (const isTaken of [false, true]) {
      const [work, call] = await begin()
      const late = network.holdBack({ kind: 'extend' })
      work.end('too late')
      await clock.settle()
      await rival.revoke('once/k')
      const next = isTaken ? await begin(other) : undefined
      await late.letGo()
      await clock.settle()
      expect(call.error).to.be.instanceOf(ErrNotRecorded).with.property('reason', 'lost')
      expect((await rival.find('once/k'))?.value).to.equal(isTaken ? 'in progress' : undefined)
      next?.[0].end(1)
      await next?.[1].promise
      network.heal()
      await other.forget('k')
    }
  })

  it('the manager is stopped: a result is not recorded for certain', async () => {
    const [work, call] = await begin()
    await manager.stop()
    work.end(1)
    await clock.settle()
    expect(call.error).to.be.instanceOf(ErrNotRecorded).with.property('reason', 'stopped')
    await clock.advance(30_001)
    expect(await other.run('k', () => 2)).to.equal(2)
  })

  it('a release that fails masks no error of the work, and becomes a warning', async () => {
    const warnings: string[] = []
    const onWarning = ({ name }: Error): void => void warnings.push(name)
    process.on('warning', onWarning)
    network.reject(new Error('away'), { kind: 'release' })
    const call = track(once.run('k', () => Promise.reject(new Error('mine'))))
    while (call.state === 'pending') await clock.advance(1000)
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning)
    expect([(call.error as Error).message, warnings]).to.deep.equal(['mine', ['ErrUnknown']])
  })

  it('a wait that runs out is refused; a key that is done by then is not', async () => {
    const [work, call] = await begin()
    network.dropHints()
    const short = track(other.run('k', never, { wait: 5000 }))
    const long = track(once.run('k', never, { wait: 8000 }))
    await clock.advance(4999)
    expect(short.state).to.equal('pending')
    await clock.advance(1)
    expect(short.error).to.be.instanceOf(ErrClaimDenied)
    work.end(1)
    await call.promise
    await clock.advance(8000)
    expect(long.value).to.equal(1)
  })

  it('a signal ends the wait, and aborts the work’s signal; a result that comes after all is kept', async () => {
    const abort = new AbortController()
    const reason = new Error('enough')
    const { signal } = abort
    const work = new Work<number>()
    const call = track(once.run('k', work.run, { signal }))
    await clock.settle()
    const waiting = track(other.run('k', never, { wait: true, signal }))
    await clock.settle()
    abort.abort(reason)
    await clock.settle()
    expect([waiting.error, work.scope?.signal.reason, call.state]).to.deep.equal([reason, reason, 'pending'])
    work.end(1)
    expect(await call.promise).to.equal(1)
    expect(getEventListeners(signal, 'abort')).to.have.length(0)
    expect(await other.run('k', never)).to.equal(1)
    expect(await once.run('k', never, { signal }).catch((error: unknown) => error)).to.equal(reason)
    expect(await once.forget('k', { signal }).catch((error: unknown) => error)).to.equal(reason)
  })

  it('a call that is aborted at any moment of its claim keeps nothing', async () => {
    const begins = new Set<boolean>()
    for (const moment of moments(6, 16)) {
      const abort = new AbortController()
      let began = false
      const work = (): Promise<never> => {
        began = true
        return Promise.reject(new Error('mine'))
      }
      const call = track(once.run('k', work, { signal: abort.signal }))
      await moment()
      const before = began
      abort.abort(new Error('enough'))
      await clock.settle()
      expect([began, call.state]).to.deep.equal([before, 'rejected'])
      expect((await rival.leases()).size).to.equal(0)
      begins.add(began)
    }
    expect(begins.size).to.equal(2)
  })

  it('what the work leaves behind hears of the end of the call', async () => {
    const { signal } = await once.run('k', (scope) => ({ signal: scope.signal, toJSON: () => 'a scope' }))
    expect((signal.reason as Error).name).to.equal('AbortError')
    expect(await other.run('k', never)).to.equal('a scope')
  })

  it('results of every kind are kept, nothing too', async () => {
    for (const [index, result] of [undefined, null, '', 0, false, [], 'done 5 x', '\ud800', '\0'].entries()) {
      await once.run(`key ${index}`, () => result)
      expect(await other.run(`key ${index}`, never)).to.deep.equal(result)
    }
  })

  it('a codec of the caller’s makes the text and reads it', async () => {
    const codec = {
      serialize: (result: unknown) => String(result),
      parse: (text: string) => BigInt(text),
    }
    await new Once({ manager, clock, ...codec }).run('k', () => 12n)
    expect(await new Once({ manager: rival, clock, ...codec }).run('k', never)).to.equal(12n)
    const parse = (): never => {
      throw new Error('mine')
    }
    for (const failing of [parse, async () => parse()]) {
      const error = await rejection(new Once({ manager, clock, parse: failing }).run('k', never), ErrNoResult)
      expect([(error.cause as Error).message, error.key]).to.deep.equal(['mine', 'k'])
    }
  })

  it('a result that cannot be kept is an ErrNotRecorded that has it, and the work is not done again', async () => {
    const circular: unknown[] = []
    circular.push(circular)
    const large = 'x'.repeat(4096)
    const results = { 'too large': large, 'no text': circular }
    for (const [reason, result] of Object.entries(results)) {
      const error = await rejection(
        once.run(reason, () => result),
        ErrNotRecorded,
      )
      expect([error.reason, error.result]).to.deep.equal([reason, result])
      expect(await rejection(other.run(reason, never), ErrNoResult)).to.be.instanceOf(ErrUnknown)
    }
    for (const serialize of [() => 5, () => 'a\0b'] as never[]) {
      const error = await rejection(
        new Once({ manager, clock, serialize }).run(String(serialize), () => 1),
        ErrNotRecorded,
      )
      expect(error.reason).to.equal('no text')
    }
  })

  it('a `serialize` that is async and rejects leaves no unhandled rejection', async () => {
    const serialize = (async () => {
      throw new Error('mine')
    }) as never
    const unhandled = await unhandledDuring(async () => {
      const error = await rejection(
        new Once({ manager, clock, serialize }).run('k', () => 1),
        ErrNotRecorded,
      )
      expect([error.reason, error.result]).to.deep.equal(['no text', 1])
    })
    expect(unhandled).to.deep.equal([])
  })

  it('the largest result that fits is kept in the lease, and one that is larger goes to the store', async () => {
    const kept = new Map<string, string>()
    const sets: unknown[] = []
    const store: OnceStore = {
      get: async (id) => kept.get(id),
      set: async (id, text, keepMs) => void (kept.set(id, text), sets.push([id, keepMs])),
    }
    once = new Once({ manager, clock, store, duration: 30_000, keepResult: 60_000 })
    const room = 4096 - 'done ""'.length
    for (const length of [room, room + 1]) {
      const result = 'x'.repeat(length)
      await once.run(`of ${length}`, () => result)
      expect(await once.run(`of ${length}`, never)).to.equal(result)
    }
    expect(sets).to.have.length(1)
    expect(sets[0]).to.satisfy(
      ([id, keepMs]: [string, number]) => id.startsWith(`once/of%20${room + 1}:`) && keepMs === 90_000,
    )
    const key = `of ${room + 1}`
    expect(await rejection(other.run(key, never), ErrNoResult)).to.have.property(
      'reason',
      'it is in a store, and there is no `store`',
    )
    kept.clear()
    expect(await rejection(once.run(key, never), ErrNoResult)).to.have.property(
      'reason',
      'the `store` does not have it any more',
    )
  })

  it('a store that fails loses no result, and a run that loses its lease meanwhile marks nothing', async () => {
    const large = 'x'.repeat(5000)
    const failing = new Error('mine')
    const set = (): never => {
      throw failing
    }
    const get = (): Promise<never> => Promise.reject(failing)
    once = new Once({ manager, clock, store: { set, get } })
    const error = await rejection(
      once.run('a', () => large),
      ErrNotRecorded,
    )
    expect([error.reason, error.result, error.cause]).to.deep.equal(['store failed', large, failing])
    await rejection(other.run('a', never), ErrNoResult)
    let stored = (): void => {}
    const slow: OnceStore = { set: () => new Promise<void>((resolve) => (stored = resolve)), get }
    once = new Once({ manager, clock, store: slow })
    const call = track(once.run('b', () => large))
    await clock.advance(100_000) // renewed meanwhile
    expect(call.state).to.equal('pending')
    network.reject(new Error('away'), {})
    await clock.advance(30_000)
    expect(call.error).to.be.instanceOf(ErrNotRecorded).with.property('reason', 'lost')
    network.heal()
    stored()
    await clock.settle()
    const waiting = track(new Once({ manager, clock, store: { set: async () => {}, get } }).run('c', () => large))
    await clock.settle()
    expect(waiting.value).to.equal(large)
    expect(await rejection(once.run('c', never), ErrNoResult)).to.have.property('cause', failing)
  })

  it('with `duration` as long as `keepResult` a run whose process died is not repeated meanwhile', async () => {
    once = new Once({ manager, clock, duration: DAY_MS, keepResult: DAY_MS })
    const [, call] = await begin()
    await manager.stop()
    await clock.advance(DAY_MS - 1000)
    await rejection(other.run('k', never), ErrClaimDenied)
    expect(call.state).to.equal('pending')
    await other.forget('k')
    expect(await other.run('k', () => 'by hand')).to.equal('by hand')
  })

  it('nothing is left behind: no timer, no watch, no unhandled rejection', async () => {
    const unhandled = await unhandledDuring(async () => {
      await once.run('warm', () => 1)
      await clock.advance(1000)
      const { pending } = clock
      const [work, call] = await begin()
      const { signal } = new AbortController()
      const waiting = track(once.run('k', never, { wait: 50_000, signal }))
      await clock.settle()
      work.end(1)
      await Promise.all([call.promise, waiting.promise])
      await clock.settle()
      expect([clock.pending - pending, getEventListeners(signal, 'abort').length]).to.deep.equal([0, 0])
      await once.run('failing', () => Promise.reject(new Error('mine'))).catch(() => {})
      await clock.advance(1000)
      network.resetCounts()
      await clock.advance(DAY_MS / 2)
      expect(network.counts.roundTrips).to.equal(0)
    })
    expect(unhandled).to.deep.equal([])
  })

  it('keys that differ are different leases, whatever is in them', async () => {
    const keys = ['a', 'A', 'a.b', 'a/b', 'a%2Fb', 'a b', 'ä', '#$', '/', '%']
    for (const key of keys) await once.run(key, () => key)
    for (const key of keys) expect(await other.run(key, never)).to.equal(key)
  })

  it('what is wrong with the arguments is reported at once, and nothing is sent', async () => {
    const bad = {
      manager: 1,
      prefix: 'a b',
      duration: 7,
      keepResult: 0,
      serialize: 2,
      parse: 3,
      store: {},
      clock: 4,
      retries: 5,
    }
    const made = (): Once => new Once(bad as never)
    expect(made)
      .to.throw(ErrNotValid)
      .with.property('problems')
      .that.satisfies((problems: ErrNotValid['problems']) => {
        expect(problems.map(({ argument }) => argument)).to.have.members(Object.keys(bad))
        return true
      })
    const call = once.run('', 'work' as never, { wait: -1, signal: 6, retries: 7 } as never)
    const { problems } = await rejection(call, ErrNotValid)
    expect(problems.map(({ argument }) => argument)).to.have.members(['key', 'work', 'wait', 'signal', 'retries'])
    for (const key of [5, undefined, '\ud800', 'x'.repeat(251)]) {
      await rejection(once.run(key as never, never), ErrNotValid)
      await rejection(once.forget(key as never), ErrNotValid)
    }
    await rejection(once.run('k', never, null as never), ErrNotValid)
    expect(() => new Once(undefined as never)).to.throw(ErrNotValid)
    expect(network.counts.roundTrips).to.equal(0)
  })
})
