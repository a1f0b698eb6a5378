import { expect } from 'chai'
import { ErrInvalid, ErrLost, ErrNotHeld, ErrNotValid, ErrUnknown } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const options = { duration: 30_000 }

describe('Hold.release', () => {
  it('after a release the signal aborts with a plain AbortError: background work stops', async () => {
    const { manager } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    const { signal } = hold
    const released = hold.release()
    expect(signal.aborted).to.equal(true)
    expect(signal.reason).to.be.instanceOf(DOMException).with.property('name', 'AbortError')
    await released
    expect(hold.held).to.equal(false)
    expect(() => hold.assertHeld())
      .to.throw(ErrLost)
      .with.property('reason', 'released')
  })

  it('a signal first looked at after the release is aborted all the same', async () => {
    const { manager } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    await hold.release()
    expect(hold.signal.reason).to.have.property('name', 'AbortError')
  })

  it('a voluntary release is not a loss: no event tells of one', async () => {
    const { clock, manager } = new Bench()
    const events: string[] = []
    manager.events.subscribe(({ type }) => events.push(type))
    const hold = await manager.hold('db', 'a', options)
    await hold.release()
    await clock.advance(120_000)
    expect(events).to.deep.equal(['claimed', 'released'])
  })

  it('a second release sends nothing', async () => {
    const { manager, wire } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    await Promise.all([hold.release(), hold.release()])
    await hold.release()
    await hold[Symbol.asyncDispose]()
    expect(wire.counts.release).to.equal(1)
  })

  it('a second release resolves when the first does', async () => {
    const { clock, manager, wire } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    const slow = wire.hang({ kind: 'release' })
    const releases = [track(hold.release()), track(hold.release())]
    await clock.settle()
    expect(releases.map(({ state }) => state)).to.deep.equal(['pending', 'pending'])
    slow.heal()
    await clock.settle()
    expect(releases.map(({ state }) => state)).to.deep.equal(['fulfilled', 'fulfilled'])
  })

  it('a release does not wait for a renewal in flight, which revives nothing when it arrives', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const slow = bench.wire.hang({ kind: 'extend' })
    await bench.clock.advance(10_000)
    await hold.release()
    expect(bench.holder()).to.equal(undefined)
    slow.heal()
    await bench.clock.settle()
    expect(bench.holder()).to.equal(undefined)
    expect(bench.wire.ops.map(({ kind }) => kind)).to.deep.equal(['claim', 'extend', 'release'])
    await bench.clock.advance(60_000)
    expect(bench.wire.counts.extend).to.equal(1)
    expect(bench.holder()).to.equal(undefined)
  })

  it('disposal never rejects, and the hold is over either way', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    bench.wire.reject(new Error('away'), { kind: 'release' })
    await bench.clock.drive(hold[Symbol.asyncDispose]())
    expect(hold.held).to.equal(false)
  })

  it("`await using` does not mask the work's own error", async () => {
    const bench = new Bench()
    bench.wire.reject(new Error('away'), { kind: 'release' })
    const work = async (): Promise<void> => {
      await using hold = await bench.manager.hold('db', 'a', options)
      hold.assertHeld()
      throw new RangeError('of the work')
    }
    await rejection(bench.clock.drive(work()), RangeError)
  })

  it('`release()` may reject, and the hold is over all the same', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    bench.wire.reject(new Error('away'), { kind: 'release' })
    await rejection(bench.clock.drive(hold.release()), ErrUnknown)
    expect(hold.held).to.equal(false)
    await bench.clock.advance(60_000)
    expect(bench.wire.counts.extend).to.equal(0)
  })

  it('a release after a loss sends nothing', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    await bench.clock.pause(60_000)
    bench.wire.resetCounts()
    await hold.release()
    expect(bench.wire.counts.roundTrips).to.equal(0)
  })
})

describe('Manager.release and revoke', () => {
  it('the holder gives it up; vacant already → resolves; held by another → ErrNotHeld', async () => {
    const bench = new Bench()
    await bench.manager.release('db', 'a')
    await bench.manager.claim('db', 'a', 30_000)
    await bench.manager.release('db', 'a')
    expect(bench.holder()).to.equal(undefined)
    await bench.manager.claim('db', 'b', 30_000)
    expect(await rejection(bench.manager.release('db', 'a'), ErrNotHeld)).to.include({ reason: 'held by "b"' })
    expect(bench.holder()).to.equal('b')
  })

  it('a release after the lease has lapsed resolves', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 1000)
    await bench.clock.advance(5000)
    await bench.manager.release('db', 'a')
  })

  it('a release whose reply was lost resolves', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 30_000)
    bench.wire.loseReply({ kind: 'release', times: 1 })
    await bench.manager.release('db', 'a')
    expect(bench.holder()).to.equal(undefined)
  })

  it('a refusal that keeps changing is tried ten times, then ErrUnknown', async () => {
    const clock = new TestClock()
    const mine = infoOf({ holder: 'a', expiry: clock.in(3_600_000) })
    const client = new ScriptedClient([{ call: 'releaseLease', times: 10, throws: new ErrInvalid('no') }], {
      leases: { db: mine },
    })
    const manager = new Manager({ client, clock })
    await rejection(clock.drive(manager.release('db', 'a')), ErrUnknown)
    client.verify()
  })

  it('`revoke` reads the lease and releases it for its true holder, pinned or not', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'x', 30_000)
    await other.manager.pin('db', 'e')
    await bench.manager.revoke('db')
    expect(bench.wire.counts.read).to.equal(1)
    expect(bench.wire.ops).to.have.lengthOf(1)
    expect(bench.wire.ops[0]).to.include({ kind: 'release', holder: 'x' })
    expect(bench.holder()).to.equal(undefined)
  })

  it('`revoke` of a vacant lease resolves and releases nothing', async () => {
    const { manager, wire } = new Bench()
    await manager.revoke('db')
    expect(wire.counts).to.include({ read: 1, release: 0 })
  })

  it('a lease that changed hands since the read is read again', async () => {
    const clock = new TestClock()
    const by = (holder: string) => ({ db: infoOf({ holder, expiry: clock.in(30_000) }) })
    const client = new ScriptedClient([
      { call: 'refresh', args: [['db']], leases: by('x') },
      { call: 'releaseLease', args: ['db', 'x'], throws: new ErrInvalid('held by "y"'), leases: by('y') },
      { call: 'refresh', args: [['db']] },
      { call: 'releaseLease', args: ['db', 'y'], leases: { db: undefined } },
    ])
    await new Manager({ client, clock }).revoke('db')
    client.verify()
  })

  it('a revocation whose outcome is unknown, executed late, ends no Hold that this process has got since', async () => {
    const bench = new Bench()
    const { clock, manager, wire } = bench
    await manager.claim('db', 'a', 60_000)
    wire.executeLate(4_000, { kind: 'release' })
    await rejection(clock.drive(manager.revoke('db')), ErrUnknown)
    const hold = await clock.drive(manager.hold('db', 'a', { duration: 60_000 }))
    await clock.advance(10_000)
    expect([hold.held, bench.holder()]).to.deep.equal([true, 'a'])
  })

  it('names are validated, and nothing is sent', async () => {
    const { manager, wire } = new Bench()
    await rejection(manager.release('db', ''), ErrNotValid)
    await rejection(manager.revoke('$'), ErrNotValid)
    expect(wire.counts.roundTrips).to.equal(0)
  })

  it('leases() is a fresh snapshot of the whole namespace, and does not change afterwards', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('x', 'a', 30_000)
    await other.manager.claim('y', 'b', 1000)
    await bench.clock.advance(1002)
    const seen = await bench.manager.leases()
    await other.manager.release('x', 'a')
    expect([...seen].map(([lease, { holder }]) => [lease, holder])).to.deep.equal([['x', 'a']])
    expect((await bench.manager.leases()).size).to.equal(0)
  })
})
