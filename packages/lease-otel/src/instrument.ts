import { metrics, trace, type MeterProvider, type TracerProvider } from '@opentelemetry/api'
import { hasMethods, notValid, readOptions, type Problem } from 'lease-core'
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
   * The group of a lease by its name, for the attribute `lease.group` of metrics; undefined: none. At most 200 groups are told apart, the
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
 * is not counted. A second instrumentation counts everything a second time.
 *
 * It never throws into the library: what fails is reported to the diagnostics of OpenTelemetry (`diag`).
 *
 * @throws ErrNotValid with every problem
 */
export function instrument(options: InstrumentOptions = {}): Instrumentation {
  const { read, problems } = readOptions(options, OPTIONS)
  const broken = [...problems, ...problemsOf(read)]
  if (broken.length > 0) throw notValid(broken)
  const { meterProvider = metrics, tracerProvider = trace, groupOf, names = [], hash = false } = read
  const ends: (() => void)[] = []
  if (read.metrics !== false) {
    const meter = meterProvider.getMeter('lease-otel', VERSION)
    ends.push(startMetrics({ ...(read.metrics === true ? {} : read.metrics), meter, groupOf, names }))
  }
  if (read.spans !== false) {
    const tracer = tracerProvider.getTracer('lease-otel', VERSION)
    ends.push(startSpans({ ...(read.spans === true ? {} : read.spans), tracer, hash }))
  }
  return { stop: () => ends.splice(0).forEach((end) => end()) }
}

function problemsOf(options: InstrumentOptions): Problem[] {
  const { meterProvider, tracerProvider, groupOf, names, hash } = options
  const problems: Problem[] = []
  const must = (argument: string, isSound: boolean, rule: string, value: unknown): void => {
    if (!isSound) problems.push({ argument, rule, value })
  }
  must(
    'options.meterProvider',
    meterProvider === undefined || hasMethods(meterProvider, 'getMeter'),
    'must be a MeterProvider, such as new MeterProvider({ readers }) of @opentelemetry/sdk-metrics',
    meterProvider,
  )
  must(
    'options.tracerProvider',
    tracerProvider === undefined || hasMethods(tracerProvider, 'getTracer'),
    'must be a TracerProvider, such as new NodeTracerProvider({ spanProcessors }) of @opentelemetry/sdk-trace-node',
    tracerProvider,
  )
  must(
    'options.groupOf',
    groupOf === undefined || typeof groupOf === 'function',
    'must be a function of a lease name, such as collapseName',
    groupOf,
  )
  const isList = Array.isArray(names) && names.every((name) => typeof name === 'string') && names.length <= MAX_NAMES
  must(
    'options.names',
    names === undefined || isList,
    `must be at most ${MAX_NAMES} names of leases: names: ['leader']`,
    names,
  )
  must('options.hash', hash === undefined || typeof hash === 'boolean', 'must be true or false', hash)
  problems.push(...furtherProblems('metrics', options.metrics, ['checks', 'operations', 'clock']))
  problems.push(...furtherProblems('spans', options.spans, ['apply']))
  return problems
}

/** Elections are few. */
const MAX_NAMES = 200

function furtherProblems(argument: 'metrics' | 'spans', value: unknown, known: readonly string[]): Problem[] {
  if (value === undefined || typeof value === 'boolean') return []
  const flags = known.map((flag) => `${flag}: true`).join(', ')
  const rule = `must be true, false, or an object of flags: { ${flags} }`
  if (typeof value !== 'object' || value === null) return [{ argument: `options.${argument}`, rule, value }]
  return Object.entries(value)
    .filter(([flag, on]) => !known.includes(flag) || (on !== undefined && typeof on !== 'boolean'))
    .map(([flag, on]) => ({ argument: `options.${argument}.${flag}`, rule, value: on }))
}
