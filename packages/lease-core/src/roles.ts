/** The operations of a Manager, by role: pass only the interface that your code needs. */
import type { DurationLike } from 'luxon'
import type { CountedInfo } from './client.ts'
import type { Info } from './lease.ts'
import type { Token } from './token.ts'

/** Options of `claim`. */
export interface ClaimOptions {
  /** Rejects the claim with its reason. A lease that was granted after all is released if possible; otherwise it expires. */
  readonly signal?: AbortSignal | undefined
  /** Text that travels with the lease; everyone can read it. At most 4 KiB. */
  readonly value?: string | undefined
  /** Whether observers of the lease are notified at once. @default false */
  readonly announce?: boolean | undefined
}

/** Options of `hold` and `holdAny`. */
export interface HoldOptions {
  /** How long each grant lasts, from the sending of its request. The Hold renews it. A number is in milliseconds. */
  readonly duration: DurationLike
  /**
   * false: a single try. A duration bounds the whole call. true: waits as long as `signal` allows. Waiters have a queue over all
   * processes, if the store keeps one; it is fair as a rule. A number is in milliseconds. @default false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends the call with its reason; does not end the Hold. */
  readonly signal?: AbortSignal | undefined
  /**
   * Bounds the queue of the lease. If this many wait already, the wait ends with `ErrClaimDenied` as soon as that is known; the others
   * keep waiting. Earlier waiters of this process count, and each other waiting process counts once. If the store keeps no queue, and in
   * `holdAny`, only waiters of this process for the same leases count. At least 1.
   *
   * @default no bound
   */
  readonly maxWaiters?: number | undefined
  /** Text that travels with the lease; everyone can read it. At most 4 KiB. */
  readonly value?: string | undefined
  /** Whether observers of the lease are notified at once of this term. `update` always notifies them. @default false */
  readonly announce?: boolean | undefined
  /**
   * Whether several Holds of this process may share one term. All of them must have the same lease and holder, and be `shared`. The
   * release of the last one releases the lease. @default false: a second Hold is `ErrClaimDenied`
   */
  readonly shared?: boolean | undefined
  /**
   * Whether to resolve also with a grant that took longer to arrive than the lease lasts; such a Hold is over already. For callers that
   * count grants and rely on none. Without it such a grant is claimed again, a few times. @default false
   */
  readonly acceptLate?: boolean | undefined
  /**
   * How long after a grant the next renewal is sent. `false`: the Hold renews only by `hold.renew()`. Shorter than `duration` by at least
   * 0.1 % and 6 ms, because a later renewal would miss the trust window. A `duration` below 8 ms needs `false`. A
   * number is in milliseconds.
   *
   * @default a third of `duration`
   */
  readonly renewEvery?: DurationLike | false | undefined
  /**
   * Claims a share of the counted lease of this name (`share.ts`) instead of the lease of this name. true: a share of weight 1.
   * `hold.lease` is then `name#holder`. Waiters for shares are served first come, first served, whatever their weights.
   *
   * With a share, `hold` also throws: `ErrInvalid` (the counted lease is not defined, or has another capacity), and `ErrNotValid` (the
   * weight is above the capacity, or this holder has a share of another weight).
   */
  readonly share?: true | ShareOptions | undefined
}

/** Which share `hold` claims. */
export interface ShareOptions {
  /** How much of the capacity the share takes: a whole number from 1. @default 1 */
  readonly weight?: number | undefined
  /**
   * The capacity of the counted lease. The first claim that names a capacity defines it. A claim that names another one is `ErrInvalid`,
   * unless its holder has the share already.
   *
   * @default the counted lease must be defined
   */
  readonly capacity?: number | undefined
  /** Whether the claim passes all waiters, if there is room for each of them: for a takeover after a revocation. @default false */
  readonly ahead?: boolean | undefined
}

/** Options of `observe`. */
export interface ObserveOptions {
  /** Ends the iteration with its reason. */
  readonly signal?: AbortSignal | undefined
  /** Whether a renewal that this process happens to notice counts as a change. No reads are sent for it. @default false */
  readonly renewals?: boolean | undefined
}

/** Options of an operation that is sent once. */
export interface OperationOptions {
  /** Rejects the call with its reason. What was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `define`. */
export interface DefineOptions extends OperationOptions {
  /** The generation that the definition must have. @default it must not be defined */
  readonly from?: string | undefined
}

/** Options of `revoke`. */
export interface RevokeOptions extends OperationOptions {
  /** Ends only this term; resolves if it is over already. @default the present term */
  readonly fencingToken?: bigint | undefined
}

/** Options of `waitUntilExpired`. */
export interface WaitOptions {
  /** Rejects the wait with its reason; nothing is left. */
  readonly signal?: AbortSignal | undefined
}

/** Claims leases, and waits until one is free. */
export interface Claimer {
  /**
   * Opens a term for this holder, or extends the term that it has. When it resolves, the holder has the lease for at least `duration` from
   * the start of the call, unless the lease is released or revoked. The claim is a single try. It is not renewed: for that use
   * `manager.hold`. The returned token is of this term.
   *
   * @param duration a luxon Duration, an object such as `{ seconds: 30 }`, or a number, which is in milliseconds
   * @throws ErrClaimDenied another holds it: certain, and this holder does not
   * @throws ErrNotValid    an argument breaks a rule; nothing was sent
   * @throws ErrStopped     the manager was stopped
   * @throws ErrUnknown     the lease may have been granted: claim again, which finds that grant
   */
  claim(lease: string, holder: string, duration: DurationLike, options?: ClaimOptions): Promise<Token>
  /** Resolves when nobody holds the lease; at once if it is vacant. It reserves nothing: another may claim the lease first. */
  waitUntilExpired(lease: string, options?: WaitOptions): Promise<void>
}

/** Makes tokens. */
export interface Checker {
  /** Makes a token for any term of this holder. Sends and validates nothing: `check()` does both. */
  token(lease: string, holder: string): Token
}

/** Ends terms. */
export interface Releaser {
  /**
   * Releases the lease of this holder; resolves if it is vacant. Ends the term that this process was granted. If it was granted none, it
   * reads the store first, and ends the term found there. All Holds of the term end with it.
   *
   * @throws ErrNotHeld another holds it; or another process of this holder name has adopted the term (reason `adopted`)
   * @throws ErrUnknown the lease may have been released; nothing in this process relies on it any more
   */
  release(lease: string, holder: string, options?: OperationOptions): Promise<void>
  /**
   * Takes the lease from its present holder, pinned or not; for operators. Resolves if the lease is vacant. In another process the holder
   * may go on relying on the lease until its trust window ends; every later guard refuses its writes.
   *
   * @throws ErrUnknown the lease may have been revoked
   */
  revoke(lease: string, options?: RevokeOptions): Promise<void>
}

/** Keeps leases from expiring. */
export interface Pinner {
  /** Pins the lease for `entity`: it, or its next term if it is vacant, does not expire while it is pinned. Idempotent. */
  pin(lease: string, entity: string, options?: OperationOptions): Promise<void>
  /** Withdraws the pin of `entity`. If the expiry has passed, and no other pin is left, the lease is then vacant. Idempotent. */
  unpin(lease: string, entity: string, options?: OperationOptions): Promise<void>
  /** Reads every pinned lease of the namespace, with the entities that pin it. */
  pinned(): Promise<ReadonlyMap<string, readonly string[]>>
}

/** Defines and reads counted leases. */
export interface Counter {
  /**
   * Changes the capacity of a counted lease for every later grant. `undefined` removes the definition: nothing more is granted. Live shares
   * are not ended.
   *
   * @param options.from the generation that the definition must have; undefined: it must not be defined
   * @returns the generation of the new definition
   * @throws ErrInvalid the definition has another generation: read it again with `counted`
   * @throws ErrUnknown the definition may have been changed
   */
  define(name: string, capacity: number | undefined, options?: DefineOptions): Promise<string>
  /** Reads a counted lease: its definition, and its live shares. */
  counted(name: string, options?: OperationOptions): Promise<CountedInfo>
}

/** Reads and observes leases. */
export interface Reader {
  /**
   * Yields what is known of the lease at once, and again after each change of holder, term, value or pin; undefined: vacant. Yields the
   * latest state: one that ended before `next()` was called is passed over. A release, and what the holder announces (`announce`,
   * `update`), is noticed at once; any other change at the known expiry, and at the latest after `maxSleep`. Nothing is sent in between.
   *
   * It reads, and keeps the process alive, only while `next()` waits. `return()` ends it at once, also while `next()` waits.
   *
   * @throws from `next()`: ErrNotValid, ErrStopped, ErrUnknown with the reason `closed`, or the reason of the signal
   */
  observe(lease: string, options?: ObserveOptions): AsyncGenerator<Info | undefined, never, void>
  /** Reads one lease. undefined: vacant. */
  find(lease: string, options?: OperationOptions): Promise<Info | undefined>
  /**
   * Reads how many processes wait for a lease, or for a share of the counted lease of a share; each counts once, however many of its calls
   * wait. It is an upper bound: a process that died counts for up to `INTEREST_MS` (150 s). undefined: the store keeps no queues.
   */
  waiting(lease: string, options?: OperationOptions): Promise<number | undefined>
  /** Reads every lease of the namespace that is held. The map is a copy and does not change. */
  leases(): Promise<ReadonlyMap<string, Info>>
}
