/**
 * The shared etcd leases on which the keys of leases hang, so that crashed holders leave nothing behind.
 *
 * They are a backstop and no clock: etcd counts in whole seconds, notices late, and starts anew with each new leader.
 * When a lease has lapsed is found out by observation (`observer.ts` of lease-core). A shared etcd lease is never kept
 * alive; one serves all claims and extensions of about the same length for about a second or more, and the
 * only promise is that it does not end before any of them:
 *
 *     sent ──── TTL as the server answered, less what clocks drift in that time ────▶ ends, at the earliest
 *                now ───────── duration of this claim ─────────▶
 *
 * Counted from sending the grant, for the server began to count later; by the clock that says more has passed, for the
 * monotonic one stands still in a suspend.
 *
 * A client that ends revokes those that it does not need any more. To revoke one removes what hangs on it, also what a late
 * request puts there. So it is done only where all requests that name it were answered and no key is left on it.
 */
import { randomBytes } from 'node:crypto'
import { trustWindowMs, type Clock } from 'lease-core'
import type { EtcdRequest } from './driver.ts'
import { NO_LEASE } from './txn.ts'

/** Asks the server for a lease of so many seconds; resolves to those that it has granted. */
export type GrantEtcdLease = (request: { readonly ID: string; readonly TTL: number }) => Promise<number>

interface SharedEtcdLease {
  /** Chosen here: so a grant whose answer is lost is sent again, and does not leave another etcd lease behind. */
  readonly id: string
  readonly sentMonotonicMs: number
  readonly sentWallMs: number
  /** What was asked for; what was granted, once that is known. */
  ttlMs: number
  granted: Promise<string>
  /** Requests that name it and have no answer; its grant is the first. */
  unanswered: number
  /** What was put on it; undefined: more than is worth a look, or what has to stay. */
  keys: Buffer[] | undefined
}

/** One that nothing may be needed for any more: certainly so if none of these keys hangs on it. */
export interface SpareEtcdLease {
  readonly id: string
  readonly keys: readonly Buffer[]
}

/** A request that names etcd leases, in the place of each step that of its keys. */
interface Covered {
  readonly request: EtcdRequest
  readonly lease: string
  /** A further one. */
  readonly gateLease?: string
}

/** What etcd grants at least, with an election time-out of a second. */
const SHORTEST_TTL_SECONDS = 2
/** For how long one is shared: a quarter of the duration within these, or this part of it if that is longer. */
const NARROWEST_MS = 1_000
const WIDEST_MS = 60_000
const WIDEST_PART = 1 / 64
/** With more keys than this, one is left to itself in the end. */
const MOST_KEYS = 480

export class SharedEtcdLeases {
  readonly #clock: Clock
  readonly #leases = new Map<string, SharedEtcdLease>()
  #closed = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /**
   * An etcd lease that does not end within `durationMs` from this call, as the server counts.
   *
   * @throws what the grant throws
   */
  async cover(durationMs: number, grant: GrantEtcdLease): Promise<string> {
    const widthMs = Math.max(NARROWEST_MS, Math.min(WIDEST_MS, durationMs / 4), durationMs * WIDEST_PART)
    const ttlSeconds = Math.max(SHORTEST_TTL_SECONDS, Math.ceil((durationMs + widthMs) / 1000))
    for (const lease of this.#leases.values()) {
      const leftMs = this.#leftMs(lease)
      if (leftMs >= durationMs && leftMs <= ttlSeconds * 1000) return await lease.granted
    }
    return await this.#open(ttlSeconds, grant)
  }

  /** These turned out to be gone: they are not used again. */
  forget(ids: ReadonlySet<string>): void {
    for (const id of ids) this.#leases.delete(id)
  }

  /**
   * Notes what a request is about to put on which of these; `stays`: one with a key that nobody may remove.
   *
   * @returns to be called when the request is answered; where it is not, it may be executed at any time
   * @throws after `close`
   */
  send(covered: readonly Covered[], stays: string = NO_LEASE): () => void {
    const used = new Set<SharedEtcdLease>()
    let last: SharedEtcdLease | undefined
    const note = (request: EtcdRequest, id: string): void => {
      if (id === NO_LEASE) return
      if (last?.id !== id) {
        last = this.#leases.get(id)
        if (last !== undefined) used.add(last)
      }
      if (last?.keys !== undefined) {
        addPuts(request, id, last.keys)
        if (last.keys.length > MOST_KEYS) last.keys = undefined
      }
    }
    for (const { request, lease, gateLease = NO_LEASE } of covered) {
      note(request, lease)
      if (gateLease !== lease) note(request, gateLease)
    }
    const staying = this.#leases.get(stays)
    if (staying !== undefined) staying.keys = undefined
    if (this.#closed && used.size > 0) throw new Error('the client was closed')
    for (const lease of used) lease.unanswered++
    return () => {
      for (const lease of used) lease.unanswered--
    }
  }

  /** Those that may be spare. None is used again. */
  close(): readonly SpareEtcdLease[] {
    this.#closed = true
    const spare: SpareEtcdLease[] = []
    for (const lease of this.#leases.values()) {
      const { id, unanswered, keys } = lease
      if (unanswered === 0 && keys !== undefined && this.#leftMs(lease) > 0) spare.push({ id, keys })
    }
    return spare
  }

  #open(ttlSeconds: number, grant: GrantEtcdLease): Promise<string> {
    for (const [id, lease] of this.#leases) if (this.#leftMs(lease) < 0) this.#leases.delete(id)
    const id = newId()
    const lease: SharedEtcdLease = {
      id,
      sentMonotonicMs: this.#clock.monotonic(),
      sentWallMs: this.#clock.now(),
      ttlMs: ttlSeconds * 1000,
      granted: Promise.resolve(id),
      unanswered: 1,
      keys: [],
    }
    this.#leases.set(id, lease)
    lease.granted = grant({ ID: id, TTL: ttlSeconds }).then((grantedSeconds) => {
      if (grantedSeconds < ttlSeconds) {
        throw new Error(`etcd granted a lease of ${grantedSeconds} seconds where ${ttlSeconds} were asked for`)
      }
      lease.ttlMs = grantedSeconds * 1000
      lease.unanswered--
      return id
    })
    lease.granted.catch(() => this.#leases.delete(id))
    return lease.granted
  }

  #leftMs({ sentMonotonicMs, sentWallMs, ttlMs }: SharedEtcdLease): number {
    const passedMs = Math.max(this.#clock.monotonic() - sentMonotonicMs, this.#clock.now() - sentWallMs)
    return trustWindowMs(ttlMs) - passedMs
  }
}

/** A positive number of 63 bits that nobody else has. */
function newId(): string {
  return ((randomBytes(8).readBigUInt64BE() >> 1n) | 1n).toString()
}

/** Adds the keys that the request may put on this etcd lease. */
function addPuts({ request_put, request_txn }: EtcdRequest, lease: string, keys: Buffer[]): void {
  if (request_put?.lease === lease) keys.push(request_put.key)
  for (const inside of request_txn?.success ?? []) addPuts(inside, lease, keys)
  for (const inside of request_txn?.failure ?? []) addPuts(inside, lease, keys)
}
