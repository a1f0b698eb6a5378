/** Connections and substrates that are closed in the end, and what tests ask of time. */
import { Redis, type RedisOptions as AnyRedisOptions } from 'ioredis'
import type { Manager } from 'lease-core'
import type { ExtendOp, ReleaseOp, Substrate, UnpinOp } from 'lease-core/adapter'
import { RedisSubstrate, type RedisSubstrateOptions } from 'lease-redis'
import { extend, newCall, readOne, release, unique, unpin } from 'lease-scenes'
import { until } from 'lease-servers'

/** For a lease that must outlive its test: as long as a test may take. */
export const LASTING_MS = 60_000

/** Resolves once somebody waits for the lease, so that it is a hint that wakes it. */
export async function queued(manager: Manager, lease: string): Promise<void> {
  await until('a waiter in the queue', async () => ((await manager.waiting(lease)) ?? 0) > 0)
}

/** Those that do not change the shape of answers. */
export type RedisOptions = Omit<AnyRedisOptions, 'replyMapping'>

export interface Setting extends AsyncDisposable {
  readonly url: string
  readonly redis: Redis
  /** A substrate over `redis` that is closed in the end. */
  substrate(options?: Partial<RedisSubstrateOptions>): RedisSubstrate
  /** A further connection, closed in the end. */
  connect(options?: RedisOptions, url?: string): Redis
}

export function openSetting(url: string): Setting {
  const connections: Redis[] = []
  const substrates: RedisSubstrate[] = []
  const connect = (options: RedisOptions = {}, to: string = url): Redis => {
    const connection = new Redis(to, { lazyConnect: true, ...options })
    connection.on('error', () => {}) // what was asked rejects as well
    connections.push(connection)
    return connection
  }
  const redis = connect()
  return {
    url,
    redis,
    connect,
    substrate(options) {
      const substrate = new RedisSubstrate({ redis, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      for (const connection of connections) connection.disconnect()
    },
  }
}

/** A release of the term that stands now. */
export async function releaseOf(substrate: Substrate, lease: string, holder: string): Promise<ReleaseOp> {
  const seen = await readOne(substrate, lease)
  return release(lease, holder, { fencingToken: seen?.fencingToken ?? 0n, nonce: seen?.nonce })
}

/** An extension of the term that stands now. */
export async function extendOf(
  substrate: Substrate,
  lease: string,
  holder: string,
  durationMs: number,
  more: Partial<ExtendOp> = {},
): Promise<ExtendOp> {
  const seen = await readOne(substrate, lease)
  return extend(lease, holder, durationMs, { fencingToken: seen?.fencingToken ?? 0n, ...more })
}

/** The withdrawal of the pin that this entity has now. */
export async function unpinOf(substrate: Substrate, lease: string, entity: string): Promise<UnpinOp> {
  const pins = (await substrate.pinned(newCall(), [lease])).get(lease)
  return unpin(lease, entity, pins?.get(entity) ?? 'none')
}

/**
 * Resolves once the term stored under this key has lapsed by the server's clock, even if pins keep it. Its holder has no `|`
 * in its name.
 */
export async function untilLapsed(redis: Redis, key: string): Promise<void> {
  await until(`the lapse of ${key}`, async () => {
    // One connection answers in order: the clock is read after the term.
    const [stored, [seconds, micros]] = await Promise.all([redis.get(key), redis.time()])
    const expiryMs = Number(stored?.split('|')[3])
    return stored === null || Number(seconds) * 1000 + Math.floor(Number(micros) / 1000) > expiryMs
  })
}

/** Returns how much time has passed since this call, at most, by a clock that may be a little faster than ours. */
export function stopwatch(): () => number {
  const startedMs = performance.now()
  return () => (performance.now() - startedMs) * 1.001 + 1
}
