/**
 * The metrics. Each instrument is created once, at the start. Those that follow every check, or time what drivers time as well, are made only if
 * they are asked for.
 */
import {
  ValueType,
  type Attributes,
  type Histogram,
  type Meter,
  type UpDownCounter,
  type Counter,
} from '@opentelemetry/api'
import {
  ErrClaimDenied,
  ErrNotHeld,
  ErrStopped,
  LeaseError,
  systemClock,
  traces,
  type ClaimTrace,
  type HoldTrace,
  type LeaseEvent,
  type LossReason,
} from 'lease-core'
import { MetricAttributes, Values } from './attributes.ts'
import { onEvent, onTrace } from './channels.ts'
import { keyKindOf } from './key-kind.ts'
import { Leaders } from './leaders.ts'
import { Ends, safely } from './safely.ts'

/** Which metrics, beside the usual ones. */
export interface MetricsOptions {
  /** `lease.checks`: costs something for each check. @default false */
  readonly checks?: boolean | undefined
  /** `lease.operation.duration`: instrumentations of the drivers time the same calls. @default false */
  readonly operations?: boolean | undefined
  /** `lease.clock.divergence`. @default false */
  readonly clock?: boolean | undefined
}

export interface MetricsParts extends MetricsOptions {
  readonly meter: Meter
  readonly groupOf: ((name: string) => string | undefined) | undefined
  readonly names: readonly string[]
}

const STORE_CALL_S = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
const WAIT_S = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600]
const HOLD_S = [0.1, 1, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400]
const DELAY_S = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5]
const SHARES = [0.05, 0.1, 0.2, 0.33, 0.5, 0.67]
const SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
const LOSSES: readonly LossReason[] = ['expired', 'taken', 'revoked', 'unreachable']

/** Feeds the instruments until it is stopped. */
export function startMetrics(parts: MetricsParts): () => void {
  const ends = new Ends()
  const attributes = new MetricAttributes(parts.groupOf)
  const { meter } = parts
  claims(meter, attributes, ends)
  holds(meter, attributes, ends)
  renewals(meter, attributes, ends)
  counts(meter, attributes, ends)
  batches(meter, attributes, ends)
  if (parts.names.length > 0) ends.add(new Leaders(meter, parts.names).start())
  if (parts.checks === true) checks(meter, attributes, ends)
  if (parts.operations === true) operations(meter, attributes, ends)
  if (parts.clock === true) clockDivergence(meter, ends)
  return () => ends.run()
}

function histogram(
  meter: Meter,
  name: string,
  description: string,
  unit: string,
  explicitBucketBoundaries: number[],
): Histogram {
  return meter.createHistogram(name, {
    description,
    unit,
    valueType: ValueType.DOUBLE,
    advice: { explicitBucketBoundaries },
  })
}

function claims(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const duration = histogram(
    meter,
    'lease.claim.duration',
    'Time from a claim to its answer. Of a call that waits: its first refusal and its grant.',
    's',
    STORE_CALL_S,
  )
  const wait = histogram(meter, 'lease.wait.duration', 'Time that a call which may wait was in the queue.', 's', WAIT_S)
  const waiting = meter.createUpDownCounter('lease.wait.active', {
    description: 'Calls in the queue of this process.',
    unit: '{waiter}',
    valueType: ValueType.INT,
  })
  ends.add(
    onEvent('claimed', (event) => {
      const outcome = event.renewed ? 'renewed' : 'granted'
      if (event.tookMs !== undefined) {
        duration.record(event.tookMs / 1000, { ...attributes.of(event, event.lease), 'lease.outcome': outcome })
      }
    }),
  )
  ends.add(
    onEvent('denied', (event) => {
      if (event.tookMs === undefined) return
      duration.record(event.tookMs / 1000, { ...attributes.of(event, event.lease), 'lease.outcome': 'denied' })
    }),
  )
  const waiters = new WeakMap<ClaimTrace, Attributes>()
  ends.add(
    onTrace(traces.claim, {
      start: (trace) => {
        if (!trace.waits) return
        const own = attributes.of(trace, trace.leases[0])
        waiters.set(trace, own)
        waiting.add(1, own)
      },
      asyncEnd: (trace) => {
        const { error, tookMs = 0 } = trace
        const own = waiters.get(trace) ?? attributes.of(trace, trace.leases[0])
        const outcome = outcomeOf(trace)
        const how = outcome === undefined ? { 'error.type': attributes.errorType(error) } : { 'lease.outcome': outcome }
        if (waiters.delete(trace)) {
          waiting.add(-1, own)
          wait.record((trace.waitedMs ?? tookMs) / 1000, { ...own, ...how, ...(outcome === 'renewed' && GRANTED) })
        } else if (!trace.waits && error !== undefined && outcome !== 'denied') {
          duration.record(tookMs / 1000, { ...own, ...how }) // the others are events
        }
      },
    }),
  )
}

const GRANTED = { 'lease.outcome': 'granted' }

/** undefined: it failed. */
export function outcomeOf({ error, renewed }: ClaimTrace): 'granted' | 'renewed' | 'denied' | 'aborted' | undefined {
  if (error === undefined) return renewed === true ? 'renewed' : 'granted'
  if (error instanceof ErrClaimDenied) return 'denied'
  // What is no error of the library is the reason of the caller's signal.
  return error instanceof ErrStopped || !(error instanceof LeaseError) ? 'aborted' : undefined
}

function holds(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const active = meter.createUpDownCounter('lease.hold.active', {
    description: 'Holds of this process.',
    unit: '{hold}',
    valueType: ValueType.INT,
  })
  const duration = histogram(meter, 'lease.hold.duration', 'Time from the claim of a Hold to its end.', 's', HOLD_S)
  const losses = meter.createCounter('lease.losses', {
    description: 'Holds that ended unasked, except by a stop of their manager.',
    unit: '{loss}',
    valueType: ValueType.INT,
  })
  const registered = new Set<string>()
  /** So that the first loss is an increase. */
  const register = (own: Attributes): void => {
    const key = JSON.stringify(own)
    if (registered.has(key)) return
    registered.add(key)
    for (const reason of LOSSES) losses.add(0, { ...own, 'lease.loss.reason': reason })
  }
  const known = new WeakMap<HoldTrace, Attributes>()
  ends.add(
    onTrace(traces.hold, {
      start: (trace) => {
        const own = attributes.of(trace, trace.lease)
        known.set(trace, own)
        active.add(1, own)
        register(own)
      },
      asyncStart: (trace) => {
        const own = known.get(trace)
        if (own === undefined) return // it began before the instruments did
        known.delete(trace)
        active.add(-1, own)
        duration.record((trace.heldMs ?? 0) / 1000, { ...own, 'lease.end': trace.outcome ?? 'released' })
      },
    }),
  )
  ends.add(
    onEvent('lost', (event) => {
      if (event.stopped === true) return
      const own = attributes.of(event, event.lease)
      register(own)
      losses.add(1, { ...own, 'lease.loss.reason': event.reason })
    }),
  )
}

function renewals(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const duration = histogram(meter, 'lease.renewal.duration', 'Time from a renewal to its answer.', 's', STORE_CALL_S)
  const margin = histogram(
    meter,
    'lease.renewal.margin',
    'Share of the trust window that was left when a renewal was confirmed. Below 0.2 the store or the event loop is slow.',
    '1',
    SHARES,
  )
  const delay = histogram(
    meter,
    'lease.renewal.delay',
    'Time from when a renewal was due to when it was sent. High: the event loop is blocked.',
    's',
    DELAY_S,
  )
  ends.add(
    onEvent('renewed', (event) => {
      const own = attributes.of(event, event.lease)
      duration.record(event.tookMs / 1000, own)
      margin.record(event.margin, own)
      if (event.delayMs !== undefined) delay.record(event.delayMs / 1000, own)
    }),
  )
  ends.add(
    onEvent('retrying', (event) => {
      if (event.operation !== 'renewal' || event.tookMs === undefined) return
      const own = attributes.of(event, event.lease)
      duration.record(event.tookMs / 1000, { ...own, 'error.type': attributes.errorType(event.cause) })
    }),
  )
}

function counts(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const counter = (name: string, description: string, unit: string): Counter =>
    meter.createCounter(name, { description, unit, valueType: ValueType.INT })
  const retries = counter('lease.retries', 'Work in the background that failed and is tried again.', '{retry}')
  const revocations = counter('lease.revocations', 'Leases that this process revoked.', '{revocation}')
  const warnings = counter(
    'lease.warnings',
    'Warnings about the set-up of the store, or a store that is away.',
    '{warning}',
  )
  const resyncs = counter(
    'lease.hint.resyncs',
    'How often everything was read again because hints may be lost.',
    '{resync}',
  )
  const words = new Values()
  ends.add(
    onEvent('retrying', (event) => {
      const type = { 'lease.operation': event.operation, 'error.type': attributes.errorType(event.cause) }
      retries.add(1, { ...attributes.of(event, event.lease), ...type })
    }),
  )
  ends.add(onEvent('revoked', (event) => revocations.add(1, attributes.of(event, event.lease))))
  ends.add(
    onEvent('warning', (event) =>
      warnings.add(1, { ...attributes.of(event), 'lease.warning': words.of(event.warning) }),
    ),
  )
  ends.add(onEvent('resync', (event) => resyncs.add(1, attributes.of(event))))
}

function batches(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const size = meter.createHistogram('lease.batch.size', {
    description: 'Operations, or leases read, in one round trip.',
    unit: '{operation}',
    valueType: ValueType.INT,
    advice: { explicitBucketBoundaries: SIZES },
  })
  const pending = new Pending(
    meter.createUpDownCounter('lease.operation.pending', {
      description: 'Operations and reads that wait for a round trip.',
      unit: '{operation}',
      valueType: ValueType.INT,
    }),
  )
  ends.add(
    onEvent('batch', (event) => {
      const own = attributes.of(event)
      size.record(event.size, { ...own, 'lease.batch.kind': event.kind })
      pending.note(event, own)
    }),
  )
}

/** How many wait, in all queues of the process. */
class Pending {
  readonly #counter: UpDownCounter
  /** Of each queue with any, as it was heard last. */
  readonly #waiting = new Map<number, number>()

  constructor(counter: UpDownCounter) {
    this.#counter = counter
  }

  note({ queue, waiting }: LeaseEvent & { readonly type: 'batch' }, own: Attributes): void {
    this.#counter.add(waiting - (this.#waiting.get(queue) ?? 0), own)
    if (waiting > 0) this.#waiting.set(queue, waiting)
    else this.#waiting.delete(queue)
  }
}

function checks(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const checked = meter.createCounter('lease.checks', {
    description: 'Checks of tokens.',
    unit: '{check}',
    valueType: ValueType.INT,
  })
  ends.add(
    onTrace(traces.check, {
      asyncEnd: (trace) => {
        const { error } = trace
        const own = { ...attributes.of(trace, trace.lease), 'lease.key': keyKindOf(trace.key) }
        if (error === undefined) checked.add(1, { ...own, 'lease.outcome': 'held' })
        else if (error instanceof ErrNotHeld) checked.add(1, { ...own, 'lease.outcome': 'not_held' })
        else checked.add(1, { ...own, 'error.type': attributes.errorType(error) })
      },
    }),
  )
}

function operations(meter: Meter, attributes: MetricAttributes, ends: Ends): void {
  const duration = histogram(
    meter,
    'lease.operation.duration',
    'Time of one round trip to the store.',
    's',
    STORE_CALL_S,
  )
  ends.add(
    onEvent('batch', (event) => {
      const failed = event.error === undefined ? {} : { 'error.type': attributes.errorType(event.error) }
      duration.record(event.tookMs / 1000, { ...attributes.of(event), 'lease.batch.kind': event.kind, ...failed })
    }),
  )
}

function clockDivergence(meter: Meter, ends: Ends): void {
  const apartMs = (): number => systemClock.now() - systemClock.monotonic()
  let lastMs = apartMs()
  const gauge = meter.createObservableGauge('lease.clock.divergence', {
    description: 'How far the wall clock and the monotonic clock have parted since the last reading.',
    unit: 's',
    valueType: ValueType.DOUBLE,
  })
  const observe = safely((result: { observe(value: number): void }) => {
    const nowMs = apartMs()
    result.observe((nowMs - lastMs) / 1000)
    lastMs = nowMs
  })
  gauge.addCallback(observe)
  ends.add(() => gauge.removeCallback(observe))
}
