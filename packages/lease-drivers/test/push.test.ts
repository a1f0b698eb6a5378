/** Tools that make a database as an application declares it, and drop the rest: what becomes of the leases. */
import { expect } from 'chai'
import { Manager } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import { unique } from 'lease-scenes'
import { freshDatabase, isMatrix, postgresTargets } from 'lease-servers'
import { Pool } from 'pg'
import { pushTools, type PushTool } from './push-tools.ts'

/** What is in this schema: tables and functions, by their names. */
async function contents(pool: Pool, schema: string): Promise<string[]> {
  const { rows } = await pool.query<{ name: string }>(
    `SELECT relname AS name FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'
     UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace($1) ORDER BY name`,
    [schema],
  )
  return rows.map(({ name }) => name)
}

/** A database with a table that nobody has declared, beside the one that the application declares. */
async function withPool(
  target: { readonly url: string },
  body: (pool: Pool, url: string) => Promise<void>,
): Promise<void> {
  await using database = await freshDatabase(target)
  const pool = new Pool({ connectionString: database.url })
  pool.on('error', () => {}) // the database is dropped before the last connection is closed
  try {
    await pool.query('CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL); CREATE TABLE stranger (id int)')
    await body(pool, database.url)
  } finally {
    await pool.end()
  }
}

describe('tools that push a schema', () => {
  let tools: readonly PushTool[] | Error

  before(async function () {
    if (!isMatrix()) return
    this.timeout(600_000) // the first time they are installed
    tools = await pushTools()
  })

  for (const target of postgresTargets()) {
    for (const name of ['drizzle-kit push', 'prisma db push']) {
      const declare = (title: string, body: (tool: PushTool) => Promise<void>): unknown => {
        const what = `${name} on ${target.name} ${title}`
        if (!isMatrix()) return it.skip(`${what} (skipped: in test:matrix, for the tools take a minute)`, () => {})
        return it(what, async function () {
          if (tools instanceof Error) {
            this.test!.title += ` (skipped: could not be installed: ${tools.message.split('\n').at(-1)})`
            this.skip()
          }
          await body(tools.find((tool) => tool.name === name) ?? expect.fail())
        })
      }

      declare('leaves leases alone in a schema of their own', (tool) =>
        withPool(target, async (pool, url) => {
          const schema = 'leases'
          await migrate(pool, { schema })
          const made = await contents(pool, schema)
          expect(made).to.include.members(['lease', 'lease_floor', 'lease_layout', 'lease_waiter'])
          const client = postgresClient({ pool, namespace: unique('n'), schema, listen: false })
          const manager = new Manager({ client })
          try {
            const token = await manager.claim('l', 'a', 600_000)
            const { fencingToken } = await token.check()
            const printed = await tool.push(url, ['public'])
            // It did its work: nobody has declared this one.
            expect(await contents(pool, 'public'), printed).to.deep.equal(['account'])
            expect(await contents(pool, schema), printed).to.deep.equal(made)
            await manager.claim('l', 'a', 600_000)
            expect((await token.check()).fencingToken).to.equal(fencingToken)
            expect(await migrate(pool, { schema })).to.deep.equal({ outdated: [] })
          } finally {
            await manager.stop()
            await client.close()
          }
        }),
      )

      declare('drops them, as any table that it does not know, where it manages their schema', (tool) =>
        withPool(target, async (pool, url) => {
          await migrate(pool)
          const printed = await tool.push(url, ['public'])
          const left = await contents(pool, 'public')
          expect(left, printed).to.include('account').and.not.include('lease')
          // migrate() makes them again; what was held is gone.
          await migrate(pool)
          expect(await contents(pool, 'public')).to.include.members(['lease', 'lease_waiter'])
        }),
      )
    }
  }
})
