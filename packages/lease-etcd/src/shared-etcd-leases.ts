/**
 * The shared etcd leases on which the keys of leases hang, so that crashed holders leave nothing behind.
 *
 * They are a backstop and no clock: etcd counts in whole seconds, notices late, and starts anew with each new leader.
 * When a lease has lapsed is found out by observation (`observer.ts` of lease-core). A shared etcd lease is never kept
 * alive and never revoked; one serves all claims and extensions of about the same length for about a second or more, and the
 * only promise is that it does not end before any of them:
 *
 *     sent ───────────────── TTL as the server answered ─────────────────▶ ends, at the earliest
 *                now ───────── duration of this claim ─────────▶
 *
 * Counted from sending the grant, for the server began to count later; by the clock that says more has passed, for the
 * monotonic one stands still in a suspend.
 */
import type { Clock } from 'lease-core'

/** Asks the server for a lease of this many seconds. */
export type GrantEtcdLease = (ttlSeconds: number) => Promise<{ readonly id: string; readonly ttlSeconds: number }>

interface SharedEtcdLease {
  readonly sentMonotonicMs: number
  readonly sentWallMs: number
  /** What was asked for; what was granted, once that is known. */
  ttlMs: number
  id: string | undefined
  readonly granted: Promise<string>
}

/** What etcd grants at least, with an election time-out of a second. */
const SHORTEST_TTL_SECONDS = 2
/** For how long one is shared: a quarter of the duration, within these. */
const NARROWEST_MS = 1_000
const WIDEST_MS = 60_000

export class SharedEtcdLeases {
  readonly #clock: Clock
  readonly #leases = new Map<number, SharedEtcdLease>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /**
   * An etcd lease that does not end within `durationMs` from this call, as the server counts.
   *
   * @throws what the grant throws
   */
  async cover(durationMs: number, grant: GrantEtcdLease): Promise<string> {
    const widthMs = Math.min(WIDEST_MS, Math.max(NARROWEST_MS, durationMs / 4))
    const ttlSeconds = Math.max(SHORTEST_TTL_SECONDS, Math.ceil((durationMs + widthMs) / 1000))
    const known = this.#leases.get(ttlSeconds)
    const lease = known !== undefined && this.#leftMs(known) >= durationMs ? known : this.#open(ttlSeconds, grant)
    return await lease.granted
  }

  /** These turned out to be gone: they are not used again. */
  forget(ids: ReadonlySet<string>): void {
    for (const [ttl, { id }] of this.#leases) if (id !== undefined && ids.has(id)) this.#leases.delete(ttl)
  }

  #open(ttlSeconds: number, grant: GrantEtcdLease): SharedEtcdLease {
    for (const [ttl, lease] of this.#leases) if (this.#leftMs(lease) < 0) this.#leases.delete(ttl)
    const sentMonotonicMs = this.#clock.monotonic()
    const sentWallMs = this.#clock.now()
    const granted = grant(ttlSeconds).then((answer) => {
      if (answer.ttlSeconds < ttlSeconds) {
        throw new Error(`etcd granted a lease of ${answer.ttlSeconds} seconds where ${ttlSeconds} were asked for`)
      }
      lease.ttlMs = answer.ttlSeconds * 1000
      lease.id = answer.id
      return answer.id
    })
    const lease: SharedEtcdLease = { sentMonotonicMs, sentWallMs, ttlMs: ttlSeconds * 1000, id: undefined, granted }
    this.#leases.set(ttlSeconds, lease)
    granted.catch(() => {
      if (this.#leases.get(ttlSeconds) === lease) this.#leases.delete(ttlSeconds)
    })
    return lease
  }

  #leftMs({ sentMonotonicMs, sentWallMs, ttlMs }: SharedEtcdLease): number {
    return ttlMs - Math.max(this.#clock.monotonic() - sentMonotonicMs, this.#clock.now() - sentWallMs)
  }
}
