/**
 * The interface between the Manager and a store. `SubstrateClient` implements it over a batching `Substrate`. A third party may implement it
 * directly, and test it with `lease-core/conformance`.
 */
import { ErrTrapdoor } from './errors.ts'
import type { LeaseEvents, StoreName } from './events.ts'
import type { Info, Request, TermAware, Trapdoor } from './lease.ts'
import type { Place, Ticket } from './ticket.ts'

/**
 * A hint that something happened to a lease. It may be late, doubled or lost, and may report an operation of this client. With `to` it is for
 * the waiter with this ticket, and says how many waiters are ahead.
 */
export type LeaseChange =
  | { readonly kind: 'changed'; readonly lease: string }
  | { readonly kind: 'vacated'; readonly lease: string; readonly to?: Place | undefined }
  /** The waiter with the ticket `place` was granted the lease for `durationMs`. */
  | {
      readonly kind: 'taken'
      readonly lease: string
      readonly place: number
      readonly durationMs: number
      readonly to?: Place | undefined
    }
  /** Hints may have been lost, for instance because of a new connection: read again what matters. */
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

/** Names one term of a lease. */
export interface TermId {
  readonly fencingToken: bigint
  /** Of the claim that opened the term, or of its last adoption. undefined: not known. */
  readonly nonce: string | undefined
}

/** Options of a Client operation. */
export interface ClientCallOptions {
  /**
   * Rejects the call with the signal's reason. What was sent is not undone. Exception: a claim that is granted after all is released if
   * possible; otherwise it expires.
   */
  readonly signal?: AbortSignal | undefined
  /**
   * For `claimLease` of a waiter: its ticket. A refusal changes it. Without a place, the claim is refused while others are in the queue,
   * even if the lease is vacant. A client whose store keeps no queue ignores it.
   */
  readonly ticket?: Ticket | undefined
  /** Of such a claim without a place: if this many are in the queue already, it gets no place, and its ticket says so. */
  readonly maxWaiters?: number | undefined
  /**
   * For `releaseLease` and `extendLease`: the only term to end or extend; another term of the same holder is `ErrInvalid`. A client that
   * does not know terms ignores it.
   */
  readonly term?: TermId | undefined
  /**
   * Of `claimLease` and `extendLease`: called with the granted term, before the call resolves. A client that knows terms should call it,
   * because `leases()` may show a later term by then. Otherwise the Manager takes the term from `leases()`.
   */
  readonly onGranted?: ((term: TermId) => void) | undefined
  /** Of a `claimLease` of a share: called before the call rejects, unless the holder has that share already. */
  readonly onRefused?: ((refusal: ShareRefusal) => void) | undefined
}

/** A renewal of one term, with its callbacks. One object, because thousands may be in flight. */
export interface Renewal {
  readonly lease: string
  readonly holder: string
  /** Of the only term to extend. */
  readonly fencingToken: bigint
  /** The granted duration of the term, in whole milliseconds. */
  readonly durationMs: number
  /** The term was extended, and `leases()` shows it. */
  granted(): void
  /** The term was not extended, or that is not known: the error is the one of `extendLease`. */
  failed(error: unknown): void
}

/** A counted lease, as it was just read. */
export interface CountedInfo {
  /** undefined: not defined. */
  readonly capacity: number | undefined
  /** Of its definition, for `from` of `define`; undefined: not defined. */
  readonly generation: string | undefined
  /** The live shares, by lease name (`name#holder`). */
  readonly shares: ReadonlyMap<string, Info>
}

/** Why a share was not granted. */
export interface ShareRefusal {
  /** Of the counted lease; undefined: not defined. */
  readonly capacity: number | undefined
  /** Of the shares that prevent the grant, the one that may expire first, if the store reported one. */
  readonly blocking: Info | undefined
}

/** The operations on counted leases (`share.ts`), if the store keeps them. Names end with a `#`, as stores use them. */
export interface CountedClient {
  /** Reads the definition and the live shares. @throws ErrUnknown the store could not be asked */
  read(name: string): Promise<CountedInfo>
  /**
   * Changes the capacity; undefined: removes the definition, and nothing more is granted.
   *
   * @returns the generation of the new definition
   * @throws ErrInvalid the definition does not have the generation `from`
   * @throws ErrUnknown the definition may have been changed
   */
  define(
    name: string,
    definition: { readonly capacity: number | undefined; readonly from: string | undefined },
    options?: Pick<ClientCallOptions, 'signal'>,
  ): Promise<string>
  /** After a refused claim: of the shares that prevent the grant, the one that may expire first; undefined: there may be room. No I/O. */
  blocking(name: string): (Info & Partial<TermAware>) | undefined
}

/** Options of `refresh` of a Client. */
export interface RefreshOptions {
  /**
   * Watches these leases from the state that was read on, for `INTEREST_MS`. Subscriptions with `own` get the hints. The object identifies
   * the watcher: a lease is watched until its last watcher calls `unwatch`.
   */
  readonly watcher?: object | undefined
}

/** Options of `subscribe` of a Client. */
export interface SubscribeOptions {
  /** Whether to get only hints for this client. A client that cannot tell them apart may send every hint. @default false */
  readonly own?: boolean | undefined
}

/**
 * Operates directly on the leases of one namespace. Concurrent calls are safe. Applications use a Manager instead.
 *
 * Every operation may reject with `ErrNotValid` (nothing was sent), `ErrInvalid` (certainly not done: the latest state forbids it, and
 * `leases()` shows that state) or `ErrUnknown` (it may have taken effect). After juju's `lease.Client`.
 */
export interface Client {
  /** Where the client warns of the set-up of the store. A Manager passes its warnings on to `manager.events`. */
  readonly events?: LeaseEvents | undefined
  /** Where its leases are. Events of a Manager name it. */
  readonly store?: StoreName | undefined
  /**
   * Opens a term. When it resolves, the holder has the lease for at least `duration` from the start of the call. Takes over a lapsed lease in
   * the same step. A live lease, also one of the same holder, is `ErrInvalid`. With `request.share` the lease is a share, and the counted
   * lease must have room for it.
   */
  claimLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void>
  /**
   * Moves the expiry of a held lease forward, to at least `duration` from the start of the call; never back. A lease that this holder does
   * not hold, or that has lapsed, is `ErrInvalid`.
   */
  extendLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void>
  /**
   * Does what `extendLease` does, cheaply for thousands of leases: it makes no promise object, and does not check the arguments again. Calls
   * back exactly once, after it has returned. The callbacks do not throw. Absent: the Manager uses `extendLease`.
   */
  renewLease?(renewal: Renewal): void
  /** Vacates a lapsed lease; resolves if it is vacant. A lease that is not certainly past its expiry is `ErrInvalid`. */
  expireLease(lease: string, options?: ClientCallOptions): Promise<void>
  /** Releases the lease of this holder; resolves if it is vacant. A lease that another holds is `ErrInvalid`. */
  releaseLease(lease: string, holder: string, options?: ClientCallOptions): Promise<void>
  /** Pins the lease for `entity`: it, or its next term if it is vacant, does not lapse while it is pinned. Idempotent. */
  pinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void>
  /** Withdraws the pin. If the expiry has passed, and no other pin is left, the lease has then lapsed. Idempotent. */
  unpinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void>
  /** Reads every pinned lease of the namespace, with the entities that pin it, sorted. */
  pinned(): Promise<ReadonlyMap<string, readonly string[]>>
  /** Returns what this client knows, without I/O. A live view: entries are immutable, but the map changes with every answer. */
  leases(): ReadonlyMap<string, Info>
  /** Reads these leases again, or all leases of the namespace; `leases()` then shows them. */
  refresh(leases?: Iterable<string>, options?: RefreshOptions): Promise<void>
  /**
   * Reads one lease again over the connection that is this trapdoor key, so that a check needs no second connection. Resolves to false if
   * nothing was read: the key is not a connection, or does not see everything that is committed. Rejects with the error of the driver.
   * Absent: false.
   */
  refreshOver?(lease: string, trapdoorKey: unknown): Promise<boolean>
  /**
   * Calls the listener with every hint about the namespace. With `own` only with hints for this client: leases that it watches, its turn in
   * a queue, and terms of it that others have ended. Returns a function that ends the subscription.
   */
  subscribe(listener: (change: LeaseChange) => void, options?: SubscribeOptions): () => void
  /**
   * Ends the watch of this watcher (`RefreshOptions`). If that is lost, the watch ends by itself. Absent: there are no watches; subscribers
   * get hints about every lease, or none.
   */
  readonly unwatch?: ((lease: string, watcher: object) => void) | undefined
  /** How long after a change its hints come, at the latest, in milliseconds. @default 0: as soon as the network carries them */
  readonly hintDelayMs?: number | undefined
  /**
   * Reads how many are in the queue of a lease, or of the counted lease of a share. A waiter that died counts until the store has forgotten
   * it. Absent: the store keeps no queues.
   *
   * @throws ErrUnknown the store could not be asked
   */
  readonly waiting?: ((lease: string) => Promise<number>) | undefined
  /** Absent if the store keeps no counted leases: claims of shares are then refused. */
  readonly counted?: CountedClient | undefined
  /** Gives the ticket up. If that is lost, the ticket ends by itself. */
  leaveQueue?(lease: string, ticket: Pick<Ticket, 'place'>): void
  /**
   * Closes the connections that the client itself opened. Calls in flight and later calls reject with `ErrUnknown`, reason `closed`. That is
   * final: do not retry. Idempotent.
   */
  close(): Promise<void>
}

/** The trapdoor of a substrate without transactions: undefined resolves, and every key is an `ErrTrapdoor`. */
export const lockedTrapdoor: Trapdoor = (key) =>
  key === undefined
    ? Promise.resolve()
    : Promise.reject(new ErrTrapdoor('this substrate has no trapdoor: no key is understood'))
