/** What the programs of the races have in common: each is one process at a store that others use as well. */
import { writeSync } from 'node:fs'
import type { Client, Manager } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { Pool } from 'pg'

/** How a store is reached by any process. */
export interface Entry {
  readonly kind: 'redis' | 'postgres' | 'etcd'
  readonly url: string
  readonly namespace: string
}

/** How a program of a race is called. */
export interface RacerEntry extends Entry {
  /** Of this process alone. */
  readonly name: string
  /** How long its leases last. */
  readonly leaseMs: number
}

/** How this process was called. */
export function racerEntry(): RacerEntry {
  return JSON.parse(process.argv[2] ?? '') as RacerEntry
}

export interface OpenClient {
  readonly client: Client
  close(): Promise<void>
}

/** A client of this process. */
export function openClient({ kind, url, namespace }: Entry): OpenClient {
  if (kind === 'redis') {
    const redis = new Redis(url)
    return closing(redisClient({ redis, namespace }), () => redis.disconnect())
  }
  if (kind === 'postgres') {
    const pool = new Pool({ connectionString: url, max: 3 })
    return closing(postgresClient({ pool, namespace }), () => pool.end())
  }
  const etcd = new Etcd3({ hosts: url.split(','), ...failFast() })
  return closing(etcdClient({ etcd, namespace }), () => etcd.close())
}

function closing(client: Client, disconnect: () => unknown): OpenClient {
  const close = async (): Promise<void> => {
    await client.close()
    await disconnect()
  }
  return { client, close }
}

/** The monotonic clock of the machine: all processes read the same. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** Has left this process when it returns, and survives its end. */
export function report(line: Report): void {
  writeSync(1, `${JSON.stringify(line)}\n`)
}

/** A line of one process to the judge of the race. */
export interface Report {
  /** What happened. */
  readonly what: string
  readonly atMs: number
  /** The fencing token of the term it is about. */
  readonly token?: string
  /** Whatever else there is to say. */
  readonly detail?: string
  /** Of `measured`: how much time was lost until then. */
  readonly lostMs?: number
}

const PAUSE_MS = 50
/** What a write may take: on a quiet machine it takes a tenth of it. */
const WRITE_MS = 25

/** Time that a process lost, at the end of it. */
export interface Stall {
  readonly atMs: number
  readonly lostMs: number
}

/**
 * Measures how much time is lost because this process or the server stalls: a pause and a write, again and again, that take
 * too long. Tells the outcome of each until it is stopped.
 */
export async function measureStalls(
  manager: Manager,
  name: string,
  tell: (stall: Stall) => void,
  isStopped: () => boolean = () => false,
): Promise<void> {
  while (!isStopped()) {
    const fromMs = nowMs()
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    await manager.claim(`stalls-of-${name}`, 'measure', 60_000).catch(() => {})
    const atMs = nowMs()
    tell({ atMs, lostMs: Math.max(0, atMs - fromMs - PAUSE_MS - WRITE_MS) })
  }
}

/**
 * Reports, until it is over, how long a term is relied on. `relied()` must never be true again once it was false: what is
 * true after an instant was true at that instant.
 */
export async function reportReliance(fencingToken: bigint, relied: () => boolean): Promise<void> {
  const token = String(fencingToken)
  for (let atMs = nowMs(); relied(); atMs = nowMs()) {
    report({ what: 'relied', token, atMs })
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
