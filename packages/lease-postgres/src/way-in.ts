/**
 * What to pass as a key instead of a transaction of an ORM or driver that has another shape than `pg`.
 *
 * The lines are those of the table in docs/substrates/postgres.md, and packages/lease-drivers runs each of them.
 */

interface WayIn {
  readonly name: string
  /** By these methods its transactions are recognised, and nothing that can be a key has them. */
  readonly methods: readonly string[]
  /** `tx` is the transaction. */
  readonly line: string
}

const overKnex = (trx: string): string =>
  `await token.check({ query: (text, values) => ${trx}.raw(text.replace(/\\$\\d/g, '?'), values) })`
const overRows = (rows: string): string =>
  `await token.check({ query: async (text, values) => ({ rows: await ${rows} }) })`
const overSequelize = overRows('sequelize.query(text, { bind: values, transaction: tx, type: QueryTypes.SELECT })')

const waysIn: readonly WayIn[] = [
  { name: 'Prisma', methods: ['$queryRawUnsafe'], line: overRows('tx.$queryRawUnsafe(text, ...values)') },
  {
    name: 'Kysely',
    methods: ['executeQuery', 'selectFrom'],
    line: 'await token.check({ query: (text, values) => tx.executeQuery(CompiledQuery.raw(text, values)) })',
  },
  {
    name: 'Drizzle',
    methods: ['execute', 'select', 'transaction'],
    line: 'await token.check(guard); const held = await tx.execute(sql`SELECT 1 WHERE ${guard.with(sql)}`); guard.assertHeld(held.rowCount), or held.count on postgres.js',
  },
  { name: 'MikroORM', methods: ['getTransactionContext'], line: overKnex('tx.getTransactionContext<Knex>()?') },
  { name: 'TypeORM', methods: ['query', 'createQueryBuilder'], line: overRows('tx.query(text, values)') },
  { name: 'TypeORM', methods: ['query', 'commitTransaction'], line: overRows('tx.query(text, values)') },
  { name: 'Sequelize', methods: ['commit', 'rollback', 'afterCommit'], line: overSequelize },
  { name: 'Sequelize', methods: ['query', 'define'], line: overSequelize },
  { name: 'Objection', methods: ['query', 'bindKnex'], line: overKnex('tx') },
  {
    name: 'Slonik',
    methods: ['query', 'oneFirst'],
    line: 'await token.check({ query: (text, values) => tx.query({ ...sql.unsafe``, sql: text, values }) })',
  },
  {
    name: 'pg-promise',
    methods: ['result', 'oneOrNone'],
    line: 'await token.check({ query: (text, values) => tx.result(text, values) })',
  },
  { name: 'postgres.js', methods: ['unsafe', 'array'], line: overRows('tx.unsafe(text, values)') },
  { name: 'Knex or Objection', methods: ['raw', 'table'], line: overKnex('tx') },
]

/** What to write where such a transaction was passed as a key; undefined: it is none of them. */
export function wayInFor(key: unknown): string | undefined {
  const found = waysIn.find(({ methods }) => methods.every((method) => isMethodOf(key, method)))
  return (
    found && `this key is a transaction of ${found.name}, or its client. Inside of a transaction, write: ${found.line}`
  )
}

/** Some are functions themselves. */
function isMethodOf(key: unknown, method: string): boolean {
  if ((typeof key !== 'object' && typeof key !== 'function') || key === null) return false
  return typeof (key as Record<string, unknown>)[method] === 'function'
}
