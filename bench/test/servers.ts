import { etcdTargets, postgresTargets, redisTargets } from 'lease-servers'
import type { SubstrateName } from '#src/bench.ts'

/** The servers of the tests; call it while the test file is loaded. Each is known from the first `before` hook on. */
export function testServers(): Readonly<Record<SubstrateName, () => string>> {
  const [postgres] = postgresTargets()
  const [redis] = redisTargets('server')
  const [etcd] = etcdTargets(1)
  return {
    memory: () => '',
    postgres: () => postgres?.url ?? '',
    redis: () => redis?.url ?? '',
    etcd: () => etcd?.endpoints.join() ?? '',
  }
}
