import { AsyncLocalStorage } from 'node:async_hooks'
import { expect } from 'chai'
import { ErrClaimDenied, ErrLost, ErrNotHeld } from '#src/errors.ts'
import type { LeaseEvent } from '#src/events.ts'
import type { Hold } from '#src/hold.ts'
import {
  Manager,
  MemoryGuard,
  MemoryStore,
  MemorySubstrate,
  SubstrateClient,
  systemClock,
  sleep,
  traces,
} from '#src/index.ts'
import type { ApplyTrace, ClaimTrace, HoldTrace } from '#src/index.ts'
import type { Holding, Op, Verdict } from '#src/substrate.ts'
import { FaultySubstrate, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

const store = { system: 'memory', namespace: 'default' }

function listen(bench: Bench, types: readonly LeaseEvent['type'][]): LeaseEvent[] {
  const heard: LeaseEvent[] = []
  bench.manager.events.subscribe((event) => heard.push(event), { types })
  return heard
}

describe('A process in which nobody listens', () => {
  // Ten questions took 0.05 of the 22 µs of CPU of a claim and a release in memory.
  it('asks at most a dozen times whether somebody does, for a claim and a release, and makes no event', async () => {
    const bench = new Bench()
    const asked = { channels: 0, events: 0 }
    const prototype = Object.getPrototypeOf(traces.claim) as object
    const original = Object.getOwnPropertyDescriptor(prototype, 'hasSubscribers') as PropertyDescriptor
    const { events } = bench.manager
    const heard = events.heard.bind(events)
    await bench.manager.claim('db', 'a', 30_000)
    await bench.manager.release('db', 'a')
    try {
      Object.defineProperty(prototype, 'hasSubscribers', {
        ...original,
        get(this: unknown): unknown {
          asked.channels++
          return original.get?.call(this)
        },
      })
      events.heard = (type) => {
        asked.events++
        const isHeard = heard(type)
        expect(isHeard, type).to.equal(false)
        return isHeard
      }
      await bench.manager.claim('db', 'a', 30_000)
      await bench.manager.release('db', 'a')
    } finally {
      Object.defineProperty(prototype, 'hasSubscribers', original)
    }
    expect(asked.channels, 'the channels are asked').to.be.greaterThan(0)
    expect(asked.channels + asked.events).to.be.within(1, 12)
    await bench.manager.stop()
  })
})

describe('Events say how long things took', () => {
  it('a claim and a denial say how long the answer took, and a grant how long its holder waited', async () => {
    const bench = new Bench({ wire: { latency: 5 } })
    const heard = listen(bench, ['claimed', 'denied'])
    const first = track(bench.manager.hold('db', 'a', { duration: 30_000 }))
    await bench.clock.advance(100)
    const second = track(bench.manager.hold('db', 'b', { duration: 30_000, wait: true }))
    await bench.clock.advance(1_000)
    void first.value?.release()
    await bench.clock.advance(1_000)
    expect(second.state).to.equal('fulfilled')
    const [claimed, granted] = heard.filter(({ type }) => type === 'claimed')
    expect(claimed).to.deep.include({ ...store, lease: 'db', holder: 'a', tookMs: 20 }) // it reads the store's clock first
    expect(claimed).to.not.have.property('waitedMs')
    expect(granted).to.deep.include({ holder: 'b', tookMs: 10 })
    expect((granted as { waitedMs?: number }).waitedMs).to.be.within(1_000, 1_200)
    await bench.manager.stop()
  })

  it('a denial says how long the answer took', async () => {
    const bench = new Bench({ wire: { latency: 5 } })
    const heard = listen(bench, ['denied'])
    const held = track(bench.manager.claim('db', 'a', 30_000))
    await bench.clock.advance(100)
    const denied = track(bench.manager.claim('db', 'b', 30_000))
    await bench.clock.advance(100)
    expect([held.state, denied.state]).to.deep.equal(['fulfilled', 'rejected'])
    expect(heard).to.deep.equal([
      { type: 'denied', ...store, lease: 'db', holder: 'b', currentHolder: 'a', tookMs: 10 },
    ])
    await bench.manager.stop()
  })

  it('a release and a loss say for how long the lease was held, over renewals', async () => {
    const bench = new Bench()
    const heard = listen(bench, ['released', 'lost', 'warning'])
    const released = await bench.manager.hold('a', 'h', { duration: 30_000 })
    const lost = await bench.manager.hold('b', 'h', { duration: 30_000 })
    await bench.clock.advance(60_000)
    await released.release()
    bench.wire.reject(new Error('away'))
    await bench.clock.advance(60_000)
    expect(lost.held).to.equal(false)
    expect(heard[0]).to.deep.include({ type: 'released', ...store, lease: 'a', heldMs: 60_000 })
    const loss = heard.find(({ type }) => type === 'lost')
    expect(loss).to.deep.include({ lease: 'b', reason: 'unreachable' })
    expect((loss as { heldMs: number }).heldMs).to.be.within(80_000, 90_000)
    expect(loss).to.not.have.property('stopped')
    await bench.manager.stop()
  })

  it('a loss because the manager was stopped says so', async () => {
    const bench = new Bench()
    const heard = listen(bench, ['lost'])
    await bench.manager.hold('db', 'h', { duration: 30_000 })
    await bench.manager.stop()
    await bench.clock.settle()
    expect(heard).to.have.length(1)
    expect(heard[0]).to.deep.include({ reason: 'unreachable', stopped: true })
  })

  it('a renewal says how long it took, what was left of the trust window, and how late it was sent', async () => {
    const bench = new Bench({ wire: { latency: 50 } })
    const heard = listen(bench, ['renewed'])
    const hold = track(bench.manager.hold('db', 'h', { duration: 30_000 }))
    await bench.clock.advance(12_000)
    expect(heard).to.have.length(1)
    expect(heard[0]).to.deep.include({ type: 'renewed', ...store, lease: 'db', holder: 'h', fencingToken: 1n })
    const { tookMs, margin, delayMs } = heard[0] as LeaseEvent & { type: 'renewed' }
    expect(tookMs).to.equal(100)
    expect(margin).to.be.within(0.66, 0.7)
    expect(delayMs).to.be.within(0, 1)
    const asked = track(hold.value?.renew() as Promise<void>)
    await bench.clock.advance(200)
    expect(asked.state).to.equal('fulfilled')
    expect(heard).to.have.length(2)
    expect(heard[1], 'it was not due').to.not.have.property('delayMs')
    await bench.manager.stop()
  })

  it('a renewal that fails says after how long', async () => {
    const bench = new Bench({ wire: { latency: 50 } })
    const heard = listen(bench, ['retrying', 'warning'])
    track(bench.manager.hold('db', 'h', { duration: 30_000 }))
    await bench.clock.advance(5_000)
    bench.wire.loseReply({ kind: 'extend' })
    await bench.clock.advance(12_000)
    expect(heard[0]).to.deep.include({ type: 'retrying', ...store, lease: 'db', operation: 'renewal' })
    expect((heard[0] as { tookMs: number }).tookMs).to.be.at.least(50)
    await bench.manager.stop()
  })

  it('a client reports each round trip: how many operations travelled, how many wait, and why there was no answer', async () => {
    const bench = new Bench({ wire: { latency: 5, limits: { maxOps: 3, maxInFlight: 1 } } })
    const heard: LeaseEvent[] = []
    bench.client.events.subscribe((event) => heard.push(event), { types: ['batch'] })
    const claims = ['a', 'b', 'c', 'd', 'e'].map((lease) => track(bench.manager.claim(lease, 'h', 30_000)))
    await bench.clock.advance(100)
    expect(claims.every(({ state }) => state === 'fulfilled')).to.equal(true)
    const applied = heard.filter((event) => event.type === 'batch' && event.kind === 'apply')
    const [{ queue }] = applied as [LeaseEvent & { type: 'batch' }]
    expect(applied).to.deep.equal([
      { type: 'batch', ...store, kind: 'apply', size: 3, waiting: 2, queue, tookMs: 20 },
      { type: 'batch', ...store, kind: 'apply', size: 2, waiting: 0, queue, tookMs: 10 },
    ])
    const away = new Error('away')
    bench.wire.reject(away, { kind: 'read' })
    const read = track(bench.manager.find('a'))
    await bench.clock.advance(1)
    await bench.clock.advance(60_000)
    expect(read.state).to.equal('rejected')
    expect(heard.at(-1)).to.include({ type: 'batch', kind: 'read', size: 1 })
    expect((heard.at(-1) as { error?: Error }).error).to.be.instanceOf(Error)
    await bench.manager.stop()
  })

  it('a resync is reported once for each round of reads', async () => {
    const bench = new Bench()
    await bench.manager.hold('db', 'h', { duration: 30_000 })
    await bench.clock.settle()
    const heard = listen(bench, ['resync'])
    bench.wire.emit({ kind: 'resync' })
    await bench.clock.settle()
    expect(heard).to.deep.equal([{ type: 'resync', ...store }])
    await bench.manager.stop()
  })

  it('a listener that does not name renewals, batches and resyncs does not get them, nor are they made', async () => {
    const bench = new Bench()
    const heard: string[] = []
    const end = bench.manager.events.subscribe(({ type }) => heard.push(type))
    expect(['renewed', 'batch', 'resync'].map((type) => bench.manager.events.heard(type as 'renewed'))).to.deep.equal([
      false,
      false,
      false,
    ])
    await bench.manager.hold('db', 'h', { duration: 30_000 })
    await bench.clock.advance(60_000)
    expect(heard).to.deep.equal(['claimed'])
    end()
    expect(bench.manager.events.heard('claimed')).to.equal(false)
    await bench.manager.stop()
  })
})

/** What the channel published, as `<event> <lease>`. */
function follow(channel: (typeof traces)[keyof typeof traces]): { seen: [string, unknown][]; end(): void } {
  const seen: [string, unknown][] = []
  const handler = (name: string) => (trace: unknown) => void seen.push([name, trace])
  const handlers = {
    start: handler('start'),
    end: handler('end'),
    asyncStart: handler('asyncStart'),
    asyncEnd: handler('asyncEnd'),
    error: handler('error'),
  }
  const subscribers = handlers as unknown as Parameters<typeof traces.claim.subscribe>[0]
  ;(channel as typeof traces.claim).subscribe(subscribers)
  return { seen, end: () => (channel as typeof traces.claim).unsubscribe(subscribers) }
}

describe('Tracing channels', () => {
  const following: { end(): void }[] = []
  afterEach(() => following.splice(0).forEach((one) => one.end()))
  const on = <C extends object>(channel: (typeof traces)[keyof typeof traces]): [string, C][] => {
    const one = follow(channel)
    following.push(one)
    return one.seen as [string, C][]
  }

  it('lease-core:claim says who asked for what, and how it ended', async () => {
    const seen = on<ClaimTrace>(traces.claim)
    const { manager, clock } = new Bench()
    await manager.claim('db', 'a', 30_000)
    await manager.claim('db', 'a', 30_000)
    const denied = await rejection(manager.claim('db', 'b', 30_000), ErrClaimDenied)
    const ends = seen.filter(([name]) => name === 'asyncEnd').map(([, trace]) => trace)
    expect(ends.map(({ call, leases, holder, renewed }) => ({ call, leases, holder, renewed }))).to.deep.equal([
      { call: 'claim', leases: ['db'], holder: 'a', renewed: false },
      { call: 'claim', leases: ['db'], holder: 'a', renewed: true },
      { call: 'claim', leases: ['db'], holder: 'b', renewed: undefined },
    ])
    expect(ends[0]).to.include({ ...store, manager, waits: false })
    expect(ends[2]?.error).to.equal(denied)
    await clock.settle()
    await manager.stop()
  })

  it('lease-core:claim of a call that waits says how long, how many claims it took, and the first position', async () => {
    const seen = on<ClaimTrace>(traces.claim)
    const bench = new Bench()
    const other = await bench.other().manager.hold('db', 'a', { duration: 30_000 })
    const waiting = track(bench.manager.hold('db', 'b', { duration: 30_000, wait: true }))
    await bench.clock.advance(5_000)
    await other.release()
    await bench.clock.advance(1_000)
    expect(waiting.state).to.equal('fulfilled')
    const [, trace] = seen.at(-1) as [string, ClaimTrace]
    expect(trace).to.include({ call: 'hold', waits: true, renewed: false, position: 1, result: waiting.value })
    expect(trace.attempts).to.be.at.least(2)
    expect(trace.waitedMs).to.be.within(5_000, 6_000)
    expect(trace.tookMs).to.be.within(5_000, 6_000)
    await bench.manager.stop()
  })

  it('lease-core:hold follows a Hold from its grant over its loss to when its user lets go of it', async () => {
    const seen = on<HoldTrace>(traces.hold)
    const bench = new Bench()
    const hold = await bench.manager.hold('db', 'a', { duration: 30_000 })
    expect(seen.map(([name]) => name)).to.deep.equal(['start', 'end'])
    expect(seen[0]?.[1]).to.include({ ...store, manager: bench.manager, lease: 'db', holder: 'a', hold })
    await bench.clock.advance(1_000)
    await bench.other().manager.revoke('db')
    await bench.clock.settle()
    expect(seen.slice(2).map(([name]) => name)).to.deep.equal(['error', 'asyncStart'])
    expect(seen[2]?.[1]).to.include({ outcome: 'lost', reason: 'revoked', heldMs: 1_000 })
    expect(seen[2]?.[1].error).to.be.instanceOf(ErrLost)
    await hold.release()
    await hold.release()
    expect(seen.slice(4).map(([name]) => name)).to.deep.equal(['asyncEnd'])
    await bench.manager.stop()
  })

  it('lease-core:hold says that a Hold was released, or stopped with its manager', async () => {
    const seen = on<HoldTrace>(traces.hold)
    const { manager } = new Bench()
    const hold = await manager.hold('a', 'h', { duration: 30_000 })
    await manager.hold('b', 'h', { duration: 30_000 })
    await hold.release()
    await manager.stop()
    const ends = seen.filter(([name]) => name === 'asyncStart').map(([, { lease, outcome }]) => [lease, outcome])
    expect(ends).to.deep.equal([
      ['a', 'released'],
      ['b', 'stopped'],
    ])
    expect(seen.some(([name]) => name === 'error')).to.equal(false)
  })

  it('lease-core:release and lease-core:check say what was asked for, with the trapdoor key', async () => {
    const releases = on<{ call: string; lease: string }>(traces.release)
    const checks = on<{ key: unknown; error?: unknown }>(traces.check)
    const { manager } = new Bench()
    const token = await manager.claim('db', 'a', 30_000)
    const guard = new MemoryGuard(() => 1)
    await token.check(guard)
    await token.check()
    await manager.release('db', 'a')
    const error = await rejection(token.check(), ErrNotHeld)
    await manager.revoke('db')
    const hold = await manager.hold('db', 'a', { duration: 30_000 })
    await hold.release()
    const ended = <C extends object>(seen: [string, C][]): C[] =>
      seen.filter(([name]) => name === 'asyncEnd').map(([, trace]) => trace)
    expect(ended(checks).map(({ key, error: thrown }) => [key, thrown])).to.deep.equal([
      [guard, undefined],
      [undefined, undefined],
      [undefined, error],
    ])
    expect(ended(releases).map(({ call, lease }) => `${call} ${lease}`)).to.deep.equal([
      'release db',
      'revoke db',
      'release db',
    ])
    await manager.stop()
  })

  it('lease-core:apply has the contexts of the callers whose operations travel together', async () => {
    const seen = on<ApplyTrace>(traces.apply)
    const storage = new AsyncLocalStorage<string>()
    const { manager } = new Bench()
    await Promise.all(['a', 'b'].map((name) => storage.run(name, () => manager.claim(name, 'h', 30_000))))
    const trace = seen.find(([name, { kind }]) => name === 'asyncEnd' && kind === 'apply')?.[1]
    expect(trace).to.include({ ...store, size: 2, waiting: 0, failure: undefined })
    const contexts = trace?.callers.map((caller) => caller.runInAsyncScope(() => storage.getStore()))
    expect(contexts).to.deep.equal(['a', 'b'])
    await manager.stop()
  })
})

describe('Where nobody listens', () => {
  it('no clock is read for events and traces, also not after the last listener has gone', async () => {
    const bench = new Bench()
    const { clock } = bench
    let readings = 0
    const counting = new Proxy(clock, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target)
        if (typeof value !== 'function') return value
        if (name === 'monotonic' || name === 'now' || name === 'boot') readings++
        return value.bind(target) as unknown
      },
    })
    const client = new SubstrateClient({ substrate: new MemorySubstrate({ store: bench.store }), clock: counting })
    const manager = new Manager({ client, clock: counting })
    const work = async (): Promise<number> => {
      const before = readings
      const token = await manager.claim('db', 'a', 30_000)
      await token.check()
      await manager.claim('db', 'b', 30_000).catch(() => {})
      await manager.claim('other', 'a', 30_000)
      await manager.holdAny(['db', 'other'], 'b', { duration: 30_000 }).catch(() => {})
      await manager.release('db', 'a')
      const hold = await manager.hold('db', 'a', { duration: 30_000 })
      await hold.renew()
      await hold.release()
      await clock.settle()
      return readings - before
    }
    await work() // first contact
    const silent = await work()
    const following = Object.values(traces).map((channel) => follow(channel))
    const ends = [manager.events, client.events].map((events) =>
      events.subscribe(() => {}, { types: ['claimed', 'denied', 'released', 'renewed', 'batch'] }),
    )
    expect(await work()).to.be.above(silent)
    for (const one of following) one.end()
    for (const end of ends) end()
    expect(await work()).to.equal(silent)

    // Each call that is followed reads the clock at its beginning and its end, and each batch once more: the others do not.
    const calls = [traces.claim, traces.check, traces.release, traces.apply].map((channel) => follow(channel))
    const followed = await work()
    const ended = calls.map(({ seen }) => seen.filter(([name]) => name === 'asyncEnd').length)
    for (const one of calls) one.end()
    const [claims = 0, checks = 0, releases = 0, batches = 0] = ended
    expect([claims, checks, releases]).to.deep.equal([5, 1, 2])
    expect(followed - silent).to.equal(2 * (claims + checks + releases) + 3 * batches)
    await manager.stop()
  })
})

describe('The AsyncLocalStorage context of a caller', () => {
  const storage = new AsyncLocalStorage<string>()

  /** Notes in which context each request is sent. */
  class Recording extends MemorySubstrate {
    readonly seen: string[] = []

    override async apply(
      ops: readonly Op[],
      call: Parameters<MemorySubstrate['apply']>[1],
    ): Promise<readonly Verdict[]> {
      for (const op of ops) this.seen.push(`${op.kind} ${'holder' in op ? op.holder : ''}: ${storage.getStore()}`)
      return super.apply(ops, call)
    }

    override async read(...args: Parameters<MemorySubstrate['read']>): Promise<ReadonlyMap<string, Holding>> {
      this.seen.push(`read: ${storage.getStore()}`)
      return super.read(...args)
    }
  }

  async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await sleep(systemClock, 5)
  }

  it('is not inherited by renewals, by reads in the background, nor by the claims of others that wait', async () => {
    const substrate = new Recording({ store: new MemoryStore() })
    const wire = new FaultySubstrate(substrate)
    const client = new SubstrateClient({ substrate: wire })
    const manager = new Manager({ client })
    const { seen } = substrate
    const count = (what: string): number => seen.filter((one) => one.startsWith(what)).length
    const within = <T>(name: string, work: () => T): T => storage.run(name, work)

    const alone = await within('A', () => manager.hold('alone', 'alone', { duration: 60_000, renewEvery: 20 }))
    await until(() => count('extend alone') >= 3)
    expect(new Set(seen.filter((one) => one.startsWith('extend')))).to.deep.equal(new Set(['extend alone: undefined']))
    await alone.release()
    seen.length = 0
    const first = await within('A', () => manager.hold('db', 'a', { duration: 60_000, renewEvery: 20 }))
    const waiting = within('B', () => manager.hold('db', 'b', { duration: 60_000, renewEvery: 20, wait: true }))
    const last = within('C', () => manager.hold('db', 'c', { duration: 60_000, wait: true }))
    await until(() => count('extend a') >= 3)
    // A hint that arrives within somebody's call, and one for everything.
    const reads = count('read')
    within('D', () => wire.emit({ kind: 'vacated', lease: 'db' }))
    await until(() => count('read') > reads)
    within('D', () => wire.emit({ kind: 'resync' }))
    // An update of the caller's own, while renewals are due.
    await within('E', () => first.update('here'))
    const renewed = count('extend a')
    await until(() => count('extend a') >= renewed + 3)
    await within('F', () => first.release())
    const second: Hold = await waiting
    await until(() => count('extend b') >= 3)
    await within('G', () => second.release())
    await (await last).release()

    const contexts = (what: string): string[] => [...new Set(seen.filter((one) => one.startsWith(what)))].toSorted()
    expect(contexts('claim')).to.deep.equal(['claim a: A', 'claim b: B', 'claim c: C'])
    expect(contexts('extend')).to.deep.equal(['extend a: E', 'extend a: undefined', 'extend b: undefined'])
    expect(
      seen.filter((one) => one === 'extend a: E'),
      'the update alone',
    ).to.have.length(1)
    expect(contexts('read')).to.deep.equal(['read: undefined'])
    expect(contexts('release').slice(0, 2)).to.deep.equal(['release a: F', 'release b: G'])
    await manager.stop()
    await client.close()
  })

  it('is that of no caller in a batch that goes out when an answer has freed its slot', async () => {
    const substrate = new Recording({ store: new MemoryStore() })
    const wire = new FaultySubstrate(substrate, { limits: { maxInFlight: 1 } })
    const client = new SubstrateClient({ substrate: wire })
    const manager = new Manager({ client })
    await manager.claim('first', 'contact', 60_000)
    const hung = wire.hang({ kind: 'claim' })
    const first = storage.run('A', () => manager.claim('a', 'a', 60_000))
    await until(() => wire.inFlight > 0)
    const second = storage.run('B', () => manager.claim('b', 'b', 60_000))
    await sleep(systemClock, 1)
    hung.heal()
    await Promise.all([first, second])
    expect(substrate.seen.filter((one) => one.startsWith('claim')).slice(1)).to.deep.equal([
      'claim a: A',
      'claim b: undefined',
    ])
    await manager.stop()
    await client.close()
  })
})
