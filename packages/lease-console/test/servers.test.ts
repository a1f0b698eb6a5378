/** The same console over real servers: what each of them knows, and that an action ends exactly the term on screen. */
import { expect } from 'chai'
import { createConsole, type LeaseConsole } from 'lease-console'
import { Manager, uniqueHolder, type Client } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { migrate, postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import { etcdTargets, freshDatabase, postgresTargets, redisTargets, until } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { Pool } from 'pg'
import { ALLOWED, get, post } from './requests.ts'

/** Two clients, as if of two processes, and what closes everything. */
interface Opened {
  readonly clients: readonly [Client, Client]
  close(): Promise<void>
}

const namespace = uniqueHolder('console')

const servers: readonly { readonly name: string; readonly knowsAge: boolean; open(): Promise<Opened> }[] = [
  ...redisTargets('server')
    .slice(0, 1)
    .map((target) => ({
      name: target.name,
      knowsAge: true,
      open: async () => {
        const drivers = [new Redis(target.url), new Redis(target.url)] as const
        const [a, b] = drivers
        return {
          clients: [redisClient({ redis: a, namespace }), redisClient({ redis: b, namespace })] as const,
          close: async () => drivers.forEach((driver) => driver.disconnect()),
        }
      },
    })),
  ...postgresTargets()
    .slice(0, 1)
    .map((target) => ({
      name: target.name,
      knowsAge: true,
      open: async () => {
        const database = await freshDatabase(target)
        const pool = new Pool({ connectionString: database.url })
        pool.on('error', () => {}) // the database is dropped before the last connection is closed
        await migrate(pool)
        return {
          clients: [postgresClient({ pool, namespace }), postgresClient({ pool, namespace })] as const,
          close: async () => {
            await pool.end()
            await database.drop()
          },
        }
      },
    })),
  ...etcdTargets(1).map((target) => ({
    name: target.name,
    knowsAge: false,
    open: async () => {
      const drivers = [1, 2].map(() => new Etcd3({ hosts: [...target.endpoints], ...failFast() }))
      const [a, b] = drivers as [Etcd3, Etcd3]
      return {
        clients: [etcdClient({ etcd: a, namespace }), etcdClient({ etcd: b, namespace })] as const,
        close: async () => drivers.forEach((driver) => driver.close()),
      }
    },
  })),
]

for (const server of servers) {
  describe(`a console on ${server.name}`, () => {
    let opened: Opened
    let workers: Manager
    let manager: Manager
    let console: LeaseConsole

    before(async () => {
      opened = await server.open()
      const [a, b] = opened.clients
      workers = new Manager({ client: a })
      manager = new Manager({ client: b })
      console = createConsole({ ...ALLOWED, managers: { billing: manager } })
    })
    after(async () => {
      await console.close()
      await Promise.all([workers.stop(), manager.stop()])
      for (const client of opened.clients) await client.close()
      await opened.close()
    })

    it('shows holder, age, pins and waiters, and revokes the term on screen and no other', async () => {
      await workers.claim('invoices', 'worker-1', { minutes: 5 })
      await workers.pin('invoices', 'dana')
      const stop = new AbortController()
      const waiting = workers
        .hold('invoices', 'worker-2', { duration: { minutes: 5 }, wait: true, signal: stop.signal })
        .catch((error: unknown) => error)
      const shown = async () => (await get(console, '/api/lease?namespace=billing&lease=invoices')).body
      await until('the waiter', async () => (await shown()).row.waiting === 1, 100)
      const { row, nowMs } = await shown()
      expect(row).to.deep.include({ lease: 'invoices', holder: 'worker-1', pinnedBy: ['dana'] })
      expect((row.expiresMs ?? 0) - nowMs).to.be.within(1, 600_000)
      expect(row.sinceMs === undefined).to.equal(!server.knowsAge)
      const list = await get(console, '/api/leases?namespace=billing&view=pinned')
      expect(list.body.rows.map(({ holder }) => holder)).to.deep.equal(['worker-1'])
      stop.abort()
      await waiting

      const body = { namespace: 'billing', lease: 'invoices', fencingToken: row.fencingToken, confirm: 'invoices' }
      const { status, body: answer } = await post(console, '/api/revoke', body)
      expect([status, answer.error]).to.deep.equal([200, undefined])
      expect(await workers.find('invoices')).to.equal(undefined)
      await workers.claim('invoices', 'worker-3', { minutes: 5 })
      expect((await post(console, '/api/revoke', body)).status).to.equal(409)
      expect((await workers.find('invoices'))?.holder).to.equal('worker-3')
    })
  })
}
