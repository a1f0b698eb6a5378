import { expect } from 'chai'
import type { Renewal } from '#src/client.ts'
import { ErrClaimDenied, ErrInvalid, ErrLost, ErrNotValid, ErrUnknown } from '#src/errors.ts'
import type { Hold } from '#src/hold.ts'
import { Manager } from '#src/manager.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const options = { duration: 30_000 }
const share = { weight: 1, capacity: 2 }

function lossOf(signal: AbortSignal): string {
  const reason: unknown = signal.reason
  return reason instanceof ErrLost ? reason.reason : signal.aborted ? 'no loss' : 'held'
}

describe('Manager.hold: a claim kept alive', () => {
  it('it says what it holds', async () => {
    const { manager } = new Bench()
    const hold = await manager.hold('db', 'a', { ...options, value: 'here' })
    expect(hold).to.include({ lease: 'db', holder: 'a', fencingToken: 1n, held: true })
    expect((await hold.token.check()).value).to.equal('here')
    hold.assertHeld()
    await manager.stop()
  })

  it('renews from a third of the duration, and holds far beyond the first grant', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    await bench.clock.advance(8000)
    expect(bench.wire.counts.extend).to.equal(0)
    await bench.clock.advance(2000)
    expect(bench.wire.counts.extend).to.equal(1)
    await bench.clock.advance(600_000)
    expect(hold.held).to.equal(true)
    expect(bench.holder()).to.equal('a')
    expect(bench.fencingToken(), 'one term').to.equal(hold.fencingToken)
    expect(bench.wire.counts.extend).to.be.within(55, 75)
    await bench.manager.stop()
  })

  it('a grant that was long under way is renewed as soon as one that came at once', async () => {
    for (const [lateMs, renewEvery] of [
      [4_000, undefined],
      [12_000, undefined],
      [17_000, undefined],
      [12_000, 25_000],
    ] as const) {
      const bench = new Bench()
      const sentMs = bench.clock.monotonic()
      const hung = bench.wire.hang({ kind: 'claim' })
      const hold = track(bench.manager.hold('db', 'a', { ...options, renewEvery }))
      await bench.clock.advance(lateMs)
      hung.heal()
      while (hold.state === 'pending') await bench.clock.advance(10)
      const dueMs = sentMs + (renewEvery ?? 10_000)
      await bench.clock.advance(Math.max(0, dueMs - bench.clock.monotonic()) + 10)
      expect(bench.wire.counts.extend, `${lateMs} ms late`).to.equal(1)
      await bench.clock.advance(60_000)
      expect(hold.value?.held).to.equal(true)
      await bench.manager.stop()
    }
  })

  for (const [way, ask] of Object.entries<(manager: Manager) => Promise<Hold>>({
    hold: (manager) => manager.hold('db', 'a', options),
    'hold with wait': (manager) => manager.hold('db', 'a', { ...options, wait: true }),
    holdAny: (manager) => manager.holdAny(['db', 'db2'], 'a', options),
    'holdAny with wait': (manager) => manager.holdAny(['db', 'db2'], 'a', { ...options, wait: true }),
    'hold of a share': (manager) => manager.hold('db', 'a', { ...options, share }),
    'hold of a share with wait': (manager) => manager.hold('db', 'a', { ...options, share, wait: true }),
  })) {
    it(`a grant whose answer was late is trusted from its sending: ${way}`, async () => {
      for (const isOwn of [false, true]) {
        const { clock, manager, wire } = new Bench()
        const before = isOwn ? await ask(manager) : undefined
        before?.letLapse()
        await clock.advance(10_000)
        for (const kind of ['claim', 'extend'] as const) wire.delay(3_000, { kind, at: 'reply', times: 1 })
        const hold = track(ask(manager))
        await clock.advance(3_000)
        expect(hold.value?.fencingToken === before?.fencingToken, 'one term').to.equal(isOwn)
        expect(hold.value?.remaining().toMillis(), isOwn ? 'of its own lease' : 'of a vacant one').to.equal(26_969)
        await manager.stop()
      }
    })
  }

  it('a renewal whose answer was late is trusted from its sending, on the timer, on request, and with a new value', async () => {
    for (const renew of [undefined, 'renew', 'update'] as const) {
      const bench = new Bench()
      const hold = await bench.manager.hold('db', 'a', {
        ...options,
        ...(renew === undefined ? {} : { renewEvery: false }),
      })
      bench.wire.delay(3_000, { kind: 'extend', at: 'reply', times: 1 })
      await bench.clock.advance(10_000)
      const renewed = renew === undefined ? undefined : track(renew === 'renew' ? hold.renew() : hold.update('new'))
      await bench.clock.advance(3_000)
      expect(renewed?.state ?? 'fulfilled', renew).to.equal('fulfilled')
      expect(bench.wire.counts.extend, renew).to.equal(1)
      expect(hold.remaining().toMillis(), renew).to.be.at.most(29_969 - 3_000)
      await bench.manager.stop()
    }
  })

  it('a renewal that was answered late puts off no later one', async () => {
    const bench = new Bench()
    await bench.manager.hold('db', 'a', options)
    const late = bench.wire.delay(4_500, { kind: 'extend', at: 'reply' })
    await bench.clock.advance(15_000)
    late.heal()
    expect(bench.wire.counts.extend).to.equal(1)
    await bench.clock.advance(5_010)
    expect(bench.wire.counts.extend).to.equal(2)
    await bench.manager.stop()
  })

  it('`renewEvery` sets when', async () => {
    const bench = new Bench()
    await bench.manager.hold('db', 'a', { duration: 30_000, renewEvery: 2000 })
    await bench.clock.advance(2000)
    expect(bench.wire.counts.extend).to.equal(1)
    await bench.manager.stop()
  })

  for (const timersLateMs of [0, -1, 1]) {
    it(`whatever renewEvery is accepted, it renews in time, also where timers are ${timersLateMs} ms late`, async () => {
      const cases = [8, 9, 10, 12, 20, 100, 1000, 30_000].flatMap((duration) => {
        const mostMs = Math.ceil(0.999 * duration - 5) - 1
        return [
          { duration, renewEvery: mostMs },
          { duration, renewEvery: undefined },
        ]
      })
      for (const { duration, renewEvery } of cases) {
        for (let phase = 0; phase < 12; phase++) {
          const bench = new Bench({ time: { timersLateMs, monotonicMs: 5_000 + phase * 37.37 } })
          const hold = await bench.manager.hold('db', 'a', { duration, renewEvery })
          await bench.clock.advance(5 * duration)
          expect(hold.held, `${duration} ${renewEvery} ${phase}`).to.equal(true)
          await bench.manager.stop()
        }
        if (renewEvery === undefined) continue
        const late = { duration, renewEvery: renewEvery + 1 }
        await rejection(new Bench().manager.hold('db', 'a', late), ErrNotValid)
      }
    })
  }

  it('any number of listeners may be added to the signal of a hold', async () => {
    const bench = new Bench()
    const warnings: unknown[] = []
    const listener = (warning: unknown): void => void warnings.push(warning)
    process.on('warning', listener)
    try {
      const { signal } = await bench.manager.hold('db', 'a', options)
      for (let count = 0; count < 20; count++) signal.addEventListener('abort', () => {})
      await new Promise((resolve) => setImmediate(resolve))
    } finally {
      process.off('warning', listener)
    }
    expect(warnings).to.deep.equal([])
    await bench.manager.stop()
  })

  it('with `renewEvery: false` it renews when asked to, and only then', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false, value: 'kept' })
    const { signal } = hold
    for (let turn = 0; turn < 5; turn++) {
      await bench.clock.advance(20_000)
      expect(bench.wire.counts.extend).to.equal(turn)
      await hold.renew()
      expect(hold.held).to.equal(true)
    }
    expect(bench.fencingToken(), 'one term').to.equal(hold.fencingToken)
    expect((await hold.token.check()).value).to.equal('kept')
    await bench.clock.advance(29_960)
    expect(lossOf(signal)).to.equal('held')
    await bench.clock.advance(10)
    expect(lossOf(signal)).to.equal('expired')
    expect(bench.wire.counts.extend).to.equal(5)
    expect(await rejection(hold.renew(), ErrLost)).to.equal(signal.reason)
    expect(bench.wire.counts.extend, 'nothing is sent for a hold that is over').to.equal(5)
    expect(bench.clock.pending).to.equal(0)
    await bench.manager.stop()
  })

  it('a renewal that was asked to, and failed or hangs to the end of the window, is why: unreachable', async () => {
    for (const fails of [true, false]) {
      const bench = new Bench()
      const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
      const { signal } = hold
      if (fails) bench.wire.reject(new Error('away'), { kind: 'extend' })
      else bench.wire.hang({ kind: 'extend' })
      await bench.clock.advance(20_000)
      const renewal = track(hold.renew())
      await bench.clock.advance(9_970)
      expect(lossOf(signal)).to.equal('unreachable')
      await bench.clock.advance(30_000)
      expect(renewal.state).to.equal('rejected')
      await bench.manager.stop()
    }
  })

  it('a false "vacated" ends no hold: its lease is read, and it goes on', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    bench.wire.emit({ kind: 'vacated', lease: 'db' })
    expect(lossOf(signal)).to.equal('held')
    await bench.clock.settle()
    expect(bench.wire.counts.read).to.equal(1)
    await bench.clock.advance(60_000)
    expect([hold.held, lossOf(signal)]).to.deep.equal([true, 'held'])
    await bench.manager.stop()
  })

  it('a read after a hint that fails is reported as a read, and no renewal', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const told: string[] = []
    bench.manager.events.subscribe((event) => {
      if (event.type === 'retrying') told.push(event.operation)
    })
    const away = bench.wire.reject(new Error('away'), { kind: 'read' })
    bench.wire.emit({ kind: 'vacated', lease: 'db' })
    await bench.clock.advance(5_000)
    expect(new Set(told)).to.deep.equal(new Set(['read']))
    away.heal()
    await bench.clock.advance(20_000)
    expect(hold.held).to.equal(true)
    await bench.manager.stop()
  })

  it('a renewal finds out that the term is over: the hold is lost before it rejects', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
    await other.manager.revoke('db')
    const { reason } = await rejection(hold.renew(), ErrLost)
    expect(reason).to.equal('revoked')
    expect(lossOf(hold.signal)).to.equal('revoked')
    await bench.manager.stop()
  })

  it('renewals that fail are tried again until one succeeds', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const told: string[] = []
    bench.manager.events.subscribe((event) => {
      if (event.type === 'retrying') told.push(event.operation)
    })
    const away = bench.wire.reject(new Error('away'), { kind: 'extend' })
    await bench.clock.advance(25_000)
    expect(away.hits).to.be.greaterThan(4)
    expect(told).to.include('renewal')
    away.heal()
    await bench.clock.advance(30_000)
    expect(hold.held).to.equal(true)
    expect(lossOf(hold.signal)).to.equal('held')
    await bench.manager.stop()
  })

  it('when they fail to the end, the signal aborts when the trust window ends: unreachable', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    bench.wire.reject(new Error('away'), { kind: 'extend' })
    await bench.clock.advance(29_900)
    expect(lossOf(signal)).to.equal('held')
    await bench.clock.advance(69)
    expect(hold.held).to.equal(false)
    await bench.clock.advance(1)
    expect(lossOf(signal)).to.equal('unreachable')
    expect(hold.held).to.equal(false)
    expect(() => hold.assertHeld()).to.throw(ErrLost)
    expect(bench.holder(), 'before anyone else can claim').to.equal('a')
    await bench.clock.advance(60_000)
    expect(bench.clock.pending).to.equal(0)
  })

  it('each attempt has its own time-out, also when the client hangs, then the signal aborts', async () => {
    const clock = new TestClock()
    const client = new ScriptedClient([
      { call: 'claimLease', leases: { db: infoOf({ holder: 'a', expiry: clock.in(30_000) }) } },
      { call: 'renewLease', times: Number.POSITIVE_INFINITY, hangs: true },
    ])
    const manager = new Manager({ client, clock })
    const hold = await manager.hold('db', 'a', options)
    const { signal } = hold
    await clock.advance(29_900)
    expect(client.calls.filter(({ call }) => call === 'renewLease').length).to.be.within(2, 20)
    expect(lossOf(signal)).to.equal('held')
    await clock.advance(70)
    expect(lossOf(signal)).to.equal('unreachable')
    expect(clock.pending).to.equal(0)
  })

  it('after a renewal that hung the next one saves the Hold', async () => {
    const clock = new TestClock()
    const client = new ScriptedClient([
      { call: 'claimLease', leases: { db: infoOf({ holder: 'a', expiry: clock.in(30_000) }) } },
      { call: 'renewLease', hangs: true },
      { call: 'renewLease', leases: { db: infoOf({ holder: 'a', expiry: clock.in(60_000) }) } },
      { call: 'refresh', times: Number.POSITIVE_INFINITY },
    ])
    const manager = new Manager({ client, clock })
    const hold = await manager.hold('db', 'a', options)
    await clock.advance(29_980)
    expect(hold.held).to.equal(true)
    await manager.stop()
  })

  it('`held` reads the clock now, and trusts no timer', async () => {
    const bench = new Bench()
    Object.assign(bench.clock, { setTimer: () => ({ cancel: () => {} }) }) // timers never fire
    const hold = await bench.manager.hold('db', 'a', options)
    await bench.clock.advance(29_968)
    expect(hold.held).to.equal(true)
    await bench.clock.advance(1)
    expect(hold.held).to.equal(false)
    expect(() => hold.assertHeld()).to.throw(ErrLost)
    await bench.manager.stop()
  })

  it('a hold counts the larger elapsed time: a clock set forward ends it no later than that window', async () => {
    const bench = new Bench()
    const { signal } = await bench.manager.hold('db', 'a', options)
    bench.wire.hang({ kind: 'extend' })
    await bench.clock.advance(5000)
    await bench.clock.jumpWall(12_000)
    await bench.clock.advance(12_950)
    expect(lossOf(signal)).to.equal('held')
    await bench.clock.advance(20)
    expect(lossOf(signal)).to.equal('unreachable')
    await bench.manager.stop()
  })

  it('a wall clock set back does not keep a Hold alive', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    bench.wire.reject(new Error('away'), { kind: 'extend' })
    await bench.clock.jumpWall(-3_600_000)
    await bench.clock.advance(29_970)
    expect(hold.held).to.equal(false)
    expect(lossOf(signal)).to.equal('unreachable')
  })

  it('asleep past the window → expired, reported before anything else is sent', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    await bench.clock.settle() // the first Hold subscribed, and everything held is read once
    bench.wire.resetCounts()
    await bench.clock.pause(40_000)
    expect(hold.held).to.equal(false)
    expect(lossOf(signal)).to.equal('expired')
    expect(bench.wire.counts.roundTrips, 'a renewal never re-claims').to.equal(0)
  })

  it('after a pause a new reading of the signal is right before any timer has fired', async () => {
    const bench = new Bench()
    const read = await bench.manager.hold('db', 'a', options)
    const unread = await bench.manager.hold('other', 'a', options)
    expect(read.signal.aborted).to.equal(false)
    const pause = bench.clock.pause(30_000) // the clocks have moved, and no timer has fired yet
    expect([lossOf(read.signal), lossOf(unread.signal)]).to.deep.equal(['expired', 'expired'])
    await pause
    await bench.manager.stop()
  })

  it('a suspended machine finds its Hold over as soon as it looks', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    await bench.clock.suspend(40_000)
    expect(hold.held).to.equal(false)
    expect(() => hold.assertHeld()).to.throw(ErrLost)
    await bench.clock.advance(10_000)
    expect(lossOf(signal)).to.equal('expired')
    expect(bench.wire.counts).to.include({ claim: 1, extend: 0 })
  })

  it('the signal follows within a second of a suspend, however far away the next renewal is', async () => {
    for (const asleep of ['suspend', 'jumpWall'] as const) {
      const bench = new Bench()
      const hold = await bench.manager.hold('db', 'a', { duration: { hours: 1 }, renewEvery: false })
      const { signal } = hold
      await bench.clock.advance(10_000)
      await bench.clock[asleep]({ hours: 2 })
      await bench.clock.advance(1_000)
      expect(lossOf(signal), asleep).to.equal('expired')
      await bench.manager.stop()
    }
  })

  for (const [question, ask] of Object.entries<(hold: Hold) => boolean>({
    held: (hold) => hold.held,
    remaining: (hold) => hold.remaining().toMillis() > 0,
    trustedUntil: (hold) => hold.trustedUntil.toMillis() > 30_001,
  })) {
    it(`a hold that was over when asked, by ${question}, is not held again when a renewal is answered after that`, async () => {
      const bench = new Bench({ time: { wallMs: 0 } })
      const hold = await bench.manager.hold('db', 'a', options)
      let renewal: Renewal | undefined
      Object.defineProperty(bench.client, 'renewLease', { value: (sent: Renewal) => (renewal = sent) })
      await bench.clock.advance(10_000)
      const pause = bench.clock.pause(20_001) // the clocks have moved, and no timer has fired yet
      expect(ask(hold)).to.equal(false)
      renewal?.granted()
      expect([hold.held, lossOf(hold.signal)]).to.deep.equal([false, 'unreachable'])
      await pause
      await bench.manager.stop()
    })
  }

  it('a hold that slept past its lease is lost as expired, also where the first it hears is that its renewal was refused', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    let renewal: Renewal | undefined
    Object.defineProperty(bench.client, 'renewLease', { value: (sent: Renewal) => (renewal = sent) })
    await bench.clock.advance(10_000)
    const pause = bench.clock.pause(30_000)
    renewal?.failed(new ErrInvalid('vacant', { lease: 'db', reason: 'vacant' }))
    expect(lossOf(hold.signal)).to.equal('expired')
    await pause
    await bench.manager.stop()
  })

  it('a read after a hint that fails is tried again, and a revocation is seen within the back-off', async () => {
    const bench = new Bench()
    const { signal } = await bench.manager.hold('db', 'a', { duration: { hours: 1 }, renewEvery: false })
    await bench.clock.settle()
    const away = bench.wire.loseRequest({ kind: 'read' })
    await bench.other().manager.revoke('db')
    await bench.clock.advance(10_000)
    expect(lossOf(signal)).to.equal('held')
    away.heal()
    await bench.clock.advance(2_000)
    expect(lossOf(signal)).to.equal('revoked')
    await bench.manager.stop()
  })

  for (const [what, read] of Object.entries<(manager: Manager) => Promise<unknown>>({
    find: (manager) => manager.find('db'),
    leases: (manager) => manager.leases(),
    check: (manager) =>
      manager
        .token('db', 'b')
        .check()
        .catch(() => {}),
  })) {
    it(`a lease that is seen to be gone ends its Hold, by ${what} too`, async () => {
      const bench = new Bench({ wire: { watch: false } })
      const { signal } = await bench.manager.hold('db', 'a', options)
      await bench.other().manager.revoke('db')
      expect(lossOf(signal)).to.equal('held')
      await read(bench.manager)
      expect(lossOf(signal)).to.equal('revoked')
      await bench.manager.stop()
    })
  }

  it('a revocation whose hint was lost is seen when the hints are connected again', async () => {
    const bench = new Bench()
    const { signal } = await bench.manager.hold('db', 'a', { duration: { hours: 1 }, renewEvery: false })
    await bench.clock.settle()
    bench.wire.disconnectWatch()
    await bench.other().manager.revoke('db')
    await bench.clock.advance(2_000)
    expect(lossOf(signal)).to.equal('held')
    bench.wire.reconnectWatch()
    await bench.clock.advance(2_000)
    expect(lossOf(signal)).to.equal('revoked')
    await bench.manager.stop()
  })

  for (const [what, ask] of Object.entries<(hold: Hold) => Promise<void>>({
    renew: (hold) => hold.renew(),
    update: (hold) => hold.update('there'),
  })) {
    it(`${what} ends with its Hold, though its request hangs`, async () => {
      const bench = new Bench()
      const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
      const hung = bench.wire.hang({ kind: 'extend' })
      const asked = track(ask(hold))
      await bench.clock.settle()
      const releasing = track(hold.release())
      await bench.clock.settle()
      expect(asked.error).to.be.an.instanceOf(ErrLost).with.property('reason', 'released')
      hung.heal()
      await bench.clock.drive(releasing.promise)
      await bench.manager.stop()
    })
  }

  for (const [then, reason] of [
    ['one that is granted ends that', 'expired'],
    ['nothing else', 'unreachable'],
  ] as const) {
    it(`a renewal by a call that fails is trouble, and then ${then}: a Hold whose time runs out is lost as ${reason}`, async () => {
      const bench = new Bench()
      const hold = await bench.manager.hold('db', 'a', { ...options, renewEvery: false })
      const away = bench.wire.loseRequest({ kind: 'extend' })
      await rejection(bench.clock.drive(hold.renew()), ErrUnknown)
      away.heal()
      if (reason === 'expired') await hold.renew()
      await bench.clock.advance(30_000)
      expect(lossOf(hold.signal)).to.equal(reason)
      await bench.manager.stop()
    })
  }

  it('a late answer of a renewal that was given up sends no third one while the second is in flight', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    const sent: Renewal[] = []
    Object.defineProperty(bench.client, 'renewLease', { value: (renewal: Renewal) => void sent.push(renewal) })
    while (sent.length < 2) await bench.clock.advance(1_000)
    sent[0]?.granted()
    await bench.clock.advance(1_000)
    expect(sent).to.have.length(2)
    sent[1]?.granted()
    await bench.clock.advance(1_000)
    expect([hold.held, sent.length]).to.deep.equal([true, 2])
    await bench.manager.stop()
  })

  /** A Hold whose renewals are answered by the test, or never. */
  async function byHand(more: { readonly renewEvery?: number } = {}) {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { ...options, ...more })
    const sent: { readonly renewal: Renewal; readonly atMs: number }[] = []
    const retriedAtMs: number[] = []
    Object.defineProperty(bench.client, 'renewLease', {
      value: (renewal: Renewal) => void sent.push({ renewal, atMs: bench.clock.monotonic() }),
    })
    bench.manager.events.subscribe((event) => {
      if (event.type === 'retrying') retriedAtMs.push(bench.clock.monotonic())
    })
    const untilSent = async (count: number): Promise<void> => {
      while (sent.length < count) await bench.clock.advanceToNext()
    }
    return { bench, hold, sent, retriedAtMs, untilSent }
  }

  it('a renewal without an answer is given up, and the next one sent at the same instant', async () => {
    const { bench, sent, retriedAtMs, untilSent } = await byHand()
    await untilSent(2)
    expect(retriedAtMs).to.deep.equal([sent[1]?.atMs])
    await bench.manager.stop()
  })

  it('a renewal that was given up and fails later is no failure of the one in flight', async () => {
    const { bench, hold, sent, retriedAtMs, untilSent } = await byHand()
    await untilSent(2)
    sent[0]?.renewal.failed(new Error('away'))
    await bench.clock.advance(1_000)
    expect([retriedAtMs.length, sent.length]).to.deep.equal([1, 2])
    sent[1]?.renewal.granted()
    expect(hold.held).to.equal(true)
    await bench.manager.stop()
  })

  it('a renewal that hangs leaves time for another, also when it was sent late in the lease', async () => {
    const { bench, hold, sent, untilSent } = await byHand({ renewEvery: 20_000 })
    await untilSent(2)
    expect(bench.clock.monotonic() - (sent[0]?.atMs ?? 0)).to.be.below(6_000)
    sent[1]?.renewal.granted()
    await bench.clock.advance(10_000)
    expect(hold.held).to.equal(true)
    await bench.manager.stop()
  })

  it('a renewal that is granted ends the failures before it: a Hold that sleeps past its lease then is lost as expired', async () => {
    const { bench, hold, sent, untilSent } = await byHand()
    await untilSent(1)
    sent[0]?.renewal.failed(new Error('away'))
    await untilSent(2)
    sent[1]?.renewal.granted()
    const pause = bench.clock.pause(31_000)
    expect([hold.held, lossOf(hold.signal)]).to.deep.equal([false, 'expired'])
    await pause
    await bench.manager.stop()
  })

  it('a renewal never re-claims: vacant before its time → revoked', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const { signal } = await bench.manager.hold('db', 'a', options)
    await bench.other().manager.revoke('db')
    await bench.clock.advance(10_000)
    expect(lossOf(signal)).to.equal('revoked')
    expect(bench.holder()).to.equal(undefined)
    expect(bench.wire.counts.claim).to.equal(1)
  })

  it('another holder → taken', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    const { signal } = await bench.manager.hold('db', 'a', options)
    await other.manager.revoke('db')
    await other.manager.claim('db', 'b', 60_000)
    await bench.clock.advance(10_000)
    expect(lossOf(signal)).to.equal('taken')
  })

  it('another term of the same name → taken', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    const { signal } = await bench.manager.hold('db', 'a', options)
    await other.manager.revoke('db')
    await other.manager.claim('db', 'a', 60_000)
    await bench.clock.advance(10_000)
    expect(lossOf(signal)).to.equal('taken')
    expect(bench.holder()).to.equal('a')
  })

  for (const call of ['renew', 'update', undefined] as const) {
    it(`a client that goes by names extends a later term of the same name: ${call ?? 'the renewal'} finds it taken`, async () => {
      const clock = new TestClock()
      const term = (fencingToken: bigint) => ({ db: infoOf({ holder: 'a', fencingToken, expiry: clock.in(60_000) }) })
      const client = new ScriptedClient(
        [
          { call: 'claimLease', leases: term(1n) },
          { call: 'extendLease', leases: term(2n) },
        ],
        { lacks: ['renewLease'] },
      )
      const manager = new Manager({ client, clock })
      const hold = await manager.hold('db', 'a', options)
      const { signal } = hold
      if (call === undefined) await clock.advance(10_000)
      else await rejection(call === 'renew' ? hold.renew() : hold.update('v'), ErrLost)
      expect(lossOf(signal)).to.equal('taken')
      client.verify()
      await manager.stop()
    })
  }

  it('nothing is extended by name once a later term of the same name is known', async () => {
    const clock = new TestClock()
    const term = (fencingToken: bigint) => ({ db: infoOf({ holder: 'a', fencingToken, expiry: clock.in(60_000) }) })
    const client = new ScriptedClient([{ call: 'claimLease', leases: term(1n) }], { lacks: ['renewLease'] })
    const manager = new Manager({ client, clock })
    const hold = await manager.hold('db', 'a', options)
    client.show(term(2n))
    expect(await rejection(hold.update('v'), ErrLost)).to.include({ reason: 'taken' })
    client.verify()
    await manager.stop()
  })

  it('a revocation elsewhere is heard of by hint, long before the next renewal', async () => {
    const bench = new Bench()
    const other = bench.other()
    const hold = await bench.manager.hold('db', 'a', { duration: { hours: 1 } })
    await bench.clock.settle()
    await other.manager.revoke('db')
    await bench.clock.settle()
    expect(lossOf(hold.signal)).to.equal('revoked')
    await bench.manager.stop()
  })

  it('a Hold is one entry of the manager: when it is over there is no timer', async () => {
    const { clock, manager } = new Bench()
    const hold = await manager.hold('db', 'a', { duration: { hours: 10 } })
    await clock.settle() // the first Hold subscribed, and everything held is read once
    expect(clock.pending).to.equal(1)
    await hold.release()
    expect(clock.pending).to.equal(0)
  })

  it('timers that fire early neither lose a Hold nor spin', async () => {
    const bench = new Bench({ time: { timersLateMs: -0.75 } })
    const hold = await bench.manager.hold('db', 'a', options)
    await bench.clock.advance(300_000)
    expect(hold.held).to.equal(true)
    expect(bench.clock.fired).to.be.lessThan(2500)
    await bench.manager.stop()
  })

  it('a grant that took longer than its own trust window is asked for again', async () => {
    const bench = new Bench()
    bench.wire.delay(280, { kind: 'claim', times: 1 })
    const hold = await bench.clock.drive(bench.manager.hold('db', 'a', { duration: 200 }))
    expect(hold.held).to.equal(true)
    await bench.manager.stop()
  })

  it('a Hold whose renewals hang does not delay the renewals of another', async () => {
    const bench = new Bench({ wire: { limits: { maxOps: 1, maxInFlight: 4 } } })
    const slow = await bench.manager.hold('slow', 'a', options)
    const fast = await bench.manager.hold('fast', 'a', options)
    bench.wire.hang({ lease: 'slow', kind: 'extend' })
    await bench.clock.advance(60_000)
    expect([slow.held, fast.held]).to.deep.equal([false, true])
    await bench.manager.stop()
  })
})

describe('Hold.update: the value that travels with the lease', () => {
  it('claims that hang delay no renewal, also when they have taken every slot', async () => {
    const bench = new Bench({ wire: { limits: { maxOps: 1, maxInFlight: 2 } } })
    const hold = await bench.manager.hold('db', 'a', options)
    bench.wire.hang({ kind: 'claim' })
    const hung = Array.from({ length: 100 }, (_, index) => track(bench.manager.claim(`other-${index}`, 'a', 60_000)))
    await bench.clock.advance(9_000)
    hung.push(...Array.from({ length: 100 }, (_, index) => track(bench.manager.claim(`more-${index}`, 'a', 60_000))))
    await bench.clock.advance(1_000)
    expect(bench.wire.counts.claim, 'more wait for a slot').to.be.lessThan(201)
    expect(bench.wire.counts.extend).to.equal(1)
    await bench.clock.advance(22_000)
    expect(hold.held).to.equal(true)
    await bench.manager.stop()
  })

  it('update changes the value for everyone, and renewals keep it', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { ...options, value: 'one' })
    await hold.update('two')
    await bench.clock.advance(60_000)
    expect((await bench.other().manager.token('db', 'a').check()).value).to.equal('two')
    await bench.manager.stop()
  })

  it('update refuses a value that breaks a rule, and sends nothing', async () => {
    const { manager, wire } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    await rejection(hold.update('x'.repeat(4097)), ErrNotValid)
    expect(wire.counts.extend).to.equal(0)
    await manager.stop()
  })

  it('update with a duration makes the lease last that long, and no renewal makes it shorter again', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', options)
    await hold.update('kept', { duration: { minutes: 10 } })
    expect(hold.remaining().as('minutes')).to.be.within(9.9, 10)
    await hold.renew()
    await bench.clock.advance(30_000)
    expect(hold.remaining().as('minutes')).to.be.within(9.4, 9.5)
    hold.letLapse()
    await bench.clock.advance(9 * 60_000)
    expect((await bench.other().manager.find('db'))?.value).to.equal('kept')
    await bench.clock.advance(31_000)
    expect(await bench.other().manager.find('db')).to.equal(undefined)
  })

  it('update refuses a duration or an option that breaks a rule, with the value, and sends nothing', async () => {
    const { manager, wire } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    for (const duration of [0, -1, Number.NaN, 'long', {}, null]) {
      const given = { duration, ttl: 5 } as never
      const { problems } = await rejection(hold.update('a\0b', given), ErrNotValid)
      expect(problems.map(({ argument }) => argument)).to.have.members(['value', 'duration', 'ttl'])
    }
    await rejection(hold.update('x', 5 as never), ErrNotValid)
    expect(wire.counts.extend).to.equal(0)
    await manager.stop()
  })

  it('update on a Hold that is over is ErrLost', async () => {
    const { manager } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    await hold.release()
    await rejection(hold.update('late'), ErrLost)
  })

  it('update finds out about a loss, and the Hold is over', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const hold = await bench.manager.hold('db', 'a', options)
    const { signal } = hold
    await bench.other().manager.revoke('db')
    expect((await rejection(hold.update('late'), ErrLost)).reason).to.equal('revoked')
    expect(lossOf(signal)).to.equal('revoked')
  })

  it('update that cannot be settled is ErrUnknown, and the Hold lives on', async () => {
    const { clock, manager, wire } = new Bench()
    const hold = await manager.hold('db', 'a', options)
    const away = wire.reject(new Error('away'), { kind: 'extend' })
    await rejection(clock.drive(hold.update('x')), ErrUnknown)
    expect(hold.held).to.equal(true)
    away.heal()
    await manager.stop()
  })
})

describe('Manager.hold: what rejects', () => {
  it('options that break rules are all listed, and nothing is sent', async () => {
    const { manager, wire } = new Bench()
    const bad = { duration: -1, wait: 'long', renewEvery: 0, nap: true } as never
    const { problems } = await rejection(manager.hold('db', 'a', bad), ErrNotValid)
    expect(problems.map(({ argument }) => argument)).to.have.members(['duration', 'wait', 'renewEvery', 'nap'])
    await rejection(manager.hold('d b', 'a', options), ErrNotValid)
    expect(wire.counts.roundTrips).to.equal(0)
  })

  it("another's → ErrClaimDenied; ErrInvalid never reaches an application", async () => {
    const bench = new Bench()
    await bench.other().manager.claim('db', 'b', 30_000)
    const error = await rejection(bench.manager.hold('db', 'a', options), ErrClaimDenied)
    expect(error).not.to.be.instanceOf(ErrInvalid)
  })

  it('a hold given up while its claim hangs leaves no Hold behind, though the client ignores the signal', async () => {
    const clock = new TestClock()
    let answer = (): void => {}
    const after = new Promise<void>((resolve) => (answer = resolve))
    const client = new ScriptedClient([
      { call: 'claimLease', after, leases: { db: infoOf({ holder: 'a', expiry: clock.in(30_000) }) } },
      { call: 'releaseLease', args: ['db', 'a'], leases: { db: undefined } },
    ])
    const claimLease = client.claimLease.bind(client)
    client.claimLease = (lease, request) => claimLease(lease, request)
    const manager = new Manager({ client, clock })
    const controller = new AbortController()
    const work = track(manager.hold('db', 'a', { ...options, signal: controller.signal }))
    await clock.settle()
    controller.abort()
    await clock.settle()
    expect(work.state).to.equal('rejected')
    answer()
    await clock.advance(120_000)
    expect(clock.pending).to.equal(0)
    client.verify()
  })
})
