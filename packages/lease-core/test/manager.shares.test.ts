import { expect } from 'chai'
import { ErrClaimDenied, ErrInvalid, ErrNotValid, ErrUnknown, type ErrLost } from '#src/errors.ts'
import type { Hold } from '#src/hold.ts'
import type { HoldOptions } from '#src/roles.ts'
import { refused } from '#src/substrate.ts'
import { track } from '#src/testing/index.ts'
import { LONGEST_REST_MS, PASS_OVER_MS } from '#src/ticket.ts'
import { Bench, rejection } from './manager.bench.ts'

const options: HoldOptions = { duration: 30_000 }
const share = (capacity: number, weight = 1): HoldOptions => ({ ...options, share: { weight, capacity } })

describe('Manager.hold of shares', () => {
  it('grants shares up to the capacity, and denies the next one', async () => {
    const bench = new Bench()
    const other = bench.other()
    const first = await bench.manager.hold('printers', 'a', share(2))
    await other.manager.hold('printers', 'b', share(2))
    expect(first).to.include({ lease: 'printers#a', holder: 'a', held: true })
    const denial = await rejection(other.manager.hold('printers', 'c', share(2)), ErrClaimDenied)
    expect(denial.message).to.contain('others have the shares of counted lease "printers"')
    await first.release()
    expect((await other.manager.hold('printers', 'c', share(2))).held).to.equal(true)
    const { capacity, shares } = await bench.manager.counted('printers')
    expect([capacity, [...shares.keys()].toSorted()]).to.deep.equal([2, ['printers#b', 'printers#c']])
  })

  it('gives a holder the share that it has, also when it asks twice at once in two processes', async () => {
    const bench = new Bench()
    const other = bench.other()
    const shared = { ...share(2), shared: true }
    const holds = await Promise.all([bench, bench, other].map(({ manager }) => manager.hold('s', 'a', shared)))
    expect(new Set(holds.map(({ fencingToken }) => fencingToken)).size).to.equal(1)
    expect((await bench.manager.counted('s')).shares.size).to.equal(1)
  })

  it('refuses another weight than the one that the holder has', async () => {
    const bench = new Bench()
    await bench.manager.hold('s', 'a', { ...share(3, 2), shared: true })
    const error = await rejection(bench.manager.hold('s', 'a', { ...share(3, 1), shared: true }), ErrNotValid)
    expect(error.problems).to.deep.equal([
      { argument: 'share.weight', rule: 'must be 2, as of the share that "a" has already', value: 1 },
    ])
  })

  it('refuses at once what no wait can grant', async () => {
    const bench = new Bench()
    const wait = { ...options, wait: true }
    const undefinedOne = await rejection(bench.manager.hold('s', 'a', { ...wait, share: true }), ErrInvalid)
    expect(undefinedOne.reason).to.equal('not defined')
    await bench.manager.define('s', 3)
    const other = await rejection(bench.manager.hold('s', 'a', { ...wait, share: { capacity: 4 } }), ErrInvalid)
    expect(other.message).to.contain('has a capacity of 3, not 4')
    const heavy = await rejection(bench.manager.hold('s', 'a', { ...wait, share: { weight: 4 } }), ErrNotValid)
    expect(heavy.problems[0]).to.include({ argument: 'share.weight', rule: 'must be at most 3, the capacity of "s"' })
    const sent = bench.wire.counts.roundTrips
    for (const bad of [0, -1, 1.5, Number.NaN, 2 ** 31, '1', {}]) {
      await rejection(bench.manager.hold('s', 'a', { ...wait, share: { capacity: bad as number } }), ErrNotValid)
      const { problems } = await rejection(
        bench.manager.hold('s', 'a', {
          ...wait,
          share: { weight: bad as number, capacity: bad as number, high: 1 } as never,
        }),
        ErrNotValid,
      )
      expect(problems.map(({ argument }) => argument)).to.deep.equal(['share.high', 'share.weight', 'share.capacity'])
      await rejection(bench.manager.define('s', bad as number), ErrNotValid)
    }
    await rejection(bench.manager.hold('s', 'a', { ...wait, share: { weight: 3, capacity: 2 } }), ErrNotValid)
    await rejection(bench.manager.hold('s#a', 'a', { ...wait, share: true }), ErrNotValid)
    await rejection(bench.manager.hold('s#a', 'a', options), ErrNotValid)
    await rejection(bench.manager.claim('s#a', 'a', 1000), ErrNotValid)
    expect(bench.wire.counts.roundTrips).to.equal(sent)
  })

  it('serves those who wait first come, first served, whatever their weights', async () => {
    const bench = new Bench()
    const others = Array.from({ length: 4 }, () => bench.other())
    const order: string[] = []
    const first = await bench.manager.hold('s', 'holder', share(4, 4))
    const holds: Promise<Hold>[] = []
    for (const [index, weight] of [2, 4, 1, 1].entries()) {
      const { manager } = others[index] as Bench
      const hold = manager.hold('s', `w${index}`, { ...share(4, weight), wait: true })
      hold.then(() => order.push(`w${index}`)).catch(() => {})
      holds.push(hold)
      await bench.clock.settle()
    }
    await first.release()
    await bench.clock.settle()
    expect(order).to.deep.equal(['w0'])
    // There is room for the last two, and the second is ahead of them.
    await bench.clock.advance(120_000)
    expect(order).to.deep.equal(['w0'])
    await (await holds[0])?.release()
    await bench.clock.settle()
    expect(order).to.deep.equal(['w0', 'w1'])
    await (await holds[1])?.release()
    await bench.clock.settle()
    expect(order).to.deep.equal(['w0', 'w1', 'w2', 'w3'])
  })

  it('does not let a claim without a wait pass those who wait', async () => {
    const bench = new Bench()
    const other = bench.other()
    const reader = await bench.manager.hold('s', 'reader', share(4, 1))
    const writer = other.manager.hold('s', 'writer', { ...share(4, 4), wait: true })
    await bench.clock.settle()
    await rejection(bench.manager.hold('s', 'late', share(4, 1)), ErrClaimDenied)
    await reader.release()
    await bench.clock.settle()
    expect((await writer).held).to.equal(true)
  })

  it('gives a holder that waits behind others the share that it has here, whichever came first', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    await manager.hold('s', 'a', { ...share(2), shared: true })
    const heavy = manager.hold('s', 'heavy', { ...share(2, 2), wait: true })
    heavy.catch(() => {})
    await clock.settle()
    const again = { ...share(2), shared: true, wait: true }
    const had = track(manager.hold('s', 'a', again))
    await clock.settle()
    expect(had.state).to.equal('fulfilled')

    const dead = bench.other()
    const first = await manager.hold('t', 'a', share(1))
    void dead.manager.hold('t', 'dead', { ...share(1), wait: true }).catch(() => {})
    await clock.settle()
    manager.hold('t', 'earlier', { ...share(1), wait: true }).catch(() => {})
    const waits = track(manager.hold('t', 'b', { ...share(1), shared: true, wait: true }))
    await clock.settle()
    dead.wire.hang()
    await first.release()
    await clock.settle()
    expect(waits.state).to.equal('pending')
    await manager.hold('t', 'b', { ...options, share: { weight: 1, capacity: 1, ahead: true }, shared: true })
    await clock.settle()
    expect(waits.state).to.equal('fulfilled')
    await dead.manager.stop()
    await manager.stop()
  })

  it('is granted soon after a waiter ahead of it has died', async () => {
    const bench = new Bench()
    const dead = bench.other()
    const next = bench.other()
    const first = await bench.manager.hold('s', 'a', share(1))
    void dead.manager.hold('s', 'dead', { ...share(1), wait: true }).catch(() => {})
    await bench.clock.settle()
    const waiting = next.manager.hold('s', 'next', { ...share(1), wait: true })
    await bench.clock.settle()
    dead.wire.hang()
    await first.release()
    await bench.clock.advance(200)
    expect((await waiting).held).to.equal(true)
    await dead.manager.stop()
  })

  it('lets every waiter through when the capacity grows', async () => {
    const bench = new Bench()
    const generation = await bench.manager.define('s', 1)
    await bench.manager.hold('s', 'a', { ...options, share: true })
    const others = Array.from({ length: 3 }, () => bench.other())
    const holds: Promise<Hold>[] = []
    for (const [index, { manager }] of others.entries()) {
      holds.push(manager.hold('s', `w${index}`, { ...options, wait: true, share: true }))
      await bench.clock.settle()
    }
    await bench.manager.define('s', 4, { from: generation })
    await bench.clock.settle()
    expect((await Promise.all(holds)).every(({ held }) => held)).to.equal(true)
    await rejection(bench.manager.define('s', 9, { from: generation }), ErrInvalid)
  })

  it('ends the wait of all when the counted lease is not defined any more', async () => {
    const bench = new Bench()
    const generation = await bench.manager.define('s', 1)
    const hold = await bench.manager.hold('s', 'a', { ...options, share: true })
    const others = Array.from({ length: 3 }, () => bench.other())
    const errors: Promise<ErrInvalid>[] = []
    for (const [index, { manager }] of others.entries()) {
      errors.push(rejection(manager.hold('s', `w${index}`, { ...options, wait: true, share: true }), ErrInvalid))
      await bench.clock.settle()
    }
    await bench.manager.define('s', undefined, { from: generation })
    await bench.clock.settle()
    expect((await Promise.all(errors)).map(({ reason }) => reason)).to.deep.equal(Array(3).fill('not defined'))
    expect(hold.held).to.equal(true)
    await bench.manager.revoke('s#a')
    await bench.clock.settle()
    expect((hold.signal.reason as ErrLost).reason).to.equal('revoked')
  })

  it('is lost alone, and its room is given to the next when it lapses', async () => {
    for (const serverClock of [true, false]) {
      const bench = new Bench({ serverClock })
      const other = bench.other()
      await bench.manager.hold('s', 'a', { ...share(2), renewEvery: false })
      const kept = await bench.manager.hold('s', 'b', share(2))
      const waiting = other.manager.hold('s', 'c', { ...share(2), wait: true })
      await bench.clock.advance(100_000)
      expect((await waiting).held, `server clock: ${serverClock}`).to.equal(true)
      expect(kept.held).to.equal(true)
    }
  })

  it('goes on with its own share without a loss for those of its process who wait', async () => {
    const bench = new Bench()
    const [other, third] = [bench.other(), bench.other()]
    await bench.manager.hold('s', 'own', { ...share(2), shared: true })
    const last = await other.manager.hold('s', 'other', share(2))
    const first = track(bench.manager.hold('s', 'first', { ...share(2), wait: true }))
    await bench.clock.settle()
    const second = track(third.manager.hold('s', 'second', { ...share(2), wait: true }))
    await bench.clock.settle()
    for (let times = 0; times < 3; times++) {
      await bench.manager.hold('s', 'own', { ...share(2), shared: true, wait: true })
      await bench.clock.settle()
    }
    await last.release()
    await bench.clock.settle()
    expect([first.state, second.state]).to.deep.equal(['fulfilled', 'pending'])
  })

  it('serves the next waiter of its process as one with the weight of its own', async () => {
    const bench = new Bench()
    const other = bench.other()
    const [one, two] = [await other.manager.hold('s', 'a', share(2)), await other.manager.hold('s', 'b', share(2))]
    const giveUp = new AbortController()
    const heavy = bench.manager.hold('s', 'heavy', { ...share(2, 2), wait: true, signal: giveUp.signal })
    await bench.clock.settle()
    const light = track(bench.manager.hold('s', 'light', { ...share(2, 1), wait: true }))
    await bench.clock.settle()
    giveUp.abort(new Error('given up'))
    await rejection(heavy, Error)
    await bench.clock.settle()
    await one.release()
    await bench.clock.settle()
    expect([light.state, two.held]).to.deep.equal(['fulfilled', true])
  })

  it('is granted soon after it has come, however many have died before it', async () => {
    const bench = new Bench()
    const next = bench.other()
    await bench.manager.hold('s', 'kept', share(2))
    const first = await bench.manager.hold('s', 'a', share(2))
    const dying = [bench.other(), bench.other(), bench.other()]
    for (const [index, { manager }] of dying.entries()) {
      manager.hold('s', `d${index}`, { ...share(2), wait: true }).catch(() => {})
      await bench.clock.settle()
    }
    for (const { wire } of dying) wire.hang()
    await first.release()
    await bench.client.close() // it passes nobody over any more
    const waiting = track(next.manager.hold('s', 'next', { ...share(2), wait: true }))
    await bench.clock.advance(2 * PASS_OVER_MS)
    expect(waiting.state).to.equal('fulfilled')
    for (const { manager } of dying) await manager.stop()
  })

  it('is granted within a minute or so when all waiters ahead of it have died, and the process that made room as well', async () => {
    for (const serverClock of [true, false]) {
      const bench = new Bench({ serverClock })
      const [keeper, releaser] = [bench.other(), bench.other()]
      await keeper.manager.hold('s', 'kept', share(2))
      const first = await releaser.manager.hold('s', 'a', share(2))
      const dying = [bench.other(), bench.other(), bench.other()]
      for (const [index, { manager }] of dying.entries()) {
        manager.hold('s', `d${index}`, { ...share(2), wait: true }).catch(() => {})
        await bench.clock.settle()
      }
      const waiting = track(bench.manager.hold('s', 'next', { ...share(2), wait: true }))
      await bench.clock.settle()
      for (const { wire } of dying) wire.hang()
      await first.release()
      await releaser.client.close() // it passes nobody over any more
      await bench.clock.advance(LONGEST_REST_MS + 3 * PASS_OVER_MS)
      expect(waiting.state, `server clock: ${serverClock}`).to.equal('fulfilled')
      for (const { manager } of dying) await manager.stop()
    }
  })

  it('is granted as soon as there is room, when a share that lapsed before would be in the way', async () => {
    const bench = new Bench({ serverClock: false })
    const [keeper, dying] = [bench.other(), bench.other()]
    const kept = await keeper.manager.hold('s', 'kept', share(3))
    await dying.manager.hold('s', 'dead', share(3))
    dying.wire.hang()
    const waiting = track(bench.manager.hold('s', 'writer', { ...share(3, 3), wait: true }))
    await bench.clock.advance(600_000)
    await kept.release()
    await bench.clock.settle()
    expect(waiting.state).to.equal('fulfilled')
    await dying.manager.stop()
  })

  it('ends the wait of one that asks for more than a smaller capacity, and serves those behind it', async () => {
    const bench = new Bench()
    const [heavy, light] = [bench.other(), bench.other()]
    const generation = await bench.manager.define('s', 4)
    await bench.manager.hold('s', 'a', { ...options, share: true })
    const ended = track(heavy.manager.hold('s', 'heavy', { ...options, wait: true, share: { weight: 4 } }))
    await bench.clock.settle()
    const served = track(light.manager.hold('s', 'light', { ...options, wait: true, share: true }))
    await bench.clock.settle()
    await bench.manager.define('s', 2, { from: generation })
    await bench.clock.settle()
    expect([ended.state, served.state]).to.deep.equal(['rejected', 'fulfilled'])
    expect(ended.error).to.be.instanceOf(ErrNotValid)
  })

  it('says that a definition is unknown, not refused, where the answer to it was lost', async () => {
    const bench = new Bench()
    const generation = await bench.manager.define('s', 1)
    bench.wire.loseReply({ kind: 'define', times: 1 })
    // Another changes it at once, and the store does not remember the definitions before.
    const namespace = bench.store.namespace('default')
    const apply = namespace.apply.bind(namespace)
    let defined = 0
    namespace.apply = (op, stamp) => (op.kind === 'define' && defined++ > 0 ? refused(undefined) : apply(op, stamp))
    const defining = track(bench.manager.define('s', 2, { from: generation }))
    await bench.clock.advance(60_000)
    expect(defined).to.equal(2)
    expect(defining.error).to.be.instanceOf(ErrUnknown)
  })

  it('defines one after the other, also where several are asked for at once', async () => {
    const bench = new Bench()
    const generation = await bench.manager.define('s', 1)
    const trips = bench.wire.counts.roundTrips
    const outcomes = await Promise.allSettled(
      [2, 3].map((capacity) => bench.manager.define('s', capacity, { from: generation })),
    )
    expect(outcomes.map(({ status }) => status)).to.deep.equal(['fulfilled', 'rejected'])
    expect(bench.wire.counts.roundTrips - trips).to.equal(2)
  })

  it('does not pass those ahead who were notified just now, though a hold beside it has ended before', async () => {
    const bench = new Bench()
    const [other, one, two] = [bench.other(), bench.other(), bench.other()]
    const beside = await bench.manager.hold('s', 'beside', { ...share(2), duration: 20_000 })
    const last = await other.manager.hold('s', 'last', share(2))
    const first = track(one.manager.hold('s', 'first', { ...share(2), wait: true }))
    await bench.clock.settle()
    const second = track(two.manager.hold('s', 'second', { ...share(2), wait: true }))
    await bench.clock.settle()
    const third = track(bench.manager.hold('s', 'third', { ...share(2), wait: true }))
    await bench.clock.settle()
    two.wire.delay(10)
    await beside.release()
    await bench.clock.advance(39)
    expect([first.state, second.state, third.state]).to.deep.equal(['fulfilled', 'pending', 'pending'])
    await last.release()
    await bench.clock.advance(19)
    expect([second.state, third.state]).to.deep.equal(['fulfilled', 'pending'])
  })

  it('leaves no note of the shares in the way when its wait is given up, while its claim is in flight or before', async () => {
    for (const inFlight of [true, false]) {
      const bench = new Bench()
      const other = bench.other()
      await other.manager.hold('s', 'a', share(1))
      const giveUp = new AbortController()
      bench.wire.delay(10, { kind: 'claim', at: 'reply' })
      const waiting = track(bench.manager.hold('s', 'b', { ...share(1), wait: true, signal: giveUp.signal }))
      await bench.clock.advance(inFlight ? 5 : 15)
      if (!inFlight) expect(bench.client.counted?.blocking('s#')).to.include({ holder: 'a' })
      giveUp.abort(new Error('given up'))
      await bench.clock.advance(20)
      expect(waiting.state).to.equal('rejected')
      expect(bench.client.counted?.blocking('s#'), `in flight: ${inFlight}`).to.equal(undefined)
      expect(bench.store.awaited).to.equal(0)
    }
  })

  it('takes names of 255 bytes, for the counted lease and for its holder', async () => {
    const bench = new Bench()
    const [name, holder] = ['n'.repeat(255), 'h'.repeat(255)]
    const hold = await bench.manager.hold(name, holder, share(1))
    const other = bench.other()
    const waiting = track(other.manager.hold(name, 'w', { ...share(1), wait: true }))
    await bench.clock.settle()
    const { manager } = other
    expect((await manager.find(hold.lease))?.holder).to.equal(holder)
    const expired = track(manager.waitUntilExpired(hold.lease))
    await manager.pin(hold.lease, 'e'.repeat(255))
    expect([...(await manager.pinned()).keys()]).to.deep.equal([hold.lease])
    await manager.unpin(hold.lease, 'e'.repeat(255))
    expect((await manager.token(hold.lease, holder).check()).weight).to.equal(1)
    await manager.revoke(hold.lease)
    await bench.clock.settle()
    expect([hold.held, waiting.state, expired.state]).to.deep.equal([false, 'fulfilled', 'fulfilled'])
    await rejection(manager.hold(`${name}n`, holder, share(1)), ErrNotValid)
    await rejection(manager.find(`${name}#${holder}h`), ErrNotValid)
  })

  it('is granted at once when another hold of its process has ended, whether the store tells of it or not', async () => {
    const bench = new Bench()
    bench.wire.disconnectWatch()
    const hold = await bench.manager.hold('s', 'a', share(1))
    const waiting = track(bench.manager.hold('s', 'b', { ...share(1), wait: true }))
    await bench.clock.settle()
    await hold.release()
    await bench.clock.advance(10)
    expect(waiting.state).to.equal('fulfilled')
  })

  it('is asked for after the share of another holder in the same process: no batch has two claims of one counted lease', async () => {
    const bench = new Bench()
    await bench.manager.define('s', 3)
    await Promise.all(['a', 'b', 'c'].map((holder) => bench.manager.hold('s', holder, { ...options, share: true })))
    expect([bench.wire.counts.claim, bench.wire.counts.largestBatch]).to.deep.equal([3, 1])
  })
})

describe('Hold.letLapse', () => {
  it('ends the Hold, gives nothing up, and tells of no loss', async () => {
    const bench = new Bench()
    const other = bench.other()
    const events: string[] = []
    bench.manager.events.subscribe(({ type }) => events.push(type))
    const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
    const waiting = bench.manager.hold('db', 'b', { ...options, wait: true })
    await bench.clock.settle()
    const { signal } = hold
    hold.letLapse()
    hold.letLapse()
    await hold.release()
    expect([hold.held, signal.aborted, bench.holder('db')]).to.deep.equal([false, true, 'a'])
    await rejection(other.manager.hold('db', 'c', options), ErrClaimDenied)
    await bench.clock.advance(31_000)
    expect((await waiting).held).to.equal(true)
    expect(events).not.to.include('lost')
  })
})

describe('Hold.isExclusive', () => {
  it('is true of a lease, and of a share that takes the whole capacity', async () => {
    const bench = new Bench()
    const sent = bench.wire.counts.roundTrips
    expect(await (await bench.manager.hold('db', 'a', options)).isExclusive()).to.equal(true)
    expect(bench.wire.counts.roundTrips).to.equal(sent + 1)
    expect(await (await bench.manager.hold('s', 'a', share(3, 2))).isExclusive()).to.equal(false)
    expect(await (await bench.manager.hold('t', 'a', share(3, 3))).isExclusive()).to.equal(true)
  })

  it('is false while others have what a larger capacity allowed, and true when they have ended', async () => {
    const bench = new Bench()
    const [one, other] = [
      await bench.manager.hold('s', 'a', share(2, 1)),
      await bench.manager.hold('s', 'b', share(2, 1)),
    ]
    const { generation } = await bench.manager.counted('s')
    await bench.manager.define('s', 1, { from: generation })
    expect([one.held, await one.isExclusive(), await other.isExclusive()]).to.deep.equal([true, false, false])
    await other.release()
    expect(await one.isExclusive()).to.equal(true)
  })
})
