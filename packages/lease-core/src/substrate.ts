/**
 * The port that adapters implement: many operations in one round trip, a verdict for each, no policy.
 *
 * Core owns everything that is the same on every store: validation, nonces, retries, time-outs, coalescing, bounds,
 * the snapshot and the words of the errors. A substrate trusts its arguments and answers with facts.
 */
import type { LeaseChange } from './client.ts'
import type { Trapdoor } from './lease.ts'

/** What the store knows about one lease that is held, at the moment of its answer. */
export interface Holding {
  readonly holder: string
  /** Strictly larger for every new term of this lease; the same for a replayed claim and for an extension. */
  readonly fencingToken: bigint
  /**
   * Milliseconds until it lapses by the store's own clock, fractions allowed. At or below zero the lease has lapsed,
   * unless it is pinned. A store without a clock (`version` given) says the full duration last granted.
   */
  readonly remainingMs: number
  readonly value: string | undefined
  readonly pinned: boolean
  /**
   * Only for stores without a clock: changes with every claim and extension. The lease has lapsed for an observer who
   * saw the same version for the whole duration (`observer.ts`).
   */
  readonly version: string | undefined
}

/** Opens a term, granted when the lease is vacant, lapsed and not pinned, or held by the same holder *and* nonce. */
export interface ClaimOp {
  readonly kind: 'claim'
  readonly lease: string
  readonly holder: string
  readonly durationMs: number
  /** Unique per logical claim, the same over its retries: tells a lost reply from another's holding. No `|` and no white space in it. */
  readonly nonce: string
  readonly value: string | undefined
  /** Stores without a clock: the version that core has observed to be lapsed, if any; it may be taken over. */
  readonly lapsed: string | undefined
  /** Whether watchers are to be told (`changed`) when this opens a term. A store that tells anyway may ignore it. */
  readonly announce?: boolean | undefined
  /**
   * The claimer waits in line (`line.ts`), at this place; 0: it has none yet. Without one it is refused while others are
   * in line, vacant or not, and every refusal gives it the last place. With one it is granted whenever the lease is
   * vacant, and watchers are told (`taken`). A store that keeps no lines may ignore it.
   */
  readonly place?: number | undefined
}

/** Moves the expiry to now + durationMs unless it is later already; granted to the holder of a lease not lapsed. */
export interface ExtendOp {
  readonly kind: 'extend'
  readonly lease: string
  readonly holder: string
  /** The term to extend, when known; undefined matches whichever term this holder has. */
  readonly fencingToken: bigint | undefined
  readonly durationMs: number
  /** undefined keeps the old value. */
  readonly value: string | undefined
  /** Stores without a clock: this very term as core last saw it, so that one unchanged since can be extended unread. */
  readonly seen: Holding | undefined
  /** Whether watchers are to be told (`changed`) when this changes the value, as in `ClaimOp`. */
  readonly announce?: boolean | undefined
}

/** Vacates; granted to the holder, and when vacant or lapsed already. The lease's fencing token is not forgotten. */
export interface ReleaseOp {
  readonly kind: 'release'
  readonly lease: string
  readonly holder: string
  /** The term to release, when known. */
  readonly fencingToken: bigint | undefined
  /** The claim whose term to release, for a claim given up before its reply came. */
  readonly nonce: string | undefined
}

/** Vacates a lapsed lease; granted when vacant already. */
export interface ExpireOp {
  readonly kind: 'expire'
  readonly lease: string
  /** As in `ClaimOp`. */
  readonly lapsed: string | undefined
}

/** Adds or removes a pin; always granted, held or not. */
export interface PinOp {
  readonly kind: 'pin' | 'unpin'
  readonly lease: string
  readonly entity: string
}

export type Op = ClaimOp | ExtendOp | ReleaseOp | ExpireOp | PinOp

/**
 * What became of one operation: three outcomes, and "not executed".
 *
 * - `granted`: done, durably by the store's own rules; `holding` is the state after it, undefined = vacant
 * - `refused`: certainly not done; `holding` is the state that forbids it
 * - `contended`: certainly not done, and nothing is known: somebody else was at the same row; core tries again shortly
 * - `unknown`: it may have been done; `cause` says what went wrong
 */
export interface Verdict {
  readonly outcome: 'granted' | 'refused' | 'contended' | 'unknown'
  readonly holding: Holding | undefined
  readonly cause: unknown
  /** Of a claim in line that was refused: its place, and the last one served. */
  readonly line?: { readonly place: number; readonly served: number } | undefined
}

export function granted(holding: Holding | undefined): Verdict {
  return { outcome: 'granted', holding, cause: undefined }
}

export function refused(holding: Holding | undefined): Verdict {
  return { outcome: 'refused', holding, cause: undefined }
}

export function unknown(cause: unknown): Verdict {
  return { outcome: 'unknown', holding: undefined, cause }
}

export const contended: Verdict = { outcome: 'contended', holding: undefined, cause: undefined }

/**
 * Opens a term on any one of these leases, the first that is vacant; refused when all are held, or when this holder has
 * one of them already (by another nonce): then that one comes back as `lease`.
 */
export interface ClaimAnyOp {
  /** At least one, all different, in the order in which they are to be tried. */
  readonly leases: readonly string[]
  readonly holder: string
  readonly durationMs: number
  /** As in `ClaimOp`. */
  readonly nonce: string
  readonly value: string | undefined
  /** Stores without a clock: of each lease that core has observed to be lapsed, the version. */
  readonly lapsed: ReadonlyMap<string, string>
  readonly announce?: boolean | undefined
}

/** What became of a `ClaimAnyOp`. */
export interface AnyVerdict {
  readonly outcome: 'granted' | 'refused' | 'contended'
  /** Granted: which one. Refused: the one that this holder has already, if that is why. */
  readonly lease: string | undefined
  /** Those of the leases that are held, as far as the store has looked; after a refusal all that are. */
  readonly holdings: ReadonlyMap<string, Holding>
}

/** What core tells an adapter about one call. */
export interface Call {
  /** Aborts when core has given the call up: free the connection, the answer will be thrown away. */
  readonly signal: AbortSignal
  /**
   * Calls the listener with the signal's reason when it aborts, or at once if it has: for those who listen to every
   * call, as an AbortSignal costs more than the rest of it. Absent: listen to the signal.
   */
  whenGivenUp?(listener: (why: Error) => void): void
  /** After how many milliseconds core gives up. */
  readonly timeoutMs: number
}

/** Something about the store's set-up that weakens what the library promises. A warning, never a refusal. */
export interface SubstrateWarning {
  /** A stable word, such as `synchronous-commit-off`. */
  readonly warning: string
  /** What it means for the user, in one or two sentences. */
  readonly message: string
}

/** How core may batch. */
export interface SubstrateLimits {
  /** Operations in one `apply`, and names in one `read`. */
  readonly maxOps: number
  /** Calls out at once. */
  readonly maxInFlight: number
  /**
   * A batch of so many costs hardly more for each than a larger one: where more wait they go as several at once, so that
   * the store works on one while this process is at another. Absent: as few as can be.
   */
  readonly enoughOps?: number | undefined
}

export interface Substrate {
  readonly limits: SubstrateLimits
  /**
   * Applies the operations, one verdict each in the same order. Not atomic as a whole; no two name the same lease.
   * A rejection means `unknown` for all of them.
   */
  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]>
  /**
   * Claims one of several leases in one round trip. A rejection means unknown. Absent: core reads them and then claims one.
   * At most 128 leases.
   */
  claimAny?(op: ClaimAnyOp, call: Call): Promise<AnyVerdict>
  /** The holdings of these leases, or of the whole namespace. A lease that is not in the answer is vacant. */
  read(leases: readonly string[] | undefined, call: Call): Promise<ReadonlyMap<string, Holding>>
  /** Every pinned lease of the namespace with the entities that pin it. */
  pinned(call: Call): Promise<ReadonlyMap<string, readonly string[]>>
  /** Starts telling of changes; `resync` after every (re)connection. Absent where the store cannot tell. */
  watch?(listener: (change: LeaseChange) => void): () => void
  /** What the set-up weakens. Asked once, at the first use of the client. */
  inspect?(call: Call): Promise<readonly SubstrateWarning[]>
  /** The trapdoor of exactly this term. */
  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor
  /** Lets go of what the substrate itself opened; never of what the user passed in. */
  close(): Promise<void>
}
