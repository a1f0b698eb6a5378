/**
 * Tracing channels of `node:diagnostics_channel`, one for each kind of call: who subscribes learns when a call begins and ends, and can bind
 * the context of its spans. `tracing:lease-core:<name>:<start | end | asyncStart | asyncEnd | error>` carries one object for each call, which
 * is filled as the call goes on. Nothing is made, and no clock is read, for a channel without subscribers.
 *
 * Background work (renewals, reads, the claims of waiters that something else woke) belongs to no call: it must not inherit the
 * `AsyncLocalStorage` context of the caller that happened to start it (`withoutContext`).
 */
import { AsyncResource } from 'node:async_hooks'
import { tracingChannel, type TracingChannel } from 'node:diagnostics_channel'
import type { Clock } from './clock.ts'
import type { LossReason } from './errors.ts'

/** What all objects of these channels say. */
export interface CallTrace {
  /** The kind of the store, as in `db.system.name` of OpenTelemetry. undefined: the client does not say. */
  readonly system?: string | undefined
  /** undefined: the client does not say. */
  readonly namespace?: string | undefined
  /** Milliseconds from the call to its end. */
  tookMs?: number
  /** What the call resolved with. */
  readonly result?: unknown
  /** What the call rejected with. */
  readonly error?: unknown
  /**
   * How to run the call: a subscriber may set it at `start`, for instance to run the call in the context of its span. It calls back once, and
   * returns what that returns. Who sets it includes the one that was there before.
   */
  around?: (<T>(call: () => T) => T) | undefined
}

/** One call of `claim`, `hold` or `holdAny`, from the call to its end. */
export interface ClaimTrace extends CallTrace {
  readonly manager: object
  readonly call: 'claim' | 'hold' | 'holdAny'
  /** The names that were given; of a share the name of the counted lease. */
  readonly leases: readonly string[]
  readonly holder: string
  /** Whether it waits when another has the lease. */
  readonly waits: boolean
  /** Whether it extended a term that the holder had. undefined: it was not granted. */
  renewed?: boolean
  /** Of a call that waits: how long it was in the queue, in milliseconds. */
  waitedMs?: number
  /** Of a call that waits: how many claims were sent for it. */
  attempts?: number
  /** Of a call that waits: the first position that it got; 1 is next. undefined: it got none. */
  position?: number
}

/**
 * One Hold: `start` and `end` when it begins, `error` when it is lost, `asyncStart` when it is over, `asyncEnd` when its user has let go of
 * it, by `release()` or `await using`. That may come after a loss, when the work has ended.
 */
export interface HoldTrace extends CallTrace {
  readonly manager: object
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  /** The Hold itself. */
  readonly hold: object
  /** How it ended; undefined while it lives. `stopped`: with its manager. */
  outcome?: 'released' | 'lost' | 'stopped'
  /** Why it was lost. */
  reason?: LossReason
  /** Milliseconds from when its claim was sent to its end. */
  heldMs?: number
  error?: unknown
}

/** One call of `release` or `revoke` of a manager, or the `release` of a Hold that is sent. */
export interface ReleaseTrace extends CallTrace {
  readonly manager: object
  readonly call: 'release' | 'revoke'
  readonly lease: string
  /** undefined: a revocation, no matter who holds it. */
  readonly holder: string | undefined
}

/** One check of a token. */
export interface CheckTrace extends CallTrace {
  readonly manager: object
  readonly lease: string
  readonly holder: string
  /** The trapdoor key, if one was given. */
  readonly key: unknown
}

/** Work that runs under a lease: its `signal` aborts when the lease is lost. A package that runs work under a lease publishes it. */
export interface WorkTrace extends CallTrace {
  readonly lease: string | undefined
  readonly holder: string | undefined
  readonly fencingToken: bigint
  readonly signal: AbortSignal
}

/** One round trip to the store. */
export interface ApplyTrace extends CallTrace {
  readonly kind: 'apply' | 'read'
  /** How many operations, or leases, travel in it. */
  readonly size: number
  /** How many wait for a round trip of their own. */
  readonly waiting: number
  /** Names the queue of this process that it was taken from. */
  readonly queue: number
  /** The contexts of those who asked for it, as far as the channel had subscribers by then. */
  readonly callers: readonly AsyncResource[]
  /** Why there was no answer. undefined: there was one. */
  failure?: unknown
}

/** The channels. `hasSubscribers` is asked first on every path that calls may take. */
export const traces: {
  readonly claim: TracingChannel<ClaimTrace, ClaimTrace>
  readonly hold: TracingChannel<HoldTrace, HoldTrace>
  readonly release: TracingChannel<ReleaseTrace, ReleaseTrace>
  readonly check: TracingChannel<CheckTrace, CheckTrace>
  readonly apply: TracingChannel<ApplyTrace, ApplyTrace>
  readonly work: TracingChannel<WorkTrace, WorkTrace>
} = {
  claim: tracingChannel('lease-core:claim'),
  hold: tracingChannel('lease-core:hold'),
  release: tracingChannel('lease-core:release'),
  check: tracingChannel('lease-core:check'),
  apply: tracingChannel('lease-core:apply'),
  work: tracingChannel('lease-core:work'),
}

/** Runs the call, and publishes its beginning and its end. For a channel with subscribers. */
export function traced<C extends CallTrace, T>(
  channel: TracingChannel<C, C>,
  clock: Clock,
  trace: C,
  call: () => Promise<T>,
): Promise<T> {
  const startMs = clock.monotonic()
  return channel.tracePromise(async () => {
    try {
      return await (trace.around === undefined ? call() : trace.around(call))
    } finally {
      trace.tookMs = clock.monotonic() - startMs
    }
  }, trace)
}

/** Does work under this lease, and publishes its beginning and its end if somebody listens. */
export function traceWork<T>(
  about: Pick<WorkTrace, 'lease' | 'holder' | 'fencingToken' | 'signal'>,
  work: () => Promise<T>,
): Promise<T> {
  if (!traces.work.hasSubscribers) return work()
  const trace: WorkTrace = { ...about }
  return traces.work.tracePromise(() => (trace.around === undefined ? work() : trace.around(work)), trace)
}

/** The context in which this package was loaded: that of no call. */
const outside = new AsyncResource('LeaseBackground')

/** Does what belongs to no call, outside of the `AsyncLocalStorage` context of the present one. */
export function withoutContext<T>(work: () => T): T {
  return outside.runInAsyncScope(work)
}

/** The context of the present call, for work that is done for it later (`runInAsyncScope`). */
export function presentContext(): AsyncResource {
  return new AsyncResource('LeaseCall')
}
