/**
 * The tables and how they are named.
 *
 * One row per lease name ever claimed or pinned. A vacated lease keeps its row, for the row keeps the fencing token;
 * A claim of any of several leases leaves one more, for a few seconds: its name begins with a blank, and then comes the nonce.
 * `collect` removes old ones and remembers the highest token removed in the second table, the floor. The third keeps the
 * lines of those who wait (`line.ts` of lease-core). The fourth says which layout the tables have.
 */
import { notValid, type Problem } from 'lease-core'

/**
 * The layout that this release reads and writes. 1 had no version and no columns `opened`, `opener`, `generations`, `unpinned` and `valued`.
 * It rises when a release before could not go on beside this one, or this one cannot do without what `migrate` adds.
 */
export const LAYOUT = 2

/** Where the tables are. */
export interface TableOptions {
  /** @default the first schema of the connection's search_path */
  readonly schema?: string | undefined
  /** The table of the leases; `<table>_floor`, `<table>_line`, `<table>_layout` and the index `<table>_pinned` are named after it. @default 'lease' */
  readonly table?: string | undefined
}

/** Table names, quoted and ready for a statement. */
export interface Tables {
  /** Of every name in this schema: empty, or the schema and a dot. */
  readonly prefix: string
  readonly lease: string
  readonly floor: string
  readonly line: string
  readonly layout: string
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
  return { prefix, lease: named(''), floor: named('_floor'), line: named('_line'), layout: named('_layout') }
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

/** Safe for any string without NUL. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

export function quoteLiteral(text: string): string {
  // E'' means the same whatever standard_conforming_strings says.
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
