import { expect } from 'chai'
import { ErrClaimDenied, ErrInvalid, ErrNotHeld, ErrNotValid, ErrStopped, ErrUnknown } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { infoOf, ScriptedClient, TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

describe('Manager.claim: at least `duration` from the start of the call', () => {
  it('the holder may rely on it for duration − 0.1 % − 1 ms, to the millisecond', async () => {
    const { clock, manager, wire } = new Bench()
    await manager.claim('db', 'a', 10_000)
    await clock.advance(9988)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(0)
    await clock.advance(1)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(1)
  })

  it('the trust window counts from the call, however long the answer took', async () => {
    const { clock, manager, wire } = new Bench()
    wire.delay(3000, { kind: 'claim', at: 'request' })
    const claim = manager.claim('db', 'a', 10_000)
    await clock.advance(3000)
    await claim
    await clock.advance(6988)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(0)
    await clock.advance(1)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(1)
  })

  it('a claim sent again after a lost request holds for its whole duration', async () => {
    const bench = new Bench()
    bench.wire.loseRequest({ kind: 'claim', times: 2 })
    await bench.clock.drive(bench.manager.claim('db', 'a', 10_000))
    const behind = await bench.other().manager.leases()
    expect(behind.get('db')?.holder).to.equal('a')
    await bench.clock.advance(10_000)
    expect(bench.holder(), 'the full duration from the start of the call').to.equal('a')
  })

  it("everyone else's bound counts from the reply, plus 0.1 % + 1 ms", async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 10_000)
    other.wire.delay(2000, { kind: 'read', at: 'reply' })
    const read = other.manager.leases()
    await bench.clock.advance(2000)
    expect((await read).get('db')?.expiry.toMillis()).to.equal(bench.clock.in(10_011).toMillis())
  })

  it('a holder counts the larger elapsed time: a suspended machine distrusts its claim when it wakes', async () => {
    const { clock, manager, wire } = new Bench()
    await manager.claim('db', 'a', 10_000)
    await clock.suspend(9989)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(1)
  })

  it('a wall clock set back does not lengthen the trust of a holder', async () => {
    const { clock, manager, wire } = new Bench()
    await manager.claim('db', 'a', 10_000)
    await clock.jumpWall(-3_600_000)
    await clock.advance(9988)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(0)
    await clock.advance(1)
    await manager.token('db', 'a').check()
    expect(wire.counts.read).to.equal(1)
  })

  it('an observer counts the smaller elapsed time: a wall clock set forward frees no lease', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 10_000)
    await other.manager.leases()
    await bench.clock.jumpWall(60_000)
    const denied = await rejection(other.manager.claim('db', 'b', 1000), ErrClaimDenied)
    expect(denied.currentHolder).to.equal('a')
    expect((await other.manager.leases()).get('db')?.holder).to.equal('a')
  })
})

describe('Manager.claim: extension, boundary, take-over', () => {
  it('a shorter claim by the holder never moves the expiry back', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 60_000)
    await bench.manager.claim('db', 'a', 1000)
    await bench.clock.advance(59_938)
    await bench.manager.token('db', 'a').check()
    expect(bench.wire.counts.read, 'nor the trust window').to.equal(0)
    await bench.clock.advance(62)
    expect(bench.holder()).to.equal('a')
  })

  it('a renewing claim moves the expiry to now + duration, not by duration', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 10_000)
    await bench.clock.advance(4000)
    await bench.manager.claim('db', 'a', 10_000)
    expect(bench.wire.counts).to.include({ claim: 1, extend: 1 })
    await bench.clock.advance(10_000)
    expect(bench.holder()).to.equal('a')
    await bench.clock.advance(1)
    expect(bench.holder()).to.equal(undefined)
  })

  it('at its very expiry a lease still belongs to the holder; one millisecond later it is free', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 10_000)
    await bench.clock.advance(10_000)
    await rejection(bench.other().manager.claim('db', 'b', 1000), ErrClaimDenied)
    await bench.clock.advance(1)
    await bench.other().manager.claim('db', 'b', 1000)
    expect(bench.holder()).to.equal('b')
  })

  it('a claim takes a lapsed lease over in one step, with a new fencing token', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 1000)
    const before = bench.fencingToken() as bigint
    await bench.clock.advance(1001)
    await other.manager.claim('db', 'b', 1000)
    expect(other.wire.ops.map(({ kind }) => kind)).to.deep.equal(['claim'])
    expect((bench.fencingToken() as bigint) > before).to.equal(true)
  })

  it('a store without a clock: taken over when seen unchanged for its duration + 0.1 % + 1 ms, not before', async () => {
    const bench = new Bench({ serverClock: false })
    const { manager, wire } = bench.other()
    await bench.manager.claim('db', 'a', 100_000)
    wire.delay(2_000, { kind: 'read', at: 'reply', times: 1 })
    const seen = track(manager.find('db'))
    await bench.clock.advance(2_000) // the answer may be as young as this
    expect(seen.value?.holder).to.equal('a')
    await bench.clock.advance(100_101)
    await rejection(manager.claim('db', 'b', 1000), ErrClaimDenied)
    expect((await manager.find('db'))?.holder, 'nor is it reported vacant').to.equal('a')
    await bench.clock.advance(1)
    expect(await manager.find('db')).to.equal(undefined)
    await manager.claim('db', 'b', 1000)
    expect(bench.holder()).to.equal('b')
  })

  it('the holder of a lapsed lease claims it anew and gets a new fencing token', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 1000)
    const before = bench.fencingToken() as bigint
    await bench.clock.advance(1001)
    await bench.manager.claim('db', 'a', 1000)
    expect((bench.fencingToken() as bigint) > before).to.equal(true)
  })

  it('fencing tokens rise with every term, over release and expiry, and stay over extensions', async () => {
    const bench = new Bench()
    const seen: bigint[] = []
    for (const holder of ['a', 'a', 'b', 'a']) {
      await bench.manager.claim('db', holder, 1000)
      const { fencingToken } = await bench.manager.token('db', holder).check()
      await bench.manager.claim('db', holder, 1000)
      expect((await bench.manager.token('db', holder).check()).fencingToken).to.equal(fencingToken)
      seen.push(fencingToken)
      if (seen.length % 2 === 0) await bench.manager.release('db', holder)
      else await bench.clock.advance(1012)
    }
    expect(seen).to.deep.equal(seen.toSorted((a, b) => Number(a - b)))
    expect(new Set(seen).size).to.equal(4)
  })
})

describe('Manager.claim: claim or extend, then look again', () => {
  const request = { holder: 'a', duration: 30_000 }
  const settings = (script: ConstructorParameters<typeof ScriptedClient>[0]) => {
    const clock = new TestClock()
    const client = new ScriptedClient(script)
    return { clock, client, manager: new Manager({ client, clock }) }
  }
  const invalid = new ErrInvalid('the latest state forbids it')

  it('vacant or unknown → claimLease', async () => {
    const { client, manager } = settings([{ call: 'claimLease', args: ['db', request] }])
    await manager.claim('db', 'a', 30_000)
    client.verify()
  })

  it("this holder's → extendLease", async () => {
    const { clock, client, manager } = settings([{ call: 'extendLease', args: ['db', request] }])
    client.show({ db: infoOf({ holder: 'a', expiry: clock.in(10_000) }) })
    await manager.claim('db', 'a', 30_000)
    client.verify()
  })

  it("another's → claimLease: a stale snapshot denies nobody", async () => {
    const { clock, client, manager } = settings([{ call: 'claimLease', args: ['db', request] }])
    client.show({ db: infoOf({ holder: 'b', expiry: clock.in(10_000) }) })
    await manager.claim('db', 'a', 30_000)
    client.verify()
  })

  it('ErrInvalid and another holds it → ErrClaimDenied, with who and until when', async () => {
    const { clock, client, manager } = settings([])
    const info = infoOf({ holder: 'b', expiry: clock.in(10_000) })
    client.expect({ call: 'claimLease', throws: invalid, leases: { db: info } })
    const denied = await rejection(manager.claim('db', 'a', 30_000), ErrClaimDenied)
    expect(denied).to.include({ lease: 'db', holder: 'a', currentHolder: 'b', expiry: info.expiry })
    client.verify()
  })

  it('ErrInvalid without another holder → once more, at once', async () => {
    const { clock, client, manager } = settings([])
    client.expect(
      { call: 'claimLease', throws: invalid, leases: { db: infoOf({ holder: 'a', expiry: clock.in(10_000) }) } },
      { call: 'extendLease', throws: invalid, leases: { db: undefined } },
      { call: 'claimLease', times: Number.POSITIVE_INFINITY },
    )
    const claim = track(manager.claim('db', 'a', 30_000))
    await clock.settle()
    expect(client.calls.map(({ call }) => call)).to.deep.equal(['claimLease', 'extendLease'])
    await clock.advance(50)
    expect(client.calls.map(({ call }) => call)).to.deep.equal(['claimLease', 'extendLease', 'claimLease'])
    expect(claim.state).to.equal('fulfilled')
  })

  it('then jittered from 50 ms by 1.6, ten attempts in all, then ErrUnknown', async () => {
    const { clock, client, manager } = settings([{ call: 'claimLease', times: 10, throws: invalid }])
    const startedMs = clock.monotonic()
    const claim = track(manager.claim('db', 'a', 30_000))
    await clock.settle()
    expect(client.calls.length, 'the first and the one at once').to.equal(2)
    for (let attempt = 3; attempt <= 10; attempt++) {
      expect(clock.nextDelayMs).to.be.within(0, 50 * 1.6 ** (attempt - 3))
      await clock.advanceToNext()
      expect(client.calls.length).to.equal(attempt)
    }
    expect(claim.error).to.be.instanceOf(ErrUnknown)
    expect(clock.monotonic() - startedMs).to.be.greaterThan(0)
    expect(clock.pending).to.equal(0)
    client.verify()
  })

  it('the pauses are spread by full jitter', async () => {
    const pauses: number[] = []
    for (let run = 0; run < 40; run++) {
      const { clock, manager } = settings([{ call: 'claimLease', times: 10, throws: invalid }])
      const claim = track(manager.claim('db', 'a', 30_000))
      await clock.settle()
      pauses.push(clock.nextDelayMs ?? Number.NaN)
      await clock.drive(claim.promise.catch(() => {}))
    }
    expect(Math.min(...pauses)).to.be.lessThan(20)
    expect(Math.max(...pauses)).to.be.greaterThan(30)
    expect(Math.max(...pauses)).to.be.at.most(50)
  })

  it('two concurrent claims by the same holder both succeed, in one term', async () => {
    const bench = new Bench()
    await Promise.all([bench.manager.claim('db', 'a', 30_000), bench.manager.claim('db', 'a', 40_000)])
    expect(bench.wire.ops.map(({ kind }) => kind)).to.deep.equal(['claim', 'extend'])
  })

  it('also when the two come from two processes', async () => {
    const bench = new Bench()
    const other = bench.other()
    await Promise.all([bench.manager.claim('db', 'a', 30_000), other.manager.claim('db', 'a', 30_000)])
    expect(bench.holder()).to.equal('a')
    await bench.manager.token('db', 'a').check()
    await other.manager.token('db', 'a').check()
  })

  it('of two holders at once exactly one is granted', async () => {
    const bench = new Bench()
    const other = bench.other()
    const results = await Promise.allSettled([
      bench.manager.claim('db', 'a', 30_000),
      other.manager.claim('db', 'b', 30_000),
    ])
    expect(results.map(({ status }) => status).toSorted()).to.deep.equal(['fulfilled', 'rejected'])
  })

  it("a lease that was released behind a snapshot's back is granted", async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    await rejection(other.manager.claim('db', 'b', 30_000), ErrClaimDenied)
    await bench.manager.release('db', 'a')
    await other.manager.claim('db', 'b', 30_000)
    expect(bench.holder()).to.equal('b')
  })

  it('a refused claim brings the holder along, and costs no read', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.manager.claim('db', 'a', 30_000)
    const { currentHolder, expiry } = await rejection(other.manager.claim('db', 'b', 30_000), ErrClaimDenied)
    expect(currentHolder).to.equal('a')
    expect(expiry?.toMillis()).to.equal(bench.clock.in(30_031).toMillis())
    expect(other.wire.counts).to.include({ claim: 1, read: 0 })
  })

  it('a claim whose reply was lost resolves to "it was mine"', async () => {
    const bench = new Bench()
    bench.wire.loseReply({ kind: 'claim', times: 1 })
    await bench.manager.claim('db', 'a', 30_000)
    const nonces = bench.wire.ops.map((op) => (op.kind === 'claim' ? op.nonce : op.kind))
    expect(nonces.length).to.equal(2)
    expect(new Set(nonces).size, 'one nonce over the retries').to.equal(1)
  })

  it('a claim whose outcome nobody can tell is ErrUnknown, with its cause', async () => {
    const { clock, manager, wire } = new Bench()
    const cause = new Error('server away')
    wire.reject(cause, { kind: 'claim' })
    const error = await rejection(clock.drive(manager.claim('db', 'a', 30_000)), ErrUnknown)
    expect(error.cause).to.equal(cause)
  })

  it('an unexpected error of a third-party client rejects that call only', async () => {
    const bug = new TypeError('undefined is not a function')
    const { client, manager } = settings([
      { call: 'claimLease', args: ['db'], throws: bug },
      { call: 'claimLease', args: ['db'] },
    ])
    expect(await rejection(manager.claim('db', 'a', 30_000), ErrUnknown)).to.include({
      reason: 'client failed',
      cause: bug,
    })
    await manager.claim('db', 'a', 30_000)
    client.verify()
  })

  it('a client that throws before it returns a promise rejects that call only', async () => {
    const { client, manager } = settings([{ call: 'claimLease', args: ['ok'] }])
    const sound = client.claimLease.bind(client)
    client.claimLease = (lease, ...rest) => {
      if (lease === 'db') throw new RangeError('synchronously')
      return sound(lease, ...rest)
    }
    await rejection(manager.claim('db', 'a', 30_000), ErrUnknown)
    await rejection(manager.claim('db', 'a', 30_000), ErrUnknown)
    await manager.claim('ok', 'a', 30_000)
  })

  it('arguments that break rules send nothing, and every problem is listed', async () => {
    const { client, manager } = settings([])
    const error = await rejection(manager.claim('a.b', '', -1, { value: 'x'.repeat(4097) }), ErrNotValid)
    expect(error.problems.map(({ argument }) => argument)).to.deep.equal(['lease', 'holder', 'duration', 'value'])
    expect(client.calls).to.deep.equal([])
  })

  for (const [what, call] of Object.entries<(manager: Manager, signal: AbortSignal) => Promise<unknown>>({
    claim: (manager, signal) => manager.claim('db', 'a', 30_000, { signal }),
    hold: (manager, signal) => manager.hold('db', 'a', { duration: 30_000, signal }),
    release: (manager, signal) => manager.release('db', 'a', { signal }),
    revoke: (manager, signal) => manager.revoke('db', { signal }),
    pin: (manager, signal) => manager.pin('db', 'entity', { signal }),
    unpin: (manager, signal) => manager.unpin('db', 'entity', { signal }),
  })) {
    it(`a ${what} that is given up while it waits for its turn never reaches the client`, async () => {
      for (const way of ['abort', 'stop'] as const) {
        const bench = new Bench()
        const before = bench.wire.hang({ kind: 'pin' })
        const first = track(bench.manager.pin('db', 'first'))
        await bench.clock.settle()
        const asked: string[] = []
        for (const name of [
          'claimLease',
          'extendLease',
          'releaseLease',
          'pinLease',
          'unpinLease',
          'refresh',
        ] as const) {
          Object.defineProperty(bench.client, name, {
            value: () => Promise.reject(new Error(String(asked.push(name)))),
          })
        }
        const impatient = new AbortController()
        const waiting = track(call(bench.manager, impatient.signal))
        await bench.clock.settle()
        const reason = new Error('no patience')
        const stopping = way === 'stop' ? bench.manager.stop() : impatient.abort(reason)
        before.heal()
        await bench.clock.settle()
        if (way === 'stop') expect(waiting.error).to.be.an.instanceOf(ErrStopped)
        else expect(waiting.error).to.equal(reason)
        expect(asked, way).to.deep.equal([])
        await stopping
        await first.promise.catch(() => {})
        await bench.manager.stop()
      }
    })
  }

  it('an aborted claim rejects with its own reason; one aborted before sends nothing', async () => {
    const bench = new Bench()
    const reason = new RangeError('enough')
    const before = bench.manager.claim('db', 'a', 1000, { signal: AbortSignal.abort(reason) })
    expect(await rejection(before, RangeError)).to.equal(reason)
    expect(bench.wire.counts.roundTrips).to.equal(0)

    const hang = bench.wire.hang({ kind: 'claim', at: 'reply' })
    const controller = new AbortController()
    const during = track(bench.manager.claim('db', 'a', 20_000, { signal: controller.signal }))
    await bench.clock.settle()
    controller.abort(reason)
    await bench.clock.settle()
    expect(during.error).to.equal(reason)
    hang.heal()
    await bench.clock.settle()
    expect(bench.holder(), 'granted after all: given back').to.equal(undefined)
    await rejection(bench.manager.token('db', 'a').check(), ErrNotHeld)
  })
})

describe('Manager.claim: one lease after the other, different leases at once', () => {
  it('operations on one lease are serialised', async () => {
    const clock = new TestClock()
    let answer = (): void => {}
    const first = new Promise<void>((resolve) => (answer = resolve))
    const client = new ScriptedClient([
      { call: 'claimLease', args: ['db', { holder: 'a' }], after: first },
      { call: 'pinLease', args: ['db', 'e'] },
      { call: 'releaseLease', args: ['db', 'a'] },
    ])
    const manager = new Manager({ client, clock })
    const work = Promise.all([manager.claim('db', 'a', 1000), manager.pin('db', 'e'), manager.release('db', 'a')])
    await clock.settle()
    expect(client.calls.length).to.equal(1)
    answer()
    await work
    client.verify()
  })

  it('a lease whose operations hang does not delay another', async () => {
    const { clock, manager, wire } = new Bench({ wire: { limits: { maxOps: 1, maxInFlight: 4 } } })
    wire.hang({ lease: 'slow' })
    const slow = track(manager.claim('slow', 'a', 60_000))
    await clock.settle()
    await manager.claim('fast', 'a', 60_000)
    await manager
      .token('fast', 'b')
      .check()
      .catch(() => {})
    await manager.release('fast', 'a')
    expect(slow.state).to.equal('pending')
  })

  it('a failing lease fails alone', async () => {
    const { clock, manager, wire } = new Bench({ wire: { limits: { maxOps: 1, maxInFlight: 4 } } })
    wire.reject(new Error('this row is broken'), { lease: 'broken' })
    const broken = track(manager.claim('broken', 'a', 60_000))
    await Promise.all([manager.claim('x', 'a', 60_000), manager.claim('y', 'a', 60_000)])
    await clock.drive(broken.promise.catch(() => {}))
    expect(broken.error).to.be.instanceOf(ErrUnknown)
  })

  it('concurrent operations on different leases coalesce', async () => {
    const { manager, wire } = new Bench()
    await Promise.all(Array.from({ length: 500 }, (_, index) => manager.claim(`l-${index}`, 'a', 60_000)))
    expect(wire.counts).to.include({ claim: 500, roundTrips: 1 })
  })
})

describe('Manager: scale', () => {
  it('work grows with the leases touched, not with the namespace: nothing but reads of names is sent', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 60_000)
    for (let index = 0; index < 2000; index++) {
      bench.store.namespace('default').apply({
        kind: 'claim',
        lease: `other-${index}`,
        holder: 'x',
        durationMs: 60_000,
        nonce: `n${index}`,
        value: undefined,
        lapsed: undefined,
      })
    }
    await rejection(bench.manager.token('db', 'b').check(), ErrNotHeld)
    await bench.manager.claim('db', 'a', 60_000)
    await bench.manager.release('db', 'a')
    expect(bench.client.leases().size).to.equal(0)
  })

  it('what ten thousand claims leave behind is no timer', async () => {
    const { clock, manager } = new Bench()
    const claims: Promise<unknown>[] = []
    for (let index = 0; index < 10_000; index++) claims.push(manager.claim(`l-${index}`, 'a', 60_000))
    await Promise.all(claims)
    expect(clock.pending).to.equal(0)
  })

  it('a thousand Holds share one timer, and their renewals travel together', async () => {
    const { clock, manager, wire } = new Bench()
    await Promise.all(Array.from({ length: 1000 }, (_, n) => manager.hold(`l-${n}`, 'a', { duration: 60_000 })))
    await clock.settle() // the first Hold subscribed, and everything held is read once
    expect(clock.pending).to.equal(1)
    wire.resetCounts()
    await clock.advance(20_000)
    expect(wire.counts.extend).to.equal(1000)
    expect(wire.counts.roundTrips).to.be.at.most(8)
    await manager.stop()
  })
})
