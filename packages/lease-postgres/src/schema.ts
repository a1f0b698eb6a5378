/**
 * The tables, how they are named and how they come to be.
 *
 * One row per lease name ever claimed or pinned. A vacated lease keeps its row, for the row keeps the fencing token;
 * `collect` removes old ones and remembers the highest token removed in the second table, the floor. The third keeps the
 * lines of those who wait (`line.ts` of lease-core).
 */
import { notValid, type Problem } from 'lease-core'
import { onConnection } from './connection.ts'
import type { PostgresPool } from './driver.ts'

/** Where the tables are. */
export interface TableOptions {
  /** @default the first schema of the connection's search_path */
  readonly schema?: string | undefined
  /** The table of the leases; `<table>_floor`, `<table>_line` and the index `<table>_pinned` are named after it. @default 'lease' */
  readonly table?: string | undefined
}

/** Table names, quoted and ready for a statement. */
export interface Tables {
  readonly lease: string
  readonly floor: string
  readonly line: string
}

/** PostgreSQL cuts longer identifiers silently, and then two tables would be one. */
const MAX_IDENTIFIER_BYTES = 63
const LONGEST_SUFFIX = '_pinned'

/** @throws ErrNotValid with every problem */
export function tablesOf(options: TableOptions): Tables {
  const problems = tableProblems(options)
  if (problems.length > 0) throw notValid(problems)
  const { schema, table = 'lease' } = options
  const prefix = schema === undefined ? '' : `${quoteIdentifier(schema)}.`
  const named = (suffix: string): string => prefix + quoteIdentifier(table + suffix)
  return { lease: named(''), floor: named('_floor'), line: named('_line') }
}

export function tableProblems({ schema, table }: TableOptions): Problem[] {
  const problems: Problem[] = []
  const check = (argument: string, value: unknown, maxBytes: number): void => {
    if (value === undefined) return
    let rule: string | undefined
    if (typeof value !== 'string') rule = 'must be a string'
    else if (value === '') rule = 'must not be empty'
    else if (value.includes('\0') || /\p{Cs}/u.test(value)) rule = 'must be well-formed Unicode without NUL'
    else if (Buffer.byteLength(value) > maxBytes) rule = `must be at most ${maxBytes} bytes`
    if (rule !== undefined) problems.push({ argument, rule, value })
  }
  check('schema', schema, MAX_IDENTIFIER_BYTES)
  check('table', table, MAX_IDENTIFIER_BYTES - LONGEST_SUFFIX.length)
  return problems
}

/**
 * Creates what is missing: schema, tables, index. Idempotent, and safe when many processes start at once: they queue
 * at an advisory lock that ends with the transaction.
 *
 * @throws ErrNotValid the options break a rule; otherwise what the driver throws
 */
export async function migrate(pool: PostgresPool, options: TableOptions = {}): Promise<void> {
  const text = migrationSql(options)
  // Without values, so that the statements travel as one message and are thereby one transaction.
  await onConnection(pool, undefined, (client) => client.query({ text }))
}

/**
 * The statements that `migrate` runs, for people who migrate by hand. Run them in one transaction where several may run
 * them at once: the advisory lock lasts as long as that.
 *
 * @throws ErrNotValid the options break a rule
 */
export function migrationSql(options: TableOptions = {}): string {
  const { lease, floor, line } = tablesOf(options)
  const { schema, table = 'lease' } = options
  return `-- one at a time: CREATE .. IF NOT EXISTS alone fails when two run it at once
SELECT pg_advisory_xact_lock(${MIGRATION_LOCK});
${schema === undefined ? '' : createSchema(schema)}
CREATE TABLE IF NOT EXISTS ${lease} (
  ns text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  holder text,                        -- NULL: vacant
  token bigint NOT NULL,              -- fencing token of the present term, or of the last
  expiry timestamptz NOT NULL,
  nonce text,                         -- of the claim that opened the term
  value text,
  pins text[] NOT NULL DEFAULT '{}',  -- the entities that pin it
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- No index on anything that a renewal writes: renewals then stay within their page (HOT).
CREATE INDEX IF NOT EXISTS ${quoteIdentifier(`${table}_pinned`)} ON ${lease} (ns) WHERE pins <> '{}';

CREATE TABLE IF NOT EXISTS ${floor} (
  ns text COLLATE "C" PRIMARY KEY,
  token bigint NOT NULL               -- no lease unknown to the other table ever had a higher one
);

-- Who is next, of those who wait for a lease. No promise hangs on it, so it is not logged.
CREATE UNLOGGED TABLE IF NOT EXISTS ${line} (
  ns text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  last int NOT NULL,                  -- the last place given
  served int NOT NULL,                -- the last place whose owner was granted the lease
  at timestamptz NOT NULL,            -- when the last place was given
  PRIMARY KEY (ns, name)
) WITH (fillfactor = 50);
`
}

/** Any constant; the same for all tables, since two schemas may be created at once as well. */
const MIGRATION_LOCK = '7811887010271462'

/** CREATE SCHEMA IF NOT EXISTS asks for the right to create one even where it exists. */
function createSchema(schema: string): string {
  const body = `BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = ${quoteLiteral(schema)}) THEN
    CREATE SCHEMA ${quoteIdentifier(schema)};
  END IF;
END`
  return `DO ${quoteLiteral(body)};`
}

/** Safe for any string without NUL. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

function quoteLiteral(text: string): string {
  // E'' means the same whatever standard_conforming_strings says.
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
