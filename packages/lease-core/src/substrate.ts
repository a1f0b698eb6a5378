/**
 * The interface that adapters implement: many operations in one round trip, one verdict each, no policy.
 *
 * Core does everything that is the same on every store: validation, nonces, retries, timeouts, coalescing, bounds, the snapshot and the
 * error messages. A substrate trusts its arguments and answers with facts.
 *
 * A request may execute at any time after it was sent, also after core has abandoned it, and a driver may send it twice. So each operation
 * names what it changes, and the store refuses a late request:
 *
 * - An operation that ends or changes a term names the term: by fencing token, nonce, or both. `unpin` names a generation.
 * - A store with a clock executes nothing after `call.notAfterMs`. It compares when the request was sent (`call.sentMs`): a claim opens no
 *   term if it was sent before the latest term of the lease was opened; a pin is not set if it was sent before the latest pin was withdrawn,
 *   and does not replace one that was set after it was sent; a value does not replace one that was sent later. No nonce opens two terms.
 *   The store remembers all this for `LONGEST_DEADLINE_MS`, also for a vacant lease.
 * - A store without a clock compares the version that it has read, and `call.epoch`: a request of an earlier epoch than the highest one
 *   seen from that client opens no term, sets no pin and changes no value.
 * - A copy of a claim sets no value: the term keeps the value that it has.
 *
 * A request that is refused for one of these reasons is `late`: certainly not done. Core makes a new request.
 *
 * Counted leases (`share.ts`). `n#h` is the share of the holder `h` in the counted lease `n#`. A share is a lease, so this whole page applies
 * to it. Its claim has one more condition: `ShareOp`. One record of the counted lease decides each grant, so concurrent claims of different
 * shares have an order. The weight of a share counts while the share stands, and while a guard that found it standing holds it.
 *
 * A store that sends hints (`watch`) notifies only the clients that asked:
 *
 * - A lease is vacated (released, expired, or lapsed with its last pin): the first `TOLD` waiters in its queue, each with the number of
 *   waiters ahead (`ticket.ts`); every client that watches the lease; and the client that opened or last adopted the term, unless it ended
 *   the term itself. A nonce begins with the name of its client.
 * - A claim or a value is to be announced: every client that watches the lease.
 * - A waiter is granted the lease: the waiter that is now first in the queue.
 * - Watchers of the whole namespace: all of these, without the tickets.
 *
 * For a share, the queue, the waiters and the watchers are those of its counted lease. Its queue is notified only if there is room for the
 * first waiter.
 *
 * A client is in the queue from the refusal of its claim until it is granted the lease, or `leave`s, or until a waiter behind it is granted
 * the lease while it is among the first `TOLD`. A client watches a lease from a read that says so until it `leave`s. Both end by themselves
 * after `INTEREST_MS`, unless the same claim or read renews them. Entering the queue, or starting to watch, and reading the state are one
 * step: the client is notified of everything after the answered state. When one of the first `TOLD` leaves the queue of a vacant lease, the
 * first `TOLD` are notified again. A client that vacated the lease, and listens, learns whether waiters were notified, and passes over those
 * that do not claim (`passOver`).
 */
import type { LeaseChange } from './client.ts'
import type { StoreName } from './events.ts'
import type { Trapdoor } from './lease.ts'
import type { Place } from './ticket.ts'

/** How long after it was sent a request may take effect, at most, in milliseconds, for any timeout of its call. */
export const LONGEST_DEADLINE_MS = 10_000

/** What the store knows of one held lease, at the moment of its answer. */
export interface Holding {
  readonly holder: string
  /** Higher for every new term of this lease; the same for a replayed claim, an extension and an adoption. */
  readonly fencingToken: bigint
  /** Of the claim that opened the term, or of its last adoption. undefined: the store does not keep it. */
  readonly nonce?: string | undefined
  /**
   * Milliseconds until it lapses by the store's own clock; may be fractional. At or below zero the lease has lapsed, unless it is pinned. A
   * store without a clock (`version` is given) reports the full duration that was granted last.
   */
  readonly remainingMs: number
  /** Milliseconds since the term was opened, by the store's own clock. undefined: the store does not know it. */
  readonly ageMs?: number | undefined
  readonly value: string | undefined
  readonly pinned: boolean
  /**
   * Only for stores without a clock: changes with every claim and extension. For an observer the lease has lapsed when it has seen the same
   * version for the whole duration (`observer.ts`).
   */
  readonly version: string | undefined
  /** Of a share. */
  readonly weight?: number | undefined
}

/** Opens a term. Granted when the lease is vacant, or lapsed and not pinned, or held by the same holder *and* nonce. */
export interface ClaimOp {
  readonly kind: 'claim'
  readonly lease: string
  readonly holder: string
  readonly durationMs: number
  /** Unique per logical claim, and the same in its retries: so a retry recognises its own grant. No `|` and no white space. */
  readonly nonce: string
  /** The value of the term that this opens. A term that the same claim opened earlier keeps its value. */
  readonly value: string | undefined
  /** Stores without a clock: the version that core has observed to be lapsed, if any. A lease with that version may be taken over. */
  readonly lapsed: string | undefined
  /** Whether to notify the watchers of the lease (`changed`) when this opens a term. A store that always notifies may ignore it. */
  readonly announce?: boolean | undefined
  /**
   * The claim is of a waiter with this ticket (`ticket.ts`); 0: a waiter without a ticket. Without a ticket it is refused while others are in
   * the queue, also if the lease is vacant, and a refusal puts it at the end. With a ticket it is granted whenever the lease is vacant; a
   * refusal keeps its place, also if the store has forgotten it. A store that keeps no queue may ignore it.
   */
  readonly place?: number | undefined
  /** A claim without a ticket gets none while the lease is held and this many have one: refused with `isFull`. If vacant, it gets one. */
  readonly maxWaiters?: number | undefined
  /** Given if and only if the lease is a share. */
  readonly share?: ShareOp | undefined
}

/**
 * The claim of a share. In addition to the conditions of every claim, it is granted only if:
 *
 * - The counted lease is defined, with this `capacity` if one is given. If it is not defined and a capacity is given, the claim defines it.
 * - The weights of the live shares and this one are at most the capacity.
 * - No waiter is ahead of it in the queue; a claim without a ticket is behind all waiters. It passes up to `passing` tickets ahead of it, if
 *   there is room for each of them. These leave the queue, as far as they are among the first `TOLD`.
 *
 * A refusal carries `counted`, unless this holder has the share already; then it gets no ticket. A claim that can never be granted gets no
 * ticket either: the counted lease is not defined, has another capacity, or has less capacity than the weight. A grant that leaves room for
 * the first waiter notifies the first `TOLD`, as a vacancy does.
 *
 * A claim that is refused only because of tickets, although there is room for the first of them, makes sure that these waiters claim: they
 * may be dead, and so may the client that made the room. If the claim does not wait, or has a ticket already, its refusal notifies the first
 * `TOLD` again. If it gets a ticket, its refusal only says (`told`) which of the first `TOLD` is the last ahead of it: they were notified
 * before.
 *
 * A waiter counts in the queue with the weight of its latest claim: the next waiter of a process continues with the ticket of the one before.
 */
export interface ShareOp {
  readonly weight: number
  readonly capacity: number | undefined
  readonly passing: number
  /** Stores without a clock: the version of each share that core has observed to be lapsed; with that version it does not count. */
  readonly lapsed: ReadonlyMap<string, string>
}

/**
 * Changes the capacity of a counted lease. Granted if its definition has the generation `from`, or if this operation changed it last. Removes
 * from the queue, and notifies, all waiters that want more than the capacity; all waiters, if the definition is removed: they have nothing to
 * wait for. Then it notifies the first `TOLD`, if there is room for the first.
 */
export interface DefineOp {
  readonly kind: 'define'
  /** The counted lease. */
  readonly lease: string
  /** undefined: removes the definition. Its shares stand, and no further one is granted. */
  readonly capacity: number | undefined
  /** The generation that the definition must have; undefined: it must not be defined. */
  readonly from: string | undefined
  /** Of the new definition: unique per logical call. No `|` and no white space. */
  readonly generation: string
}

/** What a store knows of a counted lease. */
export interface Counted {
  /** undefined: it is not defined. */
  readonly capacity: number | undefined
  /** Of its definition; undefined: not defined. */
  readonly generation: string | undefined
  /**
   * The live shares, with their weights. In a refusal, a store with a clock reports only those that lapse first, at least one if there is
   * one; a store without a clock reports all.
   */
  readonly shares: ReadonlyMap<string, Holding>
}

/** Moves the expiry to now + durationMs, unless it is later already. Granted while this term stands and has not lapsed. */
export interface ExtendOp {
  readonly kind: 'extend'
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  /**
   * Adopts the term in the same step: `nonce` replaces `from`. Refused if the term has neither of these nonces. `from` is undefined if the
   * store keeps no nonces.
   */
  readonly adoption?: { readonly from: string | undefined; readonly nonce: string } | undefined
  readonly durationMs: number
  /** undefined keeps the old value. A value is `late` if it was sent before the present one. */
  readonly value: string | undefined
  /** Stores without a clock: this term as core last saw it, so that an unchanged term can be extended without a read. */
  readonly seen: Holding | undefined
  /** Whether to notify the watchers (`changed`) when this changes the value, as in `ClaimOp`. */
  readonly announce?: boolean | undefined
}

/**
 * Vacates the lease. Granted if the named term stands, and if the lease is vacant or lapsed already. At least one of fencing token and nonce
 * is given; each given one must match. The store keeps the fencing token of the lease.
 */
export interface ReleaseOp {
  readonly kind: 'release'
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint | undefined
  readonly nonce: string | undefined
  /** Stores without a clock: as in `ExtendOp`. */
  readonly seen?: Holding | undefined
}

/** Vacates a lapsed lease. Granted also if it is vacant already. */
export interface ExpireOp {
  readonly kind: 'expire'
  readonly lease: string
  /** As in `ClaimOp`. */
  readonly lapsed: string | undefined
}

/** Adds a pin, or gives the pin of this entity a new generation. Granted, whether the lease is held or not, unless it is late. */
export interface PinOp {
  readonly kind: 'pin'
  readonly lease: string
  readonly entity: string
  /** Unique per logical call. No `|` and no white space. */
  readonly generation: string
}

/** Removes the pin of this entity, if it has this generation. Always granted. */
export interface UnpinOp {
  readonly kind: 'unpin'
  readonly lease: string
  readonly entity: string
  readonly generation: string
  /** Stores without a clock: the version that core has observed to be lapsed, apart from its pins. It is vacated with its last pin. */
  readonly lapsed?: string | undefined
}

/**
 * The client gives up this ticket, or its watch of the lease. Always granted. The `holding` of the verdict is ignored.
 */
export interface LeaveOp {
  readonly kind: 'leave'
  readonly lease: string
  /** The ticket; undefined: ends the watch. */
  readonly place: number | undefined
}

/**
 * The notified waiters have not claimed. If the lease is vacant, removes the waiters with tickets up to this one from the queue, and notifies
 * the first `TOLD` of the rest. Always granted. The `holding` of the verdict is ignored.
 */
export interface PassOverOp {
  readonly kind: 'passOver'
  readonly lease: string
  readonly place: number
}

/** An operation on one lease; `kind` says which. */
export type Op = ClaimOp | ExtendOp | ReleaseOp | ExpireOp | PinOp | UnpinOp | LeaveOp | PassOverOp | DefineOp

/** The entities that pin a lease, each with the generation of its pin. */
export type Pins = ReadonlyMap<string, string>

/**
 * The outcome of one operation:
 *
 * - `granted`: done, as durably as the store is configured; `holding` is the state after it, undefined: vacant
 * - `refused`: certainly not done; `holding` is the state that forbids it
 * - `contended`: certainly not done, because another request has the same row; the state is not known, and core tries again shortly
 * - `late`: certainly not done, because the request came too late (see above); the state is not known, and core makes a new request
 * - `unknown`: it may have been done; `cause` says what went wrong
 */
export interface Verdict {
  readonly outcome: 'granted' | 'refused' | 'contended' | 'late' | 'unknown'
  /** The state of the lease, of `granted` and `refused`; undefined: vacant. */
  readonly holding: Holding | undefined
  /** What went wrong, of `unknown`. */
  readonly cause: unknown
  /** Of the refused claim of a waiter. */
  readonly ticket?: Place | undefined
  /** The operation left, or found, the lease vacant, and waiters were notified: the ticket of the last of them. */
  readonly told?: number | undefined
  /** Whether it was refused for `maxWaiters`, and got no ticket. */
  readonly isFull?: boolean | undefined
  /** Of the refused claim of a share, and of a `define`: the state of the counted lease. */
  readonly counted?: Counted | undefined
}

/** Makes a verdict `granted`. @param holding the state after the operation; undefined: vacant */
export function granted(holding: Holding | undefined): Verdict {
  return { outcome: 'granted', holding, cause: undefined }
}

/** Makes a verdict `refused`. @param holding the state that forbids the operation; undefined: vacant */
export function refused(holding: Holding | undefined): Verdict {
  return { outcome: 'refused', holding, cause: undefined }
}

/** Makes a verdict `unknown`. @param cause what went wrong */
export function unknown(cause: unknown): Verdict {
  return { outcome: 'unknown', holding: undefined, cause }
}

/** The verdict `contended`. */
export const contended: Verdict = { outcome: 'contended', holding: undefined, cause: undefined }

/** The verdict `late`. */
export const late: Verdict = { outcome: 'late', holding: undefined, cause: undefined }

/** The length of the name of a client. Each of its nonces begins with that name. */
export const CLIENT_LENGTH = 12

/** Returns the client that made this nonce. */
export function clientOf(nonce: string): string {
  return nonce.slice(0, CLIENT_LENGTH)
}

/** A term, as far as operations name it. */
type NamedTerm = Pick<Holding, 'holder' | 'fencingToken' | 'nonce'>

/** Whether the operation names this term: whatever is given matches. For stores that compare it in this process. */
export function isNamed(
  { holder, fencingToken, nonce }: Pick<ReleaseOp, 'holder' | 'fencingToken'> & { readonly nonce?: string | undefined },
  term: NamedTerm,
): boolean {
  if (term.holder !== holder || (fencingToken !== undefined && term.fencingToken !== fencingToken)) return false
  return nonce === undefined || term.nonce === nonce
}

/** Whether the operation extends this term, if the term stands: an adoption needs the nonce before it, or was done already. */
export function mayExtend({ holder, fencingToken, adoption }: ExtendOp, term: NamedTerm): boolean {
  if (!isNamed({ holder, fencingToken }, term)) return false
  return adoption === undefined || term.nonce === adoption.from || term.nonce === adoption.nonce
}

/** What core passes to an adapter with each call. */
export interface Call {
  /** Aborts when core has abandoned the call: free the connection; the answer is ignored. */
  readonly signal: AbortSignal
  /**
   * Calls the listener with the signal's reason when it aborts; at once if it has aborted. Use it to listen to every call: creating an
   * AbortSignal costs more than the rest of a call. Absent: listen to the signal.
   */
  onAbort?(listener: (why: Error) => void): void
  /** After how many milliseconds core abandons the call. */
  readonly timeoutMs: number
  /** The name of this client, unique in the store forever: `CLIENT_LENGTH` letters, digits, `-` and `_`. */
  readonly client: string
  /**
   * Rises with each request of this client whose outcome core does not know. When the store has seen a later epoch, a request of an earlier
   * one must not open a term, set a pin or change a value. Stores with a clock may ignore it.
   */
  readonly epoch: number
  /** The store's clock, in milliseconds, showed at least this when the request was sent. undefined: core does not know that clock. */
  readonly sentMs: number | undefined
  /** The store must not execute the request when its clock shows more than this, in milliseconds. undefined: as above. */
  readonly notAfterMs: number | undefined
  /** Call it with the reading of the store's clock during this request, in milliseconds, also if the request was `late`. */
  answered?(storeMs: number): void
}

/** A setting of the store that weakens a promise of the library. A warning, never a refusal. */
export interface SubstrateWarning {
  /** A stable word, such as `synchronous-commit-off`. */
  readonly warning: string
  /** What it means for the user, in one or two sentences. */
  readonly message: string
  /** Where to read more: a page of the documentation. @default the substrate's `page` */
  readonly page?: string | undefined
}

/**
 * What a substrate may reject with, or give as the cause of `unknown`, to say more about a failure.
 *
 * While no request of this kind has ever succeeded, core does not send again what failed for the set-up.
 */
export class StoreFailure extends Error {
  /** Whether no request can succeed before somebody changes the set-up: tables, passwords, rights. */
  readonly isSetUp: boolean
  /** Whether it is certain that nothing of the request was executed, and that nothing of it will be. */
  readonly isNotDone: boolean
  /** Whether nothing of the request was executed because another request has the same record. Only `RecordSubstrate` asks for it. */
  readonly isContended: boolean

  constructor(message: string, details: StoreFailureDetails = {}) {
    const { cause, isSetUp = false, isNotDone = false, isContended = false } = details
    super(message, cause === undefined ? undefined : { cause })
    this.isSetUp = isSetUp
    this.isNotDone = isNotDone
    this.isContended = isContended
  }
}

/** What a `StoreFailure` says besides its message. */
export interface StoreFailureDetails {
  /** What the driver threw. */
  readonly cause?: unknown
  /** @default false */
  readonly isSetUp?: boolean | undefined
  /** @default false */
  readonly isNotDone?: boolean | undefined
  /** @default false */
  readonly isContended?: boolean | undefined
}

/** Whether a failure is of this kind, also one of another copy of this package. */
export function failsFor(error: unknown, kind: 'isSetUp' | 'isNotDone' | 'isContended'): boolean {
  return error instanceof Error && (error as Partial<StoreFailure>)[kind] === true
}

/** How core may batch. */
export interface SubstrateLimits {
  /** The most operations in one `apply`, and the most names in one `read`. */
  readonly maxOps: number
  /** The most calls in flight at once. */
  readonly maxInFlight: number
  /**
   * The batch size from which a larger batch saves little per operation. More operations are then sent as several concurrent batches, so
   * that the store and this process work at the same time. Absent: as few batches as possible.
   */
  readonly enoughOps?: number | undefined
}

/** What an adapter implements: see the head of this file. */
export interface Substrate {
  /** How core may batch. */
  readonly limits: SubstrateLimits
  /** The page of the documentation about this store. Warnings name it. */
  readonly page?: string | undefined
  /** Where its leases are. Events name it. */
  readonly store?: StoreName | undefined
  /**
   * How long after a change its hints come, at the latest, in milliseconds, in an adapter that reads again because its store sends nothing.
   * Waiters that were notified have this long, and `PASS_OVER_MS` more, before they are passed over. @default 0
   */
  readonly hintDelayMs?: number | undefined
  /** Returns what is wrong with the connection, as far as is known, for the message of a call that had no answer. undefined: nothing is known. */
  trouble?(): unknown
  /**
   * Reads the store's clock, in milliseconds since any instant. Core calls it before the first write, and later uses `call.answered`. Absent:
   * the store has no clock. A rejection means that the store cannot be used now; core reports its reason.
   */
  time?(call: Call): Promise<number>
  /**
   * Applies the operations, and returns one verdict each in the same order. Not atomic as a whole. No two operations name the same lease. A
   * rejection means `unknown` for all of them.
   */
  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]>
  /**
   * Reads the holdings of these leases, or of the whole namespace. A lease that is not in the answer is vacant.
   *
   * @param watched those of the leases that the client watches from now on; a store that sends every hint may ignore it
   */
  read(
    leases: readonly string[] | undefined,
    call: Call,
    watched?: readonly string[],
  ): Promise<ReadonlyMap<string, Holding>>
  /**
   * Reads one lease over the connection that is this trapdoor key, so that a check needs no second connection. Rejects with the error of the
   * driver. Resolves to undefined if that connection may not see everything that is committed; returns undefined if the key is not a
   * connection. In both cases, and if this method is absent, core reads as it does without a key.
   */
  readOver?(key: unknown, lease: string): Promise<ReadonlyMap<string, Holding> | undefined> | undefined
  /** Reads a counted lease with all its shares. Absent: the store keeps no counted leases, and core refuses claims of shares. */
  counted?(lease: string, call: Call): Promise<Counted>
  /**
   * Reads how many are in the queue of a lease, or of a counted lease. A waiter that died counts until the store has forgotten it. Absent:
   * the store keeps no queues.
   */
  waiting?(lease: string, call: Call): Promise<number>
  /** Reads the pinned leases, of these or of the whole namespace, with their pins. */
  pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>>
  /**
   * Starts to send this client the hints that it asked for (see above), and `resync` after every (re)connection. Without a client: every hint
   * of the namespace. A store that cannot tell clients apart sends every hint. Absent: the store sends no hints. Returns a function that ends
   * it.
   */
  watch?(listener: (change: LeaseChange) => void, client?: string): () => void
  /** Returns warnings about the set-up. Core calls it once, when the client is first used. */
  inspect?(call: Call): Promise<readonly SubstrateWarning[]>
  /** Returns the trapdoor of exactly this term. */
  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor
  /** Closes what the substrate itself opened, and nothing that the user passed in. */
  close(): Promise<void>
}
