import { getEventListeners } from 'node:events'
import { expect } from 'chai'
import { ErrLost, ErrStopped } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const options = { duration: 30_000 }

describe('Manager.stop', () => {
  it('leaves no timer and no subscription, whatever was going on', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'x', 600_000)
    await bench.manager.hold('mine', 'a', options)
    const work = [
      track(bench.manager.waitUntilExpired('db')),
      track(bench.manager.hold('db', 'a', { ...options, wait: true })),
      track(bench.manager.hold('db', 'b', { ...options, wait: { hours: 1 } })),
    ]
    await bench.clock.settle()
    expect(bench.wire.watchers).to.equal(1)
    await bench.manager.stop()
    await bench.clock.settle()
    expect(bench.clock.pending).to.equal(0)
    expect(bench.wire.watchers).to.equal(0)
    for (const { error } of work) expect(error).to.be.instanceOf(ErrStopped)
  })

  it('calls in flight reject with ErrStopped, and leave no listener on their signals', async () => {
    const clock = new TestClock()
    const client = new ScriptedClient(
      [
        { call: 'claimLease', hangs: true },
        { call: 'refresh', hangs: true, times: 2 },
        { call: 'releaseLease', hangs: true },
        { call: 'pinned', hangs: true },
      ],
      { inOrder: false },
    )
    const manager = new Manager({ client, clock })
    const { signal } = new AbortController()
    const work = [
      manager.claim('a', 'h', 1000, { signal }),
      manager.token('b', 'h').check(),
      manager.waitUntilExpired('c', { signal }),
      manager.release('d', 'h'),
      manager.pinned(),
      manager.claim('a', 'queued', 1000),
    ].map(track<unknown>)
    await clock.settle()
    await manager.stop()
    await clock.settle()
    for (const { error } of work) expect(error).to.be.instanceOf(ErrStopped)
    expect(client.subscribers).to.equal(0)
    expect(clock.pending).to.equal(0)
    expect(getEventListeners(signal, 'abort').length, "the client's own, at most").to.be.at.most(1)
  })

  it('it does not wait for a hung read', async () => {
    const client = new ScriptedClient([{ call: 'refresh', hangs: true }])
    const manager = new Manager({ client, clock: new TestClock() })
    const check = track(manager.token('db', 'a').check())
    await Promise.resolve()
    await manager.stop()
    expect(client.inFlight).to.be.at.most(1)
    await rejection(check.promise, ErrStopped)
  })

  it('is idempotent, also as a disposal', async () => {
    const { manager } = new Bench()
    await Promise.all([manager.stop(), manager.stop()])
    await manager.stop()
    await manager[Symbol.asyncDispose]()
  })

  it('every later call rejects with ErrStopped and sends nothing', async () => {
    const { manager, wire } = new Bench()
    await manager.claim('db', 'a', 30_000)
    await manager.stop()
    wire.resetCounts()
    for (const call of [
      manager.claim('db', 'a', 1000),
      manager.token('db', 'a').check(),
      manager.waitUntilExpired('db'),
      manager.release('db', 'a'),
      manager.revoke('db'),
      manager.pin('db', 'e'),
      manager.unpin('db', 'e'),
      manager.pinned(),
      manager.leases(),
      manager.hold('db', 'a', options),
      manager.hold('db', 'a', { ...options, wait: true }),
    ]) {
      await rejection(call as Promise<unknown>, ErrStopped)
    }
    expect(wire.counts.roundTrips).to.equal(0)
  })

  it('a live hold is not renewed and aborts by the end of its window; nothing is released', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    await bench.clock.settle() // the first Hold subscribed, and everything held is read once
    bench.wire.resetCounts()
    await bench.manager.stop()
    await bench.clock.advance(29_969)
    expect(signal.reason).to.be.instanceOf(ErrLost)
    expect(hold.held).to.equal(false)
    expect(bench.wire.counts.roundTrips).to.equal(0)
    expect(bench.holder()).to.equal('a')
    await hold.release()
  })

  it('a claim for a Hold that is answered after stop() starts no renewals', async () => {
    const clock = new TestClock()
    let answer = (): void => {}
    const after = new Promise<void>((resolve) => (answer = resolve))
    const client = new ScriptedClient([
      { call: 'claimLease', after, leases: { db: infoOf({ holder: 'a', expiry: clock.in(30_000) }) } },
    ])
    const manager = new Manager({ client, clock })
    const hold = track(manager.hold('db', 'a', options))
    await clock.settle()
    await manager.stop()
    answer()
    await clock.settle()
    expect(hold.error).to.be.instanceOf(ErrStopped)
    expect(clock.pending).to.equal(0)
    await clock.advance(60_000)
    client.verify()
  })

  it('a pause between two attempts ends with it', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const client = new ScriptedClient([{ call: 'refresh', times: Number.POSITIVE_INFINITY }])
    const manager = new Manager({ client, clock: bench.clock })
    await manager.waitUntilExpired('db')
    await manager.stop()
    await bench.clock.advance(600_000)
    expect(client.calls.length).to.equal(1)
  })

  it('the client stays open: it is the caller’s to close', async () => {
    const client = new ScriptedClient()
    await new Manager({ client, clock: new TestClock() }).stop()
    expect(client.closed).to.equal(false)
  })
})
