import { diag, metrics, trace, type MeterProvider, type TracerProvider } from '@opentelemetry/api'
import { OptionReader } from 'lease-core/adapter'
import { startMetrics, type MetricsOptions } from './metrics.ts'
import { startSpans, type SpansOptions } from './spans.ts'
import { VERSION } from './version.ts'

/** Options of `instrument`. */
export interface InstrumentOptions {
  /** @default the global one of `@opentelemetry/api` */
  readonly meterProvider?: MeterProvider | undefined
  /** @default the global one of `@opentelemetry/api` */
  readonly tracerProvider?: TracerProvider | undefined
  /** false: no metrics. An object: further ones. @default true */
  readonly metrics?: boolean | MetricsOptions | undefined
  /** false: no spans. An object: further ones. @default true */
  readonly spans?: boolean | SpansOptions | undefined
  /**
   * The group of a lease by its name, for the attribute `lease.group` of metrics; undefined: none. At most 200 groups are kept apart, the
   * rest are `_other`. `collapseName` is one. @default no groups
   */
  readonly groupOf?: ((name: string) => string | undefined) | undefined
  /** The leases of elections: `lease.leader` says for each whether this process holds it. They appear by name on that metric. @default none */
  readonly names?: readonly string[] | undefined
  /** Whether spans show hashes instead of the names of leases and holders. A name that can be guessed can be tried. @default false */
  readonly hash?: boolean | undefined
}

/** A running instrumentation. */
export interface Instrumentation {
  /** Ends it. Idempotent. */
  stop(): void
}

const OPTIONS: readonly (keyof InstrumentOptions)[] = [
  'meterProvider',
  'tracerProvider',
  'metrics',
  'spans',
  'groupOf',
  'names',
  'hash',
]

/**
 * Makes metrics and spans of all managers and clients of this process, from now on. Call it before the first claim: a Hold that began earlier
 * is not counted. While it runs, another call counts nothing a second time: per meter provider there is one set of metrics, per tracer provider
 * one set of spans, those of the first call.
 *
 * It never throws into the library: what fails is reported to the diagnostics of OpenTelemetry (`diag`).
 *
 * @throws ErrNotValid with every problem
 */
export function instrument(options: InstrumentOptions = {}): Instrumentation {
  const reader = new OptionReader(options, OPTIONS)
  check(reader)
  reader.finish()
  const { read } = reader
  const { meterProvider = metrics, tracerProvider = trace, groupOf, names = [], hash = false } = read
  const ends: (() => void)[] = []
  if (read.metrics !== false && isFirst(meterProvider, 'metrics', ends)) {
    const meter = meterProvider.getMeter('lease-otel', VERSION)
    ends.push(startMetrics({ ...(read.metrics === true ? {} : read.metrics), meter, groupOf, names }))
  }
  if (read.spans !== false && isFirst(tracerProvider, 'spans', ends)) {
    const tracer = tracerProvider.getTracer('lease-otel', VERSION)
    ends.push(startSpans({ ...(read.spans === true ? {} : read.spans), tracer, hash }))
  }
  return { stop: () => ends.splice(0).forEach((end) => end()) }
}

/** The providers that have an instrumentation. */
const running = { metrics: new Set<object>(), spans: new Set<object>() }

/** Whether nobody else does it for this provider. */
function isFirst(provider: object, kind: keyof typeof running, ends: (() => void)[]): boolean {
  if (running[kind].has(provider)) {
    diag.warn(`lease-otel: instrument() was called before for this provider: its ${kind} are those of the first call`)
    return false
  }
  running[kind].add(provider)
  ends.push(() => void running[kind].delete(provider))
  return true
}

function check(options: OptionReader<InstrumentOptions>): void {
  const { meterProvider, tracerProvider, names } = options.read
  if (meterProvider !== undefined) options.object('meterProvider', METER_PROVIDER, ['getMeter'])
  if (tracerProvider !== undefined) options.object('tracerProvider', TRACER_PROVIDER, ['getTracer'])
  const { groupOf } = options.read
  const isGrouping = groupOf === undefined || typeof groupOf === 'function'
  options.must('groupOf', isGrouping, 'must be a function of a lease name, such as collapseName')
  const isList = Array.isArray(names) && names.every((name) => typeof name === 'string') && names.length <= MAX_NAMES
  options.must(
    'names',
    names === undefined || isList,
    `must be at most ${MAX_NAMES} names of leases: names: ['leader']`,
  )
  options.boolean('hash')
  checkFlags(options, 'metrics', ['checks', 'operations', 'clock'])
  checkFlags(options, 'spans', ['apply'])
}

/** What is to be given as a `meterProvider`. */
export const METER_PROVIDER = 'a MeterProvider, such as new MeterProvider({ readers }) of @opentelemetry/sdk-metrics'
const TRACER_PROVIDER =
  'a TracerProvider, such as new NodeTracerProvider({ spanProcessors }) of @opentelemetry/sdk-trace-node'
/** Elections are few. */
const MAX_NAMES = 200

function checkFlags(options: OptionReader, name: 'metrics' | 'spans', known: readonly string[]): void {
  const value = options.given(name)
  if (value === undefined || typeof value === 'boolean') return
  if (typeof value !== 'object' || value === null) {
    const flags = known.map((flag) => `${flag}: true`).join(', ')
    return options.fault(name, `must be true, false, or an object of flags: { ${flags} }`)
  }
  const flags = new OptionReader(value, known, { root: name })
  for (const flag of known) flags.boolean(flag)
  options.add(flags)
}
