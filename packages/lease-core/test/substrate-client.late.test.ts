/** Requests that arrive when nobody waits for them any more, on stores with a clock and without. */
import { expect } from 'chai'
import { ErrInvalid, ErrUnknown } from '#src/errors.ts'
import type { Info, TermAware } from '#src/lease.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import type { TermId } from '#src/client.ts'
import { TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const request = { holder: 'a', duration: 60_000 }

for (const serverClock of [true, false]) {
  describe(`SubstrateClient: late requests, on a store ${serverClock ? 'with' : 'without'} a clock`, () => {
    const open = (): Bench => new Bench({ serverClock })

    it('a claim that was given up opens no term when it arrives, after one that was granted and released', async () => {
      const bench = open()
      bench.wire.delay(8_000, { kind: 'claim', times: 1 })
      await bench.clock.drive(bench.client.claimLease('db', request)) // at the second attempt
      await bench.client.releaseLease('db', 'a')
      await bench.clock.advance(20_000)
      expect(bench.holder()).to.equal(undefined)
    })

    it('a claim that was refused after an attempt in doubt leaves no term behind', async () => {
      const bench = open()
      const other = bench.other()
      await other.client.claimLease('db', { ...request, holder: 'b' })
      bench.wire.loseRequest({ kind: 'claim', times: 1 }) // in doubt at once
      bench.wire.delay(3_000, { kind: 'claim', times: 1 }) // and on its way
      const claim = track(bench.client.claimLease('db', request))
      await bench.clock.settle()
      await other.client.releaseLease('db', 'b')
      await bench.clock.advance(20_000)
      if (claim.state === 'fulfilled') expect(bench.holder()).to.equal('a')
      else expect(bench.holder()).to.equal(undefined)
    })

    it('a claim that ended in doubt is withdrawn, when it was executed and when it is executed in the end', async () => {
      const bench = open()
      const lost = bench.wire.loseReply({ kind: 'claim' })
      await rejection(bench.clock.drive(bench.client.claimLease('db', request)), ErrUnknown)
      lost.heal()
      await bench.clock.advance(20_000)
      expect(bench.holder()).to.equal(undefined)
    })

    it('a withdrawal leaves the term alone that the same holder has claimed since', async () => {
      const bench = open()
      const lost = bench.wire.loseReply({ kind: ['claim', 'release'] })
      await rejection(bench.clock.drive(bench.manager.claim('db', 'a', 60_000)), ErrUnknown)
      lost.heal()
      const hold = await bench.clock.drive(bench.manager.hold('db', 'a', { duration: 60_000 }))
      await bench.clock.advance(20_000)
      expect([hold.held, bench.holder()]).to.deep.equal([true, 'a'])
      await bench.manager.stop()
    })

    it('a late release ends no later term of its holder, by name or by term', async () => {
      const bench = open()
      for (const known of [false, true]) {
        if (known) await bench.client.claimLease('db', request)
        else await bench.other().client.claimLease('db', request)
        bench.wire.delay(8_000, { kind: 'release', times: 1 })
        await bench.clock.drive(bench.client.releaseLease('db', 'a'))
        await bench.client.claimLease('db', request)
        const fencingToken = bench.fencingToken()
        await bench.clock.advance(20_000)
        expect(bench.fencingToken()).to.equal(fencingToken)
        await bench.client.releaseLease('db', 'a')
      }
    })

    it('a late unpin removes no later pin, and a late pin does not come back', async () => {
      const bench = open()
      await bench.client.pinLease('db', 'e')
      bench.wire.delay(8_000, { kind: 'unpin', times: 1 })
      await bench.clock.drive(bench.client.unpinLease('db', 'e'))
      await bench.client.pinLease('db', 'e')
      await bench.clock.advance(20_000)
      expect([...(await bench.client.pinned()).keys()]).to.deep.equal(['db'])
      bench.wire.delay(8_000, { kind: 'pin', times: 1 })
      await bench.clock.drive(bench.client.pinLease('other', 'e'))
      await bench.client.unpinLease('other', 'e')
      await bench.clock.advance(20_000)
      expect([...(await bench.client.pinned()).keys()]).to.deep.equal(['db'])
    })

    it('a pin of unknown outcome does not come after its withdrawal', async () => {
      const bench = open()
      bench.wire.delay(3_000, { kind: 'pin', times: 4 })
      const controller = new AbortController()
      const pinned = track(bench.client.pinLease('db', 'e', { signal: controller.signal }))
      await bench.clock.settle()
      bench.wire.loseReply({ kind: 'pin' })
      controller.abort(new Error('enough'))
      await bench.clock.drive(bench.client.unpinLease('db', 'e'))
      await bench.clock.advance(20_000)
      expect(pinned.state).to.equal('rejected')
      expect((await bench.client.pinned()).size).to.equal(0)
    })

    it('an extension of a term that another client opened adopts it; one of its own does not', async () => {
      const bench = open()
      const other = bench.other()
      const nonce = (): string | undefined => (bench.client.leases().get('db') as Info & TermAware).nonce
      await other.client.claimLease('db', request)
      await bench.client.extendLease('db', request)
      const adopted = nonce()
      await bench.client.extendLease('db', request)
      expect(nonce()).to.equal(adopted)
      const { fencingToken } = other.client.leases().get('db') as Info
      const mine = (other.client.leases().get('db') as Info & TermAware).nonce
      expect(mine).not.to.equal(adopted)
      await rejection(other.client.releaseLease('db', 'a', { term: { fencingToken, nonce: mine } }), ErrInvalid)
      expect(bench.holder()).to.equal('a')
    })

    it('an extension of a term of its own that another client has adopted meanwhile takes it back', async () => {
      const bench = open()
      const other = bench.other()
      await bench.client.claimLease('db', request)
      await other.client.extendLease('db', request)
      const { fencingToken, nonce } = other.client.leases().get('db') as Info & TermAware
      const granted: TermId[] = []
      await bench.client.extendLease('db', request, { onGranted: (term) => granted.push(term) })
      // Sent before that, and executed now.
      await rejection(other.client.releaseLease('db', 'a', { term: { fencingToken, nonce } }), ErrInvalid)
      expect(bench.holder()).to.equal('a')
      expect(granted).to.have.length(1)
      expect(granted[0]?.fencingToken).to.equal(fencingToken)
      expect(granted[0]?.nonce).not.to.equal(nonce)
    })
  })
}

describe('SubstrateClient: deadlines', () => {
  it('an operation that always comes too late is ErrUnknown', async () => {
    const bench = new Bench()
    await bench.client.claimLease('db', request)
    bench.wire.delay(6_000, { kind: 'extend' })
    await rejection(bench.clock.drive(bench.client.extendLease('db', request)), ErrUnknown)
  })

  it('a store whose clock was set, either way, is asked again with its new time', async () => {
    const [clock, storeClock] = [new TestClock(), new TestClock()]
    const store = new MemoryStore({ clock: storeClock })
    const client = new SubstrateClient({ substrate: new MemorySubstrate({ store }), clock })
    await client.claimLease('one', request)
    await storeClock.advance(3_600_000) // this process sees nothing of it
    await client.claimLease('two', request)
    await clock.advance(7_200_000) // as if it had been set back
    await client.claimLease('three', request)
    expect([...store.namespace('default').read(undefined).keys()]).to.deep.equal(['two', 'three'])
  })
})

describe('SubstrateClient: an answer counts from its request', () => {
  it('a refusal that was overtaken by a newer answer does not hide it', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.client.claimLease('db', { holder: 'b', duration: 60_000 })
    bench.wire.delay(100, { kind: 'claim', at: 'reply' })
    const claim = track(bench.client.claimLease('db', request))
    await bench.clock.settle()
    await other.client.releaseLease('db', 'b')
    await other.client.claimLease('db', { holder: 'c', duration: 60_000 })
    await bench.client.refresh(['db'])
    await bench.clock.advance(100)
    expect(claim.error).to.be.instanceOf(ErrInvalid)
    expect(bench.client.leases().get('db')?.holder).to.equal('c')
  })

  for (const serverClock of [true, false]) {
    it(`an extension that was refused while a read was under way does not show what that read found, ${serverClock ? 'with' : 'without'} a clock`, async () => {
      const bench = new Bench({ serverClock })
      const other = bench.other()
      await other.client.claimLease('db', request)
      await bench.client.refresh(['db'])
      await other.client.releaseLease('db', 'a')
      await other.client.claimLease('db', { holder: 'b', duration: 60_000 })
      bench.wire.delay(50, { kind: 'read', at: 'reply', times: 1 })
      const read = track(bench.client.refresh())
      await bench.clock.settle()
      await other.client.releaseLease('db', 'b')
      bench.wire.delay(100, { kind: 'extend', at: 'reply', times: 1 })
      const extension = track(bench.client.extendLease('db', request))
      await bench.clock.advance(200)
      expect(read.state).to.equal('fulfilled')
      expect(extension.error).to.be.instanceOf(ErrInvalid)
      expect(bench.client.leases().size).to.equal(0)
    })
  }

  it('a read that was overtaken by another, which found all vacant, does not bring back a later term than was known', async () => {
    const bench = new Bench()
    const other = bench.other()
    await other.client.claimLease('db', request)
    await bench.client.refresh(['db'])
    await other.client.releaseLease('db', 'a')
    await other.client.claimLease('db', { holder: 'b', duration: 60_000 })
    bench.wire.delay(100, { kind: 'read', at: 'reply', times: 1 })
    const overtaken = track(bench.client.refresh(['db']))
    await bench.clock.settle()
    await other.client.releaseLease('db', 'b')
    await bench.client.refresh()
    expect(bench.client.leases().size).to.equal(0)
    await bench.clock.advance(200)
    expect(overtaken.state).to.equal('fulfilled')
    expect(bench.client.leases().size).to.equal(0)
  })

  it('a read that was sent before a release was answered does not bring its term back', async () => {
    const bench = new Bench()
    await bench.client.claimLease('db', request)
    bench.wire.delay(100, { kind: 'read', at: 'reply' })
    const read = track(bench.client.refresh())
    await bench.clock.settle()
    await bench.client.releaseLease('db', 'a')
    await bench.clock.advance(100)
    expect(read.state).to.equal('fulfilled')
    expect(bench.client.leases().size).to.equal(0)
  })

  it('a renewal that was answered after the release of its term does not bring it back', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { duration: 30_000 })
    bench.wire.delay(100, { kind: 'extend', at: 'reply' })
    await bench.clock.advance(10_000)
    await hold.release()
    await bench.clock.advance(1_000)
    expect(bench.client.leases().size).to.equal(0)
    await bench.manager.stop()
  })

  it('within a term the end that is known does not go back', async () => {
    const bench = new Bench()
    await bench.client.claimLease('db', { holder: 'a', duration: 10_000 })
    bench.wire.delay(100, { kind: 'read', at: 'reply' })
    const read = track(bench.client.refresh(['db']))
    await bench.clock.settle()
    await bench.client.extendLease('db', { holder: 'a', duration: 60_000, value: 'v' })
    const { expiry } = bench.client.leases().get('db') as Info
    await bench.clock.advance(100)
    expect(read.state).to.equal('fulfilled')
    expect(bench.client.leases().get('db')?.value).to.equal('v')
    expect(bench.client.leases().get('db')?.expiry.toMillis()).to.equal(expiry.toMillis())
  })

  it('a lease whose holding was about to lapse when the store answered was not vacant', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    const hold = await other.manager.hold('db', 'b', { duration: 1_000 })
    bench.wire.delay(1_500, { kind: 'read', at: 'reply' })
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.advance(20_000)
    expect([hold.held, waiting.state]).to.deep.equal([true, 'pending'])
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('a lease that was held when the store answered is listed, though another had to be read again for long', async () => {
    const bench = new Bench({ wire: { watch: false } })
    const other = bench.other()
    const hold = await other.manager.hold('db', 'b', { duration: 1_000 })
    bench.wire.delay(50, { kind: 'read', at: 'reply', times: 1 })
    const listing = track(bench.manager.leases())
    await bench.clock.settle()
    await bench.client.claimLease('unclear', request) // the answer under way does not know of it
    bench.wire.delay(2_000, { kind: 'read', at: 'reply', times: 1 })
    await bench.clock.advance(3_000)
    expect(bench.wire.counts.read).to.equal(2)
    expect(hold.held).to.equal(true)
    expect([...(listing.value?.keys() ?? [])]).to.have.members(['db', 'unclear'])
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })

  it('on a store without a clock a lease that was unchanged until the question, and not until the answer, was not vacant', async () => {
    const bench = new Bench({ serverClock: false, wire: { watch: false } })
    const other = bench.other()
    const hold = await other.manager.hold('db', 'b', { duration: 10_000, renewEvery: false })
    await bench.client.refresh(['db'])
    await bench.clock.advance(9_000)
    bench.wire.delay(3_000, { kind: 'read', at: 'reply' })
    const found = track(bench.manager.find('db'))
    const waiting = track(bench.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    await hold.renew()
    await bench.clock.advance(3_000)
    expect([hold.held, found.value?.holder, waiting.state]).to.deep.equal([true, 'b', 'pending'])
    await Promise.all([bench.manager.stop(), other.manager.stop()])
  })
})

describe('SubstrateClient.close', () => {
  it('gives up every call in flight, and leaves no timer; the reason is closed', async () => {
    const bench = new Bench()
    const hang = bench.wire.hang()
    const calls = [
      track(bench.client.claimLease('one', request)),
      track(bench.client.refresh()),
      track(bench.client.pinLease('two', 'e')),
      track(bench.client.pinned()),
    ]
    await bench.clock.settle()
    const closed = track(bench.client.close())
    await bench.clock.settle()
    for (const { error } of calls) expect(error).to.be.instanceOf(ErrUnknown).and.include({ reason: 'closed' })
    expect(closed.state, 'the withdrawal of the claim has no answer').to.equal('pending')
    await bench.clock.advance(1_000)
    expect(closed.state).to.equal('fulfilled')
    expect([bench.clock.pending, bench.wire.inFlight]).to.deep.equal([0, 0])
    hang.heal()
  })

  it('ends also where its clock stands still and the store does not answer, and leaves nothing behind', async () => {
    const bench = new Bench()
    bench.wire.hang()
    const claim = track(bench.client.claimLease('one', request))
    await bench.clock.settle()
    await bench.client.close()
    expect([claim.state, bench.clock.pending, bench.wire.inFlight]).to.deep.equal(['rejected', 0, 0])
  })

  for (const serverClock of [true, false]) {
    const store = `a store ${serverClock ? 'with' : 'without'} a clock`

    it(`leaves no term of a claim that was in flight, on ${store}`, async () => {
      const bench = new Bench({ serverClock })
      bench.wire.delay(3_000, { kind: 'claim', at: 'reply' })
      const given = new AbortController()
      const calls = [
        track(bench.client.claimLease('db', request)),
        track(bench.client.claimLease('queue', request, { signal: given.signal })),
      ]
      await bench.clock.settle()
      expect([bench.holder('db'), bench.holder('queue')]).to.deep.equal(['a', 'a'])
      given.abort()
      await bench.clock.drive(bench.client.close())
      expect(calls.map(({ state }) => state)).to.deep.equal(['rejected', 'rejected'])
      expect([bench.holder('db'), bench.holder('queue')]).to.deep.equal([undefined, undefined])
    })

    it(`ends no term that was granted, and ends one that was being released, on ${store}`, async () => {
      const bench = new Bench({ serverClock })
      await bench.clock.drive(bench.client.claimLease('db', request))
      await bench.clock.drive(bench.client.claimLease('queue', request))
      bench.wire.hang({ kind: 'release', times: 1 })
      const release = track(bench.client.releaseLease('queue', 'a'))
      await bench.clock.settle()
      await bench.clock.drive(bench.client.close())
      expect([release.state, bench.holder('db'), bench.holder('queue')]).to.deep.equal(['rejected', 'a', undefined])
    })
  }
})
