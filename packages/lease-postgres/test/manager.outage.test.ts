/** What applications live through when the server, or the way to it, fails: a Manager over real connections. */
import type { Client } from 'lease-core'
import { migrate, postgresClient } from 'lease-postgres'
import { foundAgain, outages, overAccident, type Way } from 'lease-scenes'
import { enoughOf, freshDatabase, type Postgres, postgresTargets, startPostgres, startProxy } from 'lease-servers'
import { after, before, describe, it } from 'mocha'
import { Client as Connection, Pool } from 'pg'

for (const target of enoughOf(postgresTargets())) {
  describe(`a manager whose way to ${target.name} fails`, () => {
    let direct: Pool
    let pool: Pool
    let way: Way
    let drop: () => Promise<void>

    before(async () => {
      const database = await freshDatabase(target)
      drop = () => database.drop()
      direct = new Pool({ connectionString: database.url })
      direct.on('error', () => {})
      await migrate(direct)
      const proxy = await startProxy(database.url)
      pool = new Pool({ connectionString: proxy.url(database.url) })
      way = {
        proxy,
        open: (namespace, requestTimeout = 5_000) => postgresClient({ pool, namespace, requestTimeout }),
        claiming: /lease_claim_/,
        async stored(namespace, lease) {
          const text = 'SELECT holder, token::text FROM lease WHERE ns = $1 AND name = $2 AND holder IS NOT NULL'
          return (await direct.query<{ holder: string; token: string }>(text, [namespace, lease])).rows[0]
        },
      }
    })
    after(async () => {
      await pool.end()
      await way.proxy.close()
      await direct.end()
      await drop()
    })

    outages(() => way)

    foundAgain(() => ({
      proxies: [way.proxy],
      open: (namespace) => postgresClient({ pool, namespace, listen: false, requestTimeout: 1_000 }),
      async bare() {
        const connection = new Connection({ connectionString: pool.options.connectionString })
        connection.on('error', () => {})
        await connection.connect()
        await connection.query('SELECT 1')
        await connection.end()
      },
    }))
  })
}

describe('a manager whose server is killed and comes back', () => {
  let server: Postgres
  before(async () => {
    server = await startPostgres({ version: 18, durable: true })
  })
  after(() => server.stop())

  it('holds, waiters and contenders recover by themselves, and nothing is rejected unheard', async () => {
    const pools: Pool[] = []
    const newPool = (): Pool => {
      const pool = new Pool({ connectionString: server.url })
      pools.push(pool)
      return pool
    }
    await migrate(newPool())
    const open = (): Client => postgresClient({ pool: newPool(), namespace: 'n' })
    await overAccident(open, async (_, noticed) => {
      await server.kill()
      await noticed()
      await server.restart()
    })
    for (const pool of pools) await pool.end()
  })
})
