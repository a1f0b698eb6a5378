/**
 * What one manager reports to those who listen: events (`events.ts`) and traces of its calls and Holds (`tracing.ts`). Where nobody listens
 * nothing is made and no clock is read. For a call, the manager asks `hasSubscribers` first: then not even a closure is made.
 */
import type { Clock } from './clock.ts'
import type { ClockReading } from './elapsed-time.ts'
import { ErrStopped, type ErrLost } from './errors.ts'
import type { LeaseEvents, StoreName } from './events.ts'
import type { ManagedHold } from './hold.ts'
import type { WaitRequest } from './lease-waiters.ts'
import type { Info } from './lease.ts'
import { countedOf } from './share.ts'
import type { TermRenewal } from './term-renewal.ts'
import type { Term } from './term.ts'
import { traced, traces, type CheckTrace, type ClaimTrace, type HoldTrace, type ReleaseTrace } from './tracing.ts'

export interface ReportsHost {
  readonly manager: object
  readonly events: LeaseEvents
  readonly store: StoreName | undefined
  readonly clock: Clock
  /** Now, read once for many. */
  now(): ClockReading
}

export class Reports {
  readonly #host: ReportsHost

  constructor(host: ReportsHost) {
    this.#host = host
  }

  // ── events ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param term undefined: of another process */
  released(lease: string, holder: string, term?: Term): void {
    const { events, store } = this.#host
    if (!events.heard('released')) return
    const held = term === undefined ? {} : { heldMs: this.#heldMs(term) }
    events.emit({ type: 'released', ...store, lease, holder, ...held })
  }

  revoked(lease: string, holder: string): void {
    const { events, store } = this.#host
    if (events.heard('revoked')) events.emit({ type: 'revoked', ...store, lease, holder })
  }

  waiting({ leases, holder, trace }: WaitRequest, position: number): void {
    const { events, store } = this.#host
    if (trace !== undefined) trace.position ??= position
    if (!events.heard('waiting')) return
    const [name = ''] = leases
    const lease = countedOf(name) === name ? name + holder : name
    events.emit({ type: 'waiting', ...store, lease, holder, position })
  }

  /** The share of the trust window of this term that is left; undefined: nobody listens. */
  margin(term: Term): number | undefined {
    return this.#host.events.heard('renewed') ? term.margin(this.#host.now()) : undefined
  }

  /** @param dueMs when it was due; undefined: it was not, or no longer */
  renewed({ lease, holder, fencingToken, margin, sent }: TermRenewal, dueMs?: number): void {
    if (margin === undefined || sent === undefined) return
    const { events, store } = this.#host
    const tookMs = this.#host.now().monotonicMs - sent.monotonicMs
    const delay = dueMs === undefined ? {} : { delayMs: Math.max(0, sent.monotonicMs - dueMs) }
    events.emit({ type: 'renewed', ...store, lease, holder, fencingToken, tookMs, margin, ...delay })
  }

  /** @param sent an instant before a renewal was sent that failed */
  retrying(lease: string, operation: 'renewal' | 'claim' | 'read', cause: unknown, sent?: ClockReading): void {
    const { events, store } = this.#host
    if (!events.heard('retrying')) return
    const took = sent === undefined ? {} : { tookMs: this.#host.now().monotonicMs - sent.monotonicMs }
    events.emit({ type: 'retrying', ...store, lease, operation, cause, ...took })
  }

  resync(): void {
    const { events, store } = this.#host
    if (events.heard('resync')) events.emit({ type: 'resync', ...store })
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Makes the call, which fills its trace. */
  claim<T>(
    about: Pick<ClaimTrace, 'call' | 'leases' | 'holder' | 'waits'>,
    call: (trace: ClaimTrace) => Promise<T>,
  ): Promise<T> {
    const { manager, store, clock } = this.#host
    const leases = about.leases.map((lease) => (countedOf(lease) === lease ? lease.slice(0, -1) : lease))
    const trace: ClaimTrace = { ...store, manager, ...about, leases }
    return traced(traces.claim, clock, trace, () => call(trace))
  }

  release(about: Pick<ReleaseTrace, 'call' | 'lease' | 'holder'>, call: () => Promise<void>): Promise<void> {
    const { manager, store, clock } = this.#host
    return traced(traces.release, clock, { ...store, manager, ...about }, call)
  }

  check(about: Pick<CheckTrace, 'lease' | 'holder' | 'key'>, call: () => Promise<Info>): Promise<Info> {
    const { manager, store, clock } = this.#host
    return traced(traces.check, clock, { ...store, manager, ...about }, call)
  }

  // ── Holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

  holdBegan(hold: ManagedHold): void {
    if (!traces.hold.hasSubscribers) return
    const { manager, store } = this.#host
    const { lease, holder, fencingToken } = hold
    const trace: HoldTrace = { ...store, manager, lease, holder, fencingToken, hold }
    hold.trace = trace
    traces.hold.start.publish(trace)
    traces.hold.end.publish(trace)
  }

  /** @param loss undefined: it was released, or left to lapse */
  holdEnded(hold: ManagedHold, loss: ErrLost | undefined): void {
    if (hold.trace !== undefined) this.#traceEnd(hold, hold.trace, loss)
    const { events, store } = this.#host
    if (loss === undefined || !events.heard('lost')) return
    const { lease, holder, fencingToken, term } = hold
    const heldMs = this.#heldMs(term)
    const stopped = isStop(loss) ? { stopped: true } : {}
    events.emit({ type: 'lost', ...store, lease, holder, fencingToken, reason: loss.reason, heldMs, ...stopped })
  }

  /** Its user has let go of a Hold that is over. */
  letGo(hold: ManagedHold): void {
    const { trace } = hold
    if (trace === undefined) return
    hold.trace = undefined
    traces.hold.asyncEnd.publish(trace)
  }

  #traceEnd(hold: ManagedHold, trace: HoldTrace, loss: ErrLost | undefined): void {
    trace.heldMs = this.#heldMs(hold.term)
    trace.outcome = loss === undefined ? 'released' : isStop(loss) ? 'stopped' : 'lost'
    if (loss !== undefined) {
      trace.reason = loss.reason
      trace.error = loss
      if (trace.outcome === 'lost') traces.hold.error.publish(trace)
    }
    traces.hold.asyncStart.publish(trace)
    if (loss === undefined) this.letGo(hold)
  }

  /** Since when this process has had the term, in milliseconds. */
  #heldMs({ openedMs }: Term): number {
    return Math.max(0, this.#host.now().atMostMs - openedMs)
  }
}

/** Whether it was lost because its manager was stopped. */
function isStop({ cause }: ErrLost): boolean {
  return cause instanceof ErrStopped
}
