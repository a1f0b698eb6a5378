import { getEventListeners, setMaxListeners } from 'node:events'
import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { ErrClaimDenied, ErrInvalid, ErrNotHeld, ErrNotValid, ErrUnknown } from '#src/errors.ts'
import type { Hold } from '#src/hold.ts'
import { Manager } from '#src/manager.ts'
import { infoOf, ScriptedClient, TestClock, track, type Tracked } from '#src/testing/index.ts'
import { LOOK_AGAIN_MS } from '#src/ticket.ts'
import { Bench, rejection, type Process } from './manager.bench.ts'

describe('Manager.waitUntilExpired', () => {
  it('vacant → at once, after one read', async () => {
    const { clock, manager, wire } = new Bench()
    await manager.waitUntilExpired('db')
    expect(wire.counts.read).to.be.within(1, 2) // the watch begins with a resync
    expect(clock.pending).to.equal(0)
  })

  it('without any hint it wakes one millisecond after the latest instant of the known expiry', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.other().manager.claim('db', 'a', 10_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(10_011)
    expect(waiting.state).to.equal('pending')
    await bench.clock.advance(1)
    expect(waiting.state).to.equal('fulfilled')
    expect(bench.wire.counts.read).to.equal(2)
    expect(bench.clock.pending).to.equal(0)
  })

  it('it wakes on the hint, long before the expiry', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'a', 3_600_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    await other.manager.release('db', 'a')
    await bench.clock.settle()
    expect(waiting.state).to.equal('fulfilled')
  })

  it('a hint is never believed: a false one costs a read and wakes nobody', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'a', 30_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    bench.wire.resetCounts()
    bench.wire.emit({ kind: 'vacated', lease: 'db' })
    await bench.clock.settle()
    expect(bench.wire.counts.read).to.equal(1)
    expect(waiting.state).to.equal('pending')
    await bench.manager.stop()
  })

  it('a hint whose numbers were garbled on its way delays nobody', async () => {
    const garbled: unknown[] = [
      { kind: 'taken', lease: 'db', place: 1, durationMs: Number.NaN },
      { kind: 'taken', lease: 'db', place: 1 },
      { kind: 'taken', lease: 'db', place: 1, durationMs: 'x' },
      { kind: 'taken', lease: 'db', place: 1, durationMs: Number.POSITIVE_INFINITY },
      { kind: 'taken', lease: 'db', place: Number.NaN, durationMs: 5 },
      { kind: 'taken', lease: 'db', place: 1, durationMs: 5, to: { place: 2, ahead: Number.NaN } },
      { kind: 'vacated', lease: 'db', to: {} },
    ]
    for (const hint of garbled) {
      const bench = new Bench()
      const owner = await bench.other().manager.hold('db', 'z', { duration: 60_000 })
      const ahead = track(bench.other().manager.hold('db', 'first', { duration: 1_000, wait: true, renewEvery: false }))
      await bench.clock.advance(100)
      const waiting = track(bench.manager.hold('db', 'second', { duration: 1_000, wait: true }))
      await bench.clock.advance(100)
      bench.wire.emit(hint as LeaseChange)
      await bench.clock.advance(10_000)
      await owner.release()
      await bench.clock.advance(2_000)
      await ahead.value?.release()
      await bench.clock.advance(5_000)
      expect([ahead.state, waiting.state], JSON.stringify(hint)).to.deep.equal(['fulfilled', 'fulfilled'])
      await bench.manager.stop()
    }
  })

  it('a hint that is none, of a client of the application, throws nothing into it, and makes those who wait look', async () => {
    const broken = new Proxy({}, { get: () => expect.fail('it throws') })
    const hints: Record<string, unknown> = {
      null: null,
      undefined,
      'a number': 5,
      'without a kind': {},
      'of an unknown kind': { kind: 'x', lease: 'db' },
      'of a lease that is no name': { kind: 'vacated', lease: 5 },
      'to nobody': { kind: 'vacated', lease: 'db', to: null },
      'to a number': { kind: 'taken', lease: 'db', place: 1, durationMs: 5, to: 7 },
      unreadable: broken,
    }
    for (const [what, hint] of Object.entries(hints)) {
      const bench = new Bench()
      await bench.manager.claim('db', 'x', 600_000)
      const { client, wire } = bench.other()
      let tell: (change: LeaseChange) => void = () => expect.fail('nobody has subscribed')
      client.subscribe = (listener) => {
        tell = listener
        return () => {}
      }
      const manager = new Manager({ client, clock: bench.clock })
      const wait = track(manager.hold('db', 'w', { duration: 1_000, wait: true }))
      await bench.clock.settle()
      wire.resetCounts()
      tell(hint as LeaseChange)
      await bench.clock.settle()
      expect([wait.state, wire.counts.claim], what).to.deep.equal(['pending', 1])
      await manager.stop()
    }
  })

  it('a holder that changes without a vacancy keeps waiters waiting', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    await other.manager.claim('db', 'a', 10_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(5000)
    await other.manager.release('db', 'a')
    await other.manager.claim('db', 'b', 10_000)
    await bench.clock.advance(9000)
    expect(waiting.state).to.equal('pending')
    await bench.clock.advance(2000)
    expect(waiting.state).to.equal('fulfilled')
  })

  it('an extension keeps waiters waiting', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'a', 10_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    for (let round = 0; round < 4; round++) {
      await bench.clock.advance(8000)
      await other.manager.claim('db', 'a', 10_000)
    }
    expect(waiting.state).to.equal('pending')
    await bench.clock.advance(10_100)
    expect(waiting.state).to.equal('fulfilled')
  })

  it('all waiters on a vacated lease wake, in order (20)', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'a', 30_000)
    const woken: number[] = []
    for (let index = 0; index < 5; index++) void bench.manager.waitUntilExpired('db').then(() => woken.push(index))
    await bench.clock.settle()
    await other.manager.release('db', 'a')
    await bench.clock.settle()
    expect(woken).to.deep.equal([0, 1, 2, 3, 4])
    expect(bench.clock.pending).to.equal(0)
  })

  it('one who comes while a read is out is not answered by it', async () => {
    const clock = new TestClock()
    let answer = (): void => {}
    const first = new Promise<void>((resolve) => (answer = resolve))
    const client = new ScriptedClient([
      { call: 'refresh', after: first },
      { call: 'refresh', leases: { db: infoOf({ holder: 'a', expiry: clock.in(60_000) }) } },
    ])
    const manager = new Manager({ client, clock })
    const early = track(manager.waitUntilExpired('db'))
    await clock.settle()
    const late = track(manager.waitUntilExpired('db'))
    answer()
    await clock.settle()
    expect([early.state, late.state]).to.deep.equal(['fulfilled', 'pending'])
    await manager.stop()
  })

  it('every maxSleep what is awaited is read again, though hints are lost', async () => {
    const bench = new Bench({ maxSleep: 7000 })
    const other = bench.other()
    await other.manager.claim('db', 'a', 3_600_000)
    bench.wire.dropHints()
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    await other.manager.release('db', 'a')
    await bench.clock.advance(6999)
    expect(waiting.state).to.equal('pending')
    await bench.clock.advance(1)
    expect(waiting.state).to.equal('fulfilled')
  })

  it('maxSleep is one minute by default', async () => {
    const clock = new TestClock()
    const held = infoOf({ holder: 'a', expiry: clock.in(3_600_000) })
    const client = new ScriptedClient([{ call: 'refresh', times: Number.POSITIVE_INFINITY, leases: { db: held } }])
    const manager = new Manager({ client, clock })
    const waiting = track(manager.waitUntilExpired('db'))
    await clock.advance(59_999)
    expect(client.calls.length).to.equal(1)
    await clock.advance(1)
    expect(client.calls.length).to.equal(2)
    await clock.advance(600_000)
    expect(client.calls.length).to.equal(12)
    await manager.stop()
    expect(waiting.state).to.equal('rejected')
  })

  it('"all is re-read" means what is awaited or held, never the whole namespace', async () => {
    const clock = new TestClock()
    const held = infoOf({ holder: 'x', expiry: clock.in(3_600_000) })
    const mine = infoOf({ holder: 'a', expiry: clock.in(3_600_000), fencingToken: 5n })
    const client = new ScriptedClient(
      [
        { call: 'claimLease', leases: { held: mine } },
        { call: 'refresh', times: Number.POSITIVE_INFINITY },
      ],
      { leases: { awaited: held, contended: held, other: held } },
    )
    const manager = new Manager({ client, clock })
    const hold = await manager.hold('held', 'a', { duration: 3_600_000 })
    const waiting = track(manager.waitUntilExpired('awaited'))
    await clock.advance(60_000)
    client.emit({ kind: 'resync' })
    await clock.advance(60_000)
    const read = client.calls.filter(({ call }) => call === 'refresh').map(({ args }) => args[0] as string[])
    expect(
      read.every((names) => names !== undefined),
      'never the whole namespace',
    ).to.equal(true)
    expect(new Set(read.flat())).to.deep.equal(new Set(['awaited', 'held']))
    expect(read.filter((names) => names.includes('held')).length).to.be.at.least(2)
    expect(hold.held).to.equal(true)
    await manager.stop()
    expect(waiting.state).to.equal('rejected')
  })

  it('after a resync everything awaited or held is re-read at once', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (const lease of ['x', 'y']) await other.manager.claim(lease, 'o', 3_600_000)
    const hold = await bench.manager.hold('held', 'a', { duration: 3_600_000 })
    const waiting = ['x', 'y'].map((lease) => track(bench.manager.waitUntilExpired(lease)))
    await bench.clock.settle()
    bench.wire.disconnectWatch()
    for (const lease of ['x', 'y']) await other.manager.release(lease, 'o')
    await other.manager.revoke('held')
    await bench.clock.settle()
    expect(waiting.map(({ state }) => state)).to.deep.equal(['pending', 'pending'])
    expect(hold.held).to.equal(true)
    bench.wire.reconnectWatch()
    await bench.clock.settle()
    expect(waiting.map(({ state }) => state)).to.deep.equal(['fulfilled', 'fulfilled'])
    expect(hold.signal.reason).to.include({ code: 'LEASE_LOST', reason: 'revoked' })
  })

  it('doubled hints wake once, and cost few reads', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'a', 30_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    bench.wire.duplicateHints(50)
    bench.wire.resetCounts()
    await other.manager.release('db', 'a')
    await bench.clock.settle()
    expect(waiting.state).to.equal('fulfilled')
    expect(bench.wire.counts.read).to.be.at.most(2)
  })

  it('ErrUnknown while waiting is tried again with growing pauses, and reported as an event', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.other().manager.claim('db', 'a', 600_000)
    const events: string[] = []
    bench.manager.events.subscribe((event) => {
      if (event.type === 'retrying') events.push(`${event.operation} ${event.lease}`)
    })
    const away = bench.wire.reject(new Error('away'), { kind: 'read' })
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(120_000)
    expect(waiting.state).to.equal('pending')
    // Some four requests in a row, and then a pause of half a second on average.
    expect(away.hits, 'not a busy loop').to.be.lessThan(120 * 10)
    expect(new Set(events)).to.deep.equal(new Set(['read db']))
    away.heal()
    await bench.other().manager.revoke('db')
    await bench.clock.advance(60_000)
    expect(waiting.state).to.equal('fulfilled')
    expect(bench.clock.pending).to.equal(0)
  })

  it('an unexpected error rejects those who wait, and the manager lives on', async () => {
    const client = new ScriptedClient([{ call: 'refresh', throws: new TypeError('a bug') }, { call: 'refresh' }])
    const manager = new Manager({ client, clock: new TestClock() })
    await rejection(manager.waitUntilExpired('db'), ErrUnknown)
    await manager.waitUntilExpired('db')
    client.verify()
  })

  it('an aborted wait leaves nothing behind: no timer, no listener, no reads', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.other().manager.claim('db', 'a', 600_000)
    const controller = new AbortController()
    const waits = Array.from({ length: 10 }, () =>
      track(bench.manager.waitUntilExpired('db', { signal: controller.signal })),
    )
    await bench.clock.settle()
    expect(bench.clock.pending).to.be.greaterThan(0)
    const reason = new RangeError('enough')
    controller.abort(reason)
    await bench.clock.settle()
    expect(waits.map(({ error }) => error)).to.deep.equal(waits.map(() => reason))
    expect(bench.clock.pending).to.equal(0)
    expect(getEventListeners(controller.signal, 'abort')).to.deep.equal([])
    bench.wire.resetCounts()
    await bench.clock.advance(3_600_000)
    expect(bench.wire.counts.roundTrips).to.equal(0)
  })

  it('a wait that ends well leaves no listener on the signal', async () => {
    const { manager } = new Bench()
    const controller = new AbortController()
    await manager.waitUntilExpired('db', { signal: controller.signal })
    await manager.claim('db', 'a', 1000, { signal: controller.signal })
    const hold = await manager.hold('x', 'a', { duration: 1000, wait: true, signal: controller.signal })
    expect(getEventListeners(controller.signal, 'abort')).to.deep.equal([])
    controller.abort()
    expect(hold.held, '`signal` in hold governs the waiting only (20)').to.equal(true)
    await manager.stop()
  })

  it('one of several waiters that aborts leaves the others waiting', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'a', 600_000)
    const controller = new AbortController()
    const gone = track(bench.manager.waitUntilExpired('db', { signal: controller.signal }))
    const stays = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    controller.abort()
    await other.manager.release('db', 'a')
    await bench.clock.settle()
    expect([gone.state, stays.state]).to.deep.equal(['rejected', 'fulfilled'])
  })

  it('the name is validated, and nothing is sent', async () => {
    const { manager, wire } = new Bench()
    await rejection(manager.waitUntilExpired('a.b'), ErrNotValid)
    expect(wire.counts.roundTrips).to.equal(0)
    expect(wire.watchers).to.equal(0)
  })

  it('a tick landing exactly on the expiry re-arms and never spins', async () => {
    const clock = new TestClock()
    const held = infoOf({ holder: 'a', expiry: clock.in(10_000) })
    const client = new ScriptedClient([{ call: 'refresh', times: Number.POSITIVE_INFINITY, leases: { db: held } }])
    const manager = new Manager({ client, clock })
    const waiting = track(manager.waitUntilExpired('db'))
    await clock.advance(10_000)
    client.emit({ kind: 'vacated', lease: 'db' }) // a look at exactly the expiry
    await clock.settle()
    expect(waiting.state).to.equal('pending')
    expect(clock.nextDelayMs).to.equal(1)
    await clock.advance(1)
    expect(waiting.state).to.equal('fulfilled')
    expect(client.calls.length).to.equal(3)
    expect(clock.fired).to.be.at.most(3)
  })

  it('timers that fire early are tolerated: the wait arms again and does not spin', async () => {
    const bench = new Bench({ wire: { watch: false }, time: { timersLateMs: -0.75 } })
    await bench.other().manager.claim('db', 'a', 10_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(10_011)
    expect(waiting.state).to.equal('pending')
    await bench.clock.advance(3)
    expect(waiting.state).to.equal('fulfilled')
    expect(bench.clock.fired).to.be.at.most(6)
  })

  it('timers that fire late only delay', async () => {
    const bench = new Bench({ wire: { watch: false }, time: { timersLateMs: 300 } })
    await bench.other().manager.claim('db', 'a', 10_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(10_400)
    expect(waiting.state).to.equal('fulfilled')
  })

  it('a wait for longer than 2³¹ − 1 ms comes to its end', async () => {
    const bench = new Bench({ wire: { watch: false }, maxSleep: { days: 40 } })
    await bench.other().manager.claim('db', 'a', { days: 30 })
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance({ days: 30 })
    expect(waiting.state).to.equal('pending')
    expect(bench.wire.counts.read).to.equal(1)
    await bench.clock.advance({ hours: 1 })
    expect(waiting.state).to.equal('fulfilled')
  })

  it('a wall clock set back or forward delays or wakes nobody wrongly', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.other().manager.claim('db', 'a', 90_000)
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    await bench.clock.jumpWall(3_600_000)
    await bench.clock.advance(60_000)
    expect(waiting.state, 'forward: still held').to.equal('pending')
    await bench.clock.jumpWall(-7_200_000)
    await bench.clock.advance(90_000)
    expect(waiting.state, 'back: found within maxSleep of its end').to.equal('fulfilled')
  })

  it('past the expiry a pinned lease keeps waiters waiting, without spinning', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'a', 1000)
    await other.manager.pin('db', 'e')
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(600_000)
    expect(waiting.state).to.equal('pending')
    expect(bench.wire.counts.read).to.be.lessThan(20)
    await other.manager.unpin('db', 'e')
    await bench.clock.settle()
    expect(waiting.state).to.equal('fulfilled')
  })

  it('a lease whose read hangs does not delay those who wait for another', async () => {
    const bench = new Bench({ wire: { watch: false, limits: { maxOps: 1, maxInFlight: 4 } } })
    bench.wire.hang({ lease: 'slow' })
    const slow = track(bench.manager.waitUntilExpired('slow'))
    const fast = track(bench.manager.waitUntilExpired('fast'))
    await bench.clock.settle()
    expect([slow.state, fast.state]).to.deep.equal(['pending', 'fulfilled'])
    await bench.manager.stop()
  })
})

describe('Manager.hold with wait: first come, first served', () => {
  it('those who want to hold are served in order', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'x', 30_000)
    const order: string[] = []
    for (const holder of ['a', 'b', 'c']) {
      void bench.manager.hold('db', holder, { duration: 30_000, wait: true }).then(async (hold) => {
        order.push(holder)
        await hold.release()
      })
      await bench.clock.settle()
    }
    await other.manager.release('db', 'x')
    await bench.clock.settle()
    expect(order).to.deep.equal(['a', 'b', 'c'])
    await bench.clock.advance(400) // the other one sees to it that those who were notified have come
    expect(bench.clock.pending).to.equal(0)
  })

  it('only the first of them contends in the substrate', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'x', 600_000)
    const controller = new AbortController()
    setMaxListeners(0, controller.signal)
    const waits = Array.from({ length: 100 }, (_, index) =>
      track(bench.manager.hold('db', `h-${index}`, { duration: 30_000, wait: true, signal: controller.signal })),
    )
    await bench.clock.settle()
    const claimants = new Set(bench.wire.ops.map((op) => ('holder' in op ? op.holder : '')))
    expect([...claimants]).to.deep.equal(['h-0'])
    expect(bench.wire.counts.claim).to.be.at.most(2) // a resync follows the subscription
    bench.wire.resetCounts()
    await other.manager.release('db', 'x')
    await bench.clock.settle()
    expect(waits[0]?.state).to.equal('fulfilled')
    expect(bench.wire.ops.every((op) => 'holder' in op && op.holder === 'h-0')).to.equal(true)
    controller.abort()
    await bench.manager.stop()
  })

  it('while one of this manager holds it, the next does not even ask', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { duration: 30_000 })
    bench.wire.resetCounts()
    const next = track(bench.manager.hold('db', 'b', { duration: 30_000, wait: true }))
    await bench.clock.settle()
    expect(bench.wire.counts.claim).to.equal(0)
    await hold.release()
    await bench.clock.settle()
    expect(next.state).to.equal('fulfilled')
    await bench.manager.stop()
  })

  it('one that aborts makes room for the next', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('db', 'x', 600_000)
    const controller = new AbortController()
    const first = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true, signal: controller.signal }))
    const second = track(bench.manager.hold('db', 'b', { duration: 30_000, wait: true }))
    await bench.clock.settle()
    const reason = new RangeError('enough')
    controller.abort(reason)
    await other.manager.release('db', 'x')
    await bench.clock.settle()
    expect(first.error).to.equal(reason)
    expect(second.value?.holder).to.equal('b')
    await bench.manager.stop()
  })

  it('one that aborts while its claim is out gives back what it is granted', async () => {
    const bench = new Bench()
    const hang = bench.wire.hang({ kind: 'claim', at: 'reply', times: 1 })
    const controller = new AbortController()
    const first = track(bench.manager.hold('db', 'a', { duration: 3_600_000, wait: true, signal: controller.signal }))
    const second = track(bench.manager.hold('db', 'b', { duration: 30_000, wait: true }))
    await bench.clock.settle()
    controller.abort()
    hang.heal()
    await bench.clock.advance(5000)
    expect(first.state).to.equal('rejected')
    expect(second.value?.held).to.equal(true)
    expect(bench.holder()).to.equal('b')
    await bench.manager.stop()
  })

  it('aborted waits for a hold leave nothing behind: no timer, no listener', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.other().manager.claim('db', 'x', 600_000)
    const controller = new AbortController()
    const { signal } = controller
    const waits = [
      track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true, signal })),
      track(bench.manager.hold('db', 'b', { duration: 30_000, wait: { hours: 5 }, signal })),
    ]
    await bench.clock.settle()
    controller.abort()
    await bench.clock.settle()
    expect(waits.map(({ state }) => state)).to.deep.equal(['rejected', 'rejected'])
    expect(bench.clock.pending).to.equal(0)
    expect(getEventListeners(signal, 'abort')).to.deep.equal([])
  })

  it('running out of `wait` → ErrClaimDenied, to the millisecond, with the holder', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'x', 600_000)
    const first = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: 5000 }))
    const second = track(bench.manager.hold('db', 'b', { duration: 30_000, wait: 7000 }))
    await bench.clock.advance(4999)
    expect(first.state).to.equal('pending')
    await bench.clock.advance(1)
    expect(first.error).to.be.instanceOf(ErrClaimDenied)
    expect(first.error).to.include({ currentHolder: 'x' })
    await bench.clock.advance(1999)
    expect(second.state).to.equal('pending')
    await bench.clock.advance(1)
    expect(second.error).to.be.instanceOf(ErrClaimDenied)
    expect(bench.clock.pending).to.equal(0)
  })

  it('`wait: false`, the default, is denied at once', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'x', 600_000)
    await rejection(bench.manager.hold('db', 'a', { duration: 30_000 }), ErrClaimDenied)
    await rejection(bench.manager.hold('db', 'a', { duration: 30_000, wait: false }), ErrClaimDenied)
    expect(bench.wire.watchers).to.equal(0)
    expect(bench.clock.pending).to.equal(0)
  })

  it('a substrate that is away while a hold waits is tried again until it is back', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const away = bench.wire.reject(new Error('away'))
    const waiting = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
    await bench.clock.advance(60_000)
    expect(waiting.state).to.equal('pending')
    away.heal()
    await bench.clock.advance(60_000)
    expect(waiting.value?.held).to.equal(true)
    await bench.manager.stop()
  })

  it('running out of `wait` while the substrate is away → ErrUnknown: nothing can be inferred', async () => {
    const bench = new Bench({ wire: { watch: false } })
    bench.wire.reject(new Error('away'))
    const waiting = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: 20_000 }))
    await bench.clock.advance(20_001)
    expect(waiting.error).to.be.instanceOf(ErrUnknown)
  })

  it('an unexpected error rejects that wait only', async () => {
    const clock = new TestClock()
    const client = new ScriptedClient([
      { call: 'claimLease', args: ['db', { holder: 'a' }], throws: new TypeError('a bug') },
      {
        call: 'claimLease',
        args: ['db', { holder: 'b' }],
        leases: { db: infoOf({ holder: 'b', expiry: clock.in(30_000) }) },
      },
    ])
    const manager = new Manager({ client, clock })
    const [a, b] = ['a', 'b'].map((holder) => track(manager.hold('db', holder, { duration: 30_000, wait: true })))
    await clock.settle()
    expect(a?.error).to.be.instanceOf(ErrUnknown)
    expect(b?.value?.holder).to.equal('b')
    await manager.stop()
  })

  it('while waiting, a state that keeps changing is asked again', async () => {
    const clock = new TestClock()
    const client = new ScriptedClient([
      { call: 'claimLease', times: 2, throws: new ErrInvalid('changed'), leases: { db: undefined } },
      { call: 'claimLease', leases: { db: infoOf({ holder: 'a', expiry: clock.in(30_000) }) } },
    ])
    const manager = new Manager({ client, clock })
    const hold = await clock.drive(manager.hold('db', 'a', { duration: 30_000, wait: true }))
    expect(hold.held).to.equal(true)
    await manager.stop()
  })
})

describe('Manager.hold with wait: in a queue with other processes', () => {
  const options = { duration: 30_000, wait: true }

  /** One who holds the lease, and so many in as many processes who wait for it, in this order. */
  async function queue(bench: Bench, count: number): Promise<{ line: Process[]; waits: Tracked<Hold>[] }> {
    await bench.manager.claim('db', 'x', 600_000)
    const line: Process[] = []
    const waits: Tracked<Hold>[] = []
    for (let place = 0; place < count; place++) {
      const process = bench.other()
      line.push(process)
      waits.push(track(process.manager.hold('db', `p-${place}`, options)))
      await bench.clock.settle()
    }
    for (const { wire } of [bench, ...line]) wire.resetCounts()
    return { line, waits }
  }

  const states = (waits: readonly Tracked<Hold>[]): string[] => waits.map(({ state }) => state)
  const claims = (line: readonly Process[]): number[] => line.map(({ wire }) => wire.counts.claim)

  it('a hand-off costs one claim, however many wait', async () => {
    const bench = new Bench()
    const { line, waits } = await queue(bench, 10)
    await bench.manager.release('db', 'x')
    await bench.clock.advance(5_000)
    expect(states(waits)).to.deep.equal(['fulfilled', ...Array.from({ length: 9 }, () => 'pending')])
    expect(claims(line)).to.deep.equal([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    await waits[0]?.value?.release()
    await bench.clock.advance(5_000)
    expect(waits[1]?.state).to.equal('fulfilled')
    expect(claims(line)).to.deep.equal([1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    for (const { manager } of line) await manager.stop()
  })

  it('one who does not take it delays the next by a slot, and keeps its place', async () => {
    const bench = new Bench()
    const { line, waits } = await queue(bench, 3)
    const hang = line[0]?.wire.hang({ kind: 'claim' })
    await bench.manager.release('db', 'x')
    await bench.clock.advance(19)
    expect(states(waits)).to.deep.equal(['pending', 'pending', 'pending'])
    await bench.clock.advance(1)
    expect(states(waits)).to.deep.equal(['pending', 'fulfilled', 'pending'])
    await bench.clock.advance(200)
    hang?.heal()
    await bench.clock.settle()
    await waits[1]?.value?.release()
    await bench.clock.settle()
    expect(states(waits)).to.deep.equal(['fulfilled', 'fulfilled', 'pending'])
    for (const { manager } of line) await manager.stop()
  })

  it('news that overtakes the refusal, from which a waiter learns its place, counts all the same', async () => {
    const bench = new Bench()
    const { line, waits } = await queue(bench, 1)
    const next = bench.other()
    await next.manager.hold('another', 'next', options) // it listens: no resync comes
    next.wire.resetCounts()
    next.wire.delay(50, { kind: 'claim', at: 'reply', times: 1 })
    const wait = track(next.manager.hold('db', 'next', options))
    await bench.clock.settle()
    await bench.manager.release('db', 'x')
    await bench.clock.advance(50)
    expect([...states(waits), wait.state, next.wire.counts.claim]).to.deep.equal(['fulfilled', 'pending', 1])
    await waits[0]?.value?.release()
    await bench.clock.settle()
    expect([wait.state, next.wire.counts.claim]).to.deep.equal(['fulfilled', 2])
    for (const { manager } of [...line, next]) await manager.stop()
  })

  it('news of a hand-off that was over before the claim arrived costs no second claim', async () => {
    const bench = new Bench()
    const { line, waits } = await queue(bench, 1)
    const next = bench.other()
    await next.manager.hold('another', 'next', options) // it listens: no resync comes
    next.wire.resetCounts()
    next.wire.delay(50, { kind: 'claim', at: 'request', times: 1 })
    const wait = track(next.manager.hold('db', 'next', options))
    await bench.clock.settle()
    await bench.manager.release('db', 'x')
    await bench.clock.advance(1_000)
    expect([...states(waits), wait.state, next.wire.counts.claim]).to.deep.equal(['fulfilled', 'pending', 1])
    for (const { manager } of [...line, next]) await manager.stop()
  })

  it('without hints the next one of this process claims when a Hold of it ends', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const first = await bench.manager.hold('db', 'a', options)
    const waits = ['b', 'c'].map((holder) => track(bench.manager.hold('db', holder, options)))
    await bench.clock.settle()
    await first.release()
    await bench.clock.settle()
    expect(states(waits)).to.deep.equal(['fulfilled', 'pending'])
    await waits[0]?.value?.release()
    await bench.clock.settle()
    expect(states(waits)).to.deep.equal(['fulfilled', 'fulfilled'])
    await bench.manager.stop()
  })

  it('anyone who gives it up and wants it again is the last', async () => {
    const bench = new Bench()
    const { line, waits } = await queue(bench, 2)
    await bench.manager.release('db', 'x')
    const again = track(bench.manager.hold('db', 'x', options))
    await bench.clock.settle()
    await waits[0]?.value?.release()
    await bench.clock.settle()
    expect([...states(waits), again.state]).to.deep.equal(['fulfilled', 'fulfilled', 'pending'])
    await waits[1]?.value?.release()
    await bench.clock.settle()
    expect(again.state).to.equal('fulfilled')
    for (const { manager } of [bench, ...line]) await manager.stop()
  })

  it('when the holder dies, they claim one after the other, and only the first is granted it', async () => {
    const bench = new Bench()
    const { line, waits } = await queue(bench, 5)
    await bench.clock.advance(605_000)
    expect(states(waits)).to.deep.equal(['fulfilled', ...Array.from({ length: 4 }, () => 'pending')])
    expect(
      claims(line)
        .slice(1)
        .every((count) => count <= 11),
    ).to.equal(true) // the re-reads of ten minutes
    for (const { manager } of line) await manager.stop()
  })

  it('all who are ahead have gone: nobody waits longer for its turn than twelve slots', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', 600_000)
    for (let gone = 0; gone < 40; gone++) {
      const controller = new AbortController()
      const { manager } = bench.other()
      const wait = track(manager.hold('db', `gone-${gone}`, { ...options, signal: controller.signal }))
      await bench.clock.settle()
      controller.abort(new Error('gone'))
      await bench.clock.settle()
      expect(wait.state).to.equal('rejected')
      await manager.stop()
    }
    const { manager } = bench.other()
    const last = track(manager.hold('db', 'last', options))
    await bench.clock.settle()
    await bench.manager.release('db', 'x')
    await bench.clock.advance(12 * 20)
    expect(last.state).to.equal('fulfilled')
    await last.value?.release()
    const next = track(bench.manager.hold('db', 'y', options))
    await bench.clock.settle()
    expect(next.state).to.equal('fulfilled')
    for (const one of [bench.manager, manager]) await one.stop()
  })
})

describe('Manager.hold with wait: what hints may do', () => {
  const options = { duration: 30_000, wait: true }

  /** One that waits behind others, who are dead, for a lease that is held for so long. */
  async function secondInQueue(
    durationMs: number,
    ahead = 1,
  ): Promise<{ bench: Bench; process: Process; wait: Tracked<Hold> }> {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', durationMs)
    for (let index = 0; index < ahead; index++) {
      const dead = bench.other()
      void dead.manager.hold('db', `dead-${index}`, options).catch(() => {})
      await bench.clock.settle()
      dead.wire.hang()
      await dead.manager.stop()
    }
    const process = bench.other()
    const wait = track(process.manager.hold('db', 'second', options))
    await bench.clock.settle()
    process.wire.resetCounts()
    return { bench, process, wait }
  }

  it('a "taken" that is false does not delay the claim at the known expiry', async () => {
    for (const place of [1, 2, 3, 1_000_000]) {
      const { bench, process, wait } = await secondInQueue(5_000)
      await bench.clock.advance(1_000)
      process.wire.emit({ kind: 'taken', lease: 'db', place, durationMs: 3_600_000 })
      await bench.clock.advance(4_000 + 30)
      expect(wait.state, `place ${place}`).to.equal('fulfilled')
      await process.manager.stop()
    }
  })

  it('a "taken" that is false takes a "vacated" back, and the waiter claims ten seconds later', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000)
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    for (let times = 0; times < 3; times++) {
      process.wire.emit({ kind: 'taken', lease: 'db', place: 1, durationMs: 3_600_000 })
      await bench.clock.advance(3_000)
    }
    await bench.clock.advance(LOOK_AGAIN_MS - 9_001)
    expect([wait.state, process.wire.counts.claim]).to.deep.equal(['pending', 0])
    await bench.clock.advance(1)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('a "taken" that says nothing new, or what cannot be, takes no "vacated" back', async () => {
    const to = { place: 2, ahead: 0 }
    const hints = {
      'of one that is ahead, though as many are ahead as before': { place: 1, to: { place: 2, ahead: 1 } },
      'of the waiter itself': { place: 2, to },
      'of one behind': { place: 3, to },
      'of nobody': { place: 0, to },
    }
    for (const [what, hint] of Object.entries(hints)) {
      const { bench, process, wait } = await secondInQueue(3_600_000)
      await bench.manager.release('db', 'x')
      await bench.clock.settle()
      process.wire.emit({ kind: 'taken', lease: 'db', durationMs: 3_600_000, ...hint })
      await bench.clock.advance(20)
      expect(wait.state, what).to.equal('fulfilled')
      await process.manager.stop()
    }
  })

  it('a "taken" of the hand-off before that comes once more, late, takes no "vacated" back', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000, 2)
    process.wire.dropHints()
    const [taken, to] = [
      { kind: 'taken', lease: 'db', place: 1, durationMs: 3_600_000 } as const,
      { place: 3, ahead: 1 },
    ]
    process.wire.emit({ kind: 'vacated', lease: 'db', to: { place: 3, ahead: 2 } })
    process.wire.emit({ ...taken, to })
    await bench.manager.release('db', 'x')
    process.wire.emit({ kind: 'vacated', lease: 'db', to })
    process.wire.emit({ ...taken, to: { place: 3, ahead: 0 } })
    await bench.clock.advance(20)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('a "taken" of the hand-off before, overtaken by the "vacated" after it, does not cost the wake-up', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000)
    process.wire.dropHints()
    await bench.manager.release('db', 'x')
    for (const kind of ['vacated', 'vacated'] as const) process.wire.emit({ kind, lease: 'db' })
    process.wire.emit({ kind: 'taken', lease: 'db', place: 1, durationMs: 3_600_000 })
    await bench.clock.advance(20)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('a "taken" that arrives twice takes one "vacated" back', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000, 2)
    process.wire.dropHints()
    const taken = { kind: 'taken', lease: 'db', place: 1, durationMs: 3_600_000 } as const
    process.wire.emit({ kind: 'vacated', lease: 'db' })
    process.wire.emit(taken)
    await bench.manager.release('db', 'x')
    process.wire.emit({ kind: 'vacated', lease: 'db' })
    process.wire.emit(taken)
    await bench.clock.advance(20)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('a "taken" for a short time brings the claim forward: the taker may die', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000)
    process.wire.dropHints((change) => change.kind === 'vacated')
    await bench.manager.release('db', 'x')
    await bench.manager.claim('db', 'dies', 5_000)
    process.wire.emit({ kind: 'taken', lease: 'db', place: 1, durationMs: 5_000 })
    await bench.clock.advance(5_030)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('one that came after all others had left claims at once', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', 3_600_000)
    const { manager, wire } = bench.other()
    void track(manager.waitUntilExpired('other')) // it listens
    const observing = manager.observe('db')
    await observing.next()
    void track(observing.next())
    const ahead = bench.other()
    void track(ahead.manager.hold('db', 'ahead', options))
    await bench.clock.settle()
    const patience = new AbortController()
    const first = track(manager.hold('db', 'first', { ...options, signal: patience.signal }))
    await bench.clock.settle()
    await ahead.manager.stop()
    wire.dropHints()
    wire.emit({ kind: 'taken', lease: 'db', place: 1, durationMs: 3_600_000 })
    patience.abort(new Error('no patience'))
    await bench.manager.release('db', 'x')
    const second = track(manager.hold('db', 'second', options))
    await bench.clock.advance(300)
    expect([first.state, second.state]).to.deep.equal(['rejected', 'fulfilled'])
    await manager.stop()
  })

  it('a read that shows the vacancy wakes the waiter whose hint was lost', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000)
    process.wire.dropHints()
    await bench.manager.release('db', 'x')
    await bench.clock.advance(1_000)
    expect(wait.state).to.equal('pending')
    await rejection(process.manager.token('db', 'somebody').check(), ErrNotHeld)
    await bench.clock.advance(50)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('a vacancy that another waits to see wakes the waiter whose hint was lost', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000)
    process.wire.dropHints()
    await bench.manager.release('db', 'x')
    await process.manager.waitUntilExpired('db')
    await bench.clock.advance(50)
    expect(wait.state).to.equal('fulfilled')
    await process.manager.stop()
  })

  it('tickets of those who left do not deny a vacant lease to one whose wait is short', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', 600_000)
    for (let gone = 0; gone < 12; gone++) {
      const { manager } = bench.other()
      void manager.hold('db', `gone-${gone}`, options).catch(() => {})
      await bench.clock.settle()
      await manager.stop()
    }
    await bench.manager.release('db', 'x')
    const { manager } = bench.other()
    await manager.hold('another', 'short', options) // it listens: no resync comes to the rescue
    await bench.clock.settle()
    const wait = track(manager.hold('db', 'short', { ...options, wait: 40 }))
    await bench.clock.advance(40)
    expect(wait.state).to.equal('fulfilled')
    await manager.stop()
  })

  it('tickets of those who left are forgotten after ten minutes: anyone who comes then is granted a vacant lease at once', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', 600_000)
    const { manager } = bench.other()
    void manager.hold('db', 'gone', options).catch(() => {})
    await bench.clock.settle()
    await manager.stop()
    await bench.manager.hold('another', 'late', options) // it listens: no resync comes to the rescue
    await bench.clock.advance(600_000)
    await bench.manager.release('db', 'x')
    const wait = track(bench.manager.hold('db', 'late', options))
    await bench.clock.settle()
    expect(wait.state).to.equal('fulfilled')
    await bench.manager.stop()
  })

  it('however many at the head of the queue are dead, they are passed over, two after each pause', async () => {
    const { bench, process, wait } = await secondInQueue(3_600_000, 7)
    await bench.manager.release('db', 'x')
    await bench.clock.advance(3 * 400 - 1)
    expect([wait.state, process.wire.counts.claim]).to.deep.equal(['pending', 0])
    await bench.clock.advance(1 + 20)
    expect([wait.state, process.wire.counts.claim]).to.deep.equal(['fulfilled', 1])
    await wait.value?.release()
    await bench.clock.advance(1_000)
    expect(bench.wire.counts.passOver).to.equal(4)
    await process.manager.stop()
  })
})

describe('Manager.hold with wait: what a wait that runs out is notified', () => {
  const options = { duration: 30_000, wait: 10_000 }

  it('is ErrUnknown with the cause when the store was away, for everyone who waited', async () => {
    const bench = new Bench()
    const away = new Error('ECONNREFUSED')
    bench.wire.reject(away)
    const waits = ['a', 'b', 'c'].map((holder) => track(bench.manager.hold('db', holder, options)))
    const any = ['d', 'e'].map((holder) => track(bench.manager.holdAny(['s/1', 's/2'], holder, options)))
    await bench.clock.advance(10_001)
    for (const { error } of [...waits, ...any]) {
      expect(error).to.be.instanceOf(ErrUnknown)
      expect(causes(error as Error)).to.include(away)
    }
    await bench.manager.stop()
  })

  it('is denied when the store said, since the waiter came, that another holds it; the store is asked once for that', async () => {
    for (const leases of [['db'], ['db', 'db2']]) {
      const bench = new Bench()
      for (const lease of leases) await bench.other().manager.claim(lease, 'x', 3_600_000)
      const first = track(bench.manager.holdAny(leases, 'a', { duration: 30_000, wait: true }))
      await bench.clock.advance(5_000)
      const second = track(bench.manager.holdAny(leases, 'b', options))
      await bench.clock.settle()
      bench.wire.resetCounts()
      await bench.clock.advance(10_000)
      expect([first.state, second.state]).to.deep.equal(['pending', 'rejected'])
      expect(second.error).to.be.instanceOf(ErrClaimDenied)
      expect(bench.wire.counts.roundTrips).to.equal(1)
      await bench.manager.stop()
    }
  })

  it('is no denial for a holder that had gone when its claim was answered, though a read that overlapped the claim shows it', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const { holder, dead } = { holder: bench.other(), dead: bench.other() }
    await holder.client.claimLease('db', { holder: 'h', duration: 60_000 })
    void track(dead.manager.hold('db', 'dead', { duration: 60_000, wait: true })) // it has the first place in the queue
    await bench.clock.settle()
    dead.wire.hang()
    bench.wire.delay(20, { kind: 'read', at: 'reply', times: 1 })
    const found = track(bench.manager.find('db'))
    await bench.clock.settle()
    await holder.client.releaseLease('db', 'h')
    bench.wire.delay(40, { kind: 'claim', at: 'reply', times: 1 })
    const waiting = track(bench.manager.hold('db', 'b', { duration: 60_000, wait: 5_000 }))
    await bench.clock.advance(6_000)
    expect(found.state).to.equal('fulfilled')
    expect(waiting.state).to.equal('fulfilled')
    expect(bench.holder()).to.equal('b')
    await bench.manager.stop()
  })

  it('is ErrUnknown when the store has not answered since the waiter came, whatever it said before', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'x', 3_600_000)
    const first = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
    await bench.clock.advance(5_000)
    bench.wire.reject(new Error('away'))
    const second = track(bench.manager.hold('db', 'b', options))
    await bench.clock.advance(10_000)
    expect(second.error).to.be.instanceOf(ErrUnknown)
    await bench.manager.stop()
    expect(first.state).to.equal('rejected')
  })

  it('is ErrUnknown when the only answer since the waiter came is to a claim that was sent before', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.other().manager.claim('db', 'x', 3_600_000)
    bench.wire.delay(2_000, { kind: 'claim', at: 'reply', times: 1 })
    const first = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
    await bench.clock.advance(1_000)
    const second = track(bench.manager.hold('db', 'b', options))
    bench.wire.reject(new Error('away'))
    await bench.clock.advance(10_000)
    expect(second.error).to.be.instanceOf(ErrUnknown)
    await bench.manager.stop()
    expect(first.state).to.equal('rejected')
  })

  it('is ErrUnknown when the last claim failed, though an earlier one was denied', async () => {
    for (let wait = 5_000; wait < 6_000; wait += 50) {
      const bench = new Bench({ wire: { watch: false } })
      await bench.other().manager.claim('db', 'x', 3_000)
      const waiting = track(bench.manager.hold('db', 'a', { ...options, wait }))
      await bench.clock.advance(2_000)
      bench.wire.reject(new Error('away'))
      await bench.clock.advance(wait)
      expect(waiting.error, `of ${wait} ms`).to.be.instanceOf(ErrUnknown)
      await bench.manager.stop()
    }
  })

  it('is denied when the last claim was, though an earlier one failed', async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'x', 3_600_000)
    const away = bench.wire.reject(new Error('away'))
    const waiting = track(bench.manager.hold('db', 'a', options))
    await bench.clock.advance(5_000)
    away.heal()
    await bench.clock.advance(5_001)
    expect(waiting.error).to.be.instanceOf(ErrClaimDenied).and.include({ currentHolder: 'x' })
    await bench.manager.stop()
  })

  it('is denied after one question for all while another holder of this process has it', async () => {
    const bench = new Bench()
    await bench.manager.hold('db', 'a', { duration: 3_600_000 })
    await bench.clock.settle()
    bench.wire.resetCounts()
    const waits = ['b', 'c'].map((holder) => track(bench.manager.hold('db', holder, options)))
    await bench.clock.advance(10_000)
    for (const { error } of waits) expect(error).to.include({ code: 'LEASE_CLAIM_DENIED', currentHolder: 'a' })
    expect(bench.wire.counts.claim + bench.wire.counts.read).to.equal(1)
    await bench.manager.stop()
  })

  it('is no denial, but a grant, when the Hold of this process lost its lease and nobody notified it', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const lost = await bench.manager.hold('db', 'a', { duration: 3_600_000 })
    await bench.other().manager.revoke('db')
    const wait = track(bench.manager.hold('db', 'b', options))
    await bench.clock.advance(10_000)
    expect(wait.state).to.equal('fulfilled')
    expect(lost.signal.aborted).to.equal(true)
    await bench.manager.stop()
  })
})

describe('Manager.hold with wait: a claim in flight', () => {
  for (const end of ['its signal aborts', 'its time runs out', 'the manager stops'] as const) {
    it(`is not sent again when ${end}, and what it was granted is given back`, async () => {
      for (const leases of [['db'], ['db', 'db2']]) {
        const bench = new Bench()
        const controller = new AbortController()
        const hung = bench.wire.hang({ kind: 'claim', at: 'reply' })
        const { signal } = controller
        const wait = end === 'its time runs out' ? 1_000 : true
        const waiting = track(bench.manager.holdAny(leases, 'a', { duration: 60_000, wait, signal }))
        await bench.clock.advance(1_000)
        expect(bench.holder('db') ?? bench.holder('db2')).to.equal('a')
        if (end === 'its signal aborts') controller.abort()
        if (end === 'the manager stops') await bench.manager.stop()
        await bench.clock.advance(30_000)
        expect(waiting.state).to.equal('rejected')
        expect(bench.wire.counts.claim).to.equal(1)
        expect([bench.holder('db'), bench.holder('db2')]).to.deep.equal([undefined, undefined])
        hung.heal()
        await bench.manager.stop()
      }
    })
  }
})

describe('A client that was closed', () => {
  it('ends every wait with its error, at once, and leaves no timer', async () => {
    const bench = new Bench()
    const { manager, client, clock } = bench
    await bench.other().manager.claim('db', 'x', 3_600_000)
    await bench.other().manager.claim('s/1', 'x', 3_600_000)
    const observing = manager.observe('db')
    await observing.next()
    const options = { duration: 30_000, wait: true }
    const waits: Tracked<unknown>[] = [
      track(manager.hold('db', 'a', options)),
      track(manager.hold('db', 'b', options)),
      track(manager.holdAny(['db', 's/1'], 'c', { ...options, wait: { hours: 5 } })),
      track(manager.waitUntilExpired('db')),
      track(observing.next()),
    ]
    await clock.settle()
    await client.close()
    await clock.settle()
    for (const { error } of waits) expect(error).to.include({ code: 'LEASE_UNKNOWN', reason: 'closed' })
    const late = track(manager.hold('db', 'd', options))
    await clock.settle()
    expect(late.error).to.include({ code: 'LEASE_UNKNOWN', reason: 'closed' })
    expect(clock.pending).to.equal(0)
    await manager.stop()
  })

  it('ends the waits whose claims are in flight', async () => {
    const bench = new Bench()
    bench.wire.hang({ kind: 'claim' })
    const wait = track(bench.manager.hold('db', 'a', { duration: 30_000, wait: true }))
    await bench.clock.settle()
    await bench.client.close()
    await bench.clock.advance(10_000)
    expect(wait.error).to.include({ code: 'LEASE_UNKNOWN', reason: 'closed' })
    await bench.manager.stop()
  })
})

describe('Manager.hold with wait, twice for one holder', () => {
  const options = { duration: 30_000, wait: true }

  it('the second is decided when the first is granted, however many others are ahead', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', 600_000)
    const first = track(bench.manager.hold('db', 'w', options))
    const between = track(bench.manager.hold('db', 'between', options))
    const second = track(bench.manager.hold('db', 'w', options))
    await bench.clock.settle()
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    expect(first.state).to.equal('fulfilled')
    expect([between.state, second.state === 'pending']).to.deep.equal(['pending', false])
    await bench.manager.stop()
  })

  it('one that waits behind others is decided when its holder gets the lease by another call', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (const lease of ['db', 'taken']) await other.manager.claim(lease, 'x', 600_000)
    const ahead = track(bench.manager.hold('db', 'ahead', options))
    const wait = track(bench.manager.hold('db', 'w', options))
    const any = track(bench.manager.holdAny(['db', 'taken'], 'w', options))
    await bench.clock.settle()
    bench.wire.dropHints()
    await other.manager.release('db', 'x')
    await bench.manager.hold('db', 'w', { duration: 30_000 })
    await bench.clock.settle()
    expect([ahead.state, wait.state === 'pending', any.state === 'pending']).to.deep.equal(['pending', false, false])
    await bench.manager.stop()
  })

  it('one that comes when its holder has the lease already is decided at once, though others are ahead', async () => {
    const bench = new Bench()
    await bench.manager.hold('db', 'w', { duration: 30_000 })
    const ahead = track(bench.manager.hold('db', 'ahead', options))
    await bench.clock.settle()
    const wait = track(bench.manager.hold('db', 'w', options))
    await bench.clock.settle()
    expect([ahead.state, wait.state === 'pending']).to.deep.equal(['pending', false])
    await bench.manager.stop()
  })
})

function causes(error: Error): unknown[] {
  return error.cause instanceof Error ? [error.cause, ...causes(error.cause)] : [error.cause]
}
