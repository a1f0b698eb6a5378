import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import { Cluster, Redis } from 'ioredis'
import { MemoryStore, type Client } from 'lease-core'
import { failFast } from 'lease-etcd'
import { migrate } from 'lease-postgres'
import { enoughOf, etcdTargets, freshDatabase, postgresTargets, redisTargets } from 'lease-servers'
import { Pool } from 'pg'
import { inMemory, onEtcd, onPostgres, onRedis, sameProgram } from './same-program.ts'
import { printed } from './same-program.printed.ts'

describe('example: the same program on every substrate', () => {
  const namespace = `same-program-${process.pid}`

  async function prints(newClient: () => Client): Promise<string[]> {
    const lines: string[] = []
    await sameProgram(newClient, (line) => lines.push(line))
    return lines
  }

  it('prints the same in memory', async () => {
    const store = new MemoryStore()
    expect(await prints(() => inMemory(store))).to.deep.equal(printed)
  })

  for (const target of enoughOf(postgresTargets())) {
    it(`prints the same on ${target.name}`, async () => {
      await using database = await freshDatabase(target)
      const pool = new Pool({ connectionString: database.url })
      await migrate(pool)
      expect(await prints(() => onPostgres(pool, namespace))).to.deep.equal(printed)
      await pool.end()
    })
  }

  for (const target of redisTargets()) {
    it(`prints the same on ${target.name}`, async () => {
      const redis = target.kind === 'cluster' ? new Cluster([...target.nodes]) : new Redis(target.url)
      expect(await prints(() => onRedis(redis, namespace))).to.deep.equal(printed)
      redis.disconnect()
    })
  }

  for (const target of etcdTargets()) {
    it(`prints the same on ${target.name}`, async () => {
      const etcd = new Etcd3({ hosts: [...target.endpoints], ...failFast() })
      expect(await prints(() => onEtcd(etcd, namespace))).to.deep.equal(printed)
      etcd.close()
    })
  }
})
