import { getEventListeners } from 'node:events'
import { expect } from 'chai'
import type { TermId } from '#src/client.ts'
import { ErrInvalid, ErrNotValid, ErrUnknown } from '#src/errors.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import type { Call, ClaimOp, Op } from '#src/substrate.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock, track } from '#src/testing/index.ts'
import { rejection } from './manager.bench.ts'

class Bench {
  readonly clock = new TestClock()
  readonly store: MemoryStore
  readonly wire: FaultySubstrate
  readonly client: SubstrateClient

  constructor(options: { store?: MemoryStore; clock?: TestClock; serverClock?: boolean } = {}) {
    this.clock = options.clock ?? this.clock
    this.store = options.store ?? new MemoryStore({ clock: this.clock, serverClock: options.serverClock ?? true })
    this.wire = new FaultySubstrate(new MemorySubstrate({ store: this.store }), { clock: this.clock })
    this.client = new SubstrateClient({ substrate: this.wire, clock: this.clock })
  }

  other(): Bench {
    return new Bench({ store: this.store, clock: this.clock })
  }

  get nonces(): string[] {
    return this.wire.ops.filter((op): op is ClaimOp => op.kind === 'claim').map(({ nonce }) => nonce)
  }
}

const request = { holder: 'a', duration: 30_000 }

describe('SubstrateClient: the Client over any Substrate', () => {
  it('a claim keeps its nonce over retries; two claims never share one', async () => {
    const bench = new Bench()
    const { client } = bench
    bench.wire.loseReply({ kind: 'claim', times: 2 })
    await bench.clock.drive(client.claimLease('x', request))
    await client.claimLease('y', request)
    const sent = bench.nonces
    expect(sent.length).to.equal(4)
    expect(new Set(sent.slice(0, 3)).size).to.equal(1)
    expect(sent[3]).not.to.equal(sent[0])
  })

  it('nonces of two clients never meet', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.client.claimLease('x', request)
    await other.client.claimLease('y', request)
    expect(bench.nonces[0]).not.to.equal(other.nonces[0])
  })

  it('three outcomes: an operation of unknown outcome is sent four times in all, then ErrUnknown with its cause', async () => {
    const { clock, client, wire } = new Bench()
    const cause = new Error('away')
    await client.claimLease('db', request)
    wire.reject(cause, { kind: 'extend' })
    const error = await rejection(clock.drive(client.extendLease('db', request)), ErrUnknown)
    expect(error).to.include({ lease: 'db', holder: 'a', cause })
    expect(wire.counts.extend).to.equal(4)
    expect(clock.pending).to.equal(0)
  })

  it('a round trip has its own time-out: a third of a short lease, at most five seconds', async () => {
    const { clock, client, wire } = new Bench()
    wire.hang({ kind: 'claim', times: 1 })
    const claim = track(client.claimLease('db', { holder: 'a', duration: 3000 }))
    await clock.advance(999)
    expect([claim.state, wire.counts.claim]).to.deep.equal(['pending', 1])
    await clock.advance(1)
    expect([claim.state, wire.counts.claim]).to.deep.equal(['fulfilled', 2])
    wire.hang({ kind: 'read', times: 1 })
    const read = track(client.refresh(['db']))
    await clock.advance(4999)
    expect(read.state).to.equal('pending')
    await clock.advance(1)
    expect(read.state).to.equal('fulfilled')
  })

  it('a call that is given up tells those who listen, and anyone who asks later at once, why the signal aborts', async () => {
    const clock = new TestClock()
    const calls: Call[] = []
    const told: unknown[] = []
    class Silent extends MemorySubstrate {
      override apply(_ops: readonly Op[], call: Call): Promise<never> {
        calls.push(call)
        call.onAbort?.((why) => told.push(why))
        call.onAbort?.((why) => told.push(why))
        return new Promise(() => {})
      }
    }
    const client = new SubstrateClient({ substrate: new Silent({ store: new MemoryStore({ clock }) }), clock })
    const claim = track(client.claimLease('db', { holder: 'a', duration: 3000 }))
    await clock.advance(999)
    expect([calls.length, told]).to.deep.equal([1, []])
    await clock.advance(1)
    const [call] = calls
    call?.onAbort?.((why) => told.push(why))
    expect(call?.signal.aborted).to.equal(true)
    expect(told).to.deep.equal(Array.from({ length: 3 }, () => call?.signal.reason as Error))
    await clock.drive(client.close())
    await clock.drive(claim.promise.catch(() => {}))
  })

  it('contended: certainly not done, asked again soon, without using up attempts', async () => {
    const { clock, client, wire } = new Bench()
    wire.contended({ times: 10 })
    await clock.drive(client.claimLease('db', request))
    expect(wire.counts.claim).to.equal(11)
  })

  it('contended to the end is ErrUnknown', async () => {
    const { clock, client, wire } = new Bench()
    wire.contended()
    await rejection(clock.drive(client.claimLease('db', request)), ErrUnknown)
  })

  it('ErrInvalid, and leases() shows the state that forbade it, without a read', async () => {
    const bench = new Bench()
    const other = bench.other()
    await bench.client.claimLease('db', request)
    await rejection(other.client.claimLease('db', { ...request, holder: 'b' }), ErrInvalid)
    expect(other.client.leases().get('db')?.holder).to.equal('a')
    await rejection(other.client.extendLease('free', request), ErrInvalid)
    expect(other.client.leases().has('free')).to.equal(false)
    expect(other.wire.counts.read).to.equal(1) // of the lease that it had never heard of
  })

  it('three outcomes: where a store gives no verdict, each operation of the batch is ErrUnknown', async () => {
    const { clock, store } = new Bench()
    const substrate = new MemorySubstrate({ store })
    Object.defineProperty(substrate, 'apply', { value: async () => [] })
    const client = new SubstrateClient({ substrate, clock })
    const calls = [
      client.claimLease('one', request),
      client.releaseLease('two', 'a', { term: { fencingToken: 1n, nonce: undefined } }),
      client.pinLease('three', 'e'),
      client.expireLease('four'),
    ].map(track)
    await clock.drive(Promise.allSettled(calls.map(({ promise }) => promise)))
    for (const { error } of calls) expect(error).to.be.instanceOf(ErrUnknown)
  })

  it('a lapsed lease cannot be extended', async () => {
    const { clock, client } = new Bench()
    await client.claimLease('db', { holder: 'a', duration: 1000 })
    await clock.advance(1001)
    await rejection(client.extendLease('db', request), ErrInvalid)
  })

  it('nor on a store without a clock, once it was seen to lapse', async () => {
    const { clock, client, wire } = new Bench({ serverClock: false })
    let term: TermId | undefined
    const onGranted = (granted: TermId): void => void (term = granted)
    await client.claimLease('db', { holder: 'a', duration: 1000 }, { onGranted })
    await clock.advance(1003)
    await rejection(client.extendLease('db', request), ErrInvalid)
    await rejection(client.extendLease('db', { ...request, value: 'v' }, { term }), ErrInvalid)
    expect(wire.counts.extend).to.equal(0)
  })

  it('the expiry follows a wall clock that is set, forward or back', async () => {
    const { clock, client } = new Bench({ serverClock: false })
    await client.claimLease('db', { holder: 'a', duration: 10_000 })
    const leftMs = () => (client.leases().get('db')?.expiry.toMillis() ?? 0) - clock.now()
    const atFirstMs = leftMs()
    for (const setMs of [-3_600_000, 7_200_000, -3_600_000]) {
      await clock.jumpWall(setMs)
      expect(leftMs(), `set by ${setMs} ms`).to.be.within(atFirstMs, atFirstMs + 20)
    }
  })

  it('expireLease: vacant resolves, alive → ErrInvalid, at the expiry too', async () => {
    const { clock, client } = new Bench()
    await client.expireLease('db')
    await client.claimLease('db', { holder: 'a', duration: 1000 })
    await clock.advance(1000)
    await rejection(client.expireLease('db'), ErrInvalid)
    await clock.advance(1)
    await client.expireLease('db')
  })

  it('two operations on one lease never meet in the store; different leases share a round trip', async () => {
    const { client, wire } = new Bench()
    await Promise.all([
      client.claimLease('x', request),
      client.extendLease('x', request),
      client.claimLease('y', request),
      client.releaseLease('x', 'a'),
    ])
    expect(wire.ops.map(({ kind, lease }) => `${kind} ${lease}`)).to.deep.equal([
      'claim x',
      'claim y',
      'extend x',
      'release x',
    ])
    expect(wire.counts).to.include({ roundTrips: 3, largestBatch: 2 })
  })

  it('a claim given up is released again, also when its reply comes late', async () => {
    const { clock, client, wire, store } = new Bench()
    const slow = wire.hang({ kind: 'claim', at: 'reply' })
    const controller = new AbortController()
    const reason = new RangeError('enough')
    const claim = track(client.claimLease('db', request, { signal: controller.signal }))
    await clock.settle()
    controller.abort(reason)
    await clock.settle()
    expect(claim.error).to.equal(reason)
    slow.heal()
    await clock.settle()
    expect(store.namespace('default').read(['db']).size).to.equal(0)
    expect(getEventListeners(controller.signal, 'abort')).to.deep.equal([])
  })

  it('arguments that break rules send nothing', async () => {
    const { client, wire } = new Bench()
    await rejection(client.claimLease('a.b', request), ErrNotValid)
    await rejection(client.extendLease('db', { holder: 'a', duration: 0 }), ErrNotValid)
    await rejection(client.releaseLease('', 'a'), ErrNotValid)
    await rejection(client.refresh(['a b']), ErrNotValid)
    expect(wire.counts.roundTrips).to.equal(0)
  })

  it('leases() grows with the leases touched, and refresh(names) reads these only', async () => {
    const bench = new Bench()
    const other = bench.other()
    for (let index = 0; index < 50; index++) await bench.client.claimLease(`l-${index}`, request)
    await other.client.refresh(['l-3', 'l-4', 'l-4', 'none'])
    expect([...other.client.leases().keys()]).to.have.members(['l-3', 'l-4'])
    await other.client.refresh()
    expect(other.client.leases().size).to.equal(50)
  })

  it('a read that was overtaken by a claim does not hide the claim', async () => {
    const { clock, client, wire } = new Bench()
    const slow = wire.hang({ kind: 'read', at: 'reply' })
    const read = track(client.refresh(['db']))
    await clock.settle()
    await client.claimLease('db', request)
    slow.heal()
    await read.promise
    expect(client.leases().get('db')?.holder).to.equal('a')
  })

  it('a read that shows a pin, answered after the unpin before it, is asked again on a store without a clock', async () => {
    const { clock, client, wire, store } = new Bench({ serverClock: false })
    const other = new Bench({ store, clock })
    await client.claimLease('db', { holder: 'a', duration: 60_000 })
    await client.pinLease('db', 'e')
    await clock.advance(5_000)
    const unpinned = wire.hang({ kind: 'unpin', at: 'reply' })
    const unpin = track(client.unpinLease('db', 'e'))
    await clock.settle()
    await other.client.pinLease('db', 'e')
    const answered = wire.hang({ kind: 'read', at: 'reply' })
    const read = track(client.refresh(['db']))
    await clock.settle()
    unpinned.heal()
    await clock.drive(unpin.promise)
    answered.heal()
    await clock.drive(read.promise)
    expect(client.leases().get('db')?.pinned).to.equal(true)
  })

  it('an unpin frees a lease that this client has seen lapse, on a store without a clock, and no other', async () => {
    for (const { isRenewed, holder } of [
      { isRenewed: false, holder: undefined },
      { isRenewed: true, holder: 'a' },
    ]) {
      const { clock, client, store } = new Bench({ serverClock: false })
      const other = new Bench({ store, clock })
      await other.client.claimLease('db', { holder: 'a', duration: 1000 })
      await client.pinLease('db', 'e')
      await clock.advance(5_000)
      if (isRenewed) {
        await other.client.refresh(['db'])
        await other.client.extendLease('db', { holder: 'a', duration: 1000 })
      }
      await client.unpinLease('db', 'e')
      await client.refresh(['db'])
      expect(client.leases().get('db')?.holder).to.equal(holder)
    }
  })

  it('one watch for all subscribers, none when the last has gone; a listener that throws harms nobody', async () => {
    const { clock, client, wire } = new Bench()
    const heard: string[] = []
    const stops = [
      client.subscribe(() => {
        throw new Error('a bad subscriber')
      }),
      client.subscribe(({ kind }) => heard.push(kind)),
    ]
    expect(wire.watchers).to.equal(1)
    await client.claimLease('db', { ...request, announce: true })
    await client.releaseLease('db', 'a')
    await clock.settle()
    expect(heard).to.deep.equal(['resync', 'changed', 'vacated'])
    for (const stop of stops) stop()
    expect(wire.watchers).to.equal(0)
  })

  it('close() is idempotent, ends pauses and watches, and later calls are ErrUnknown', async () => {
    const { clock, client, wire } = new Bench()
    client.subscribe(() => {})
    wire.reject(new Error('away'), { kind: 'claim', times: 2 })
    const claim = track(client.claimLease('db', request))
    await clock.settle()
    await client.close()
    await client.close()
    await clock.settle()
    expect(claim.error).to.be.instanceOf(ErrUnknown)
    await rejection(client.refresh(), ErrUnknown)
    expect(wire.watchers).to.equal(0)
    expect(clock.pending).to.equal(0)
  })
})

describe('SubstrateClient: the set-up of the substrate', () => {
  const warning = { warning: 'synchronous-commit-off', message: 'a crash may lose the last grants' }

  it('is asked for once, at first use; a weakness is a warning event, never a refusal', async () => {
    const clock = new TestClock()
    const substrate = new MemorySubstrate({ store: new MemoryStore({ clock }) })
    let asked = 0
    const inspected = Object.assign(substrate, {
      inspect: async () => {
        asked++
        return [warning]
      },
    })
    const client = new SubstrateClient({ substrate: inspected, clock })
    const told: unknown[] = []
    client.events.subscribe((event) => told.push(event))
    expect(asked, 'no I/O in a constructor').to.equal(0)
    await client.claimLease('db', { holder: 'a', duration: 1000 })
    await client.refresh(['db'])
    await clock.settle()
    expect(asked).to.equal(1)
    expect(told).to.deep.equal([{ type: 'warning', system: 'memory', namespace: 'default', ...warning }])
    await client.close()
  })

  it('a substrate that cannot be asked is no reason to refuse an operation', async () => {
    const clock = new TestClock()
    const substrate = new MemorySubstrate({ store: new MemoryStore({ clock }) })
    const silent = Object.assign(substrate, { inspect: () => Promise.reject(new Error('not allowed')) })
    const client = new SubstrateClient({ substrate: silent, clock })
    await client.claimLease('db', { holder: 'a', duration: 1000 })
    expect(client.leases().get('db')?.holder).to.equal('a')
    await client.close()
  })
})
