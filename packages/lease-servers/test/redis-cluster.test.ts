import { expect } from 'chai'
import { Cluster } from 'ioredis'
import { type Address, isMatrix, redisTargets, startRedisCluster, until } from 'lease-servers'

async function withClient<T>(nodes: readonly Address[], use: (client: Cluster) => Promise<T>): Promise<T> {
  const client = new Cluster([...nodes], { clusterRetryStrategy: () => 50 })
  client.on('error', () => undefined)
  try {
    return await use(client)
  } finally {
    client.disconnect()
  }
}

for (const target of redisTargets('cluster')) {
  describe(`the shared ${target.name}`, () => {
    it('serves every slot, from the first moment on', async () => {
      await withClient(target.nodes, async (client) => {
        const keys = Array.from({ length: 100 }, (_, index) => `redis-cluster.test:${process.pid}:${index}`)
        await Promise.all(keys.map(async (key) => client.set(key, key)))
        expect(await Promise.all(keys.map(async (key) => client.get(key)))).to.deep.equal(keys)
        expect(client.nodes('master').map((node) => node.options.port)).to.have.members(
          target.nodes.map((node) => node.port),
        )
      })
    })
  })
}

describe('a Redis Cluster of one’s own', () => {
  const matrixOnly = isMatrix() ? it : it.skip // three servers start twice
  matrixOnly('goes on where a node is paused or comes back, and leaves nothing', async () => {
    const cluster = await startRedisCluster({ settings: { appendonly: 'yes' } })
    const pids = cluster.servers.map((server) => server.pid)
    try {
      await withClient(cluster.nodes, async (client) => {
        await client.set('kept', 'one')
        const holding = client.nodes('master')
        expect(holding).to.have.length(3)
        for (const server of cluster.servers) {
          await server.kill()
          await server.restart()
        }
      })
      await withClient(cluster.nodes, async (client) => {
        await until('all nodes serve again', async () =>
          client.get('kept').then(
            (value) => value === 'one',
            () => false,
          ),
        )
      })
      expect(cluster.servers.map((server) => server.pid)).not.to.include.members(pids)
    } finally {
      await cluster.stop()
    }
    for (const server of cluster.servers) expect(server.pid).to.equal(undefined)
  })
})
