import { expect } from 'chai'
import { ErrNotHeld, ErrNotValid, ErrStopped, ErrTrapdoor, ErrUnknown } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { MemoryGuard } from '#src/memory/index.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

describe('Token.check: within the early bound no I/O, otherwise exactly one read', () => {
  it('making a token costs nothing and validates nothing', () => {
    const client = new ScriptedClient()
    const token = new Manager({ client, clock: new TestClock() }).token('not a name', '')
    expect(token).to.include({ lease: 'not a name', holder: '' })
    expect(client.calls).to.deep.equal([])
  })

  it('a grant made here is believed without I/O, whole Info included', async () => {
    const { manager, wire } = new Bench()
    await manager.claim('db', 'a', 30_000, { value: 'here' })
    wire.resetCounts()
    const info = await manager.token('db', 'a').check()
    expect(info).to.include({ holder: 'a', value: 'here', pinned: false, fencingToken: 1n })
    expect(wire.counts.roundTrips).to.equal(0)
  })

  it('what this process was not granted costs exactly one read of that lease', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    const info = await other.manager.token('db', 'a').check()
    expect(info.holder).to.equal('a')
    expect(other.wire.counts).to.include({ read: 1, roundTrips: 1 })
  })

  it('a snapshot is no grant: another check reads again', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    await other.manager.token('db', 'a').check()
    await bench.manager.release('db', 'a')
    await rejection(other.manager.token('db', 'a').check(), ErrNotHeld)
    expect(other.wire.counts.read).to.equal(2)
  })

  it('only the lease asked about is read', async () => {
    const client = new ScriptedClient([{ call: 'refresh', args: [['db']] }])
    await rejection(new Manager({ client, clock: new TestClock() }).token('db', 'a').check(), ErrNotHeld)
    client.verify()
  })

  it('concurrent checks share exactly one refresh', async () => {
    const client = new ScriptedClient([{ call: 'refresh', args: [['db']] }])
    const manager = new Manager({ client, clock: new TestClock() })
    const checks = await Promise.allSettled(['a', 'b', 'c', 'a'].map((holder) => manager.token('db', holder).check()))
    expect(checks.every(({ status }) => status === 'rejected')).to.equal(true)
    client.verify()
  })

  it('a check is never answered by a read that was sent before it was asked', async () => {
    const clock = new TestClock()
    let answer = (): void => {}
    const first = new Promise<void>((resolve) => (answer = resolve))
    const client = new ScriptedClient([
      { call: 'refresh', after: first },
      { call: 'refresh', leases: { db: infoOf({ holder: 'a', expiry: clock.in(9000) }) } },
    ])
    const manager = new Manager({ client, clock })
    const early = track(manager.token('db', 'a').check())
    await clock.settle()
    const late = manager.token('db', 'a').check()
    expect((await late).holder).to.equal('a')
    answer()
    await clock.settle()
    expect(early.state).not.to.equal('pending')
    client.verify()
  })

  it("another's, or nobody's → ErrNotHeld, which says so", async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'b', 30_000)
    expect(await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)).to.include({
      lease: 'db',
      holder: 'a',
      reason: 'held by "b"',
    })
    expect(await rejection(bench.manager.token('free', 'a').check(), ErrNotHeld)).to.include({ reason: 'vacant' })
  })

  it('names are validated at check, all problems at once, and nothing is sent', async () => {
    const { manager, wire } = new Bench()
    const error = await rejection(manager.token('a b', 'x#y').check(), ErrNotValid)
    expect(error.problems.map(({ argument }) => argument)).to.deep.equal(['lease', 'holder'])
    expect(wire.counts.roundTrips).to.equal(0)
  })

  it('a holder that cannot ask does not know: ErrUnknown, never ErrNotHeld', async () => {
    const { clock, manager, wire } = new Bench()
    wire.reject(new Error('away'), { kind: 'read' })
    await rejection(clock.drive(manager.token('db', 'a').check()), ErrUnknown)
  })

  it('after its own release or a revocation nobody believes', async () => {
    const { manager } = new Bench()
    await manager.claim('db', 'a', 30_000)
    await manager.release('db', 'a')
    await rejection(manager.token('db', 'a').check(), ErrNotHeld)
    await manager.claim('db', 'a', 30_000)
    await manager.revoke('db')
    await rejection(manager.token('db', 'a').check(), ErrNotHeld)
  })

  it('a hint that the lease was vacated makes the next check ask', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    const watching = track(bench.manager.waitUntilExpired('elsewhere-held'))
    await watching.promise
    const kept = new AbortController()
    await other.manager.claim('x', 'x', 60_000)
    track(bench.manager.waitUntilExpired('x', { signal: kept.signal }))
    await bench.clock.settle()
    await other.manager.revoke('db')
    await bench.clock.settle()
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)
    kept.abort()
  })

  for (const question of ['check', 'read after a hint', 'renewal'] as const) {
    it(`a hint that comes while a ${question} is in flight is not answered by it: the next check asks`, async () => {
      const bench = new Bench()
      const options = { duration: { hours: 1 }, renewEvery: false } as const
      const queue = await bench.manager.hold('queue', 'a', options) // so that hints are listened to
      const claimed = question === 'check' ? await bench.manager.claim('db', 'a', options.duration) : undefined
      const hold = claimed === undefined ? await bench.manager.hold('db', 'a', options) : undefined
      const token = claimed ?? hold?.token ?? expect.fail()
      await bench.clock.settle()
      for (const kind of ['read', 'extend'] as const) bench.wire.delay(100, { kind, at: 'reply', times: 1 })
      if (question !== 'renewal') bench.wire.emit({ kind: 'vacated', lease: 'db' })
      const asked = question === 'renewal' ? hold?.renew() : question === 'check' ? token.check() : undefined
      await bench.clock.settle()
      const hung = bench.wire.hang({ kind: 'read' })
      bench.wire.emit({ kind: 'vacated', lease: 'db' })
      await bench.clock.advance(100)
      await asked
      const next = track(token.check())
      await bench.clock.settle()
      expect(next.state).to.equal('pending')
      hung.heal()
      await bench.clock.advance(10_000)
      expect(next.state).to.equal('fulfilled')
      await queue.release()
      await bench.manager.stop()
    })
  }

  it('a renewal that is granted after a hint refutes it: the next check asks nobody', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { duration: 30_000 })
    await bench.clock.settle()
    const away = bench.wire.loseRequest({ kind: 'read' })
    bench.wire.emit({ kind: 'vacated', lease: 'db' })
    while (bench.wire.counts.extend === 0) await bench.clock.advance(100)
    away.heal()
    await bench.clock.settle()
    const before = bench.wire.counts.read
    await hold.token.check()
    expect(bench.wire.counts.read).to.equal(before)
    await bench.manager.stop()
  })

  it('once a guard has refused, a check without a key does not pass inside the trust window either', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const token = await bench.manager.claim('db', 'a', 30_000)
    await bench.other().manager.revoke('db')
    await token.check() // nobody was asked
    await rejection(token.check(new MemoryGuard(() => {})), ErrNotHeld)
    await rejection(token.check(), ErrNotHeld)
  })

  it("a check whose read hangs does not delay another lease's check", async () => {
    const { clock, manager, wire } = new Bench({ wire: { limits: { maxOps: 1, maxInFlight: 4 } } })
    wire.hang({ kind: 'read', lease: 'slow' })
    const slow = track(manager.token('slow', 'a').check())
    const fast = track(manager.token('fast', 'a').check())
    await clock.settle()
    expect(slow.state).to.equal('pending')
    expect(fast.error).to.be.instanceOf(ErrNotHeld)
    await clock.drive(slow.promise.catch(() => {}))
  })

  it('an unexpected error of a client about one lease does not fail the check of another', async () => {
    const client = new ScriptedClient([
      { call: 'refresh', args: [['x']], throws: new TypeError('broken row') },
      { call: 'refresh', args: [['y']] },
    ])
    const manager = new Manager({ client, clock: new TestClock() })
    const [x, y] = [track(manager.token('x', 'a').check()), track(manager.token('y', 'a').check())]
    await Promise.allSettled([x.promise, y.promise])
    expect(x.error).to.be.instanceOf(ErrUnknown)
    expect(y.error).to.be.instanceOf(ErrNotHeld)
  })
})

describe('Token.check: the trapdoor', () => {
  const believed = () => {
    const clock = new TestClock()
    const keys: unknown[] = []
    const trapdoor = async (key: unknown): Promise<void> => void keys.push(key)
    const info = infoOf({ holder: 'a', expiry: clock.in(30_000), trapdoor })
    const client = new ScriptedClient([{ call: 'claimLease', leases: { db: info } }])
    return { clock, keys, client, manager: new Manager({ client, clock }) }
  }

  it('it is called with that very key, after the check, believed or read', async () => {
    const { clock, client, keys, manager } = believed()
    await manager.claim('db', 'a', 30_000)
    const key = { transaction: true }
    await manager.token('db', 'a').check(key)
    expect(keys).to.deep.equal([key])
    expect(keys[0]).to.equal(key)

    await clock.advance(29_990) // no longer believed
    client.expect({ call: 'refresh' })
    await manager.token('db', 'a').check(key)
    expect(keys[1]).to.equal(key)
  })

  it('without a key it is not called', async () => {
    const { clock, client, keys, manager } = believed()
    await manager.claim('db', 'a', 30_000)
    await manager.token('db', 'a').check()
    await manager.token('db', 'a').check(undefined)
    await clock.advance(29_990)
    client.expect({ call: 'refresh' })
    await manager.token('db', 'a').check()
    expect(keys).to.deep.equal([])
  })

  it('`undefined` alone means "no trapdoor key": null, 0, false and "" are keys', async () => {
    const { clock, client, keys, manager } = believed()
    await manager.claim('db', 'a', 30_000)
    for (const key of [null, 0, false, '']) await manager.token('db', 'a').check(key)
    expect(keys).to.deep.equal([null, 0, false, ''])
    await clock.advance(29_990) // no longer believed
    client.expect({ call: 'refresh' })
    await manager.token('db', 'a').check(null)
    expect(keys.length).to.equal(5)
  })

  it('it is not called when the check fails', async () => {
    const { client, keys, manager } = believed()
    await manager.claim('db', 'a', 30_000)
    client.expect({ call: 'refresh' })
    await rejection(manager.token('db', 'b').check('key'), ErrNotHeld)
    expect(keys).to.deep.equal([])
  })

  it("a trapdoor's own error reaches the caller as it is", async () => {
    const clock = new TestClock()
    const own = new RangeError('deadlock detected')
    const info = infoOf({ holder: 'a', expiry: clock.in(30_000), trapdoor: () => Promise.reject(own) })
    const client = new ScriptedClient([{ call: 'claimLease', leases: { db: info } }])
    const manager = new Manager({ client, clock })
    await manager.claim('db', 'a', 30_000)
    expect(await rejection(manager.token('db', 'a').check('key'), RangeError)).to.equal(own)
    await clock.advance(29_990)
    client.expect({ call: 'refresh' })
    expect(await rejection(manager.token('db', 'a').check('key'), RangeError)).to.equal(own)
  })

  it('a key that is a connection is read over, and nothing else is asked', async () => {
    const clock = new TestClock()
    const keys: unknown[] = []
    const info = infoOf({ holder: 'a', expiry: clock.in(60_000), trapdoor: async (key) => void keys.push(key) })
    const client = new ScriptedClient([{ call: 'refreshOver', args: ['db'], leases: { db: info } }])
    const manager = new Manager({ client, clock })
    const key = { query: true }
    expect(await manager.token('db', 'a').check(key)).to.equal(info)
    expect(client.calls[0]?.args[1]).to.equal(key)
    client.expect({ call: 'refreshOver', args: ['db'] })
    await rejection(manager.token('db', 'b').check(key), ErrNotHeld)
    client.verify()
    expect(keys).to.deep.equal([key])
  })

  it('a key over which nothing can be learned, and a client that reads over none, are asked as without a key', async () => {
    const clock = new TestClock()
    const info = infoOf({ holder: 'a', expiry: clock.in(60_000), trapdoor: async () => {} })
    for (const lacks of [[], ['refreshOver']] as const) {
      const client = new ScriptedClient([{ call: 'refresh', args: [['db']], leases: { db: info } }], { lacks })
      const manager = new Manager({ client, clock })
      expect(await manager.token('db', 'a').check({})).to.equal(info)
      client.verify()
    }
  })

  it('what the connection of the key throws reaches the caller as it is', async () => {
    const broken = Object.assign(new Error('current transaction is aborted'), { code: '25P02' })
    const client = new ScriptedClient([{ call: 'refreshOver', throws: broken }])
    const manager = new Manager({ client, clock: new TestClock() })
    expect(await rejection(manager.token('db', 'a').check({}), Error)).to.equal(broken)
    client.verify()
  })

  it('a key is not touched when the names break a rule, the term is over, or the manager is stopped', async () => {
    const { manager, client } = new Bench()
    const touched: unknown[] = []
    Object.assign(client, { refreshOver: async (_: string, key: unknown) => touched.push(key) > 0 })
    const hold = await manager.hold('db', 'a', { duration: 30_000 })
    await hold.release()
    await rejection(hold.token.check({}), ErrNotHeld)
    await rejection(manager.token('not a name', 'a').check({}), ErrNotValid)
    await manager.stop()
    await rejection(manager.token('db', 'a').check({}), ErrStopped)
    expect(touched).to.deep.equal([])
  })

  it('a key that the substrate does not understand is ErrTrapdoor', async () => {
    const { manager } = new Bench()
    await manager.claim('db', 'a', 30_000)
    await rejection(manager.token('db', 'a').check('no such key'), ErrTrapdoor)
  })

  it('a guard lets through a write only while exactly this holding stands', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 30_000)
    const guard = new MemoryGuard(() => 'written')
    await bench.manager.token('db', 'a').check(guard)
    expect(guard.result).to.equal('written')
    await bench.other().manager.revoke('db') // no watch here: the belief is wrong, the trapdoor is not
    const late = new MemoryGuard(() => 'written')
    await rejection(bench.manager.token('db', 'a').check(late), ErrNotHeld)
    expect(late.result).to.equal(undefined)
  })
})

describe('Manager.pin and unpin: a pinned lease does not lapse', () => {
  it('while any entity pins it', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 1000)
    await bench.manager.pin('db', 'e')
    await bench.manager.pin('db', 'f')
    await bench.clock.advance(5000)
    await bench.manager.unpin('db', 'e')
    expect(bench.holder()).to.equal('a')
    await bench.manager.unpin('db', 'f')
    expect(bench.holder()).to.equal(undefined)
  })

  it('a pin on a vacant lease protects its next holder', async () => {
    const bench = new Bench()
    await bench.manager.pin('db', 'e')
    await bench.manager.claim('db', 'a', 1000)
    await bench.clock.advance(5000)
    expect(bench.holder()).to.equal('a')
    expect([...(await bench.manager.pinned())]).to.deep.equal([['db', ['e']]])
  })

  it('a pinned Info keeps the expiry that was asked for; past it a check re-reads and passes', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 1000)
    const asked = (await bench.manager.token('db', 'a').check()).expiry.toMillis()
    await bench.manager.pin('db', 'e')
    await bench.clock.advance(500)
    expect((await bench.manager.token('db', 'a').check()).expiry.toMillis()).to.be.closeTo(asked, 2)
    await bench.clock.advance(5000)
    bench.wire.resetCounts()
    const info = await bench.manager.token('db', 'a').check()
    expect(info.pinned).to.equal(true)
    expect(info.expiry.toMillis()).to.be.closeTo(asked, 10)
    expect(bench.wire.counts.read).to.equal(1)
    await bench.manager.unpin('db', 'e')
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)
  })

  it('names are validated before anything is sent', async () => {
    const { manager, wire } = new Bench()
    await rejection(manager.pin('db', 'no entity'), ErrNotValid)
    await rejection(manager.unpin('', 'e'), ErrNotValid)
    expect(wire.counts.roundTrips).to.equal(0)
  })
})
