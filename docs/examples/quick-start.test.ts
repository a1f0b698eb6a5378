import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { enoughOf, freshDatabase, postgresTargets, startEtcd, startRedis } from 'lease-servers'
import { Client } from 'pg'
import { etcdQuickStart } from './etcd-quick-start.ts'
import { withdrawInMemory } from './in-memory.ts'
import { nodeRedisQuickStart } from './node-redis.ts'
import { postgresJsQuickStart } from './postgres-js.ts'
import { quickStart } from './quick-start.ts'
import { redisQuickStart } from './redis-quick-start.ts'
import { valkeyGlideQuickStart } from './valkey-glide.ts'

describe('example: quick start', () => {
  for (const target of enoughOf(postgresTargets())) {
    for (const [driver, example] of Object.entries({ pg: quickStart, 'postgres.js': postgresJsQuickStart })) {
      it(`withdraws once, on ${target.name}, by ${driver}`, async () => {
        await using database = await freshDatabase(target)
        const client = new Client({ connectionString: database.url })
        await client.connect()
        await client.query('CREATE TABLE account (id integer PRIMARY KEY, balance integer NOT NULL)')
        await client.query('INSERT INTO account VALUES (42, 100)')
        await example(database.url)
        expect((await client.query('SELECT balance FROM account')).rows).to.deep.equal([{ balance: 90 }])
        expect((await client.query('SELECT holder FROM lease')).rows).to.deep.equal([{ holder: null }])
        await client.end()
      })
    }
  }

  // On servers of their own: the names in these examples may mean something on another.
  it('withdraws once, on Redis, by ioredis, by node-redis and by valkey-glide', async () => {
    await using server = await startRedis()
    const redis = new Redis(server.url)
    for (const example of [redisQuickStart, nodeRedisQuickStart, valkeyGlideQuickStart]) {
      await redis.hset('{billing}:account-42', 'balance', 100)
      await example(server.url)
      expect(await redis.hget('{billing}:account-42', 'balance')).to.equal('90')
      expect(await redis.keys('lease:{billing}:l:*')).to.deep.equal([])
    }
    redis.disconnect()
  })

  it('withdraws once, on etcd', async () => {
    await using server = await startEtcd()
    await etcdQuickStart([...server.endpoints])
    const etcd = new Etcd3({ hosts: [...server.endpoints] })
    expect(await etcd.getAll().strings()).to.deep.equal({ 'balance/42': '90', 'lease/billing/v': '2' }) // the layout
    etcd.close()
  })

  it('withdraws once, in memory', async () => {
    const accounts = new Map([[42, 100]])
    await withdrawInMemory(accounts)
    expect(accounts.get(42)).to.equal(90)
  })
})
