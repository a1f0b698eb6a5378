/**
 * postgres.js (the package `postgres`, 3) in the shape of `pg`, which is what the rest of this package calls.
 *
 * The leases have connections of their own, each an `sql` with `max: 1` that a function of the caller makes. An `sql` that the
 * application uses as well would not do, for postgres.js lets nobody close a connection of it: one that is dead keeps its place until TCP
 * gives it up, after a quarter of an hour or so. `reserve()` never settles once `sql` is ended, and a `release()` after the connection broke
 * ends the process. An `sql` of one connection is closed by `end({ timeout: 0 })`.
 *
 * - *No serializer or parser of the caller sees what is sent and answered.* Parameters have the type `unknown`, so the server infers what
 *   the statement says; answers are the bytes of the server.
 * - *A transaction stays on its connection.* An `sql` connects again by itself. So a connection that was lost inside of a transaction, or by
 *   which something failed, is not used again.
 */
import { EventEmitter } from 'node:events'
import { notValid } from 'lease-core'
import { withoutSecrets } from 'lease-core/adapter'
import type {
  PostgresJs,
  PostgresJsAnswer,
  PostgresJsKey,
  PostgresListenClient,
  PostgresPool,
  PostgresPoolClient,
  PostgresResult,
} from './driver.ts'
import { isMethodOf } from './way-in.ts'

/** What makes a connection: `() => postgres(url, { max: 1 })`. */
export type OpenPostgresJs = () => PostgresJs

/** What to write. */
export const POSTGRES_JS_LINE = '() => postgres(url, { max: 1 })'

/** Connections at once. */
const MOST = 10
/** For so long the server is waited for to close a connection. */
const FAREWELL_S = 1

/** The pseudo-type of a literal without a type. */
const UNKNOWN_OID = 705

/** The statement was sent over another connection than BEGIN, or would have been: what the transaction was to do is undone. */
const LOST = 'the connection was lost inside of a transaction'

const taken = new WeakSet<object>()

/** Whether it is an `sql` of postgres.js: of a pool, a reserved connection, or a transaction. */
export function isPostgresJs(given: unknown): given is PostgresJs {
  return ['unsafe', 'typed', 'array'].every((method) => isMethodOf(given, method))
}

/** Whether it makes connections. What it makes is checked when it is made. */
export function isOpenPostgresJs(given: unknown): given is OpenPostgresJs {
  return typeof given === 'function' && !isPostgresJs(given) && !isMethodOf(given, 'connect')
}

/** What the caller's function makes. @throws what it throws, without passwords: the error of a URL that is none has the URL in `input` */
function madeBy(open: OpenPostgresJs): unknown {
  try {
    return open()
  } catch (error) {
    const { input } = (error ?? {}) as { readonly input?: unknown }
    if (typeof input === 'string') Object.assign(error as object, { input: withoutSecrets(input) })
    throw error
  }
}

/** A new connection. @throws ErrNotValid it is not one, or one that somebody has already; what making it throws */
function openOne(open: OpenPostgresJs, argument: 'pool' | 'listen'): PostgresJs {
  const made = madeBy(open)
  const refuse = (rule: string): never => {
    throw notValid([{ argument, rule: `${rule}: ${POSTGRES_JS_LINE}`, value: made }])
  }
  if (!isPostgresJs(made) || !isMethodOf(made, 'listen')) return refuse('must make a connection of postgres.js')
  const sql = made
  const { max, transform } = sql.options
  if (taken.has(sql)) return refuse('must make a new connection at each call')
  if (Number(max) !== 1) return refuse('must make an sql of one connection')
  const transforms = [transform?.column?.from, transform?.value?.from, transform?.row?.from]
  if (transforms.some((one) => one !== undefined && one !== null)) {
    return refuse('must make connections without `transform`, for it would change the answers of the server')
  }
  taken.add(sql)
  return sql
}

export class PostgresJsPool implements PostgresPool {
  readonly options: { readonly max: number } = { max: MOST }
  readonly #open: OpenPostgresJs
  readonly #idle: PostgresJsConnection[] = []
  readonly #waiting: { resolve(client: PostgresJsConnection): void; reject(error: unknown): void }[] = []
  #lent = 0
  #isOver = false

  constructor(open: OpenPostgresJs) {
    this.#open = open
  }

  get idleCount(): number {
    return this.#idle.length
  }

  /** @throws ErrNotValid what was made is not fit; what making it throws */
  async connect(): Promise<PostgresPoolClient> {
    if (this.#lent >= MOST) return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
    return this.#lend()
  }

  #lend(): PostgresJsConnection {
    if (this.#isOver) throw new Error('this client is closed')
    const client =
      this.#idle.pop() ??
      new PostgresJsConnection(openOne(this.#open, 'pool'), (one, isFit) => this.#takeBack(one, isFit))
    this.#lent++
    client.isLent = true
    return client
  }

  #takeBack(client: PostgresJsConnection, isFit: boolean): void {
    this.#lent--
    if (isFit && !this.#isOver) this.#idle.push(client)
    else void client.end(this.#isOver ? FAREWELL_S : 0)
    const next = this.#waiting.shift()
    if (next === undefined) return
    try {
      next.resolve(this.#lend())
    } catch (error) {
      next.reject(error)
    }
  }

  /** Ends what is idle, and what is lent once it is given back. */
  async end(): Promise<void> {
    this.#isOver = true
    for (const waiter of this.#waiting.splice(0)) waiter.reject(new Error('this client is closed'))
    await Promise.all(this.#idle.splice(0).map((client) => client.end(FAREWELL_S)))
  }
}

/** An error of the connection and not of the server. */
const isOfConnection = (error: unknown): boolean => {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return typeof code !== 'string' || !/^(?=.*\d)[0-9A-Z]{5}$/.test(code) || /^(08|57P)/.test(code)
}

class PostgresJsConnection implements PostgresPoolClient {
  isLent = false
  readonly #sql: PostgresJs
  readonly #giveBack: (client: PostgresJsConnection, isFit: boolean) => void
  /** The key by which the server cancels, as the latest query shows it once it is sent. */
  #keyed: { readonly state?: PostgresJsKey | null } | undefined
  /** `T` or `E` inside of a transaction that was begun here. */
  #status: 'T' | 'E' | null = null
  #isBroken = false
  #isOver = false

  constructor(sql: PostgresJs, giveBack: (client: PostgresJsConnection, isFit: boolean) => void) {
    this.#sql = sql
    this.#giveBack = giveBack
    const { options } = sql
    const { onclose } = options
    const lost = (id: number): void => {
      if (this.#status !== null) this.#isBroken = true
      onclose?.(id)
    }
    // What it asks for types rejects unheard where the connection is closed meanwhile, and no types are needed here.
    Object.assign(options, { onclose: lost, fetch_types: false })
  }

  /** Null outside of a transaction that was begun here: postgres.js does not show what the server says. */
  getTransactionStatus(): string | null {
    return this.#status
  }

  /** What a CancelRequest needs (cancel.ts). Of several hosts nobody knows which one it is. */
  get host(): string | undefined {
    const { host, path } = this.#sql.options
    if (typeof path === 'string') return path.replace(/\/\.s\.PGSQL\.\d+$/, '')
    return host?.length === 1 ? host[0] : undefined
  }

  get port(): number | undefined {
    return Number(this.#sql.options.port?.[0])
  }

  /** The words of postgres.js ask for TLS without a look at the certificate. */
  get ssl(): unknown {
    const { ssl } = this.#sql.options
    return /^(require|allow|prefer)$/.test(String(ssl)) ? { rejectUnauthorized: false } : ssl
  }

  get processID(): number | undefined {
    return this.#keyed?.state?.pid ?? undefined
  }

  get secretKey(): number | undefined {
    return this.#keyed?.state?.secret ?? undefined
  }

  async query(text: string, values: unknown[] = []): Promise<PostgresResult> {
    if (this.#isBroken) throw new Error(LOST)
    try {
      const parameters = values.map((value) => this.#sql.typed(textOf(value), UNKNOWN_OID))
      const options = { prepare: false, simple: values.length === 0 }
      const query = this.#sql.unsafe(text, parameters, options).raw()
      this.#keyed = query as { readonly state?: PostgresJsKey }
      return this.#read(await query)
    } catch (error) {
      if (this.#status !== null) this.#status = 'E'
      if (isOfConnection(error)) this.#isBroken = true
      throw isEnded(error) && !this.#isOver ? ended(error) : error
    }
  }

  release(destroy?: boolean): void {
    if (!this.isLent) return
    this.isLent = false
    this.#giveBack(this, destroy !== true && !this.#isBroken && this.#status === null)
  }

  /** Closes the connection, at the latest after so many seconds. What is under way rejects. */
  async end(timeout: number): Promise<void> {
    this.#isOver = true
    await endOf(this.#sql, timeout)
  }

  /** Of several statements the last one that answers with rows counts. */
  #read(answer: PostgresJsAnswer | readonly PostgresJsAnswer[]): PostgresResult & { readonly command?: string } {
    const last = isOne(answer) ? answer : (answer.at(-1) as PostgresJsAnswer)
    const { command, columns } = last
    if (command === 'BEGIN' || command === 'START TRANSACTION') this.#status = 'T'
    if (command === 'COMMIT' || command === 'ROLLBACK') this.#status = null
    const names = (columns ?? []).map(({ name }) => name)
    const rows = [...last].map((row) => Object.fromEntries(names.map((name, index) => [name, textOf(row[index])])))
    return { rows, ...(command ? { command } : {}) }
  }
}

/** A value as the server reads it, or its bytes as text. */
function textOf(value: unknown): string | null {
  const known = value as string | number | boolean | bigint | Buffer | null | undefined
  return known === null || known === undefined ? null : known.toString()
}

/** Of several statements it is a plain array of answers. */
const isOne = (answer: PostgresJsAnswer | readonly PostgresJsAnswer[]): answer is PostgresJsAnswer =>
  'command' in answer

async function endOf(sql: PostgresJs, timeout: number): Promise<void> {
  try {
    await sql.end({ timeout })
  } catch {
    // it is being thrown away
  }
}

const isEnded = (error: unknown): boolean =>
  (error as { readonly code?: unknown } | undefined)?.code === 'CONNECTION_ENDED'

const ended = (cause: unknown): Error =>
  notValid(
    [
      {
        argument: 'pool',
        rule: `must make a new connection at each call, and this one is ended: ${POSTGRES_JS_LINE}`,
        value: undefined,
      },
    ],
    { cause },
  )

/**
 * A connection that listens. postgres.js makes it by itself beside the `sql`, and connects again when it breaks; what was announced in
 * the meantime is lost, so the end of the first connection is the end of this.
 */
export class PostgresJsListener extends EventEmitter implements PostgresListenClient {
  readonly #sql: PostgresJs
  readonly #unlisten = new Map<string, () => Promise<unknown>>()
  #probes = 0
  /** The backend of the connection. */
  #pid: number | undefined
  #isOver = false

  /** @throws ErrNotValid what was made is not fit */
  static by(open: OpenPostgresJs, argument: 'pool' | 'listen'): PostgresJsListener {
    return new PostgresJsListener(openOne(open, argument))
  }

  private constructor(sql: PostgresJs) {
    super()
    this.#sql = sql
  }

  connect(): Promise<unknown> {
    return this.query()
  }

  async listen(channel: string): Promise<void> {
    this.#unlisten.set(
      channel,
      await this.#listen(channel, (payload) => this.emit('notification', { channel, payload })),
    )
  }

  async unlisten(channel: string): Promise<void> {
    const unlisten = this.#unlisten.get(channel)
    this.#unlisten.delete(channel)
    await unlisten?.()
  }

  /** Whatever is asked: a sign of life. postgres.js sends no other statements than these over this connection. */
  async query(): Promise<void> {
    const unlisten = await this.#listen(`lease_probe_${this.#probes++}`, () => {})
    await unlisten()
  }

  async end(): Promise<void> {
    this.#over()
    await endOf(this.#sql, 0)
  }

  async #listen(channel: string, notified: (payload: string) => void): Promise<() => Promise<unknown>> {
    let isFirst = true
    const listening = await this.#sql.listen(channel, notified, () => {
      if (!isFirst) this.#over() // it had to listen again
      isFirst = false
    })
    const pid = listening.state?.pid ?? undefined
    if (this.#pid !== undefined && pid !== this.#pid) this.#over()
    this.#pid ??= pid
    if (this.#isOver) throw new Error('the connection that listens was lost')
    return () => listening.unlisten()
  }

  #over(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.emit('end')
  }
}

/** The pool behind what was passed in; `end` ends it where it was made here. */
export function asPool(given: PostgresPool | OpenPostgresJs): {
  readonly pool: PostgresPool
  readonly end: () => Promise<void>
} {
  if (!isOpenPostgresJs(given)) return { pool: given, end: async () => {} }
  const pool = new PostgresJsPool(given)
  return { pool, end: () => pool.end() }
}

/** Calls the body with the pool behind what was passed in. */
export async function withPool<T>(
  given: PostgresPool | OpenPostgresJs,
  body: (pool: PostgresPool) => Promise<T>,
): Promise<T> {
  const { pool, end } = asPool(given)
  try {
    return await body(pool)
  } finally {
    await end()
  }
}
