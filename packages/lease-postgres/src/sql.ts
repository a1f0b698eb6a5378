/**
 * The statements that are no functions (functions.ts), and what both are made of. A statement runs in the caller's search_path,
 * and its rows go through the caller's parsers: so it names the schema of all that it calls, and answers text.
 */
import { quoteLiteral, type Tables } from './schema.ts'

/** What is asked for once, or beside the functions. */
export interface Statements {
  readonly time: string
  /** The microseconds at which the transaction began in which this is asked. */
  readonly began: string
  /** The schema in which the tables are. */
  readonly home: string
  readonly inspect: string
  /** How many are in the queue of the lease $2 of the namespace $1. */
  readonly waiting: string
  /** The transactions that are writing to the leases just now. */
  readonly writing: string
}

export function statements({ inStatement }: Tables): Statements {
  const lease = `pg_catalog.to_regclass(${quoteLiteral(inStatement.lease)})`
  const waiter = `pg_catalog.to_regclass(${quoteLiteral(inStatement.waiter)})`
  const mayWaiter = (right: string): string =>
    `pg_catalog.has_table_privilege(${waiter}::pg_catalog.oid, '${right}'::pg_catalog.text)`
  const setting = (name: string): string => `pg_catalog.current_setting('${name}', true)`
  const standby = 'pg_catalog.pg_is_in_recovery()::pg_catalog.text'
  return {
    time: `SELECT ${standby} AS standby, ${microsText('clock')} AS at,
  (SELECT pg_catalog.max(version)::pg_catalog.text FROM ${inStatement.layout}) AS layout,
  pg_catalog.row_security_active(${quoteLiteral(inStatement.layout)}::pg_catalog.text)::pg_catalog.text AS hidden`,
    began: `SELECT ${microsText('transaction')} AS began`,
    home: `SELECT (pg_catalog.pg_identify_object('pg_catalog.pg_class'::pg_catalog.regclass, ${lease}, 0)).schema AS home`,
    inspect: `SELECT ${setting('fsync')} AS fsync, ${setting('synchronous_commit')} AS synchronous_commit,
  ${setting('synchronous_standby_names')} AS standbys, ${setting('transaction_read_only')} AS read_only,
  ${standby} AS standby, ${setting('server_encoding')} AS encoding, pg_catalog.version() AS version,
  pg_catalog.pg_backend_pid()::pg_catalog.text AS backend,
  (SELECT relpersistence::pg_catalog.text FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) ${lease}::pg_catalog.oid) AS persistence,
  (${['SELECT', 'INSERT', 'UPDATE', 'DELETE'].map(mayWaiter).join(' AND ')})::pg_catalog.text AS registers,
  pg_catalog.has_function_privilege('pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text)', 'EXECUTE')::pg_catalog.text AS notifies`,
    waiting: `SELECT ${microsText('clock')} AS at, pg_catalog.count(*)::pg_catalog.text AS waiting FROM ${inStatement.waiter}
WHERE ns OPERATOR(pg_catalog.=) $1::pg_catalog.text AND name OPERATOR(pg_catalog.=) $2::pg_catalog.text
  AND place OPERATOR(pg_catalog.>) 0 AND until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()`,
    writing: `SELECT coalesce(pg_catalog.array_to_string(pg_catalog.array_agg(virtualtransaction), ' '::pg_catalog.text), '') AS writing
FROM pg_catalog.pg_locks WHERE relation OPERATOR(pg_catalog.=) ${lease}::pg_catalog.oid AND mode OPERATOR(pg_catalog.=) 'RowExclusiveLock'::pg_catalog.text
  AND database OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())`,
  }
}

/** Whether a statement of this transaction sees all that was committed before it. It runs in the caller's path. */
export const seesAll = `pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.~) '^read '::pg_catalog.text`

/** Exact whatever `extra_float_digits` says, as a float in text is not. */
const microsText = (clock: 'clock' | 'transaction'): string =>
  `pg_catalog.replace(pg_catalog."extract"('epoch', pg_catalog.${clock}_timestamp())::pg_catalog.text, '.', '')`

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

/**
 * The answers, one array for each of their fields: an object for each takes far longer. Of weights only where there is one.
 *
 * @param collect of many thousands of rows `json_agg` makes an array of JSON several times faster than `array_agg` makes one of values
 */
export const answers = (fields: Fields<string>, collect: 'array_agg' | 'json_agg' = 'array_agg'): string => {
  const columns = Object.entries(fields).map(([name, value]) => {
    const all = `${collect}(${value})`
    return `'${name}', ${name === 'weight' ? `CASE WHEN count(${value}) > 0 THEN ${all} END` : all}`
  })
  return `json_build_object(${columns.join(', ')})`
}

/** A field of an answer, and the expression for it. */
type Fields<Name extends string> = Readonly<Record<Name, string>>
export type StateField = 'holder' | 'token' | 'remaining' | 'value' | 'pinned' | 'nonce' | 'opened' | 'weight'

/** What is known of a lease, by its row. */
export const stateOf = (row: string): Fields<StateField> => ({
  holder: `${row}.holder`,
  token: `${row}.token::text`,
  remaining: remainingOf(`${row}.expiry`),
  value: `${row}.value`,
  pinned: `${row}.pins <> '{}'`,
  nonce: `${row}.nonce`,
  opened: `${row}.opened`,
  weight: `${row}.weight`,
})

/** The pins of a lease, by its row. */
export const pinsOf = (row: string): Fields<'pins' | 'generations'> => ({
  pins: `to_json(${row}.pins)`,
  generations: `${row}.generations`,
})

/** Milliseconds, as a decimal number: a float would be cut as `extra_float_digits` says. */
export const remainingOf = (expiry: string): string => `extract(epoch FROM ${expiry} - clock_timestamp()) * 1000`
