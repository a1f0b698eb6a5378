/**
 * The statement behind a key: a connection of `pg`, or the transaction of an ORM or driver that has another shape.
 *
 * They are recognised by their methods. What one of them is mistaken for does no harm: the guard finds out by two statements whether they
 * are in one transaction (`guard.ts`). packages/lease-drivers passes the transaction of each real package.
 */
import type { PostgresTransaction } from './driver.ts'

type Query = PostgresTransaction['query']
// oxlint-disable-next-line typescript/no-explicit-any -- methods of a stranger
type Stranger = any

interface WayIn {
  readonly name: string
  /** By these methods its transactions are recognised, and nothing else that can be a key has them. */
  readonly methods: readonly string[]
  /** How a statement runs in the transaction; undefined: this one has none, or does not show it. */
  readonly query?: (tx: Stranger) => Query | undefined
  /** What to write where that is so. `tx` is the transaction. */
  readonly line: string
}

const passIt = 'await token.check(tx)'

/** Rows alone. */
const rowsBy =
  (rows: (text: string, values: readonly unknown[]) => Promise<readonly unknown[]>): Query =>
  async (text, values) => ({ rows: [...(await rows(text, values))] })

/** Knex numbers no parameters. */
const byKnex =
  (knex: Stranger): Query =>
  (text, values) =>
    knex.raw(text.replaceAll(/\$\d/g, '?'), values)

/** A query that Kysely runs as it is. */
const rawOfKysely = (sql: string, parameters: readonly unknown[]): object => ({
  sql,
  parameters,
  query: { kind: 'RawNode', sqlFragments: [sql], parameters: [] },
  queryId: { queryId: 'lease' },
})

const waysIn: readonly WayIn[] = [
  {
    name: 'Prisma',
    methods: ['$queryRawUnsafe'],
    query: (tx) => rowsBy((text, values) => tx.$queryRawUnsafe(text, ...values)),
    line: passIt,
  },
  {
    name: 'Kysely',
    methods: ['executeQuery', 'selectFrom'],
    query: (tx) => (text, values) => tx.executeQuery(rawOfKysely(text, values)),
    line: passIt,
  },
  {
    name: 'Drizzle',
    methods: ['execute', 'select', 'transaction'],
    query: (tx) => queryOf(tx.session?.client),
    line: 'await token.check(guard); const held = await tx.execute(sql`SELECT 1 WHERE ${guard.with(sql)}`); guard.assertHeld(held.rowCount), or held.count on postgres.js',
  },
  {
    name: 'MikroORM',
    methods: ['getTransactionContext'],
    query: (tx) => queryOf(tx.getTransactionContext()),
    line: passIt,
  },
  {
    name: 'TypeORM',
    methods: ['query', 'createQueryBuilder'],
    query: (tx) => rowsBy((text, values) => tx.query(text, values)),
    line: passIt,
  },
  {
    name: 'TypeORM',
    methods: ['query', 'commitTransaction'],
    query: (tx) => rowsBy((text, values) => tx.query(text, values)),
    line: passIt,
  },
  {
    name: 'Sequelize',
    methods: ['commit', 'rollback', 'afterCommit'],
    query: (tx) => {
      const { sequelize } = tx
      if (typeof sequelize?.query !== 'function') return undefined
      return rowsBy((text, bind) => sequelize.query(text, { bind, transaction: tx, type: 'SELECT' }))
    },
    line: passIt,
  },
  { name: 'Sequelize', methods: ['query', 'define'], line: passIt },
  { name: 'Objection', methods: ['query', 'bindKnex'], line: passIt },
  {
    name: 'Slonik',
    methods: ['query', 'oneFirst'],
    line: 'await token.check({ query: (text, values) => tx.query({ ...sql.unsafe``, sql: text, values }) })',
  },
  {
    name: 'pg-promise',
    methods: ['result', 'oneOrNone'],
    query: (tx) => (text, values) => tx.result(text, values),
    line: passIt,
  },
  {
    name: 'postgres.js',
    methods: ['unsafe', 'array'],
    query: (tx) => rowsBy((text, values) => tx.unsafe(text, values)),
    line: passIt,
  },
  { name: 'Knex or Objection', methods: ['raw', 'table'], query: byKnex, line: passIt },
]

/** What runs a statement where this key is, or what to write instead; neither: it is nothing that is known. */
export interface Entry {
  /** In `query` alone, for a transaction that is not of `pg`. */
  readonly transaction?: PostgresTransaction
  readonly instead?: string
}

export function entryOf(key: unknown): Entry {
  const found = waysIn.find(({ methods }) => methods.every((method) => isMethodOf(key, method)))
  if (found === undefined) return isMethodOf(key, 'query') ? { transaction: key as PostgresTransaction } : {}
  const query = found.query?.(key)
  if (query !== undefined) return { transaction: { query } }
  const { name, line } = found
  return { instead: `this key is ${name}, but no transaction of it. Inside of a transaction, write: ${line}` }
}

function queryOf(key: unknown): Query | undefined {
  const { transaction } = entryOf(key)
  return transaction && ((text, values) => transaction.query(text, values))
}

/** Some are functions themselves. */
export function isMethodOf(key: unknown, method: string): boolean {
  if ((typeof key !== 'object' && typeof key !== 'function') || key === null) return false
  return typeof (key as Record<string, unknown>)[method] === 'function'
}
