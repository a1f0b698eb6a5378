/** What a Manager does, by role: code that should do only one of these receives only that interface. */
import type { DurationLike } from 'luxon'
import type { CountedInfo } from './client.ts'
import type { Info } from './lease.ts'
import type { Token } from './token.ts'

export interface ClaimOptions {
  /** Rejects the claim with its reason. A claim granted after all is released again if possible, else it lapses. */
  readonly signal?: AbortSignal | undefined
  /** Travels with the lease; at most 4 KiB. */
  readonly value?: string | undefined
  /** Whether those who `observe` the lease are told at once. @default false */
  readonly announce?: boolean | undefined
}

export interface HoldOptions {
  /** How long each grant lasts. The Hold renews it. */
  readonly duration: DurationLike
  /**
   * false: another's lease is `ErrClaimDenied` at once. A duration bounds the wait; true waits as long as `signal`
   * allows. Those of one manager are served first come, first served. @default false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends the waiting; it does not end the Hold. */
  readonly signal?: AbortSignal | undefined
  /**
   * Bounds the queue of the lease: where so many wait already, the wait ends with `ErrClaimDenied` as soon as that is known. The others
   * keep waiting. Those of this process that came before count, and each other process that waits counts once. Where the store keeps no
   * queues, and of `holdAny`, only those of this process that wait for the same leases count. At least 1.
   * @default any number may wait
   */
  readonly maxWaiters?: number | undefined
  /** Travels with the lease; at most 4 KiB. */
  readonly value?: string | undefined
  /** Whether those who `observe` the lease are told at once of this term; of `update` they always are. @default false */
  readonly announce?: boolean | undefined
  /**
   * Whether other Holds of this process may stand on the same term: those of the same lease and holder that say so too. The last
   * one that is released gives the lease up. @default false: a second one is `ErrClaimDenied`
   */
  readonly shared?: boolean | undefined
  /**
   * How long after a grant the next renewal is sent; `false`: only `hold.renew()` does. Less than `duration` by at least 0.1 % and 6 ms:
   * a later renewal would come when the trust window has ended. A `duration` below 8 ms needs `false`.
   *
   * @default a third of `duration`
   */
  readonly renewEvery?: DurationLike | false | undefined
  /**
   * Holds a share of the counted lease of this name (`share.ts`), of weight 1 or as the options say, instead of the lease of this name.
   * `hold.lease` is then `name#holder`. Those who wait for shares are served first come, first served, whatever their weights.
   */
  readonly share?: true | ShareOptions | undefined
}

export interface ShareOptions {
  /** How much of the capacity it takes. @default 1 */
  readonly weight?: number | undefined
  /**
   * Of the counted lease. The first claim that names one defines it; a claim that names another is `ErrInvalid`.
   *
   * @default it is what `define` has made it
   */
  readonly capacity?: number | undefined
  /** Goes ahead of all who wait, if there is room: for those who take it over, as after a revocation. @default false */
  readonly ahead?: boolean | undefined
}

export interface ObserveOptions {
  /** Ends the iteration with its reason. */
  readonly signal?: AbortSignal | undefined
  /** Whether a renewal that is noticed counts as a change. None is read for: it costs nothing more. @default false */
  readonly renewals?: boolean | undefined
}

/** Options of an operation that is sent once. */
export interface OperationOptions {
  /** Rejects the call with its reason; what was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

export interface DefineOptions extends OperationOptions {
  /** @default it must not be defined */
  readonly from?: string | undefined
}

export interface RevokeOptions extends OperationOptions {
  /** Ends this term and no other: over already → resolves. @default the present term */
  readonly fencingToken?: bigint | undefined
}

export interface WaitOptions {
  /** Rejects the wait with its reason; nothing stays behind. */
  readonly signal?: AbortSignal | undefined
}

/** Acquires leases, and tells when one is free. */
export interface Claimer {
  /**
   * Opens a term for this holder, or extends its own. When it resolves, the holder has the lease for at least
   * `duration` from the start of the call. The token is of this very term.
   *
   * @throws ErrClaimDenied another holds it: surely not held by this holder
   * @throws ErrNotValid    nothing was sent
   * @throws ErrUnknown     it may have happened
   */
  claim(lease: string, holder: string, duration: DurationLike, options?: ClaimOptions): Promise<Token>
  /** Resolves when nobody holds the lease; at once when it is vacant. One holder after another keeps it waiting. */
  waitUntilExpired(lease: string, options?: WaitOptions): Promise<void>
}

/** Makes checkable statements. */
export interface Checker {
  /** No I/O and no validation here: `check()` does both. */
  token(lease: string, holder: string): Token
}

/** Ends terms. */
export interface Releaser {
  /**
   * The holder gives the lease up; vacant already → resolves. Where this process was granted no term of it, the store is read
   * first, and the term that it shows is ended. All Holds of the term end with it.
   *
   * @throws ErrNotHeld another holds it
   * @throws ErrUnknown it may have happened
   */
  release(lease: string, holder: string, options?: OperationOptions): Promise<void>
  /**
   * An operator takes the lease from the present holder, pinned or not. Vacant already → resolves.
   *
   * @throws ErrUnknown it may have happened
   */
  revoke(lease: string, options?: RevokeOptions): Promise<void>
}

/** Keeps leases from lapsing. */
export interface Pinner {
  /** The lease, or its next holding, does not lapse while `entity` pins it. Idempotent. */
  pin(lease: string, entity: string, options?: OperationOptions): Promise<void>
  /** Withdraws the pin. Idempotent. */
  unpin(lease: string, entity: string, options?: OperationOptions): Promise<void>
  /** Every pinned lease of the namespace with the entities that pin it. */
  pinned(): Promise<ReadonlyMap<string, readonly string[]>>
}

/** Defines counted leases, and looks at them. */
export interface Counter {
  /**
   * Changes the capacity of a counted lease for every later grant; `undefined`: it is not defined any more, and grants nothing. Shares that
   * stand are not ended.
   *
   * @param options.from the generation that it must be of; undefined: it must not be defined
   * @returns the generation of the new definition
   * @throws ErrInvalid it is of another generation
   * @throws ErrUnknown it may have happened
   */
  define(name: string, capacity: number | undefined, options?: DefineOptions): Promise<string>
  /** A counted lease with its shares, freshly read. */
  counted(name: string, options?: OperationOptions): Promise<CountedInfo>
}

/** Looks at leases of others. */
export interface Reader {
  /**
   * Yields who holds the lease, at once, and again whenever holder, term, value or pin has changed; undefined: nobody
   * does. The latest state counts: one that was over before it was asked for is passed over. Changes are told at once
   * where the holder announces them (`announce`, `update`) and when the lease is given up; otherwise they are noticed at
   * the known expiry, and at the latest after `maxSleep`. Between these nothing is sent.
   *
   * Reads and keeps the process alive only while `next()` waits. `return()` ends it at once, also while `next()` waits.
   *
   * @throws ErrNotValid, ErrStopped, ErrUnknown with the reason "closed", or the reason of the signal, from `next()`
   */
  observe(lease: string, options?: ObserveOptions): AsyncGenerator<Info | undefined, never, void>
  /** Reads one lease: what is known of it if it is held, else undefined. Nothing is subscribed, and nothing stays behind. */
  find(lease: string, options?: OperationOptions): Promise<Info | undefined>
  /** Every lease held now, freshly read. A copy: it does not change afterwards. */
  leases(): Promise<ReadonlyMap<string, Info>>
}
