/** Configuration, parsed once at the edge: every problem at once, relations included, no coercion, nothing ignored. */
import type { DurationLike } from 'luxon'
import { z } from 'zod'
import { brokenSignalRule } from './abort-signal.ts'
import type { Client } from './client.ts'
import type { Clock } from './clock.ts'
import { notValid, type Problem } from './errors.ts'
import type { LeaseEvents } from './events.ts'
import { brokenDurationRule, brokenValueRule, toMillis, UNREADABLE, warnOfBareNumber } from './lease.ts'
import { brokenCapacityRule, type ShareRequest } from './share.ts'
import type { Substrate } from './substrate.ts'
import { SHORTEST_RENEWED_MS, tooLateMs, trustWindowMs } from './skew.ts'

/** A duration option: what `brokenDurationRule` accepts, in milliseconds. */
const duration: z.ZodType<number> = z.unknown().transform(millisOf)
/** The same, or `false`, which is never: Infinity. */
const durationOrNever: z.ZodType<number> = z
  .unknown()
  .transform((value, context) => (value === false ? Number.POSITIVE_INFINITY : millisOf(value, context)))

function millisOf(value: unknown, context: z.RefinementCtx): number {
  const rule = brokenDurationRule(value)
  if (rule === undefined) return Math.ceil(toMillis(value as DurationLike))
  context.addIssue({ code: 'custom', message: rule })
  return z.NEVER
}

/** An object of which these methods are called. */
function having<T>(what: string, methods: readonly (keyof T & string)[]): z.ZodType<T> {
  return z.custom<T>(
    (value) =>
      typeof value === 'object' &&
      value !== null &&
      methods.every((method) => typeof (value as Record<string, unknown>)[method] === 'function'),
    `must be ${what} (an object with ${methods.join(', ')})`,
  )
}

const abortSignal = z.custom<AbortSignal>().superRefine((value, context) => {
  const rule = value === undefined ? undefined : brokenSignalRule(value)
  if (rule !== undefined) context.addIssue({ code: 'custom', message: rule })
})
const clock = having<Clock>('a Clock', ['now', 'monotonic', 'setTimer'])
const events = having<LeaseEvents>('a LeaseEvents', ['subscribe', 'emit', 'heard'])

const substrateClientOptions = z.strictObject({
  substrate: having<Substrate>('a Substrate', ['apply', 'read', 'pinned', 'trapdoor', 'close']),
  clock: clock.optional(),
  events: events.optional(),
  requestTimeout: duration.default(5_000),
})

const managerConfig = z.strictObject({
  client: having<Client>('a Client, such as postgresClient({ pool, namespace })', [
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
  ]),
  clock: clock.optional(),
  events: events.optional(),
  maxSleep: duration.default(60_000),
})

const capacity = z.custom<number>().superRefine((value, context) => {
  const rule = value === undefined ? undefined : brokenCapacityRule(value)
  if (rule !== undefined) context.addIssue({ code: 'custom', message: rule })
})

const share = z
  .strictObject({
    weight: capacity.default(1),
    capacity: capacity.optional(),
    ahead: z.boolean({ error: 'must be true or false' }).optional(),
  })
  .superRefine(({ weight, capacity: most }, context) => {
    const isSound = brokenCapacityRule(weight) === undefined && brokenCapacityRule(most) === undefined
    if (!isSound || weight <= (most as number)) return
    context.addIssue({ code: 'custom', path: ['weight'], message: `must be at most the capacity, ${most}` })
  })

const holdOptions = z.strictObject({
  duration,
  wait: z.union([z.boolean(), duration], { error: 'must be true, false or a duration' }).default(false),
  signal: abortSignal.optional(),
  value: z
    .custom<string>()
    .superRefine((value, context) => {
      const rule = value === undefined ? undefined : brokenValueRule(value)
      if (rule !== undefined) context.addIssue({ code: 'custom', message: rule })
    })
    .optional(),
  announce: z.boolean({ error: 'must be true or false' }).optional(),
  shared: z.boolean({ error: 'must be true or false' }).default(false),
  renewEvery: durationOrNever.optional(),
  maxWaiters: z.int({ error: 'must be a whole number' }).min(1, { error: 'must be at least 1' }).optional(),
  share: z
    .union([z.literal(true), share], { error: 'must be true, or an object with a weight and a capacity' })
    .optional()
    .transform((value): ShareRequest | undefined => (value === true ? { weight: 1 } : value)),
})

const observeOptions = z.strictObject({
  signal: abortSignal.optional(),
  renewals: z.boolean({ error: 'must be true or false' }).default(false),
})

export interface ParsedSubstrateClientOptions {
  readonly substrate: Substrate
  readonly clock: Clock | undefined
  readonly events: LeaseEvents | undefined
  readonly requestTimeoutMs: number
}

export interface ParsedManagerConfig {
  readonly client: Client
  readonly clock: Clock | undefined
  readonly events: LeaseEvents | undefined
  readonly maxSleepMs: number
}

/** @throws ErrNotValid with every problem */
export function parseSubstrateClientOptions(options: unknown): ParsedSubstrateClientOptions {
  const { requestTimeout, substrate, clock, events } = parse(substrateClientOptions, options, 'options')
  return { substrate, clock, events, requestTimeoutMs: requestTimeout }
}

/** @throws ErrNotValid with every problem */
export function parseManagerConfig(config: unknown): ParsedManagerConfig {
  const { maxSleep, client, clock, events } = parse(managerConfig, config, 'config')
  return { client, clock, events, maxSleepMs: maxSleep }
}

export interface ParsedHoldOptions {
  readonly durationMs: number
  /** Milliseconds, 0 = do not wait, Infinity = as long as the signal allows. */
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  readonly value: string | undefined
  readonly announce: boolean | undefined
  /** Whether this process may hold the same term more than once. */
  readonly shared: boolean
  readonly renewEveryMs: number
  /** How many may wait for the lease. undefined: any number. */
  readonly maxWaiters: number | undefined
  readonly share: ShareRequest | undefined
}

/** @throws ErrNotValid with every problem, those of the other arguments first */
export function parseHoldOptions(given: unknown, others: readonly Problem[] = []): ParsedHoldOptions {
  const options = snapshot(holdOptions, given)
  if (options === undefined && given !== undefined) throw notValid([...others, unreadable('options', given)])
  const {
    duration: durationMs,
    wait,
    signal,
    value,
    announce,
    shared,
    renewEvery,
    maxWaiters,
    share,
  } = parse(holdOptions, options, 'options', [...others, ...tooShort(options), ...lateRenewal(options)])
  warnOfBareNumber((options as { readonly duration: DurationLike }).duration)
  const waitMs = typeof wait === 'number' ? wait : wait ? Number.POSITIVE_INFINITY : 0
  const renewEveryMs = renewEvery ?? durationMs / 3
  return { durationMs, waitMs, signal, value, announce, shared, renewEveryMs, maxWaiters, share }
}

export interface ParsedObserveOptions {
  readonly signal: AbortSignal | undefined
  readonly renewals: boolean
}

/** @throws ErrNotValid with every problem, those of the other arguments first */
export function parseObserveOptions(options: unknown, others: readonly Problem[]): ParsedObserveOptions {
  const { signal, renewals } = parse(observeOptions, options, 'options', others)
  return { signal, renewals }
}

/** Nobody could rely on it, not even at the instant of the grant; or it ends before it is renewed. */
function tooShort(options: unknown): readonly Problem[] {
  const { duration: value, renewEvery } = Object(options) as { duration?: DurationLike; renewEvery?: unknown }
  if (value === undefined || brokenDurationRule(value) !== undefined) return []
  const durationMs = Math.ceil(toMillis(value))
  if (trustWindowMs(durationMs) <= 0) {
    return [{ argument: 'duration', rule: 'must be longer than the margin for clocks, 1 ms and 0.1 %', value }]
  }
  if (renewEvery !== undefined || durationMs >= SHORTEST_RENEWED_MS) return []
  const rule = `must be at least ${SHORTEST_RENEWED_MS} ms, or renewEvery false: a shorter lease is over before it is renewed`
  return [{ argument: 'duration', rule, value }]
}

/** A renewal must be sent before its lease is over; told beside whatever else is wrong. */
function lateRenewal(options: unknown): readonly Problem[] {
  const { duration: asked, renewEvery } = Object(options) as { duration?: DurationLike; renewEvery?: DurationLike }
  if (asked === undefined || renewEvery === undefined) return []
  if (brokenDurationRule(asked) !== undefined || brokenDurationRule(renewEvery) !== undefined) return []
  const rule = brokenRenewalRule(Math.ceil(toMillis(renewEvery)), 'duration', Math.ceil(toMillis(asked)))
  return rule === undefined ? [] : [{ argument: 'renewEvery', rule, value: renewEvery }]
}

/** Returns the rule that this renewal interval breaks; undefined: each renewal is sent in time before the trust window ends. */
export function brokenRenewalRule(renewEveryMs: number, durationName: string, durationMs: number): string | undefined {
  const limitMs = tooLateMs(durationMs)
  if (renewEveryMs < limitMs) return undefined
  const mostMs = Math.ceil(limitMs) - 1
  if (mostMs < 1) return `cannot be met: ${durationName} (${durationMs} ms) is over before a renewal is sent`
  return `must be at most ${mostMs} ms, so that a renewal is sent within the trust window of ${durationName} (${durationMs} ms)`
}

/** What is wrong with the options of a client, beside its substrate. */
export function brokenClientOptions(options: {
  readonly events?: unknown
  readonly requestTimeout?: unknown
}): readonly Problem[] {
  return problemsIn(substrateClientOptions.omit({ substrate: true }), options, 'options').problems
}

/** Runs a schema and says what is wrong in this library's words; `root` names the whole object. */
export function parse<T>(schema: z.ZodType<T>, input: unknown, root: string, others: readonly Problem[] = []): T {
  const { data, problems } = problemsIn(schema, input, root)
  if (others.length > 0 || problems.length > 0) throw notValid([...others, ...problems])
  return data as T
}

function problemsIn<T>(
  schema: z.ZodType<T>,
  input: unknown,
  root: string,
): { readonly data?: T | undefined; readonly problems: readonly Problem[] } {
  const read = snapshot(schema, input)
  if (read === undefined && input !== undefined) return { problems: [unreadable(root, input)] }
  const rule = schema instanceof z.ZodObject ? brokenObjectRule(schema, read, input) : undefined
  if (rule !== undefined) return { problems: [{ argument: root, rule, value: input }] }
  let parsed
  try {
    parsed = schema.safeParse(read)
  } catch {
    return { problems: [unreadable(root, input)] }
  }
  const { data, error } = parsed
  const problems = (error?.issues ?? []).flatMap((issue): readonly Problem[] => {
    if (issue.code === 'unrecognized_keys') {
      const value = (key: string): unknown => at(read, [...issue.path, key])
      const named = (key: string): string => [...issue.path, key].join('.')
      return issue.keys.map((key) => ({ argument: named(key), rule: 'is not an option', value: value(key) }))
    }
    const argument = issue.path.length === 0 ? root : issue.path.join('.')
    return [{ argument, rule: ruleOf(issue.message), value: at(read, issue.path) }]
  })
  return { data, problems }
}

/**
 * The rule that these options break by what they are: not an object, or something that was meant to be one of the options.
 *
 * @param known their names
 */
export function brokenOptionsRule(options: unknown, known: readonly string[]): string | undefined {
  if (typeof options !== 'object' || options === null) return 'must be an object'
  if (!isMade(options) || known.some((name) => name in options)) return undefined
  return `must be an object such as { ${known.includes('namespace') ? `${known[0]}, namespace` : known[0]} }`
}

/** The same of a schema. */
function brokenObjectRule(schema: z.ZodObject, read: unknown, given: unknown): string | undefined {
  const [needed, example] = needs.get(schema) ?? []
  const rule = example === undefined ? 'must be an object' : `must be an object such as ${example}`
  if (typeof read !== 'object' || read === null) return rule
  return needed === undefined || needed in read || !isMade(given as object) ? undefined : rule
}

/** What each of these cannot be without, and an example of it. */
const needs: ReadonlyMap<z.ZodObject, readonly [needed: string, example: string]> = new Map<
  z.ZodObject,
  readonly [string, string]
>([
  [managerConfig, ['client', '{ client: postgresClient({ pool, namespace }) }']],
  [holdOptions, ['duration', '{ duration: { seconds: 30 } }']],
])

/** Whether it is an array, or was made by a class. */
function isMade(value: object): boolean {
  return !PLAIN.has(Object.getPrototypeOf(value))
}

const PLAIN: ReadonlySet<unknown> = new Set([Object.prototype, null])

function ruleOf(message: string): string {
  return /^(must|is|cannot) /.test(message) ? message : `is not valid: ${message}`
}

function at(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key]
  return value
}

/** The options, each read once: a getter may throw, or answer otherwise the next time. undefined: to read them throws. */
function snapshot(schema: z.ZodType, options: unknown): unknown {
  if (typeof options !== 'object' || options === null) return options
  try {
    if (Array.isArray(options)) return options
    const known = schema instanceof z.ZodObject ? Object.keys(schema.shape) : []
    const names = new Set([...known.filter((name) => name in options), ...Object.keys(options)])
    return Object.fromEntries(Array.from(names, (name) => [name, (options as Record<string, unknown>)[name]]))
  } catch {
    return undefined
  }
}

const SOUND: readonly Problem[] = []

/**
 * The options, each read once, and what is wrong with them apart from their values: for adapters, and for calls that are too frequent
 * for a schema.
 */
export function readOptions<O extends object>(
  options: O,
  known: readonly string[],
): { readonly read: O; readonly problems: readonly Problem[] } {
  const read: Record<string, unknown> = {}
  let problems = SOUND
  if (typeof options !== 'object' || options === null) {
    problems = [{ argument: 'options', rule: 'must be an object', value: options }]
    return { read: read as O, problems }
  }
  const given = options as Record<string, unknown>
  try {
    if (isMade(options)) {
      const rule = brokenOptionsRule(options, known)
      if (rule !== undefined) return { read: read as O, problems: [{ argument: 'options', rule, value: options }] }
    }
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
    return { read: {} as O, problems: [unreadable('options', options)] }
  }
  return { read: read as O, problems }
}

function unreadable(argument: string, value: unknown): Problem {
  return { argument, rule: UNREADABLE, value }
}
