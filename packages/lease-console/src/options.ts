/** The options of a console, checked once: every problem at once, nothing coerced, nothing ignored. */
import { type Clock, hasMethods, type Manager, systemClock, toMillis } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'

/** What a console calls on a manager. */
export type ConsoleManager = Pick<
  Manager,
  'find' | 'leases' | 'observe' | 'pin' | 'pinned' | 'revoke' | 'unpin' | 'waiting'
>

/** What a request wants to do, for `authorize`. */
export type ConsoleAction =
  /** See the page, a namespace, or one lease of it. A list shows all leases of its namespace. */
  | { readonly kind: 'view'; readonly namespace?: string | undefined; readonly lease?: string | undefined }
  /** Read `/health`. */
  | { readonly kind: 'health' }
  | { readonly kind: 'revoke'; readonly namespace: string; readonly lease: string; readonly fencingToken: bigint }
  | { readonly kind: 'pin' | 'unpin'; readonly namespace: string; readonly lease: string; readonly entity: string }

/**
 * The answer of `authorize`. `true`: allowed. `{ who }`: allowed, and this is the name for the trail. `false`: the caller gets 404, as if
 * there were nothing. A Response, such as a redirect to a login page, is sent as it is.
 */
export type Permission = boolean | { readonly who: string } | Response

/** What an operator has done, for the trail. */
export interface OperatorAction {
  /** Who, as `authorize` said; undefined: it did not say. */
  readonly who: string | undefined
  readonly what: 'revoke' | 'pin' | 'unpin'
  readonly namespace: string
  readonly lease: string
  /** Of the term that was on screen; undefined: the lease was vacant. */
  readonly fencingToken: bigint | undefined
  /** Of a pin: who pins. */
  readonly entity: string | undefined
  /** `unknown`: the store did not answer, so the action may have taken effect. */
  readonly outcome: 'done' | 'unknown'
}

/** Options of `createConsole`. */
export interface ConsoleOptions {
  /** The managers to show, by the name that the page gives to their namespace. The console does not stop them. */
  readonly managers: Readonly<Record<string, ConsoleManager>>
  /** The path under which the console is mounted: '' or '/' for the root, or like '/leases', without a slash at its end. @default '' */
  readonly basePath?: string | undefined
  /** Whether every action is refused with 405. `false` needs `authorize`. @default true */
  readonly readOnly?: boolean | undefined
  /**
   * Decides on each request, before anything is read. An action asks twice: for the page, then for the action. An error refuses the request
   * with 500.
   *
   * @default everybody who reaches the console may view it
   */
  readonly authorize?: ((request: Request, action: ConsoleAction) => Permission | Promise<Permission>) | undefined
  /** The name of the environment, for a badge on the page: red for `prod…`, amber for `stag…`, else blue. @default no badge */
  readonly environment?: string | undefined
  /** Whether viewers may ask for the values of leases. They may be secrets. Without it no value leaves the server. @default false */
  readonly showValues?: boolean | undefined
  /** Called after each action. What it throws becomes a warning of the process. */
  readonly onAction?: ((action: OperatorAction) => void) | undefined
  /**
   * How often each namespace is read while somebody watches; a read for all viewers. A read that takes long makes the pauses longer: at most
   * a tenth of the time is spent on reading, up to pauses of 30 s. A number is in milliseconds.
   *
   * @default 2 seconds
   */
  readonly pollEvery?: DurationLike | undefined
  /** For tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

export interface ParsedConsoleOptions {
  readonly managers: ReadonlyMap<string, ConsoleManager>
  readonly basePath: string
  readonly readOnly: boolean
  readonly authorize: (request: Request, action: ConsoleAction) => Permission | Promise<Permission>
  readonly environment: string | undefined
  readonly showValues: boolean
  readonly onAction: ((action: OperatorAction) => void) | undefined
  readonly pollEveryMs: number
  readonly clock: Clock
}

const OPTIONS = [
  'managers',
  'basePath',
  'readOnly',
  'authorize',
  'environment',
  'showValues',
  'onAction',
  'pollEvery',
  'clock',
] as const
const POLL_EVERY_MS = 2_000

/** @throws ErrNotValid with every problem */
export function parseConsoleOptions(given: ConsoleOptions): ParsedConsoleOptions {
  const words = { needed: 'managers', example: '{ managers: { billing: manager } }' }
  const options = new OptionReader(given, OPTIONS, { ...words, secret: ['managers'] })
  const { basePath = '', authorize, environment, onAction, pollEvery = POLL_EVERY_MS } = options.read
  const pollEveryMs = toMillis(pollEvery)

  const managers = managersIn(options)
  options.must('basePath', isBasePath(basePath), "must be '' or a path such as '/leases', without a slash at its end")
  const readOnly = options.boolean('readOnly', true)
  options.function('authorize')
  options.must(
    'authorize',
    readOnly || authorize !== undefined,
    'must be given with readOnly: false, or everybody could revoke leases: write authorize: (request, action) => …',
  )
  const isNamed = environment === undefined || isShortText(environment)
  options.must('environment', isNamed, 'must be a text of at most 40 characters')
  const showValues = options.boolean('showValues', false)
  options.function('onAction')
  const isPace = pollEveryMs >= 100 && pollEveryMs <= 3_600_000
  options.must('pollEvery', isPace, 'must be a duration from 100 ms to one hour')
  const clock = options.clock() ?? systemClock
  options.finish()
  return {
    managers,
    basePath: basePath === '/' ? '' : basePath,
    readOnly,
    authorize: authorize ?? (() => true),
    environment,
    showValues,
    onAction,
    pollEveryMs,
    clock,
  }
}

const METHODS = ['find', 'leases', 'observe', 'pin', 'pinned', 'revoke', 'unpin', 'waiting'] as const

function managersIn(options: OptionReader<ConsoleOptions>): ReadonlyMap<string, ConsoleManager> {
  const given: unknown = options.read.managers
  const managers = new Map(Object.entries(typeof given === 'object' && given !== null ? given : {}))
  const rule = 'must be an object with a Manager for each namespace, such as { billing: manager }'
  options.must('managers', managers.size > 0, rule)
  for (const [name, manager] of managers) {
    const broken = hasMethods(manager, ...METHODS) ? undefined : 'must be a Manager of lease-core'
    options.fault(`managers.${name}`, broken, manager)
  }
  return managers as ReadonlyMap<string, ConsoleManager>
}

function isBasePath(value: unknown): boolean {
  return value === '' || value === '/' || (typeof value === 'string' && /^(\/[\w~.-]+)+$/.test(value))
}

function isShortText(value: unknown): boolean {
  return typeof value === 'string' && value.length > 0 && value.length <= 40
}
