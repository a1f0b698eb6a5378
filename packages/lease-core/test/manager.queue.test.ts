/** What a Manager promises to those who wait for one lease in several processes: positions, bounds, and what they leave behind. */
import { expect } from 'chai'
import type { Client, LeaseChange } from '#src/client.ts'
import { ErrClaimDenied, ErrInvalid, ErrNotValid, ErrUnknown } from '#src/errors.ts'
import type { Hold } from '#src/hold.ts'
import { Manager } from '#src/manager.ts'
import { ScriptedClient, track, type Tracked } from '#src/testing/index.ts'
import { LONGEST_REST_MS, noTicket, untilTurnMs } from '#src/ticket.ts'
import { Bench, rejection, type Process } from './manager.bench.ts'

const HOUR_MS = 3_600_000
const MINUTE_MS = 60_000
const options = { duration: HOUR_MS, wait: true }

interface Waiter extends Process {
  readonly hold: Tracked<Hold>
  readonly positions: number[]
}

/** One who waits in a process of its own, and the positions that it is notified. */
async function waiter(bench: Bench, holder: string, more: { maxWaiters?: number } = {}): Promise<Waiter> {
  const process = bench.other()
  const positions = positionsOf(process.manager, holder)
  const hold = track(process.manager.hold('db', holder, { ...options, ...more }))
  await bench.clock.settle()
  return { ...process, hold, positions }
}

function positionsOf(manager: Manager, holder: string): number[] {
  const positions: number[] = []
  manager.events.subscribe((event) => {
    if (event.type === 'waiting' && event.lease === 'db' && event.holder === holder) positions.push(event.position)
  })
  return positions
}

/** A client with what every client has, which hears of everything. */
function plain({ client }: Pick<Process, 'client'>): Client {
  return {
    claimLease: (...args) => client.claimLease(...args),
    extendLease: (...args) => client.extendLease(...args),
    expireLease: (...args) => client.expireLease(...args),
    releaseLease: (...args) => client.releaseLease(...args),
    pinLease: (...args) => client.pinLease(...args),
    unpinLease: (...args) => client.unpinLease(...args),
    pinned: () => client.pinned(),
    leases: () => client.leases(),
    refresh: (leases) => client.refresh(leases),
    subscribe: (listener: (change: LeaseChange) => void) => client.subscribe(listener),
    close: () => client.close(),
  }
}

/** A client whose store keeps no queues. */
function withoutQueues({ client }: Pick<Process, 'client'>): Client {
  return {
    ...plain({ client }),
    claimLease: (lease, request, { signal, onGranted } = {}) =>
      client.claimLease(lease, request, { signal, onGranted }),
  }
}

async function served(bench: Bench, { hold }: Waiter): Promise<void> {
  await bench.clock.settle()
  expect(hold.state).to.equal('fulfilled')
  await hold.value?.release()
  await bench.clock.settle()
}

describe('Manager: positions in the queue', () => {
  it('a waiter gets its position when its claim is refused, and when those before it are served, up to the first', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const waiters: Waiter[] = []
    for (const name of ['a', 'b', 'c', 'd']) waiters.push(await waiter(bench, name))
    expect(waiters.map(({ positions }) => positions)).to.deep.equal([[1], [2], [3], [4]])
    await bench.manager.release('db', 'x')
    for (const one of waiters) await served(bench, one)
    const [a, b, c, d] = waiters.map(({ positions }) => positions)
    expect([a, b]).to.deep.equal([[1], [2, 1]])
    expect([c, d], 'each learns it when it is first or stands in').to.deep.equal([
      [3, 2, 1],
      [4, 2, 1],
    ])
    for (const { manager } of waiters) await manager.stop()
  })

  it('those of one process stand behind each other, and move up together', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const first = await waiter(bench, 'first')
    const { manager } = bench.other()
    const told = ['a', 'b', 'c'].map((holder) => positionsOf(manager, holder))
    const controller = new AbortController()
    const holds = ['a', 'b', 'c'].map((holder) =>
      track(manager.hold('db', holder, { ...options, ...(holder === 'b' ? { signal: controller.signal } : {}) })),
    )
    await bench.clock.settle()
    expect(told, 'while the first of all waits').to.deep.equal([[2], [3], [4]])
    controller.abort(new Error('enough'))
    await bench.manager.release('db', 'x')
    await served(bench, first)
    await bench.clock.settle()
    expect(holds.map(({ state }) => state)).to.deep.equal(['fulfilled', 'rejected', 'pending'])
    expect(told[0]).to.deep.equal([2, 1])
    await holds[0]?.value?.release()
    await bench.clock.settle()
    expect([told[2], holds[2]?.state], 'the last one stands in after the second').to.deep.equal([
      [4, 3, 2],
      'fulfilled',
    ])
    await manager.stop()
  })

  it('after a grant nobody of its process gets a position until the store has given the next one a ticket', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager, wire } = bench.other()
    const told = ['a', 'b', 'c'].map((holder) => positionsOf(manager, holder))
    const holds = ['a', 'b', 'c'].map((holder) => track(manager.hold('db', holder, options)))
    await bench.clock.settle()
    const others = [await waiter(bench, 'd'), await waiter(bench, 'e')]
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    expect([holds[0]?.state, told]).to.deep.equal(['fulfilled', [[1], [2], [3]]])
    const slow = wire.hang({ kind: 'claim', at: 'reply' })
    await holds[0]?.value?.release()
    await bench.clock.settle()
    expect(told, 'while the claim of the next one is in flight').to.deep.equal([[1], [2], [3]])
    slow.heal()
    await bench.clock.settle()
    expect(told, 'behind one that has the lease and one that waits').to.deep.equal([[1], [2], [3]])
    for (const one of others) await served(bench, one)
    await holds[1]?.value?.release()
    await bench.clock.settle()
    expect(told).to.deep.equal([[1], [2, 1], [3, 2]])
    for (const one of [...others, { manager }]) await one.manager.stop()
  })

  it('one that comes to a queue in which its process is already gets its position at once, without a claim', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const first = await waiter(bench, 'first')
    const second = await waiter(bench, 'second')
    second.wire.resetCounts()
    const told = positionsOf(second.manager, 'third')
    second.manager.hold('db', 'third', options).catch(() => {})
    await bench.clock.settle()
    expect([told, second.wire.counts.claim]).to.deep.equal([[3], 0])
    for (const { manager } of [first, second]) await manager.stop()
  })

  it('a look that shows another position tells it, though the hint was lost', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const [first, second] = [await waiter(bench, 'first'), await waiter(bench, 'second')]
    await first.manager.stop()
    await bench.clock.advance(LONGEST_REST_MS - 1)
    expect(second.positions).to.deep.equal([2])
    await bench.clock.advance(1)
    expect(second.positions).to.deep.equal([2, 1])
    await second.manager.stop()
  })

  it('a waiter that is served at once gets no position', async () => {
    const bench = new Bench()
    const { hold, positions, manager } = await waiter(bench, 'a')
    expect([hold.state, positions]).to.deep.equal(['fulfilled', []])
    await manager.stop()
  })
})

describe('Manager: hints with a ticket', () => {
  it('two managers over one client do not take each other’s hints for their own', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const process = bench.other()
    const second = new Manager({ client: process.client, clock: bench.clock })
    const [first, other] = [process.manager, second]
    const told = [positionsOf(first, 'a'), positionsOf(other, 'b')]
    const holds = [track(first.hold('db', 'a', options))]
    await bench.clock.settle()
    holds.push(track(other.hold('db', 'b', options)))
    await bench.clock.settle()
    await waiter(bench, 'c')
    process.wire.resetCounts()
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    expect(holds.map(({ state }) => state)).to.deep.equal(['fulfilled', 'pending'])
    expect([told, process.wire.counts.claim]).to.deep.equal([[[1], [2, 1]], 1])
    for (const manager of [first, other]) await manager.stop()
  })
})

describe('Manager: a grant out of turn', () => {
  it('one who was not notified of that vacancy is notified of the next, though one behind it was served', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    for (const name of ['dead', 'dead-too']) {
      const dead = await waiter(bench, name)
      dead.wire.hang()
      await dead.manager.stop()
    }
    const third = await waiter(bench, 'third')
    const [{ client }, ticket] = [bench.other(), noTicket()]
    const fourth = { holder: 'fourth', duration: HOUR_MS }
    await rejection(client.claimLease('db', fourth, { ticket }), ErrInvalid)
    await bench.manager.release('db', 'x')
    await client.claimLease('db', fourth, { ticket })
    expect(third.hold.state).to.equal('pending')
    await client.releaseLease('db', 'fourth')
    await served(bench, third)
    await third.manager.stop()
  })

  it('one that stands in looks a slot after a vacancy, however often others take the lease past the queue meanwhile', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const dead = await waiter(bench, 'dead')
    dead.wire.hang()
    await dead.manager.stop()
    const second = await waiter(bench, 'second')
    const claims = second.wire.counts.claim
    const slotMs = untilTurnMs({ ahead: 1 }, 0)
    for (let times = 1; times <= 4; times++) {
      expect(second.wire.counts.claim - claims, 'not yet').to.equal(0)
      await bench.manager.release('db', 'x')
      await bench.manager.claim('db', 'x', HOUR_MS)
      await bench.clock.advance(slotMs / 4)
    }
    expect(second.wire.counts.claim - claims).to.equal(1)
    await bench.manager.release('db', 'x')
    await second.manager.stop()
  })
})

describe('Manager: one who waits for what its own name has', () => {
  for (const [when, wait] of [
    ['at once', true],
    ['at once, however short its wait', { milliseconds: 1 }],
  ] as const) {
    it(`extends it ${when}, and leaves no ticket`, async () => {
      const bench = new Bench()
      await bench.manager.hold('db', 'worker', { duration: MINUTE_MS })
      const rival = await waiter(bench, 'rival')
      const restarted = bench.other()
      await restarted.manager.hold('other', 'worker', options) // it hears hints from now on
      const hold = track(restarted.manager.hold('db', 'worker', { ...options, wait, maxWaiters: 1 }))
      await bench.clock.settle()
      expect(hold.state).to.equal('fulfilled')
      expect(rival.hold.state).to.equal('pending')
      await rival.manager.stop()
      await bench.clock.settle()
      expect(bench.store.awaited, 'leases for which the store keeps a queue').to.equal(0)
    })
  }
})

describe('Manager: a wait that is too short for a ticket', () => {
  const CLAIM_MS = 20
  const SHORT_MS = 4 * CLAIM_MS - 1

  /** The lease is vacant, and those in its queue are dead. */
  const deadQueue = async (bench: Bench): Promise<readonly Waiter[]> => {
    await bench.manager.claim('db', 'x', HOUR_MS)
    const dead: Waiter[] = []
    for (const name of ['a', 'b', 'c']) dead.push(await waiter(bench, name))
    for (const { wire } of dead) wire.loseRequest()
    await bench.manager.release('db', 'x')
    await bench.manager.stop()
    return dead
  }
  /** A process whose claims take so long, and that knows it. */
  const slow = async (bench: Bench, claimMs: number): Promise<Process> => {
    const process = bench.other()
    process.wire.delay(claimMs, { kind: 'claim' })
    const hold = track(process.manager.hold('own', 'w', options))
    await bench.clock.advance(claimMs)
    await hold.value?.release()
    return process
  }

  it('is granted a vacant lease past those in its queue, by one claim', async () => {
    const bench = new Bench()
    const dead = await deadQueue(bench)
    const { manager, wire } = await slow(bench, CLAIM_MS)
    const claims = wire.counts.claim
    const hold = track(manager.hold('db', 'w', { ...options, wait: SHORT_MS }))
    await bench.clock.advance(CLAIM_MS)
    expect([hold.state, wire.counts.claim - claims]).to.deep.equal(['fulfilled', 1])
    for (const process of [...dead, { manager }]) await process.manager.stop()
  })

  it('is denied, with the holder, a lease that stays held', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager } = await slow(bench, CLAIM_MS)
    const hold = track(manager.hold('db', 'w', { ...options, wait: SHORT_MS }))
    await bench.clock.advance(SHORT_MS)
    expect(hold.error).to.be.instanceOf(ErrClaimDenied)
    expect(hold.error).to.include({ lease: 'db', holder: 'w', currentHolder: 'x' })
    await manager.stop()
  })

  for (const [what, claimMs, wait] of [
    ['a wait that is longer', CLAIM_MS, SHORT_MS + 1],
    ['the same wait where claims are fast', 0, SHORT_MS],
  ] as const) {
    it(`${what} passes nobody, and is granted the lease in its turn`, async () => {
      const bench = new Bench()
      const dead = await deadQueue(bench)
      const { manager, wire } = await slow(bench, claimMs)
      const claims = wire.counts.claim
      const hold = track(manager.hold('db', 'w', { ...options, wait }))
      await bench.clock.advance(claimMs)
      expect([hold.state, wire.counts.claim - claims]).to.deep.equal(['pending', 1])
      await bench.clock.advance(wait - claimMs - 1)
      expect([hold.state, wire.counts.claim - claims]).to.deep.equal(['fulfilled', 2])
      for (const process of [...dead, { manager }]) await process.manager.stop()
    })
  }
})

describe('Manager: maxWaiters', () => {
  it('a claim beyond it is denied at once, with the holder; the others keep waiting and are served in order', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const [a, b] = [await waiter(bench, 'a', { maxWaiters: 2 }), await waiter(bench, 'b', { maxWaiters: 2 })]
    const late = await waiter(bench, 'late', { maxWaiters: 2 })
    expect(late.hold.error).to.be.instanceOf(ErrClaimDenied)
    expect(late.hold.error).to.include({ lease: 'db', holder: 'late', currentHolder: 'x' })
    expect([late.wire.counts.claim, late.positions]).to.deep.equal([1, []])
    expect([a.hold.state, b.hold.state]).to.deep.equal(['pending', 'pending'])
    await bench.manager.release('db', 'x')
    await served(bench, a)
    await served(bench, b)
    expect((await waiter(bench, 'late', { maxWaiters: 2 })).hold.state).to.equal('fulfilled')
  })

  it('bounds nobody who does not ask for it, and does not mind a lease that is vacant', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const unbounded = [await waiter(bench, 'a'), await waiter(bench, 'b')]
    expect((await waiter(bench, 'c', { maxWaiters: 1 })).hold.state).to.equal('rejected')
    expect(unbounded.map(({ hold }) => hold.state)).to.deep.equal(['pending', 'pending'])
    const { manager } = bench.other()
    const hold = await manager.hold('vacant', 'c', { ...options, maxWaiters: 1 })
    expect(hold.held).to.equal(true)
    for (const process of unbounded) await process.manager.stop()
    await manager.stop()
  })

  it('does not keep anybody from a lease that is vacant, though all who wait for it are dead', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', MINUTE_MS)
    const dead = [await waiter(bench, 'a'), await waiter(bench, 'b')]
    for (const { wire } of dead) wire.loseRequest()
    await bench.clock.advance(MINUTE_MS / 2)
    const late = await waiter(bench, 'late', { maxWaiters: 1 })
    expect(late.hold.error, 'while it is held').to.have.property('message').that.contains('`maxWaiters`')
    await bench.clock.advance(MINUTE_MS)
    const next = await waiter(bench, 'next', { maxWaiters: 1 })
    await bench.clock.advance(untilTurnMs({ ahead: dead.length }, 0))
    await served(bench, next)
    for (const process of [...dead, late, next]) await process.manager.stop()
  })

  it('counts those of this process as well, whichever of them came first to the store', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager, wire } = bench.other()
    const holds = ['a', 'b', 'c', 'd'].map((holder) => track(manager.hold('db', holder, { ...options, maxWaiters: 2 })))
    await bench.clock.settle()
    expect(holds.map(({ state }) => state)).to.deep.equal(['pending', 'pending', 'rejected', 'rejected'])
    expect(holds[3]?.error).to.be.instanceOf(ErrClaimDenied)
    wire.resetCounts()
    const late = track(manager.hold('db', 'e', { ...options, maxWaiters: 2 }))
    await bench.clock.settle()
    expect([late.state, wire.counts.claim]).to.deep.equal(['rejected', 0])
    const unbounded = track(manager.hold('db', 'f', options))
    await bench.clock.settle()
    expect(unbounded.state).to.equal('pending')
    await manager.stop()
  })

  it('adds up those of other processes and of this one', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const others = [await waiter(bench, 'a'), await waiter(bench, 'b')]
    const { manager } = bench.other()
    const holds = ['c', 'd'].map((holder) => track(manager.hold('db', holder, { ...options, maxWaiters: 3 })))
    await bench.clock.settle()
    expect(holds.map(({ state }) => state)).to.deep.equal(['pending', 'rejected'])
    for (const process of [...others, { manager }]) await process.manager.stop()
  })

  it('asks the store also while a Hold of this process has the lease: others may fill the queue', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'x', { duration: HOUR_MS })
    const other = await waiter(bench, 'a')
    bench.wire.resetCounts()
    const denied = await rejection(bench.manager.hold('db', 'y', { ...options, maxWaiters: 1 }), ErrClaimDenied)
    expect(denied.currentHolder).to.equal('x')
    const wait = track(bench.manager.hold('db', 'y', { ...options, maxWaiters: 2 }))
    await bench.clock.settle()
    expect([wait.state, bench.wire.counts.claim]).to.deep.equal(['pending', 2])
    await hold.release()
    await served(bench, other)
    expect(wait.state).to.equal('fulfilled')
    await bench.manager.stop()
  })

  it('one who was let in stays, however many are found to be ahead later', async () => {
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'x', { duration: HOUR_MS })
    const others = [await waiter(bench, 'a'), await waiter(bench, 'b'), await waiter(bench, 'c')]
    const waits = [
      track(bench.manager.hold('db', 'y', options)), // asks nobody, for its own process has the lease
      track(bench.manager.hold('db', 'z', { ...options, maxWaiters: 2 })),
    ]
    await bench.clock.settle()
    await hold.release()
    await bench.clock.settle()
    expect(waits.map(({ state }) => state)).to.deep.equal(['pending', 'pending'])
    for (const one of others) await served(bench, one)
    await waits[0]?.value?.release()
    await bench.clock.settle()
    expect(waits.map(({ state }) => state)).to.deep.equal(['fulfilled', 'fulfilled'])
    await bench.manager.stop()
  })

  it('one who was denied leaves room for another, and nothing behind', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const a = await waiter(bench, 'a', { maxWaiters: 1 })
    await waiter(bench, 'b', { maxWaiters: 1 })
    await a.manager.stop()
    await bench.clock.settle()
    expect([bench.store.awaited, bench.clock.pending]).to.deep.equal([0, 0])
    const c = await waiter(bench, 'c', { maxWaiters: 1 })
    expect(c.hold.state).to.equal('pending')
    await c.manager.stop()
  })

  for (const [where, isHere] of Object.entries({ 'another process': false, 'this process': true })) {
    it(`bounds those who wait for any of several leases at once, though no store counts them: ${where} has the leases`, async () => {
      const bench = new Bench()
      const { manager, wire } = bench.other()
      const told = new Map<string, number>()
      manager.events.subscribe((event) => event.type === 'waiting' && told.set(event.holder, event.position))
      for (const lease of ['db', 'mail']) {
        await (isHere ? manager : bench.manager).hold(lease, 'x', { duration: HOUR_MS })
      }
      const waits: Tracked<Hold>[] = []
      for (const holder of ['a', 'b', 'c', 'd']) {
        if (holder === 'b') wire.resetCounts()
        waits.push(track(manager.holdAny(['db', 'mail'], holder, { ...options, maxWaiters: 2 })))
        await bench.clock.settle()
      }
      expect(waits.map(({ state }) => state)).to.deep.equal(['pending', 'pending', 'rejected', 'rejected'])
      expect(waits[3]?.error).to.be.instanceOf(ErrClaimDenied)
      expect([...told]).to.deep.equal([
        ['a', 1],
        ['b', 2],
      ])
      expect(wire.counts.claim, 'no lease is claimed while all are known to be held').to.equal(0)
      await manager.stop()
    })
  }

  it('bounds those who came while the first claim was in flight as soon as it is answered', async () => {
    const bench = new Bench()
    for (const lease of ['db', 'mail']) await bench.manager.claim(lease, 'x', HOUR_MS)
    const { manager, wire } = bench.other()
    const slow = wire.hang({ at: 'reply' })
    const waits = ['a', 'b', 'c'].map((holder) =>
      track(manager.holdAny(['db', 'mail'], holder, { ...options, maxWaiters: 2 })),
    )
    await bench.clock.settle()
    expect(waits.map(({ state }) => state)).to.deep.equal(['pending', 'pending', 'pending'])
    slow.heal()
    await bench.clock.settle()
    expect(waits.map(({ state }) => state)).to.deep.equal(['pending', 'pending', 'rejected'])
    await manager.stop()
  })

  it('counts those who name the same leases in another order as one queue, and each takes the one that it prefers', async () => {
    const bench = new Bench()
    for (const lease of ['db', 'mail']) await bench.manager.claim(lease, 'x', HOUR_MS)
    const { manager } = bench.other()
    const patience = new AbortController()
    const ask = async (holder: string, leases: readonly string[], signal?: AbortSignal): Promise<Tracked<Hold>> => {
      const wait = track(manager.holdAny(leases, holder, { ...options, maxWaiters: 2, signal }))
      await bench.clock.settle()
      return wait
    }
    const first = await ask('b', ['db', 'mail'], patience.signal)
    const second = await ask('d', ['mail', 'db'])
    const third = await ask('f', ['mail', 'db'])
    expect([first.state, second.state, third.state]).to.deep.equal(['pending', 'pending', 'rejected'])
    patience.abort(new Error('enough'))
    await Promise.all(['db', 'mail'].map((lease) => bench.manager.release(lease, 'x')))
    await bench.clock.settle()
    expect(second.value?.lease, 'both were free').to.equal('mail')
    await manager.stop()
  })

  it('bounds those of a process whose client keeps no queues at once, and each gets its position', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const manager = new Manager({ client: withoutQueues(bench.other()), clock: bench.clock })
    const waits: Tracked<Hold>[] = []
    const told: number[][] = []
    for (const holder of ['a', 'b', 'c']) {
      told.push(positionsOf(manager, holder))
      waits.push(track(manager.hold('db', holder, { ...options, maxWaiters: 2 })))
      await bench.clock.settle()
    }
    expect(waits.map(({ state }) => state)).to.deep.equal(['pending', 'pending', 'rejected'])
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    expect([waits[0]?.state, told], 'nobody else counts').to.deep.equal(['fulfilled', [[1], [2, 1], []]])
    await manager.stop()
  })

  for (const maxWaiters of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '2', null, true, 2n]) {
    it(`${typeof maxWaiters} ${maxWaiters} is refused, by name, and nothing is sent`, async () => {
      const { manager, wire } = new Bench()
      const bad = { ...options, maxWaiters: maxWaiters as number }
      const error = await rejection(manager.hold('db', 'a', bad), ErrNotValid)
      expect(error.message).to.match(/maxWaiters must be (a whole number|at least 1)/)
      expect(wire.counts.roundTrips).to.equal(0)
    })
  }
})

describe('Manager: what those who wait leave behind', () => {
  it('stop(), then close() of the client, at once: nothing in the store', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const one = await waiter(bench, 'a')
    const vacancy = track(one.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    expect(bench.store.awaited, 'a queue and a watch').to.equal(2)
    await one.manager.stop()
    await one.client.close()
    expect([bench.store.awaited, vacancy.state]).to.deep.equal([0, 'rejected'])
  })

  it('an abort, then stop() and close() at once: nothing in the store', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager, client } = bench.other()
    const ending = new AbortController()
    const hold = manager.hold('db', 'a', { ...options, signal: ending.signal })
    await bench.clock.settle()
    ending.abort(new Error('on purpose'))
    await rejection(hold, Error)
    await manager.stop()
    await client.close()
    expect(bench.store.awaited).to.equal(0)
  })

  it('stop() leaves the queue and what it watches; those behind are notified', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const [first, second] = [await waiter(bench, 'first'), await waiter(bench, 'second')]
    const wait = track(first.manager.waitUntilExpired('db'))
    const any = track(first.manager.holdAny(['db', 'mail'], 'any', options))
    await bench.clock.settle()
    await any.value?.release()
    await bench.clock.settle()
    await first.manager.stop()
    await bench.clock.settle()
    expect([wait.state, first.hold.state]).to.deep.equal(['rejected', 'rejected'])
    expect(bench.store.awaited, 'the queue of the second').to.equal(1)
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    expect(second.hold.state).to.equal('fulfilled')
    await second.manager.stop()
  })

  it('stop() leaves the queue also while its claim is in flight', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const process = bench.other()
    const slow = process.wire.hang({ kind: 'claim', at: 'reply' })
    const wait = track(process.manager.hold('db', 'a', options))
    await bench.clock.settle()
    expect(bench.store.awaited).to.equal(1)
    await process.manager.stop()
    slow.heal()
    await bench.clock.settle()
    expect([wait.state, bench.store.awaited]).to.deep.equal(['rejected', 0])
  })

  it('the last of those who wait in a process leaves the queue; the others keep its ticket', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager, wire } = bench.other()
    const controllers = [new AbortController(), new AbortController()]
    for (const [index, { signal }] of controllers.entries()) {
      manager.hold('db', `w${index}`, { ...options, signal }).catch(() => {})
    }
    await bench.clock.settle()
    controllers[0]?.abort(new Error('enough'))
    await bench.clock.settle()
    expect([wire.counts.leave, bench.store.awaited]).to.deep.equal([0, 1])
    controllers[1]?.abort(new Error('enough'))
    await bench.clock.settle()
    expect([wire.counts.leave, bench.store.awaited, bench.clock.pending]).to.deep.equal([1, 0, 0])
    await manager.stop()
  })

  it('a wait that has ended watches nothing, and an observation that has ended neither', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager } = bench.other()
    const wait = track(manager.waitUntilExpired('db'))
    const observation = manager.observe('db')
    await observation.next()
    expect(bench.store.awaited).to.equal(1)
    await bench.manager.release('db', 'x')
    await bench.clock.settle()
    expect(wait.state).to.equal('fulfilled')
    await observation.return(undefined as never)
    await bench.clock.settle()
    expect(bench.store.awaited).to.equal(0)
    await manager.stop()
  })

  it('find() and check() watch nothing', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const { manager } = bench.other()
    await manager.find('db')
    await manager.token('db', 'x').check()
    await manager.leases()
    expect(bench.store.awaited).to.equal(0)
  })
})

describe('Manager over a client that cannot say what it watches', () => {
  /** The same, which passes on whatever it is given. */
  function passingOn(process: Process): Client {
    const { client } = process
    return {
      ...plain(process),
      refresh: (...args) => client.refresh(...args),
      subscribe: (...args) => client.subscribe(...args),
    }
  }

  for (const [what, clientOf] of Object.entries({ plain, passingOn })) {
    it(`waits, observes and holds are served by what it hears: ${what}`, async () => {
      const bench = new Bench()
      await bench.manager.claim('db', 'x', HOUR_MS)
      const manager = new Manager({ client: clientOf(bench.other()), clock: bench.clock })
      const wait = track(manager.waitUntilExpired('db'))
      const hold = track(manager.hold('db', 'a', options))
      const observation = manager.observe('db')
      expect((await observation.next()).value?.holder).to.equal('x')
      await bench.clock.settle()
      await bench.manager.release('db', 'x')
      await bench.clock.settle()
      expect([wait.state, hold.state]).to.deep.equal(['fulfilled', 'fulfilled'])
      await manager.stop()
    })
  }

  it('a revocation reaches its Holds', async () => {
    const bench = new Bench()
    const manager = new Manager({ client: plain(bench.other()), clock: bench.clock })
    const hold = await manager.hold('db', 'a', { duration: HOUR_MS })
    await bench.manager.revoke('db')
    await bench.clock.settle()
    expect([hold.held, hold.signal.aborted]).to.deep.equal([false, true])
    await manager.stop()
  })

  it('its ticket stays when it leaves, and delays those behind by a slot', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const manager = new Manager({ client: plain(bench.other()), clock: bench.clock })
    manager.hold('db', 'a', options).catch(() => {})
    await bench.clock.settle()
    const second = await waiter(bench, 'second')
    await manager.stop()
    await bench.manager.release('db', 'x')
    await bench.clock.advance(19)
    expect(second.hold.state).to.equal('pending')
    await bench.clock.advance(1)
    expect(second.hold.state).to.equal('fulfilled')
    await second.manager.stop()
  })

  it('a wait needs no look at least once a minute: nothing that the store remembers must be renewed', async () => {
    const bench = new Bench()
    await bench.manager.claim('db', 'x', HOUR_MS)
    const process = bench.other()
    const manager = new Manager({ client: plain(process), clock: bench.clock, maxSleep: { minutes: 10 } })
    const wait = track(manager.waitUntilExpired('db'))
    await bench.clock.settle()
    process.wire.resetCounts()
    await bench.clock.advance(600_000 - 1)
    expect([wait.state, process.wire.counts.read]).to.deep.equal(['pending', 0])
    await bench.clock.advance(1)
    expect(process.wire.counts.read).to.equal(1)
    await manager.stop()
  })

  it('a client that can is asked at least once a minute, so that nothing lapses', async () => {
    const bench = new Bench({ maxSleep: { minutes: 10 } })
    await bench.manager.claim('db', 'x', HOUR_MS)
    const process = bench.other()
    const wait = track(process.manager.waitUntilExpired('db'))
    await bench.clock.settle()
    process.wire.resetCounts()
    await bench.clock.advance(LONGEST_REST_MS)
    expect([wait.state, process.wire.counts.read]).to.deep.equal(['pending', 1])
    await process.manager.stop()
  })

  it('a waiter that stands back for a Hold of another manager over the same client claims when that ends, without a hint', async () => {
    const bench = new Bench()
    const other = new Manager({ client: bench.client, clock: bench.clock })
    const hold = await bench.manager.hold('db', 'a', { duration: 600_000 })
    const wait = track(other.hold('db', 'b', { duration: 600_000, wait: true }))
    await bench.clock.settle()
    bench.wire.dropHints()
    await hold.release()
    await bench.clock.settle()
    expect(wait.state).to.equal('fulfilled')
    await other.stop()
    await bench.manager.stop()
  })
})

describe('Manager.waiting', () => {
  it('says how many processes wait for a lease, each once, also where nobody holds it', async () => {
    const bench = new Bench()
    expect(await bench.manager.waiting('db')).to.equal(0)
    await bench.manager.claim('db', 'a', 30_000)
    expect(await bench.manager.waiting('db')).to.equal(0)
    const stop = new AbortController()
    const options = { duration: 30_000, wait: true, signal: stop.signal }
    for (const { manager } of [bench.other(), bench.other()]) {
      for (const holder of ['b', 'c']) track(manager.hold('db', holder, options))
    }
    await bench.clock.settle()
    expect(await bench.manager.waiting('db')).to.equal(2)
    stop.abort()
    await bench.clock.settle()
    expect(await bench.manager.waiting('db')).to.equal(0)
  })

  it('says of a share how many wait for shares of its counted lease', async () => {
    const bench = new Bench()
    const share = { capacity: 1 }
    await bench.manager.hold('printers', 'a', { duration: 30_000, share })
    const waiter = track(bench.other().manager.hold('printers', 'b', { duration: 30_000, wait: true, share }))
    await bench.clock.settle()
    expect(await bench.manager.waiting('printers#a')).to.equal(1)
    expect(await bench.manager.waiting('printers')).to.equal(0)
    expect(waiter.state).to.equal('pending')
  })

  it('refuses a name that no lease can have, and says undefined where the client does not know', async () => {
    const bench = new Bench()
    await rejection(bench.manager.waiting('a b'), ErrNotValid)
    const client = new ScriptedClient()
    const manager = new Manager({ client, clock: bench.clock })
    expect(await manager.waiting('db')).to.equal(undefined)
    await manager.stop()
  })

  it('is an ErrUnknown while the store cannot be asked', async () => {
    const bench = new Bench()
    bench.wire.reject(new Error('ECONNREFUSED'))
    await bench.clock.drive(rejection(bench.manager.waiting('db'), ErrUnknown))
  })
})
