import { expect } from 'chai'
import { ErrInvalid, ErrNotValid, ErrStopped } from '#src/errors.ts'
import type { Info } from '#src/lease.ts'
import { Manager } from '#src/manager.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import type { ObserveOptions } from '#src/roles.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

/** Everything an observer sees, in short. */
function watch(manager: Manager, options: ObserveOptions = {}): { seen: string[]; end: Promise<void> } {
  const seen: string[] = []
  const show = (info: Info | undefined): string =>
    info === undefined ? 'vacant' : `${info.holder} ${info.value ?? ''}`
  const end = (async () => {
    for await (const info of manager.observe('db', options)) seen.push(show(info).trim())
  })()
  end.catch(() => {})
  return { seen, end }
}

describe('Manager.observe: what becomes of a lease', () => {
  it('tells at once who holds it, late comers too, or that nobody does', async () => {
    const bench = new Bench()
    const other = bench.other()
    const early = watch(bench.manager)
    await bench.clock.settle()
    expect(early.seen).to.deep.equal(['vacant'])
    await other.manager.claim('db', 'a', 60_000, { value: 'v', announce: true })
    await bench.clock.settle()
    const late = watch(bench.manager)
    await bench.clock.settle()
    expect(early.seen).to.deep.equal(['vacant', 'a v'])
    expect(late.seen).to.deep.equal(['a v'])
    await bench.manager.stop()
  })

  it('tells a later term of the same holder and value, also where nobody saw the lease vacant in between', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const { manager } = bench.other()
    const value = { value: 'v' }
    await manager.claim('db', 'a', 3_600_000, value)
    const { seen } = watch(bench.manager)
    await bench.clock.settle()
    await manager.release('db', 'a')
    await manager.claim('db', 'a', 3_600_000, value)
    await bench.clock.advance(60_000)
    expect(seen).to.deep.equal(['a v', 'a v'])
    await bench.clock.advance(120_000)
    expect(seen, 'and once').to.have.length(2)
    await bench.manager.stop()
  })

  it('tells each change of holder, term, value and pin, and nothing twice', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const { seen } = watch(bench.manager)
    const steps: (() => Promise<unknown>)[] = [
      () => manager.claim('db', 'a', 60_000, { announce: true }),
      () => manager.claim('db', 'a', 60_000, { value: 'v', announce: true }),
      () => manager.claim('db', 'a', 90_000, { announce: true }),
      () => manager.pin('db', 'operator').then(() => manager.claim('db', 'a', 90_000, { value: 'w', announce: true })),
      () =>
        manager.unpin('db', 'operator').then(() => manager.claim('db', 'a', 90_000, { value: 'x', announce: true })),
      () => manager.release('db', 'a'),
      () => manager.claim('db', 'a', 60_000, { announce: true }),
      () => manager.release('db', 'a'),
    ]
    await bench.clock.settle()
    for (const step of steps) {
      await step()
      await bench.clock.settle()
    }
    expect(seen).to.deep.equal(['vacant', 'a', 'a v', 'a w', 'a x', 'vacant', 'a', 'vacant'])
    await bench.manager.stop()
  })

  it('tells of what this very manager does, announced or not', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const { seen } = watch(bench.manager)
    await bench.clock.settle()
    await bench.manager.claim('db', 'a', 60_000)
    await bench.clock.settle()
    await bench.manager.release('db', 'a')
    await bench.clock.settle()
    expect(seen).to.deep.equal(['vacant', 'a', 'vacant'])
    await bench.manager.stop()
  })

  it('passes over a state that was over before it was asked for', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const observing = bench.manager.observe('db')
    expect((await observing.next()).value).to.equal(undefined)
    for (const holder of ['a', 'b', 'c']) {
      await manager.claim('db', holder, 60_000, { announce: true })
      await bench.clock.settle()
      if (holder !== 'c') await manager.release('db', holder)
      await bench.clock.settle()
    }
    expect((await observing.next()).value?.holder).to.equal('c')
    await bench.manager.stop()
  })

  it('without hints notices a lapse at the known expiry, and a claim after maxSleep', async () => {
    const bench = new Bench({ wire: { watch: false }, maxSleep: 60_000 })
    const { manager } = bench.other()
    await manager.claim('db', 'a', 10_000)
    const { seen } = watch(bench.manager)
    await bench.clock.advance(10_012)
    expect(seen).to.deep.equal(['a', 'vacant'])
    await manager.claim('db', 'b', 3_600_000)
    await bench.clock.advance(59_900)
    expect(seen).to.have.length(2)
    await bench.clock.advance(200)
    expect(seen).to.deep.equal(['a', 'vacant', 'b'])
    await bench.manager.stop()
  })

  it('reads nothing while nothing happens: once per known expiry, and once per maxSleep when vacant', async () => {
    const bench = new Bench({ maxSleep: 60_000 })
    const { manager } = bench.other()
    const hold = await manager.hold('db', 'a', { duration: 30_000 })
    const { seen } = watch(bench.manager)
    await bench.clock.settle()
    bench.wire.resetCounts()
    await bench.clock.advance(600_000)
    expect(bench.wire.counts.read).to.be.within(18, 30)
    await hold.release()
    await bench.clock.settle()
    bench.wire.resetCounts()
    await bench.clock.advance(600_000)
    expect(bench.wire.counts.read).to.be.within(9, 11)
    expect(seen).to.deep.equal(['a', 'vacant'])
    await bench.manager.stop()
  })

  it('tells of renewals when asked to', async () => {
    const bench = new Bench()
    const hold = await bench.other().manager.hold('db', 'a', { duration: 30_000 })
    const { seen } = watch(bench.manager, { renewals: true })
    await bench.clock.advance(120_000)
    expect(seen.length).to.be.within(4, 7)
    expect(new Set(seen)).to.deep.equal(new Set(['a']))
    await hold.release()
    await bench.manager.stop()
  })

  it('goes on when the store was away', async () => {
    const bench = new Bench({ maxSleep: 60_000 })
    const { manager } = bench.other()
    const { seen } = watch(bench.manager)
    await bench.clock.settle()
    const away = bench.wire.reject(new Error('away'))
    await manager.claim('db', 'a', 60_000, { announce: true })
    await bench.clock.advance(5_000)
    away.heal()
    await bench.clock.advance(60_000)
    expect(seen).to.include('a')
    await bench.manager.stop()
  })

  it('gets what the claim of a waiter beside it finds, and costs no read for that', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    await manager.claim('db', 'a', 60_000)
    const { seen } = watch(bench.manager)
    await bench.clock.settle()
    const waiting = bench.manager.hold('db', 'c', { duration: 60_000, wait: true })
    await bench.clock.settle()
    bench.wire.resetCounts()
    await manager.claim('db', 'a', 60_000, { value: 'v', announce: true })
    await bench.clock.settle()
    await manager.release('db', 'a')
    const hold = await waiting
    await bench.clock.settle()
    expect(seen).to.deep.equal(['a', 'a v', 'c'])
    expect(bench.wire.counts.read).to.be.at.most(2) // of the new value, and the new Hold's own at the hint of the release
    await hold.release()
    await bench.manager.stop()
  })

  it('gets what can be read while claims beside it fail', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const { seen } = watch(bench.manager)
    await manager.claim('db', 'a', 60_000, { announce: true })
    const waiting = bench.manager.hold('db', 'c', { duration: 60_000, wait: true })
    await bench.clock.settle()
    bench.wire.reject(new Error('read only'), { kind: 'claim' })
    await manager.release('db', 'a')
    await bench.clock.advance(15_000) // a claim is tried for ten seconds before it is given up
    expect(seen.at(-1)).to.equal('vacant')
    await bench.manager.stop()
    await rejection(waiting, ErrStopped)
  })

  it('gets the present state when the one beside it gives up', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const { seen } = watch(bench.manager)
    await manager.claim('db', 'a', 60_000, { announce: true })
    const patience = new AbortController()
    const waiting = bench.manager.hold('db', 'c', { duration: 60_000, wait: true, signal: patience.signal })
    await bench.clock.settle()
    bench.wire.hang({ kind: 'claim' })
    await manager.release('db', 'a')
    await manager.claim('db', 'b', 60_000, { announce: true })
    await bench.clock.settle()
    expect(seen.at(-1)).to.equal('a')
    patience.abort(new Error('no patience'))
    await rejection(waiting, Error)
    await bench.clock.settle()
    expect(seen.at(-1)).to.equal('b')
    await bench.manager.stop()
  })

  it('ends with the reason of the signal, and leaves nothing behind', async () => {
    const bench = new Bench()
    const controller = new AbortController()
    const { end } = watch(bench.manager, { signal: controller.signal })
    await bench.clock.settle()
    const reason = new Error('enough')
    controller.abort(reason)
    expect(await rejection(end, Error)).to.equal(reason)
    expect(bench.clock.pending).to.equal(0)
    expect(await rejection(watch(bench.manager, { signal: controller.signal }).end, Error)).to.equal(reason)
  })

  it('ends when the loop is left, and leaves nothing behind', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'a', 60_000)
    for await (const info of bench.manager.observe('db')) {
      expect(info?.holder).to.equal('a')
      break
    }
    await bench.clock.settle()
    expect(bench.clock.pending).to.equal(0)
  })

  it('ends with ErrStopped when the manager stops', async () => {
    const bench = new Bench()
    const { end } = watch(bench.manager)
    await bench.clock.settle()
    await bench.manager.stop()
    await rejection(end, ErrStopped)
    await rejection(watch(bench.manager).end, ErrStopped)
    expect(bench.clock.pending).to.equal(0)
  })

  it('refuses bad names and options, all at once, and sends nothing', async () => {
    const bench = new Bench()
    const bad = { renewals: 'yes', signal: 1, typo: true } as unknown as ObserveOptions
    const error = await rejection(bench.manager.observe('', bad).next(), ErrNotValid)
    expect(error.problems.map(({ argument }) => argument)).to.have.members(['lease', 'renewals', 'signal', 'typo'])
    expect(bench.wire.counts.read).to.equal(0)
    const claim = track(bench.manager.claim('db', 'a', 1000, { announce: 'yes' as unknown as boolean }))
    await bench.clock.settle()
    expect(claim.state).to.equal('rejected')
  })
})

describe('Manager.observe: what an observation leaves behind', () => {
  it('return ends it while next waits: both are done, and nothing is read any more', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'a', 3_600_000)
    for (const end of ['return', 'dispose', 'throw'] as const) {
      const observing = bench.manager.observe('db')
      await observing.next()
      const waiting = [track(observing.next()), track(observing.next())]
      await bench.clock.settle()
      if (end === 'return')
        expect(await observing.return(undefined as never)).to.deep.equal({ done: true, value: undefined })
      else if (end === 'dispose') await observing[Symbol.asyncDispose]()
      else expect(await rejection(observing.throw(new RangeError('mine')), RangeError)).to.include({ message: 'mine' })
      await bench.clock.settle()
      expect(waiting.map(({ value }) => value?.done)).to.deep.equal([true, true])
      expect((await observing.next()).done).to.equal(true)
      expect(bench.clock.pending, end).to.equal(0)
    }
    bench.wire.resetCounts()
    await bench.clock.advance({ hours: 1 })
    expect(bench.wire.counts.roundTrips).to.equal(0)
  })

  it('one that is dropped leaves nothing: no timer, no read', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('job7', 'a', 30_000)
    for (let index = 0; index < 100; index++) {
      const { value } = await bench.manager.observe(`job${index}`).next()
      expect(value?.holder).to.equal(index === 7 ? 'a' : undefined)
    }
    await bench.clock.settle()
    expect(bench.clock.pending).to.equal(0)
    bench.wire.resetCounts()
    await bench.clock.advance({ hours: 1 })
    expect(bench.wire.counts.roundTrips).to.equal(0)
    expect(bench.wire.counts.read).to.equal(0)
    await bench.manager.stop()
  })

  it('one that was never asked has done nothing', async () => {
    const bench = new Bench()
    bench.manager.observe('db')
    await bench.manager.observe('db').return(undefined as never)
    await bench.clock.settle()
    expect([bench.wire.watchers, bench.wire.counts.read, bench.clock.pending]).to.deep.equal([0, 0, 0])
  })

  it('reads at once when it is asked after a pause, and yields only what differs', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const observing = bench.manager.observe('db')
    expect((await observing.next()).value).to.equal(undefined)
    await bench.clock.advance(10_000)
    await manager.claim('db', 'a', 3_600_000) // not announced, and heard of by nobody
    await bench.clock.advance(10_000)
    bench.wire.resetCounts()
    expect((await observing.next()).value?.holder).to.equal('a')
    expect(bench.wire.counts.read).to.equal(1)
    await bench.clock.advance(10_000)
    const next = track(observing.next())
    await bench.clock.settle()
    expect([next.state, bench.wire.counts.read]).to.deep.equal(['pending', 2])
    await manager.release('db', 'a')
    await bench.clock.settle()
    expect(next.value?.value).to.equal(undefined)
    await bench.manager.stop()
  })

  it('a loop that asks again at once costs one read for each change', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const { seen } = watch(bench.manager)
    await bench.clock.settle()
    bench.wire.resetCounts()
    for (const value of ['1', '2', '3', '4']) {
      await manager.claim('db', 'a', 3_600_000, { value, announce: true })
      await bench.clock.settle()
    }
    expect(seen).to.deep.equal(['vacant', 'a 1', 'a 2', 'a 3', 'a 4'])
    expect(bench.wire.counts.read).to.equal(4)
    await bench.manager.stop()
  })

  it('calls of next that come together are answered one after another', async () => {
    const bench = new Bench()
    const { manager } = bench.other()
    const observing = bench.manager.observe('db')
    const steps = [1, 2, 3].map(() => track(observing.next()))
    await bench.clock.settle()
    await manager.claim('db', 'a', 60_000, { announce: true })
    await bench.clock.settle()
    await manager.release('db', 'a')
    await bench.clock.settle()
    expect(steps.map(({ value }) => value?.value?.holder)).to.deep.equal([undefined, 'a', undefined])
    expect(steps.map(({ state }) => state)).to.deep.equal(['fulfilled', 'fulfilled', 'fulfilled'])
    await bench.manager.stop()
  })
})

describe('Manager.observe: a lease that has lapsed and is still there', () => {
  it('is reported as vacant once, and read once per maxSleep after that', async () => {
    const clock = new TestClock()
    const store = new MemoryStore({ clock, serverClock: false })
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
    const manager = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const other = new Manager({
      client: new SubstrateClient({ substrate: new MemorySubstrate({ store }), clock }),
      clock,
    })
    for (const pinned of [false, true]) {
      await other.claim('db', 'dead', 1_000)
      if (pinned) await other.pin('db', 'operator')
      const { seen, end } = watch(manager)
      await clock.advance(1_100)
      wire.resetCounts()
      await clock.advance({ minutes: 10 })
      expect(seen).to.deep.equal(pinned ? ['dead'] : ['dead', 'vacant'])
      expect(wire.counts.read).to.be.within(9, 11)
      await other.revoke('db')
      void end
    }
    await manager.stop()
    await other.stop()
  })

  it('is read seldom for those who wait for it while a clock stands still and it seems about to lapse for ever', async () => {
    const clock = new TestClock()
    const almost = { ...infoOf({ holder: 'a', expiry: clock.in(1_000) }), isLapsed: () => false, lapsesInMs: () => 0.5 }
    const starts: ((manager: Manager) => Promise<unknown>)[] = [
      (manager) => manager.waitUntilExpired('db'),
      (manager) => manager.hold('db', 'b', { duration: 1_000, wait: true }),
      (manager) => watch(manager).end,
    ]
    for (const start of starts) {
      const leases = { db: almost }
      const denied = {
        call: 'claimLease',
        times: Number.POSITIVE_INFINITY,
        throws: new ErrInvalid('held'),
        leases,
      } as const
      const client = new ScriptedClient([{ call: 'refresh', times: Number.POSITIVE_INFINITY, leases }, denied])
      const manager = new Manager({ client, clock })
      const waiting = track(start(manager))
      await clock.advance(60_000)
      expect(client.calls.length).to.be.lessThan(90)
      await manager.stop()
      await clock.settle()
      expect(waiting.state).to.equal('rejected')
    }
  })
})
