/**
 * The tables and how they are named.
 *
 * One row per lease name ever claimed or pinned. A vacated lease keeps its row, for the row keeps the fencing token;
 * `collect` removes old ones and remembers the highest token removed in the second table, the floor. The third says whom to notify of
 * what: those in the queue of a lease, those who watch it, and those who watch the namespace. The fourth has a row for each
 * counted lease. The fifth says which layout the tables have.
 */
import { createHash } from 'node:crypto'
import type { OptionReader } from 'lease-core/adapter'

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

/** @param options checked (`checkTableNames`) */
export function tablesOf({ schema, table = 'lease' }: TableOptions): Tables {
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

/** Checks the names of the tables. */
export function checkTableNames(options: OptionReader): void {
  checkName(options, 'schema', MAX_IDENTIFIER_BYTES)
  checkName(options, 'table', MAX_IDENTIFIER_BYTES - LONGEST_SUFFIX.length)
}

/** Checks the name of a role. */
export function checkOwner(options: OptionReader): void {
  checkName(options, 'owner', MAX_IDENTIFIER_BYTES)
}

function checkName(options: OptionReader, name: string, maxBytes: number): void {
  options.ruled<unknown>(name, (value) => {
    if (typeof value !== 'string') return 'must be a string'
    if (value === '') return 'must not be empty'
    if (value.includes('\0') || /\p{Cs}/u.test(value)) return 'must be well-formed Unicode without NUL'
    if (name === 'schema' && value.startsWith('pg_')) return 'must not begin with pg_, as those of PostgreSQL itself do'
    return Buffer.byteLength(value) > maxBytes ? `must be at most ${maxBytes} bytes` : undefined
  })
}

/** Safe for any string without NUL. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

export function quoteLiteral(text: string): string {
  // E'' means the same whatever standard_conforming_strings says.
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
