import { expect } from 'chai'
import { Cluster, Redis } from 'ioredis'
import { ErrClaimDenied } from 'lease-core'
import { redisTargets } from 'lease-servers'
import { failure } from './rivals.ts'
import { onCluster, onServers, type SpreadLeases } from './several-servers.ts'

const names = Array.from({ length: 64 }, (_, index) => `account-${index}`)

for (const target of redisTargets()) {
  describe(`example: leases in several namespaces, on ${target.name}`, () => {
    let redis: Redis | Cluster
    before(() => {
      const options = { keyPrefix: `spread-${process.pid}:` }
      redis = target.kind === 'cluster' ? new Cluster([...target.nodes], options) : new Redis(target.url, options)
    })
    after(() => redis.disconnect())

    it('a lease is in one part, for every process', async () => {
      await using one = onCluster(redis, 8)
      await using other = onCluster(redis, 8)
      await excludes(one, other)
      expect(new Set(names.map((name) => one.partOf(name))).size).to.equal(8)
    })
  })
}

for (const target of redisTargets('server')) {
  describe(`example: leases on several servers, on ${target.name}`, () => {
    const open = (): readonly Redis[] =>
      // Two databases stand for two servers: they know nothing of each other's leases.
      [0, 1].map((db) => new Redis(target.url, { db, keyPrefix: `servers-${process.pid}:` }))

    it('a lease is on one server, and nowhere else', async () => {
      const [here, there] = [open(), open()]
      {
        await using one = onServers(here)
        await using other = onServers(there)
        await excludes(one, other)
        await one.managerOf('account-1').claim('account-1', 'ann', { minutes: 1 })
        const found = await Promise.all(here.map((redis) => redis.exists('lease:{billing}:l:account-1')))
        expect(found).to.deep.equal(one.partOf('account-1') === 0 ? [1, 0] : [0, 1])
        await one.managerOf('account-1').release('account-1', 'ann')
      }
      for (const redis of [...here, ...there]) redis.disconnect()
    })
  })
}

async function excludes(one: SpreadLeases, other: SpreadLeases): Promise<void> {
  for (const name of names) {
    await one.managerOf(name).claim(name, 'ann', { minutes: 1 })
    const denied = other.managerOf(name).claim(name, 'ben', { minutes: 1 })
    expect(await failure(denied)).to.be.instanceOf(ErrClaimDenied)
    await one.managerOf(name).release(name, 'ann')
    await other.managerOf(name).claim(name, 'ben', { minutes: 1 })
    await other.managerOf(name).release(name, 'ben')
  }
}
