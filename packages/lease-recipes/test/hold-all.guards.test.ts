/** The token of several leases as it guards writes in each store: all terms stand, or nothing is written. */
import { expect } from 'chai'
import { ErrNotHeld, Manager, type Client, type Token } from 'lease-core'
import { EtcdGuard, etcdClient, failFast } from 'lease-etcd'
import { migrate, postgresClient, SqlGuard } from 'lease-postgres'
import { RedisGuard, redisClient } from 'lease-redis'
import { etcdTargets, freshDatabase, postgresTargets, redisTargets, type FreshDatabase } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { Pool } from 'pg'
import { holdAll } from 'lease-recipes'
import { rejection } from './bench.ts'
import { unique } from './stores.ts'

/** How a store is written to under a token. */
interface Guarded {
  client(namespace: string): Client
  /** @throws ErrNotHeld, and nothing is written */
  write(token: Token, namespace: string): Promise<unknown>
  close(): Promise<unknown>
}

const guarded = new Map<string, () => Promise<Guarded>>()

for (const target of redisTargets('server')) {
  guarded.set(target.name, async () => {
    const redis = new Redis(target.url)
    return {
      client: (namespace) => redisClient({ redis, namespace }),
      write: async (token, namespace) => {
        const guard = new RedisGuard()
        await token.check(guard)
        await guard.run(redis, `return redis.call('SET', KEYS[1], 'x', 'PX', 60000)`, [`{${namespace}}:written`], [])
      },
      close: async () => redis.disconnect(),
    }
  })
}
for (const target of etcdTargets(1)) {
  guarded.set(target.name, async () => {
    const etcd = new Etcd3({ hosts: [...target.endpoints], ...failFast() })
    return {
      client: (namespace) => etcdClient({ etcd, namespace }),
      write: async (token, namespace) => {
        const guard = new EtcdGuard()
        await token.check(guard)
        const key = `written/${namespace}`
        guard.assertHeld(await guard.if(etcd).then(etcd.put(key).value('x')).commit())
        await etcd.delete().key(key)
      },
      close: async () => etcd.close(),
    }
  })
}
for (const [kind, statement] of [
  ['a predicate', false],
  ['a connection', true],
] as const) {
  for (const target of postgresTargets().slice(0, 1)) {
    guarded.set(`${target.name}, ${kind}`, async () => {
      const database: FreshDatabase = await freshDatabase(target)
      const pool = new Pool({ connectionString: database.url })
      pool.on('error', () => {}) // the database is dropped before the last connection is closed
      await migrate(pool)
      await pool.query('CREATE TABLE written (namespace text)')
      const text = 'INSERT INTO written SELECT $1'
      return {
        client: (namespace) => postgresClient({ pool, namespace }),
        write: async (token, namespace) => {
          if (!statement) {
            const guard = new SqlGuard(2)
            await token.check(guard)
            const { rowCount } = await pool.query(`${text} WHERE ${guard.text}`, [namespace, ...guard.values])
            return guard.assertHeld(rowCount)
          }
          const connection = await pool.connect()
          try {
            await connection.query('BEGIN')
            await token.check(connection)
            await connection.query(text, [namespace])
            await connection.query('COMMIT')
          } catch (error) {
            await connection.query('ROLLBACK')
            throw error
          } finally {
            connection.release()
          }
        },
        close: async () => {
          await pool.end()
          await database.drop()
        },
      }
    })
  }
}

for (const [name, open] of guarded) {
  describe(`the token of several leases on ${name}`, () => {
    let store: Guarded
    before(async () => void (store = await open()))
    after(() => store.close())

    for (const lost of ['a', 'b', 'c']) {
      it(`a guarded write is refused when the lease "${lost}" of three is lost`, async () => {
        const namespace = unique('guards')
        const clients = [store.client(namespace), store.client(namespace)] as const
        const [manager, operator] = [new Manager({ client: clients[0] }), new Manager({ client: clients[1] })]
        const all = await holdAll(manager, ['c', 'a', 'b'], 'me', { duration: { minutes: 5 } })
        await store.write(all.token, namespace)
        await operator.revoke(lost)
        await operator.claim(lost, 'rival', { minutes: 5 })
        await rejection(store.write(all.token, namespace), ErrNotHeld)
        await all.release().catch((error: unknown) => expect(error).to.be.instanceOf(ErrNotHeld))
        await Promise.all([manager.stop(), operator.stop()])
        await Promise.all(clients.map((client) => client.close()))
      })
    }
  })
}
