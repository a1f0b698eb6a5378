/**
 * The statements that are no functions (functions.ts): what only reads, and what is done once in a while.
 */
import { LONGEST_DEADLINE_MS } from 'lease-core'
import { quoteLiteral, type Tables } from './schema.ts'

/** What only reads. */
export interface Statements {
  readonly time: string
  /** The microseconds at which the transaction began in which this is asked. */
  readonly began: string
  readonly readAll: string
  readonly pinnedAll: string
  readonly inspect: string
}

export function statements(tables: Tables): Statements {
  return {
    time: timeSql(tables),
    began: `SELECT ${microsOf('transaction_timestamp()')}::text AS began`,
    readAll: readAllSql(tables),
    pinnedAll: pinnedAllSql(tables),
    inspect: inspectSql(tables),
  }
}

/** In whole microseconds: a float holds them exactly for the next two centuries, and is faster than `numeric`. */
export const microsOf = (instant: string): string => `(date_part('epoch', ${instant}) * 1000000)::bigint`
/** The server's clock. */
export const micros: string = microsOf('clock_timestamp()')

/** Somebody holds the lease of this row. */
export const live = (row: string): string =>
  `(${row}.holder IS NOT NULL AND (${row}.pins <> '{}' OR ${row}.expiry > clock_timestamp()))`
/** The row names a holder that holds the lease no more. */
export const lapsed = (row: string): string =>
  `(${row}.holder IS NOT NULL AND ${row}.pins = '{}' AND ${row}.expiry <= clock_timestamp())`

function timeSql({ layout }: Tables): string {
  return `SELECT pg_is_in_recovery() AS standby, ${micros}::text AS at, (SELECT max(version) FROM ${layout}) AS layout`
}

/** $1 namespace. */
function readAllSql({ lease }: Tables): string {
  return readingSql(stateOf('l'), `${lease} l WHERE l.ns = $1 AND ${live('l')}`)
}

/** $1 namespace. */
function pinnedAllSql({ lease }: Tables): string {
  return readingSql(pinsOf('l'), `${lease} l WHERE l.ns = $1 AND l.pins <> '{}'`)
}

/** The answers, one array for each of their fields: an object for each takes far longer. */
export const answers = (fields: Fields<string>): string => {
  const columns = Object.entries(fields).map(([name, value]) => `'${name}', array_agg(${value})`)
  return `json_build_object(${columns.join(', ')})`
}

/** A field of an answer, and the expression for it. */
type Fields<Name extends string> = Readonly<Record<Name, string>>
export type StateField = 'holder' | 'token' | 'remaining' | 'value' | 'pinned' | 'nonce' | 'opened'

/** What is known of a lease, by its row. */
export const stateOf = (row: string): Fields<StateField> => ({
  holder: `${row}.holder`,
  token: `${row}.token::text`,
  remaining: remainingOf(`${row}.expiry`),
  value: `${row}.value`,
  pinned: `${row}.pins <> '{}'`,
  nonce: `${row}.nonce`,
  opened: `${row}.opened`,
})

/** The pins of a lease, by its row. */
export const pinsOf = (row: string): Fields<'pins' | 'generations'> => ({
  pins: `to_json(${row}.pins)`,
  generations: `${row}.generations`,
})

export const remainingOf = (expiry: string): string => `date_part('epoch', ${expiry} - clock_timestamp()) * 1000`

/** Answers as the functions that read do. */
const readingSql = (fields: Fields<string>, rows: string): string =>
  `SELECT CASE WHEN NOT pg_is_in_recovery() THEN concat('[', ${micros}, ',', ${answers({ name: 'l.name', ...fields })}, ']') END AS answer
FROM ${rows}`

function inspectSql({ lease }: Tables): string {
  return `SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('synchronous_standby_names') AS standbys, current_setting('transaction_read_only') AS read_only,
  pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding,
  (SELECT relpersistence::text FROM pg_catalog.pg_class WHERE oid = to_regclass(${quoteLiteral(lease)})) AS persistence`
}

/** Ahead of `collectSql` in its transaction: waits for running claims, whose tokens are not in a row yet; passes guards. */
export function collectLockSql({ lease }: Tables): string {
  return `LOCK TABLE ${lease} IN SHARE ROW EXCLUSIVE MODE`
}

/** $1 namespace, $2 retention in milliseconds, $3 how many rows at most. Rows that must be remembered stay in any case. */
export function collectSql({ lease, floor, line }: Tables): string {
  return `WITH old AS MATERIALIZED (
  SELECT l.name FROM ${lease} l WHERE l.ns = $1 AND l.pins = '{}' AND NOT ${live('l')}
    AND l.expiry < clock_timestamp() - greatest($2::float8, ${LONGEST_DEADLINE_MS}) * interval '1 millisecond'
    AND coalesce(l.unpinned, 0) < ${micros} - ${LONGEST_DEADLINE_MS * 1000}
  LIMIT $3 FOR UPDATE OF l SKIP LOCKED
), d AS (
  DELETE FROM ${lease} l USING old WHERE l.ns = $1 AND l.name = old.name RETURNING l.token
), up AS (
  INSERT INTO ${floor} AS f (ns, token) SELECT $1, max(token) FROM d HAVING count(*) > 0
  ON CONFLICT (ns) DO UPDATE SET token = greatest(f.token, excluded.token)
), forgotten AS MATERIALIZED (
  SELECT q.name FROM ${line} q WHERE q.ns = $1 AND q.at < clock_timestamp() - $2::float8 * interval '1 millisecond'
  FOR UPDATE SKIP LOCKED
), lines AS (
  DELETE FROM ${line} q USING forgotten WHERE q.ns = $1 AND q.name = forgotten.name
)
SELECT count(*)::int AS collected FROM d`
}
