import { expect } from 'chai'
import { DataPointType, type MetricData } from '@opentelemetry/sdk-metrics'
import { ErrClaimDenied, MemoryGuard } from 'lease-core'
import { track } from 'lease-core/testing'
import { countLeases, type InstrumentOptions } from '#src/index.ts'
import { Bench, Telemetry } from './bench.ts'

const store = { 'db.system.name': 'memory', 'lease.namespace': 'billing' }
const STORE_CALL = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]

/** The table of the specification: name, kind, unit, buckets. */
const INSTRUMENTS: readonly (readonly [string, DataPointType, string, (readonly number[])?])[] = [
  ['lease.claim.duration', DataPointType.HISTOGRAM, 's', STORE_CALL],
  ['lease.wait.duration', DataPointType.HISTOGRAM, 's', [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600]],
  ['lease.wait.active', DataPointType.SUM, '{waiter}'],
  ['lease.hold.active', DataPointType.SUM, '{hold}'],
  ['lease.hold.duration', DataPointType.HISTOGRAM, 's', [0.1, 1, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400]],
  ['lease.losses', DataPointType.SUM, '{loss}'],
  ['lease.renewal.duration', DataPointType.HISTOGRAM, 's', STORE_CALL],
  ['lease.renewal.margin', DataPointType.HISTOGRAM, '1', [0.05, 0.1, 0.2, 0.33, 0.5, 0.67]],
  ['lease.renewal.delay', DataPointType.HISTOGRAM, 's', [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5]],
  ['lease.retries', DataPointType.SUM, '{retry}'],
  ['lease.revocations', DataPointType.SUM, '{revocation}'],
  ['lease.warnings', DataPointType.SUM, '{warning}'],
  ['lease.checks', DataPointType.SUM, '{check}'],
  ['lease.batch.size', DataPointType.HISTOGRAM, '{operation}', [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]],
  ['lease.operation.pending', DataPointType.SUM, '{operation}'],
  ['lease.operation.duration', DataPointType.HISTOGRAM, 's', STORE_CALL],
  ['lease.hint.resyncs', DataPointType.SUM, '{resync}'],
  ['lease.clock.divergence', DataPointType.GAUGE, 's'],
  ['lease.leader', DataPointType.GAUGE, '1'],
  ['lease.held', DataPointType.GAUGE, '{lease}'],
  ['lease.pinned', DataPointType.GAUGE, '{lease}'],
  ['lease.expiring', DataPointType.GAUGE, '{lease}'],
]
const UP_AND_DOWN = new Set(['lease.wait.active', 'lease.hold.active', 'lease.operation.pending'])

describe('The metrics of lease-otel', () => {
  let telemetry: Telemetry | undefined
  const begin = (options: InstrumentOptions = {}): Telemetry => (telemetry = new Telemetry(options))
  afterEach(() => telemetry?.stop())

  it('have the names, kinds, units and buckets of the specification, and no other metric exists', async () => {
    const telemetry = begin({ metrics: { checks: true, operations: true, clock: true }, names: ['db'] })
    const bench = new Bench({ latency: 5, limits: { maxOps: 2, maxInFlight: 1 } })
    const counts = countLeases(bench.manager, { meterProvider: telemetry.meterProvider, clock: bench.clock })
    const { manager, clock, wire } = bench
    const hold = track(manager.hold('db', 'a', { duration: 30_000 }))
    await clock.advance(100)
    const waiting = track(manager.hold('db', 'b', { duration: 30_000, wait: true }))
    await clock.advance(1_000)
    const others = ['x', 'y', 'z', 'v', 'w'].map((name) => track(manager.claim(name, 'a', 30_000)))
    track(manager.revoke('x'))
    await clock.advance(15_000)
    wire.loseReply({ kind: 'extend' })
    await clock.advance(15_000)
    track(hold.value?.token.check(new MemoryGuard(() => 1)) as Promise<unknown>)
    wire.emit({ kind: 'resync' })
    await clock.advance(1_000)
    bench.client.warn({ warning: 'fsync-off', message: 'fsync is off' })
    track(hold.value?.release() as Promise<void>)
    await clock.advance(1_000)
    expect([waiting, ...others].map(({ state }) => state)).to.not.include('pending')
    const counted = telemetry.metrics()
    await clock.advance(100) // the namespace is read for `lease.held`
    const metrics = await counted
    counts.stop()
    const seen = [...metrics.keys()].toSorted()
    expect(seen).to.deep.equal(INSTRUMENTS.map(([name]) => name).toSorted())
    for (const [name, kind, unit, buckets] of INSTRUMENTS) {
      const metric = metrics.get(name) as MetricData
      expect(metric.dataPointType, name).to.equal(kind)
      expect(metric.descriptor.unit, name).to.equal(unit)
      expect(metric.descriptor.description, name).to.not.equal('')
      if (kind === DataPointType.SUM) {
        expect((metric as MetricData & { isMonotonic: boolean }).isMonotonic, name).to.equal(!UP_AND_DOWN.has(name))
      }
      for (const { value } of metric.dataPoints) {
        if (buckets !== undefined) {
          expect((value as { buckets: { boundaries: number[] } }).buckets.boundaries, name).to.deep.equal(buckets)
        }
      }
    }
    await manager.stop()
  })

  it('a claim: granted, renewed, denied, aborted, failed, each with how long it took', async () => {
    const telemetry = begin()
    const { manager, clock, wire } = new Bench({ latency: 5 })
    const claim = (holder: string, signal?: AbortSignal) => track(manager.claim('db', holder, 30_000, { signal }))
    claim('a')
    await clock.advance(100)
    claim('a')
    await clock.advance(100)
    claim('b')
    await clock.advance(100)
    const caller = new AbortController()
    claim('c', caller.signal)
    await clock.advance(2)
    caller.abort(new Error('enough'))
    await clock.advance(100)
    wire.reject(new Error('away'))
    claim('d')
    await clock.advance(60_000)
    const points = await telemetry.points('lease.claim.duration')
    expect(points.map(({ attributes }) => attributes)).to.have.deep.members([
      { ...store, 'lease.outcome': 'granted' },
      { ...store, 'lease.outcome': 'renewed' },
      { ...store, 'lease.outcome': 'denied' },
      { ...store, 'lease.outcome': 'aborted' },
      { ...store, 'error.type': 'LEASE_UNKNOWN' },
    ])
    expect(points.every(({ value }) => value === 1)).to.equal(true)
    const took = (outcome: string): number | undefined =>
      points.find(({ attributes }) => (attributes as Record<string, string>)['lease.outcome'] === outcome)?.sum
    expect(took('renewed')).to.be.closeTo(0.01, 1e-9)
    expect(took('denied')).to.be.closeTo(0.01, 1e-9)
    await manager.stop()
  })

  it('a wait: how long, how it ended, and how many wait now', async () => {
    const telemetry = begin()
    const { manager, clock } = new Bench()
    const hold = await manager.hold('db', 'a', { duration: 60_000 })
    const caller = new AbortController()
    track(manager.hold('db', 'b', { duration: 30_000, wait: 5_000 }))
    track(manager.hold('db', 'c', { duration: 30_000, wait: true, signal: caller.signal }))
    track(manager.hold('db', 'd', { duration: 30_000, wait: true }))
    await clock.advance(1_000)
    expect(await telemetry.points('lease.wait.active')).to.deep.equal([{ attributes: store, value: 3 }])
    caller.abort()
    await clock.advance(9_000)
    await hold.release()
    await clock.advance(1_000)
    expect(await telemetry.points('lease.wait.active')).to.deep.equal([{ attributes: store, value: 0 }])
    const sums = new Map(
      (await telemetry.points('lease.wait.duration')).map(({ attributes, sum }) => [
        JSON.stringify(attributes),
        Math.round((sum ?? 0) * 10) / 10,
      ]),
    )
    const key = (outcome: string): string => JSON.stringify({ ...store, 'lease.outcome': outcome })
    expect([...sums]).to.have.deep.members([
      [key('denied'), 5],
      [key('aborted'), 1],
      [key('granted'), 10],
    ])
    await manager.stop()
  })

  it('a hold: how many there are, for how long, and how it ended; a stop of the manager is no loss', async () => {
    const telemetry = begin()
    const bench = new Bench()
    const { manager, clock } = bench
    const released = await manager.hold('a', 'h', { duration: 30_000 })
    await manager.hold('b', 'h', { duration: 30_000 })
    await manager.hold('c', 'h', { duration: 30_000 })
    const losses = await telemetry.points('lease.losses')
    expect(losses, 'a first loss must be an increase').to.have.deep.members(
      ['expired', 'taken', 'revoked', 'unreachable'].map((reason) => ({
        attributes: { ...store, 'lease.loss.reason': reason },
        value: 0,
      })),
    )
    expect(await telemetry.points('lease.hold.active')).to.deep.equal([{ attributes: store, value: 3 }])
    await clock.advance(2_000)
    await released.release()
    await bench.other().revoke('b')
    await clock.advance(1_000)
    await manager.stop()
    await clock.settle()
    expect(await telemetry.points('lease.hold.active')).to.deep.equal([{ attributes: store, value: 0 }])
    expect(await telemetry.points('lease.hold.duration')).to.have.deep.members([
      { attributes: { ...store, 'lease.end': 'released' }, value: 1, sum: 2 },
      { attributes: { ...store, 'lease.end': 'lost' }, value: 1, sum: 2 },
      { attributes: { ...store, 'lease.end': 'stopped' }, value: 1, sum: 3 },
    ])
    expect((await telemetry.points('lease.losses')).filter(({ value }) => value > 0)).to.deep.equal([
      { attributes: { ...store, 'lease.loss.reason': 'revoked' }, value: 1 },
    ])
  })

  it('a hold that began before the instruments is not taken off when it ends', async () => {
    const { manager } = new Bench()
    const earlier = new Telemetry() // somebody follows it from the beginning: without that it would never be reported
    const hold = await manager.hold('a', 'h', { duration: 30_000 })
    const telemetry = begin()
    await hold.release()
    expect(await telemetry.points('lease.hold.active')).to.deep.equal([])
    expect(await telemetry.points('lease.hold.duration')).to.deep.equal([])
    expect(await earlier.points('lease.hold.active')).to.deep.equal([{ attributes: store, value: 0 }])
    earlier.stop()
    await manager.stop()
  })

  it('a wait that a stop ends was aborted, and one that continues an own term was granted', async () => {
    const telemetry = begin()
    const bench = new Bench()
    const { manager, clock } = bench
    await bench.other().claim('busy', 'other', 30_000)
    await manager.claim('own', 'h', 30_000)
    await manager.hold('own', 'h', { duration: 30_000, wait: true })
    track(manager.hold('busy', 'h', { duration: 30_000, wait: true }))
    await clock.settle()
    await manager.stop()
    await clock.settle()
    expect((await telemetry.points('lease.wait.duration')).map(({ attributes }) => attributes)).to.have.deep.members([
      { ...store, 'lease.outcome': 'granted' },
      { ...store, 'lease.outcome': 'aborted' },
    ])
  })

  it('a renewal: how long it took, what was left of the trust window, how late it was, and a retry', async () => {
    const telemetry = begin()
    const { manager, clock, wire } = new Bench({ latency: 50 })
    track(manager.hold('db', 'h', { duration: 30_000 }))
    await clock.advance(11_000)
    expect(await telemetry.points('lease.renewal.duration')).to.deep.equal([{ attributes: store, value: 1, sum: 0.1 }])
    const [margin] = await telemetry.points('lease.renewal.margin')
    expect(margin?.sum).to.be.within(0.6, 0.7)
    expect(await telemetry.points('lease.renewal.delay')).to.have.length(1)
    wire.reject(Object.assign(new Error('away'), { code: 'ECONNREFUSED' }), { kind: 'extend' })
    await clock.advance(10_000)
    const failed = (await telemetry.points('lease.renewal.duration')).find(
      ({ attributes }) => 'error.type' in attributes,
    )
    expect(failed?.attributes).to.deep.equal({ ...store, 'error.type': 'LEASE_UNKNOWN' })
    expect((await telemetry.points('lease.retries')).map(({ attributes }) => attributes)).to.deep.include({
      ...store,
      'lease.operation': 'renewal',
      'error.type': 'LEASE_UNKNOWN',
    })
    await manager.stop()
  })

  it('a check: held or not, by the kind of its key, if it is asked for', async () => {
    const telemetry = begin({ metrics: { checks: true } })
    const { manager } = new Bench()
    const token = await manager.claim('db', 'a', 30_000)
    await token.check()
    await token.check(new MemoryGuard(() => 1))
    await token.check({ query: () => {} }).catch(() => {})
    await manager.release('db', 'a')
    await token.check().catch(() => {})
    expect(await telemetry.points('lease.checks')).to.have.deep.members([
      { attributes: { ...store, 'lease.key': 'none', 'lease.outcome': 'held' }, value: 1 },
      { attributes: { ...store, 'lease.key': 'guard', 'lease.outcome': 'held' }, value: 1 },
      { attributes: { ...store, 'lease.key': 'transaction', 'error.type': 'LEASE_TRAPDOOR' }, value: 1 },
      { attributes: { ...store, 'lease.key': 'none', 'lease.outcome': 'not_held' }, value: 1 },
    ])
    await manager.stop()
  })

  it('what waits for a round trip is counted while it waits', async () => {
    const telemetry = begin()
    const { manager, clock } = new Bench({ latency: 5, limits: { maxOps: 2, maxInFlight: 1 } })
    const claims = ['a', 'b', 'c', 'd', 'e'].map((name) => track(manager.claim(name, 'h', 30_000)))
    await clock.advance(22)
    expect(await telemetry.points('lease.operation.pending')).to.deep.equal([{ attributes: store, value: 3 }])
    await clock.advance(100)
    expect(claims.every(({ state }) => state === 'fulfilled')).to.equal(true)
    expect(await telemetry.points('lease.operation.pending')).to.deep.equal([{ attributes: store, value: 0 }])
    expect(await telemetry.points('lease.batch.size')).to.deep.equal([
      { attributes: { ...store, 'lease.batch.kind': 'apply' }, value: 3, sum: 5 },
    ])
    await manager.stop()
  })

  it('what waits is counted in all queues of the process', async () => {
    const telemetry = begin()
    const benches = [1, 2].map(() => new Bench({ latency: 5, limits: { maxOps: 2, maxInFlight: 1 } }))
    for (const { manager, clock } of benches) {
      for (const name of ['a', 'b', 'c', 'd', 'e']) track(manager.claim(name, 'h', 30_000))
      await clock.advance(22)
    }
    expect(await telemetry.points('lease.operation.pending')).to.deep.equal([{ attributes: store, value: 6 }])
    for (const { manager, clock } of benches) {
      await clock.advance(100)
      await manager.stop()
    }
    expect(await telemetry.points('lease.operation.pending')).to.deep.equal([{ attributes: store, value: 0 }])
  })

  it('a round trip that failed says why, if round trips are asked for', async () => {
    const telemetry = begin({ metrics: { operations: true } })
    const { manager, clock, wire } = new Bench()
    await manager.claim('a', 'h', 30_000)
    wire.reject(new Error('away'))
    track(manager.claim('b', 'h', 30_000))
    await clock.advance(60_000)
    const seen = (await telemetry.points('lease.operation.duration')).map(({ attributes }) => attributes)
    expect(seen).to.deep.include({ ...store, 'lease.batch.kind': 'apply' })
    expect(seen).to.deep.include({ ...store, 'lease.batch.kind': 'apply', 'error.type': 'Error' })
    await manager.stop()
  })

  it('a clock that was set shows in one reading, and not in the next', async () => {
    const telemetry = begin({ metrics: { clock: true } })
    const { now } = Date
    const readings: (number | undefined)[] = []
    try {
      Date.now = () => now() + 3_600_000
      for (let n = 0; n < 2; n++) readings.push((await telemetry.points('lease.clock.divergence'))[0]?.value)
    } finally {
      Date.now = now
    }
    const [first = 0, second = Number.NaN] = readings
    expect(first).to.be.within(1_800, 5_400)
    expect(second).to.be.within(-1_800, 1_800)
  })

  it('who leads in one namespace does not lead in another', async () => {
    const [billing, shipping] = [new Bench(), new Bench({ namespace: 'shipping' })]
    await shipping.other().claim('scheduler', 'other', 30_000)
    const telemetry = begin({ names: ['scheduler'] })
    await billing.manager.hold('scheduler', 'a', { duration: 30_000 })
    await shipping.manager.hold('scheduler', 'a', { duration: 30_000 }).catch(() => {})
    expect(await telemetry.points('lease.leader')).to.have.deep.members([
      { attributes: { ...store, 'lease.name': 'scheduler' }, value: 1 },
      { attributes: { ...store, 'lease.namespace': 'shipping', 'lease.name': 'scheduler' }, value: 0 },
    ])
    await billing.manager.stop()
    await shipping.manager.stop()
  })

  it('who leads: 1 in the process that holds the lease, 0 in the others, from when it asks for it', async () => {
    const bench = new Bench()
    const { manager } = bench
    const other = bench.other()
    let telemetry: Telemetry
    const leader = (): Promise<readonly object[]> => telemetry.points('lease.leader')
    const leading = await other.hold('scheduler', 'b', { duration: 30_000 })
    telemetry = begin({ names: ['scheduler'] })
    await manager.hold('other', 'a', { duration: 30_000 })
    expect(await leader(), 'it does not ask for it').to.deep.equal([])
    await manager.hold('scheduler', 'a', { duration: 30_000 }).catch(() => {})
    expect(await leader()).to.deep.equal([{ attributes: { ...store, 'lease.name': 'scheduler' }, value: 0 }])
    await leading.release()
    const hold = await manager.hold('scheduler', 'a', { duration: 30_000 })
    expect(await leader()).to.deep.equal([{ attributes: { ...store, 'lease.name': 'scheduler' }, value: 1 }])
    await hold.release()
    expect(await leader()).to.deep.equal([{ attributes: { ...store, 'lease.name': 'scheduler' }, value: 0 }])
    const last = await manager.hold('scheduler', 'a', { duration: 30_000 })
    const observed = await leader()
    telemetry.stop()
    await last.release()
    expect(await leader(), 'it is observed no more').to.deep.equal(observed)
    await manager.stop()
  })

  it('who leads is none whose trust window is over, before a timer notices', async () => {
    const telemetry = begin({ names: ['scheduler'] })
    const { manager, clock } = new Bench()
    await manager.hold('scheduler', 'a', { duration: 30_000 })
    void clock.suspend(60_000)
    expect(await telemetry.points('lease.leader')).to.deep.include({
      attributes: { ...store, 'lease.name': 'scheduler' },
      value: 0,
    })
    await manager.stop()
  })

  it('the leases of the namespace: held, pinned, and about to end', async () => {
    const telemetry = begin()
    const bench = new Bench()
    const { manager } = bench
    const other = bench.other()
    await other.claim('long', 'a', 60_000)
    await other.claim('short', 'a', 5_000)
    await other.claim('pinned', 'a', 5_000)
    await other.pin('pinned', 'operator')
    const counts = countLeases(manager, { meterProvider: telemetry.meterProvider, clock: bench.clock })
    for (const [name, value] of [
      ['lease.held', 3],
      ['lease.pinned', 1],
      ['lease.expiring', 1],
    ] as const) {
      expect(await telemetry.points(name), name).to.deep.equal([{ attributes: store, value }])
    }
    counts.stop()
    bench.wire.resetCounts()
    await telemetry.metrics()
    expect(bench.wire.counts.read, 'the store is asked no more').to.equal(0)
    await manager.stop()
    await other.stop()
  })

  it('the leases of the namespace have no value while they cannot be read', async () => {
    const telemetry = begin()
    const { manager, clock, wire } = new Bench()
    const counts = countLeases(manager, { meterProvider: telemetry.meterProvider, clock })
    wire.reject(new Error('away'))
    const points = track(telemetry.points('lease.held'))
    await clock.advance(60_000)
    expect(points.value).to.deep.equal([])
    counts.stop()
    await manager.stop()
  })

  it('nothing is counted after stop()', async () => {
    const telemetry = begin({ names: ['db'], metrics: { checks: true, clock: true } })
    const { manager } = new Bench()
    telemetry.stop()
    await manager.claim('db', 'a', 30_000)
    await (await manager.hold('x', 'a', { duration: 30_000, wait: true })).token.check()
    expect((await telemetry.metrics()).size).to.equal(0)
    const denied = await manager.claim('db', 'b', 30_000).catch((error: unknown) => error)
    expect(denied).to.be.instanceOf(ErrClaimDenied)
    await manager.stop()
  })
})
