import { expect } from 'chai'
import type { Renewal } from '#src/client.ts'
import { ErrInvalid, ErrUnknown } from '#src/errors.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock } from '#src/testing/index.ts'

const request = { holder: 'a', duration: 30_000 }

class Bench {
  readonly clock = new TestClock()
  readonly wire: FaultySubstrate
  readonly client: SubstrateClient
  readonly other: SubstrateClient
  readonly told: string[] = []
  readonly errors: unknown[] = []

  constructor({ serverClock = true }: { serverClock?: boolean } = {}) {
    const store = new MemoryStore({ clock: this.clock, serverClock })
    this.wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock: this.clock })
    this.client = new SubstrateClient({ substrate: this.wire, clock: this.clock })
    this.other = new SubstrateClient({ substrate: new MemorySubstrate({ store }), clock: this.clock })
  }

  async held(lease: string): Promise<bigint> {
    await this.client.claimLease(lease, request)
    return this.client.leases().get(lease)?.fencingToken ?? -1n
  }

  renew(lease: string, fencingToken: bigint): void {
    const renewal: Renewal = {
      lease,
      holder: 'a',
      fencingToken,
      durationMs: 30_000,
      granted: () => void this.told.push(`${lease} granted`),
      failed: (error) => {
        this.told.push(`${lease} failed`)
        this.errors.push(error)
      },
    }
    this.client.renewLease(renewal)
  }
}

describe('SubstrateClient.renewLease: extensions by the thousand', () => {
  it('calls back once, after it has returned, and those of one turn share a round trip', async () => {
    const bench = new Bench()
    const tokens = [await bench.held('x'), await bench.held('y')] as const
    await bench.clock.advance(10_000)
    let trips = 0
    const apply = bench.wire.apply.bind(bench.wire)
    bench.wire.apply = (ops, call) => (trips++, apply(ops, call))
    bench.renew('x', tokens[0])
    bench.renew('y', tokens[1])
    expect(bench.told).to.deep.equal([])
    await bench.clock.settle()
    expect(bench.told).to.deep.equal(['x granted', 'y granted'])
    expect(trips).to.equal(1)
    expect(bench.client.leases().get('x')?.expiry.toMillis()).to.be.greaterThan(bench.clock.now() + 29_999)
  })

  it('refused is ErrInvalid, and leases() shows who has it; nothing is sent for a term known to be over', async () => {
    const bench = new Bench()
    const token = await bench.held('x')
    await bench.other.releaseLease('x', 'a')
    await bench.other.claimLease('x', { holder: 'a', duration: 30_000 })
    bench.renew('x', token)
    await bench.clock.settle()
    expect(bench.wire.counts.extend).to.equal(1)
    expect(Number(bench.client.leases().get('x')?.fencingToken)).to.be.greaterThan(Number(token))
    bench.renew('x', token)
    await bench.clock.settle()
    expect(bench.wire.counts.extend).to.equal(1)
    expect(bench.told).to.deep.equal(['x failed', 'x failed'])
    for (const error of bench.errors) expect(error).to.be.instanceOf(ErrInvalid)
  })

  it('on a store without a clock a term that was seen to lapse is not extended', async () => {
    const bench = new Bench({ serverClock: false })
    const token = await bench.held('x')
    await bench.clock.advance(31_000)
    bench.renew('x', token)
    await bench.clock.settle()
    expect(bench.wire.counts.extend).to.equal(0)
    expect(bench.errors[0]).to.be.instanceOf(ErrInvalid)
  })

  it('an outcome that is unknown is tried four times, then ErrUnknown; one that was tried again may be granted', async () => {
    const bench = new Bench()
    const token = await bench.held('x')
    const cause = new Error('away')
    bench.wire.reject(cause, { kind: 'extend', times: 5 })
    for (const expected of ['x failed', 'x granted']) {
      bench.renew('x', token)
      for (let turn = 0; turn < 20; turn++) await bench.clock.advance(100)
      expect(bench.told.at(-1)).to.equal(expected)
    }
    expect(bench.errors).to.have.length(1)
    expect(bench.errors[0]).to.be.instanceOf(ErrUnknown).and.to.have.property('cause', cause)
    expect(bench.wire.counts.extend).to.equal(6)
    await bench.client.releaseLease('x', 'a') // the lane is free
  })

  it('has its turn among the operations on the lease', async () => {
    const bench = new Bench()
    const token = await bench.held('x')
    const released = bench.client.releaseLease('x', 'a')
    bench.renew('x', token)
    await released
    await bench.clock.settle()
    expect(bench.wire.ops.map(({ kind }) => kind)).to.deep.equal(['claim', 'release', 'extend'])
    expect(bench.told).to.deep.equal(['x failed'])
    await bench.client.claimLease('x', request)
  })

  it('after close it fails, and not from within', async () => {
    const bench = new Bench()
    const token = await bench.held('x')
    await bench.client.close()
    bench.renew('x', token)
    expect(bench.told).to.deep.equal([])
    await bench.clock.settle()
    expect(bench.errors[0]).to.be.instanceOf(ErrUnknown)
  })
})
