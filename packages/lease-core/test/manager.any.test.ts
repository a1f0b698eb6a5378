import { expect } from 'chai'
import { ErrClaimDenied, ErrNotValid, ErrUnknown, type ErrLost } from '#src/errors.ts'
import type { HoldOptions } from '#src/roles.ts'
import { track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const leases = ['s/0', 's/1', 's/2']
const options: HoldOptions = { duration: 30_000 }

describe('Manager.holdAny', () => {
  it('takes one that is free, and says which', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.manager.claim('s/0', 'a', 60_000)
    await other.manager.claim('s/2', 'a', 60_000)
    const hold = await bench.manager.holdAny(leases, 'b', { ...options, value: 'v' })
    expect(hold).to.include({ lease: 's/1', holder: 'b', held: true })
    expect((await hold.token.check()).value).to.equal('v')
    await bench.manager.stop()
  })

  it('reads the leases and claims one that is free', async () => {
    const bench = new Bench({ wire: { watch: false } })
    await bench.manager.holdAny(leases, 'a', options)
    const { counts } = bench.wire
    expect([counts.roundTrips, counts.claim]).to.deep.equal([2, 1])
    await bench.manager.stop()
  })

  it('keeps it alive, and loses it like any other', async () => {
    const bench = new Bench()
    const hold = await bench.manager.holdAny(leases, 'a', options)
    const { signal } = hold
    await bench.clock.advance(300_000)
    expect(hold.held).to.equal(true)
    await bench.other().manager.revoke(hold.lease)
    await bench.clock.settle()
    expect((signal.reason as ErrLost).reason).to.equal('revoked')
    await bench.manager.stop()
  })

  it('gives a holder the one that it has, also when it asks twice at once, if both share it', async () => {
    const bench = new Bench()
    const shared = { ...options, shared: true }
    const [one, two] = await Promise.all([1, 2].map(() => bench.manager.holdAny(leases, 'a', shared)))
    expect(one?.lease).to.equal(two?.lease)
    expect(one?.fencingToken).to.equal(two?.fencingToken)
    expect(await rejection(bench.manager.holdAny(leases, 'a', options), ErrClaimDenied)).to.include({
      currentHolder: 'a',
    })
    await bench.manager.stop()
  })

  it('serves those who wait in order, and each with what becomes free', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (const lease of leases) await other.manager.claim(lease, 'a', 3_600_000)
    const waiting = ['b', 'c', 'd'].map((holder) =>
      track(bench.manager.holdAny(leases, holder, { ...options, wait: true })),
    )
    await bench.clock.settle()
    expect(waiting.map(({ state }) => state)).to.deep.equal(['pending', 'pending', 'pending'])
    const order = ['s/2', 's/0', 's/1']
    for (const [index, lease] of order.entries()) {
      await other.manager.release(lease, 'a')
      await bench.clock.settle()
      expect(waiting[index]?.state).to.equal('fulfilled')
      expect((await waiting[index]?.promise)?.lease).to.equal(lease)
    }
    await bench.manager.stop()
  })

  it('serves everybody who waits at once when several were free all along, whatever it knew of them before', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (const lease of leases) await other.manager.claim(lease, 'a', 3_600_000)
    await bench.manager.leases() // all are held, as far as this manager knows
    for (const lease of leases) await other.manager.release(lease, 'a')
    const waiting = ['b', 'c', 'd'].map((holder) =>
      track(bench.manager.holdAny(leases, holder, { ...options, wait: true })),
    )
    await bench.clock.advance(1_000)
    expect(waiting.map(({ state }) => state)).to.deep.equal(['fulfilled', 'fulfilled', 'fulfilled'])
    await bench.manager.stop()
  })

  it('without hints takes the first that lapses', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    for (const [index, lease] of leases.entries()) await other.manager.claim(lease, 'a', 30_000 - index * 10_000)
    const waiting = track(bench.manager.holdAny(leases, 'b', { ...options, wait: true }))
    await bench.clock.advance(10_000)
    expect(waiting.state).to.equal('pending')
    await bench.clock.advance(20)
    expect((await waiting.promise).lease).to.equal('s/2')
    await bench.manager.stop()
  })

  it('does not ask while others of this manager hold all of them, and takes what they give up', async () => {
    const bench = new Bench()
    const holds = []
    for (const holder of ['a', 'b', 'c']) holds.push(await bench.manager.holdAny(leases, holder, options))
    const waiting = track(bench.manager.holdAny(leases, 'd', { ...options, wait: true }))
    await bench.clock.settle()
    bench.wire.resetCounts()
    await bench.clock.advance(5_000)
    expect(bench.wire.counts.roundTrips).to.equal(0)
    await holds[1]?.release()
    await bench.clock.settle()
    expect((await waiting.promise).lease).to.equal(holds[1]?.lease)
    await bench.manager.stop()
  })

  it('asks little while it waits: at the known expiries only', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (const lease of leases) await other.manager.hold(lease, 'a', { duration: 60_000 })
    const waiting = track(bench.manager.holdAny(leases, 'b', { ...options, wait: { hours: 1 } }))
    await bench.clock.settle()
    bench.wire.resetCounts()
    await bench.clock.advance(600_000)
    expect(bench.wire.counts.roundTrips).to.be.lessThan(25)
    expect(waiting.state).to.equal('pending')
    await bench.manager.stop()
  })

  it('is denied when the wait runs out, and an aborted wait leaves nothing behind', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (const lease of leases) await other.manager.claim(lease, 'a', 3_600_000)
    const late = track(bench.manager.holdAny(leases, 'b', { ...options, wait: 10_000 }))
    const controller = new AbortController()
    const aborted = track(bench.manager.holdAny(leases, 'c', { ...options, wait: true, signal: controller.signal }))
    await bench.clock.advance(10_000)
    const denied = await rejection(late.promise, ErrClaimDenied)
    expect(denied.expiry?.toMillis()).to.be.closeTo(bench.clock.now() + 3_590_000, 10_000)
    const reason = new Error('enough')
    controller.abort(reason)
    expect(await rejection(aborted.promise, Error)).to.equal(reason)
    await bench.clock.settle()
    expect(bench.clock.pending).to.equal(0)
    await bench.manager.stop()
  })

  it('is tried again when the store was away, and is ErrUnknown when it stays away', async () => {
    const bench = new Bench()
    bench.wire.loseRequest({ kind: ['claim', 'read'], times: 2 })
    const hold = bench.clock.drive(bench.manager.holdAny(leases, 'a', options))
    expect((await hold).held).to.equal(true)
    bench.wire.loseRequest({ kind: ['claim', 'read'] })
    await rejection(bench.clock.drive(bench.manager.holdAny(leases, 'b', options)), ErrUnknown)
    await bench.manager.stop()
  })
})

describe('Manager.holdAny: what is left open', () => {
  it('a claim whose reply is lost finds its own term again', async () => {
    const bench = new Bench()
    bench.wire.loseReply({ kind: 'claim', times: 1 })
    const hold = await bench.clock.drive(bench.manager.holdAny(leases, 'a', options))
    const held = leases.filter((lease) => bench.holder(lease) === 'a')
    expect(held).to.deep.equal([hold.lease])
    expect(bench.fencingToken(hold.lease)).to.equal(1n)
    await bench.manager.stop()
  })

  it('a claim given up is released again, whichever it was', async () => {
    const bench = new Bench()
    const lost = bench.wire.loseReply({ kind: 'claim' })
    await rejection(bench.clock.drive(bench.manager.holdAny(leases, 'a', options)), ErrUnknown)
    lost.heal()
    await bench.clock.advance(10_000)
    expect(leases.map((lease) => bench.holder(lease))).to.deep.equal([undefined, undefined, undefined])
    const controller = new AbortController()
    bench.wire.delay(1_000, { kind: 'claim', at: 'reply' })
    const claim = track(bench.manager.holdAny(leases, 'b', { ...options, signal: controller.signal }))
    await bench.clock.advance(500)
    controller.abort(new Error('enough'))
    await bench.clock.advance(2_000)
    expect(claim.state).to.equal('rejected')
    expect(leases.map((lease) => bench.holder(lease))).to.deep.equal([undefined, undefined, undefined])
    await bench.manager.stop()
  })

  it('a claim given up keeps its turn until it is answered: none of it comes after a release of the same holder', async () => {
    const bench = new Bench()
    const { manager } = bench
    const controller = new AbortController()
    bench.wire.delay(2_000, { kind: 'claim' })
    const given = track(manager.holdAny(leases, 'a', { ...options, signal: controller.signal }))
    await bench.clock.advance(100)
    controller.abort(new Error('enough'))
    await bench.clock.settle()
    expect(given.state).to.equal('rejected')
    const startedMs = bench.clock.monotonic()
    const hold = await bench.clock.drive(manager.hold('s/0', 'a', options))
    expect(bench.clock.monotonic() - startedMs).to.be.at.least(1_800)
    await bench.clock.drive(hold.release())
    await bench.clock.advance(5_000)
    expect(leases.map((lease) => bench.holder(lease))).to.deep.equal([undefined, undefined, undefined])
    await manager.stop()
  })

  it('a claim aborted at whatever moment is either granted and reported as such, or not held', async () => {
    for (let microtasks = 0; microtasks < 40; microtasks++) {
      const bench = new Bench()
      const { manager, client } = bench
      const controller = new AbortController()
      const { signal } = controller
      const works: Record<string, Promise<unknown>> = {
        's/0': client.claimLease('s/0', { holder: 'a', duration: 1000 }, { signal }),
        's/2': manager.hold('s/2', 'a', { ...options, signal }),
        's/3': manager.hold('s/3', 'a', { ...options, signal, wait: true }),
        's/4': manager.holdAny(['s/4', 's/5'], 'e', { ...options, signal }),
        's/6': manager.holdAny(['s/6', 's/7'], 'e', { ...options, signal, wait: true }),
      }
      const tracked = Object.entries(works).map(([lease, work]) => [lease, track(work)] as const)
      for (let turn = 0; turn < microtasks; turn++) await Promise.resolve()
      controller.abort(new Error('enough'))
      await bench.clock.settle()
      for (const [lease, { state }] of tracked) {
        const place = lease === 's/4' ? ['s/4', 's/5'] : lease === 's/6' ? ['s/6', 's/7'] : [lease]
        const held = place.some((one) => bench.holder(one) !== undefined)
        expect(held, `${lease}, aborted after ${microtasks} microtasks`).to.equal(state === 'fulfilled')
      }
      await manager.stop()
    }
  })

  it('somebody else at it at the same moment is asked again', async () => {
    const bench = new Bench()
    bench.wire.contended({ kind: 'claim', times: 3 })
    expect((await bench.clock.drive(bench.manager.holdAny(leases, 'a', options))).held).to.equal(true)
    await bench.manager.stop()
  })

  it('bad input is refused with every problem', async () => {
    const bench = new Bench()
    const bad = bench.manager.holdAny(['ok', 'not ok', 'ok'], '', { duration: 0 })
    const { problems } = await rejection(bad, ErrNotValid)
    expect(problems.map(({ argument }) => argument)).to.have.members(['leases[1]', 'leases', 'holder', 'duration'])
    const none = await rejection(bench.manager.holdAny('s/0' as unknown as string[], 'a', options), ErrNotValid)
    expect(none.problems.map(({ argument }) => argument)).to.deep.equal(['leases'])
    expect(bench.wire.counts.roundTrips).to.equal(0)
  })
})

describe('Manager.holdAny: a list that breaks rules', () => {
  it('a hole is a name that is missing: it is named by its place, and nothing is sent', async () => {
    const bench = new Bench()
    const pierced = ['s/0', 's/1', 's/2']
    Reflect.deleteProperty(pierced, 1)
    const empty: string[] = []
    empty.length = 2
    for (const [list, argument] of [
      [pierced, 'leases[1]'],
      [empty, 'leases[0]'],
    ] as const) {
      const { problems } = await rejection(bench.manager.holdAny(list, 'a', options), ErrNotValid)
      expect(problems[0]).to.include({ argument, rule: 'must be a string', value: undefined })
    }
    expect(bench.wire.counts.roundTrips).to.equal(0)
  })
})
