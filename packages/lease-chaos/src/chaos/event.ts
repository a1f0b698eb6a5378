/** What a history is made of: events of the workers, and of the run itself. All times are of the machine's monotonic clock. */
import type { Report } from '../recorder.ts'

/** What became of a call. `failed`: an error that the call does not promise. */
export type CallOutcome = 'granted' | 'refused' | 'unknown' | 'aborted' | 'failed'

/** The name under which the run itself reports. */
export const RUN = 'run'

/**
 * One line of a history. Of a worker:
 *
 * - `sent`, `answered`: a call of the public API, with its number in this worker
 * - `relied`: it relied on the term at an instant between `atMs` and `sampledMs`
 * - `aborted`: a signal of something held has aborted
 * - `selected`, `deselected`: a node of an election
 * - `written`, `refused`: a write to an account; `begun`, `done`: the run of a slot
 * - `late`: the event loop did not run for `lostMs` until now
 * - `cleared`: an operator freed a fail-closed lock between `atMs` and `sampledMs`
 * - `uncaught`, `warning`, `usage`, `closed`
 *
 * Of the run: `phase`, `fault`, `mended`, `started`, `gone`, `stored`; `lost`: the store may have forgotten what it answered between `atMs`
 * and `sampledMs`, by what the detail says.
 */
export interface ChaosEvent extends Report {
  readonly worker: string
  /** Of calls: the number of the call in its worker. */
  readonly call?: number
  /** Of calls: which method, and how it was called. */
  readonly operation?: Operation
  readonly outcome?: CallOutcome
  readonly holder?: string
  /** Of calls: how long the lease was asked for. */
  readonly durationMs?: number
  /** Of `aborted`: what `held` said then. */
  readonly held?: boolean
  /** Of `relied`: until when the worker could rely on the term without another answer. Of `aborted`: at the last sample. */
  readonly trustedUntilMs?: number
  /** Of `aborted` and `relied`: the wall clock minus the monotonic one. */
  readonly wallMs?: number
  /** Of `closed`: descriptors that the worker did not have at its start, and has in excess. */
  readonly left?: readonly string[]
  /** Of `usage` and `closed`. */
  readonly usage?: Usage
  /** Of `stored`: the fencing token of the write that this one replaced, where the store knows it. */
  readonly over?: string
  /** Of `started`: whether the run ended the worker itself. Of `gone`: the exit code. */
  readonly code?: number | null
}

/** What a process takes of its machine. */
export interface Usage {
  readonly heapBytes: number
  readonly descriptors: number
  readonly timers: number
  readonly listeners: number
}

/** The methods that workers call, each as one promise. */
export const OPERATIONS = [
  'claim',
  'hold',
  'hold-wait',
  'hold-any',
  'check',
  'find',
  'write',
  'write-unguarded',
  'update',
  'renew',
  'release',
  'revoke',
  'pin',
  'unpin',
  'permit',
  'read-lock',
  'write-lock',
  'closed-lock',
  'lead',
  'once-per',
] as const
export type Operation = (typeof OPERATIONS)[number]

/** What a name says about a lease: which promises count for it. */
export const LEASES = {
  /** Many workers, always. */
  hot: (index: number) => `hot-${index}`,
  /** Few calls each. */
  cold: (index: number) => `cold-${index}`,
  /** Operators take these away: trust may overlap. */
  revocable: (index: number) => `revocable-${index}`,
  /** Of one worker, which pins it. */
  pinned: (worker: string) => `pinned-${worker}`,
} as const

/** Whether the promise of one holder counts for this lease. */
export function isRevocable(lease: string): boolean {
  return lease.startsWith('revocable-')
}

/** Whether so few calls are made that their order can be searched for. */
export function isCold(lease: string): boolean {
  return lease.startsWith('cold-')
}

/** How a call names the leases among which it chooses, `any-0` and so on. */
export const ANY = 'any'

/** The detail of a release of a Hold that was lost before: it sends nothing, so the lease may stand until it lapses. */
export const LOCAL = 'lost before'

/** The semaphores of a run, and how many permits each has. */
export const SEMAPHORES: Readonly<Record<string, number>> = { 'permits-1': 1, 'permits-3': 3 }
export const LOCK = 'read-write'
export const CLOSED_LOCK = 'closed'
export const ELECTION = 'leader'
export const JOBS = ['job-once', 'job-retry'] as const
/** The account of a lease that is written without a guard. */
export const unguardedAccount = (lease: string): string => `unguarded-${lease}`
