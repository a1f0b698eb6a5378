/** What a SubstrateClient does for those who wait and watch: `refresh` with a watcher, tickets, passing over, what it listens to. */
import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { ErrInvalid, ErrUnknown } from '#src/errors.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import type { Op, Substrate } from '#src/substrate.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock, track } from '#src/testing/index.ts'
import { noTicket, PASS_OVER_MS, type Ticket } from '#src/ticket.ts'
import { rejection } from './manager.bench.ts'

const HOUR_MS = 3_600_000

class Bench {
  readonly clock: TestClock
  readonly store: MemoryStore
  readonly wire: FaultySubstrate
  readonly client: SubstrateClient

  constructor(shared?: { readonly clock: TestClock; readonly store: MemoryStore }) {
    this.clock = shared?.clock ?? new TestClock()
    this.store = shared?.store ?? new MemoryStore({ clock: this.clock })
    this.wire = new FaultySubstrate(new MemorySubstrate({ store: this.store }), { clock: this.clock })
    this.client = new SubstrateClient({ substrate: this.wire, clock: this.clock })
  }

  other(): Bench {
    return new Bench(this)
  }

  claim(holder = 'a', lease = 'db'): Promise<void> {
    return this.client.claimLease(lease, { holder, duration: HOUR_MS })
  }

  release(holder = 'a', lease = 'db'): Promise<void> {
    return this.client.releaseLease(lease, holder)
  }

  /** Waits in vain, and so gets into the queue. */
  async enter(holder = 'w', lease = 'db'): Promise<Ticket> {
    const ticket = noTicket()
    await rejection(this.client.claimLease(lease, { holder, duration: HOUR_MS }, { ticket }), ErrInvalid)
    return ticket
  }

  hear(): LeaseChange[] {
    const heard: LeaseChange[] = []
    this.client.subscribe((change) => void (change.kind === 'resync' || heard.push(change)), { own: true })
    return heard
  }

  sent<K extends Op['kind']>(kind: K): Extract<Op, { kind: K }>[] {
    return this.wire.ops.filter((op): op is Extract<Op, { kind: K }> => op.kind === kind)
  }

  watch(watcher: object, lease = 'db'): Promise<void> {
    return this.client.refresh([lease], { watcher })
  }
}

/** A holder in another process, and one that may wait. */
async function held(): Promise<{ bench: Bench; holder: Bench }> {
  const bench = new Bench()
  const holder = bench.other()
  await holder.claim()
  return { bench, holder }
}

describe('SubstrateClient: at its end', () => {
  it('tells the store of all that have just left, and sends nothing after that', async () => {
    const { bench } = await held()
    const watcher = {}
    await bench.watch(watcher)
    const ticket = await bench.enter()
    await bench.client.claimLease('other', { holder: 'a', duration: HOUR_MS })
    bench.client.leaveQueue('db', ticket)
    bench.client.unwatch?.('db', watcher)
    await bench.client.close()
    expect(bench.store.awaited, 'leases for which the store remembers somebody').to.equal(0)
    const { length } = bench.wire.ops
    bench.client.leaveQueue('db', { place: 9 })
    await bench.clock.settle()
    expect(bench.wire.ops.length).to.equal(length)
  })

  it('ends also when the store does not answer to that, within a second', async () => {
    const { bench } = await held()
    const ticket = await bench.enter()
    bench.wire.hang({ kind: 'leave' })
    bench.client.leaveQueue('db', ticket)
    const closed = track(bench.client.close())
    await bench.clock.advance(999)
    expect(closed.state).to.equal('pending')
    await bench.clock.advance(1)
    expect([closed.state, bench.clock.pending]).to.deep.equal(['fulfilled', 0])
  })

  it('is not delayed by those who had left before', async () => {
    const { bench } = await held()
    const ticket = await bench.enter()
    bench.client.leaveQueue('db', ticket)
    await bench.clock.settle()
    bench.wire.hang({ kind: 'leave' })
    await bench.client.close()
    expect(bench.wire.counts.leave).to.equal(1)
  })
})

describe('SubstrateClient: what it watches', () => {
  it('reads the lease and watches it, in one round trip', async () => {
    const { bench, holder } = await held()
    const heard = bench.hear()
    await bench.watch({})
    expect(bench.client.leases().get('db')?.holder).to.equal('a')
    expect([bench.wire.counts.read, bench.wire.ops.length]).to.deep.equal([1, 0])
    await holder.release()
    await bench.clock.settle()
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'db' }])
  })

  it('goes on until the last of its watchers does not want it; the store is notified once', async () => {
    const { bench, holder } = await held()
    const heard = bench.hear()
    const [one, other, stranger] = [{}, {}, {}]
    await bench.watch(one)
    await bench.watch(one) // renewed
    await bench.watch(other)
    bench.client.unwatch?.('db', stranger)
    bench.client.unwatch?.('db', one)
    bench.client.unwatch?.('db', one)
    await bench.clock.settle()
    expect(bench.wire.counts.leave).to.equal(0)
    await holder.release()
    await bench.clock.settle()
    expect(heard.length).to.equal(1)
    bench.client.unwatch?.('db', other)
    bench.client.unwatch?.('db', other)
    await bench.clock.settle()
    expect(bench.sent('leave')).to.deep.equal([{ kind: 'leave', lease: 'db', place: undefined }])
    expect(bench.store.awaited).to.equal(0)
  })

  it('leaves are distinguished by the lease', async () => {
    const bench = new Bench()
    const watcher = {}
    await bench.watch(watcher, 'one')
    await bench.watch(watcher, 'two')
    bench.client.unwatch?.('one', watcher)
    await bench.clock.settle()
    expect(bench.sent('leave').map(({ lease }) => lease)).to.deep.equal(['one'])
    expect(bench.store.awaited).to.equal(1)
  })

  it('a watch that begins while another ends is looked at again, also where the end takes long', async () => {
    for (const tookMs of [0, 1_000]) {
      const { bench, holder } = await held()
      const heard = bench.hear()
      const [one, other] = [{}, {}]
      await bench.watch(one)
      if (tookMs > 0) bench.wire.delay(tookMs, { kind: 'leave' })
      bench.client.unwatch?.('db', one)
      await Promise.resolve()
      await bench.watch(other)
      await bench.clock.advance(tookMs)
      expect(heard, 'its watcher is to read once more').to.deep.equal([{ kind: 'vacated', lease: 'db' }])
      await bench.watch(other)
      await holder.release()
      await bench.clock.settle()
      expect(heard.length).to.equal(2)
    }
  })

  it('a watch does not wait for what is not about watches', async () => {
    const bench = new Bench()
    bench.wire.hang({ kind: 'claim' })
    bench.claim().catch(() => {})
    await bench.clock.settle()
    const one = {}
    await bench.watch(one)
    bench.client.unwatch?.('db', one) // waits for its turn behind the claim
    await bench.watch({})
    expect(bench.wire.counts.leave).to.equal(0)
    bench.wire.heal()
    await bench.clock.advance(10_000)
    expect([bench.wire.counts.leave, bench.store.awaited], 'somebody watches it again by then').to.deep.equal([0, 1])
    await bench.client.close()
  })

  it('the end of a watch that may still come is answered by another look of those who watch by then', async () => {
    const { bench } = await held()
    const heard = bench.hear()
    const one = {}
    await bench.watch(one)
    bench.wire.executeLate(2_000, { kind: 'leave', times: 1 })
    bench.client.unwatch?.('db', one)
    await bench.clock.advance(500)
    await bench.watch({})
    expect([bench.wire.counts.leave, bench.store.awaited, heard]).to.deep.equal([1, 1, []])
    await bench.clock.advance(2_000)
    expect([bench.store.awaited, heard], 'it came').to.deep.equal([0, []])
    await bench.clock.advance(10_000)
    expect(heard).to.deep.equal([{ kind: 'vacated', lease: 'db' }])
    expect(bench.clock.pending).to.equal(0)
  })

  it('nobody is asked to look again if nobody watches by then', async () => {
    const { bench } = await held()
    const heard = bench.hear()
    const one = {}
    await bench.watch(one)
    bench.wire.loseReply({ kind: 'leave', times: 1 })
    bench.client.unwatch?.('db', one)
    await bench.clock.advance(20_000)
    expect(heard).to.deep.equal([])
  })

  it('a bad name sends nothing and is not remembered; after close nothing is sent', async () => {
    const bench = new Bench()
    const watcher = {}
    await rejection(bench.watch(watcher, ''), Error)
    bench.client.unwatch?.('', watcher)
    await bench.watch(watcher)
    await bench.client.close()
    bench.client.unwatch?.('db', watcher)
    bench.client.leaveQueue('db', { place: 1 })
    await rejection(bench.watch(watcher), ErrUnknown)
    await bench.clock.settle()
    expect([bench.wire.counts.read, bench.wire.counts.leave]).to.deep.equal([1, 0])
  })

  it('is absent where the store tells nothing; tickets are given up all the same', async () => {
    const clock = new TestClock()
    const substrate = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ clock }) }), {
      clock,
      watch: false,
    })
    const client = new SubstrateClient({ substrate, clock })
    expect(client.unwatch).to.equal(undefined)
    client.leaveQueue('db', { place: 1 })
    await clock.settle()
    expect(substrate.counts.leave).to.equal(1)
  })

  it('of a read whose answer is unclear only what is read again is watched again', async () => {
    const clock = new TestClock()
    const bench = new Bench({ clock, store: new MemoryStore({ clock, serverClock: false }) })
    const reads: (readonly (readonly string[] | undefined)[])[] = []
    const read = bench.wire.read.bind(bench.wire)
    bench.wire.read = (leases, call, watched) => {
      reads.push([leases, watched])
      return read(leases, call, watched)
    }
    // It shows a pin, and is answered after an unpin that was answered late.
    await bench.claim()
    await bench.client.pinLease('db', 'e')
    const unpinned = bench.wire.hang({ kind: 'unpin', at: 'reply' })
    const unpin = bench.client.unpinLease('db', 'e')
    await clock.settle()
    await bench.other().client.pinLease('db', 'e')
    const answered = bench.wire.hang({ kind: 'read', at: 'reply' })
    const watching = bench.client.refresh(['mine', 'db'], { watcher: {} })
    await clock.settle()
    unpinned.heal()
    await clock.drive(unpin)
    answered.heal()
    await clock.drive(watching)
    expect(reads).to.deep.equal([
      [
        ['mine', 'db'],
        ['mine', 'db'],
      ],
      [['db'], ['db']],
    ])
  })

  it('a read that one of those who share it wants to watch from watches', async () => {
    for (const order of [0, 1]) {
      const { bench } = await held()
      const reads = [(): Promise<void> => bench.watch({}), (): Promise<void> => bench.client.refresh(['db'])]
      await Promise.all([reads[order]?.(), reads[1 - order]?.()])
      expect([bench.wire.counts.read, bench.store.awaited]).to.deep.equal([1, 1])
    }
  })

  it('neither the end of a watch nor passing over says who has the lease', async () => {
    const { bench, holder } = await held()
    const one = {}
    await bench.watch(one)
    bench.client.unwatch?.('db', one)
    await bench.clock.settle()
    expect([bench.wire.counts.leave, bench.client.leases().get('db')?.holder]).to.deep.equal([1, 'a'])
    await bench.enter()
    await holder.release()
    await bench.other().claim('b')
    await bench.clock.advance(PASS_OVER_MS)
    await holder.client.refresh(['db'])
    expect([holder.wire.counts.passOver, holder.client.leases().get('db')?.holder]).to.deep.equal([1, 'b'])
  })

  it('nobody is passed over where somebody was seen to have come', async () => {
    const { bench, holder } = await held()
    await bench.enter()
    await holder.release()
    await bench.other().claim('b')
    await holder.client.refresh(['db'])
    await bench.clock.advance(PASS_OVER_MS)
    expect(holder.wire.counts.passOver).to.equal(0)
  })
})

describe('SubstrateClient: tickets', () => {
  it('a claim that is aborted leaves the queue that it got into, and another waiter’s ticket alone', async () => {
    const { bench } = await held()
    const kept = await bench.enter('kept')
    const slow = bench.wire.hang({ kind: 'claim', times: 1, at: 'reply' })
    const controller = new AbortController()
    const [ticket, options] = [noTicket(), { holder: 'w', duration: HOUR_MS }]
    const claim = track(bench.client.claimLease('db', options, { ticket, signal: controller.signal }))
    await bench.clock.settle()
    controller.abort(new Error('enough'))
    await bench.clock.settle()
    expect([claim.state, claim.error]).to.deep.equal(['rejected', controller.signal.reason])
    slow.heal()
    await bench.clock.settle()
    expect([bench.sent('leave').map(({ place }) => place), ticket]).to.deep.equal([[2], noTicket()])
    expect((await bench.other().enter()).ahead).to.equal(1)
    expect(kept).to.deep.equal({ place: 1, ahead: 0, isFull: false })
  })

  it('an aborted claim of one that has a ticket already keeps it: its owner gives it up', async () => {
    const { bench } = await held()
    const ticket = await bench.enter()
    const slow = bench.wire.hang({ kind: 'claim', times: 1, at: 'reply' })
    const controller = new AbortController()
    const { signal } = controller
    bench.client.claimLease('db', { holder: 'w', duration: HOUR_MS }, { ticket, signal }).catch(() => {})
    await bench.clock.settle()
    controller.abort(new Error('enough'))
    slow.heal()
    await bench.clock.settle()
    expect([bench.wire.counts.leave, ticket.place]).to.deep.equal([0, 1])
  })

  it('leaveQueue gives up this ticket, after the claim that is under way; without a ticket nothing is sent', async () => {
    const { bench } = await held()
    bench.client.leaveQueue('db', noTicket())
    const ticket = await bench.enter()
    bench.client.claimLease('db', { holder: 'w', duration: HOUR_MS }, { ticket }).catch(() => {})
    bench.client.leaveQueue('db', { place: ticket.place })
    await bench.clock.settle()
    expect(bench.wire.ops.map(({ kind }) => kind)).to.deep.equal(['claim', 'claim', 'leave'])
    expect(bench.store.awaited).to.equal(0)
  })

  it('a leave that is lost is not sent again: nothing waits for it', async () => {
    const { bench } = await held()
    const ticket = await bench.enter()
    bench.wire.loseRequest({ kind: 'leave' })
    bench.client.leaveQueue('db', ticket)
    await bench.clock.settle()
    const claim = track(bench.claim('b', 'other'))
    await bench.clock.settle()
    expect(claim.state).to.equal('fulfilled')
    await bench.clock.advance(60_000)
    expect([bench.wire.counts.leave, bench.clock.pending]).to.deep.equal([1, 0])
  })

  it('only a claim without a ticket says how many may wait', async () => {
    const { bench } = await held()
    const ticket = noTicket()
    const options = { ticket, maxWaiters: 1 }
    for (let times = 1; times <= 2; times++) {
      await rejection(bench.client.claimLease('db', { holder: 'w', duration: HOUR_MS }, options), ErrInvalid)
    }
    await rejection(bench.client.claimLease('db', { holder: 'w', duration: HOUR_MS }, { maxWaiters: 1 }), ErrInvalid)
    expect(bench.sent('claim').map(({ place, maxWaiters }) => [place, maxWaiters])).to.deep.equal([
      [0, 1],
      [1, undefined],
      [undefined, undefined],
    ])
    const full = noTicket()
    const refused = bench.client.claimLease('db', { holder: 'v', duration: HOUR_MS }, { ticket: full, maxWaiters: 1 })
    await rejection(refused, ErrInvalid)
    expect([full, ticket]).to.deep.equal([
      { place: 0, ahead: 0, isFull: true },
      { place: 1, ahead: 0, isFull: false },
    ])
  })

  it('a grant leaves an empty ticket', async () => {
    const { bench, holder } = await held()
    const ahead = await bench.other().enter('first')
    const ticket = await bench.enter()
    expect([ahead.ahead, ticket.ahead]).to.deep.equal([0, 1])
    await holder.release()
    await bench.client.claimLease('db', { holder: 'w', duration: HOUR_MS }, { ticket })
    expect(ticket).to.deep.equal(noTicket())
  })
})

describe('SubstrateClient: those who were notified and do not come', () => {
  it('are passed over after a while, those behind them as well, until nobody is left; one timer for each lease', async () => {
    const { bench, holder } = await held()
    for (let count = 0; count < 5; count++) await bench.other().enter()
    await holder.release()
    expect(holder.clock.pending).to.equal(1)
    await bench.clock.advance(PASS_OVER_MS - 1)
    expect(holder.sent('passOver')).to.deep.equal([])
    await bench.clock.advance(1)
    expect(holder.sent('passOver').map(({ place }) => place)).to.deep.equal([2])
    await bench.clock.advance(2 * PASS_OVER_MS)
    expect(holder.sent('passOver').map(({ place }) => place)).to.deep.equal([2, 4, 5])
    await bench.clock.advance(10 * PASS_OVER_MS)
    expect([holder.wire.counts.passOver, bench.clock.pending, bench.store.awaited]).to.deep.equal([3, 0, 0])
  })

  it('nobody is passed over where nobody was notified, or where this client has taken the lease since', async () => {
    const { bench, holder } = await held()
    await holder.release()
    expect(bench.clock.pending).to.equal(0)
    await holder.claim()
    await bench.enter()
    await holder.release()
    expect(bench.clock.pending).to.equal(1)
    await holder.claim('a')
    await bench.clock.settle()
    expect(bench.clock.pending).to.equal(0)
  })

  it('of a share, this client stops it with a grant to one who was as far back in the queue, or when nobody waited any more', async () => {
    const { bench } = await held()
    const [one, two] = [bench.other(), bench.other()]
    const share = { weight: 1, capacity: 1 }
    const claim = (by: Bench, holder: string, ticket?: Ticket): Promise<void> =>
      by.client.claimLease(`s#${holder}`, { holder, duration: HOUR_MS, share }, { ticket })
    const enter = async (by: Bench, holder: string): Promise<Ticket> => {
      const ticket = noTicket()
      await rejection(claim(by, holder, ticket), ErrInvalid)
      return ticket
    }
    await claim(bench, 'a')
    const [first, second] = [await enter(one, 'one'), await enter(bench, 'two')]
    await bench.client.releaseLease('s#a', 'a')
    expect(bench.clock.pending).to.equal(1)
    await claim(one, 'one', first)
    await one.client.releaseLease('s#one', 'one')
    expect(bench.clock.pending).to.equal(2)
    await claim(bench, 'two', second)
    expect(bench.clock.pending, 'those that the release of the other has notified are its own').to.equal(1)
    const third = await enter(two, 'three')
    await bench.client.releaseLease('s#two', 'two')
    await claim(two, 'three', third)
    await bench.clock.advance(PASS_OVER_MS)
    expect([bench.wire.counts.passOver, bench.clock.pending]).to.deep.equal([1, 0])
  })

  it('a share that this client was granted ahead of all who wait does not stop it', async () => {
    const { bench } = await held()
    const other = bench.other()
    const claim = (by: Bench, holder: string, { ahead, ticket }: { ahead?: boolean; ticket?: Ticket } = {}) => {
      const share = { weight: 1, capacity: 2, ahead }
      return by.client.claimLease(`s#${holder}`, { holder, duration: HOUR_MS, share }, { ticket })
    }
    await claim(bench, 'a')
    await claim(bench, 'b')
    for (const holder of ['w1', 'w2', 'w3']) await rejection(claim(other, holder, { ticket: noTicket() }), ErrInvalid)
    await bench.client.releaseLease('s#a', 'a')
    await claim(bench, 'c', { ahead: true })
    await bench.client.releaseLease('s#b', 'b')
    await claim(bench, 'd', { ahead: true })
    await bench.client.releaseLease('s#c', 'c')
    await claim(bench, 'e', { ahead: true })
    await other.client.refresh(['s#d'])
    await other.client.releaseLease('s#d', 'd')
    await bench.clock.advance(PASS_OVER_MS)
    expect(bench.sent('passOver').map(({ place }) => place)).to.deep.equal([2])
  })

  it('a refused claim does not stop it', async () => {
    const { bench, holder } = await held()
    await bench.enter()
    await holder.release()
    await holder.enter('late')
    await bench.clock.advance(PASS_OVER_MS)
    expect(holder.sent('passOver').map(({ place }) => place)).to.deep.equal([1])
  })

  it('those who were notified later have their own time', async () => {
    const { bench, holder } = await held()
    const waiters = [bench.other(), bench.other(), bench.other()]
    const tickets: Ticket[] = []
    for (const waiter of waiters) tickets.push(await waiter.enter())
    await holder.release()
    await bench.clock.advance(PASS_OVER_MS / 2)
    const [first] = waiters as [Bench]
    await first.client.claimLease('db', { holder: 'w', duration: HOUR_MS }, { ticket: tickets[0] as Ticket })
    await holder.client.refresh(['db'])
    await holder.release('w') // another vacancy, by the same client
    await bench.clock.advance(PASS_OVER_MS / 2)
    expect(holder.wire.counts.passOver, 'those notified of the second vacancy have just been notified').to.equal(0)
    await bench.clock.advance(PASS_OVER_MS)
    expect(holder.sent('passOver').map(({ place }) => place)).to.deep.equal([3])
  })

  it('each lease has its own time, and close ends all', async () => {
    const { bench, holder } = await held()
    await holder.claim('a', 'other')
    await bench.enter()
    await bench.enter('w', 'other')
    await holder.release()
    await bench.clock.advance(PASS_OVER_MS / 2)
    await holder.release('a', 'other')
    expect(bench.clock.pending).to.equal(2)
    await bench.clock.advance(PASS_OVER_MS / 2)
    expect(holder.sent('passOver').map(({ lease }) => lease)).to.deep.equal(['db'])
    await holder.client.close()
    expect(bench.clock.pending).to.equal(0)
    await bench.clock.advance(PASS_OVER_MS)
    expect(holder.wire.counts.passOver).to.equal(1)
  })

  it('the one that leaves a vacant lease sees to those who are notified for it', async () => {
    const { bench, holder } = await held()
    const ticket = await bench.enter()
    const heard = holder.hear()
    const next = await holder.enter('next')
    const other = bench.other()
    await other.client.releaseLease('db', 'a')
    await other.client.close()
    bench.client.leaveQueue('db', ticket)
    await bench.clock.advance(PASS_OVER_MS)
    expect(bench.sent('passOver').map(({ place }) => place)).to.deep.equal([next.place])
    expect(heard.map((change) => ('to' in change ? change.to?.ahead : undefined))).to.deep.equal([undefined, 1, 0])
  })

  it('a store that is away is not asked again: those who wait look by themselves', async () => {
    const { bench, holder } = await held()
    await bench.enter()
    await holder.release()
    holder.wire.loseRequest({ kind: 'passOver' })
    await bench.clock.advance(60_000)
    expect([holder.wire.counts.passOver, bench.clock.pending]).to.deep.equal([1, 0])
  })
})

describe('SubstrateClient.subscribe', () => {
  it('opens one watch for what is its own and one for everything, each with its first listener, and closes it with the last', async () => {
    const bench = new Bench()
    const clients: (string | undefined)[] = []
    let open = 0
    const watch = bench.wire.watch?.bind(bench.wire) as NonNullable<Substrate['watch']>
    const substrate: Substrate = Object.assign(Object.create(bench.wire) as Substrate, {
      limits: bench.wire.limits,
      apply: bench.wire.apply.bind(bench.wire),
      read: bench.wire.read.bind(bench.wire),
      close: () => Promise.resolve(),
      watch: (listener: (change: LeaseChange) => void, client?: string) => {
        clients.push(client)
        open++
        const stop = watch(listener, client)
        return () => {
          open--
          stop()
        }
      },
    })
    const client = new SubstrateClient({ substrate, clock: bench.clock })
    const nothing = (): void => {}
    expect(open).to.equal(0)
    const own = [client.subscribe(nothing, { own: true }), client.subscribe(nothing, { own: true })]
    const all = [client.subscribe(nothing), client.subscribe(nothing, { own: false })]
    expect([open, clients.length, clients[1], clients[0]?.length]).to.deep.equal([2, 2, undefined, 12])
    own[0]?.()
    own[0]?.()
    all[0]?.()
    expect(open).to.equal(2)
    own[1]?.()
    expect(open).to.equal(1)
    all[1]?.()
    expect(open).to.equal(0)
    client.subscribe(nothing, { own: true })
    expect([open, clients.length, clients[2]]).to.deep.equal([1, 3, clients[0]])
    await client.close()
    expect(open).to.equal(0)
    client.subscribe(nothing)
    expect(open, 'after close').to.equal(0)
  })

  it('who listens to what is its own hears of nothing else; who listens to everything hears of all', async () => {
    const bench = new Bench()
    const other = bench.other()
    const own = bench.hear()
    const all: LeaseChange[] = []
    bench.client.subscribe((change) => void (change.kind === 'resync' || all.push(change)))
    await other.claim()
    await other.release()
    await bench.clock.settle()
    expect([own, all]).to.deep.equal([[], [{ kind: 'vacated', lease: 'db' }]])
  })

  it('all who listen hear a last resync when the client is closed', async () => {
    const bench = new Bench()
    const heard: string[] = []
    bench.client.subscribe(({ kind }) => heard.push(`own ${kind}`), { own: true })
    bench.client.subscribe(({ kind }) => heard.push(`all ${kind}`))
    await bench.clock.settle()
    heard.length = 0
    await bench.client.close()
    expect(heard).to.deep.equal(['own resync', 'all resync'])
  })
})
