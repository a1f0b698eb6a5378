/** What the tests of this package share: a database of one's own, clients that are closed, and short words for operations. */
import type { Call, ClaimOp, ExtendOp, Holding, Op, ReleaseOp, Verdict } from 'lease-core'
import { freshDatabase } from 'lease-servers'
import { migrate, PostgresSubstrate, type PostgresSubstrateOptions } from 'lease-postgres'
import { Pool, type PoolConfig } from 'pg'

export interface Setting extends AsyncDisposable {
  readonly url: string
  readonly pool: Pool
  /** A substrate over `pool` that is closed in the end. */
  substrate(options?: Partial<PostgresSubstrateOptions>): PostgresSubstrate
  /** A further pool, ended in the end. */
  newPool(config?: PoolConfig): Pool
}

export async function openSetting(target: { readonly url: string }): Promise<Setting> {
  const database = await freshDatabase(target)
  const pools: Pool[] = []
  const substrates: PostgresSubstrate[] = []
  const newPool = (config?: PoolConfig): Pool => {
    const pool = new Pool({ connectionString: database.url, ...config })
    pool.on('error', () => {}) // the database is dropped before the last connection is closed
    pools.push(pool)
    return pool
  }
  const pool = newPool()
  await migrate(pool)
  return {
    url: database.url,
    pool,
    newPool,
    substrate(options) {
      const substrate = new PostgresSubstrate({ pool, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      await Promise.all(pools.map((one) => one.end()))
      await database.drop()
    },
  }
}

let count = 0

/** A name that no other test uses. */
export function unique(word: string): string {
  return `${word}-${process.pid}-${++count}`
}

export function newCall(signal: AbortSignal = new AbortController().signal): Call {
  return { signal, timeoutMs: 5_000 }
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

/** The verdict of one operation; `contended` is asked again, as core does. */
export async function settle(substrate: PostgresSubstrate, op: Op): Promise<Verdict> {
  for (;;) {
    const [verdict] = await substrate.apply([op], newCall())
    if (verdict === undefined) throw new Error('no verdict')
    if (verdict.outcome === 'unknown') throw verdict.cause
    if (verdict.outcome !== 'contended') return verdict
    await sleep(1 + Math.random() * 5)
  }
}

/** The holding that this granted operation left. */
export async function grant(substrate: PostgresSubstrate, op: Op): Promise<Holding> {
  const { outcome, holding } = await settle(substrate, op)
  if (outcome !== 'granted' || holding === undefined) throw new Error(`${op.kind} ${op.lease} was ${outcome}`)
  return holding
}

export async function readOne(substrate: PostgresSubstrate, lease: string): Promise<Holding | undefined> {
  return (await substrate.read([lease], newCall())).get(lease)
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Resolves once the condition holds. @throws after ten seconds, or what the condition throws then */
export async function eventually(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 8_000; !(await condition());) {
    if (Date.now() > deadline) throw new Error('it never came true')
    await sleep(5)
  }
}
