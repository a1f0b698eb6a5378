/** What the tests of this package share: connections and substrates that are closed, and short words for operations. */
import { Redis, type RedisOptions as AnyRedisOptions } from 'ioredis'
import type { Call, ClaimOp, ExtendOp, Holding, Op, ReleaseOp, Verdict } from 'lease-core'
import { RedisSubstrate, type RedisSubstrateOptions } from 'lease-redis'

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

let count = 0

/** A name that no other test uses. */
export function unique(word: string): string {
  return `${word}-${process.pid}-${++count}`
}

export function newCall(timeoutMs: number = 5_000, signal: AbortSignal = new AbortController().signal): Call {
  return { signal, timeoutMs }
}

export function claim(lease: string, holder: string, durationMs: number, more: Partial<ClaimOp> = {}): ClaimOp {
  return {
    kind: 'claim',
    lease,
    holder,
    durationMs,
    nonce: unique('nonce'),
    value: undefined,
    lapsed: undefined,
    ...more,
  }
}

export function extend(lease: string, holder: string, durationMs: number, more: Partial<ExtendOp> = {}): ExtendOp {
  return {
    kind: 'extend',
    lease,
    holder,
    durationMs,
    fencingToken: undefined,
    value: undefined,
    seen: undefined,
    ...more,
  }
}

export function release(lease: string, holder: string, more: Partial<ReleaseOp> = {}): ReleaseOp {
  return { kind: 'release', lease, holder, fencingToken: undefined, nonce: undefined, ...more }
}

export function expire(lease: string): Op {
  return { kind: 'expire', lease, lapsed: undefined }
}

export function pin(lease: string, entity: string): Op {
  return { kind: 'pin', lease, entity }
}

export function unpin(lease: string, entity: string): Op {
  return { kind: 'unpin', lease, entity }
}

/** The verdict of one operation. @throws what made it unknown */
export async function settle(substrate: RedisSubstrate, op: Op): Promise<Verdict> {
  const [verdict] = await substrate.apply([op], newCall())
  if (verdict === undefined) throw new Error('no verdict')
  if (verdict.outcome === 'unknown') throw verdict.cause
  return verdict
}

/** The holding that this granted operation left. */
export async function grant(substrate: RedisSubstrate, op: Op): Promise<Holding> {
  const { outcome, holding } = await settle(substrate, op)
  if (outcome !== 'granted' || holding === undefined) throw new Error(`${op.kind} ${op.lease} was ${outcome}`)
  return holding
}

export async function readOne(substrate: RedisSubstrate, lease: string): Promise<Holding | undefined> {
  return (await substrate.read([lease])).get(lease)
}

/** What the call rejects with. */
export async function caught(call: Promise<unknown>): Promise<Error> {
  try {
    await call
  } catch (error) {
    return error as Error
  }
  throw new Error('it did not reject')
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Resolves once the condition holds. @throws after some seconds, or what the condition throws then */
export async function eventually(
  condition: () => boolean | Promise<boolean>,
  patienceMs: number = 8_000,
): Promise<void> {
  for (const deadline = Date.now() + patienceMs; !(await condition());) {
    if (Date.now() > deadline) throw new Error('it never came true')
    await sleep(5)
  }
}
