/** What the functions of the database are made of (functions.ts): their frame, and the parts that several have in common. */
import { createHash } from 'node:crypto'
import { CLIENT_LENGTH, INTEREST_MS, LONGEST_DEADLINE_MS } from 'lease-core/adapter'
import { HOME, type Tables } from './schema.ts'
import { answers, live, micros, stateOf, type StateField } from './sql.ts'

/** A function of the database. */
export interface DatabaseFunction {
  /** Without the schema; it needs no quotes. Its end depends on all of the text: another version is another function. */
  readonly name: string
  /** The types of its parameters, as PostgreSQL prints them. */
  readonly parameters: readonly string[]
  readonly settings: readonly Setting[]
  /** Its body, with `HOME` and `HOME_SUFFIX` in it. */
  readonly body: string
  /** An expression that calls it with these parameters. */
  readonly with: (parameters: readonly string[]) => string
  /** The statement that calls it. Its answer is one row of one column, `answer`. */
  readonly call: string
}

/** What a function sets for the length of a call. */
export type Setting = readonly [name: string, value: string]

/**
 * Nothing that the function names is looked up in the caller's path: anyone who may create functions, operators or casts in a
 * schema of it would run code with the caller's rights.
 */
const safePath: Setting = ['search_path', 'pg_catalog, pg_temp']

/** Rows that a policy hides would look like leases that nobody holds. So it is an error where some may be hidden (42501). */
const allRows: Setting = ['row_security', 'off']

/**
 * Plans are for any parameters from the first call on: one for the arrays at hand would expect one row of them and always look
 * cheaper than one that lasts. Rows are looked up by their key, and the estimates of many rows that go with `lockedRow` are not
 * worth a compiler.
 */
export const byKey: readonly Setting[] = [
  ['plan_cache_mode', 'force_generic_plan'],
  ['enable_seqscan', 'off'],
  ['enable_bitmapscan', 'off'],
  ['jit', 'off'],
]

/** How far the server's clock may have been set back before what is remembered does not count. */
const SET_BACK_MICROS = 1_000_000

/**
 * The function of an operation. Its first parameters are $1 the namespace, $2 the microseconds that the server's clock
 * showed at least when the request was sent, and $3 those after which nothing may be done; either may be null.
 *
 * It answers a list in JSON: the microseconds of the server's clock after its decisions, and the answers to the operations
 * as `Columns` (postgres-substrate.ts).
 */
export function define(
  tables: Tables,
  name: string,
  parameters: readonly string[],
  lines: string,
  { declarations = '', answers = [] }: { readonly declarations?: string; readonly answers?: readonly string[] } = {},
): DatabaseFunction {
  return defineText(
    tables,
    name,
    ['text', 'bigint', 'bigint', ...parameters],
    `DECLARE
  asked bigint := ${micros};
  deadline timestamptz := coalesce(timestamptz 'epoch' + $3 * interval '1 microsecond', 'infinity');
  met bigint[];           -- the operations that the first statement has done
  done json;              -- its answers
  others json;            -- the answers to the other operations
  replayed boolean;       -- some of these are claims whose term stands
  confirmed json;         -- the answers to these, which count instead
  missed bigint[];        -- the operations whose row the first statement has locked in vain
  overdue_rows text[];    -- leases whose new row had to wait, until after the deadline
  vacated_ops bigint[];    -- the operations after which a queue is to be notified,
  vacated_leases text[];   -- their leases,
  vacated_by text[];       -- and whose term each has ended, unless it is the caller's
  changed_leases text[];   -- leases with another term or value, to be announced
  taken_leases text[];     -- leases granted to one who waited,
  taken_places bigint[];   -- with which ticket,
  taken_ms bigint[];       -- and for how long
  joining bigint[];        -- the claims that get into a queue
  is_granted boolean;      -- the second statement has granted a claim
  is_asked boolean;        -- somebody is to be notified
  tickets json;            -- the tickets of claims that were refused
  told json;               -- for each of vacated_ops, the last ticket told
  of_shares boolean;       -- some of the leases are shares, or counted
  blocked text[];          -- counted leases that somebody else has locked
  queues text[];           -- of vacated_leases that are shares, the counted leases${declarations}
BEGIN
  ${boundedWait}
${lines}
  RETURN concat('[', concat_ws(',', ${[micros, 'done', 'others', 'confirmed', 'tickets', 'told', ...answers].join(', ')}), ']');
END`,
    byKey,
  )
}

/**
 * An operation waits for a lock (of ALTER TABLE, or of a transaction that inserts the same row) for four fifths of the time that is
 * left. So its sender is still there to hear of it, and no backend waits on alone.
 */
export const boundedWait: string = `PERFORM set_config('lock_timeout', greatest(1, least(($3 - asked) / 1250, ${LONGEST_DEADLINE_MS}))::text, true);`

/** @param settings what it sets besides the path */
export function defineText(
  { prefix }: Pick<Tables, 'prefix'>,
  name: string,
  parameters: readonly string[],
  body: string,
  settings: readonly Setting[],
): DatabaseFunction {
  const all = [safePath, allRows, ...settings]
  const digest = digestOf(JSON.stringify([parameters, all, body]))
  const full = `lease_${name}_${digest}`
  // Parameters of exactly these types: another function of this name, wherever it is, would have to be just the same.
  const cast = (value: string, index: number): string => `${value}::${qualified(parameters[index] as string)}`
  const callWith = (values: readonly string[]): string => `${prefix}${full}(${values.map(cast).join(', ')})`
  return {
    name: full,
    parameters,
    settings: all,
    body,
    with: callWith,
    call: `SELECT ${callWith(parameters.map((_, index) => `$${index + 1}`))} AS answer`,
  }
}

/** Of a text, for the end of a name. */
export const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16)

/** The name of a type that is no keyword is looked up in the path. */
const qualified = (type: string): string => type.replace(/^text/, 'pg_catalog.text')
/** The deadline has not passed. Evaluated row by row, where the row is locked already. */
export const inTime = 'clock_timestamp() <= deadline'
export const expiryOf = (milliseconds: string): string =>
  `clock_timestamp() + ${milliseconds} * interval '1 millisecond'`
/** The nonce stays: the row remembers who opened the latest term. So does a weight: it counts until a claim has got past the guards. */
export const vacated = `holder = NULL, value = NULL, weight = -abs(l.weight)`
export const returning = 'l.holder, l.token, l.expiry, l.value, l.pins, l.nonce, l.opened, l.weight'

/** The term that begins in the row `l`: when, and its fencing token. */
export const newTerm = `token = greatest(l.token + 1, asked), opened = CASE WHEN asked <= l.token THEN asked END, opener = NULL`
/** The fencing token of the first term in a row that is not there: above all of earlier rows of this lease. */
export const firstToken = ({ floor }: Tables): string =>
  `greatest(asked, (SELECT f.token + 1 FROM ${floor} f WHERE f.ns = $1))`
/** The token of a row without a term. */
export const noTermYet = ({ floor }: Tables): string => `coalesce((SELECT f.token FROM ${floor} f WHERE f.ns = $1), 0)`

/** The counted lease of this share; of a name without `#` the empty text. */
export const countedOf = (name: string): string => `left(${name}, strpos(${name}, '#'))`

/** For functions that call others: they name the schema. */
export const insideOf = (tables: Tables): Tables => ({ ...tables, prefix: `${HOME}.` })

/** A COMMIT takes no longer, as a rule. */
export const MOMENT_MS = 200

/** When the latest term of the row was opened, in microseconds. */
export const openedOf = (row: string): string => `coalesce(${row}.opened, ${row}.token)`

/**
 * The request was sent before these microseconds, at which it was overtaken. That is remembered for as long as a request may be
 * late; it does not count where the clock was set back since, or the lease could not be claimed for as long.
 */
export const overtaken = (at: string): string =>
  `$2 < ${at} AND ${at} BETWEEN ${micros} - ${LONGEST_DEADLINE_MS * 1000} AND ${micros} + ${SET_BACK_MICROS}`

/** This nonce opened the latest term of the row. */
const openedBy = (row: string, nonce: string): string => `(${row}.nonce = ${nonce} OR ${row}.opener = ${nonce})`

/** A claim with this nonce must not open a term in the row. Never null. */
export const tooLate = (row: string, nonce: string): string =>
  `coalesce(${openedBy(row, nonce)} OR ${overtaken(openedOf(row))}, false)`

/**
 * The operations: one row each, from arrays. `ns` is there for `lockedRow`. A column whose name ends with `?` may be absent: its
 * values come with a sign ahead of them, and the empty text is NULL. PostgreSQL reads a NULL in an array as the word where
 * `array_nulls` is off.
 */
export const operations = (arrays: string, columns: string): string => {
  const names = columns.split(', ')
  const plain = names.map((name) => name.replace('?', ''))
  const read = names.map((name, index) =>
    name === plain[index] ? `t.${name}` : `substr(nullif(t.${plain[index]}, ''), 2) AS ${plain[index]}`,
  )
  return `SELECT $1 AS ns, ${read.join(', ')}, t.n FROM unnest(${arrays}) WITH ORDINALITY AS t(${plain.join(', ')}, n)`
}
export const inOrder = 'ORDER BY t.name COLLATE "C"'

/** The operations that the first statement left undone. */
export const undone = 't.n NOT IN (SELECT unnest(met))'
export const anyUndone = 'met IS NULL OR cardinality(met) < cardinality($4)'

/** Which rows to lock, and what to know of them. */
export interface Locking {
  /** The operations `r`, in the order in which their rows are to be locked. */
  readonly from: string
  /** Of the operation `r` and its row `l`. */
  readonly where: string
  readonly lock: 'UPDATE' | 'NO KEY UPDATE' | 'SHARE'
  /** @default all of the operation */
  readonly keep?: string
  /** Columns of the row as it was locked, which the snapshot may show otherwise. @default none */
  readonly read?: string
}

/** Selects the rows that meet the condition and that nobody else has locked, and locks them one by one. */
export const locked = ({ lease }: Tables, { from, where, lock, keep = 'r.*', read }: Locking): string =>
  `SELECT ${keep}${read === undefined ? '' : ', l.*'} FROM ${from} r CROSS JOIN LATERAL (
      SELECT ${read ?? ''} FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND (${where}) FOR ${lock} SKIP LOCKED
    ) l`

/**
 * Joins the row to `lk r`. Written with `=`, the planner could as well read the whole namespace and sort or hash it, and
 * estimates the same cost as long as the table is small. This way there is only the lookup by the key.
 */
export const lockedRow = '(l.ns, l.name) >= (r.ns, r.name) AND (l.ns, l.name) <= (r.ns, r.name)'

/** `cur`: the rows as this statement's snapshot has them. OFFSET 0 keeps the planner from joining otherwise. */
export const current = ({ lease }: Tables): string => `cur AS MATERIALIZED (
    SELECT r.n, l.* FROM req r CROSS JOIN LATERAL (
      SELECT ${returning}, l.opener, l.generations, l.unpinned, l.valued FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name OFFSET 0
    ) l
  )`

/** Of the operations `r` that a statement has found undone: nobody has a row for it. */
export const noRow = 'NOT EXISTS (SELECT FROM cur WHERE cur.n = r.n)'

/**
 * Confirms the terms that these claims opened earlier, where a statement has seen some. Each is locked, so that the answer is
 * as durable as the first one: the COMMIT waits for whatever that of the claim has to wait for.
 */
export const confirmed = (tables: Tables, from: string, { holder, nonce }: Claimer): string => `
  IF replayed THEN
    WITH lk AS MATERIALIZED (${locked(tables, {
      from,
      where: `l.holder = ${holder} AND l.nonce = ${nonce} AND ${live('l')} AND ${inTime}`,
      lock: 'NO KEY UPDATE',
      keep: 'r.n',
      read: returning,
    })})
    SELECT ${answers({ n: 'lk.n', ...stateOf('lk') })} INTO confirmed FROM lk;
  END IF;`

/** What a claim calls its holder and its nonce. */
export interface Claimer {
  readonly holder: string
  readonly nonce: string
}

/** The tickets `w` in the queue of this lease. */
export const waiting = (name: string): string => `w.ns = $1 AND w.name = ${name} AND w.place > 0 AND ${inForce('w')}`

/** In force: it was renewed in time. */
export const inForce = (row: string): string => `${row}.until > clock_timestamp()`
export const interestEnd: string = `clock_timestamp() + ${INTEREST_MS} * interval '1 millisecond'`

/** A statement of this transaction sees what was committed before it, and not only what was before the transaction. */
export const seesCommits = `current_setting('transaction_isolation') ~ '^read '`

/** Nothing is lost when the server crashes right after it: what is written is forgotten then anyway. */
export const asynchronously = `PERFORM set_config('synchronous_commit', 'off', true);`

/** Whose term the row `l` has ended; null: the caller's own. */
export const endedOf = (client: string): string => `nullif(left(l.nonce, ${CLIENT_LENGTH}), ${client})`

/** Joins `w` to the rows `r` by the key, as `lockedRow` does. */
export const sameWaiter: string =
  '(w.ns, w.name, w.place, w.client) >= (r.ns, r.name, r.place, r.client) AND (w.ns, w.name, w.place, w.client) <= (r.ns, r.name, r.place, r.client)'

/** The fields of the state that the operation does not tell, where it was done. */
export const pick = (row: string, ...fields: readonly StateField[]): Readonly<Record<string, string>> =>
  Object.fromEntries(fields.map((field) => [field, stateOf(row)[field]]))
