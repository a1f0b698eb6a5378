/** What goes wrong between a lock and its store: on memory, behind a network that the test breaks. */
import { expect } from 'chai'
import { ErrClaimDenied, ErrNotHeld, ErrUnknown, Manager, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { FailClosedLock, FailOpenLock, type FencedLock } from 'lease-recipes'
import { errorOf, heard } from './fenced-lock.fixture.ts'

const LEASE_MS = 10_000
const away = new Error('the store is away')

/** A process on a network of its own, with a clock of its own. */
class Machine {
  readonly clock: TestClock
  readonly network: FaultySubstrate
  readonly manager: Manager
  readonly failOpen: FailOpenLock
  readonly brief: FailOpenLock
  readonly failClosed: FailClosedLock

  constructor(store: MemoryStore, clock: TestClock) {
    this.clock = clock
    this.network = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
    const client = new SubstrateClient({ substrate: this.network, clock, requestTimeout: 1000 })
    const manager = new Manager({ client, clock })
    this.manager = manager
    const common = { manager, clock, leaseDuration: LEASE_MS }
    this.failOpen = new FailOpenLock({ ...common, heartbeatPeriod: 2000 })
    /** Without heartbeats. */
    this.brief = new FailOpenLock(common)
    this.failClosed = new FailClosedLock(common)
  }
}

describe('fenced locks when things go wrong', () => {
  let clock: TestClock
  let store: MemoryStore
  let machines: Machine[]
  let a: Machine
  let b: Machine

  beforeEach(() => {
    clock = new TestClock()
    store = new MemoryStore({ clock })
    machines = []
    a = machine()
    b = machine()
  })
  afterEach(() => Promise.all(machines.map(({ manager }) => manager.stop())))

  function machine(of: MemoryStore = store, by: TestClock = clock): Machine {
    const made = new Machine(of, by)
    machines.push(made)
    return made
  }

  const pins = async (): Promise<unknown[]> => [...(await machine().manager.pinned()).values()].flat()

  it('a lock is acquired however distant the store is, with a short wait as with none; another’s is refused', async () => {
    a.network.delay(200)
    for (const locks of [a.failOpen, a.brief, a.failClosed]) {
      for (const wait of [false, 1, 50, 199, 201]) {
        await clock.drive(locks.acquireLock('db', { wait }).then((lock) => lock.release()))
      }
    }
    const lock = await b.failClosed.acquireLock('db')
    for (const locks of [a.failOpen, a.brief, a.failClosed]) {
      for (const wait of [false, 1, 199, 201, 399, 450]) {
        expect(await clock.drive(errorOf(locks.acquireLock('db', { wait })))).to.be.instanceOf(ErrClaimDenied)
      }
    }
    await lock.release()
    await clock.advance(1000)
    expect((await b.manager.leases()).size).to.equal(0)
  })

  describe('fail open', () => {
    it('DT-12: on a store without a clock a lock is taken by one who has watched it for a lease, whatever its clock says', async () => {
      const dumb = new MemoryStore({ clock, serverClock: false })
      const here = machine(dumb)
      const far = new TestClock({ wallMs: clock.now() + 86_400_000, monotonicMs: 7 })
      const there = machine(dumb, far)
      const lock = await here.failOpen.acquireLock('db')
      await here.manager.stop()
      const next = track(there.failOpen.acquireLock('db', { wait: true }))
      await far.advance(LEASE_MS - 100)
      expect(next.state).to.equal('pending')
      await far.advance(200)
      expect((await next.promise).fencingToken > lock.fencingToken).to.equal(true)
    })

    it('DT-19: a heartbeat that fails is notified and tried again, and nobody needs to listen', async () => {
      const [lock, silent] = [await a.failOpen.acquireLock('db'), await a.failOpen.acquireLock('other')]
      const told = heard(lock)
      const fault = a.network.reject(away, { kind: 'extend' })
      await clock.advance(LEASE_MS / 2)
      expect(told.length).to.be.at.least(1)
      expect(told.every((one) => one.startsWith('error: '))).to.equal(true)
      expect(lock.held && silent.held).to.equal(true)
      fault.heal()
      const tellings = told.length
      await clock.advance(10 * LEASE_MS)
      expect(told).to.have.length(tellings)
      expect(lock.held && silent.held).to.equal(true)
      await lock.token.check()
    })

    it('DT-19: a lock that is lost is reported as such, once, and its signal aborts before another has it', async () => {
      const lock = await a.failOpen.acquireLock('db')
      const told = heard(lock)
      a.network.reject(away, { kind: 'extend' })
      const next = track(b.failOpen.acquireLock('db', { wait: true }))
      void next.promise.then(() => told.push('next'))
      await clock.advance(2 * LEASE_MS)
      expect(told.filter((one) => !one.startsWith('error')).map((one) => one.split(':')[0])).to.deep.equal([
        'lost',
        'next',
      ])
      expect((lock.signal.reason as { reason: string }).reason).to.equal('unreachable')
      expect(() => lock.assertHeld()).to.throw('could not be renewed in time')
    })

    it('DT-19: a listener that throws harms nobody', async () => {
      const warnings: Error[] = []
      const warn = (warning: Error): void => void warnings.push(warning)
      process.on('warning', warn)
      const lock = await a.failOpen.acquireLock('db')
      lock.on('lost', () => {
        throw new Error('a listener of mine')
      })
      const told = heard(lock)
      await b.failOpen.forceRelease('db')
      await clock.advance(1000)
      await new Promise((resolve) => setImmediate(resolve))
      process.off('warning', warn)
      expect(told).to.have.length(1)
      expect(warnings.map(({ message }) => message)).to.deep.equal(['a listener of mine'])
    })

    it('DT-21: a release during a heartbeat leaves the lock open, and the late heartbeat does not close it again', async () => {
      const lock = await a.failOpen.acquireLock('db')
      const slow = a.network.hang({ kind: 'extend', at: 'request' })
      await clock.advance(2000)
      expect(a.network.inFlight).to.equal(1)
      const releasing = track(lock.release())
      slow.heal()
      await clock.advance(100)
      expect(releasing.state).to.equal('fulfilled')
      expect(await b.manager.leases()).to.have.property('size', 0)
      const next = await b.failOpen.acquireLock('db')
      await clock.advance(LEASE_MS)
      await next.token.check()
    })

    it('a claim whose reply is lost is one’s own all the same', async () => {
      a.network.loseReply({ kind: 'claim', times: 1 })
      for (const locks of [a.failOpen, a.brief]) {
        const lock = await locks.acquireLock(['db', locks === a.brief ? 1 : 2])
        expect(lock.held).to.equal(true)
      }
    })

    it('a store that cannot be reached is neither a lock nor a refusal', async () => {
      a.network.reject(away)
      for (const locks of [a.failOpen, a.brief, a.failClosed]) {
        const acquiring = track(locks.acquireLock('db'))
        await clock.advance(5000)
        const error = await errorOf(acquiring.promise)
        expect(error).to.be.instanceOf(ErrUnknown)
        expect(error.cause).to.equal(away)
      }
    })

    it('a machine that was asleep finds its lock lost, before any timer says so', async () => {
      const own = new TestClock()
      const sleeper = machine(store, own)
      const locks = [await sleeper.failOpen.acquireLock('db'), await sleeper.brief.acquireLock('other')]
      await own.suspend(LEASE_MS)
      for (const lock of locks) {
        expect(lock.held).to.equal(false)
        expect(lock.signal.aborted).to.equal(true)
      }
    })

    it('one who waits without heartbeats goes on through an outage, and says what it met if that was all', async () => {
      const lock = await a.failOpen.acquireLock('db')
      const fault = b.network.reject(away)
      const bounded = track(b.brief.acquireLock('db', { wait: 20_000 }))
      const patient = track(b.brief.acquireLock('db', { wait: true }))
      await clock.advance(25_000)
      expect(bounded.error).to.be.instanceOf(ErrUnknown)
      fault.heal()
      await lock.release()
      await clock.advance(60_000)
      expect(patient.state).to.equal('fulfilled')
    })

    it('of those who wait without heartbeats in one process only the first contends', async () => {
      const lock = await a.failOpen.acquireLock('db')
      const order: number[] = []
      const crowd = [1, 2, 3, 4, 5].map((place) =>
        b.brief.acquireLock('db', { wait: true }).then(async (mine) => {
          order.push(place)
          await mine.release()
        }),
      )
      const all = track(Promise.all(crowd))
      await clock.advance(100)
      expect(b.network.counts.claim).to.be.at.most(2) // by the first, and once more when it hears of vacancies
      await lock.release()
      await clock.advance(100)
      expect(all.state).to.equal('fulfilled')
      expect(order).to.deep.equal([1, 2, 3, 4, 5])
    })

    it('one who stops waiting in the queue neither holds it up nor lets others past', async () => {
      const lock = await a.failOpen.acquireLock('db')
      const abort = new AbortController()
      const first = track(b.brief.acquireLock('db', { wait: true }))
      const second = track(b.brief.acquireLock('db', { wait: true, signal: abort.signal }))
      const third = track(b.brief.acquireLock('db', { wait: true }))
      const late = track(b.brief.acquireLock('db', { wait: 500 }))
      await clock.advance(100)
      abort.abort(new Error('home'))
      await clock.advance(500)
      expect(second.error).to.have.property('message', 'home')
      expect(late.error).to.be.instanceOf(ErrClaimDenied)
      expect([first.state, third.state]).to.deep.equal(['pending', 'pending'])
      expect(b.network.counts.claim).to.be.at.most(2)
      await lock.release()
      await clock.advance(100)
      expect([first.state, third.state]).to.deep.equal(['fulfilled', 'pending'])
      await (first.value as FencedLock).release()
      await clock.advance(100)
      expect(third.state).to.equal('fulfilled')
    })

    it('DT-20: a lock that is another’s by now, unheard of, is released without an error', async () => {
      for (const locks of [a.failOpen, a.brief]) {
        const lock = await locks.acquireLock('db')
        a.network.dropHints()
        await b.failOpen.forceRelease('db')
        const next = await b.failOpen.acquireLock('db')
        expect(lock.held).to.equal(true)
        await lock.release()
        await next.token.check()
        await next.release()
      }
    })

    it('a lease without heartbeats that was over when its grant arrived is asked for again', async () => {
      const own = new TestClock()
      const sleeper = machine(store, own)
      const slow = sleeper.network.hang({ kind: 'claim', at: 'reply', times: 1 })
      const acquiring = track(sleeper.brief.acquireLock('db'))
      await own.settle()
      expect(sleeper.network.inFlight).to.equal(1)
      await own.pause(LEASE_MS)
      slow.heal()
      await own.advance(100)
      expect(acquiring.value?.held).to.equal(true)
    })

    it('a lease without heartbeats that lapsed while its grant was on its way is claimed anew', async () => {
      const own = new TestClock()
      const sleeper = machine(store, own)
      const slow = sleeper.network.hang({ kind: 'claim', at: 'reply', times: 1 })
      const acquiring = track(sleeper.brief.acquireLock('db'))
      await own.settle()
      slow.heal()
      await Promise.all([own.pause(LEASE_MS + 100), clock.pause(LEASE_MS + 100)]) // the reply is read afterwards
      await own.advance(100)
      expect(acquiring.value?.held).to.equal(true)
      expect(sleeper.network.counts.claim).to.equal(2)
    })

    it('a lease without heartbeats whose grants take longer than it lasts is not handed out', async () => {
      a.network.delay(LEASE_MS, { kind: 'claim', at: 'reply' })
      const client = new SubstrateClient({ substrate: a.network, clock, requestTimeout: 60_000 })
      const manager = new Manager({ client, clock })
      const locks = new FailOpenLock({ manager, clock, leaseDuration: 300 })
      const acquiring = track(locks.acquireLock('db'))
      await clock.advance(300_000)
      expect(acquiring.error).to.be.instanceOf(ErrUnknown)
      await manager.stop()
    })
  })

  describe('fail closed', () => {
    it('a crash between claim and pin costs others the lease, and no person', async () => {
      a.network.hang({ kind: 'pin' })
      const acquiring = track(a.failClosed.acquireLock('db'))
      await clock.advance(100)
      expect(a.network.inFlight).to.equal(1)
      await a.manager.stop()
      await clock.settle()
      expect(acquiring.state).to.equal('rejected')
      expect(await errorOf(b.failClosed.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
      const next = track(b.failClosed.acquireLock('db', { wait: true }))
      await clock.advance(LEASE_MS + 100)
      expect(next.state).to.equal('fulfilled')
      expect(await pins()).to.deep.equal([next.value?.holder])
    })

    it('a crash after the pin leaves the lock closed until a person frees it', async () => {
      a.network.hang({ kind: 'pin', at: 'reply' })
      const acquiring = track(a.failClosed.acquireLock('db'))
      await clock.advance(100)
      await a.manager.stop()
      await clock.settle()
      expect(acquiring.state).to.equal('rejected')
      const next = track(b.failClosed.acquireLock('db', { wait: true }))
      await clock.advance(100 * LEASE_MS)
      expect(next.state).to.equal('pending')
      await b.failClosed.forceRelease('db')
      await clock.advance(100)
      expect(next.state).to.equal('fulfilled')
      expect(await pins()).to.deep.equal([next.value?.holder])
    })

    it('a pin that comes after the term does not count as a lock, and is withdrawn from what is another’s', async () => {
      const client = new SubstrateClient({ substrate: a.network, clock, requestTimeout: 3 * LEASE_MS })
      const manager = new Manager({ client, clock })
      const locks = new FailClosedLock({ manager, clock, leaseDuration: LEASE_MS })
      const slow = a.network.hang({ kind: ['pin', 'extend'] })
      const acquiring = track(locks.acquireLock('db'))
      await clock.advance(LEASE_MS + 100)
      const other = await b.failOpen.acquireLock('db')
      slow.heal()
      await clock.advance(1000)
      expect(acquiring.error).to.be.instanceOf(ErrUnknown)
      expect(await pins()).to.deep.equal([])
      await other.token.check()
      await manager.stop()
    })

    it('a pin whose outcome nobody knows is undone: no lock, and none that is closed for nothing', async () => {
      const fault = a.network.failAfterCommit({ kind: 'pin' })
      const acquiring = track(a.failClosed.acquireLock('db'))
      await clock.advance(5000)
      fault.heal()
      await clock.advance(5000)
      expect(acquiring.error).to.be.instanceOf(ErrUnknown)
      expect(await pins()).to.deep.equal([])
      await b.failClosed.acquireLock('db')
    })

    it('an acquisition that is given up while it pins leaves neither lock nor pin', async () => {
      const slow = a.network.hang({ kind: 'pin', at: 'reply' })
      const abort = new AbortController()
      const acquiring = track(a.failClosed.acquireLock('db', { signal: abort.signal }))
      await clock.advance(100)
      abort.abort(new Error('never mind'))
      await clock.settle()
      expect(acquiring.error).to.have.property('message', 'never mind')
      slow.heal()
      await clock.advance(5000)
      expect(await pins()).to.deep.equal([])
      await b.failClosed.acquireLock('db')
    })

    it('close() resolves when a pin in flight is withdrawn: the manager may be stopped then, and the lock is open', async () => {
      for (const abortsFirst of [false, true]) {
        const process = machine()
        const slow = process.network.delay(200, { kind: 'pin' })
        const abort = new AbortController()
        const acquiring = track(process.failClosed.acquireLock('db', { signal: abort.signal }))
        await clock.advance(100)
        if (abortsFirst) abort.abort(new Error('never mind'))
        const closing = track(process.failClosed.close())
        await clock.settle()
        expect([acquiring.state, closing.state]).to.deep.equal(['rejected', 'pending'])
        await clock.drive(closing.promise)
        slow.heal()
        await process.manager.stop()
        expect(await pins()).to.deep.equal([])
        await (await b.failClosed.acquireLock('db')).release()
      }
    })

    it('close() at a store that does not answer resolves when the client has given its requests up', async () => {
      a.network.hang({ kind: 'pin' })
      const acquiring = track(a.failClosed.acquireLock('db'))
      await clock.advance(100)
      const closing = track(a.failClosed.close())
      await clock.advance(100)
      a.network.hang()
      expect(acquiring.state).to.equal('rejected')
      await clock.advance(60_000)
      expect(closing.state).to.equal('fulfilled')
    })

    it('a crash between the two steps of a release opens the lock by itself', async () => {
      const lock = await a.failClosed.acquireLock('db')
      a.network.hang({ kind: 'release' })
      const releasing = track(lock.release())
      await clock.advance(100)
      await a.manager.stop()
      await clock.settle()
      expect(releasing.state).to.equal('rejected')
      const next = track(b.failClosed.acquireLock('db', { wait: true }))
      await clock.advance(LEASE_MS + 100)
      expect(next.state).to.equal('fulfilled')
    })

    it('a release that fails leaves the lock closed, and can be tried again', async () => {
      const lock = await a.failClosed.acquireLock('db')
      const fault = a.network.reject(away, { kind: ['unpin', 'release'] })
      const failing = track(lock.release())
      await clock.advance(5000)
      expect(failing.error).to.be.instanceOf(ErrUnknown)
      expect(lock.held).to.equal(false)
      expect(await errorOf(b.failClosed.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
      fault.heal()
      await lock.release()
      await lock.release()
      await b.failClosed.acquireLock('db')
    })

    it('a release whose second step alone failed can be tried again, also when the lock is another’s by then', async () => {
      const [lock, other] = [await a.failClosed.acquireLock('db'), await a.failClosed.acquireLock('other')]
      const fault = a.network.reject(away, { kind: 'release' })
      const failing = [track(lock.release()), track(other.release())]
      await clock.advance(5000)
      expect(failing.map(({ state }) => state)).to.deep.equal(['rejected', 'rejected'])
      fault.heal()
      await lock.release()
      await b.failClosed.acquireLock('db')
      await clock.advance(LEASE_MS)
      const next = await b.failClosed.acquireLock('other')
      await other.release()
      await next.token.check()
      expect(await pins()).to.have.members([
        (await b.failClosed.list()).find(({ id }) => id === 'db')?.holder,
        next.holder,
      ])
    })

    it('an outage longer than the lease costs nobody the lock: it is notified, and asked until it is known', async () => {
      const lock = await a.failClosed.acquireLock('db')
      const told = heard(lock)
      const fault = a.network.reject(away)
      await clock.advance(10 * LEASE_MS)
      expect(lock.held).to.equal(true)
      expect(lock.signal.aborted).to.equal(false)
      expect(told.length).to.be.at.least(2)
      expect(told.every((one) => one.startsWith('error: '))).to.equal(true)
      expect(await errorOf(b.failClosed.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
      fault.heal()
      await clock.advance(60_000)
      const tellings = told.length
      await clock.advance(10 * LEASE_MS)
      expect(told).to.have.length(tellings)
      expect((await lock.token.check()).fencingToken).to.equal(lock.fencingToken)
      await b.failClosed.forceRelease('db')
      await clock.advance(1000)
      expect(told.slice(tellings).map((one) => one.split(':')[0])).to.deep.equal(['lost'])
    })

    for (const taken of [true, false]) {
      it(`a lock that was freed ${taken ? 'and taken ' : ''}during an outage is lost when the outage is over`, async () => {
        const lock = await a.failClosed.acquireLock('db')
        a.network.reject(away)
        a.network.disconnectWatch()
        await clock.advance(2 * LEASE_MS)
        await b.failClosed.forceRelease('db')
        const next = taken ? await b.failClosed.acquireLock('db') : undefined
        await clock.advance(LEASE_MS)
        expect(lock.held).to.equal(true) // as far as it can know
        a.network.heal()
        await clock.advance(60_000)
        expect(lock.held).to.equal(false)
        expect((lock.signal.reason as { reason: string }).reason).to.equal(taken ? 'taken' : 'revoked')
        expect(a.network.counts.claim).to.equal(1) // it asked, and did not try to have it anew
        expect(await pins()).to.deep.equal(next === undefined ? [] : [next.holder])
        await next?.token.check()
        if (next === undefined) expect(await b.manager.leases()).to.have.property('size', 0)
      })
    }

    it('a lock that was freed just when the outage is over is lost, and not acquired anew', async () => {
      const lock = await a.failClosed.acquireLock('db')
      const fault = a.network.reject(away)
      await clock.advance(2 * LEASE_MS)
      fault.heal()
      const slow = a.network.hang({ kind: 'extend' })
      const { extend } = a.network.counts
      for (let steps = 0; a.network.counts.extend === extend && steps < 1000; steps++) await clock.advance(100)
      await b.failClosed.forceRelease('db') // after it was asked whether the term stands, before it is renewed
      slow.heal()
      await clock.advance(5000)
      expect((lock.signal.reason as { reason: string }).reason).to.equal('revoked')
      expect(await pins()).to.deep.equal([])
      expect(await b.manager.leases()).to.have.property('size', 0)
    })

    for (const taken of [true, false]) {
      it(`DT-22: a lock that was freed ${taken ? 'and taken ' : ''}unheard of cannot be released`, async () => {
        const lock = await a.failClosed.acquireLock('db')
        a.network.dropHints()
        await b.failClosed.forceRelease('db')
        const next = taken ? await b.failClosed.acquireLock('db') : undefined
        expect(lock.held).to.equal(true)
        expect(await errorOf(lock.release())).to.be.instanceOf(ErrNotHeld)
        expect(await errorOf(lock.release())).to.be.instanceOf(ErrNotHeld)
        await next?.token.check()
        expect(await pins()).to.deep.equal(next === undefined ? [] : [next.holder])
      })
    }

    for (const taken of [true, false]) {
      it(`DT-22: a lock that was freed ${taken ? 'and taken ' : ''}while it is released: an error that says so`, async () => {
        const lock = await a.failClosed.acquireLock('db')
        a.network.delayHints(500)
        await b.failClosed.forceRelease('db')
        const next = taken ? await b.failClosed.acquireLock('db') : undefined
        a.network.delay(900, { kind: 'unpin' })
        const releasing = track(lock.release())
        await clock.advance(2000)
        expect(releasing.error).to.be.instanceOf(ErrNotHeld)
        await next?.token.check()
        expect(await pins()).to.deep.equal(next === undefined ? [] : [next.holder])
      })
    }

    it('a release during an outage is of no use, and after it of full use', async () => {
      const lock = await a.failClosed.acquireLock('db')
      const fault = a.network.reject(away)
      await clock.advance(2 * LEASE_MS)
      const failing = track(lock.release())
      await clock.advance(5000)
      expect(failing.error).to.be.instanceOf(ErrUnknown)
      fault.heal()
      await lock.release()
      await b.failClosed.acquireLock('db')
    })

    it('a machine that was asleep still has its lock', async () => {
      const own = new TestClock()
      const sleeper = machine(store, own)
      const lock = await sleeper.failClosed.acquireLock('db')
      await clock.advance(10 * LEASE_MS)
      expect(await errorOf(b.failClosed.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
      await own.pause(10 * LEASE_MS)
      expect(lock.held).to.equal(true)
      await own.advance(1000)
      expect((await lock.token.check()).pinned).to.equal(true)
      await lock.release()
      await b.failClosed.acquireLock('db')
    })

    it('when the manager stops the lock stays closed, and its holder is notified that nobody asks any more', async () => {
      const lock = await a.failClosed.acquireLock('db')
      const told = heard(lock)
      await a.manager.stop()
      await clock.settle()
      expect(told.map((one) => one.split(':')[0])).to.deep.equal(['lost'])
      expect((lock.signal.reason as { reason: string }).reason).to.equal('unreachable')
      await clock.advance(10 * LEASE_MS)
      expect(await errorOf(b.failClosed.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
    })

    it('a lock that was revoked without a thought of its pin: its holder withdraws it', async () => {
      const [one, two] = [await a.failClosed.acquireLock(1), await a.failClosed.acquireLock(2)]
      await b.manager.revoke(one.lease)
      await clock.advance(100)
      expect(one.held).to.equal(false)
      a.network.dropHints()
      await b.manager.revoke(two.lease)
      await clock.advance(LEASE_MS)
      expect(two.held).to.equal(false)
      expect(await pins()).to.deep.equal([])
    })

    it('a pin that a crash has left behind is withdrawn by the person who frees the lock of the next one', async () => {
      const lock = await a.failClosed.acquireLock('db')
      await a.manager.stop()
      await b.manager.revoke(lock.lease)
      const next = await b.failOpen.acquireLock('db')
      await machine().failClosed.forceRelease('db')
      await clock.advance(100)
      expect(next.held).to.equal(false)
      expect(await pins()).to.deep.equal([])
    })

    it('a person frees it even if an operator has taken the pin off, and leaves pins of others alone', async () => {
      const lock = await a.failClosed.acquireLock('db')
      await b.manager.unpin(lock.lease, lock.holder)
      await b.manager.pin(lock.lease, 'operator')
      await b.failClosed.forceRelease('db')
      expect(await pins()).to.deep.equal(['operator'])
      await clock.advance(100)
      expect(lock.held).to.equal(false)
      await b.failClosed.acquireLock('db')
    })
  })

  it('a waiter does not poll: less than one command in five seconds, whatever it waits for', async () => {
    const open = await a.failOpen.acquireLock('open')
    await a.failClosed.acquireLock('closed')
    const waiting = machine()
    for (const locks of [waiting.failOpen, waiting.brief, waiting.failClosed]) {
      track(locks.acquireLock('open', { wait: true }))
      track(locks.acquireLock('closed', { wait: true }))
    }
    await clock.advance(1000)
    waiting.network.resetCounts()
    await clock.advance({ minutes: 10 })
    const { counts } = waiting.network
    expect(counts.roundTrips / (10 * 60 * 6)).to.be.below(0.2)
    expect(open.held).to.equal(true)
  })

  it('whenever close() comes, an acquisition is rejected or its lock released: nothing is left behind', async () => {
    for (const mode of ['failOpen', 'brief', 'failClosed'] as const) {
      const rejected = new Set<boolean>()
      for (let turns = 0; turns < 60; turns++) {
        const [by, id] = [machine(), `${mode} ${turns}`]
        const acquiring = track(by[mode].acquireLock(id))
        // Requests are sent when the microtasks of a turn are done.
        for (let turn = 0; turn < turns; turn++) await new Promise<void>((resolve) => process.nextTick(resolve))
        await by[mode].close()
        await clock.advance(LEASE_MS + 1000) // at the very worst it lapses
        rejected.add(acquiring.state === 'rejected')
        if (acquiring.state === 'rejected') expect(acquiring.error).to.have.property('name', 'ErrStopped')
        else expect(acquiring.value?.signal.aborted).to.equal(true)
        const left = (await b.manager.leases()).has(`locks:${mode}%20${turns}`)
        expect(left, id).to.equal(mode === 'failClosed' && acquiring.state === 'fulfilled')
        await by.manager.stop()
      }
      expect([...rejected], mode).to.have.members([true, false])
    }
  })

  it('after close() and stop() nothing is left that keeps a process alive', async () => {
    const fault = a.network.reject(away, { kind: 'extend' })
    await a.failOpen.acquireLock('1')
    await a.brief.acquireLock('2')
    await a.failClosed.acquireLock('3')
    track(a.brief.acquireLock('3', { wait: true }))
    track(a.failClosed.acquireLock('3', { wait: 1000 * LEASE_MS }))
    await clock.advance(2 * LEASE_MS)
    fault.heal()
    await (await a.brief.acquireLock('4', { wait: 1000 * LEASE_MS })).release()
    await a.brief.acquireLock('5')
    for (const locks of [a.failOpen, a.brief, a.failClosed]) await locks.close()
    await a.manager.stop()
    await b.manager.stop()
    await clock.settle()
    expect(clock.pending).to.equal(0)
  })
})
