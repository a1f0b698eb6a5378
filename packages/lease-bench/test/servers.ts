import { dynamodbTarget, etcdTargets, postgresTargets, redisTargets } from 'lease-servers'
import type { SubstrateName } from '#src/bench.ts'

/** The servers of the tests, without a Cluster where the environment names a server; call it while the test file is loaded. Each is known from the first `before` hook on. */
export function testServers(): ReadonlyMap<SubstrateName, () => string> {
  const [postgres] = postgresTargets()
  const [redis] = redisTargets('server')
  const [cluster] = redisTargets('cluster')
  const [etcd] = etcdTargets(1)
  const dynamodb = dynamodbTarget()
  const servers = new Map<SubstrateName, () => string>([
    ['memory', () => ''],
    ['postgres', () => postgres?.url ?? ''],
    ['redis', () => redis?.url ?? ''],
    ['etcd', () => etcd?.endpoints.join() ?? ''],
    ['dynamodb', () => dynamodb.endpoint],
  ])
  if (cluster !== undefined) {
    servers.set('redis-cluster', () => cluster.nodes.map(({ host, port }) => `redis://${host}:${port}`).join())
  }
  return servers
}
