/** Options, checked once at the edge: every problem at once, no coercion, nothing ignored. */
import { checkRequest, ErrNotValid, hasMethods, notValid, type Clock, type Problem, type Request } from 'lease-core'
import { OptionChecks, type SubstrateClientOptions } from 'lease-core/adapter'
import type { PostgresJs, PostgresListenClient, PostgresPool } from './driver.ts'
import { isOpenPostgresJs, isPostgresJs, POSTGRES_JS_LINE, type OpenPostgresJs } from './postgres-js.ts'
import { isMethodOf } from './way-in.ts'
import { tableProblems, type TableOptions } from './schema.ts'

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

/** @throws ErrNotValid with every problem; `client` says whose options they are */
export function checkOptions(options: PostgresOptions, { client }: { readonly client: boolean }): void {
  const checks = new OptionChecks(options, own, { client })
  const { pool, notify, listen } = options
  checks.add(poolProblems(pool))
  checks.add(tableProblems(options))
  checks.must('notify', notify === undefined || typeof notify === 'boolean', 'must be true or false')
  const listens = listen === undefined || listen === false || typeof listen === 'function'
  checks.must('listen', listens, 'must be false or a function that makes a connection')
  if (listen === undefined && !isOpenPostgresJs(pool) && poolProblems(pool).length === 0) {
    const tells = typeof pool.Client === 'function' && typeof pool.options === 'object'
    checks.must('listen', tells, 'must be given, for this pool does not show how it makes connections')
  }
  checks.finish()
}

/** @throws ErrNotValid */
export function checkPool(pool: PostgresPool | OpenPostgresJs): void {
  const problems = poolProblems(pool)
  if (problems.length > 0) throw notValid(problems)
}

/** A connection has a `connect` as well, which lends nothing: it could be used once, and never be given back. */
function poolProblems(pool: unknown): Problem[] {
  if (isPostgresJs(pool)) return [{ argument: 'pool', rule: ruleOfPostgresJs(pool), value: pool }]
  if (isOpenPostgresJs(pool)) return []
  if (!hasMethods(pool, 'connect')) {
    const rule = `must be a pool: new pg.Pool({ connectionString }), or for postgres.js ${POSTGRES_JS_LINE}`
    return [{ argument: 'pool', rule, value: pool }]
  }
  const isConnection = hasMethods(pool, 'escapeIdentifier') || hasMethods(pool, 'getTransactionStatus')
  return isConnection || hasMethods(pool, 'query', 'release')
    ? [{ argument: 'pool', rule: 'must be a pool, and not a connection: new pg.Pool(…)', value: pool }]
    : []
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
  options: TableOptions & { readonly namespace: string; readonly retention: Request['duration'] },
): {
  namespace: string
  retentionMs: number
} {
  const checks = new OptionChecks(options, ['schema', 'table', 'retention'], { client: false })
  const { namespace, retention } = options
  checks.add(tableProblems(options))
  let retentionMs = 0
  try {
    retentionMs = checkRequest('any', { holder: 'any', duration: retention })
  } catch (error) {
    if (!(error instanceof ErrNotValid)) throw error
    checks.add(error.problems.map((problem) => ({ ...problem, argument: 'retention', value: retention })))
  }
  checks.finish()
  return { namespace, retentionMs }
}
