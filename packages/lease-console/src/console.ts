/**
 * A page for operators, as a function from Request to Response: it shows who holds which lease, and revokes exactly the term on screen.
 *
 *     GET  /                  the page; ?namespace=…&lease=… is the permanent link of a lease
 *     GET  /api/console       what the page needs to know of this console
 *     GET  /api/leases        one page of the leases of a namespace
 *     GET  /api/lease         one lease
 *     GET  /events            the same two, live, as server-sent events
 *     POST /api/revoke        /api/pin, /api/unpin: the actions
 *     GET  /health            whether the process answers; /health/complete: whether each store does
 *
 * Promises.
 * - `authorize` decides on each request before anything is read. What it hides looks like what does not exist: 404.
 * - Each namespace is read by one reader, however many viewers watch (`feed.ts`). Nobody watches: nothing is read.
 * - While a store is away, the page loads, and shows what was read last, its age, and what is wrong.
 * - An action names the term that was on screen. If another term is current by then, nothing is done: 409.
 * - No value of a lease leaves the server unless both `showValues` and the viewer want it.
 */
import { ErrNotValid, reasonOf, validateString, warn } from 'lease-core'
import { act, permissionFor, readAction } from './actions.ts'
import { asset, isAsset, shell } from './assets.ts'
import { EventStream } from './event-stream.ts'
import { Feed, type Known } from './feed.ts'
import {
  parseConsoleOptions,
  type ConsoleAction,
  type ConsoleManager,
  type ConsoleOptions,
  type ParsedConsoleOptions,
} from './options.ts'
import { crossSiteReason, json, notFound, problem, respond } from './safety.ts'
import { rowOf, Snapshot, type LeaseRow, type Query, type SortKey, type View } from './snapshot.ts'

/** A console: call it with each request. */
export interface LeaseConsole extends AsyncDisposable {
  (request: Request): Promise<Response>
  /** Ends the live streams and all reading; later requests get 503. The managers stay as they are. Idempotent. */
  close(): Promise<void>
}

/** What `/api/leases`, `/api/lease` and the events say about their age. Instants are of the server's wall clock, in milliseconds. */
export interface Pulse {
  readonly nowMs: number
  readonly readMs: number | undefined
  readonly trouble: string | undefined
}

/** One lease as its page shows it: a row with the whole value. */
export interface LeaseState {
  readonly row: LeaseRow
}

/** How many viewers watch at most: each has a connection. */
const MAX_STREAMS = 1_000
const MAX_PAGE_SIZE = 200
const ACTIONS = { '/api/revoke': 'revoke', '/api/pin': 'pin', '/api/unpin': 'unpin' } as const

/**
 * Makes a console. It reads nothing before the first request.
 *
 * @throws ErrNotValid with every problem
 */
export function createConsole(options: ConsoleOptions): LeaseConsole {
  const parsed = parseConsoleOptions(options)
  const pages = new ConsolePages(parsed)
  const close = (): Promise<void> => pages.close()
  return Object.assign((request: Request) => pages.answer(request), { close, [Symbol.asyncDispose]: close })
}

class ConsolePages {
  readonly #options: ParsedConsoleOptions
  readonly #namespaces = new Map<string, Feed<Snapshot>>()
  /** Of the leases whose pages are open. */
  readonly #leases = new Map<string, Feed<LeaseRow>>()
  readonly #streams = new Set<EventStream>()
  #isClosed = false

  constructor(options: ParsedConsoleOptions) {
    this.#options = options
  }

  close(): Promise<void> {
    this.#isClosed = true
    for (const stream of [...this.#streams]) stream.end()
    return Promise.resolve()
  }

  /** Never rejects. */
  async answer(request: Request): Promise<Response> {
    try {
      const response = this.#isClosed ? problem(503, 'the console was closed') : await this.#route(request)
      if (request.method !== 'HEAD') return response
      await response.body?.cancel()
      return new Response(undefined, response)
    } catch (error) {
      warn(error, 'LeaseConsoleWarning')
      return problem(500, 'the console failed; the log of its process says why')
    }
  }

  async #route(request: Request): Promise<Response> {
    const { basePath } = this.#options
    const url = new URL(request.url)
    if (url.pathname !== basePath && !url.pathname.startsWith(`${basePath}/`)) return notFound()
    const path = url.pathname.slice(basePath.length)
    if (Object.hasOwn(ACTIONS, path)) return this.#act(request, ACTIONS[path as keyof typeof ACTIONS])

    const view = { kind: 'view', ...wanted(url) } as const
    const permission = await this.#permission(request, path.startsWith('/health') ? { kind: 'health' } : view)
    if (permission instanceof Response) return permission
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      return problem(405, `${path || '/'} answers GET only`, { allow: 'GET, HEAD' })
    }
    const reason = crossSiteReason(request)
    if (reason !== undefined) return problem(403, `the request was refused: ${reason}`)
    if (isAsset(path.slice(1))) return asset(path.slice(1) as Parameters<typeof asset>[0], request)
    switch (path) {
      case '':
      case '/':
        return shell(basePath, this.#options.environment)
      case '/health':
        return json(200, { status: 'ok' })
      case '/health/complete':
        return this.#health()
      case '/api/console':
        return this.#about(request)
      case '/api/leases':
      case '/api/lease':
      case '/events':
        return this.#show(request, url, path)
      default:
        return notFound()
    }
  }

  async #show(request: Request, url: URL, path: string): Promise<Response> {
    const { namespace, lease } = wanted(url)
    const manager = this.#options.managers.get(namespace ?? '')
    if (namespace === undefined || manager === undefined) return notFound()
    if (path === '/api/leases' || (path === '/events' && lease === undefined)) {
      const query = this.#query(url)
      const feed = this.#namespaceFeed(namespace, manager)
      return this.#answerFrom(request, path, feed, (snapshot) => snapshot.page(query))
    }
    if (lease === undefined) return problem(400, 'the address must name a lease: ?namespace=…&lease=…')
    const wrong = brokenLeaseRule(lease)
    if (wrong !== undefined) return problem(400, `the address names no lease: ${wrong}`)
    const values = this.#wantsValues(url)
    const feed = this.#leaseFeed(namespace, lease, manager)
    return this.#answerFrom(request, path, feed, (row): LeaseState => ({ row: values ? row : withoutValue(row) }))
  }

  async #answerFrom<T>(request: Request, path: string, feed: Feed<T>, shown: (state: T) => object): Promise<Response> {
    const current = ({ state, readMs, trouble }: Known<T>): { state: object; pulse: Pulse } => ({
      state: state === undefined ? {} : shown(state),
      pulse: { nowMs: this.#options.clock.now(), readMs, trouble },
    })
    if (path !== '/events') {
      const known = await feed.latest()
      const { state, pulse } = current(known)
      if (known.state !== undefined) return json(200, { ...state, ...pulse })
      return json(503, { error: `the store did not answer: ${known.trouble}`, ...pulse }, { 'retry-after': '2' })
    }
    if (request.method === 'HEAD') return respond(200, undefined, EVENT_HEADERS)
    if (this.#streams.size >= MAX_STREAMS) return problem(503, `${MAX_STREAMS} viewers watch already`)
    const stream = new EventStream({
      clock: this.#options.clock,
      watch: (changed) => feed.watch(changed),
      current: () => current(feed.known),
      onEnd: (ended) => this.#streams.delete(ended),
    })
    this.#streams.add(stream)
    return respond(200, stream.body, EVENT_HEADERS)
  }

  async #act(request: Request, what: (typeof ACTIONS)[keyof typeof ACTIONS]): Promise<Response> {
    const visible = await this.#permission(request, { kind: 'view' })
    if (visible instanceof Response) return visible
    if (request.method !== 'POST') return problem(405, 'an action is a POST', { allow: 'POST' })
    const reason = crossSiteReason(request)
    if (reason !== undefined) return problem(403, `nothing was done: ${reason}`)
    const { readOnly, managers, clock, onAction } = this.#options
    if (readOnly) return problem(405, 'nothing was done: this console is read-only', { allow: 'GET, HEAD' })
    const asked = await readAction(request, what)
    if (asked instanceof Response) return asked
    const permission = await this.#permission(request, permissionFor(asked))
    if (permission instanceof Response) return permission
    const manager = managers.get(asked.namespace)
    if (manager === undefined) return notFound()
    const answer = await act(manager, asked, { who: permission.who ?? visible.who, clock, onAction })
    this.#namespaces.get(asked.namespace)?.refresh()
    this.#leases.get(feedKey(asked.namespace, asked.lease))?.refresh()
    return answer
  }

  /** A Response: not allowed. */
  async #permission(request: Request, action: ConsoleAction): Promise<{ readonly who: string | undefined } | Response> {
    const answer: unknown = await this.#options.authorize(request, action)
    if (answer instanceof Response) return answer
    if (answer === true) return { who: undefined }
    const who = typeof answer === 'object' && answer !== null && 'who' in answer ? answer.who : undefined
    return typeof who === 'string' && who !== '' ? { who } : notFound()
  }

  async #about(request: Request): Promise<Response> {
    const { environment, readOnly, showValues, managers, pollEveryMs } = this.#options
    const namespaces: string[] = []
    for (const namespace of managers.keys()) {
      const permission = await this.#permission(request, { kind: 'view', namespace })
      if (!(permission instanceof Response)) namespaces.push(namespace)
    }
    return json(200, { environment, readOnly, showValues, namespaces, pollEveryMs })
  }

  /** Asks each store for one lease. */
  async #health(): Promise<Response> {
    const { managers, clock } = this.#options
    const entries = await Promise.all(
      [...managers].map(async ([name, manager]) => {
        const startedMs = clock.monotonic()
        const status = await manager.find('lease-console').then(
          () => 'ok',
          () => 'unreachable',
        )
        return [name, { status, tookMs: Math.round(clock.monotonic() - startedMs) }] as const
      }),
    )
    const isWell = entries.every(([, { status }]) => status === 'ok')
    const namespaces = Object.fromEntries(entries)
    return json(isWell ? 200 : 503, { status: isWell ? 'ok' : 'unreachable', viewers: this.#streams.size, namespaces })
  }

  #namespaceFeed(namespace: string, manager: ConsoleManager): Feed<Snapshot> {
    let feed = this.#namespaces.get(namespace)
    if (feed === undefined) {
      const { clock, pollEveryMs } = this.#options
      feed = new Feed({
        clock,
        pollEveryMs,
        read: async () => {
          const [leases, pins] = await Promise.all([manager.leases(), manager.pinned()])
          return new Snapshot(leases, pins)
        },
      })
      this.#namespaces.set(namespace, feed)
    }
    return feed
  }

  /** Kept while it is among the latest, so that a reload during an outage shows what was known. */
  #leaseFeed(namespace: string, lease: string, manager: ConsoleManager): Feed<LeaseRow> {
    const key = feedKey(namespace, lease)
    let feed = this.#leases.get(key)
    if (feed === undefined) {
      const { clock, pollEveryMs } = this.#options
      feed = new Feed({
        clock,
        pollEveryMs,
        read: async () => {
          const [info, pins, waiting] = await Promise.all([
            manager.find(lease),
            manager.pinned(),
            manager.waiting(lease).catch(() => undefined), // of a store that is away the others say so
          ])
          return { ...rowOf(lease, info, pins.get(lease) ?? [], Number.POSITIVE_INFINITY), waiting }
        },
        hints: (changed) => observed(manager, lease, changed),
      })
    }
    this.#leases.delete(key)
    this.#leases.set(key, feed)
    for (const [oldest, { isWatched }] of this.#leases) {
      if (this.#leases.size <= MAX_STREAMS) break
      if (!isWatched && oldest !== key) this.#leases.delete(oldest)
    }
    return feed
  }

  #query({ searchParams }: URL): Query {
    const view = oneOf<View>(searchParams.get('view'), ['all', 'longest', 'expiring', 'pinned'])
    const usual = view === 'longest' ? 'since' : view === 'expiring' ? 'expires' : 'lease'
    const sort = oneOf<SortKey>(searchParams.get('sort') ?? usual, ['lease', 'holder', 'since', 'expires', 'token'])
    return {
      filter: (searchParams.get('filter') ?? '').slice(0, 255),
      view,
      sort,
      descending: searchParams.get('order') === 'descending',
      page: wholeNumber(searchParams.get('page'), 1, 1_000_000),
      size: wholeNumber(searchParams.get('size'), 50, MAX_PAGE_SIZE),
      values: this.#wantsValues({ searchParams }),
    }
  }

  #wantsValues({ searchParams }: Pick<URL, 'searchParams'>): boolean {
    return this.#options.showValues && searchParams.get('values') === 'true'
  }
}

const EVENT_HEADERS = { 'content-type': 'text/event-stream; charset=utf-8', 'x-accel-buffering': 'no' }

function feedKey(namespace: string, lease: string): string {
  return JSON.stringify([namespace, lease])
}

function wanted({ searchParams }: URL): { namespace: string | undefined; lease: string | undefined } {
  return { namespace: searchParams.get('namespace') ?? undefined, lease: searchParams.get('lease') ?? undefined }
}

/** The rule that this name of a lease, or of a share, breaks; undefined: none. */
function brokenLeaseRule(lease: string): string | undefined {
  const at = lease.indexOf('#')
  try {
    if (at !== -1) validateString(lease.slice(0, at), 'lease')
    validateString(lease.slice(at + 1), 'lease')
    return undefined
  } catch (error) {
    if (error instanceof ErrNotValid) return reasonOf(error)
    throw error
  }
}

function withoutValue(row: LeaseRow): LeaseRow {
  return { ...row, value: undefined }
}

function oneOf<T extends string>(given: string | null, known: readonly [T, ...T[]]): T {
  return known.find((one) => one === given) ?? known[0]
}

function wholeNumber(given: string | null, otherwise: number, most: number): number {
  const number = Number(given ?? otherwise)
  return Number.isSafeInteger(number) && number >= 1 ? Math.min(number, most) : otherwise
}

/** Calls back on each change that the store reports, until it is ended. A failure ends it too: the reads go on. */
function observed(manager: ConsoleManager, lease: string, changed: () => void): () => void {
  const states = manager.observe(lease)
  const follow = async (): Promise<void> => {
    for await (const _ of states) changed()
  }
  follow().catch(() => {})
  return () => void states.return(undefined as never)
}
