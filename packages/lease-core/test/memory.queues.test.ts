/** What the memory store remembers of those who wait and watch, and when it forgets it. `conformance/queue.ts` has the rest. */
import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { MemoryStore, type MemoryNamespace } from '#src/memory/memory-store.ts'
import type { Op, Verdict } from '#src/substrate.ts'
import { TestClock } from '#src/testing/index.ts'
import { INTEREST_MS } from '#src/ticket.ts'

const CLIENTS = ['client-00001', 'client-00002', 'client-00003'] as const
const HOUR_MS = 3_600_000

class Bench {
  readonly clock = new TestClock()
  readonly store = new MemoryStore({ clock: this.clock })
  readonly leases: MemoryNamespace = this.store.namespace('default')
  #nonces = 0

  apply(op: Op, client: string = CLIENTS[0]): Verdict {
    return this.leases.apply(op, { client, epoch: 0, sentMs: undefined, notAfterMs: undefined })
  }

  claim(
    client: string,
    place?: number,
    { lease = 'db', maxWaiters }: { lease?: string; maxWaiters?: number } = {},
  ): Verdict {
    const nonce = `${client}${this.#nonces++}`
    const base = { kind: 'claim', lease, holder: client, durationMs: HOUR_MS, nonce, lapsed: undefined } as const
    return this.apply({ ...base, value: undefined, place, maxWaiters }, client)
  }

  release(client: string, lease = 'db'): Verdict {
    return this.apply({ kind: 'release', lease, holder: client, fencingToken: undefined, nonce: undefined }, client)
  }

  watch(client: string, ...leases: string[]): void {
    this.leases.read(leases, { client, leases })
  }

  /** What this client hears from now on, without the first `resync`. */
  listen(client: string): LeaseChange[] {
    const heard: LeaseChange[] = []
    this.leases.watch((change) => void (change.kind === 'resync' || heard.push(change)), client)
    return heard
  }
}

describe('MemoryStore: those who wait', () => {
  it('a ticket stands for so long after it was given or renewed, to the millisecond, and then leaves nothing behind', async () => {
    const bench = new Bench()
    const [one, two, three] = CLIENTS
    bench.claim(one)
    expect(bench.claim(two, 0).ticket).to.deep.equal({ place: 1, ahead: 0 })
    await bench.clock.advance(1)
    expect(bench.claim(three, 0).ticket).to.deep.equal({ place: 2, ahead: 1 })
    await bench.clock.advance(INTEREST_MS - 1)
    expect(bench.claim(three, 2).ticket, 'at the very end').to.deep.equal({ place: 2, ahead: 1 })
    await bench.clock.advance(1)
    expect(bench.claim(three, 2).ticket, 'after it').to.deep.equal({ place: 2, ahead: 0 })
    await bench.clock.advance(INTEREST_MS + 1)
    bench.release(one)
    expect([bench.claim(one, 0).outcome, bench.store.awaited]).to.deep.equal(['granted', 0])
  })

  it('tickets that have lapsed count for nothing: nobody is notified, kept out, or turned away for them', async () => {
    const bench = new Bench()
    const [one, two, three] = CLIENTS
    bench.claim(one)
    bench.claim(two, 0)
    const heard = bench.listen(two)
    await bench.clock.advance(INTEREST_MS + 1)
    expect(bench.claim(three, 0, { maxWaiters: 1 }).ticket?.ahead).to.equal(0)
    expect(bench.release(one).told).to.equal(2)
    await bench.clock.settle()
    expect(heard).to.deep.equal([])
  })

  it('a watch stands for so long after the read that began or renewed it, and then leaves nothing behind', async () => {
    const bench = new Bench()
    const [one, two, three] = CLIENTS
    const heard = [two, three].map((client) => bench.listen(client))
    bench.watch(two, 'db')
    bench.watch(three, 'db')
    await bench.clock.advance(INTEREST_MS)
    bench.claim(one)
    bench.release(one)
    await bench.clock.settle()
    expect(heard.map((changes) => changes.length)).to.deep.equal([1, 1])
    bench.watch(three, 'db')
    await bench.clock.advance(1)
    bench.claim(one)
    bench.release(one)
    await bench.clock.advance(INTEREST_MS)
    bench.claim(one)
    bench.release(one)
    await bench.clock.settle()
    expect(heard.map((changes) => changes.length)).to.deep.equal([1, 2])
    expect(bench.store.awaited).to.equal(0)
  })

  it('what is left, served and passed over leaves nothing behind', () => {
    const bench = new Bench()
    const [one, two, three] = CLIENTS
    for (const lease of ['left', 'served', 'passed over']) {
      bench.claim(one, undefined, { lease })
      const { ticket } = bench.claim(two, 0, { lease })
      bench.watch(three, lease)
      const place = ticket?.place as number
      if (lease === 'left') bench.apply({ kind: 'leave', lease, place }, two)
      bench.release(one, lease)
      if (lease === 'served') bench.claim(two, place, { lease })
      if (lease === 'passed over') bench.apply({ kind: 'passOver', lease, place }, one)
      bench.apply({ kind: 'leave', lease, place: undefined }, three)
    }
    expect(bench.store.awaited).to.equal(0)
  })

  it('a leave of one watch leaves those of others, and a leave without one changes nothing', async () => {
    const bench = new Bench()
    const [one, two, three] = CLIENTS
    const heard = bench.listen(two)
    bench.watch(two, 'db')
    for (const client of [one, three]) bench.apply({ kind: 'leave', lease: 'db', place: undefined }, client)
    bench.claim(one)
    bench.release(one)
    await bench.clock.settle()
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'db' }])
  })

  it('watches of names that never come back leave no trace, and those that stand stay', async () => {
    const bench = new Bench()
    const [one, two] = CLIENTS
    const heard = bench.listen(one)
    for (let index = 0; index < 3_000; index++) {
      bench.watch(two, `watched-${index}`)
      if (index % 100 === 0) bench.watch(one, 'db')
      await bench.clock.advance(INTEREST_MS / 500)
    }
    expect(bench.store.awaited).to.be.within(500, 1_100)
    bench.claim(two)
    bench.release(two)
    await bench.clock.settle()
    expect(heard.length).to.equal(1)
  })

  it('tickets for names that never come back leave no trace, and those that stand stay', async () => {
    const bench = new Bench()
    const [one, two] = CLIENTS
    bench.claim(one)
    bench.claim(two, 0)
    for (let index = 0; index < 3_000; index++) {
      const lease = `awaited-${index}`
      bench.claim(one, undefined, { lease })
      bench.claim(two, 0, { lease })
      if (index % 100 === 0) bench.claim(two, 1)
      await bench.clock.advance(INTEREST_MS / 500)
    }
    expect(bench.store.awaited).to.be.within(500, 1_100)
    expect(bench.claim(two, 1).ticket).to.deep.equal({ place: 1, ahead: 0 })
  })

  it('without a clock of its own the store lets interests lapse all the same: they decide nothing', async () => {
    const clock = new TestClock()
    const leases = new MemoryStore({ clock, serverClock: false }).namespace('default')
    const stamp = { client: CLIENTS[0], epoch: 0, sentMs: undefined, notAfterMs: undefined }
    const claim = { kind: 'claim', lease: 'db', durationMs: 1, value: undefined, lapsed: undefined } as const
    leases.apply({ ...claim, holder: 'a', nonce: 'a' }, stamp)
    leases.apply({ ...claim, holder: 'b', nonce: 'b', place: 0 }, stamp)
    await clock.advance(INTEREST_MS + 1)
    const { ticket } = leases.apply({ ...claim, holder: 'c', nonce: 'c', place: 0 }, stamp)
    expect(ticket).to.deep.equal({ place: 2, ahead: 0 })
  })
})
