/**
 * The errors of this library: eight classes, each with a stable `code`.
 *
 * Each class says what the caller may *infer*. A refusal is certain. What is not certain is an `ErrUnknown`. Test the class
 * (`instanceof ErrNotHeld`) or the code (`error.code === 'LEASE_NOT_HELD'`).
 *
 * One process may load two copies, or two releases, of this package. So errors carry a registered symbol, and `instanceof` compares that
 * symbol and the code: an `ErrNotHeld` of one copy is an instance of the `ErrNotHeld` of the other. A derived class is compared by its
 * name, if its errors have the `name` of the class.
 */
import type { DateTime } from 'luxon'
import { disclosed, disclosedName, reported, shortened, withoutSecrets } from './shown.ts'

/** The symbol on every error of every copy of this package. */
const LEASE_ERROR = Symbol.for('lease-core.error')

/** The stable code of each error class. */
export type LeaseErrorCode =
  | 'LEASE_CLAIM_DENIED'
  | 'LEASE_NOT_HELD'
  | 'LEASE_INVALID'
  | 'LEASE_NOT_VALID'
  | 'LEASE_UNKNOWN'
  | 'LEASE_LOST'
  | 'LEASE_TRAPDOOR'
  | 'LEASE_STOPPED'

/** What an error may carry besides its message. */
export interface LeaseErrorDetails {
  /** The lease of the failed call. */
  readonly lease?: string | undefined
  /** The holder for which the call was made. */
  readonly holder?: string | undefined
  /** A short word or clause for programs and logs. */
  readonly reason?: string | undefined
  /** The underlying error, unchanged. */
  readonly cause?: unknown
  /** `ErrClaimDenied`: who holds the lease, when known. */
  readonly currentHolder?: string | undefined
  /** `ErrClaimDenied`: the latest instant, by the local wall clock, at which that holding may still be valid, when known. */
  readonly expiry?: DateTime | undefined
  /** `ErrNotValid`: every broken rule of the call. */
  readonly problems?: readonly Problem[] | undefined
}

/** One broken rule: which argument or option, which rule, and the value that broke it. */
export interface Problem {
  /** The name of the argument or option. */
  readonly argument: string
  /** The rule, for instance `must not be empty`. */
  readonly rule: string
  /** The value. On an error: its kind, if the value may contain a password. */
  readonly value: unknown
}

/** The base class of every error of this library. */
export abstract class LeaseError extends Error {
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (!isLeaseError(value)) return false
    const code = codes.get(this)
    if (code !== undefined) return value.code === code
    // A class derived from one of ours shares its code; an error of another copy of its package is compared by name.
    return (
      this === LeaseError || isDerived(value, this) || (value.name === this.name && value instanceof parentOf(this))
    )
  }

  /** The stable code of the class, for programs. */
  abstract readonly code: LeaseErrorCode
  /** The lease of the failed call, when there is one. */
  readonly lease: string | undefined
  /** The holder for which the call was made, when there is one. */
  readonly holder: string | undefined
  /** A short word or clause for programs and logs, when there is one. */
  readonly reason: string | undefined

  constructor(message: string, details: LeaseErrorDetails = {}, { stack = true }: { readonly stack?: boolean } = {}) {
    const limit = Error.stackTraceLimit
    if (!stack) Error.stackTraceLimit = 0
    super(message, 'cause' in details ? { cause: details.cause } : undefined)
    Error.stackTraceLimit = limit
    this.lease = details.lease
    this.holder = details.holder
    this.reason = details.reason
  }

  /** What `JSON.stringify` shows: everything but the stack. */
  toJSON(): object {
    const { name, code, message, cause } = this
    return Object.assign({ name, code, message }, this, cause === undefined ? undefined : { cause: reported(cause) })
  }
}

/**
 * The claim was refused, certainly: this call was granted nothing. Another holds the lease, or others are ahead in its queue. If
 * `currentHolder` is the caller's own holder name, this process already has a Hold of the lease that is not `shared`, or another process of
 * that name holds the lease.
 */
export class ErrClaimDenied extends LeaseError {
  override readonly name: string = 'ErrClaimDenied'
  readonly code = 'LEASE_CLAIM_DENIED'
  /** The holder, when the substrate reported it. */
  readonly currentHolder: string | undefined
  /** The latest instant, by the local wall clock, at which that holding may still be valid, when known. */
  readonly expiry: DateTime | undefined

  constructor(message: string, details: LeaseErrorDetails = {}) {
    super(message, details)
    this.currentHolder = details.currentHolder
    this.expiry = details.expiry
  }
}

/** The holder did not hold the lease at the moment of the check: this is certain. */
export class ErrNotHeld extends LeaseError {
  override readonly name: string = 'ErrNotHeld'
  readonly code = 'LEASE_NOT_HELD'
}

/**
 * The latest state forbids a `Client` operation: certainly not done. It is for direct callers of a Client: `client.leases()` then shows that
 * state. Do not pass it on to an application. A Manager throws it only from `define`, and for a share with another capacity.
 *
 * Carries no stack trace, because it is thrown often and caught by the direct caller.
 */
export class ErrInvalid extends LeaseError {
  override readonly name: string = 'ErrInvalid'
  readonly code = 'LEASE_INVALID'

  constructor(message: string, details: LeaseErrorDetails = {}) {
    super(message, details, { stack: false })
  }
}

/** An argument or option breaks a rule. `problems` lists every broken rule of the call. Nothing was sent. */
export class ErrNotValid extends LeaseError {
  override readonly name: string = 'ErrNotValid'
  readonly code = 'LEASE_NOT_VALID'
  /** Every broken rule, in the order of the arguments. */
  readonly problems: readonly Problem[]

  constructor(message: string, details: LeaseErrorDetails = {}) {
    super(message, details)
    this.problems = details.problems ?? []
  }
}

/**
 * The store did not answer, or retries ran out. Infer nothing: the operation may have taken effect. The message says "it may have
 * happened" unless it certainly has not. Two reasons are final: `closed` (the client was closed), and `set-up` (the store refuses what
 * this process asks, and has never done it: no tables, a wrong password, no rights).
 */
export class ErrUnknown extends LeaseError {
  override readonly name: string = 'ErrUnknown'
  readonly code = 'LEASE_UNKNOWN'
}

/** Why a Hold is over: see `ErrLost`. */
export type LossReason = 'expired' | 'taken' | 'revoked' | 'unreachable' | 'released'

/**
 * A Hold ended unasked: the lease is no longer held, or that is no longer certain. The `reason`:
 * - `expired`: no renewal before the trust window ended, because the process was paused or the Hold does not renew itself.
 * - `taken`: another term holds the lease.
 * - `revoked`: the lease was vacated before its expiry.
 * - `unreachable`: renewals failed or hung until the trust window ended, or the manager was stopped.
 * - `released`: only from `assertHeld()`: this Hold was released, as its owner wished. Then `signal.reason` is an AbortError, and no event
 *   is emitted.
 *
 * Carries no stack trace, because thousands of Holds may end at once, in the background.
 */
export class ErrLost extends LeaseError {
  override readonly name: string = 'ErrLost'
  readonly code = 'LEASE_LOST'
  /** Why the Hold ended: see above. */
  declare readonly reason: LossReason

  constructor(message: string, details: LeaseErrorDetails & { readonly reason: LossReason }) {
    super(message, details, { stack: false })
  }
}

/** The substrate does not understand this trapdoor key, or the key is not in a transaction. Nothing is guarded. */
export class ErrTrapdoor extends LeaseError {
  override readonly name: string = 'ErrTrapdoor'
  readonly code = 'LEASE_TRAPDOOR'
}

/** The manager, or recipe, was stopped. Infer nothing about a call in flight: it may have taken effect. */
export class ErrStopped extends LeaseError {
  override readonly name: string = 'ErrStopped'
  readonly code = 'LEASE_STOPPED'
}

/** How many characters of a rule are shown: a rule may repeat the argument. */
const MAX_RULE = 300
/** How many problems a message shows. */
const MAX_PROBLEMS = 20
/** How many characters of an underlying error are shown. */
const MAX_REASON = 1_000

/**
 * Makes the `ErrNotValid` for these problems. The message names argument, rule and value of each.
 *
 * A URL, a configuration, a connection, and the value of an unknown option are shown only by their kind, because they may contain a
 * password: in the message, in `problems`, and in the lease and holder of the error. The message shows at most 20 problems, and 300
 * characters of a rule.
 */
export function notValid(problems: readonly Problem[], details: LeaseErrorDetails = {}): ErrNotValid {
  const told = problems.map(({ argument: given, rule: wholeRule, value }) => {
    const rule = shortened(wholeRule, MAX_RULE)
    const argument = disclosedName(given)
    // An unknown option may be a secret: it may be called `password`.
    const { value: harmless, text } = disclosed(value, { byKind: rule.startsWith('is not an option') })
    return { problem: { argument, rule, value: harmless }, words: `${argument} ${rule} (got ${text})` }
  })
  const shown = told.slice(0, MAX_PROBLEMS).map(({ words }) => words)
  if (told.length > shown.length) shown.push(`and ${told.length - shown.length} more problems`)
  return new ErrNotValid(shown.join('; '), {
    ...details,
    lease: details.lease === undefined ? undefined : String(disclosed(details.lease).value),
    holder: details.holder === undefined ? undefined : String(disclosed(details.holder).value),
    problems: told.map(({ problem }) => problem),
  })
}

Object.defineProperty(LeaseError.prototype, LEASE_ERROR, { value: true })

/** Whether the store will not do better at the next attempt: the client was closed, or its set-up cannot work. */
export function isFinalUnknown(error: unknown): boolean {
  return error instanceof ErrUnknown && (error.reason === CLOSED || error.reason === SET_UP)
}

/** The `reason` of an `ErrUnknown` whose client was closed. */
export const CLOSED = 'closed'
/** The `reason` of an `ErrUnknown` for a set-up that cannot work. */
export const SET_UP = 'set-up'

/** Returns the error, if it is one of this library; otherwise an `ErrUnknown`, because the client threw it. */
export function asLeaseError(error: unknown): LeaseError {
  if (isLeaseError(error)) return error
  const message = `it may have happened: the client failed: ${reasonOf(error)}`
  return new ErrUnknown(message, { reason: 'client failed', cause: error })
}

/** Emits what a listener threw as a warning of the process. Never throws, whatever the error is. */
export function warn(error: unknown, type: string = 'LeaseListenerWarning'): void {
  try {
    process.emitWarning(error instanceof Error ? error : reasonOf(error), { type })
  } catch {
    process.emitWarning(WORDLESS, { type }) // a proxy that throws
  }
}

/** Calls a listener of the application. What it throws, or rejects with, becomes a warning of the process. */
export function callListener(listener: () => unknown, warningType?: string): void {
  try {
    const outcome = listener()
    if (isThenable(outcome)) Promise.resolve(outcome).catch((error: unknown) => warn(error, warningType))
  } catch (error) {
    warn(error, warningType)
  }
}

/** True also for a promise of another realm. */
function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

const WORDLESS = 'something without words'

/** Returns the text of anything thrown, in at most a thousand characters and without passwords. Never throws. */
export function reasonOf(cause: unknown): string {
  try {
    const words: unknown = cause instanceof Error ? cause.message || cause.name : cause
    return shortened(withoutSecrets(String(words)), MAX_REASON)
  } catch {
    return WORDLESS
  }
}

/** The classes, with their codes. */
const codes = new Map<unknown, LeaseErrorCode>([
  [ErrClaimDenied, 'LEASE_CLAIM_DENIED'],
  [ErrNotHeld, 'LEASE_NOT_HELD'],
  [ErrInvalid, 'LEASE_INVALID'],
  [ErrNotValid, 'LEASE_NOT_VALID'],
  [ErrUnknown, 'LEASE_UNKNOWN'],
  [ErrLost, 'LEASE_LOST'],
  [ErrTrapdoor, 'LEASE_TRAPDOOR'],
  [ErrStopped, 'LEASE_STOPPED'],
])

function isLeaseError(value: unknown): value is LeaseError {
  try {
    return typeof value === 'object' && value !== null && LEASE_ERROR in value
  } catch {
    return false // a proxy that throws
  }
}

function parentOf(type: object): typeof LeaseError {
  return Object.getPrototypeOf(type) as typeof LeaseError
}

function isDerived(value: object, type: { readonly prototype: object }): boolean {
  return Object.prototype.isPrototypeOf.call(type.prototype, value)
}
