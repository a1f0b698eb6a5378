/**
 * The tables and how they are named.
 *
 * One row per lease name ever claimed or pinned. A vacated lease keeps its row, for the row keeps the fencing token;
 * `collect` removes old ones and remembers the highest token removed in the second table, the floor. The third says whom to notify of
 * what: those in the queue of a lease, those who watch it, and those who watch the namespace. The fourth has a row for each
 * counted lease. The fifth says which layout the tables have.
 */
import { createHash } from 'node:crypto'
import { notValid, type Problem } from 'lease-core'

/**
 * The layout that this release reads and writes. 1 had no version and no columns `opened`, `opener`, `generations`, `unpinned` and `valued`.
 * It rises when a release before could not go on beside this one. Whether what this one needs is there, its functions tell.
 */
export const LAYOUT = 2

/** Where the tables are. */
export interface TableOptions {
  /** @default the first schema of the connection's search_path */
  readonly schema?: string | undefined
  /** The table of the leases; `<table>_floor`, `<table>_waiter`, `<table>_counts`, `<table>_layout` and the indexes `<table>_pinned` and `<table>_share` are named after it. @default 'lease' */
  readonly table?: string | undefined
}

/** Table names, quoted. */
export interface Tables {
  /** Ahead of a name in a statement: empty where the connection's search_path finds the tables, or the schema and a dot. */
  readonly prefix: string
  /** For statements. */
  readonly inStatement: { readonly lease: string; readonly waiter: string; readonly layout: string }
  /** For the texts of functions, which name the schema always: `HOME` stands for it until `migrate` knows it. */
  readonly lease: string
  readonly floor: string
  readonly waiter: string
  readonly counts: string
  readonly layout: string
}

/** In the text of a function: the schema of the tables, quoted. No name can contain it. */
export const HOME = '\0home'
/** In the text of a function: what the schema adds to the channel of the hints (`hintSuffix`), inside of a literal. */
export const HOME_SUFFIX = '\0suffix'

/** Begins the name of the channel of one client; the rest is its name. */
export const CLIENT_CHANNEL = 'lease_'
/** Takes the place of as many letters of the channel of a namespace: all who listen for anything in it hear this channel. */
export const EVERYONE = 'every'

/** Ends the name of the channel on which hints about leases in this schema are sent: NOTIFY knows no schemas. */
export function hintSuffix(schema: string): string {
  return `_${createHash('sha256').update(schema).digest('hex').slice(0, 16)}`
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
  const inPath = (suffix: string): string => prefix + quoteIdentifier(table + suffix)
  const named = (suffix: string): string => `${HOME}.${quoteIdentifier(table + suffix)}`
  return {
    prefix,
    inStatement: { lease: inPath(''), waiter: inPath('_waiter'), layout: inPath('_layout') },
    lease: named(''),
    floor: named('_floor'),
    waiter: named('_waiter'),
    counts: named('_counts'),
    layout: named('_layout'),
  }
}

export function tableProblems({ schema, table }: TableOptions): Problem[] {
  return [
    ...nameProblems('schema', schema, MAX_IDENTIFIER_BYTES),
    ...nameProblems('table', table, MAX_IDENTIFIER_BYTES - LONGEST_SUFFIX.length),
  ]
}

/** @throws ErrNotValid unless it is the name of a role, or undefined */
export function checkOwner(owner: unknown): void {
  const problems = nameProblems('owner', owner, MAX_IDENTIFIER_BYTES)
  if (problems.length > 0) throw notValid(problems)
}

function nameProblems(argument: string, value: unknown, maxBytes: number): Problem[] {
  if (value === undefined) return []
  let rule: string | undefined
  if (typeof value !== 'string') rule = 'must be a string'
  else if (value === '') rule = 'must not be empty'
  else if (value.includes('\0') || /\p{Cs}/u.test(value)) rule = 'must be well-formed Unicode without NUL'
  else if (argument === 'schema' && value.startsWith('pg_'))
    rule = 'must not begin with pg_, as those of PostgreSQL itself do'
  else if (Buffer.byteLength(value) > maxBytes) rule = `must be at most ${maxBytes} bytes`
  return rule === undefined ? [] : [{ argument, rule, value }]
}

/** Safe for any string without NUL. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

export function quoteLiteral(text: string): string {
  // E'' means the same whatever standard_conforming_strings says.
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
