/** What the functions of the database are made of (functions.ts): their frame, and the parts that several have in common. */
import { createHash } from 'node:crypto'
import type { Tables } from './schema.ts'

/** A function of the database. */
export interface DatabaseFunction {
  /** Without the schema; it needs no quotes. Its end depends on all of the text: another version is another function. */
  readonly name: string
  /** `CREATE FUNCTION ..` */
  readonly definition: string
  /** An expression that calls it with these parameters. */
  readonly with: (parameters: readonly string[]) => string
  /** The statement that calls it. The answer is one row of one column, `answer`: of operations, a list of `Columns` in JSON. */
  readonly call: string
}

/**
 * They end with the call. Plans are for any parameters from the first call on: one for the arrays at hand would expect one
 * row of them and always look cheaper than one that lasts. Rows are looked up by their key, and the estimates of many rows
 * that go with `lockedRow` are not worth a compiler.
 */
const settings = `SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off`

export function define(tables: Tables, name: string, parameters: readonly string[], lines: string): DatabaseFunction {
  return defineText(
    tables,
    name,
    parameters,
    `DECLARE
  met bigint[];   -- the operations that the first statement has done
  done json;      -- its answers
  others json;    -- the answers to the other operations
  gone json[];    -- what is to be told of: vacated,
  news json[];    -- held by another or with another value,
  passed json[];  -- taken by one who stood in line
BEGIN
${lines}
  RETURN concat('[', concat_ws(',', done, others), ']');
END`,
  )
}

export function defineText(
  { prefix }: Tables,
  name: string,
  parameters: readonly string[],
  body: string,
): DatabaseFunction {
  const head = `(${parameters.join(', ')}) RETURNS text LANGUAGE plpgsql\n${settings}`
  const digest = createHash('sha256')
    .update(prefix + head + body)
    .digest('hex')
    .slice(0, 16)
  const full = `lease_${name}_${digest}`
  const callWith = (values: readonly string[]): string => `${prefix}${full}(${values.join(', ')})`
  return {
    name: full,
    definition: `CREATE FUNCTION ${prefix}${full}${head} AS $_${digest}$\n${body}\n$_${digest}$`,
    with: callWith,
    call: `SELECT ${callWith(parameters.map((_, index) => `$${index + 1}`))} AS answer`,
  }
}

export const granted = `clock_timestamp() + r.ms * interval '1 millisecond'`
export const micros = `floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`
export const vacated = `holder = NULL, nonce = NULL, value = NULL`
export const returning = 'l.holder, l.token, l.expiry, l.value, l.pins'

/** A token for a row that is not there: above the server's clock of all earlier rows, and above the floor. */
export const firstToken = ({ floor }: Tables): string =>
  `greatest(${micros}, (SELECT f.token + 1 FROM ${floor} f WHERE f.ns = $1))`

/** The operations: one row each, from arrays. `ns` is there for `lockedRow`. */
export const operations = (arrays: string, columns: string): string =>
  `SELECT $1 AS ns, t.* FROM unnest(${arrays}) WITH ORDINALITY AS t(${columns}, n)`
export const inOrder = 'ORDER BY t.name COLLATE "C"'

/** The operations that the first statement left undone. */
export const undone = 't.n NOT IN (SELECT unnest(met))'
export const anyUndone = 'met IS NULL OR cardinality(met) < cardinality($2)'

/** The rows that meet the condition, locked one by one in the order of the operations in `from`. */
export const locked = ({ lease }: Tables, from: string, condition: string, lock: string, columns = ''): string =>
  `lk AS MATERIALIZED (
    SELECT r.*${columns === '' ? '' : ', l.*'} FROM ${from} r CROSS JOIN LATERAL (
      SELECT ${columns} FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name AND (${condition}) ${lock}
    ) l
  )`

/**
 * Joins the row to `lk r`. Written with `=`, the planner could as well read the whole namespace and sort or hash it, and
 * takes that for no dearer as long as the table is small. This way there is only the lookup by the key.
 */
export const lockedRow = '(l.ns, l.name) >= (r.ns, r.name) AND (l.ns, l.name) <= (r.ns, r.name)'

/** What a refusal tells: the row as this statement's snapshot has it. OFFSET 0 keeps the planner from joining otherwise. */
export const current = ({ lease }: Tables): string => `cur AS MATERIALIZED (
    SELECT r.n, l.* FROM req r CROSS JOIN LATERAL (
      SELECT ${returning}, l.nonce FROM ${lease} l WHERE l.ns = $1 AND l.name = r.name OFFSET 0
    ) l
  )`

/** The answers (`OpRow` in postgres-substrate.ts), one array for each of their fields: an object for each takes far longer. */
export const answers = (fields: Readonly<Record<string, string>>): string => {
  const columns = Object.entries(fields).map(([name, value]) => `'${name}', array_agg(${value})`)
  return `json_build_object(${columns.join(', ')})`
}

/** How each list is told, in the words of listener.ts. */
const payloads = {
  gone: (list: string): string => list,
  news: (list: string): string => `json_build_object('changed', ${list})`,
  passed: (list: string): string => `json_build_object('taken', ${list})`,
}

/** Tells of what is in the list. The server takes less than 8000 bytes at once; one name is at most 513 in JSON. */
export const tell = (channel: string, list: keyof typeof payloads): string => {
  const payload = payloads[list]
  return `
  IF ${channel} IS NOT NULL AND cardinality(${list}) > 0 THEN
    IF octet_length(to_json(${list})::text) < 7000 THEN
      PERFORM pg_notify(${channel}, ${payload(`to_json(${list})`)}::text);
    ELSE
      PERFORM pg_notify(${channel}, ${payload('json_agg(part.told)')}::text) FROM (
        SELECT told, sum(octet_length(told::text) + 2) OVER (ROWS UNBOUNDED PRECEDING) / 6000 AS nth FROM unnest(${list}) AS told
      ) part GROUP BY part.nth;
    END IF;
  END IF;`
}

/** What is known of a lease: from the row `first` if there is one, else from `second`. */
export const stateOf = (first: string, second?: string): Readonly<Record<string, string>> => {
  const column = (name: string): string =>
    second === undefined
      ? `${first}.${name}`
      : `CASE WHEN ${first}.name IS NULL THEN ${second}.${name} ELSE ${first}.${name} END`
  return {
    holder: column('holder'),
    token: `(${column('token')})::text`,
    remaining: `date_part('epoch', ${column('expiry')} - clock_timestamp()) * 1000`,
    value: column('value'),
    pinned: `${column('pins')} <> '{}'`,
  }
}
