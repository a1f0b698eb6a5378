import { expect } from 'chai'
import { getEventListeners } from 'node:events'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrNotValid,
  ErrStopped,
  ErrTrapdoor,
  ErrUnknown,
  Manager,
  MemoryGuard,
  MemoryStore,
  MemorySubstrate,
  type Held,
} from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { FencingGate, holdAll, MemoryFencingStore, using, type HeldAll, type HoldAllOptions } from 'lease-recipes'
import { Bench, rejection, unhandledDuring, type Process } from './bench.ts'
import { moments } from './moments.ts'
import { stores } from './stores.ts'

for (const store of stores('redis')) {
  describe(`holdAll on ${store.name}`, () => {
    const duration = 1000 * store.briefMs
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

    function hold(process: Process, names: readonly string[], more: Partial<HoldAllOptions> = {}): Promise<HeldAll> {
      const holder = process === here ? 'here' : 'there'
      return holdAll(process.manager, names, holder, { duration, clock: store.clock, ...more })
    }

    /** Who holds what, by the store. */
    async function holders(): Promise<Record<string, string>> {
      const leases = await there.manager.leases()
      return Object.fromEntries([...leases].map(([lease, { holder }]) => [lease, holder]))
    }

    it('holdAll holds every lease, and a release gives every one back', async () => {
      const all = await hold(here, ['b', 'c', 'a'])
      expect(await holders()).to.deep.equal({ a: 'here', b: 'here', c: 'here' })
      expect([all.held, all.signal.aborted, all.holder]).to.deep.equal([true, false, 'here'])
      expect(all.leases).to.deep.equal(['a', 'b', 'c'])
      all.assertHeld()
      await all.token.check()
      await all.release()
      expect(await holders()).to.deep.equal({})
      expect([all.held, all.signal.aborted, all.remaining().toMillis()]).to.deep.equal([false, true, 0])
      expect((all.signal.reason as Error).name).to.equal('AbortError')
      expect(() => all.assertHeld()).to.throw(ErrLost)
      await rejection(all.token.check(), ErrNotHeld)
      const { sent } = here
      await all.release()
      expect(here.sent).to.equal(sent)
    })

    for (const wait of [false, store.exact ? 10 : 1]) {
      it(`holdAll with wait ${wait} gives back what was granted when another has one of the leases`, async () => {
        await there.manager.claim('b', 'rival', duration)
        const error = await bench.within(rejection(hold(here, ['c', 'b', 'a'], { wait }), ErrClaimDenied))
        expect([error.lease, error.currentHolder]).to.deep.equal(['b', 'rival'])
        expect(await holders()).to.deep.equal({ b: 'rival' })
        await (await hold(there, ['a', 'c'])).release()
      })
    }

    it('callers that name the same leases in other orders never block each other', async () => {
      const names = ['a', 'b', 'c', 'd']
      let inside = 0
      const turns = async (process: Process, own: readonly string[]): Promise<void> => {
        for (let turn = 0; turn < 5; turn++) {
          await using(await hold(process, own, { wait: true }), async () => {
            expect(++inside).to.equal(1)
            await Promise.resolve()
            inside--
          })
        }
      }
      await bench.within(Promise.all([turns(here, names), turns(there, names.toReversed())]))
      expect(await holders()).to.deep.equal({})
    })

    it('a waiting call keeps what it has, and is granted the rest when it is free', async () => {
      const rival = await there.manager.hold('b', 'rival', { duration })
      const waiting = track(hold(here, ['a', 'b', 'c'], { wait: true }))
      await store.until('the first lease', async () => (await holders())['a'] === 'here')
      expect([waiting.state, await holders()]).to.deep.equal(['pending', { a: 'here', b: 'rival' }])
      await rival.release()
      const all = await bench.within(waiting.promise)
      expect(await holders()).to.deep.equal({ a: 'here', b: 'here', c: 'here' })
      await all.release()
    })

    it('a call that is aborted while it waits gives back what it has', async () => {
      await there.manager.claim('b', 'rival', duration)
      const abort = new AbortController()
      const waiting = track(hold(here, ['a', 'b'], { wait: true, signal: abort.signal }))
      await store.until('the first lease', async () => (await holders())['a'] === 'here')
      const reason = new Error('enough')
      abort.abort(reason)
      await store.until('the end', () => waiting.state !== 'pending')
      expect(waiting.error).to.equal(reason)
      expect(await holders()).to.deep.equal({ b: 'rival' })
      expect(getEventListeners(abort.signal, 'abort')).to.have.length(0)
    })

    it('a call that loses a lease while it waits gives back the others, and says which was lost', async () => {
      await there.manager.claim('c', 'rival', duration)
      const waiting = track(hold(here, ['a', 'b', 'c'], { wait: true }))
      await store.until('two leases', async () => Object.keys(await holders()).length === 3)
      await there.manager.revoke('b')
      await store.until('the end', () => waiting.state !== 'pending')
      expect(waiting.error).to.be.instanceOf(ErrLost).with.property('lease', 'b')
      expect(await holders()).to.deep.equal({ c: 'rival' })
    })

    it('the loss of one lease ends the whole; the others stay held until the release', async () => {
      const all = await hold(here, ['a', 'b', 'c'])
      await there.manager.revoke('b')
      await store.until('the news', () => all.signal.aborted)
      expect(all.signal.reason).to.be.instanceOf(ErrLost).with.property('lease', 'b')
      expect([all.held, all.remaining().toMillis()]).to.deep.equal([false, 0])
      expect(() => all.assertHeld())
        .to.throw(ErrLost)
        .with.property('lease', 'b')
      await rejection(all.token.check(), ErrNotHeld)
      expect(await holders()).to.deep.equal({ a: 'here', c: 'here' })
      await all.release()
      expect(await holders()).to.deep.equal({})
      expect(() => all.assertHeld()).to.throw(ErrLost)
      expect(all.signal.reason).to.be.instanceOf(ErrLost)
    })

    it('its fencing tokens rise, and the one of the whole is that of the first lease', async () => {
      const before = await hold(here, ['b', 'a'])
      await before.release()
      const after = await hold(there, ['a', 'b'])
      for (const lease of ['a', 'b']) {
        expect((after.fencingTokens.get(lease) as bigint) > (before.fencingTokens.get(lease) as bigint)).to.equal(true)
      }
      expect(after.fencingToken).to.equal(after.fencingTokens.get('a'))
      expect([after.token.fencingToken, after.token.lease]).to.deep.equal([after.fencingToken, 'a'])
      expect(after.tokens.map(({ lease }) => lease)).to.deep.equal(['a', 'b'])
      await after.release()
    })

    it('it is a Held: `using` and the gate take it', async () => {
      const gate = new FencingGate({ store: new MemoryFencingStore() })
      const first: Held = await hold(here, ['a', 'b'])
      const result = await using(first, async ({ fencingToken }) => {
        await gate.admit('both', first)
        return fencingToken
      })
      expect(result).to.equal(first.fencingToken)
      await using(await hold(there, ['a', 'b']), ({ lock }) => gate.admit('both', lock))
      await rejection(gate.admit('both', first), ErrNotHeld)
      await using(await hold(here, ['b']), () => {})
      expect(await holders()).to.deep.equal({})
    })

    for (const lost of ['a', 'c']) {
      it(`the loss of lease "${lost}" aborts the signal, and a release leaves no listener`, async () => {
        const abort = new AbortController()
        const all = await hold(here, ['a', 'b', 'c'], { signal: abort.signal })
        const listeners = (): number[] => all.holds.map(({ signal }) => getEventListeners(signal, 'abort').length)
        expect([getEventListeners(abort.signal, 'abort').length, ...listeners()]).to.deep.equal([0, 1, 1, 1])
        await there.manager.revoke(lost)
        await store.until('the news', () => all.signal.aborted)
        expect(all.signal.reason).to.be.instanceOf(ErrLost).with.property('lease', lost)
        expect(listeners()).to.deep.equal([0, 0, 0])
        await all.release()
      })
    }

    it('a manager that is stopped ends the wait and what is held', async () => {
      const all = await hold(here, ['x', 'y'])
      await there.manager.claim('b', 'rival', duration)
      const waiting = track(hold(here, ['a', 'b'], { wait: true }))
      await store.until('the first lease', async () => (await holders())['a'] === 'here')
      await here.manager.stop()
      await store.until('the end', () => waiting.state !== 'pending')
      expect([ErrStopped, ErrLost].some((type) => waiting.error instanceof type)).to.equal(true)
      expect(all.signal.reason).to.be.instanceOf(ErrLost)
      await all.release()
    })
  })
}

describe('holdAll', () => {
  const options: HoldAllOptions = { duration: 60_000 }
  let clock: TestClock
  let network: FaultySubstrate
  let manager: Manager
  let rival: Manager

  beforeEach(() => {
    clock = new TestClock()
    const store = new MemoryStore({ clock })
    network = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
    manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
    rival = new Manager({ client: new SubstrateClient({ substrate: new MemorySubstrate({ store }), clock }), clock })
  })
  afterEach(() => Promise.all([manager.stop(), rival.stop()]))

  function hold(names: readonly string[], more: Partial<HoldAllOptions> = {}): Promise<HeldAll> {
    return holdAll(manager, names, 'me', { clock, ...options, ...more })
  }

  async function held(): Promise<string[]> {
    return [...(await rival.leases()).keys()].toSorted()
  }

  it('claims without a wait are one round trip, and so is the release', async () => {
    await (await hold(['x'])).release() // the first call of a client looks at the store's set-up
    network.resetCounts()
    const all = await hold(['c', 'a', 'b'])
    expect([network.counts.roundTrips, network.counts.claim]).to.deep.equal([1, 3])
    network.resetCounts()
    await all.release()
    expect([network.counts.roundTrips, network.counts.release]).to.deep.equal([1, 3])
  })

  it('the order of the names is that of their code units, whatever the caller’s order', async () => {
    const all = await hold(['ä', 'a', 'B', 'z', 'a/b'])
    expect(all.leases).to.deep.equal(['B', 'a', 'a/b', 'z', 'ä'])
    await all.release()
    network.resetCounts()
    await (await hold(['b', 'c', 'a'], { wait: true })).release()
    expect(network.ops.filter(({ kind }) => kind === 'claim').map((op) => op.lease)).to.deep.equal(['a', 'b', 'c'])
  })

  it('a claim of unknown outcome gives the others back and is an ErrUnknown; what it may have taken is free soon', async () => {
    for (const wait of [false, true]) {
      network.loseReply({ kind: 'claim', lease: 'b' })
      const call = track(hold(['a', 'b', 'c'], { wait, duration: 600_000 }))
      if (wait) await clock.advance(20_000) // it is tried again for as long as it waits
      else {
        while (call.state === 'pending') await clock.advance(1000)
        expect(call.error).to.be.instanceOf(ErrUnknown)
        network.heal()
        await clock.advance(20_000)
        expect(await held()).to.deep.equal([])
        continue
      }
      expect([call.state, (await held())[0]]).to.deep.equal(['pending', 'a'])
      network.heal()
      await clock.advance(20_000)
      expect(call.value?.held).to.equal(true)
      await call.value?.release()
    }
  })

  it('a refusal is not reported where another claim is of unknown outcome', async () => {
    await rival.claim('a', 'rival', 600_000)
    network.loseRequest({ kind: 'claim', lease: 'c' })
    const call = track(hold(['a', 'b', 'c']))
    while (call.state === 'pending') await clock.advance(1000)
    expect(call.error).to.be.instanceOf(ErrUnknown)
    network.heal()
    await clock.advance(5000)
    expect(await held()).to.deep.equal(['a'])
  })

  it('the wait is one for all leases together', async () => {
    const [a, b] = [await rival.hold('a', 'rival', options), await rival.hold('b', 'rival', options)]
    const call = track(hold(['a', 'b'], { wait: 10_000 }))
    await clock.advance(8000)
    await a.release()
    await clock.advance(1900)
    expect([call.state, await held()]).to.deep.equal(['pending', ['a', 'b']])
    await clock.advance(200)
    expect(call.error).to.be.instanceOf(ErrClaimDenied)
    expect(await held()).to.deep.equal(['b'])
    await b.release()
  })

  it('what is held while the call waits is renewed; with `renewEvery: false` it is lost', async () => {
    const b = await rival.hold('b', 'rival', options)
    const call = track(hold(['a', 'b'], { wait: true }))
    const unrenewed = track(holdAll(manager, ['A', 'b'], 'other', { ...options, clock, wait: true, renewEvery: false }))
    await clock.advance(300_000)
    expect([call.state, await held()]).to.deep.equal(['pending', ['a', 'b']])
    expect(unrenewed.error).to.be.instanceOf(ErrLost).with.property('lease', 'A')
    await b.release()
    await clock.advance(1000)
    expect(call.value?.held).to.equal(true)
    await call.value?.release()
  })

  it('a release gives every lease back also where one fails, and rejects with the first error at the end', async () => {
    const all = await hold(['a', 'b', 'c'])
    network.reject(new Error('away'), { kind: 'release', lease: 'a' })
    // Not in one round trip with the one that fails, for what travels together is lost together.
    network.contended({ kind: 'release', lease: ['b', 'c'], times: 2 })
    const releasing = track(all.release())
    expect(all.held).to.equal(false)
    while (releasing.state === 'pending') await clock.advance(1000)
    expect(releasing.error).to.be.instanceOf(ErrUnknown).with.property('lease', 'a')
    network.heal()
    expect(await held()).to.deep.equal(['a'])
    await clock.advance(61_000)
    expect(await held()).to.deep.equal([])
    expect(all.release()).to.equal(all.release())
    await all.release().catch(() => {})
  })

  it('dispose masks nothing: a release that fails is the lapse of the leases', async () => {
    network.reject(new Error('away'), { kind: 'release' })
    const disposing = track((await hold(['a', 'b']))[Symbol.asyncDispose]())
    await clock.advance(20_000)
    expect(disposing.state).to.equal('fulfilled')
  })

  it('a listener that releases when it hears of the end changes nothing', async () => {
    const all = await hold(['a', 'b'])
    let again: Promise<void> | undefined
    all.signal.addEventListener('abort', () => {
      expect(() => all.assertHeld()).to.throw(ErrLost)
      again = all.release()
    })
    const releasing = all.release()
    await releasing
    expect(again).to.equal(releasing)
    expect(await held()).to.deep.equal([])
  })

  it('the least of the remaining times counts', async () => {
    const all = await hold(['a', 'b'], { renewEvery: false })
    await clock.advance(10_000)
    await all.holds[0]?.renew()
    expect(all.remaining().toMillis()).to.be.within(49_000, 50_000)
    await clock.advance(50_000)
    expect([all.held, all.holds[0]?.held]).to.deep.equal([false, true])
    expect(all.signal.reason).to.be.instanceOf(ErrLost).with.property('lease', 'b')
    await all.release()
    await clock.advance(100)
    expect(await held()).to.deep.equal([])
  })

  it('a call that is aborted at any moment of its claims keeps nothing', async () => {
    const states = new Map<string, number>()
    for (const wait of [false, true]) {
      for (const moment of moments(6, 16)) {
        const abort = new AbortController()
        const call = track(hold(['a', 'b'], { wait, signal: abort.signal }))
        await moment()
        const before = call.state
        abort.abort(new Error('enough'))
        await clock.settle()
        const state = `${wait}: ${before}, ${call.state}`
        states.set(state, (states.get(state) ?? 0) + 1)
        await call.value?.release()
        expect(await held()).to.deep.equal([])
        expect(getEventListeners(abort.signal, 'abort')).to.have.length(0)
      }
    }
    for (const wait of [false, true]) {
      for (const end of ['pending, rejected', 'fulfilled, fulfilled'])
        expect(states.get(`${wait}: ${end}`)).to.be.above(0)
      // Only one that is granted already, and that `track` has not reported.
      expect(states.get(`${wait}: pending, fulfilled`) ?? 0).to.be.below(3)
    }
  })

  it('a guard in memory runs its body once, and only while every lease is held', async () => {
    const all = await hold(['a', 'b', 'c'])
    let runs = 0
    const guard = new MemoryGuard(() => ++runs)
    expect((await all.token.check(guard)).fencingToken).to.equal(all.fencingToken)
    expect([runs, guard.result]).to.deep.equal([1, 1])
    const mine = new Error('mine')
    const failing = new MemoryGuard(() => {
      throw mine
    })
    expect(await all.token.check(failing).catch((error: unknown) => error)).to.equal(mine)
    await rejection(all.token.check('no key'), ErrTrapdoor)
    for (const lease of ['c', 'b', 'a']) {
      network.dropHints() // this process still relies on it: only the trapdoor asks the store
      await rival.revoke(lease)
      await rejection(all.token.check(guard), ErrNotHeld)
      expect(runs).to.equal(1)
    }
    const one = await hold(['d'])
    await one.token.check(guard)
    expect(runs).to.equal(2)
    await one.release()
  })

  it('names that a Hold of this process has are refused, unless both are shared', async () => {
    const own = await manager.hold('a', 'me', { ...options, shared: true })
    await rejection(hold(['a', 'b']), ErrClaimDenied)
    expect(await held()).to.deep.equal(['a'])
    const all = await hold(['a', 'b'], { shared: true })
    await all.release()
    expect([await held(), own.held]).to.deep.equal([['a'], true])
    await own.release()
  })

  it('what is wrong with the arguments is reported at once, and nothing is sent', async () => {
    const bad = { duration: 0, wait: 'long', signal: 5, clock: 6, retries: 7 } as never
    const { problems } = await rejection(holdAll(manager, ['a', 'a', 'no.name'], 'no holder', bad), ErrNotValid)
    const all = ['retries', 'names[2]', 'names', 'holder', 'duration', 'wait', 'signal', 'clock']
    expect(problems.map(({ argument }) => argument)).to.have.members(all)
    const proxy = new Proxy(['a'], {
      get() {
        throw new Error('unreadable')
      },
    })
    const unhandled = await unhandledDuring(async () => {
      for (const names of [
        [],
        'a',
        undefined,
        null,
        // oxlint-disable-next-line no-sparse-arrays -- a mistake that is easily made
        [, 'b'],
        [5],
        ['a', Symbol('b')],
        ['a', Object.create(null)],
        proxy,
      ]) {
        await rejection(holdAll(manager, names as never, 'me', options), ErrNotValid)
      }
    })
    expect(unhandled).to.deep.equal([])
    await rejection(holdAll(undefined as never, ['a'], 'me', options), ErrNotValid)
    await rejection(holdAll(manager, ['a'], 'me', undefined as never), ErrNotValid)
    expect(network.counts.roundTrips).to.equal(0)
    const late = await hold(['a'], { signal: AbortSignal.abort(new Error('late')) }).catch((error: unknown) => error)
    expect(late).to.have.property('message', 'late')
    expect(network.counts.roundTrips).to.equal(0)
  })
})
