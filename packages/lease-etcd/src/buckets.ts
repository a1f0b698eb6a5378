/**
 * The shared etcd leases on which the keys of leases hang, so that crashed holders leave nothing behind.
 *
 * They are a backstop and no clock: etcd counts in whole seconds, notices late, and starts anew with each new leader.
 * When a lease has lapsed is found out by observation (`observer.ts` of lease-core). A bucket is never kept alive and
 * never revoked; one serves all claims and extensions of about the same length for about a second or more, and the
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
export type GrantBucket = (ttlSeconds: number) => Promise<{ readonly id: string; readonly ttlSeconds: number }>

interface Bucket {
  readonly sentMonotonicMs: number
  readonly sentWallMs: number
  /** What was asked for; what was granted, once that is known. */
  ttlMs: number
  id: string | undefined
  readonly granted: Promise<string>
}

/** What etcd grants at least, with an election time-out of a second. */
const SHORTEST_TTL_SECONDS = 2
/** For how long a bucket is shared: a quarter of the duration, within these. */
const NARROWEST_MS = 1_000
const WIDEST_MS = 60_000

export class Buckets {
  readonly #clock: Clock
  readonly #buckets = new Map<number, Bucket>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /**
   * An etcd lease that does not end within `durationMs` from this call, as the server counts.
   *
   * @throws what the grant throws
   */
  async cover(durationMs: number, grant: GrantBucket): Promise<string> {
    const widthMs = Math.min(WIDEST_MS, Math.max(NARROWEST_MS, durationMs / 4))
    const ttlSeconds = Math.max(SHORTEST_TTL_SECONDS, Math.ceil((durationMs + widthMs) / 1000))
    const known = this.#buckets.get(ttlSeconds)
    const bucket = known !== undefined && this.#leftMs(known) >= durationMs ? known : this.#open(ttlSeconds, grant)
    return await bucket.granted
  }

  /** These turned out to be gone: they are not used again. */
  forget(ids: ReadonlySet<string>): void {
    for (const [ttl, { id }] of this.#buckets) if (id !== undefined && ids.has(id)) this.#buckets.delete(ttl)
  }

  #open(ttlSeconds: number, grant: GrantBucket): Bucket {
    for (const [ttl, bucket] of this.#buckets) if (this.#leftMs(bucket) < 0) this.#buckets.delete(ttl)
    const sentMonotonicMs = this.#clock.monotonic()
    const sentWallMs = this.#clock.now()
    const granted = grant(ttlSeconds).then((answer) => {
      if (answer.ttlSeconds < ttlSeconds) {
        throw new Error(`etcd granted a lease of ${answer.ttlSeconds} seconds where ${ttlSeconds} were asked for`)
      }
      bucket.ttlMs = answer.ttlSeconds * 1000
      bucket.id = answer.id
      return answer.id
    })
    const bucket: Bucket = { sentMonotonicMs, sentWallMs, ttlMs: ttlSeconds * 1000, id: undefined, granted }
    this.#buckets.set(ttlSeconds, bucket)
    granted.catch(() => {
      if (this.#buckets.get(ttlSeconds) === bucket) this.#buckets.delete(ttlSeconds)
    })
    return bucket
  }

  #leftMs({ sentMonotonicMs, sentWallMs, ttlMs }: Bucket): number {
    return ttlMs - Math.max(this.#clock.monotonic() - sentMonotonicMs, this.#clock.now() - sentWallMs)
  }
}
