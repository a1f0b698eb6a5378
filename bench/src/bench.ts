/**
 * The words of the bench. A *substrate* gives a place to run in; an *adapter* is one library, or one way to do the same
 * by hand, on one substrate; a *workload* makes *groups* of *arms* from the adapters that can do what it asks.
 *
 *      substrate ──place──▶ adapter.open() ──contestant──▶ workload.groups() ──arms──▶ run.ts (round-robin) ──▶ report.ts
 *
 * Rates of different runs say little; ratios within one group of one run do. So all arms of a group take turns.
 */

/** A server, or what stands for it, for the length of a run. */
export interface Place {
  /** For the report: `PostgreSQL 18.1, fsync on`. */
  readonly about: string
  /** Where it can be reached; empty when it is in this process. */
  readonly url: string
  /** Commands that clients have sent to the server so far, by its own count, less those that the counting takes. */
  commands(): Promise<number>
  /** The least that the driver can ask the server, over a connection that stays open. */
  roundTrip(): Promise<void>
  close(): Promise<void>
}

export interface Substrate {
  readonly name: SubstrateName
  readonly adapters: readonly Adapter[]
  open(): Promise<Place>
}

export type SubstrateName = 'memory' | 'postgres' | 'redis' | 'etcd'

/** `library`: ours. `raw`: the same done by hand, the limit to measure against. `peer`: somebody else's library. */
export type Role = 'library' | 'raw' | 'peer'

export interface Adapter {
  /** For `--only`. */
  readonly name: string
  readonly role: Role
  /** What it does, in half a line. */
  readonly about: string
  /** Opens one that shares nothing with earlier ones but the place. */
  open(place: Place): Promise<Contestant>
}

/** What an adapter can do; a workload takes those that can do what it asks. */
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
    /** Renewals that the substrate has granted so far. */
    renewals(): number
    /** Timers that wait now. */
    timers(): number
  }
  /** Leases that are waited for. */
  readonly queue?: {
    /** Waits for the lease as long as it takes. */
    hold(lease: string): Promise<Kept>
    /** How often the substrate has said so far that another holds the lease. */
    denials(): number
    /** One more who is after the same leases, with connections of his own. */
    another(): Promise<Contestant>
  }
  close(): Promise<void>
}

/** A lease that is kept alive. */
export interface Kept {
  readonly held: boolean
  release(): Promise<void>
}

/** What a workload measures. */
export interface Metric {
  readonly name: string
  readonly better: 'more' | 'less' | 'neither'
}

/** Measurements by the name of their metric. */
export type Sample = Readonly<Record<string, number>>

/** One row of a table. */
export interface Arm {
  readonly label: string
  readonly role: Role
  readonly about: string
  /** One measurement of about `seconds`. */
  measure(seconds: number): Promise<Sample>
}

/** Arms that are compared with each other. */
export interface Group {
  readonly title: string
  /** The first is the one that ratios are made of. */
  readonly metrics: readonly [Metric, ...Metric[]]
  /** Labels of the arms that the others are set in proportion to. */
  readonly references: readonly string[]
  readonly arms: readonly Arm[]
  close(): Promise<void>
}

export interface Workload {
  readonly name: WorkloadName
  readonly about: string
  /** Opens its groups one after another, so that no more is alive than what is measured. */
  groups(setting: Setting): AsyncGenerator<Group, void, void>
}

export type WorkloadName = 'W1' | 'W2' | 'W3' | 'W4' | 'W6' | 'W8'

export interface Setting {
  readonly place: Place
  readonly adapters: readonly Adapter[]
  /** Concurrent callers. */
  readonly callers: readonly number[]
  /** Leases that are held, or in the namespace; undefined: as the workload thinks best. */
  readonly sizes: readonly number[] | undefined
  /** How long a lease lasts that is renewed every third of that. */
  readonly durationMs: number
  /** Those who wait for one lease. */
  readonly waiters: readonly number[]
}
