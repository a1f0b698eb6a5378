/** What the tests share: a store in memory on a test clock, and the SDK of OpenTelemetry in memory. */
import { context } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import {
  MeterProvider,
  MetricReader,
  type DataPoint,
  type Histogram,
  type MetricData,
} from '@opentelemetry/sdk-metrics'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
  type ReadableSpan,
} from '@opentelemetry/sdk-trace-base'
import { Manager, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient, type Substrate } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, type FaultySubstrateOptions } from 'lease-core/testing'
import { instrument, type Instrumentation, type InstrumentOptions } from '#src/index.ts'

/** Is read on demand. */
class Reader extends MetricReader {
  protected override async onShutdown(): Promise<void> {}
  protected override async onForceFlush(): Promise<void> {}
}

/** One instrumentation with its metrics and spans. */
export class Telemetry {
  readonly #reader = new Reader()
  readonly spanExporter: InMemorySpanExporter = new InMemorySpanExporter()
  readonly meterProvider: MeterProvider = new MeterProvider({ readers: [this.#reader] })
  readonly tracerProvider: BasicTracerProvider = new BasicTracerProvider({
    spanProcessors: [new SimpleSpanProcessor(this.spanExporter)],
  })
  #instrumentation: Instrumentation | undefined

  constructor(options: InstrumentOptions = {}) {
    context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
    const { meterProvider, tracerProvider } = this
    this.#instrumentation = instrument({ meterProvider, tracerProvider, ...options })
  }

  /** By name. */
  async metrics(): Promise<ReadonlyMap<string, MetricData>> {
    const { resourceMetrics, errors } = await this.#reader.collect()
    if (errors.length > 0) throw errors[0]
    return new Map(
      resourceMetrics.scopeMetrics.flatMap(({ metrics }) => metrics.map((one) => [one.descriptor.name, one] as const)),
    )
  }

  /** Attributes and values of one metric; of a histogram how many, and their sum. */
  async points(
    name: string,
  ): Promise<readonly { readonly attributes: object; readonly value: number; readonly sum?: number | undefined }[]> {
    const metric = (await this.metrics()).get(name)
    const points = (metric?.dataPoints ?? []) as readonly DataPoint<number | Histogram>[]
    return points.map(({ attributes, value }) =>
      typeof value === 'number' ? { attributes, value } : { attributes, value: value.count, sum: value.sum },
    )
  }

  get spans(): readonly ReadableSpan[] {
    return this.spanExporter.getFinishedSpans()
  }

  stop(): void {
    this.#instrumentation?.stop()
    this.#instrumentation = undefined
    context.disable()
  }
}

/** One process at a store in memory, and others at the same store. */
export class Bench {
  readonly clock: TestClock = new TestClock()
  readonly store: MemoryStore = new MemoryStore({ clock: this.clock })
  readonly wire: FaultySubstrate
  readonly client: SubstrateClient
  readonly manager: Manager

  readonly #namespace: string

  constructor(
    options: FaultySubstrateOptions & {
      readonly around?: (substrate: Substrate) => Substrate
      readonly namespace?: string
    } = {},
  ) {
    const { around = (substrate: Substrate) => substrate, namespace = 'billing', ...faults } = options
    this.#namespace = namespace
    const substrate = around(new MemorySubstrate({ store: this.store, namespace }))
    this.wire = new FaultySubstrate(substrate, { clock: this.clock, ...faults })
    this.client = new SubstrateClient({ substrate: this.wire, clock: this.clock })
    this.manager = new Manager({ client: this.client, clock: this.clock })
  }

  /** Another process. */
  other(): Manager {
    const substrate = new MemorySubstrate({ store: this.store, namespace: this.#namespace })
    return new Manager({ client: new SubstrateClient({ substrate, clock: this.clock }), clock: this.clock })
  }
}
