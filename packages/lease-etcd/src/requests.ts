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
import { explained, failureOf } from './explain.ts'
import { sizeOf, together } from './txn.ts'

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
  /** @param lease the etcd lease that covers `coverMs` */
  request(lease: string): EtcdRequest
  /** @param revision that of the whole transaction: what it has put has this `mod_revision` */
  next(answer: EtcdAnswer, revision: string): Verdict | Step
}

/** For how long a call may go on. */
export interface Patience extends EtcdCallOptions {
  readonly signal: AbortSignal
  readonly breakerUntilMs: number
}

/** What became of one step. */
export type Outcome = { readonly answer: EtcdAnswer; readonly revision: string } | { readonly error: unknown }

/** A step on its way, and where its outcome belongs. */
interface Parcel {
  readonly index: number
  readonly step: Step
  /** The etcd lease that covers it. */
  readonly lease: string
  readonly request: EtcdRequest
}

export class Requests {
  readonly #etcd: EtcdDriver
  readonly #clock: Clock
  readonly #buckets: Buckets

  constructor(etcd: EtcdDriver, clock: Clock) {
    this.#etcd = etcd
    this.#clock = clock
    this.#buckets = new Buckets(clock)
  }

  /** For a call that begins now. */
  patience({ signal, timeoutMs }: Call): Patience {
    const now = this.#clock.now()
    return { signal, deadline: now + timeoutMs, breakerUntilMs: now + timeoutMs * BREAKER_SHARE }
  }

  /** Sends these steps in as few transactions as they fit into: an outcome for each. Never rejects. */
  async round(steps: readonly Step[], patience: Patience): Promise<readonly Outcome[]> {
    const outcomes = Array.from<Outcome>({ length: steps.length })
    await this.#deliver([...steps.entries()], outcomes, { patience, attempt: 1 })
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

  async #deliver(
    steps: readonly (readonly [number, Step])[],
    outcomes: Outcome[],
    { patience, attempt }: { readonly patience: Patience; readonly attempt: number },
  ): Promise<void> {
    const parcels: Parcel[] = []
    await Promise.all(
      steps.map(async ([index, step]) => {
        try {
          const lease = step.coverMs === undefined ? '0' : await this.#cover(step.coverMs, patience)
          parcels.push({ index, step, lease, request: step.request(lease) })
        } catch (error) {
          outcomes[index] = { error }
        }
      }),
    )
    const again: Parcel[] = []
    await Promise.all(
      packed(parcels).map(async (pack) => {
        try {
          const txn = together(pack.map(({ request }) => request))
          const { header, responses } = await this.txn(txn, patience)
          for (const [position, { index }] of pack.entries()) {
            outcomes[index] = { answer: responses[position] as EtcdAnswer, revision: header.revision }
          }
        } catch (error) {
          const isGone = failureOf(error) === 'lease-gone'
          if (isGone) this.#buckets.forget(new Set(pack.map(({ lease }) => lease)))
          if (isGone && attempt < MAX_ATTEMPTS) again.push(...pack)
          else for (const { index } of pack) outcomes[index] = { error }
        }
      }),
    )
    if (again.length === 0) return
    const unsettled = again.map(({ index, step }) => [index, step] as const)
    await this.#deliver(unsettled, outcomes, { patience, attempt: attempt + 1 })
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
    const { deadline, signal, breakerUntilMs } = patience
    for (let attempt = 1; ; attempt++) {
      signal.throwIfAborted()
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
        await sleep(this.#clock, pauseMs * (0.5 + Math.random() / 2), signal)
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
