/**
 * The words of the bench. A *substrate* gives a place to run in; an *adapter* is one library, or one way to do the same
 * by hand, on one substrate; a *workload* makes *tables* of *arms* from the adapters that can do what it asks. Each arm
 * is measured in a process of its own, where the workload starts a *trial* with what the adapter opens.
 *
 *      workload.tables() ──arms──▶ run.ts (round-robin) ──▶ report.ts
 *                                    │ measure!   ▲ sample
 *                 a process per arm: ▼            │
 *      substrate.reach() ──ground──▶ adapter.open() ──contestant──▶ workload.start() ──trial
 *
 * A workload that is about several processes starts more of them, each with a few clients (`clients.ts`).
 *
 * Rates of different runs say little; ratios within one table of one run do. So all arms of a table take turns.
 */
import { randomUUID } from 'node:crypto'
import type { Manager } from 'lease-core'

/** A server, or what stands for it, for the length of a run. */
export interface Place {
  /** For the report: `PostgreSQL 18.1, fsync on`. */
  readonly about: string
  /** Where it can be reached; empty when it is in each process. */
  readonly url: string
  close(): Promise<void>
}

/** The same as one process sees it. */
export interface Ground {
  readonly substrate: SubstrateName
  readonly url: string
  /** Whose commands and messages are counted: those of the clients in this process, or all that the server has. */
  readonly counts: 'process' | 'server'
  /** Commands that clients have sent to the server so far. */
  commands(): Promise<number>
  /** Messages that the server has sent to clients unasked so far. */
  messages(): Promise<number>
  /** Bytes that this process has read from and written to sockets so far. */
  bytes(): number
  /** The least that the driver can ask the server, over a connection that stays open. */
  roundTrip(): Promise<void>
  close(): Promise<void>
}

export interface Substrate {
  readonly name: SubstrateName
  readonly adapters: readonly Adapter[]
  /** What is measured there; undefined: everything. */
  readonly workloads?: readonly WorkloadName[]
  /** @param url of the server; by default the environment names one, or one is started */
  open(url?: string): Promise<Place>
  /** In the process of an arm, before anything else talks to the server. */
  reach(url: string): Promise<Ground>
}

export type SubstrateName = 'memory' | 'postgres' | 'redis' | 'redis-cluster' | 'etcd' | 'dynamodb'

/** `library`: ours. `raw`: the same done by hand, the limit to measure against. `peer`: somebody else's library. */
export type Role = 'library' | 'raw' | 'peer'

export interface Adapter {
  /** For `--only`. */
  readonly name: string
  readonly role: Role
  /** What it does, in half a line. */
  readonly about: string
  /** What it can do: the members that its contestants have. */
  readonly can: readonly Ability[]
  /** Leases that it can hold at the same time, where that is not as many as one likes. */
  readonly atMost?: number
  /** Clients of it that can wait for one lease, where that is not as many as one likes, and why. */
  readonly waiters?: { readonly atMost: number; readonly because: string }
  /** About how long a hand-off takes, where that is known to be long. */
  readonly handOffSeconds?: number
  /** Kinds of transactions that it can guard. */
  readonly guards?: readonly string[]
  /** Its figure only explains another one: `--quick` leaves it out. */
  readonly isDetail?: true
  /** Opens a client. Without a seat it shares nothing with earlier ones but the ground. */
  open(ground: Ground, seat?: Seat): Promise<Contestant>
  /** Opens a client for each seat where a server has few connections: they share what listens, at most so many. */
  openMany?(ground: Ground, seats: readonly Seat[], listening: number): Promise<readonly Contestant[]>
}

/** One of the clients that are after the same leases, in whatever process. */
export interface Seat {
  /** Names what they share. */
  readonly space: string
  /** From 0 on. */
  readonly index: number
  readonly count: number
}

/** Of a client that is alone with its leases. */
export function ownSeat(): Seat {
  return { space: randomUUID(), index: 0, count: 1 }
}

/** What a workload can ask of an adapter. */
export type Ability = Exclude<keyof Contestant, 'close'>

/** What an adapter opens. */
export interface Contestant {
  /** One lease at a time. */
  readonly one?: {
    claim(lease: string): Promise<void>
    release(lease: string): Promise<void>
  }
  /** Many leases at a time, in as few requests as the substrate allows. */
  readonly many?: {
    /** Requests out at once that it is made for. */
    readonly inFlight: number
    claim(leases: readonly string[]): Promise<void>
    /** Of leases that were claimed here. */
    extend(leases: readonly string[]): Promise<void>
    release(leases: readonly string[]): Promise<void>
  }
  /** Leases that are kept alive. */
  readonly keep?: {
    /** Renewed every third of the duration; without one it is so long that nothing is renewed. */
    hold(lease: string, durationMs?: number): Promise<Kept>
    /** Renewals that the substrate has granted so far, of leases with a duration. */
    renewals(): number
    /** Timers that wait now, where that is known. */
    timers(): number
  }
  /** Leases that are waited for. */
  readonly queue?: {
    /** Waits for the lease as long as it takes. */
    hold(lease: string): Promise<Kept>
    /** How often it has surely been found so far that another holds the lease. */
    denials(): number
  }
  /** Takes the lease; what it returns says at once whether it is still held. */
  readonly knows?: (lease: string) => Promise<() => boolean>
  /** Takes the lease; what it returns says in a promise whether it is still held. */
  readonly asks?: (lease: string) => Promise<() => Promise<unknown>>
  /** Writes that are guarded by a lease, and the same without a guard. Each lane has a lease of its own. */
  readonly guard?: (kind: string, lane: number) => Promise<GuardedWrites>
  /** For recipes: ours. */
  readonly manager?: Manager
  /** Nothing but the way to the server and back. */
  readonly roundTrip?: () => Promise<void>
  close(): Promise<void>
}

/** A lease that is kept alive. */
export interface Kept {
  readonly held: boolean
  release(): Promise<void>
}

export interface GuardedWrites {
  readonly guarded: () => Promise<void>
  readonly plain: () => Promise<void>
}

/** What a workload measures. */
export interface Metric {
  readonly name: string
  readonly better: 'more' | 'less' | 'neither'
}

/** Measurements by the name of their metric. */
export type Sample = Readonly<Record<string, number>>

/** Arms that are compared with each other. */
export interface Table<Task = unknown> {
  readonly title: string
  /** The first is the one that ratios are made of. */
  readonly metrics: readonly [Metric, ...Metric[]]
  /** Labels of the arms that the others are set in proportion to. */
  readonly references: readonly string[]
  readonly arms: readonly Arm<Task>[]
  /** Those that would belong here and cannot do it. */
  readonly unable?: readonly Inability[]
}

/** Why somebody is missing. */
export interface Inability {
  readonly label: string
  readonly reason: string
}

/** One row of a table. */
export interface Arm<Task = unknown> {
  readonly label: string
  readonly role: Role
  readonly about: string
  readonly adapter: string
  /** What the workload is to do, as data: it travels to another process. */
  readonly task: Task
}

/** What runs in the process of an arm. */
export interface Trial {
  /** One measurement of about `seconds`. */
  measure(seconds: number): Promise<Sample>
  close(): Promise<void>
}

export interface Workload<Task = unknown> {
  readonly name: WorkloadName
  readonly about: string
  /** Where more repetitions tell nothing new. */
  readonly repetitions?: number
  /** false: it opens everything anew each time, and what it measures does not depend on compiled code. */
  readonly warmsUp?: false
  /** How long a measurement of so many seconds takes, about. @default that long */
  takes?(seconds: number, arm: Pick<Arm<Task>, 'role' | 'task'>): number
  tables(setting: Setting): readonly Table<Task>[]
  /** In the process of an arm. */
  start(adapter: Adapter, ground: Ground, task: Task): Promise<Trial>
}

export type WorkloadName = 'W1' | 'W2' | 'W3' | 'W4' | 'W5' | 'W6' | 'W7' | 'W8' | 'W9' | 'idle'

export interface Setting {
  readonly adapters: readonly Adapter[]
  /** Concurrent callers. */
  readonly callers: readonly number[]
  /** Leases that are held, or in the namespace; undefined: as the workload thinks best. */
  readonly sizes: readonly number[] | undefined
  /** How long a lease lasts that is renewed every third of that. */
  readonly durationMs: number
  /** Those who wait for one lease. */
  readonly waiters: readonly number[]
  /** Clients of other processes in the same namespace. */
  readonly others: readonly number[]
  /** false: it should not take long. @default true */
  readonly details?: boolean
}

/** The arms that can do it, each with the same task; all but the library's own are references. */
export function armsOf<Task>(
  adapters: readonly Adapter[],
  can: (adapter: Adapter) => boolean,
  task: Task,
): Pick<Table<Task>, 'arms' | 'references'> {
  const arms = adapters
    .filter(can)
    .map(({ name, role, about }): Arm<Task> => ({ label: name, adapter: name, role, about, task }))
  return { arms, references: arms.filter(({ role }) => role !== 'library').map(({ label }) => label) }
}

/** @throws Error the adapter promised what its contestant does not have */
export function ableTo<Name extends Ability>(
  adapter: Adapter,
  contestant: Contestant,
  ability: Name,
): NonNullable<Contestant[Name]> {
  const member = contestant[ability]
  if (member === undefined) throw new Error(`${adapter.name} has no "${ability}"`)
  return member
}
