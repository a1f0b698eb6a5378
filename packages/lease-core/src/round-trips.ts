/**
 * The round trips of one client: many operations in each, and what their answers teach. Operations and renewals travel apart, so
 * that a renewal always finds a slot, and never shares a batch with a claim of the same lease.
 */
import { backoffMs } from './backoff.ts'
import { sleep, type Clock } from './clock.ts'
import { Coalescer, type BatchWatcher, type WatchedBatch } from './coalescer.ts'
import type { ElapsedTime } from './elapsed-time.ts'
import { ErrUnknown, SET_UP } from './errors.ts'
import type { LeaseEvents } from './events.ts'
import type { LeaseStates } from './lease-states.ts'
import { countedOf } from './share.ts'
import { SharedReads } from './shared-reads.ts'
import { LostCall, type StoreLink } from './store-link.ts'
import {
  failsFor,
  unknown,
  type Call,
  type Holding,
  type Op,
  type ReleaseOp,
  type Substrate,
  type Verdict,
} from './substrate.ts'
import { traced, traces, type ApplyTrace } from './tracing.ts'

/** How often a request whose outcome is unknown is sent in all. */
export const MAX_ATTEMPTS = 4
/** A third of a short lease may be less than an honest round trip takes; nothing is given up sooner than this. */
const MIN_TIMEOUT_MS = 250
/** How much longer than its lease a release may take. */
const LAST_MS = 1_000

export interface RoundTripParts {
  readonly substrate: Substrate
  readonly clock: Clock
  readonly time: ElapsedTime
  readonly link: StoreLink
  readonly states: LeaseStates
  readonly timeoutMs: number
  readonly events: LeaseEvents
  /** Those in the queue of a vacant lease were notified, up to this ticket. */
  told(lease: string, place: number): void
}

export class RoundTrips {
  readonly operations: Coalescer<Op, Verdict>
  readonly renewals: Coalescer<Op, Verdict>
  readonly #reads: SharedReads
  readonly #parts: RoundTripParts
  /** Whether the store has ever done what it was asked: then what it refuses for the set-up is tried again, for the set-up did work. */
  #hasApplied = false
  #hasRead = false

  constructor(parts: RoundTripParts) {
    this.#parts = parts
    const { maxOps: maxItems, maxInFlight, enoughOps: enough } = parts.substrate.limits
    const limits = { maxItems, maxInFlight, enough }
    const ofOps = { ...limits, timeoutOf: (op: Op) => this.timeoutMsOf(op) }
    const failure = ({ outcome, cause }: Verdict): unknown => (outcome === 'unknown' ? cause : undefined)
    const batches = new BatchReports(parts, 'apply', failure)
    this.operations = new Coalescer(parts.clock, ofOps, (ops) => this.#apply(ops), batches)
    this.renewals = new Coalescer(parts.clock, ofOps, (ops) => this.#apply(ops), batches)
    const readNames = (names: readonly string[], watched: readonly string[]): Promise<void> =>
      this.readAll(names, watched)
    this.#reads = new SharedReads(parts.clock, limits, readNames, new BatchReports(parts, 'read', (error) => error))
  }

  /** Reads one lease by a request that is sent from now on. */
  read(lease: string, options?: { readonly watches: boolean }): Promise<void> {
    return this.#reads.read(lease, options)
  }

  /**
   * Reads these leases, or all, and those again whose answer is unclear.
   *
   * @param watched those that this client watches from then on
   */
  async readAll(names: readonly string[] | undefined, watched: readonly string[] = []): Promise<void> {
    const { substrate, states, time } = this.#parts
    let toWatch = watched
    for (let open = names; ;) {
      const question = states.open()
      try {
        const what =
          open === undefined ? 'the namespace' : open.length === 1 ? `lease "${open[0]}"` : `${open.length} leases`
        const [asked, watch] = [open, toWatch]
        const holdings = await this.ask(what, (call) => substrate.read(asked, call, watch))
        const now = time.read()
        const unclear: string[] = []
        const answer = { question, now }
        const learn = (lease: string, holding: Holding | undefined): void => {
          if (!states.learn(lease, holding, answer)) unclear.push(lease)
        }
        if (asked === undefined) {
          holdings.forEach((holding, lease) => learn(lease, holding))
          states.view.forEach((_, lease) => holdings.has(lease) || learn(lease, undefined))
          states.complete()
        } else for (const lease of asked) learn(lease, holdings.get(lease))
        if (unclear.length === 0) return
        open = unclear
        toWatch = toWatch.filter((lease) => unclear.includes(lease))
      } finally {
        states.close(question)
      }
    }
  }

  /**
   * Asks what changes nothing, and again while there is no answer.
   *
   * @throws ErrUnknown
   */
  async ask<T>(what: string, read: (call: Call) => Promise<T>): Promise<T> {
    const { clock, link } = this.#parts
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await link.call(read)
        this.#hasRead = true
        return answer
      } catch (error) {
        link.closing.throwIfAborted()
        if (!(error instanceof LostCall)) throw error
        const isHopeless = !this.#hasRead && failsFor(error.cause, 'isSetUp')
        if (isHopeless || attempt >= MAX_ATTEMPTS) {
          const reason = isHopeless ? SET_UP : error.message
          throw new ErrUnknown(`could not read ${what}: ${error.message}`, { reason, cause: error.cause })
        }
        if (attempt > 1) await sleep(clock, backoffMs(attempt - 1), link.closing)
      }
    }
  }

  /** Whether no further attempt of an operation can help: the set-up is at fault, and has never worked. */
  isHopeless(cause: unknown): boolean {
    return !this.#hasApplied && failsFor(cause, 'isSetUp')
  }

  /** A lost answer must leave time to ask again before the lease is over. */
  timeoutMsOf(op: Op | { readonly durationMs: number }): number {
    let limitMs = Number.POSITIVE_INFINITY
    if ('durationMs' in op) limitMs = Math.max(MIN_TIMEOUT_MS, Math.ceil(op.durationMs / 3))
    // A release of a lease that is about to lapse is worth one attempt.
    else if (op.kind === 'release') limitMs = Math.ceil(Math.max(0, this.leftMs(op))) + LAST_MS
    return Math.min(this.#parts.timeoutMs, limitMs)
  }

  /** How long the term of this release may still last, as far as is known. */
  leftMs({ lease, fencingToken }: ReleaseOp): number {
    const known = this.#parts.states.get(lease)
    return known === undefined || known.pinned || known.fencingToken !== fencingToken ? Infinity : known.lapsesInMs()
  }

  async #apply(ops: readonly Op[]): Promise<readonly Verdict[]> {
    const { substrate, states, link, time } = this.#parts
    const question = states.open()
    try {
      let timeoutMs = Number.POSITIVE_INFINITY
      for (const op of ops) timeoutMs = Math.min(timeoutMs, this.timeoutMsOf(op))
      const verdicts = await link.call((call) => substrate.apply(ops, call), timeoutMs)
      if (!Array.isArray(verdicts) || verdicts.length !== ops.length) {
        const verdict = unknown(new Error(`the substrate gave no verdict for each of ${ops.length} operations`))
        return ops.map(() => verdict)
      }
      const now = time.read()
      for (let index = 0; index < ops.length; index++) {
        const op = ops[index] as Op
        const verdict = verdicts[index] as Verdict
        if (!isSettled(verdict)) continue
        this.#hasApplied = true
        const { told, counted } = verdict
        if (told !== undefined) this.#parts.told(countedOf(op.lease) ?? op.lease, aheadOf(op, verdict, told))
        if (counted !== undefined) {
          for (const [share, holding] of counted.shares) states.learn(share, holding, { question, now })
        }
        if (op.kind === 'leave' || op.kind === 'passOver' || op.kind === 'define') continue
        const granted = verdict.outcome === 'granted'
        const ended = 'fencingToken' in op ? op.fencingToken : undefined
        states.learn(op.lease, verdict.holding, { question, now, ended, granted })
      }
      return verdicts
    } catch (error) {
      const verdict = unknown(error)
      return ops.map(() => verdict)
    } finally {
      states.close(question)
    }
  }
}

/** Reports the batches of one kind, while somebody listens. */
class BatchReports<Answer> implements BatchWatcher<unknown, Answer> {
  readonly #parts: RoundTripParts
  readonly #kind: 'apply' | 'read'
  readonly #failure: (answer: Answer) => unknown

  /** @param failure why there was no answer; undefined: there was one */
  constructor(parts: RoundTripParts, kind: 'apply' | 'read', failure: (answer: Answer) => unknown) {
    this.#parts = parts
    this.#kind = kind
    this.#failure = failure
  }

  get isHeard(): boolean {
    return this.#parts.events.heard('batch') || traces.apply.hasSubscribers
  }

  get wantsCallers(): boolean {
    return traces.apply.hasSubscribers
  }

  async around({ items, waiting, queue, callers, send }: WatchedBatch<unknown, Answer>): Promise<readonly Answer[]> {
    const { clock, events, substrate } = this.#parts
    const size = items.length
    const about = { ...substrate.store, kind: this.#kind, size, waiting, queue }
    const startMs = clock.monotonic()
    const trace: ApplyTrace = { ...about, callers }
    const call = async (): Promise<readonly Answer[]> => {
      const answers = await send()
      trace.failure = this.#failure(answers[0] as Answer)
      return answers
    }
    const answers = await (traces.apply.hasSubscribers ? traced(traces.apply, clock, trace, call) : call())
    if (events.heard('batch')) {
      const error = trace.failure === undefined ? {} : { error: trace.failure }
      events.emit({ type: 'batch', ...about, tookMs: clock.monotonic() - startMs, ...error })
    }
    return answers
  }
}

/** The last ticket of the notified waiters that may have to be passed over. A waiter does not pass over itself. */
function aheadOf(op: Op, { outcome }: Verdict, told: number): number {
  const waits = op.kind === 'claim' && outcome === 'refused' && op.place !== undefined && op.place > 0
  return waits ? Math.min(told, op.place - 1) : told
}

/** Granted or refused: what became of it is known. */
export function isSettled<V extends Pick<Verdict, 'outcome'>>(
  verdict: V | undefined,
): verdict is V & { readonly outcome: 'granted' | 'refused' } {
  return verdict?.outcome === 'granted' || verdict?.outcome === 'refused'
}
