/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import {
  checkRequest,
  ErrNotValid,
  notValid,
  type Clock,
  type Problem,
  type Request,
  type SubstrateClientOptions,
} from 'lease-core'
import type { PostgresListenClient, PostgresPool } from './driver.ts'
import { tableProblems, type TableOptions } from './schema.ts'

/** What the substrate needs to know. */
export interface PostgresSubstrateOptions extends TableOptions {
  /**
   * Where connections come from: a `pg.Pool`, or anything of that shape. It stays yours: end it after the client. Two
   * connections are used at once, six when kinds of operations mix; a guarded transaction of yours that holds the last
   * one while it checks its token would wait for itself.
   */
  readonly pool: PostgresPool
  /** Leases of different namespaces know nothing of each other. At most 255 bytes. */
  readonly namespace: string
  /** Whether vacated leases are announced to those who wait, which costs their transactions some speed. @default true */
  readonly notify?: boolean | undefined
  /**
   * Makes the connection that hears the announcements: `() => new pg.Client(url)`. It must reach the server itself:
   * through a pooler in transaction mode, LISTEN is accepted and nothing ever arrives. `false`: waiting works by timer
   * alone. @default a connection made as the pool makes its own, and not counted by it
   */
  readonly listen?: (() => PostgresListenClient) | false | undefined
  /**
   * Whether statements are prepared, once per connection; saves the planning, a third of a single claim's time. Not
   * through pgbouncer before 1.21. @default false
   */
  readonly prepare?: boolean | undefined
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** What `postgresClient` needs to know. */
export interface PostgresOptions
  extends PostgresSubstrateOptions, Omit<SubstrateClientOptions, 'substrate' | 'clock'> {}

const substrateOptions = ['pool', 'namespace', 'schema', 'table', 'notify', 'listen', 'prepare', 'clock']
const clientOptions = [...substrateOptions, 'events', 'requestTimeout']

/** @throws ErrNotValid with every problem */
export function checkSubstrateOptions(options: PostgresSubstrateOptions): void {
  const problems = substrateProblems(options, substrateOptions)
  if (problems.length > 0) throw notValid(problems)
}

/**
 * The problems of all options of a client: those that core checks come from `core`, which is tried with a stand-in.
 *
 * @throws ErrNotValid with every problem
 */
export function checkClientOptions(options: PostgresOptions, core: (options: PostgresOptions) => unknown): void {
  const problems = substrateProblems(options, clientOptions)
  try {
    if (isObject(options)) core(options)
  } catch (error) {
    if (!(error instanceof ErrNotValid)) throw error
    problems.push(...error.problems.filter(({ argument }) => argument !== 'clock'))
  }
  if (problems.length > 0) throw notValid(problems)
}

function substrateProblems(options: PostgresSubstrateOptions, known: readonly string[]): Problem[] {
  if (!isObject(options)) return [{ argument: 'options', rule: 'must be an object', value: options }]
  const { pool, namespace, notify, listen, prepare, clock } = options
  const problems = unknownOptions(options, known)
  const add = (argument: string, sound: boolean, rule: string, value: unknown): void => {
    if (!sound) problems.push({ argument, rule, value })
  }
  add('pool', has(pool, 'connect'), 'must be a pool (an object with connect)', pool)
  problems.push(...namespaceProblems(namespace), ...tableProblems(options))
  add('notify', notify === undefined || typeof notify === 'boolean', 'must be true or false', notify)
  const listens = listen === undefined || listen === false || typeof listen === 'function'
  add('listen', listens, 'must be false or a function that makes a connection', listen)
  if (listen === undefined && has(pool, 'connect')) {
    const tells = typeof pool.Client === 'function' && isObject(pool.options)
    add('listen', tells, 'must be given, for this pool does not show how it makes connections', listen)
  }
  add('prepare', prepare === undefined || typeof prepare === 'boolean', 'must be true or false', prepare)
  add('clock', clock === undefined || has(clock, 'now', 'monotonic', 'setTimer'), 'must be a Clock', clock)
  return problems
}

/** @throws ErrNotValid with every problem */
export function parseCollectOptions(
  options: TableOptions & { readonly namespace: string; readonly retention: Request['duration'] },
): {
  namespace: string
  retentionMs: number
} {
  if (!isObject(options)) throw notValid([{ argument: 'options', rule: 'must be an object', value: options }])
  const { namespace, retention } = options
  const problems = unknownOptions(options, ['schema', 'table', 'namespace', 'retention'])
  problems.push(...namespaceProblems(namespace), ...tableProblems(options))
  let retentionMs = 0
  try {
    retentionMs = checkRequest('any', { holder: 'any', duration: retention })
  } catch (error) {
    if (!(error instanceof ErrNotValid)) throw error
    problems.push(...error.problems.map((problem) => ({ ...problem, argument: 'retention' })))
  }
  if (problems.length > 0) throw notValid(problems)
  return { namespace, retentionMs }
}

function unknownOptions(options: object, known: readonly string[]): Problem[] {
  return Object.entries(options)
    .filter(([key]) => !known.includes(key))
    .map(([argument, value]) => ({ argument, rule: 'is not an option', value }))
}

function namespaceProblems(namespace: unknown): Problem[] {
  let rule: string | undefined
  if (typeof namespace !== 'string') rule = 'must be a string'
  else if (namespace === '') rule = 'must not be empty'
  else if (namespace.includes('\0') || /\p{Cs}/u.test(namespace)) rule = 'must be well-formed Unicode without NUL'
  else if (Buffer.byteLength(namespace) > 255) rule = 'must be at most 255 bytes'
  return rule === undefined ? [] : [{ argument: 'namespace', rule, value: namespace }]
}

function has(value: unknown, ...methods: readonly string[]): boolean {
  return isObject(value) && methods.every((method) => typeof (value as Record<string, unknown>)[method] === 'function')
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
