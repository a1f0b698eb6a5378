/**
 * Requests that are sent until they are answered, or it is no use: the one place that knows which failures to sit out.
 *
 * All requests of this package may be sent twice, so what was not answered is simply sent again, to another member if
 * there are several. A transaction whose bucket is gone was not applied, and goes out again with a new one.
 */
import { sleep, type Call, type Clock, type Verdict } from 'lease-core'
import { Buckets } from './buckets.ts'
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
/** How often a request is sent in all whose server was not there, or whose bucket was not. */
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
export interface Patience extends EtcdCallOptions {
  readonly call: Call
  readonly breakerUntilMs: number
}

/** What became of one step. */
export type Outcome = { readonly answer: EtcdAnswer; readonly revision: string } | { readonly error: unknown }

/** A step, and where its outcome belongs. */
export interface Errand {
  readonly index: number
  readonly step: Step
}

/** A step on its way. */
interface Parcel extends Errand {
  readonly request: EtcdRequest
  /** The etcd lease that covers it. */
  readonly lease: string
}

/** The etcd lease that a key may hang on, or why there is none. */
interface Cover {
  readonly lease: string | undefined
  readonly error?: unknown
}

const uncovered: Cover = { lease: NO_LEASE }

/** How steps are sent that may have been sent before. */
interface Manner {
  readonly patience: Patience
  readonly attempt: number
  readonly merging: boolean
}

export class Requests {
  readonly #etcd: EtcdDriver
  readonly #clock: Clock
  readonly #buckets: Buckets
  readonly #maySwift: boolean

  constructor(etcd: EtcdDriver, clock: Clock) {
    this.#etcd = etcd
    this.#maySwift = mayBeSwift(etcd)
    this.#clock = clock
    this.#buckets = new Buckets(clock)
  }

  /** For a call that begins now. */
  patience(call: Call): Patience {
    const now = this.#clock.now()
    return { call, deadline: now + call.timeoutMs, breakerUntilMs: now + call.timeoutMs * BREAKER_SHARE }
  }

  /** Sends these steps in as few transactions as they fit into: an outcome for each, at its index. Never rejects. */
  async round(errands: readonly Errand[], patience: Patience): Promise<readonly Outcome[]> {
    const outcomes: Outcome[] = []
    await this.#deliver(errands, outcomes, { patience, attempt: 1, merging: true })
    return outcomes
  }

  /** @throws what the driver throws, explained */
  async txn(txn: EtcdTxn, patience: Patience): Promise<EtcdTxnAnswer> {
    return await this.#send((options) => this.#etcd.kv.txn(txn, options), patience)
  }

  /** @throws what the driver throws, explained */
  async range(range: EtcdRange, patience: Patience): Promise<EtcdRangeAnswer> {
    return await this.#send((options) => this.#etcd.kv.range(range, options), patience)
  }

  async #deliver(errands: readonly Errand[], outcomes: Outcome[], manner: Manner): Promise<void> {
    const { patience, attempt, merging } = manner
    const covers = await this.#covers(errands, patience)
    const parcels: Parcel[] = []
    for (const { index, step } of errands) {
      const { coverMs } = step
      const cover = coverMs === undefined ? uncovered : covers.get(coverMs)
      if (cover?.lease === undefined) outcomes[index] = { error: cover?.error }
      else parcels.push({ index, step, lease: cover.lease, request: step.request(cover.lease) })
    }
    await Promise.all(
      packed(parcels).map(async (pack) => {
        try {
          const { txn, answersIn, onlyRenewals } = bundle(pack, { merging })
          const more = onlyRenewals === true && this.#maySwift ? swiftly : {}
          const answer = await this.#send((options) => this.#etcd.kv.txn(txn, { ...options, ...more }), patience)
          const answers = answersIn(answer)
          if (answers === undefined) return await this.#deliver(pack, outcomes, { ...manner, merging: false })
          const { revision } = answer.header
          for (let position = 0; position < pack.length; position++) {
            outcomes[(pack[position] as Parcel).index] = { answer: answers[position] as EtcdAnswer, revision }
          }
        } catch (error) {
          const isGone = failureOf(error) === 'lease-gone'
          if (isGone) this.#buckets.forget(new Set(pack.map(({ lease }) => lease)))
          if (isGone && attempt < MAX_ATTEMPTS) {
            await this.#deliver(pack, outcomes, { ...manner, attempt: attempt + 1 })
          } else for (const { index } of pack) outcomes[index] = { error }
        }
      }),
    )
  }

  /** An etcd lease for each time that is to be covered. Never rejects. */
  async #covers(errands: readonly Errand[], patience: Patience): Promise<ReadonlyMap<number, Cover>> {
    const covers = new Map<number, Cover>()
    for (const { step } of errands) if (step.coverMs !== undefined) covers.set(step.coverMs, uncovered)
    await Promise.all(
      [...covers.keys()].map(async (coverMs) => {
        covers.set(
          coverMs,
          await this.#cover(coverMs, patience).then(
            (lease) => ({ lease }),
            (error: unknown) => ({ lease: undefined, error }),
          ),
        )
      }),
    )
    return covers
  }

  #cover(durationMs: number, patience: Patience): Promise<string> {
    return this.#buckets.cover(durationMs, async (ttlSeconds) => {
      const grant = (options: EtcdCallOptions): Promise<{ ID: string; TTL: string }> =>
        this.#etcd.leaseClient.leaseGrant({ TTL: ttlSeconds }, options)
      const { ID, TTL } = await this.#send(grant, patience)
      return { id: ID, ttlSeconds: Number(TTL) }
    })
  }

  async #send<T>(send: (options: EtcdCallOptions) => Promise<T>, patience: Patience): Promise<T> {
    const { call, deadline, breakerUntilMs } = patience
    for (let attempt = 1; ; attempt++) {
      try {
        return await send({ deadline })
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
function packed(parcels: readonly Parcel[]): readonly Parcel[][] {
  const packs: Parcel[][] = []
  let size = Number.POSITIVE_INFINITY
  for (const parcel of parcels) {
    size += sizeOf(parcel.request)
    if (size > MAX_REQUEST_BYTES) {
      packs.push([])
      size = sizeOf(parcel.request)
    }
    packs.at(-1)?.push(parcel)
  }
  return packs
}
