/**
 * The eight things that can go wrong, one class and one stable `code` each.
 *
 * What matters about an error here is what it lets the caller *infer*: a refusal is certain, everything that is not
 * certain is `ErrUnknown`. Test the class (`instanceof ErrNotHeld`) or the code (`error.code === 'LEASE_NOT_HELD'`).
 *
 * Two copies of this package may meet in one process, and so may two releases. Errors therefore carry a registered symbol,
 * and `instanceof` goes by that symbol and the code: an `ErrNotHeld` of one copy is an instance of the `ErrNotHeld` of the other.
 * A class that is derived from one of these goes by its name, if its errors have the `name` of the class.
 */
import type { DateTime } from 'luxon'
import { disclosed, disclosedName, shortened, withoutSecrets } from './shown.ts'

/** On every error of every copy of this package. */
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

/** What an error may carry besides its message. Each class says which of these it fills. */
export interface LeaseErrorDetails {
  /** The lease the failed call was about. */
  readonly lease?: string | undefined
  /** The holder on whose behalf the call was made. */
  readonly holder?: string | undefined
  /** A short word or clause for programs and logs. */
  readonly reason?: string | undefined
  /** What was thrown below, unchanged. */
  readonly cause?: unknown
  /** `ErrClaimDenied`: who holds the lease, when known. */
  readonly currentHolder?: string | undefined
  /** `ErrClaimDenied`: the latest local instant at which that holding may still be valid, when known. */
  readonly expiry?: DateTime | undefined
  /** `ErrNotValid`: every broken rule of the call. */
  readonly problems?: readonly Problem[] | undefined
}

/** One broken rule: which argument or option, which rule, and the value that broke it. */
export interface Problem {
  readonly argument: string
  readonly rule: string
  /** On an error: the kind of the value where the value itself may have a password in it. */
  readonly value: unknown
}

/** Base of every error that this library throws on purpose. */
export abstract class LeaseError extends Error {
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (!isLeaseError(value)) return false
    const code = codes.get(this)
    if (code !== undefined) return value.code === code
    // A class that somebody derived from one of ours shares its code, and goes by its name in another copy of its package.
    return (
      this === LeaseError || isDerived(value, this) || (value.name === this.name && value instanceof parentOf(this))
    )
  }

  abstract readonly code: LeaseErrorCode
  readonly lease: string | undefined
  readonly holder: string | undefined
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
}

/** Another holds the lease. The caller may infer that the lease was surely not held by this holder. */
export class ErrClaimDenied extends LeaseError {
  override readonly name: string = 'ErrClaimDenied'
  readonly code = 'LEASE_CLAIM_DENIED'
  /** Who holds it, when the substrate said so. */
  readonly currentHolder: string | undefined
  /** The latest local instant at which that holding may still be valid, when known. */
  readonly expiry: DateTime | undefined

  constructor(message: string, details: LeaseErrorDetails = {}) {
    super(message, details)
    this.currentHolder = details.currentHolder
    this.expiry = details.expiry
  }
}

/** The holder does not hold the lease: surely so at the moment of the check. */
export class ErrNotHeld extends LeaseError {
  override readonly name: string = 'ErrNotHeld'
  readonly code = 'LEASE_NOT_HELD'
}

/**
 * A `Client` operation is impossible in the latest state. It is a signal between a Client and its caller: look at
 * `client.leases()`, then try something else or say it in your own words; never pass it on to an application.
 *
 * Carries no stack trace: it is an answer, thrown on hot paths, and it is always caught one frame above.
 */
export class ErrInvalid extends LeaseError {
  override readonly name: string = 'ErrInvalid'
  readonly code = 'LEASE_INVALID'

  constructor(message: string, details: LeaseErrorDetails = {}) {
    super(message, details, { stack: false })
  }
}

/** An argument or option breaks a rule; every problem of the call is listed. Nothing was sent. */
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

/** The substrate could not be reached, timed out, or retries ran out. Infer nothing: it may have happened. */
export class ErrUnknown extends LeaseError {
  override readonly name: string = 'ErrUnknown'
  readonly code = 'LEASE_UNKNOWN'
}

/** Why a Hold ended unasked. */
export type LossReason = 'expired' | 'taken' | 'revoked' | 'unreachable'

/**
 * A Hold ended unasked: the lease is no longer held, or can no longer be proved to be. `reason` is
 * `expired` (this process slept past its trust window), `taken` (another term holds it), `revoked` (vacated before its
 * time) or `unreachable` (renewals failed or hung until the trust window ended).
 *
 * Carries no stack trace: thousands of Holds may end at once, and none of them where it was made.
 */
export class ErrLost extends LeaseError {
  override readonly name: string = 'ErrLost'
  readonly code = 'LEASE_LOST'
  declare readonly reason: LossReason

  constructor(message: string, details: LeaseErrorDetails & { readonly reason: LossReason }) {
    super(message, details, { stack: false })
  }
}

/** The trapdoor key is not one that this substrate understands. Nothing was checked. */
export class ErrTrapdoor extends LeaseError {
  override readonly name: string = 'ErrTrapdoor'
  readonly code = 'LEASE_TRAPDOOR'
}

/** The manager is stopping or stopped. Infer nothing about a call that was in flight: it may have happened. */
export class ErrStopped extends LeaseError {
  override readonly name: string = 'ErrStopped'
  readonly code = 'LEASE_STOPPED'
}

/** So many characters of a rule are shown: it may repeat what was given. */
const MAX_RULE = 300
/** So many problems are in a message. */
const MAX_PROBLEMS = 20
/** So many characters are shown of what was thrown. */
const MAX_REASON = 1_000

/**
 * Makes the `ErrNotValid` for these problems; the message names argument, rule and value of each.
 *
 * A URL, a configuration or a connection is shown by its kind, for it may have a password in it, and so is the value of an
 * option that is none. That is true of the message, of `problems`, and of the lease and holder of the error. What is shown has a
 * limit: a rule of 300 characters, and 20 problems in the message.
 */
export function notValid(problems: readonly Problem[], details: LeaseErrorDetails = {}): ErrNotValid {
  const told = problems.map(({ argument: given, rule: wholeRule, value }) => {
    const rule = shortened(wholeRule, MAX_RULE)
    const argument = disclosedName(given)
    // What an unknown option means to its writer is unknown: it may be called `password`.
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

/** What was thrown, if it is an error of this library; otherwise it came from the client, and nothing is known. */
export function asLeaseError(error: unknown): LeaseError {
  if (isLeaseError(error)) return error
  const message = `it may have happened: the client failed: ${reasonOf(error)}`
  return new ErrUnknown(message, { reason: 'client failed', cause: error })
}

/** Makes a warning of the process of what a listener threw. Anything can be thrown: this never throws. */
export function warn(error: unknown, type: string = 'LeaseListenerWarning'): void {
  try {
    process.emitWarning(error instanceof Error ? error : reasonOf(error), { type })
  } catch {
    process.emitWarning(WORDLESS, { type }) // a proxy that throws
  }
}

/** Calls a listener of the application. What it throws, or rejects with when it is async, becomes a warning of the process. */
export function callListener(listener: () => unknown, warningType?: string): void {
  try {
    const outcome = listener()
    if (isThenable(outcome)) Promise.resolve(outcome).catch((error: unknown) => warn(error, warningType))
  } catch (error) {
    warn(error, warningType)
  }
}

/** Also a promise of another realm. */
function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

const WORDLESS = 'something without words'

/** What was thrown, in no more than a thousand characters and without passwords. Anything can be thrown, also what has no words. */
export function reasonOf(cause: unknown): string {
  try {
    const words: unknown = cause instanceof Error ? cause.message || cause.name : cause
    return shortened(withoutSecrets(String(words)), MAX_REASON)
  } catch {
    return WORDLESS
  }
}

/** The classes that stand for a code. */
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
