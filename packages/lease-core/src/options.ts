/** Configuration, parsed once at the edge: every problem at once, relations included, no coercion, nothing ignored. */
import type { DurationLike } from 'luxon'
import { brokenSignalRule } from './abort-signal.ts'
import type { Client } from './client.ts'
import type { Clock } from './clock.ts'
import { notValid, type Problem } from './errors.ts'
import type { LeaseEvents } from './events.ts'
import { brokenDurationRule, brokenValueRule, toMillis, UNREADABLE } from './lease.ts'
import { brokenCapacityRule, type ShareRequest } from './share.ts'
import type { Substrate } from './substrate.ts'
import { SHORTEST_RENEWED_MS, tooLateMs, trustWindowMs } from './skew.ts'

export interface ParsedSubstrateClientOptions {
  readonly substrate: Substrate
  readonly clock: Clock | undefined
  readonly events: LeaseEvents | undefined
  readonly requestTimeoutMs: number
}

const SUBSTRATE_METHODS = ['apply', 'read', 'pinned', 'trapdoor', 'close'] as const
const REQUEST_TIMEOUT_MS = 5_000

/** @throws ErrNotValid with every problem */
export function parseSubstrateClientOptions(given: unknown): ParsedSubstrateClientOptions {
  const options = new OptionReader(given, ['substrate', 'clock', 'events', 'requestTimeout'])
  const parsed = {
    substrate: options.object<Substrate>('substrate', 'a Substrate', SUBSTRATE_METHODS) as Substrate,
    clock: options.clock(),
    events: options.events(),
    requestTimeoutMs: options.duration('requestTimeout', REQUEST_TIMEOUT_MS),
  }
  options.finish()
  return parsed
}

/** What is wrong with the options of a client, beside its substrate. */
export function brokenClientOptions(given: {
  readonly events?: unknown
  readonly requestTimeout?: unknown
}): readonly Problem[] {
  const options = new OptionReader(given, ['events', 'requestTimeout'])
  options.events()
  options.duration('requestTimeout', REQUEST_TIMEOUT_MS)
  return options.problems
}

export interface ParsedManagerConfig {
  readonly client: Client
  readonly clock: Clock | undefined
  readonly events: LeaseEvents | undefined
  readonly maxSleepMs: number
}

const CLIENT_METHODS = [
  'claimLease',
  'extendLease',
  'expireLease',
  'releaseLease',
  'pinLease',
  'unpinLease',
  'pinned',
  'leases',
  'refresh',
  'subscribe',
] as const

/** @throws ErrNotValid with every problem */
export function parseManagerConfig(given: unknown): ParsedManagerConfig {
  const config = new OptionReader(given, ['client', 'clock', 'events', 'maxSleep'], {
    root: 'config',
    needed: 'client',
    example: '{ client: postgresClient({ pool, namespace }) }',
  })
  const what = 'a Client, such as postgresClient({ pool, namespace })'
  const parsed = {
    client: config.object<Client>('client', what, CLIENT_METHODS) as Client,
    clock: config.clock(),
    events: config.events(),
    maxSleepMs: config.duration('maxSleep', 60_000),
  }
  config.finish()
  return parsed
}

export interface ParsedHoldOptions {
  readonly durationMs: number
  /** As it was given. */
  readonly givenDuration: unknown
  /** Milliseconds, 0 = do not wait, Infinity = as long as the signal allows. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  readonly value: string | undefined
  readonly announce: boolean | undefined
  /** Whether this process may hold the same term more than once. */
  readonly shared: boolean
  /** Whether a grant counts that arrives after its trust window. */
  readonly acceptLate: boolean
  readonly renewEveryMs: number
  /** How many may wait for the lease. undefined: any number. */
  readonly maxWaiters: number | undefined
  readonly share: ShareRequest | undefined
}

const HOLD_OPTIONS = [
  'duration',
  'wait',
  'signal',
  'value',
  'announce',
  'shared',
  'acceptLate',
  'renewEvery',
  'maxWaiters',
  'share',
] as const

/** @throws ErrNotValid with every problem, those of the other arguments first */
export function parseHoldOptions(given: unknown, others: readonly Problem[] = []): ParsedHoldOptions {
  const words = { needed: 'duration', example: '{ duration: { seconds: 30 } }', others }
  const options = new OptionReader(given, HOLD_OPTIONS, words)
  const durationMs = options.duration('duration')
  const parsed = {
    durationMs,
    givenDuration: options.given('duration'),
    waitMs: options.wait(),
    signal: options.signal(),
    value: options.ruled<string>('value', brokenValueRule),
    announce: options.boolean('announce'),
    shared: options.boolean('shared') ?? false,
    acceptLate: options.boolean('acceptLate') ?? false,
    renewEveryMs: renewEveryIn(options, durationMs),
    maxWaiters: options.count('maxWaiters'),
    share: shareIn(options),
  }
  options.finish()
  return parsed
}

/** In milliseconds; Infinity: never. The lease must be long enough for it, and for somebody to rely on it. */
function renewEveryIn(options: OptionReader, durationMs: number): number {
  const given = options.given('renewEvery')
  const renewEveryMs = given === false ? Number.POSITIVE_INFINITY : options.duration('renewEvery', durationMs / 3)
  if (trustWindowMs(durationMs) <= 0) {
    options.fault('duration', 'must be longer than the margin for clocks, 1 ms and 0.1 %')
  } else if (given === undefined && durationMs < SHORTEST_RENEWED_MS) {
    const why = 'a shorter lease is over before it is renewed'
    options.fault('duration', `must be at least ${SHORTEST_RENEWED_MS} ms, or renewEvery false: ${why}`)
  } else if (given !== undefined && given !== false && !Number.isNaN(durationMs) && !Number.isNaN(renewEveryMs)) {
    options.fault('renewEvery', brokenRenewalRule(renewEveryMs, 'duration', durationMs))
  }
  return renewEveryMs
}

function shareIn(options: OptionReader): ShareRequest | undefined {
  const given = options.given('share')
  if (given === undefined || given === true) return given && { weight: 1 }
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    options.fault('share', 'must be true, or an object with a weight and a capacity')
    return undefined
  }
  const share = options.inner('share', ['weight', 'capacity', 'ahead'])
  if (share === undefined) return undefined
  const weight = share.ruled<number>('weight', brokenCapacityRule) ?? 1
  const capacity = share.ruled<number>('capacity', brokenCapacityRule)
  if (share.isSound && capacity !== undefined && weight > capacity) {
    share.fault('weight', `must be at most the capacity, ${capacity}`)
  }
  const ahead = share.boolean('ahead')
  options.add(share)
  return { weight, ...(capacity !== undefined && { capacity }), ...(ahead !== undefined && { ahead }) }
}

export interface ParsedObserveOptions {
  readonly signal: AbortSignal | undefined
  readonly renewals: boolean
}

/** @throws ErrNotValid with every problem, those of the other arguments first */
export function parseObserveOptions(given: unknown, others: readonly Problem[]): ParsedObserveOptions {
  const options = new OptionReader(given, ['signal', 'renewals'], { others })
  const parsed = { signal: options.signal(), renewals: options.boolean('renewals') ?? false }
  options.finish()
  return parsed
}

/** Returns the rule that this renewal interval breaks; undefined: each renewal is sent in time before the trust window ends. */
export function brokenRenewalRule(renewEveryMs: number, durationName: string, durationMs: number): string | undefined {
  const limitMs = tooLateMs(durationMs)
  if (renewEveryMs < limitMs) return undefined
  const mostMs = Math.ceil(limitMs) - 1
  if (mostMs < 1) return `cannot be met: ${durationName} (${durationMs} ms) is over before a renewal is sent`
  return `must be at most ${mostMs} ms, so that a renewal is sent within the trust window of ${durationName} (${durationMs} ms)`
}

/** What is said of options that are none. */
interface OptionWords {
  /** The name of the whole object. @default 'options' */
  readonly root?: string | undefined
  /** The option without which there is nothing. */
  readonly needed?: string | undefined
  readonly example?: string | undefined
}

/** Reads the options of one call, each once, and collects what is wrong with them. What is not given is undefined. */
class OptionReader {
  readonly #read: Readonly<Record<string, unknown>>
  readonly #root: string
  readonly #faults: Problem[]
  readonly #unknown: readonly Problem[]

  /** @throws ErrNotValid the whole is no object, or cannot be read */
  constructor(
    given: unknown,
    known: readonly string[],
    { others = [], root = 'options', ...words }: OptionWords & { readonly others?: readonly Problem[] } = {},
  ) {
    const { read, problems } = readOptions(given as Record<string, unknown>, known, { root, ...words })
    if (problems.some(({ argument }) => argument === root)) throw notValid([...others, ...problems])
    this.#read = read
    this.#root = root
    this.#faults = [...others]
    this.#unknown = problems
  }

  /** All that was found; options that there are not come last. */
  get problems(): readonly Problem[] {
    return [...this.#faults, ...this.#unknown]
  }

  /** Whether no option that was looked at has broken a rule. */
  get isSound(): boolean {
    return this.#faults.length === 0
  }

  /** @throws ErrNotValid with every problem, if there is one */
  finish(): void {
    if (this.#faults.length + this.#unknown.length > 0) throw notValid(this.problems)
  }

  given(name: string): unknown {
    return this.#read[name]
  }

  /** Notes the rule that an option breaks; undefined: none. */
  fault(name: string, rule: string | undefined): void {
    if (rule !== undefined) this.#faults.push({ argument: name, rule, value: this.#read[name] })
  }

  /** The options inside of an option. undefined: these cannot be read, which is noted. */
  inner(name: string, known: readonly string[]): OptionReader | undefined {
    try {
      return new OptionReader(this.#read[name], known, { root: name })
    } catch {
      this.fault(name, UNREADABLE)
      return undefined
    }
  }

  /** Takes over what is wrong with inner options. */
  add(inner: OptionReader): void {
    const of = (problem: Problem): Problem => ({ ...problem, argument: `${inner.#root}.${problem.argument}` })
    this.#faults.push(...inner.problems.map(of))
  }

  /** In whole milliseconds; NaN: not valid. @param otherwiseMs for one that is not given; undefined: it must be */
  duration(name: string, otherwiseMs?: number): number {
    const value = this.#read[name]
    if (value === undefined && otherwiseMs !== undefined) return otherwiseMs
    const rule = readably(() => brokenDurationRule(value))
    this.fault(name, rule)
    return rule === undefined ? Math.ceil(toMillis(value as DurationLike)) : Number.NaN
  }

  /** In milliseconds: 0, a duration, or Infinity. */
  wait(): number {
    const { wait = false } = this.#read
    if (typeof wait === 'boolean') return wait ? Number.POSITIVE_INFINITY : 0
    const rule = readably(() => brokenDurationRule(wait))
    if (rule === undefined) return Math.ceil(toMillis(wait as DurationLike))
    this.fault('wait', rule === UNREADABLE ? rule : 'must be true, false or a duration')
    return Number.NaN
  }

  boolean(name: string): boolean | undefined {
    const value = this.#read[name]
    if (value === undefined || typeof value === 'boolean') return value
    this.fault(name, 'must be true or false')
    return undefined
  }

  count(name: string): number | undefined {
    const value = this.#read[name]
    if (value === undefined) return undefined
    if (!Number.isSafeInteger(value)) this.fault(name, 'must be a whole number')
    else if ((value as number) < 1) this.fault(name, 'must be at least 1')
    return value as number
  }

  /** What breaks no rule. */
  ruled<T>(name: string, broken: (value: T) => string | undefined): T | undefined {
    const value = this.#read[name] as T | undefined
    if (value !== undefined) this.fault(name, broken(value))
    return value
  }

  signal(): AbortSignal | undefined {
    return this.ruled<AbortSignal>('signal', brokenSignalRule)
  }

  clock(): Clock | undefined {
    return this.#optional<Clock>('clock', 'a Clock', ['now', 'monotonic', 'setTimer'])
  }

  events(): LeaseEvents | undefined {
    return this.#optional<LeaseEvents>('events', 'a LeaseEvents', ['subscribe', 'emit', 'heard'])
  }

  #optional<T>(name: string, what: string, methods: readonly (keyof T & string)[]): T | undefined {
    return this.#read[name] === undefined ? undefined : this.object(name, what, methods)
  }

  /** An object with these methods. */
  object<T>(name: string, what: string, methods: readonly (keyof T & string)[]): T | undefined {
    const value = this.#read[name]
    const rule = `must be ${what} (an object with ${methods.join(', ')})`
    this.fault(
      name,
      readably(() => (hasMethods(value, ...methods) ? undefined : rule)),
    )
    return value as T
  }
}

/** The rule that is broken, also where what is given throws when it is looked at. */
function readably(rule: () => string | undefined): string | undefined {
  try {
    return rule()
  } catch {
    return UNREADABLE
  }
}

/** Returns whether this is an object with all of these methods. */
export function hasMethods(value: unknown, ...methods: readonly PropertyKey[]): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    methods.every((method) => typeof (value as Record<PropertyKey, unknown>)[method] === 'function')
  )
}

/**
 * The rule that these options break by what they are: not an object, or something that was meant to be one of the options.
 *
 * @param known their names
 */
export function brokenOptionsRule(
  options: unknown,
  known: readonly string[],
  { needed, example }: Pick<OptionWords, 'needed' | 'example'> = {},
): string | undefined {
  if (typeof options !== 'object' || options === null) {
    return example === undefined ? 'must be an object' : `must be an object such as ${example}`
  }
  const isNamed = needed === undefined ? known.some((name) => name in options) : needed in options
  if (isNamed || !isMade(options)) return undefined
  const usual = `{ ${known.includes('namespace') ? `${known[0]}, namespace` : known[0]} }`
  return `must be an object such as ${example ?? usual}`
}

/** Whether it is an array, or was made by a class. */
function isMade(value: object): boolean {
  return !PLAIN.has(Object.getPrototypeOf(value))
}

const PLAIN: ReadonlySet<unknown> = new Set([Object.prototype, null])

const SOUND: readonly Problem[] = []

/** The options, each read once (a getter may throw, or answer otherwise the next time), and what is wrong with them apart from their values. */
export function readOptions<O extends object>(
  options: O,
  known: readonly string[],
  { root = 'options', ...words }: OptionWords = {},
): { readonly read: O; readonly problems: readonly Problem[] } {
  const read: Record<string, unknown> = {}
  let problems = SOUND
  const given = options as Record<string, unknown>
  try {
    const rule = brokenOptionsRule(options, known, words)
    if (rule !== undefined) return { read: read as O, problems: [{ argument: root, rule, value: options }] }
    for (const name of known) {
      const value = given[name]
      if (value !== undefined) read[name] = value
    }
    for (const name of Object.keys(given)) {
      if (known.includes(name)) continue
      const value = given[name]
      problems = [...problems, { argument: name, rule: 'is not an option', value }]
    }
  } catch {
    return { read: {} as O, problems: [{ argument: root, rule: UNREADABLE, value: options }] }
  }
  return { read: read as O, problems }
}
