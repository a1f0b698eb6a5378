import type { Substrate, SubstrateName } from '../bench.ts'

/** One at a time: anyone who needs one does not load the drivers of the others. */
const loaders: Readonly<Record<SubstrateName, () => Promise<Substrate>>> = {
  memory: async () => (await import('./memory.ts')).memory,
  postgres: async () => (await import('./postgres.ts')).postgres,
  redis: async () => (await import('./redis.ts')).redis,
  'redis-cluster': async () => (await import('./redis-cluster.ts')).redisCluster,
  etcd: async () => (await import('./etcd.ts')).etcd,
  dynamodb: async () => (await import('./dynamodb.ts')).dynamodb,
}

/** @throws Error there is none of that name */
export async function substrateNamed(name: string): Promise<Substrate> {
  const load = new Map(Object.entries(loaders)).get(name)
  if (load === undefined) throw new Error(`there is no substrate "${name}"`)
  return load()
}

/** All, in the order in which they run. */
export async function allSubstrates(): Promise<readonly Substrate[]> {
  return Promise.all(Object.values(loaders).map((load) => load()))
}
