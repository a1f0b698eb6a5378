import { readFileSync } from 'node:fs'
import { diag, DiagLogLevel, metrics, trace } from '@opentelemetry/api'
import { expect } from 'chai'
import { ErrNotValid } from 'lease-core'
import { countLeases, health, instrument } from '#src/index.ts'
import { VERSION } from '#src/version.ts'
import { Bench, Telemetry } from './bench.ts'

describe('instrument', () => {
  it('names this package and its version as the scope', async () => {
    const { version } = JSON.parse(readFileSync('packages/lease-otel/package.json', 'utf8')) as { version: string }
    expect(VERSION).to.equal(version)
  })

  it('refuses options that break a rule, all at once, with what to write', () => {
    const bad = {
      meterProvider: {},
      tracerProvider: 1,
      groupOf: 'x',
      names: 'leader',
      hash: 'yes',
      metrics: { cheks: true },
      spans: 3,
      unknown: 1,
    }
    let error: unknown
    try {
      instrument(bad as never)
    } catch (thrown) {
      error = thrown
    }
    expect(error).to.be.instanceOf(ErrNotValid)
    const { message } = error as Error
    for (const word of [
      'meterProvider must',
      'tracerProvider must',
      'collapseName',
      "names: ['leader']",
      'hash must',
      'metrics.cheks is not an option',
      'spans must',
      'unknown is not an option',
    ]) {
      expect(message).to.include(word)
    }
    expect(() => health({} as never, { tolerance: -1 })).to.throw(ErrNotValid, 'tolerance must be greater than zero')
    expect(() => countLeases({} as never)).to.throw(ErrNotValid, 'must be a Manager')
  })

  it('counts nothing twice when it is called twice for one provider, and says so', async () => {
    const telemetry = new Telemetry()
    const told: string[] = []
    const ignore = (): void => {}
    const logger = { error: ignore, info: ignore, debug: ignore, verbose: ignore }
    diag.setLogger({ ...logger, warn: (message) => void told.push(message) }, DiagLogLevel.WARN)
    const { meterProvider, tracerProvider } = telemetry
    const second = instrument({ meterProvider, tracerProvider })
    diag.disable()
    const { manager } = new Bench()
    await manager.claim('db', 'a', 30_000)
    expect((await telemetry.points('lease.claim.duration')).map(({ value }) => value)).to.deep.equal([1])
    expect(telemetry.spanExporter.getFinishedSpans().filter(({ name }) => name === 'lease.claim')).to.have.length(1)
    expect(told.join()).to.contain('instrument() was called before')
    second.stop()
    await manager.claim('db', 'a', 30_000)
    expect((await telemetry.points('lease.claim.duration')).map(({ value }) => value)).to.deep.equal([1, 1])
    await manager.stop()
    telemetry.stop()
  })

  it('takes the global providers of the API unless others are given', async () => {
    metrics.disable()
    trace.disable()
    const telemetry = new Telemetry({ metrics: false, spans: false })
    metrics.setGlobalMeterProvider(telemetry.meterProvider)
    trace.setGlobalTracerProvider(telemetry.tracerProvider)
    const instrumentation = instrument()
    const { manager } = new Bench()
    try {
      await manager.claim('db', 'a', 30_000)
      expect(await telemetry.points('lease.claim.duration')).to.have.length(1)
      const [span] = telemetry.spans
      expect(span?.name).to.equal('lease.claim')
      expect(span?.instrumentationScope).to.include({ name: 'lease-otel', version: VERSION })
    } finally {
      instrumentation.stop()
      instrumentation.stop()
      metrics.disable()
      trace.disable()
      telemetry.stop()
      await manager.stop()
    }
  })

  it('never throws into the library: what an instrument or a tracer throws goes to the diagnostics', async () => {
    const reported: string[] = []
    const log = (message: string): void => void reported.push(message)
    diag.setLogger(
      { error: log, warn: log, info: log, debug: log, verbose: log },
      { logLevel: DiagLogLevel.ALL, suppressOverrideMessage: true },
    )
    const fail = (): never => {
      throw new Error('broken')
    }
    const broken = { add: fail, record: fail, addCallback: () => {}, removeCallback: () => {} }
    const meter = {
      createHistogram: () => broken,
      createCounter: () => broken,
      createUpDownCounter: () => broken,
      createObservableGauge: () => broken,
    }
    const instrumentation = instrument({
      meterProvider: { getMeter: () => meter } as never,
      tracerProvider: { getTracer: () => ({ startSpan: fail, startActiveSpan: fail }) },
      metrics: { checks: true, operations: true },
      spans: { apply: true },
    })
    const { manager, clock } = new Bench()
    try {
      const token = await manager.claim('db', 'a', 30_000)
      await token.check()
      const hold = await manager.hold('x', 'a', { duration: 30_000, wait: true })
      await clock.advance(60_000)
      expect(hold.held).to.equal(true)
      await hold.release()
      await manager.stop()
      expect(reported.filter((message) => message === 'lease-otel: a listener threw')).to.have.length.above(5)
    } finally {
      instrumentation.stop()
      diag.disable()
    }
  })
})
