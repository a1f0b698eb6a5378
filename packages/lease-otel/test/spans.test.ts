import { context, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import type { ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { expect } from 'chai'
import { MemoryGuard, traces, type ClaimTrace } from 'lease-core'
import type { Substrate } from 'lease-core/adapter'
import { track } from 'lease-core/testing'
import { withLease } from 'lease-recipes'
import type { InstrumentOptions } from '#src/index.ts'
import { Bench, Telemetry } from './bench.ts'

describe('The spans of lease-otel', () => {
  let telemetry: Telemetry | undefined
  const begin = (options: InstrumentOptions = {}): Telemetry =>
    (telemetry = new Telemetry({ metrics: false, ...options }))
  afterEach(() => telemetry?.stop())

  const named = (name: string): ReadableSpan[] => (telemetry?.spans ?? []).filter((span) => span.name === name)
  const one = (name: string): ReadableSpan => {
    const spans = named(name)
    expect(spans, name).to.have.length(1)
    return spans[0] as ReadableSpan
  }
  const isChild = (span: ReadableSpan, parent: ReadableSpan): boolean =>
    span.parentSpanContext?.spanId === parent.spanContext().spanId &&
    span.spanContext().traceId === parent.spanContext().traceId

  /** As the instrumentation of a driver does: a CLIENT span for each request. */
  const driver =
    (tracer: () => Telemetry) =>
    (inner: Substrate): Substrate => {
      const apply = inner.apply.bind(inner)
      inner.apply = async (ops, call) => {
        const kinds = ops.map(({ kind }) => kind).join(' ')
        const span = tracer().tracerProvider.getTracer('driver').startSpan(`store ${kinds}`, { kind: SpanKind.CLIENT })
        try {
          return await context.with(trace.setSpan(context.active(), span), () => apply(ops, call))
        } finally {
          span.end()
        }
      }
      return inner
    }

  it('a contended claim: the claim, its wait, and what the driver sent, in the trace of the caller', async () => {
    const telemetry = begin()
    const bench = new Bench({ around: driver(() => telemetry) })
    const { manager, clock } = bench
    const other = await bench.other().hold('invoices', 'first', { duration: 600_000 })
    telemetry.spanExporter.reset()
    const request = telemetry.tracerProvider.getTracer('app').startSpan('GET /invoices')
    const waiting = context.with(trace.setSpan(context.active(), request), () =>
      track(manager.hold('invoices', 'second', { duration: 30_000, wait: true })),
    )
    await clock.advance(60_000)
    await other.release()
    await clock.advance(1_000)
    expect(waiting.state).to.equal('fulfilled')
    request.end()

    const claim = one('lease.claim')
    expect(isChild(claim, one('GET /invoices'))).to.equal(true)
    expect(claim.kind).to.equal(SpanKind.INTERNAL)
    expect(claim.status.code).to.equal(SpanStatusCode.UNSET)
    expect(claim.attributes).to.deep.equal({
      'lease.name': 'invoices',
      'lease.holder': 'second',
      'db.system.name': 'memory',
      'lease.namespace': 'billing',
      'lease.outcome': 'granted',
      'lease.fencing_token': '2',
    })
    const wait = one('lease.wait')
    expect(isChild(wait, claim)).to.equal(true)
    expect(wait.attributes['lease.wait.place']).to.equal(1)
    expect(wait.attributes['lease.wait.attempts']).to.be.at.least(2)
    const claims = named('store claim')
    expect(claims).to.have.length.at.least(2)
    for (const span of claims) expect(isChild(span, claim)).to.equal(true)
    // The renewals of this Hold belong to no caller.
    await clock.advance(60_000)
    expect(named('store extend')).to.have.length.at.least(3)
    for (const span of named('store extend')) expect(span.parentSpanContext).to.equal(undefined)
    await manager.stop()
  })

  it('a claim that is denied says by whom the lease is held, and is no error', async () => {
    begin()
    const { manager } = new Bench()
    await manager.claim('db', 'a', 30_000)
    await manager.claim('db', 'a', 30_000)
    await manager.claim('db', 'b', 30_000).catch(() => {})
    const [granted, renewed, denied] = named('lease.claim') as [ReadableSpan, ReadableSpan, ReadableSpan]
    expect(granted.attributes).to.include({ 'lease.outcome': 'granted', 'lease.fencing_token': '1' })
    expect(renewed.attributes).to.include({ 'lease.outcome': 'renewed', 'lease.fencing_token': '1' })
    expect(denied.attributes).to.include({ 'lease.outcome': 'denied', 'lease.current_holder': 'a' })
    expect(denied.status.code).to.equal(SpanStatusCode.UNSET)
    expect(named('lease.wait')).to.deep.equal([])
    await manager.stop()
  })

  it('a call that may wait, and is granted at once, has no span of a wait', async () => {
    begin()
    const { manager } = new Bench()
    await manager.hold('db', 'a', { duration: 30_000, wait: true })
    expect(one('lease.claim').attributes['lease.outcome']).to.equal('granted')
    expect(named('lease.wait')).to.deep.equal([])
    await manager.stop()
  })

  it('a claim that failed is an error, with the same error.type as the metric; one that was aborted is none', async () => {
    begin()
    const { manager, clock, wire } = new Bench({ latency: 5 })
    const caller = new AbortController()
    track(manager.claim('db', 'a', 30_000, { signal: caller.signal }))
    await clock.advance(2)
    caller.abort()
    await clock.advance(1_000)
    wire.reject(new Error('away'))
    track(manager.claim('db', 'a', 30_000))
    await clock.advance(60_000)
    const [aborted, failed] = named('lease.claim') as [ReadableSpan, ReadableSpan]
    expect(aborted.attributes['lease.outcome']).to.equal('aborted')
    expect(aborted.status.code).to.equal(SpanStatusCode.UNSET)
    expect(failed.attributes['error.type']).to.equal('LEASE_UNKNOWN')
    expect(failed.attributes).to.not.have.property('lease.outcome')
    expect(failed.status.code).to.equal(SpanStatusCode.ERROR)
    expect(failed.status.message).to.include('db')
    await manager.stop()
  })

  it('names of leases and holders are hashed if that is asked for, in messages as well', async () => {
    const telemetry = begin({ hash: true })
    const { manager, clock, wire } = new Bench()
    await manager.claim('SECRET-lease', 'SECRET-a', 30_000)
    await manager.claim('SECRET-lease', 'SECRET-b', 30_000).catch(() => {})
    wire.reject(new Error('away'))
    track(manager.claim('SECRET-other', 'SECRET-a', 30_000))
    await clock.advance(60_000)
    const shown = JSON.stringify(
      telemetry.spans.map(({ attributes, status, events }) => ({ attributes, status, events })),
    )
    expect(shown).to.not.include('SECRET')
    const [first, second] = named('lease.claim') as [ReadableSpan, ReadableSpan]
    expect(first.attributes['lease.name']).to.match(/^[0-9a-f]{16}$/)
    expect(second.attributes['lease.name']).to.equal(first.attributes['lease.name'])
    expect(second.attributes['lease.current_holder']).to.equal(first.attributes['lease.holder'])
    await manager.stop()
  })

  it('work under a lease: around the work, with the spans of the work inside', async () => {
    const telemetry = begin()
    const { manager } = new Bench()
    const tracer = telemetry.tracerProvider.getTracer('app')
    await withLease(manager, 'db', { holder: 'a', duration: 30_000 }, async () => tracer.startSpan('write').end())
    const work = one('lease.with')
    expect(work.attributes).to.deep.equal({
      'lease.name': 'db',
      'lease.holder': 'a',
      'lease.fencing_token': '1',
      'lease.end': 'released',
    })
    expect(work.status.code).to.equal(SpanStatusCode.UNSET)
    expect(isChild(one('write'), work)).to.equal(true)
    expect(one('lease.release').attributes).to.include({ 'lease.name': 'db', 'lease.holder': 'a' })
    await manager.stop()
  })

  it('work whose lease was lost is an error, with an event that says why; so is work that throws', async () => {
    begin()
    const bench = new Bench()
    const { manager, clock } = bench
    const options = { holder: 'a', duration: 30_000 }
    const lost = track(
      withLease(
        manager,
        'db',
        options,
        ({ signal }) => new Promise<void>((end) => signal.addEventListener('abort', () => end())),
      ),
    )
    await clock.settle()
    await bench.other().revoke('db')
    await clock.settle()
    expect(lost.state).to.equal('fulfilled')
    await withLease(manager, 'x', options, () => Promise.reject(new TypeError('bad'))).catch(() => {})
    const [first, second] = named('lease.with') as [ReadableSpan, ReadableSpan]
    expect(first.attributes).to.include({ 'lease.end': 'lost', 'error.type': 'LEASE_LOST' })
    expect(first.status.code).to.equal(SpanStatusCode.ERROR)
    expect(first.events.map(({ name, attributes }) => ({ name, attributes }))).to.deep.equal([
      { name: 'lease.lost', attributes: { 'lease.loss.reason': 'revoked' } },
    ])
    expect(second.attributes).to.include({ 'lease.end': 'released', 'error.type': 'TypeError' })
    expect(second.status.code).to.equal(SpanStatusCode.ERROR)
    await manager.stop()
  })

  it('a release, a revocation, and a check with a key; a bare hold, its renewals and a check without a key have none', async () => {
    const telemetry = begin()
    const { manager, clock } = new Bench()
    const token = await manager.claim('db', 'a', 30_000)
    await token.check()
    await token.check(new MemoryGuard(() => 1))
    await manager.release('db', 'a')
    await token.check(new MemoryGuard(() => 1)).catch(() => {})
    await manager.hold('db', 'b', { duration: 30_000 })
    await clock.advance(60_000)
    await manager.revoke('db')
    expect(telemetry.spans.map(({ name }) => name)).to.deep.equal([
      'lease.claim',
      'lease.check',
      'lease.release',
      'lease.check',
      'lease.claim',
      'lease.revoke',
    ])
    const [held, notHeld] = named('lease.check') as [ReadableSpan, ReadableSpan]
    expect(held.attributes).to.include({ 'lease.outcome': 'held', 'lease.key': 'guard' })
    expect(notHeld.attributes).to.include({ 'lease.outcome': 'not_held' })
    expect(notHeld.status.code).to.equal(SpanStatusCode.UNSET)
    await manager.stop()
  })

  it('a release of what is not held, or that a stop gave up, is no error; nor is work that a stop ended', async () => {
    begin()
    const { manager, clock, wire } = new Bench()
    await manager.claim('db', 'a', 30_000)
    await manager.release('db', 'b').catch(() => {})
    const work = track(
      withLease(
        manager,
        'x',
        { holder: 'a', duration: 30_000 },
        ({ signal }) => new Promise<void>((end) => signal.addEventListener('abort', () => end())),
      ),
    )
    await clock.settle()
    wire.hang()
    track(manager.release('db', 'a'))
    await clock.settle()
    track(manager.stop())
    await clock.advance(60_000)
    expect(work.state).to.not.equal('pending')
    const [notHeld, aborted] = named('lease.release') as [ReadableSpan, ReadableSpan]
    expect(
      [notHeld, aborted].map(({ attributes, status }) => [attributes['lease.outcome'], status.code]),
    ).to.deep.equal([
      ['not_held', SpanStatusCode.UNSET],
      ['aborted', SpanStatusCode.UNSET],
    ])
    expect(one('lease.with').attributes['lease.end']).to.equal('stopped')
    expect(one('lease.with').status.code).to.equal(SpanStatusCode.UNSET)
  })

  it('what another instrumentation has put around a call stays there', async () => {
    let runs = 0
    const wrap = (message: unknown): void => {
      ;(message as ClaimTrace).around = (call) => {
        runs++
        return call()
      }
    }
    traces.claim.start.subscribe(wrap)
    try {
      begin()
      const { manager } = new Bench()
      await manager.claim('db', 'a', 30_000)
      expect([runs, one('lease.claim').attributes['lease.outcome']]).to.deep.equal([1, 'granted'])
      await manager.stop()
    } finally {
      traces.claim.start.unsubscribe(wrap)
    }
  })

  it('none are made after stop()', async () => {
    const telemetry = begin({ spans: { apply: true } })
    const { manager } = new Bench()
    telemetry.stop()
    const token = await manager.claim('db', 'a', 30_000)
    await token.check(new MemoryGuard(() => 1))
    await manager.release('db', 'a')
    expect(telemetry.spans).to.deep.equal([])
    await manager.stop()
  })

  it('a round trip links to the callers that share it, at most 32, and is the parent of what the driver sends', async () => {
    const telemetry = begin({ spans: { apply: true } })
    const { manager } = new Bench({ around: driver(() => telemetry) })
    const names = Array.from({ length: 40 }, (_, index) => `lease-${index}`)
    await Promise.all(names.map((name) => manager.claim(name, 'a', 30_000)))
    await manager.claim('alone', 'a', 30_000)
    const [many, single] = named('lease.apply') as [ReadableSpan, ReadableSpan]
    expect(many.parentSpanContext).to.equal(undefined)
    expect(many.attributes).to.include({ 'db.operation.batch.size': 40, 'lease.batch.kind': 'apply' })
    const claims = new Set(named('lease.claim').map((span) => span.spanContext().spanId))
    expect(many.links).to.have.length(32)
    expect(new Set(many.links.map(({ context }) => context.spanId)).size).to.equal(32)
    expect(many.links.every(({ context }) => claims.has(context.spanId))).to.equal(true)
    expect(single.attributes, 'one is no batch').to.not.have.property('db.operation.batch.size')
    expect(
      isChild(named('store claim')[0] as ReadableSpan, single) ||
        isChild(named('store claim')[1] as ReadableSpan, single),
    ).to.equal(true)
    await manager.stop()
  })
})
