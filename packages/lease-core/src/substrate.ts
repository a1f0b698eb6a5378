/**
 * The port that adapters implement: many operations in one round trip, a verdict for each, no policy.
 *
 * Core owns everything that is the same on every store: validation, nonces, retries, time-outs, coalescing, bounds,
 * the snapshot and the words of the errors. A substrate trusts its arguments and answers with facts.
 *
 * A request may execute at any time after it was sent, also when core has given it up, and a driver may send it twice. So each
 * operation names what it changes, and the store refuses what has come too late:
 *
 * - An operation that ends or changes a term names the term: fencing token, nonce, or both. `unpin` names a generation.
 * - A store with a clock executes nothing after `call.notAfterMs`. It opens no term by a claim, and sets no pin, that was sent
 *   (`call.sentMs`) before the latest term of the lease was opened, or the latest pin withdrawn; and no nonce opens two terms.
 *   It replaces no pin by one that was sent before that was set, and no value by one that was sent before the present value.
 *   It remembers that for `LONGEST_DEADLINE_MS`, also of a lease that is vacant.
 * - A store without a clock compares the version that it has read, and `call.epoch`: it opens no term, sets no pin and changes no
 *   value by a request of an earlier epoch than the highest that it has seen of that client.
 * - A copy of a claim sets no value: the term keeps the value that it has.
 *
 * What is refused for one of these reasons is `late`: certainly not done, and core asks again.
 *
 * Counted leases (`share.ts`). `n#h` is the share of the holder `h` in the counted lease `n#`. A share is a lease, and all of this page
 * is about it, with one more condition for its claim: `ShareOp`. One record of the counted lease decides each grant, so of two
 * claims of different shares that run at once the store sees one first. A share counts with its weight while it stands, and as long as
 * a guard holds it that has found it standing.
 *
 * Who is told of what, by a store that tells (`watch`): those who asked, and nobody else.
 *
 * - What is said here of a lease that is vacated, its queue and those who wait is, of a share, said of its counted lease; and the queue
 *   is only told when there is room for the first in it.
 * - A lease that is vacated (released, expired, or lapsed with its last pin): the first `TOLD` in its queue, each with how many
 *   are ahead (`ticket.ts`); every client that watches it; and the client that opened or last adopted the term, unless it ended it
 *   itself. A nonce begins with the client that made it.
 * - A claim or a value that is to be announced: every client that watches the lease.
 * - A grant to one who waited: the one that is first in the queue now.
 * - Those who watch the whole namespace: of all of these, without the tickets.
 *
 * A client is in the queue from the refusal of its claim until it is granted the lease or `leave`s, or until someone behind it is
 * granted the lease while it is among the first `TOLD`. It watches a lease from a read that says so until it `leave`s. Either ends by
 * itself after `INTEREST_MS`, unless the same claim or read renews it. Getting in and seeing the state are one step: the client is told
 * of what happens after the state that it was answered. When one of the first `TOLD` leaves a vacant lease, the first `TOLD` are told anew.
 * Whoever made the vacancy, and listens, learns whether somebody in the queue was told, and has those who do not come passed over
 * (`passOver`).
 */
import type { LeaseChange } from './client.ts'
import type { Trapdoor } from './lease.ts'
import type { Place } from './ticket.ts'

/** No request takes effect later than so long after it was sent, whatever the time-out of its call. */
export const LONGEST_DEADLINE_MS = 10_000

/** What the store knows about one lease that is held, at the moment of its answer. */
export interface Holding {
  readonly holder: string
  /** Strictly larger for every new term of this lease; the same for a replayed claim, an extension and an adoption. */
  readonly fencingToken: bigint
  /** Of the claim that opened the term, or of the adoption that was the last. undefined: the store does not keep it. */
  readonly nonce?: string | undefined
  /**
   * Milliseconds until it lapses by the store's own clock, fractions allowed. At or below zero the lease has lapsed,
   * unless it is pinned. A store without a clock (`version` given) says the full duration last granted.
   */
  readonly remainingMs: number
  /** Milliseconds since the term was opened, by the store's own clock. undefined: the store does not know. */
  readonly ageMs?: number | undefined
  readonly value: string | undefined
  readonly pinned: boolean
  /**
   * Only for stores without a clock: changes with every claim and extension. The lease has lapsed for an observer who
   * saw the same version for the whole duration (`observer.ts`).
   */
  readonly version: string | undefined
  /** Of a share. */
  readonly weight?: number | undefined
}

/** Opens a term, granted when the lease is vacant, lapsed and not pinned, or held by the same holder *and* nonce. */
export interface ClaimOp {
  readonly kind: 'claim'
  readonly lease: string
  readonly holder: string
  readonly durationMs: number
  /** Unique per logical claim, the same over its retries: tells a lost reply from another's holding. No `|` and no white space in it. */
  readonly nonce: string
  /** Of the term that this opens. A term that it opened earlier keeps the value that it has. */
  readonly value: string | undefined
  /** Stores without a clock: the version that core has observed to be lapsed, if any; it may be taken over. */
  readonly lapsed: string | undefined
  /** Whether those who watch the lease are to be told (`changed`) when this opens a term. A store that tells anyway may ignore it. */
  readonly announce?: boolean | undefined
  /**
   * The claimer waits, with this ticket (`ticket.ts`); 0: it has none yet. Without one it is refused while others are in the queue,
   * vacant or not, and a refusal puts it at the end. With one it is granted whenever the lease is vacant; a refusal keeps its
   * place, also where the store has forgotten it. A store that keeps no queues may ignore it.
   */
  readonly place?: number | undefined
  /** One that has no ticket gets none while the lease is held and so many have: refused with `isFull`. Of a vacant lease it gets one. */
  readonly maxWaiters?: number | undefined
  /** Exactly where the lease is a share. */
  readonly share?: ShareOp | undefined
}

/**
 * Of the claim of a share. Beside what is said of every claim, it is granted only if
 *
 * - the counted lease is defined, and with this `capacity` if one is given. Where it is not defined, the claim defines it;
 * - the weights of the shares that stand and this one are at most the capacity;
 * - nobody is ahead of it in the queue: a claim without a ticket is behind all. It passes up to `passing` tickets ahead of it, if there is
 *   room for each of them; they leave the queue, as far as they are among the first `TOLD`.
 *
 * It is refused with `counted`, unless the reason is a share that this holder has already: then it gets no ticket. Nor does a claim that no
 * wait makes one that is granted: the counted lease is not defined, has another capacity, or has less than the weight. A grant that leaves room
 * for the first in the queue notifies the first `TOLD` of that, as a vacancy does.
 *
 * Who has met nothing but tickets, though there is room for the first of them, sees to those who do not come: they may have died. The
 * refusal of a claim that does not wait notifies the first `TOLD` anew. That of one who gets its ticket only says (`told`) which of the
 * first `TOLD` is the last ahead of it: they were notified before.
 *
 * In the queue one counts with the weight of its latest claim: the next waiter of a process goes on with the ticket of the one before.
 */
export interface ShareOp {
  readonly weight: number
  readonly capacity: number | undefined
  readonly passing: number
  /** Stores without a clock: of each share that core has observed to be lapsed, the version; it does not count. */
  readonly lapsed: ReadonlyMap<string, string>
}

/**
 * Changes the capacity of a counted lease; granted if its definition is of the generation `from`, or if this very operation has changed
 * it last. It notifies everybody in the queue who waits for more than the capacity, that is all if it is not defined any more, and takes
 * them out of the queue: there is nothing any more to wait for. Then it notifies the first `TOLD` if there is room for the first.
 */
export interface DefineOp {
  readonly kind: 'define'
  /** The counted lease. */
  readonly lease: string
  /** undefined: it is not defined any more. Its shares stand, and no further one is granted. */
  readonly capacity: number | undefined
  /** undefined: it is not defined. */
  readonly from: string | undefined
  /** Of the new definition: unique per logical call. No `|` and no white space in it. */
  readonly generation: string
}

/** What a store knows about a counted lease. */
export interface Counted {
  /** undefined: it is not defined. */
  readonly capacity: number | undefined
  readonly generation: string | undefined
  /**
   * Shares that stand, with their weights. In a refusal: by a store with a clock those that lapse first, at least one if any stands; by
   * another one all.
   */
  readonly shares: ReadonlyMap<string, Holding>
}

/** Moves the expiry to now + durationMs unless it is later already; granted while this very term stands and has not lapsed. */
export interface ExtendOp {
  readonly kind: 'extend'
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  /**
   * Adopts the term as well: `nonce` takes the place of `from`, in the same step. Refused where another nonce than these two
   * stands. `from` is undefined where the store keeps none.
   */
  readonly adoption?: { readonly from: string | undefined; readonly nonce: string } | undefined
  readonly durationMs: number
  /** undefined keeps the old value. Another value is `late` if it was sent before the present one. */
  readonly value: string | undefined
  /** Stores without a clock: this very term as core last saw it, so that one unchanged since can be extended unread. */
  readonly seen: Holding | undefined
  /** Whether watchers are to be told (`changed`) when this changes the value, as in `ClaimOp`. */
  readonly announce?: boolean | undefined
}

/**
 * Vacates; granted when the term that it names stands, and when the lease is vacant or lapsed already. At least one of fencing
 * token and nonce is given, and each that is given must match. The lease's fencing token is not forgotten.
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

/** Vacates a lapsed lease; granted when vacant already. */
export interface ExpireOp {
  readonly kind: 'expire'
  readonly lease: string
  /** As in `ClaimOp`. */
  readonly lapsed: string | undefined
}

/** Adds a pin, or gives the one of this entity a new generation; granted, held or not, unless it is late. */
export interface PinOp {
  readonly kind: 'pin'
  readonly lease: string
  readonly entity: string
  /** Unique per logical call. No `|` and no white space in it. */
  readonly generation: string
}

/** Removes the pin of this entity if it is of this generation; granted in any case. */
export interface UnpinOp {
  readonly kind: 'unpin'
  readonly lease: string
  readonly entity: string
  readonly generation: string
  /** Stores without a clock: the version that core has observed to be lapsed but for its pins. With its last pin it is vacated. */
  readonly lapsed?: string | undefined
}

/**
 * The client waits no longer with this ticket, or it watches the lease no longer; granted in any case. `holding` is not looked at:
 * it says nothing.
 */
export interface LeaveOp {
  readonly kind: 'leave'
  readonly lease: string
  /** undefined: it watches no longer. */
  readonly place: number | undefined
}

/**
 * Those who were told of a vacancy have not come: if the lease is vacant, those with tickets up to this one are taken out of the queue,
 * and the first `TOLD` of the rest are told. Granted in any case, and `holding` says nothing.
 */
export interface PassOverOp {
  readonly kind: 'passOver'
  readonly lease: string
  readonly place: number
}

export type Op = ClaimOp | ExtendOp | ReleaseOp | ExpireOp | PinOp | UnpinOp | LeaveOp | PassOverOp | DefineOp

/** The entities that pin a lease, each with the generation of its pin. */
export type Pins = ReadonlyMap<string, string>

/**
 * What became of one operation: three outcomes, and two kinds of "not executed".
 *
 * - `granted`: done, durably by the store's own rules; `holding` is the state after it, undefined = vacant
 * - `refused`: certainly not done; `holding` is the state that forbids it
 * - `contended`: certainly not done, and nothing is known: another request was at the same row; core tries again shortly
 * - `late`: certainly not done, and nothing is known: the request has come too late (see above); core makes a new one
 * - `unknown`: it may have been done; `cause` says what went wrong
 */
export interface Verdict {
  readonly outcome: 'granted' | 'refused' | 'contended' | 'late' | 'unknown'
  readonly holding: Holding | undefined
  readonly cause: unknown
  /** Of a claim of one who waits that was refused. */
  readonly ticket?: Place | undefined
  /** The operation has left, or found, the lease vacant, and those in the queue were told: the ticket of the last of them. */
  readonly told?: number | undefined
  /** It was refused for `maxWaiters`, and got no ticket. */
  readonly isFull?: boolean | undefined
  /** Of the claim of a share that was refused, and of a `define`: what the counted lease is. */
  readonly counted?: Counted | undefined
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

export const late: Verdict = { outcome: 'late', holding: undefined, cause: undefined }

/** How long the name of a client is, with which each of its nonces begins. */
export const CLIENT_LENGTH = 12

/** What core tells an adapter about one call. */
export interface Call {
  /** Aborts when core has given the call up: free the connection, the answer will be thrown away. */
  readonly signal: AbortSignal
  /**
   * Calls the listener with the signal's reason when it aborts, or at once if it has: for those who listen to every
   * call, as an AbortSignal costs more than the rest of it. Absent: listen to the signal.
   */
  onAbort?(listener: (why: Error) => void): void
  /** After how many milliseconds core gives up. */
  readonly timeoutMs: number
  /** Names this client among all that ever use the store: `CLIENT_LENGTH` letters, digits, `-` and `_`. */
  readonly client: string
  /**
   * Rises with each request of this client whose outcome core does not know: what was sent in an earlier epoch must not open
   * a term, set a pin or change a value once the store has seen a later one. Stores with a clock may ignore it.
   */
  readonly epoch: number
  /** The store's clock showed at least this when the request was sent. undefined: core does not know the store's clock. */
  readonly sentMs: number | undefined
  /** The store must not execute the request when its clock shows more than this. undefined: as above. */
  readonly notAfterMs: number | undefined
  /** To be called with what the store's clock showed while it worked on this request, also when that was `late`. */
  answered?(storeMs: number): void
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
   * Reads the store's clock, in milliseconds since any instant. Core asks before the first write, and learns more from
   * `call.answered`. Absent: the store has no clock. A rejection means that the store cannot be used now: its reason is reported.
   */
  time?(call: Call): Promise<number>
  /**
   * Applies the operations, one verdict each in the same order. Not atomic as a whole; no two name the same lease.
   * A rejection means `unknown` for all of them.
   */
  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]>
  /**
   * The holdings of these leases, or of the whole namespace. A lease that is not in the answer is vacant.
   *
   * @param watched those of the leases that the client watches from now on; a store that tells of everything may ignore it
   */
  read(
    leases: readonly string[] | undefined,
    call: Call,
    watched?: readonly string[],
  ): Promise<ReadonlyMap<string, Holding>>
  /**
   * Reads one lease over the connection that this trapdoor key is, so that a check needs no second one. Rejects with what the
   * driver throws. Resolves to undefined where that connection may not see all that is committed: core then reads as it does without
   * a key. Absent, or undefined for a key that is no connection: it does so as well.
   */
  readOver?(key: unknown, lease: string): Promise<ReadonlyMap<string, Holding> | undefined> | undefined
  /** A counted lease with all its shares. Absent: the store keeps no counted leases, and no share is claimed. */
  counted?(lease: string, call: Call): Promise<Counted>
  /** Every pinned lease, of these or of the whole namespace, with its pins. */
  pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>>
  /**
   * Starts telling this client of what it asked for (see above); `resync` after every (re)connection. Without a client: of all
   * that happens in the namespace. Absent where the store cannot tell. One that cannot tell clients apart tells of everything.
   */
  watch?(listener: (change: LeaseChange) => void, client?: string): () => void
  /** What the set-up weakens. Asked once, at the first use of the client. */
  inspect?(call: Call): Promise<readonly SubstrateWarning[]>
  /** The trapdoor of exactly this term. */
  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor
  /** Lets go of what the substrate itself opened; never of what the user passed in. */
  close(): Promise<void>
}
