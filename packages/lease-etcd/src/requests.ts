/**
 * Requests that are sent until they are answered, or it is no use: the one place that knows which failures to sit out.
 *
 * All requests of this package may be sent twice, so what was not answered is simply sent again, to another member if
 * there are several. A transaction whose etcd lease is gone was not applied, and goes out again with a new one.
 */
import { sleep, type Call, type Clock, type Verdict } from 'lease-core'
import { SharedEtcdLeases } from './shared-etcd-leases.ts'
import type {
  EtcdAnswer,
  EtcdCallOptions,
  EtcdDriver,
  EtcdRange,
  EtcdRangeAnswer,
  EtcdRequest,
  EtcdTxn,
  EtcdTxnAnswer,
} from './driver.ts'
import { bundle } from './bundle.ts'
import { explained, failureOf } from './explain.ts'
import { mayBeSwift, swiftly } from './renewal-codec.ts'
import { NO_LEASE, sizeOf } from './txn.ts'

/** The server takes requests of 1.5 MiB. */
const MAX_REQUEST_BYTES = 1_000_000
/** How often a request is sent in all whose server was not there, or whose etcd lease was not. */
const MAX_ATTEMPTS = 4
const PAUSE_MS = 20
/** A circuit breaker lets a request through every few seconds; waiting for it is worth this share of the call's time. */
const BREAKER_PAUSE_MS = 250
const BREAKER_SHARE = 0.8

/** One request of one operation. */
export interface Step {
  /** For how long, from the moment it is sent, the key it writes must not vanish; undefined: it needs no etcd lease. */
  readonly coverMs: number | undefined
  /** The conditions of its request are most likely met, and where they are its answer says no more than that. */
  readonly likely?: boolean
  /** @param lease the etcd lease that covers `coverMs` */
  request(lease: string): EtcdRequest
  /** @param revision that of the whole transaction: what it has put has this `mod_revision` */
  next(answer: EtcdAnswer, revision: string): Verdict | Step
}

/** For how long a call may go on. */
export interface Deadline {
  readonly call: Call
  /** By the wall clock. */
  readonly atMs: number
  readonly breakerUntilMs: number
}

/** What became of one step. */
export type Outcome = { readonly answer: EtcdAnswer; readonly revision: string } | { readonly error: unknown }

/** A step, and where its outcome belongs. */
export interface IndexedStep {
  readonly index: number
  readonly step: Step
}

/** A step on its way. */
interface PreparedStep extends IndexedStep {
  readonly request: EtcdRequest
  /** The etcd lease that covers it. */
  readonly lease: string
}

/** The etcd lease that a key may hang on, or why there is none. */
interface LeaseCover {
  readonly lease: string | undefined
  readonly error?: unknown
}

const uncovered: LeaseCover = { lease: NO_LEASE }

/** How steps are sent that may have been sent before. */
interface SendOptions {
  readonly deadline: Deadline
  readonly attempt: number
  readonly merging: boolean
}

export class Requests {
  readonly #etcd: EtcdDriver
  readonly #clock: Clock
  readonly #etcdLeases: SharedEtcdLeases
  readonly #maySwift: boolean

  constructor(etcd: EtcdDriver, clock: Clock) {
    this.#etcd = etcd
    this.#maySwift = mayBeSwift(etcd)
    this.#clock = clock
    this.#etcdLeases = new SharedEtcdLeases(clock)
  }

  /** For a call that begins now. */
  deadline(call: Call): Deadline {
    const now = this.#clock.now()
    return { call, atMs: now + call.timeoutMs, breakerUntilMs: now + call.timeoutMs * BREAKER_SHARE }
  }

  /** Sends these steps in as few transactions as they fit into: an outcome for each, at its index. Never rejects. */
  async round(steps: readonly IndexedStep[], deadline: Deadline): Promise<readonly Outcome[]> {
    const outcomes: Outcome[] = []
    await this.#deliver(steps, outcomes, { deadline, attempt: 1, merging: true })
    return outcomes
  }

  /** @throws what the driver throws, explained */
  async txn(txn: EtcdTxn, deadline: Deadline): Promise<EtcdTxnAnswer> {
    return await this.#send((options) => this.#etcd.kv.txn(txn, options), deadline)
  }

  /** @throws what the driver throws, explained */
  async range(range: EtcdRange, deadline: Deadline): Promise<EtcdRangeAnswer> {
    return await this.#send((options) => this.#etcd.kv.range(range, options), deadline)
  }

  async #deliver(steps: readonly IndexedStep[], outcomes: Outcome[], options: SendOptions): Promise<void> {
    const { deadline, attempt, merging } = options
    const covers = await this.#covers(steps, deadline)
    const prepared: PreparedStep[] = []
    for (const { index, step } of steps) {
      const { coverMs } = step
      const cover = coverMs === undefined ? uncovered : covers.get(coverMs)
      if (cover?.lease === undefined) outcomes[index] = { error: cover?.error }
      else prepared.push({ index, step, lease: cover.lease, request: step.request(cover.lease) })
    }
    await Promise.all(
      packed(prepared).map(async (pack) => {
        try {
          const { txn, answersIn, onlyRenewals } = bundle(pack, { merging })
          const more = onlyRenewals === true && this.#maySwift ? swiftly : {}
          const answer = await this.#send((options) => this.#etcd.kv.txn(txn, { ...options, ...more }), deadline)
          const answers = answersIn(answer)
          if (answers === undefined) return await this.#deliver(pack, outcomes, { ...options, merging: false })
          const { revision } = answer.header
          for (let position = 0; position < pack.length; position++) {
            outcomes[(pack[position] as PreparedStep).index] = { answer: answers[position] as EtcdAnswer, revision }
          }
        } catch (error) {
          const isGone = failureOf(error) === 'lease-gone'
          if (isGone) this.#etcdLeases.forget(new Set(pack.map(({ lease }) => lease)))
          if (isGone && attempt < MAX_ATTEMPTS) {
            await this.#deliver(pack, outcomes, { ...options, attempt: attempt + 1 })
          } else for (const { index } of pack) outcomes[index] = { error }
        }
      }),
    )
  }

  /** An etcd lease for each time that is to be covered. Never rejects. */
  async #covers(steps: readonly IndexedStep[], deadline: Deadline): Promise<ReadonlyMap<number, LeaseCover>> {
    const covers = new Map<number, LeaseCover>()
    for (const { step } of steps) if (step.coverMs !== undefined) covers.set(step.coverMs, uncovered)
    await Promise.all(
      [...covers.keys()].map(async (coverMs) => {
        covers.set(
          coverMs,
          await this.#cover(coverMs, deadline).then(
            (lease) => ({ lease }),
            (error: unknown) => ({ lease: undefined, error }),
          ),
        )
      }),
    )
    return covers
  }

  #cover(durationMs: number, deadline: Deadline): Promise<string> {
    return this.#etcdLeases.cover(durationMs, async (ttlSeconds) => {
      const grant = (options: EtcdCallOptions): Promise<{ ID: string; TTL: string }> =>
        this.#etcd.leaseClient.leaseGrant({ TTL: ttlSeconds }, options)
      const { ID, TTL } = await this.#send(grant, deadline)
      return { id: ID, ttlSeconds: Number(TTL) }
    })
  }

  async #send<T>(send: (options: EtcdCallOptions) => Promise<T>, deadline: Deadline): Promise<T> {
    const { call, atMs, breakerUntilMs } = deadline
    for (let attempt = 1; ; attempt++) {
      try {
        return await send({ deadline: atMs })
      } catch (error) {
        const failure = failureOf(error)
        const pauseMs = failure === 'breaker' ? BREAKER_PAUSE_MS : PAUSE_MS * attempt
        const worthIt =
          failure === 'breaker'
            ? this.#clock.now() + pauseMs < breakerUntilMs
            : failure === 'unavailable' && attempt < MAX_ATTEMPTS
        if (!worthIt) throw explained(error)
        await sleep(this.#clock, pauseMs * (0.5 + Math.random() / 2), call.signal)
      }
    }
  }
}

/** As many in each as the server accepts in one request. */
function packed(prepared: readonly PreparedStep[]): readonly PreparedStep[][] {
  const packs: PreparedStep[][] = []
  let size = Number.POSITIVE_INFINITY
  for (const step of prepared) {
    size += sizeOf(step.request)
    if (size > MAX_REQUEST_BYTES) {
      packs.push([])
      size = sizeOf(step.request)
    }
    packs.at(-1)?.push(step)
  }
  return packs
}
