/** The kit over postgres.js: the matrix alone runs it, `postgres-js.test.ts` tries the driver in the test command. */
import { SubstrateClient } from 'lease-core/adapter'
import { conformance, faultsOf, type Guard, type Harness } from 'lease-core/conformance'
import { FaultySubstrate } from 'lease-core/testing'
import { migrate, postgresClient, PostgresSubstrate, SqlGuard, type OpenPostgresJs } from 'lease-postgres'
import { sleep } from 'lease-scenes'
import {
  freshDatabase,
  isMatrix,
  postgresTargets,
  startPostgres,
  type FreshDatabase,
  type Postgres,
} from 'lease-servers'
import { after, before, describe, it } from 'mocha'
import postgres from 'postgres'

for (const target of isMatrix() ? postgresTargets() : []) {
  describe(`lease-postgres over postgres.js, on ${target.name}`, () => {
    const isOwn = process.env['DATABASE_URL'] === undefined
    let server: Postgres | undefined
    let database: FreshDatabase
    let sql: postgres.Sql
    const pool: OpenPostgresJs = () => postgres(database.url, { max: 1 })
    before(async () => {
      server = isOwn ? await startPostgres({ version: target.version === 15 ? 15 : 18 }) : undefined // one of its own, for the kit restarts it
      database = await freshDatabase(server ?? target)
      await migrate(() => postgres(database.url, { max: 1, onnotice: () => {} }))
      sql = postgres(database.url)
      await sql`CREATE TABLE written (at serial, text text)`
    })
    after(async () => {
      await sql.end()
      await database.drop()
      await server?.stop()
    })

    let turn = 0
    /** Transactions gated by one key and by the other, in turn. */
    const guard: Guard = {
      async write(trapdoor, text) {
        await sql.begin(async (tx) => {
          if (turn++ % 2 === 0) {
            await trapdoor(tx)
            await tx`INSERT INTO written (text) VALUES (${text})`
          } else {
            const guard = new SqlGuard()
            await trapdoor(guard)
            const { count } = await tx`INSERT INTO written (text) SELECT ${text} WHERE ${guard.with(tx)}`
            guard.assertHeld(count)
          }
        })
      },
      outside: (trapdoor) => trapdoor(sql),
      async written() {
        return (await sql<{ text: string }[]>`SELECT text FROM written ORDER BY at`).map(({ text }) => text)
      },
    }
    const harness: Harness = {
      name: `postgres.js, on ${target.name}`,
      supports: { notifications: true, queues: true, addressed: true, serverClock: true, shares: true },
      unitMs: 250,
      sleep,
      open: async (namespace) => postgresClient({ pool, namespace, requestTimeout: 30_000 }),
      openFaulty: async (namespace, requestTimeout) => {
        const substrate = new FaultySubstrate(new PostgresSubstrate({ pool, namespace }))
        return { client: new SubstrateClient({ substrate, requestTimeout }), faults: faultsOf(substrate) }
      },
      guard,
      ...(isOwn ? { restart: async () => server?.restart() } : {}),
    }
    conformance({ describe, it, before, after }, harness)
  })
}
