/** Reads the options and arguments of a call: see `OptionReader`. */
import type { DurationLike } from 'luxon'
import { brokenSignalRule } from './abort-signal.ts'
import type { Clock } from './clock.ts'
import { notValid, type Problem } from './errors.ts'
import type { LeaseEvents } from './events.ts'
import { brokenDurationRule, brokenNameRule, brokenValueRule, toMillis, UNREADABLE } from './lease.ts'
import { disclosed } from './shown.ts'
import { SHORTEST_RENEWED_MS, tooLateMs, trustWindowMs } from './skew.ts'

/** What is said of options that are none. */
interface OptionWords {
  /** The name of the whole object. @default 'options' */
  readonly root?: string | undefined
  /** The option without which there is nothing. */
  readonly needed?: string | undefined
  readonly example?: string | undefined
}

/** What a reader knows beside the names of the options. */
export interface OptionReaderWords extends OptionWords {
  /** The other arguments of the call, by name: they are checked in the same way. */
  readonly arguments?: Readonly<Record<string, unknown>> | undefined
  /** What was found wrong with other arguments: it comes first. */
  readonly others?: readonly Problem[] | undefined
  /** Options in whose place somebody may pass a password: an error shows only how long a text is. */
  readonly secret?: readonly string[] | undefined
}

/**
 * Reads the options and arguments of one call, and collects what is wrong with them:
 *
 *     const options = new OptionReader(given, ['duration', 'again', 'clock'], { arguments: { name, work } })
 *     options.name('name')
 *     const durationMs = options.renewedDuration('duration', 15_000)
 *     const again = options.boolean('again', true)
 *     const clock = options.clock() ?? systemClock
 *     options.finish()
 *
 * - Each option is read once, here: a getter may throw, or answer otherwise the next time. `read` has what was read.
 * - Nothing is coerced, and nothing is ignored: an unknown option is a problem.
 * - `finish` throws all problems together. Each names the option, the rule and the value; never a text that may be a secret.
 * - What a method returns is valid only after `finish`. Until then a broken option counts as not given, and a broken duration is NaN, so
 *   that every comparison with it is false.
 * - A method without a default accepts a missing *option*; `name`, `duration` and `object` do not.
 *
 * Unknown options come first, because a typing error often explains the problem that follows it.
 */
export class OptionReader<O extends object = object> {
  /** The options that were given, as they were given. Empty if they cannot be read. */
  readonly read: O
  readonly #arguments: Readonly<Record<string, unknown>> | undefined
  readonly #root: string
  readonly #secret: readonly string[]
  readonly #isReadable: boolean
  #problems: readonly Problem[]

  constructor(
    given: O,
    known: readonly string[],
    { root = 'options', arguments: others, others: before = SOUND, secret = NONE, ...words }: OptionReaderWords = {},
  ) {
    const { read, problems } = readOptions(given, known, { root, ...words })
    this.read = read
    this.#arguments = others
    this.#root = root
    this.#secret = secret
    this.#isReadable = problems.length === 0 || problems[0]?.argument !== root
    this.#problems = problems.length === 0 ? before : [...before, ...problems]
  }

  /** All that was found until now. */
  get problems(): readonly Problem[] {
    return this.#problems
  }

  /** @throws ErrNotValid with every problem, if there is one */
  finish(): void {
    if (this.#problems.length > 0) throw notValid(this.#problems)
  }

  /** An option or an argument as it was given. */
  given(name: string): unknown {
    const option = (this.read as Readonly<Record<string, unknown>>)[name]
    return option === undefined ? this.#arguments?.[name] : option
  }

  /** Notes the rule that an option breaks; undefined: none. If there are no options, nothing is said of each. */
  fault(name: string, rule: string | undefined, value: unknown = this.given(name)): void {
    if (rule === undefined) return
    if (!this.#isReadable && value === undefined && !(name in (this.#arguments ?? NOTHING))) return
    this.#problems = [...this.#problems, { argument: name, rule, value: this.#shown(name, value) }]
  }

  /** Notes the rule unless the option is sound. */
  must(name: string, isSound: boolean, rule: string): void {
    if (!isSound) this.fault(name, rule)
  }

  /** Takes over what is wrong with the options inside of an option. */
  add(inner: OptionReader): void {
    const root = inner.#root
    const of = (problem: Problem): Problem =>
      problem.argument === root ? problem : { ...problem, argument: `${root}.${problem.argument}` }
    this.#problems = [...this.#problems, ...inner.#problems.map(of)]
  }

  /** What breaks no rule; undefined: not given, or it breaks one. */
  ruled<T>(name: string, broken: (value: T) => string | undefined): T | undefined {
    const value = this.given(name) as T | undefined
    return value === undefined || this.#breaks(name, broken) ? undefined : value
  }

  boolean(name: string): boolean | undefined
  boolean(name: string, otherwise: boolean): boolean
  boolean(name: string, otherwise?: boolean): boolean | undefined {
    const value = this.given(name)
    if (value === undefined) return otherwise
    if (typeof value === 'boolean') return value
    this.fault(name, 'must be true or false')
    return otherwise
  }

  /** A whole number from 1. */
  count(name: string, most: number = Number.MAX_SAFE_INTEGER): number | undefined {
    const count = this.given(name)
    if (count === undefined) return undefined
    if (Number.isSafeInteger(count) && (count as number) >= 1 && (count as number) <= most) return count as number
    this.fault(name, `must be a whole number from 1${most === Number.MAX_SAFE_INTEGER ? '' : ` to ${most}`}`)
    return undefined
  }

  /** In whole milliseconds; NaN: not valid. @param otherwiseMs for one that is not given; undefined: it must be */
  duration(name: string, otherwiseMs?: number): number {
    const value = this.given(name)
    if (value === undefined && otherwiseMs !== undefined) return otherwiseMs
    return this.#breaks(name, brokenDurationRule) ? Number.NaN : Math.ceil(toMillis(value as DurationLike))
  }

  /** As `duration`, of a lease: long enough that somebody can rely on it. */
  leaseDuration(name: string, otherwiseMs?: number): number {
    const durationMs = this.duration(name, otherwiseMs)
    if (!(trustWindowMs(durationMs) <= 0)) return durationMs
    this.fault(name, 'must be longer than the margin for clocks, 1 ms and 0.1 %', this.given(name) ?? durationMs)
    return Number.NaN
  }

  /** As `leaseDuration`, of a lease that renews itself: long enough that a renewal comes in time. */
  renewedDuration(name: string, otherwiseMs?: number): number {
    const durationMs = this.leaseDuration(name, otherwiseMs)
    if (!(durationMs < SHORTEST_RENEWED_MS)) return durationMs
    const rule = `must be at least ${SHORTEST_RENEWED_MS} ms, to be renewed in time`
    this.fault(name, rule, this.given(name) ?? durationMs)
    return Number.NaN
  }

  /** Checks that an interval lets each renewal come in time. NaN is reported already. */
  renewal(name: string, everyMs: number, durationName: string, durationMs: number): void {
    if (Number.isNaN(everyMs) || Number.isNaN(durationMs)) return
    this.fault(name, brokenRenewalRule(everyMs, durationName, durationMs), this.given(name) ?? everyMs)
  }

  /** The option `wait` in milliseconds: 0 for a single try, Infinity for no bound; NaN: not valid. */
  wait(otherwise: boolean = false): number {
    const given = this.given('wait')
    const wait = given === undefined ? otherwise : given
    if (typeof wait === 'boolean') return wait ? Number.POSITIVE_INFINITY : 0
    const isNone = (value: unknown): boolean => Number.isNaN(toMillis(value as DurationLike))
    const broken = (value: unknown): string | undefined =>
      isNone(value) ? 'must be true, false or a duration' : brokenDurationRule(value)
    return this.#breaks('wait', broken) ? Number.NaN : Math.ceil(toMillis(wait as DurationLike))
  }

  /** The name of a lease or a holder. @param otherwise for one that is not given; undefined: it must be */
  name(name: string, otherwise?: string): string {
    const value = this.given(name)
    if (value === undefined && otherwise !== undefined) return otherwise
    this.#breaks(name, brokenNameRule)
    return value as string
  }

  /** The value of a lease. */
  value(name: string = 'value'): string | undefined {
    return this.ruled<string>(name, brokenValueRule)
  }

  signal(): AbortSignal | undefined {
    return this.ruled<AbortSignal>('signal', brokenSignalRule)
  }

  clock(): Clock | undefined {
    if (this.given('clock') !== undefined) this.object('clock', 'a Clock', ['now', 'monotonic', 'setTimer'])
    return this.given('clock') as Clock | undefined
  }

  events(): LeaseEvents | undefined {
    const methods = ['subscribe', 'emit', 'heard']
    if (this.given('events') !== undefined) this.object('events', withMethods('a LeaseEvents', methods), methods)
    return this.given('events') as LeaseEvents | undefined
  }

  function(name: string): void {
    const value = this.given(name)
    this.must(name, value === undefined || typeof value === 'function', 'must be a function')
  }

  /** An object with these methods: `a Manager`. */
  object(name: string, what: string, methods: readonly PropertyKey[]): void {
    this.#breaks(name, (value: unknown) => (hasMethods(value, ...methods) ? undefined : `must be ${what}`))
  }

  /** Notes the rule that is broken, also where what is given throws when it is looked at. Returns whether one is. */
  #breaks(name: string, broken: (value: never) => string | undefined): boolean {
    let rule: string | undefined
    try {
      rule = broken(this.given(name) as never)
    } catch {
      rule = UNREADABLE
    }
    this.fault(name, rule)
    return rule !== undefined
  }

  #shown(name: string, value: unknown): unknown {
    const isShown = typeof value !== 'string' || !this.#secret.includes(name.split('.', 1)[0] as string)
    return isShown ? value : disclosed(value, { byKind: true }).value
  }
}

/** What to say of an object that lacks one of these methods. */
export function withMethods(what: string, methods: readonly string[]): string {
  return `${what} (an object with ${methods.join(', ')})`
}

/** Returns the rule that this renewal interval breaks; undefined: each renewal is sent in time before the trust window ends. */
export function brokenRenewalRule(renewEveryMs: number, durationName: string, durationMs: number): string | undefined {
  const limitMs = tooLateMs(durationMs)
  if (renewEveryMs < limitMs) return undefined
  const mostMs = Math.ceil(limitMs) - 1
  if (mostMs < 1) return `cannot be met: ${durationName} (${durationMs} ms) is over before a renewal is sent`
  return `must be at most ${mostMs} ms, so that a renewal is sent within the trust window of ${durationName} (${durationMs} ms)`
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
const NONE: readonly string[] = []
const NOTHING = {}

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
