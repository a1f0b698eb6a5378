/**
 * What a fleet of processes asks of one server, as a formula: how often leases are renewed, in how many requests, and what
 * waiters ask. `simulation.ts` counts the same over the memory store, and a test compares the two. `docs/capacity.md`
 * explains the formula.
 */

/** Processes that all do the same. */
export interface Fleet {
  readonly processes: number
  /** Leases that each process holds. */
  readonly leases: number
  /** Of a lease, in milliseconds; renewed with the default `renewEvery`. */
  readonly durationMs: number
  /** Leases that each process waits for while another process holds them. */
  readonly waits: number
  /** Whether the store decides by a clock of its own what has lapsed: Redis and PostgreSQL do, etcd does not. */
  readonly serverClock: boolean
}

/** What the server is asked while nothing is released, each per second. */
export interface FleetLoad {
  /** Leases renewed. */
  readonly renewals: number
  /** Requests that carry these renewals, where each process has claimed its leases within one grain. */
  readonly fewestRequests: number
  /** The same where each process has claimed its leases one by one, spread over the interval. */
  readonly mostRequests: number
  /** Leases read by their holders, because they are renewed less often than once in `MAX_SLEEP_MS`. */
  readonly reads: number
  /** Claims by waiters. */
  readonly looks: number
}

/** `maxSleep` of a Manager, by default: a holder or waiter looks at the lease at least once in this time. */
const MAX_SLEEP_MS = 60_000
/** The shortest part of `renewEvery` that renewals may be moved forward by is an eighth, rounded down to a power of two. */
const GRAINS = 8

/** Renewals that fall due within the same grain of a process travel together. In milliseconds. */
export function renewalGrainMs(durationMs: number): number {
  return 2 ** Math.max(0, Math.floor(Math.log2(durationMs / 3 / GRAINS)))
}

/** How often a lease is renewed that nothing delays: every third of its duration, rounded down to whole grains. In milliseconds. */
export function renewalIntervalMs(durationMs: number): number {
  const grainMs = renewalGrainMs(durationMs)
  return Math.floor(durationMs / 3 / grainMs) * grainMs
}

/** How often a holder reads its lease between two renewals. */
export function readsBetweenRenewals(durationMs: number): number {
  return Math.ceil(renewalIntervalMs(durationMs) / MAX_SLEEP_MS) - 1
}

/**
 * How often a process looks at a lease that it waits for: at the expiry that it knows, which a renewal has moved on meanwhile, and
 * after `MAX_SLEEP_MS` at the latest. Without a clock of the store: once it has observed the lease for a whole duration, and the
 * margin for clocks besides. In milliseconds.
 */
export function lookIntervalMs({ durationMs, serverClock }: Pick<Fleet, 'durationMs' | 'serverClock'>): number {
  const intervalMs = renewalIntervalMs(durationMs)
  const knownMs = serverClock ? Math.floor(durationMs / intervalMs) * intervalMs : durationMs * 1.001 + 1
  return Math.min(MAX_SLEEP_MS, knownMs)
}

export function fleetLoad({ processes, leases, durationMs, waits, serverClock }: Fleet): FleetLoad {
  const grainMs = renewalGrainMs(durationMs)
  const intervalMs = renewalIntervalMs(durationMs)
  const perInterval = (count: number): number => (processes * count * 1000) / intervalMs
  return {
    renewals: perInterval(leases),
    fewestRequests: perInterval(Math.min(1, leases)),
    mostRequests: perInterval(Math.min(leases, intervalMs / grainMs)),
    reads: perInterval(leases * readsBetweenRenewals(durationMs)),
    looks: (processes * waits * 1000) / lookIntervalMs({ durationMs, serverClock }),
  }
}
