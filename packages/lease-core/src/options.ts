/** Configuration, parsed once at the edge: every problem at once, relations included, no coercion, nothing ignored. */
import type { Client } from './client.ts'
import type { Clock } from './clock.ts'
import type { Problem } from './errors.ts'
import type { LeaseEvents } from './events.ts'
import { OptionReader, withMethods } from './option-reader.ts'
import { MAX_CAPACITY, type ShareRequest } from './share.ts'
import type { Substrate } from './substrate.ts'
import { SHORTEST_RENEWED_MS } from './skew.ts'

export interface ParsedSubstrateClientOptions {
  readonly substrate: Substrate
  readonly clock: Clock | undefined
  readonly events: LeaseEvents | undefined
  readonly requestTimeoutMs: number
}

const CLIENT_OPTIONS = ['substrate', 'clock', 'events', 'requestTimeout'] as const
const SUBSTRATE_METHODS = ['apply', 'read', 'pinned', 'trapdoor', 'close'] as const
/** How long a request may take, unless the client is given another `requestTimeout`. */
export const REQUEST_TIMEOUT_MS = 5_000

/** @throws ErrNotValid with every problem */
export function parseSubstrateClientOptions(given: unknown): ParsedSubstrateClientOptions {
  const options = new OptionReader(given as Pick<ParsedSubstrateClientOptions, 'substrate'>, CLIENT_OPTIONS)
  options.object('substrate', withMethods('a Substrate', SUBSTRATE_METHODS), SUBSTRATE_METHODS)
  const parsed = {
    substrate: options.read.substrate,
    clock: options.clock(),
    events: options.events(),
    requestTimeoutMs: options.duration('requestTimeout', REQUEST_TIMEOUT_MS),
  }
  options.finish()
  return parsed
}

export interface ParsedManagerConfig {
  readonly client: Client
  readonly clock: Clock | undefined
  readonly events: LeaseEvents | undefined
  readonly maxSleepMs: number
}

const CONFIG_OPTIONS = ['client', 'clock', 'events', 'maxSleep'] as const
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
  const config = new OptionReader(given as Pick<ParsedManagerConfig, 'client'>, CONFIG_OPTIONS, {
    root: 'config',
    needed: 'client',
    example: '{ client: postgresClient({ pool, namespace }) }',
  })
  const what = withMethods('a Client, such as postgresClient({ pool, namespace })', CLIENT_METHODS)
  config.object('client', what, CLIENT_METHODS)
  const parsed = {
    client: config.read.client,
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

/** The names of all options of a hold. */
export const HOLD_OPTIONS = [
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
  const options = new OptionReader(given as object, HOLD_OPTIONS, words)
  const parsed = readHold(options)
  options.finish()
  return parsed
}

/** Reads the options of a hold, where they are some of the options of a call. */
export function readHold(options: OptionReader): ParsedHoldOptions {
  const durationMs = options.leaseDuration('duration')
  return {
    durationMs,
    givenDuration: options.given('duration'),
    waitMs: options.wait(),
    signal: options.signal(),
    value: options.value(),
    announce: options.boolean('announce'),
    shared: options.boolean('shared', false),
    acceptLate: options.boolean('acceptLate', false),
    renewEveryMs: renewEveryIn(options, durationMs),
    maxWaiters: options.count('maxWaiters'),
    share: shareIn(options),
  }
}

/** In milliseconds; Infinity: never. The lease must be long enough for it. */
function renewEveryIn(options: OptionReader, durationMs: number): number {
  const given = options.given('renewEvery')
  if (given === false) return Number.POSITIVE_INFINITY
  if (given === undefined) {
    options.must('duration', !(durationMs < SHORTEST_RENEWED_MS), TOO_SHORT)
    return durationMs / 3
  }
  const renewEveryMs = options.duration('renewEvery')
  options.renewal('renewEvery', renewEveryMs, 'duration', durationMs)
  return renewEveryMs
}

const TOO_SHORT = `must be at least ${SHORTEST_RENEWED_MS} ms, or renewEvery false: a shorter lease is over before it is renewed`

function shareIn(options: OptionReader): ShareRequest | undefined {
  const given = options.given('share')
  if (given === undefined) return undefined
  if (given === true) return { weight: 1 }
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    options.fault('share', 'must be true, or an object with a weight and a capacity')
    return undefined
  }
  const share = new OptionReader(given, ['weight', 'capacity', 'ahead'], { root: 'share' })
  const weight = share.count('weight', MAX_CAPACITY) ?? 1
  const capacity = share.count('capacity', MAX_CAPACITY)
  if (capacity !== undefined && weight > capacity) share.fault('weight', `must be at most the capacity, ${capacity}`)
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
  const options = new OptionReader(given as object, ['signal', 'renewals'], { others })
  const parsed = { signal: options.signal(), renewals: options.boolean('renewals', false) }
  options.finish()
  return parsed
}
