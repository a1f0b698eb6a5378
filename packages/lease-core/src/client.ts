/**
 * The port that the Manager sees. Any store can be put behind it; `SubstrateClient` implements it over a batching
 * `Substrate`, and a third party may implement it directly and prove it with `lease-core/conformance`.
 */
import { ErrTrapdoor } from './errors.ts'
import type { Info, Request, TermAware, Trapdoor } from './lease.ts'
import type { Place, Ticket } from './ticket.ts'

/**
 * Something happened to a lease. Only a hint: it may be late, doubled or lost, and it may tell of one's own doing. With `to` it is
 * said to the one who waits with this ticket, and tells how many are ahead of it.
 */
export type LeaseChange =
  | { readonly kind: 'changed'; readonly lease: string }
  | { readonly kind: 'vacated'; readonly lease: string; readonly to?: Place | undefined }
  /** One who waited with the ticket `place` was granted the lease for so long. */
  | {
      readonly kind: 'taken'
      readonly lease: string
      readonly place: number
      readonly durationMs: number
      readonly to?: Place | undefined
    }
  /** Hints may have been lost (a connection was made anew): re-read what matters. */
  | { readonly kind: 'resync' }

/**
 * Whether a hint is what it should be. One that was garbled on its way, or by a client of the application's own, says only that
 * something may have happened.
 */
export function isSound(change: unknown): change is LeaseChange {
  if (typeof change !== 'object' || change === null) return false
  try {
    const { kind, lease, place, durationMs, to } = change as Record<string, unknown>
    if (kind === 'resync') return true
    if (typeof lease !== 'string') return false
    if (kind === 'changed') return true
    if (kind !== 'vacated' && !(kind === 'taken' && isCount(place) && isCount(durationMs))) return false
    if (to === undefined) return true
    const { place: own, ahead } = Object(to) as Record<string, unknown>
    return isCount(own) && isCount(ahead)
  } catch {
    return false // a getter or a proxy that throws
  }
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && value >= 0 && Number.isFinite(value)
}

/** One term of one lease, as its client names it. */
export interface TermId {
  readonly fencingToken: bigint
  /** Of the claim that opened the term, or of the adoption that was the last. undefined: not known. */
  readonly nonce: string | undefined
}

/** Options of a Client operation. */
export interface ClientCallOptions {
  /**
   * Rejects the call with the signal's reason. What was sent is not undone, except that a claim granted after all is
   * released again when that can be done; otherwise it lapses.
   */
  readonly signal?: AbortSignal | undefined
  /**
   * For `claimLease` by one who waits: its ticket goes in, and comes out changed when the claim is refused. The claim of one
   * without a place is refused while others are in the queue, even if the lease is vacant. Ignored by clients whose store keeps no
   * queues.
   */
  readonly ticket?: Ticket | undefined
  /** Of such a claim without a place: where so many are in the queue already it gets none, and its ticket says so. */
  readonly maxWaiters?: number | undefined
  /**
   * For `releaseLease` and `extendLease`: ends or extends this term and no other; another one of the same holder → `ErrInvalid`.
   * Ignored by clients that do not know terms.
   */
  readonly term?: TermId | undefined
  /**
   * Of `claimLease` and `extendLease`: called with the term that was granted, before the call resolves. A client
   * that knows terms should: `leases()` may show a later one by then. Otherwise the term is taken from there.
   */
  readonly onGranted?: ((term: TermId) => void) | undefined
  /** Of a `claimLease` of a share: called before the call rejects, unless the reason is a share that the holder has already. */
  readonly onRefused?: ((refusal: ShareRefusal) => void) | undefined
}

/** A renewal of one term, as a Manager asks for it, and its way back: one object, for there are thousands at once. */
export interface Renewal {
  readonly lease: string
  readonly holder: string
  /** Of the term: no other is extended. */
  readonly fencingToken: bigint
  /** Whole milliseconds, as the term was granted for. */
  readonly durationMs: number
  /** It was done, to this very term, and `leases()` shows it. */
  granted(): void
  /** With that with which `extendLease` would have rejected. */
  failed(error: unknown): void
}

/** A counted lease, freshly read. */
export interface CountedInfo {
  /** undefined: it is not defined. */
  readonly capacity: number | undefined
  /** Of its definition, for `define`. */
  readonly generation: string | undefined
  /** Those that stand, by their names as leases. */
  readonly shares: ReadonlyMap<string, Info>
}

/** Why a share was not granted. */
export interface ShareRefusal {
  /** Of the counted lease; undefined: it is not defined. */
  readonly capacity: number | undefined
  /** Of the shares in the way, the one that may lapse first, if any was told. */
  readonly blocking: Info | undefined
}

/** What a client of a store does that keeps counted leases (`share.ts`). Names are as stores have them: with a `#` at the end. */
export interface CountedClient {
  /** @throws ErrUnknown */
  read(name: string): Promise<CountedInfo>
  /**
   * Changes the capacity; undefined: the counted lease is not defined any more, and grants nothing.
   *
   * @returns the generation of the new definition
   * @throws ErrInvalid the definition is not of the generation `from`
   * @throws ErrUnknown it may have happened
   */
  define(
    name: string,
    definition: { readonly capacity: number | undefined; readonly from: string | undefined },
    options?: Pick<ClientCallOptions, 'signal'>,
  ): Promise<string>
  /** For a waiter that was refused a share: of the shares in the way, the one that may lapse first; undefined: there may be room. */
  blocking(name: string): (Info & Partial<TermAware>) | undefined
}

export interface RefreshOptions {
  /**
   * Watches these leases from the state that was read on, for `INTEREST_MS`, for whoever subscribes to what is the client's `own`. The
   * object stands for the one who wants it: a lease is watched until the last of them does not.
   */
  readonly watcher?: object | undefined
}

export interface SubscribeOptions {
  /** A client that cannot tell them apart may tell of everything. @default false */
  readonly own?: boolean | undefined
}

/**
 * Manipulates the leases of one namespace directly. Safe to call concurrently.
 *
 * Every operation may reject with `ErrNotValid` (nothing was sent), `ErrInvalid` (certainly not done: the latest state
 * forbids it, and `leases()` now shows that state) or `ErrUnknown` (it may have happened). After juju's `lease.Client`.
 */
export interface Client {
  /**
   * Opens a term. When it resolves, the holder has the lease for at least `duration` from the start of the call.
   * A lapsed lease is taken over in the same step. A live lease, one's own included, → `ErrInvalid`. With `request.share` the lease is
   * a share, and the counted lease decides as well.
   */
  claimLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void>
  /**
   * Moves the expiry of a held lease to at least `duration` from the start of the call, never back.
   * Not held by this holder, or lapsed → `ErrInvalid`.
   */
  extendLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void>
  /**
   * `extendLease` for those who keep thousands of leases alive: no promise, no check of arguments that a claim has passed.
   * Calls back exactly once, never before it has returned; what it calls does not throw. Absent: `extendLease` does it.
   */
  renewLease?(renewal: Renewal): void
  /** Records that a lapsed lease is vacant. Vacant already → resolves; not certainly past its expiry → `ErrInvalid`. */
  expireLease(lease: string, options?: ClientCallOptions): Promise<void>
  /** The holder gives the lease up. Vacant already → resolves; held by another → `ErrInvalid`. */
  releaseLease(lease: string, holder: string, options?: ClientCallOptions): Promise<void>
  /** The lease, or its next holding when it is vacant, does not lapse while `entity` pins it. Idempotent. */
  pinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void>
  /** Withdraws the pin. Past its expiry, and with no other pin, the lease has then lapsed. Idempotent. */
  unpinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void>
  /** Every pinned lease of the namespace with the entities that pin it, sorted. */
  pinned(): Promise<ReadonlyMap<string, readonly string[]>>
  /** What this client knows; no I/O. A live view: entries are immutable, the map changes with every answer. */
  leases(): ReadonlyMap<string, Info>
  /** Re-reads these leases, or everything in the namespace. */
  refresh(leases?: Iterable<string>, options?: RefreshOptions): Promise<void>
  /**
   * `refresh` of one lease over the connection that this trapdoor key is, for a check that must not need a second one. Resolves to
   * false where nothing was learned: the key is no connection, or does not see all that is committed. Rejects with what the driver
   * throws. Absent: as false.
   */
  refreshOver?(lease: string, trapdoorKey: unknown): Promise<boolean>
  /**
   * Calls the listener on every change in the namespace that the substrate tells of: while somebody listens, all are told. With
   * `own` only of what this client asked for: the leases that it watches, its turn in a queue, and its terms that others have ended.
   * Returns how to stop.
   */
  subscribe(listener: (change: LeaseChange) => void, options?: SubscribeOptions): () => void
  /**
   * This watcher (`RefreshOptions`) does not watch the lease any more. Where that is lost, it ends by itself. Absent: nothing has to be
   * watched, for those who listen hear of every lease, or of none.
   */
  readonly unwatch?: ((lease: string, watcher: object) => void) | undefined
  /** Absent where the store keeps no counted leases: then nobody claims a share. */
  readonly counted?: CountedClient | undefined
  /** The ticket is not wanted any more. Where that is lost, it ends by itself. */
  leaveQueue?(lease: string, ticket: Pick<Ticket, 'place'>): void
  /**
   * Lets go of connections that the client itself opened. Calls in flight and later ones reject with `ErrUnknown`; its reason is
   * `closed`, which is final: callers that try again must not. Idempotent.
   */
  close(): Promise<void>
}

/** The trapdoor of a substrate that has nothing to expose: undefined resolves, every key is an `ErrTrapdoor`. */
export const lockedTrapdoor: Trapdoor = (key) =>
  key === undefined
    ? Promise.resolve()
    : Promise.reject(new ErrTrapdoor('this substrate has no trapdoor: no key is understood'))
