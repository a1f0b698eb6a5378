/**
 * Where a chaos run takes place: a store with its servers, and a way in for each worker that can be broken. The nemeses that a ground can
 * have are part of it.
 */
import type { Reach } from './connections.ts'
import type { Worker } from './workers.ts'

export type { Reach } from './connections.ts'

export const GROUNDS = [
  'postgres',
  'pgbouncer',
  'standby',
  'redis',
  'sentinel',
  'redis-cluster',
  'etcd',
  'etcd3',
  'dynamodb',
] as const
export type GroundName = (typeof GROUNDS)[number]

export interface Ground extends AsyncDisposable {
  readonly name: GroundName
  readonly nemeses: readonly Nemesis[]
  /** A way in for one more worker. */
  reach(worker: string): Promise<Reach>
  /** A way in past all proxies, for the judge who prepares and reads the store. */
  readonly judge: Reach
  /** Nemeses that this ground could have on another machine. */
  readonly leftOut: readonly { readonly name: string; readonly why: string }[]
  /** Redis with Sentinels: each change of the master that the Sentinels have reported, on the clock of the records. */
  readonly promotions?: () => readonly { readonly atMs: number; readonly port: number }[]
  /** What the store may have forgotten until now, in the order in which that was known. */
  readonly losses?: () => readonly Loss[]
}

/** What this set-up of the store was notified, and may have answered, between two instants; the guarantees say that it may be forgotten. */
export interface Loss {
  /** What lost it. */
  readonly what: string
  readonly fromMs: number
  readonly toMs: number
}

/** Called by a nemesis that makes a store forget. */
export type ReportLoss = (loss: Loss) => void

export interface Nemesis {
  readonly name: string
  /** The guarantees name it as an exception: the checks must find something. */
  readonly isControl: boolean
  /** Injects one fault and ends it. Resolves when all is sound again; when the signal aborts it mends at once what it broke. */
  strike(battle: Battle): Promise<void>
}

/** What a nemesis may touch. */
export interface Battle {
  readonly ground: Ground
  /** Those that run now. */
  readonly workers: readonly Worker[]
  /** One more worker, in place of one that was killed. */
  startWorker(): Promise<Worker>
  /** From 0 to 1, by the seed. */
  random(): number
  /** Writes the fault into the history. */
  note(what: string, detail?: string): void
  readonly signal: AbortSignal
}
