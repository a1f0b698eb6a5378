/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import { hasMethods, notValid, type Clock, type Problem, type Request } from 'lease-core'
import { readAdapterOptions, type SubstrateClientOptions } from 'lease-core/adapter'
import type { PostgresJs, PostgresListenClient, PostgresPool } from './driver.ts'
import { isOpenPostgresJs, isPostgresJs, POSTGRES_JS_LINE, type OpenPostgresJs } from './postgres-js.ts'
import { isMethodOf } from './way-in.ts'
import { checkTableNames, type TableOptions } from './schema.ts'

/** What the substrate needs to know. */
export interface PostgresSubstrateOptions extends TableOptions {
  /**
   * Where connections come from: a `pg.Pool`, or anything of that shape. It stays yours: end it after the client. Two
   * connections are used at once, six when kinds of operations mix.
   *
   * For postgres.js: a function that makes one connection, `() => postgres(url, { max: 1 })`. The client calls it for each connection that it
   * needs, ten at most and one more to listen, and ends them when it is closed.
   */
  readonly pool: PostgresPool | OpenPostgresJs
  /** Leases of different namespaces know nothing of each other. At most 255 bytes. */
  readonly namespace: string
  /** Whether those who wait for a lease, or watch it, are notified. Costs nothing where nobody does. @default true */
  readonly notify?: boolean | undefined
  /**
   * Makes the connection that hears the announcements: `() => new pg.Client(url)`, `() => postgres(url, { max: 1 })`, or a promise of
   * one. It must reach the server itself:
   * through a pooler in transaction mode, LISTEN is accepted and nothing ever arrives. `false`: waiting works by timer
   * alone. @default a connection made as the pool makes its own, and not counted by it
   */
  readonly listen?:
    | (() => PostgresListenClient | PostgresJs | Promise<PostgresListenClient | PostgresJs>)
    | false
    | undefined
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** What `postgresClient` needs to know. */
export interface PostgresOptions
  extends PostgresSubstrateOptions, Omit<SubstrateClientOptions, 'substrate' | 'clock'> {}

const own = ['pool', 'schema', 'table', 'notify', 'listen', 'clock']

/** The options, each read once; `client` says whose they are. @throws ErrNotValid with every problem */
export function parseOptions<O extends PostgresSubstrateOptions>(
  given: O,
  { client }: { readonly client: boolean },
): O {
  const options = readAdapterOptions(given, own, { client })
  const { pool, listen } = options.read
  const poolRule = brokenPoolRule(pool)
  options.fault('pool', poolRule)
  checkTableNames(options)
  options.boolean('notify')
  if (isPostgresJs(listen)) options.fault('listen', ruleOfPostgresJs(listen))
  const canListen = listen === undefined || listen === false || typeof listen === 'function'
  options.must('listen', canListen, 'must be false or a function that makes a connection')
  if (listen === undefined && poolRule === undefined && !isOpenPostgresJs(pool)) {
    const canCopy = typeof pool.Client === 'function' && typeof pool.options === 'object'
    options.must('listen', canCopy, 'must be given, for this pool does not show how it makes connections')
  }
  options.finish()
  return options.read
}

/** @throws ErrNotValid */
export function checkPool(pool: PostgresPool | OpenPostgresJs): void {
  const rule = brokenPoolRule(pool)
  if (rule !== undefined) throw notValid([{ argument: 'pool', rule, value: pool }])
}

/** What `inTransaction` is called with. postgres.js has such a function itself. @throws ErrNotValid with every problem */
export function checkTransaction(pool: unknown, body: unknown): void {
  const isPostgresJsPool = isPostgresJs(pool) || isOpenPostgresJs(pool)
  const rule = isPostgresJsPool
    ? 'must be a pool of pg. With postgres.js write sql.begin(async (tx) => { await token.check(tx) })'
    : brokenPoolRule(pool)
  const problems: Problem[] = []
  if (rule !== undefined) problems.push({ argument: 'pool', rule, value: pool })
  if (typeof body !== 'function') problems.push({ argument: 'body', rule: 'must be a function', value: body })
  if (problems.length > 0) throw notValid(problems)
}

/** A connection has a `connect` as well, which lends nothing: it could be used once, and never be given back. */
function brokenPoolRule(pool: unknown): string | undefined {
  if (isPostgresJs(pool)) return ruleOfPostgresJs(pool)
  if (isOpenPostgresJs(pool)) return undefined
  if (!hasMethods(pool, 'connect')) {
    return `must be a pool: new pg.Pool({ connectionString }), or for postgres.js ${POSTGRES_JS_LINE}`
  }
  const isConnection = hasMethods(pool, 'escapeIdentifier') || hasMethods(pool, 'getTransactionStatus')
  return isConnection || hasMethods(pool, 'query', 'release')
    ? 'must be a pool, and not a connection: new pg.Pool(…)'
    : undefined
}

/** An `sql` as it is gives no connection that could be closed when it is dead. */
function ruleOfPostgresJs(sql: unknown): string {
  if (isMethodOf(sql, 'savepoint')) {
    return `must not be a transaction of postgres.js (that is a key: token.check(tx)), but make connections: ${POSTGRES_JS_LINE}`
  }
  return `must be a function that makes a connection of postgres.js, and not an sql itself: ${POSTGRES_JS_LINE}`
}

/** @throws ErrNotValid with every problem */
export function parseCollectOptions(
  given: TableOptions & { readonly namespace: string; readonly retention: Request['duration'] },
): { readonly where: TableOptions; readonly namespace: string; readonly retentionMs: number } {
  const options = readAdapterOptions(given, ['schema', 'table', 'retention'], { client: false })
  checkTableNames(options)
  const retentionMs = options.duration('retention')
  options.finish()
  const { schema, table, namespace } = options.read
  return { where: { schema, table }, namespace, retentionMs }
}
