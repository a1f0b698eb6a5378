/** What a request and a lease look like, and the rules for names, durations and values. */
import { Duration, type DateTime, type DurationLike } from 'luxon'
import { notValid, type Problem } from './errors.ts'
import { brokenShareRule, countedOf, type ShareRequest } from './share.ts'

/** What a claim or an extension asks for. */
export interface Request {
  /** The name of the holder: at most 255 bytes, no white space or control characters, none of `. # $`. */
  readonly holder: string
  /** How long, from the start of the call. A number is in milliseconds. More than zero, at most 100 years. */
  readonly duration: DurationLike
  /** Text that travels with the lease; everyone can read it. At most 4 KiB. An extension without a value keeps the old one. */
  readonly value?: string | undefined
  /**
   * Whether observers of the lease are notified at once of the new term, or of the new value of an extension; that costs the store a
   * message. Otherwise they notice the change at their next read. @default false
   */
  readonly announce?: boolean | undefined
  /** Required for a claim of a share (`share.ts`), and only there: how much of the counted lease it takes. */
  readonly share?: ShareRequest | undefined
}

/**
 * Puts the check "this term still stands" into the caller's own transaction. The key belongs to that transaction, and is of a kind that the
 * substrate understands. Idea and name: juju `core/lease`.
 *
 * @throws ErrNotHeld  the term is over
 * @throws ErrTrapdoor the substrate does not understand the key: nothing is guarded
 */
export type Trapdoor = (key: unknown) => Promise<void>

/** What is known of one held lease. */
export interface Info {
  /** The holder. */
  readonly holder: string
  /** The latest instant, by the local wall clock, at which the lease may be valid without an extension. A pinned lease outlives it. */
  readonly expiry: DateTime
  /** Rises with every term of this lease, forever. An extension does not change it. */
  readonly fencingToken: bigint
  /** The value that the holder has written, if any. */
  readonly value: string | undefined
  /** Whether any entity pins the lease: it then does not expire. */
  readonly pinned: boolean
  /**
   * When the term was opened, by the local wall clock, computed from the age that the store reported. Absent if the store does not know
   * it (etcd).
   */
  readonly since?: DateTime | undefined
  /** Of a share: how much of the capacity it takes. Absent for a lease. */
  readonly weight?: number | undefined
  /** Puts the check of exactly this term into the caller's own transaction. */
  readonly trapdoor: Trapdoor
}

/** What an Info knows beyond what applications see. Clients of third parties need not have it. */
export interface TermAware {
  /** The nonce of the claim that opened the term, or of the adoption that was the last. */
  readonly nonce: string | undefined
  /** Whether the lease had lapsed when the store answered: a store without a clock leaves it to the client to observe that. */
  isLapsed(): boolean
  /** In so many milliseconds the lease may lapse, as an observer counts time, by what is known now; a pin keeps it for longer. */
  lapsesInMs(): number
}

/** The longest name of a lease, a holder or a pinning entity, in UTF-8 bytes. */
export const MAX_NAME_BYTES = 255
/** The longest `value`, in UTF-8 bytes. */
export const MAX_VALUE_BYTES = 4096
/** How many leases `holdAny` accepts. */
export const MAX_ANY = 128
/** The longest duration, in milliseconds: 100 years of 365.25 days. Later instants do not fit every store's clock. */
export const MAX_DURATION_MS = 3_155_760_000_000

/**
 * Throws unless the string is a valid name of a lease or a holder: not empty, at most 255 bytes, no white space or control characters, none
 * of `. # $`, well-formed Unicode.
 *
 * @param argument names the value in the message
 * @throws ErrNotValid with argument, rule and value
 */
export function validateString(value: string, argument: string = 'string'): void {
  const rule = brokenNameRule(value)
  if (rule !== undefined) throw notValid([{ argument, rule, value }])
}

/**
 * Checks all arguments of a claim or an extension. Returns the duration in whole milliseconds, rounded up, so that no lease is shorter than
 * requested.
 *
 * @throws ErrNotValid with every problem
 */
export function checkRequest(lease: string, request: Request): number {
  if (typeof request !== 'object' || request === null) {
    throw notValid([{ argument: 'request', rule: 'must be an object', value: request }])
  }
  let read: Request
  try {
    read = fieldsOf(request)
  } catch {
    throw notValid([{ argument: 'request', rule: UNREADABLE, value: request }])
  }
  const { holder, duration, value, announce, share } = read
  const durationMs = toMillis(duration)
  const sound =
    brokenLeaseRule(lease) === undefined &&
    (share === undefined || brokenShareRule(share) === undefined) &&
    brokenNameRule(holder) === undefined &&
    durationMs > 0 &&
    durationMs <= MAX_DURATION_MS &&
    (value === undefined || brokenValueRule(value) === undefined) &&
    (announce === undefined || typeof announce === 'boolean')
  if (sound) return Math.ceil(durationMs)

  const problems: Problem[] = []
  addProblem(problems, 'lease', brokenLeaseRule(lease), lease)
  addProblem(problems, 'holder', brokenNameRule(holder), holder)
  addProblem(problems, 'duration', brokenDurationRule(duration), duration)
  if (value !== undefined) addProblem(problems, 'value', brokenValueRule(value), value)
  if (announce !== undefined && typeof announce !== 'boolean') {
    addProblem(problems, 'announce', 'must be true or false', announce)
  }
  if (share !== undefined) addProblem(problems, 'share', brokenShareRule(share), share)
  throw notValid(problems, { lease, holder })
}

function fieldsOf({ holder, duration, value, announce, share }: Request): Request {
  return { holder, duration, value, announce, share }
}

/** The names in a list of leases, any one of them enough, each read once, and what is wrong with them. */
export function readLeases(leases: unknown): {
  readonly names: readonly string[]
  readonly problems: readonly Problem[]
} {
  const names: string[] = []
  const problems: Problem[] = []
  try {
    if (!Array.isArray(leases)) {
      return { names, problems: [{ argument: 'leases', rule: 'must be an array of names', value: leases }] }
    }
    const { length } = leases
    // A hole is not skipped.
    for (let index = 0; index < Math.min(length, MAX_ANY); index++) {
      const value: unknown = leases[index]
      addProblem(problems, `leases[${index}]`, brokenNameRule(value), value)
      names.push(value as string)
    }
    if (length === 0 || length > MAX_ANY) {
      problems.push({ argument: 'leases', rule: `must be 1 to ${MAX_ANY} names`, value: length })
    }
  } catch {
    return { names, problems: [{ argument: 'leases', rule: UNREADABLE, value: leases }] }
  }
  if (new Set(names).size < names.length) {
    problems.push({ argument: 'leases', rule: 'must be different names', value: leases })
  }
  return { names, problems }
}

/** Of a getter or a proxy that throws. */
export const UNREADABLE = 'must be readable: to read it throws'

/**
 * Throws unless every named string may be a name.
 *
 * @throws ErrNotValid with every problem
 */
export function checkNames(names: Readonly<Record<string, string>>): void {
  const problems = brokenNames(names)
  if (problems.length > 0) throw notValid(problems, { lease: names['lease'], holder: names['holder'] })
}

/** What is wrong with these names, by argument. A `lease` may be a share. */
export function brokenNames(names: Readonly<Record<string, string>>): readonly Problem[] {
  return problemsOf(names, (argument) => (argument === 'lease' ? brokenLeaseRule : brokenNameRule))
}

/** The same, and none may be a share. */
export function brokenPlainNames(names: Readonly<Record<string, string>>): readonly Problem[] {
  return problemsOf(names, () => brokenNameRule)
}

function problemsOf(
  names: Readonly<Record<string, string>>,
  ruleOf: (argument: string) => (value: unknown) => string | undefined,
): readonly Problem[] {
  let problems: Problem[] | undefined
  for (const argument in names) {
    const value = names[argument]
    const rule = ruleOf(argument)(value)
    if (rule !== undefined) (problems ??= []).push({ argument, rule, value })
  }
  return problems ?? NO_PROBLEMS
}

const NO_PROBLEMS: readonly Problem[] = []

/** The rule that this duration breaks, or undefined. */
export function brokenDurationRule(duration: unknown): string | undefined {
  const ms = toMillis(duration as DurationLike)
  // luxon reads the own properties of anything: of a Temporal.Duration or a Date it finds none.
  if (Number.isNaN(ms) || (ms === 0 && isNoDuration(duration))) return NO_DURATION + ownWords(duration)
  if (!Number.isFinite(ms)) return 'must be finite'
  if (ms <= 0) return 'must be greater than zero'
  if (ms > MAX_DURATION_MS) return `must be at most ${MAX_DURATION_MS} ms (100 years)`
  return undefined
}

const NO_DURATION = 'must be a luxon Duration, an object such as { seconds: 30 }, or milliseconds'

function isNoDuration(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Duration.isDuration(value)) return false
  return Object.getPrototypeOf(value) !== Object.prototype || Object.keys(value).length === 0
}

/** What to write for a duration of another library. */
function ownWords(value: unknown): string {
  return Object.prototype.toString.call(value) === '[object Temporal.Duration]'
    ? ": write duration.total('milliseconds')"
    : ''
}

/** A number below this is hardly meant as milliseconds. */
const FEW_MS = 100

/** What to say of a lease for a few milliseconds that may have been meant as seconds; undefined: nothing. */
export function bareNumberWarning(duration: unknown): string | undefined {
  if (typeof duration !== 'number' || duration >= FEW_MS) return undefined
  return `a number is a duration in milliseconds: a lease was asked for ${duration} ms. Write { seconds: ${duration} } for seconds, or { milliseconds: ${duration} } where that is meant`
}

/** The duration in milliseconds, or NaN when it is not a duration. */
export function toMillis(duration: DurationLike): number {
  if (typeof duration === 'number') return duration
  if (typeof duration !== 'object' || duration === null) return Number.NaN
  try {
    return Duration.fromDurationLike(duration).toMillis()
  } catch {
    return Number.NaN // luxon throws on unknown units and on values that are no numbers
  }
}

/** The rule that this name breaks, or undefined. ASCII names, nearly all of them, take one pass and no allocation. */
export function brokenNameRule(value: unknown): string | undefined {
  if (typeof value !== 'string') return 'must be a string'
  const length = value.length
  if (length === 0) return 'must not be empty'
  for (let index = 0; index < length; index++) {
    const unit = value.charCodeAt(index)
    if (unit >= 0x80) return brokenUnicodeNameRule(value)
    if (unit <= 0x20 || unit === 0x7f) return 'must not contain white space or control characters'
    if (unit === 0x2e || unit === 0x23 || unit === 0x24) return 'must not contain any of . # $'
  }
  return length > MAX_NAME_BYTES ? `must be at most ${MAX_NAME_BYTES} bytes` : undefined
}

/** The same for the name of a lease, which may be that of a share. */
export function brokenLeaseRule(value: unknown): string | undefined {
  const counted = typeof value === 'string' ? countedOf(value) : undefined
  if (counted === undefined || typeof value !== 'string') return brokenNameRule(value)
  return brokenNameRule(counted.slice(0, -1)) ?? brokenNameRule(value.slice(counted.length))
}

function brokenUnicodeNameRule(value: string): string | undefined {
  if (/[\s\p{Cc}]/u.test(value)) return 'must not contain white space or control characters'
  if (/[.#$]/.test(value)) return 'must not contain any of . # $'
  // A lone surrogate becomes U+FFFD in UTF-8: two different names would meet in one row.
  if (/\p{Cs}/u.test(value)) return 'must be well-formed Unicode'
  return Buffer.byteLength(value) > MAX_NAME_BYTES ? `must be at most ${MAX_NAME_BYTES} bytes` : undefined
}

/** The rule that this value breaks, or undefined. */
export function brokenValueRule(value: unknown): string | undefined {
  if (typeof value !== 'string') return 'must be a string'
  if (value.includes('\0')) return 'must not contain the NUL character'
  if (/\p{Cs}/u.test(value)) return 'must be well-formed Unicode'
  return Buffer.byteLength(value) > MAX_VALUE_BYTES ? `must be at most ${MAX_VALUE_BYTES} bytes` : undefined
}

function addProblem(problems: Problem[], argument: string, rule: string | undefined, value: unknown): void {
  if (rule !== undefined) problems.push({ argument, rule, value })
}
