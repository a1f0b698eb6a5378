/**
 * The spans. A call runs in the context of its span, so that what the driver sends for it becomes a child. Renewals make no spans, and a bare
 * `hold` none for its life: it may last for weeks.
 */
import {
  context,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace as api,
  type Attributes,
  type Link,
  type Span,
  type SpanOptions,
  type Tracer,
} from '@opentelemetry/api'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  onAbort,
  reasonOf,
  systemClock,
  traces,
  type ApplyTrace,
  type CallTrace,
  type ClaimTrace,
  type HoldTrace,
  type WorkTrace,
} from 'lease-core'
import { errorTypeOf, hashed } from './attributes.ts'
import { onTrace } from './channels.ts'
import { keyKindOf } from './key-kind.ts'
import { outcomeOf } from './metrics.ts'
import { Ends } from './safely.ts'

/** Which spans, beside the usual ones. */
export interface SpansOptions {
  /** `lease.apply`: one for each round trip, with links to the callers that share it. @default false */
  readonly apply?: boolean | undefined
}

export interface SpansParts extends SpansOptions {
  readonly tracer: Tracer
  /** Whether names of leases and holders are hashed. */
  readonly hash: boolean
}

/** A span links to so many of those whose operations it carries. */
const MAX_LINKS = 32

/** Makes spans until it is stopped. */
export function startSpans(parts: SpansParts): () => void {
  const ends = new Ends()
  const spans = new Spans(parts)
  spans.claims(ends)
  spans.releases(ends)
  spans.checks(ends)
  spans.work(ends)
  if (parts.apply === true) spans.round(ends)
  return () => ends.run()
}

class Spans {
  readonly #tracer: Tracer
  readonly #hash: boolean
  readonly #open = new WeakMap<CallTrace, Span>()

  constructor({ tracer, hash }: SpansParts) {
    this.#tracer = tracer
    this.#hash = hash
  }

  claims(ends: Ends): void {
    const begun = new WeakMap<ClaimTrace, number>()
    ends.add(
      onTrace(traces.claim, {
        start: (trace) => {
          const { leases, holder } = trace
          const [only = ''] = leases
          const name = leases.length === 1 ? { 'lease.name': this.#name(only) } : {}
          this.#start('lease.claim', trace, { ...name, 'lease.holder': this.#name(holder) })
          if (trace.waits) begun.set(trace, systemClock.monotonic())
        },
        asyncEnd: (trace) => {
          const span = this.#open.get(trace)
          if (span === undefined) return
          const startTime = begun.get(trace)
          if (startTime !== undefined && hasWaited(trace)) this.#waited(trace, span, startTime)
          const outcome = outcomeOf(trace)
          if (outcome === undefined) this.#fail(span, trace.error)
          else span.setAttribute('lease.outcome', outcome)
          const { error } = trace
          const current = error instanceof ErrClaimDenied ? error.currentHolder : undefined
          if (current !== undefined) span.setAttribute('lease.current_holder', this.#name(current))
          const { lease, fencingToken } = (trace.result ?? {}) as Partial<Pick<HoldTrace, 'lease' | 'fencingToken'>>
          if (lease !== undefined) span.setAttribute('lease.name', this.#name(lease))
          if (fencingToken !== undefined) span.setAttribute('lease.fencing_token', String(fencingToken))
          span.end()
        },
      }),
    )
  }

  /** Made when the wait is over: most calls that may wait do not. */
  #waited({ attempts, position, waitedMs = 0 }: ClaimTrace, parent: Span, startTime: number): void {
    const attributes: Attributes = {}
    if (position !== undefined) attributes['lease.wait.place'] = position
    if (attempts !== undefined) attributes['lease.wait.attempts'] = attempts
    const options = { kind: SpanKind.INTERNAL, attributes, startTime }
    const span = this.#tracer.startSpan('lease.wait', options, api.setSpan(context.active(), parent))
    span.end(startTime + waitedMs)
  }

  releases(ends: Ends): void {
    ends.add(
      onTrace(traces.release, {
        start: (trace) => this.#start(`lease.${trace.call}`, trace, this.#names(trace)),
        asyncEnd: (trace) => {
          this.#end(trace, (span) => {
            if (trace.error === undefined) return
            if (trace.error instanceof ErrNotHeld) span.setAttribute('lease.outcome', 'not_held')
            else if (isAbort(trace.error)) span.setAttribute('lease.outcome', 'aborted')
            else this.#fail(span, trace.error)
          })
        },
      }),
    )
  }

  checks(ends: Ends): void {
    ends.add(
      onTrace(traces.check, {
        start: (trace) => {
          if (trace.key === undefined) return
          this.#start('lease.check', trace, { ...this.#names(trace), 'lease.key': keyKindOf(trace.key) })
        },
        asyncEnd: (trace) => {
          this.#end(trace, (span) => {
            if (trace.error === undefined) span.setAttribute('lease.outcome', 'held')
            else if (trace.error instanceof ErrNotHeld) span.setAttribute('lease.outcome', 'not_held')
            else this.#fail(span, trace.error)
          })
        },
      }),
    )
  }

  work(ends: Ends): void {
    const listening = new WeakMap<WorkTrace, () => void>()
    ends.add(
      onTrace(traces.work, {
        start: (trace) => {
          const { lease, holder, fencingToken, signal } = trace
          const names = this.#names({ lease, holder })
          const span = this.#start('lease.with', trace, { ...names, 'lease.fencing_token': String(fencingToken) })
          const onEnd = (): void => {
            const { reason } = signal as { readonly reason: unknown }
            if (endOf(reason) === 'lost')
              span.addEvent('lease.lost', { 'lease.loss.reason': (reason as ErrLost).reason })
          }
          listening.set(trace, onAbort(signal, onEnd))
        },
        asyncEnd: (trace) => {
          listening.get(trace)?.()
          this.#end(trace, (span) => {
            const { signal, error } = trace
            const end = signal.aborted ? endOf(signal.reason) : 'released'
            span.setAttribute('lease.end', end)
            if (error !== undefined) this.#fail(span, error)
            else if (end === 'lost') this.#fail(span, signal.reason)
          })
        },
      }),
    )
  }

  /** Round trips. */
  round(ends: Ends): void {
    ends.add(
      onTrace(traces.apply, {
        start: (trace) => {
          const links = linksTo(trace)
          const size = trace.size >= 2 ? { 'db.operation.batch.size': trace.size } : {}
          this.#start('lease.apply', trace, { 'lease.batch.kind': trace.kind, ...size }, { root: true, links })
        },
        asyncEnd: (trace) => {
          this.#end(trace, (span) => {
            if (trace.failure !== undefined) this.#fail(span, trace.failure)
          })
        },
      }),
    )
  }

  /** Begins a span, and runs the call in its context. */
  #start(name: string, trace: CallTrace, attributes: Attributes, options: SpanOptions = {}): Span {
    const { system, namespace } = trace
    const parent = options.root === true ? ROOT_CONTEXT : context.active()
    const about = {
      ...attributes,
      ...(system !== undefined && { 'db.system.name': system }),
      ...(namespace !== undefined && { 'lease.namespace': namespace }),
    }
    const span = this.#tracer.startSpan(name, { kind: SpanKind.INTERNAL, ...options, attributes: about }, parent)
    this.#open.set(trace, span)
    const within = api.setSpan(parent, span)
    const { around } = trace
    trace.around = (call) => context.with(within, around === undefined ? call : () => around(call))
    return span
  }

  #end(trace: CallTrace, complete: (span: Span) => void): void {
    const span = this.#open.get(trace)
    if (span === undefined) return
    this.#open.delete(trace)
    complete(span)
    span.end()
  }

  #fail(span: Span, error: unknown): void {
    const type = errorTypeOf(error)
    span.setAttribute('error.type', type)
    // A message names leases and holders.
    span.setStatus({ code: SpanStatusCode.ERROR, message: this.#hash ? type : reasonOf(error) })
  }

  #names({ lease, holder }: { readonly lease: string | undefined; readonly holder: string | undefined }): Attributes {
    return {
      ...(lease !== undefined && { 'lease.name': this.#name(lease) }),
      ...(holder !== undefined && { 'lease.holder': this.#name(holder) }),
    }
  }

  #name(name: string): string {
    return this.#hash ? hashed(name) : name
  }
}

/** A call that was granted by its first claim has not waited. */
function hasWaited({ attempts = 0, position, error }: ClaimTrace): boolean {
  return attempts > 1 || position !== undefined || error !== undefined
}

function isAbort(error: unknown): boolean {
  return error instanceof ErrStopped || (error as { name?: unknown } | null)?.name === 'AbortError'
}

function endOf(reason: unknown): 'released' | 'lost' | 'stopped' {
  if (!(reason instanceof ErrLost)) return 'released'
  return reason.cause instanceof ErrStopped ? 'stopped' : 'lost'
}

function linksTo({ callers }: ApplyTrace): Link[] {
  const links = new Map<string, Link>()
  for (const caller of callers) {
    const spanContext = caller.runInAsyncScope(() => api.getSpanContext(context.active()))
    if (spanContext !== undefined) links.set(spanContext.spanId, { context: spanContext })
    if (links.size >= MAX_LINKS) break
  }
  return [...links.values()]
}
