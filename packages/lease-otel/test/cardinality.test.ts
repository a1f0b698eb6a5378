import { expect } from 'chai'
import { MemoryGuard } from 'lease-core'
import { track } from 'lease-core/testing'
import { collapseName, countLeases, MAX_GROUPS, type InstrumentOptions } from '#src/index.ts'
import { errorTypeOf, MetricAttributes } from '#src/attributes.ts'
import { Bench, Telemetry } from './bench.ts'

describe('The attributes of metrics', () => {
  let telemetry: Telemetry | undefined
  const begin = (options: InstrumentOptions = {}): Telemetry => (telemetry = new Telemetry(options))
  afterEach(() => telemetry?.stop())

  const ALLOWED = [
    'db.system.name',
    'error.type',
    'lease.batch.kind',
    'lease.end',
    'lease.key',
    'lease.loss.reason',
    'lease.namespace',
    'lease.operation',
    'lease.outcome',
    'lease.warning',
  ]

  it('never show the name of a lease, a holder, a fencing token or a value, with everything switched on', async () => {
    const telemetry = begin({ metrics: { checks: true, operations: true, clock: true } })
    const bench = new Bench({ latency: 5 })
    const { manager, clock, wire } = bench
    const counts = countLeases(manager, { meterProvider: telemetry.meterProvider, clock })
    const options = { duration: 30_000, value: 'SECRET-value' }
    const first = track(manager.hold('SECRET-lease', 'SECRET-holder', options))
    const share = track(
      manager.hold('SECRET-counted', 'SECRET-member', { ...options, share: { capacity: 2 }, wait: true }),
    )
    await clock.advance(100)
    track(manager.hold('SECRET-lease', 'SECRET-other', { ...options, wait: 50_000 }))
    track(manager.claim('SECRET-lease', 'SECRET-third', 30_000))
    track(first.value?.token.check(new MemoryGuard(() => 'SECRET-result')) as Promise<unknown>)
    await clock.advance(15_000)
    wire.reject(new Error('SECRET-error'), { kind: 'extend' })
    await clock.advance(60_000)
    expect([first.value?.held, share.value?.held]).to.deep.equal([false, false])
    const counted = telemetry.metrics()
    await clock.advance(100)
    const metrics = await counted
    counts.stop()
    const shown = JSON.stringify([...metrics.values()].map(({ dataPoints }) => dataPoints.map((one) => one.attributes)))
    expect(shown).to.not.include('SECRET')
    const keys = [...metrics.values()].flatMap(({ dataPoints }) =>
      dataPoints.flatMap((one) => Object.keys(one.attributes)),
    )
    expect([...new Set(keys)].filter((key) => !ALLOWED.includes(key))).to.deep.equal([])
    expect(keys).to.include.members(['lease.loss.reason', 'lease.end', 'lease.outcome', 'lease.operation'])
    await manager.stop()
  })

  it(`tell at most ${MAX_GROUPS} groups apart; the rest are _other`, async () => {
    const telemetry = begin({ groupOf: (name) => name })
    const { manager } = new Bench()
    for (let index = 0; index < MAX_GROUPS + 50; index++) await manager.claim(`lease-${index}`, 'a', 30_000)
    await manager.claim('lease-0', 'a', 30_000)
    const groups = (await telemetry.points('lease.claim.duration')).map(
      ({ attributes, value }) => [(attributes as Record<string, unknown>)['lease.group'], value] as const,
    )
    const names = new Set(groups.map(([group]) => group))
    expect(names.size).to.equal(MAX_GROUPS + 1)
    expect(new Map(groups).get('_other')).to.equal(50)
    await manager.stop()
  })

  it(`tell at most ${MAX_GROUPS} namespaces, types of errors and warnings apart`, async () => {
    const attributes = new MetricAttributes(undefined)
    const many = Array.from({ length: MAX_GROUPS + 50 }, (_, index) => `E${index}`)
    const namespaces = many.map((namespace) => attributes.of({ system: 'memory', namespace })['lease.namespace'])
    const types = many.map((code) => attributes.errorType({ code }))
    const telemetry = begin()
    const { client, manager } = new Bench()
    manager.events.subscribe(() => {}, { types: ['warning'] })
    for (const warning of many) client.warn({ warning, message: 'SECRET' })
    const warnings = (await telemetry.points('lease.warnings')).map(
      (point) => (point.attributes as Record<string, unknown>)['lease.warning'],
    )
    for (const values of [namespaces, types, warnings]) {
      expect([...new Set(values)]).to.have.members([...many.slice(0, MAX_GROUPS), '_other'])
    }
    await manager.stop()
  })

  it('show the code or the class of an error, and nothing that it says', () => {
    const named = (name: string, more: object = {}): Error => Object.assign(new Error('SECRET'), { name, ...more })
    expect(errorTypeOf(named('TypeError'))).to.equal('TypeError')
    expect(errorTypeOf(named('TypeError', { code: 'ECONNREFUSED' }))).to.equal('ECONNREFUSED')
    expect(errorTypeOf(named('TypeError', { code: 'no such lease: SECRET' }))).to.equal('TypeError')
    expect(errorTypeOf(named('of "SECRET"', { code: 7 }))).to.equal('Error')
    expect(errorTypeOf('SECRET')).to.equal('string')
  })

  it('have no group where groupOf says none, and harm no claim where it throws', async () => {
    const telemetry = begin({
      groupOf: (name) => {
        if (name === 'bad') throw new Error('no group')
        return name === 'none' ? undefined : collapseName(name)
      },
    })
    const { manager } = new Bench()
    for (const name of ['bad', 'none', 'order-1', 'order-2']) await manager.claim(name, 'a', 30_000)
    const groups = (await telemetry.points('lease.claim.duration')).map(({ attributes, value }) => [
      (attributes as Record<string, unknown>)['lease.group'],
      value,
    ])
    expect(groups).to.have.deep.members([
      [undefined, 1],
      ['order-*', 2],
    ])
    await manager.stop()
  })

  it('group the shares of a counted lease by its name, without the holder', async () => {
    const telemetry = begin({ groupOf: (name) => name })
    const { manager } = new Bench()
    await manager.hold('printers', 'SECRET', { duration: 30_000, share: { capacity: 2 } })
    const [point] = await telemetry.points('lease.hold.active')
    expect(point?.attributes).to.include({ 'lease.group': 'printers' })
    await manager.stop()
  })
})

describe('collapseName', () => {
  for (const [name, group] of [
    ['order-4711', 'order-*'],
    ['scheduler', 'scheduler'],
    ['job/9f86d081884c7d65/run', 'job/*/run'],
    ['user:6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'user:*'],
    ['v2/tenant-7/invoice-2026-11', 'v*/tenant-*/invoice-*-*'],
    ['deadbeef', 'deadbeef'],
    ['cafe0000', '*'],
  ] as const) {
    it(`makes ${group} of ${name}`, () => expect(collapseName(name)).to.equal(group))
  }
})
