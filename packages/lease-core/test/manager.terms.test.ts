/** Everything that relies on a lease relies on one term of it. */
import { expect } from 'chai'
import type { Clock } from '#src/clock.ts'
import { ErrClaimDenied, ErrNotHeld, ErrNotValid, ErrUnknown, type ErrLost } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { MemoryGuard } from '#src/memory/index.ts'
import type { OperationOptions } from '#src/roles.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const options = { duration: 30_000 }

describe('Manager: a token is of its term', () => {
  it('claim resolves to the token of its term, which passes in that term and in no later one of the same holder', async () => {
    const bench = new Bench()
    const first = await bench.manager.claim('db', 'a', 30_000)
    expect(first).to.include({ lease: 'db', holder: 'a', fencingToken: bench.fencingToken() })
    await first.check()
    await bench.manager.claim('db', 'a', 60_000) // the same term
    await first.check()
    await bench.manager.release('db', 'a')
    const second = await bench.manager.claim('db', 'a', 30_000)
    await rejection(first.check(), ErrNotHeld)
    await second.check()
    await bench.manager.token('db', 'a').check()
  })

  it('the token of a lost Hold does not pass the guard of a later term', async () => {
    const bench = new Bench()
    let writes = 0
    const write = (): MemoryGuard => new MemoryGuard(() => void writes++)
    const first = await bench.manager.hold('db', 'a', options)
    await bench.other().manager.revoke('db')
    await bench.clock.settle()
    const second = await bench.manager.hold('db', 'a', options)
    await rejection(first.token.check(write()), ErrNotHeld)
    expect(writes).to.equal(0)
    await second.token.check(write())
    expect(writes).to.equal(1)
    await bench.manager.stop()
  })

  it('a Hold that could not renew in time stays lost, and the next one goes on with the same term', async () => {
    const bench = new Bench()
    let writes = 0
    const first = await bench.manager.hold('db', 'a', options)
    bench.wire.loseReply({ kind: 'extend' }) // the store extends the lease, and this process does not hear of it
    await bench.clock.advance(30_000)
    bench.wire.heal()
    const second = await bench.manager.hold('db', 'a', options)
    expect([first.held, second.held]).to.deep.equal([false, true])
    expect(second.fencingToken).to.equal(first.fencingToken)
    await first.token.check(new MemoryGuard(() => void writes++)) // the term stands
    await second.release()
    await rejection(first.token.check(new MemoryGuard(() => void writes++)), ErrNotHeld)
    expect(writes).to.equal(1)
    await bench.manager.stop()
  })

  it('a token does not pass for a later term of the same holder that this process has read of, inside its trust window', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    const token = await bench.manager.claim('db', 'a', 30_000)
    await other.manager.release('db', 'a')
    await other.manager.claim('db', 'a', 30_000)
    await bench.manager.find('db')
    let writes = 0
    await rejection(token.check(), ErrNotHeld)
    await rejection(token.check(new MemoryGuard(() => void writes++)), ErrNotHeld)
    expect(writes).to.equal(0)
    expect(await bench.manager.token('db', 'a').check()).to.include({ fencingToken: bench.fencingToken() })
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('nor where it asks the store: its window has ended, or a hint said that the lease was vacated', async () => {
    for (const watch of [true, false]) {
      const bench = new Bench({ wire: { watch } })
      const other = bench.other()
      const token = await bench.manager.claim('db', 'a', 30_000)
      const held = await bench.manager.hold('queue', 'a', options) // so that hints are listened to
      if (watch) await other.manager.release('db', 'a')
      else await bench.clock.advance(30_001)
      await other.manager.claim('db', 'a', 30_000)
      await bench.clock.settle()
      await rejection(token.check(), ErrNotHeld)
      expect(await bench.manager.token('db', 'a').check()).to.include({ fencingToken: bench.fencingToken() })
      await held.release()
      await Promise.all([bench.manager.stop(), other.manager.stop()])
    }
  })

  it('a token whose window has ended asks the store, which may still have that very term', async () => {
    const bench = new Bench()
    const token = await bench.manager.claim('db', 'a', 1_000)
    await bench.clock.advance(999.5)
    await token.check()
    await bench.clock.advance(1)
    await rejection(token.check(), ErrNotHeld)
    await bench.manager.stop()
  })

  it('a guard that finds the term gone ends the trust of this process', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const operator = bench.other()
    const hold = await bench.manager.hold('db', 'a', options)
    await operator.manager.revoke('db')
    await operator.manager.claim('db', 'b', 30_000)
    await rejection(hold.token.check(new MemoryGuard(() => {})), ErrNotHeld)
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)
    await bench.clock.settle()
    expect(hold.held).to.equal(false)
    expect((hold.signal.reason as ErrLost).reason).to.equal('taken')
    await bench.manager.stop()
  })
})

describe('Manager: a release ends its own term', () => {
  it('the release of a Hold that slept past its lease leaves the next term of the same name alone', async () => {
    const bench = new Bench()
    const replacement = bench.other()
    const zombie = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
    await bench.manager.stop()
    await bench.clock.advance(30_001)
    const hold = await replacement.manager.hold('db', 'a', options)
    await zombie.release().catch(() => {})
    expect(bench.fencingToken()).to.equal(hold.fencingToken)
    await replacement.manager.stop()
  })

  it('a claim whose answer is on its way is not ended by a release that was asked for before', async () => {
    const bench = new Bench()
    const first = await bench.manager.hold('db', 'a', { ...options, shared: true })
    bench.wire.delay(50, { at: 'reply' })
    const second = track(bench.manager.hold('db', 'a', { ...options, shared: true }))
    await bench.clock.advance(10)
    const released = track(first.release())
    await bench.clock.advance(500)
    expect([released.state, first.held, second.value?.held]).to.deep.equal(['fulfilled', false, true])
    expect(bench.fencingToken()).to.equal(second.value?.fencingToken)
    await bench.manager.stop()
  })

  it('from the moment that a release is sent nothing relies on the term, also when its answer is lost', async () => {
    const bench = new Bench()
    const token = await bench.manager.claim('db', 'a', 30_000)
    const hang = bench.wire.hang({ kind: 'release' })
    const released = track(bench.manager.release('db', 'a'))
    await bench.clock.settle()
    await rejection(token.check(), ErrNotHeld)
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld) // though the store still has it
    expect(bench.holder()).to.equal('a')
    hang.heal()
    await bench.clock.settle()
    expect(released.state).to.equal('fulfilled')
  })

  it('from the moment that a revocation is sent nothing relies on the term, also when its outcome is unknown', async () => {
    const bench = new Bench()
    const token = await bench.manager.claim('db', 'a', 60_000)
    bench.wire.hang({ kind: 'release' })
    const revoked = track(bench.manager.revoke('db'))
    for (const state of ['pending', 'rejected']) {
      await bench.clock.settle()
      expect(revoked.state).to.equal(state)
      await rejection(token.check(), ErrNotHeld)
      await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld) // though the store still has it
      await bench.clock.advance(30_000)
    }
    bench.wire.heal()
    await bench.manager.claim('db', 'a', 60_000) // adopts the term: another grant
    await bench.manager.token('db', 'a').check()
    await bench.manager.stop()
  })

  it('after a release of unknown outcome a claim adopts the term, and the late release does nothing to it', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 600_000)
    bench.wire.delay(4_000, { kind: 'release', times: 1 })
    const controller = new AbortController()
    const released = track(bench.manager.release('db', 'a', { signal: controller.signal }))
    await bench.clock.advance(100)
    controller.abort(new Error('enough'))
    await bench.clock.settle()
    expect(released.state).to.equal('rejected')
    const other = bench.other()
    const adopted = await other.manager.claim('db', 'a', 600_000) // a new process of the same name
    await bench.clock.advance(10_000)
    expect(bench.holder()).to.equal('a')
    await adopted.check()
  })

  it('after a release of unknown outcome a check by name passes again once another process of this name has adopted the term', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 60_000)
    const lost = bench.wire.loseRequest({ kind: 'release' })
    await rejection(bench.clock.drive(bench.manager.release('db', 'a')), ErrUnknown)
    lost.heal()
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)
    await other.manager.claim('db', 'a', 60_000)
    expect(await bench.manager.token('db', 'a').check()).to.include({ fencingToken: bench.fencingToken() })
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('after the stop of a manager nothing relies on the grants of its Holds: another manager of its client asks the store', async () => {
    const bench = new Bench()
    const beside = new Manager({ client: bench.client, clock: bench.clock })
    await bench.manager.hold('db', 'a', options)
    await beside.token('db', 'a').check()
    expect(bench.wire.counts.read, 'trusted').to.equal(0)
    await bench.manager.stop()
    await beside.token('db', 'a').check()
    expect(bench.wire.counts.read, 'asked').to.equal(1)
    await beside.stop()
  })

  it('a check that was reading when its term was released does not pass for the process that has adopted the term', async () => {
    const bench = new Bench()
    const other = bench.other()
    const hold = await bench.manager.hold('db', 'a', options)
    bench.wire.emit({ kind: 'vacated', lease: 'db' })
    const reading = bench.wire.hang({ kind: 'read' })
    const check = track(hold.token.check())
    await bench.clock.settle()
    const lost = bench.wire.loseRequest({ kind: 'release' })
    const release = track(hold.release())
    await bench.clock.settle()
    await other.manager.claim('db', 'a', 60_000)
    reading.heal()
    await bench.clock.settle()
    expect(check.error).to.be.an.instanceOf(ErrNotHeld)
    await bench.clock.drive(release.promise.catch(() => {}))
    lost.heal()
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('a release of a term that another process of this name has adopted is refused, and leaves it alone', async () => {
    const bench = new Bench()
    const other = bench.other()
    const hold = await bench.manager.hold('db', 'a', options)
    const adopted = await other.manager.hold('db', 'a', options)
    expect(adopted.fencingToken).to.equal(hold.fencingToken)
    expect(await rejection(hold.release(), ErrNotHeld)).to.include({ reason: 'adopted' })
    expect([hold.held, adopted.held]).to.deep.equal([false, true])
    await adopted.release()
    expect(bench.holder()).to.equal(undefined)
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('a term that this process has adopted back is ended by its release: by name, and of a Hold from before', async () => {
    for (const byName of [true, false]) {
      const bench = new Bench()
      const other = bench.other()
      const shared = { ...options, shared: true }
      const first = await bench.manager.hold('db', 'a', shared)
      await other.manager.hold('db', 'a', shared)
      const second = await bench.manager.hold('db', 'a', shared)
      expect(second.fencingToken).to.equal(first.fencingToken)
      if (byName) await bench.manager.release('db', 'a')
      else await Promise.all([second.release(), first.release()])
      expect(bench.holder()).to.equal(undefined)
      await Promise.all([bench.manager.stop(), other.manager.stop()])
    }
  })

  it('a release whose first request was lost is refused where another process of this name has adopted the term since', async () => {
    const bench = new Bench()
    const other = bench.other()
    const hold = await bench.manager.hold('db', 'a', options)
    bench.wire.loseRequest({ kind: 'release', times: 1 })
    bench.wire.delay(100, { kind: 'release' }) // the second one
    const released = track(hold.release())
    await bench.clock.settle()
    const adopted = await other.manager.hold('db', 'a', options)
    await bench.clock.advance(5_000)
    expect(released.error).to.be.instanceOf(ErrNotHeld).and.include({ reason: 'adopted' })
    expect([adopted.held, bench.holder()]).to.deep.equal([true, 'a'])
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('a release of a term that is over is refused, and says who has the lease now', async () => {
    for (const holder of ['a', 'b']) {
      const bench = new Bench({ wire: { watch: false } })
      const other = bench.other()
      const hold = await bench.manager.hold('db', 'a', options)
      await other.manager.revoke('db')
      await other.manager.claim('db', holder, 60_000)
      expect(await rejection(hold.release(), ErrNotHeld)).to.include({ reason: `held by "${holder}"` })
      expect(bench.holder()).to.equal(holder)
      await Promise.all([bench.manager.stop(), other.manager.stop()])
    }
  })

  it('a release that was done, and whose answer was lost, resolves also when another has claimed since', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    bench.wire.loseReply({ kind: 'release', times: 1 })
    const waiting = track(other.manager.hold('db', 'b', { ...options, wait: true }))
    await bench.clock.settle()
    bench.wire.delay(100, { kind: 'release' })
    await bench.clock.drive(bench.manager.release('db', 'a'))
    expect(waiting.value?.holder).to.equal('b')
    await other.manager.stop()
  })

  it('revoke with a fencing token ends that term and no other', async () => {
    const bench = new Bench()
    const first = await bench.manager.claim('db', 'a', 30_000)
    await bench.manager.release('db', 'a')
    const second = await bench.manager.claim('db', 'b', 30_000)
    const operator = bench.other().manager
    await operator.revoke('db', { fencingToken: first.fencingToken })
    expect(bench.holder()).to.equal('b')
    await operator.revoke('db', { fencingToken: second.fencingToken })
    expect(bench.holder()).to.equal(undefined)
    await rejection(operator.revoke('db', { fencingToken: 1 as never }), ErrNotValid)
  })
})

describe('Manager: one process holds a term once, or shares it', () => {
  it('a second Hold of the same lease and holder is denied unless both are shared', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    for (const more of [{}, { shared: true }, { shared: true, wait: true }]) {
      const denied = await rejection(bench.manager.hold('db', 'a', { ...options, ...more }), ErrClaimDenied)
      expect(denied.currentHolder).to.equal('a')
    }
    await hold.release()
    await bench.manager.hold('db', 'a', { ...options, shared: true })
    await rejection(bench.manager.hold('db', 'a', options), ErrClaimDenied)
    await bench.manager.hold('db', 'a', { ...options, shared: true })
    await bench.manager.stop()
  })

  it('a second Hold is denied by its holder also where the client shows nobody meanwhile', async () => {
    const clock = new TestClock()
    const client = new ScriptedClient([
      { call: 'claimLease', leases: { db: infoOf({ holder: 'a', expiry: clock.in(30_000) }) } },
      { call: 'pinned', leases: { db: undefined } },
    ])
    const manager = new Manager({ client, clock })
    await manager.hold('db', 'a', options)
    await client.pinned()
    const { currentHolder, message } = await rejection(manager.hold('db', 'a', options), ErrClaimDenied)
    expect([currentHolder, message]).to.deep.equal(['a', 'lease "db" is held by "a"'])
    await manager.stop()
  })

  it('of several shared Holds the last one that is released ends the term', async () => {
    const bench = new Bench()
    const shared = { ...options, shared: true }
    const [outer, inner] = [await bench.manager.hold('db', 'a', shared), await bench.manager.hold('db', 'a', shared)]
    await inner.release()
    expect([inner.held, outer.held, bench.holder()]).to.deep.equal([false, true, 'a'])
    await bench.clock.advance(100_000)
    expect(outer.held).to.equal(true)
    await outer.release()
    expect(bench.holder()).to.equal(undefined)
    await bench.manager.stop()
  })

  it('a release whose `all` is neither true nor false is refused by name, and nothing is over', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { ...options, shared: true })
    bench.wire.resetCounts()
    for (const all of ['no', 0, null, {}]) {
      const { problems } = await rejection(hold.release({ all: all as never }), ErrNotValid)
      expect(problems).to.have.lengthOf(1)
      expect(problems[0]).to.deep.include({ argument: 'all', rule: 'must be true or false', value: all })
    }
    expect([hold.held, bench.wire.counts.release]).to.deep.equal([true, 0])
    await hold.release({ all: undefined })
    expect([hold.held, bench.wire.counts.release]).to.deep.equal([false, 1])
    await bench.manager.stop()
  })

  it('a release of all of them ends the others: revoked', async () => {
    const bench = new Bench()
    const shared = { ...options, shared: true }
    const [one, two] = [await bench.manager.hold('db', 'a', shared), await bench.manager.hold('db', 'a', shared)]
    await one.release({ all: true })
    expect((two.signal.reason as ErrLost).reason).to.equal('revoked')
    expect(bench.holder()).to.equal(undefined)
    await bench.manager.stop()
  })

  it('two managers over one client share the terms: what one releases, the other does not rely on', async () => {
    const bench = new Bench()
    const twin = new Manager({ client: bench.client, clock: bench.clock })
    const hold = await bench.manager.hold('db', 'a', options)
    await rejection(twin.hold('db', 'a', options), ErrClaimDenied)
    bench.wire.hang({ kind: 'release' })
    void twin.release('db', 'a').catch(() => {})
    await bench.clock.settle()
    expect(hold.held).to.equal(false)
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)
    await Promise.all([bench.manager.stop(), twin.stop()])
    await bench.clock.drive(bench.client.close())
  })

  it('a manager with another clock than that of the other managers of its client is refused until they have stopped', async () => {
    const { client, clock, manager } = new Bench()
    const another: Clock = {
      now: () => clock.now(),
      monotonic: () => clock.monotonic(),
      setTimer: (delayMs, wake) => clock.setTimer(delayMs, wake),
    }
    expect(() => new Manager({ client, clock: another })).to.throw(ErrNotValid, /^clock must be the very Clock/)
    await manager.stop()
    const next = new Manager({ client, clock: another })
    expect(() => new Manager({ client, clock })).to.throw(ErrNotValid, /^clock must be the very Clock/)
    await next.stop()
  })

  it('the stop of one manager leaves the Holds of the other alone', async () => {
    const bench = new Bench()
    const twin = new Manager({ client: bench.client, clock: bench.clock })
    const mine = await bench.manager.hold('db', 'a', { ...options, shared: true })
    const theirs = await twin.hold('db', 'a', { ...options, shared: true })
    await twin.stop()
    expect([mine.held, theirs.held]).to.deep.equal([true, false])
    await bench.clock.advance(100_000)
    expect(mine.held).to.equal(true)
    await bench.manager.stop()
    expect(bench.clock.pending).to.equal(0)
  })
})

describe('Hold: how long it may be relied on', () => {
  it('trustedUntil and remaining() count from the sending of the last grant, and follow renewals', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
    expect(hold.remaining().toMillis()).to.equal(29_969)
    expect(hold.trustedUntil.toMillis()).to.equal(bench.clock.now() + 29_969)
    await bench.clock.advance(10_000)
    expect(hold.remaining().toMillis()).to.equal(19_969)
    await hold.renew()
    expect(hold.remaining().toMillis()).to.equal(29_969)
    await hold.release()
    expect(hold.remaining().toMillis()).to.equal(0)
    await bench.manager.stop()
  })
})

describe('Manager.find', () => {
  it('reads one lease: who has it, since when, or undefined; nothing stays behind', async () => {
    const bench = new Bench()
    const other = bench.other()
    expect(await bench.manager.find('db')).to.equal(undefined)
    await other.manager.claim('db', 'a', 30_000, { value: 'here' })
    await bench.clock.advance(5_000)
    const info = await bench.manager.find('db')
    expect(info).to.include({ holder: 'a', value: 'here', fencingToken: bench.fencingToken() })
    expect(info?.since?.toMillis()).to.equal(bench.clock.now() - 5_000)
    expect([bench.clock.pending, bench.wire.watchers]).to.deep.equal([0, 0])
  })

  it('rejects when its signal aborts, and when the store cannot be asked', async () => {
    const bench = new Bench()
    const hang = bench.wire.hang({ kind: 'read' })
    const controller = new AbortController()
    const found = track(bench.manager.find('db', { signal: controller.signal }))
    await bench.clock.settle()
    controller.abort(new RangeError('enough'))
    await bench.clock.settle()
    expect(found.error).to.be.instanceOf(RangeError)
    hang.heal()
    bench.wire.reject(new Error('away'), { kind: 'read' })
    await rejection(bench.clock.drive(bench.manager.find('db')), ErrUnknown)
  })
})

describe('Manager: signals', () => {
  it('what is not a signal is ErrNotValid, and leaves nothing behind', async () => {
    const bench = new Bench()
    const signal = new AbortController() as unknown as AbortSignal
    const { manager } = bench
    await rejection(manager.claim('db', 'a', 1_000, { signal }), ErrNotValid)
    for (const call of [
      manager.release('db', 'a', { signal }),
      manager.revoke('db', { signal }),
      manager.pin('db', 'a', { signal }),
      manager.unpin('db', 'a', { signal }),
      manager.find('db', { signal }),
      manager.waitUntilExpired('db', { signal }),
      manager.hold('db', 'a', { ...options, signal }),
    ]) {
      await rejection(call, ErrNotValid)
    }
    expect(bench.wire.counts.roundTrips).to.equal(0)
    await manager.stop()
  })

  it('a signal of a polyfill works like one of the platform', async () => {
    const bench = new Bench()
    const listeners = new Set<() => void>()
    const signal = {
      aborted: false,
      reason: undefined as unknown,
      addEventListener: (_type: string, listener: () => void) => listeners.add(listener),
      removeEventListener: (_type: string, listener: () => void) => listeners.delete(listener),
    }
    await bench.manager.claim('db', 'other', 60_000)
    const waiting = track(bench.manager.hold('db', 'a', { ...options, wait: true, signal: signal as never }))
    await bench.clock.settle()
    signal.aborted = true
    signal.reason = new RangeError('enough')
    for (const listener of listeners) listener()
    await bench.clock.settle()
    expect(waiting.error).to.equal(signal.reason)
    expect(listeners.size).to.equal(0)
    await bench.manager.stop()
  })

  it('a signal of a polyfill that refuses to forget a listener keeps no call from ending', async () => {
    const bench = new Bench()
    const removeEventListener = (): void => {
      throw new Error('not supported')
    }
    const signal = { aborted: false, addEventListener: () => {}, removeEventListener } as never
    expect(await bench.manager.find('db', { signal })).to.equal(undefined)
    await bench.manager.stop()
  })

  it('a call rejects with the reason of its signal also where that is not a number', async () => {
    const bench = new Bench()
    const reasons = await Promise.all(
      [Number.NaN, undefined, 0].map((reason) => {
        const signal = Object.assign(Object.create(AbortSignal.abort()) as AbortSignal, {})
        Object.defineProperties(signal, { aborted: { value: true }, reason: { value: reason } })
        return bench.manager.find('db', { signal }).catch((error: unknown) => error)
      }),
    )
    expect(reasons).to.deep.equal([Number.NaN, undefined, 0])
    await bench.manager.stop()
  })

  it('release, revoke, pin and unpin reject with the reason of their signal', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 60_000)
    bench.wire.hang({ kind: ['release', 'pin', 'unpin'] })
    const reason = new RangeError('enough')
    const { manager } = bench
    for (const call of [
      (signal: AbortSignal) => manager.pin('one', 'e', { signal }),
      (signal: AbortSignal) => manager.unpin('two', 'e', { signal }),
      (signal: AbortSignal) => manager.revoke('db', { signal }),
      (signal: AbortSignal) => manager.release('db', 'a', { signal }),
    ]) {
      const controller = new AbortController()
      const called = track(call(controller.signal))
      await bench.clock.settle()
      controller.abort(reason)
      await bench.clock.settle()
      expect(called.error).to.equal(reason)
    }
    await manager.stop()
    await bench.clock.drive(bench.client.close())
    expect(bench.clock.pending).to.equal(0)
  })
})

describe('Manager: a call that is given up before it is answered', () => {
  type GivenUp = readonly [
    name: string,
    kind: string,
    send: (of: Manager, options: OperationOptions) => Promise<unknown>,
  ]

  for (const [name, kind, send] of [
    ['claim', 'claim', (manager, options) => manager.claim('free', 'a', 600_000, options)],
    ['claim of its own lease', 'extend', (manager, options) => manager.claim('db', 'a', 600_000, options)],
    ['release of a term', 'release', (manager, options) => manager.release('db', 'a', options)],
    ['release by name', 'release', (manager, options) => manager.release('other', 'b', options)],
    ['revoke', 'release', (manager, options) => manager.revoke('other', options)],
    ['pin', 'pin', (manager, options) => manager.pin('db', 'e', options)],
    ['unpin', 'unpin', (manager, options) => manager.unpin('db', 'e', options)],
  ] as const satisfies readonly GivenUp[]) {
    it(`${name}: is not sent again`, async () => {
      const bench = new Bench()
      await bench.manager.claim('db', 'a', 600_000)
      await bench.other().manager.claim('other', 'b', 600_000)
      bench.wire.resetCounts()
      const hung = bench.wire.hang({ kind })
      const controller = new AbortController()
      const call = track<unknown>(send(bench.manager, { signal: controller.signal }))
      await bench.clock.advance(1_000)
      expect(bench.wire.counts[kind]).to.equal(1)
      controller.abort(new Error('enough'))
      await bench.clock.advance(60_000)
      expect(call.state).to.equal('rejected')
      expect(bench.wire.counts[kind]).to.equal(1)
      hung.heal()
      await bench.manager.stop()
    })
  }
})

describe('Manager: a call that is given up after its answer has come', () => {
  const calls: Readonly<Record<string, (manager: Manager, signal: AbortSignal) => Promise<unknown>>> = {
    claim: (manager, signal) => manager.claim('db', 'a', 30_000, { signal }),
    hold: (manager, signal) => manager.hold('db', 'a', { ...options, signal }),
    'hold with wait': (manager, signal) => manager.hold('db', 'a', { ...options, signal, wait: true }),
    holdAny: (manager, signal) => manager.holdAny(['db', 'dc'], 'a', { ...options, signal }),
    'holdAny with wait': (manager, signal) => manager.holdAny(['db', 'dc'], 'a', { ...options, signal, wait: true }),
  }

  /** Gives the call up so many turns of the promises after the client has answered. Returns whether it was too late. */
  async function giveUpAfterAnswer(bench: Bench, name: string, turns: number): Promise<boolean> {
    const controller = new AbortController()
    const { client } = bench
    const later = async (): Promise<void> => {
      for (let turn = 0; turn < turns; turn++) await Promise.resolve()
      controller.abort(new Error('enough'))
    }
    for (const method of ['claimLease', 'extendLease'] as const) {
      const send = (client[method] as (...args: unknown[]) => Promise<never>).bind(client)
      const value = async (...args: unknown[]): Promise<never> => {
        const answer = await send(...args)
        void later()
        return answer
      }
      Object.defineProperty(client, method, { value })
    }
    const call = track((calls[name] as (typeof calls)[string])(bench.manager, controller.signal))
    await bench.clock.settle()
    await bench.clock.advance(2_000)
    return call.state === 'fulfilled'
  }

  for (const name of Object.keys(calls)) {
    it(`${name}: what an earlier claim of the same holder relies on stands`, async () => {
      let inTime = 0
      for (let turns = 0; turns < 25; turns++) {
        const bench = new Bench()
        const token = await bench.manager.claim('db', 'a', 60_000)
        if (!(await giveUpAfterAnswer(bench, name, turns))) inTime++
        await token.check()
        expect(bench.holder()).to.equal('a')
        await bench.manager.stop()
      }
      expect(inTime).to.be.greaterThan(0)
    })

    it(`${name}: what another process of this name has opened stands`, async () => {
      let inTime = 0
      for (let turns = 0; turns < 25; turns++) {
        const bench = new Bench()
        const other = bench.other()
        await other.manager.claim('db', 'a', 60_000)
        if (!(await giveUpAfterAnswer(bench, name, turns))) inTime++
        expect([bench.holder(), turns]).to.deep.equal(['a', turns])
        await Promise.all([bench.manager.stop(), other.manager.stop()])
      }
      expect(inTime).to.be.greaterThan(0)
    })

    it(`${name}: what only it has opened is given back`, async () => {
      let inTime = 0
      for (let turns = 0; turns < 25; turns++) {
        const bench = new Bench()
        const isTooLate = await giveUpAfterAnswer(bench, name, turns)
        if (!isTooLate) inTime++
        expect([bench.holder('db') ?? bench.holder('dc'), turns]).to.deep.equal([isTooLate ? 'a' : undefined, turns])
        await bench.manager.stop()
      }
      expect(inTime).to.be.greaterThan(0)
    })
  }

  it('a claim whose time was over keeps nothing: the term that the later call adopted is given back', async () => {
    const bench = new Bench({ serverClock: true })
    await bench.manager.claim('db', 'a', 1_000)
    await bench.clock.advance(999.5) // the window is over, the lease is not
    expect(await giveUpAfterAnswer(bench, 'hold', 0)).to.equal(false)
    expect(bench.holder()).to.equal(undefined)
    await bench.manager.stop()
  })
})
