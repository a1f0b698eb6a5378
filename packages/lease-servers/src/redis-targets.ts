/**
 * Which Redis the tests run against: `REDIS_URL` names the one and only; otherwise a server and a cluster are started.
 */
import { startRedisCluster } from './redis-cluster.ts'
import { startRedis } from './redis.ts'
import { type Address, redisCommands } from './resp.ts'
import { ANSWER_MS, nothing, type Opened, shared, unreachable } from './targets.ts'

/**
 * What to test against: a server by its URL, or the nodes of a cluster. `name` and `kind` are known at once; the rest from the
 * first `before` hook on. Test files share them and nothing is flushed, so keys need a prefix of their own.
 */
export type RedisTarget = RedisServerTarget | RedisClusterTarget

/** One server. */
export interface RedisServerTarget {
  readonly kind: 'server'
  /** For titles: `redis`. */
  readonly name: string
  readonly url: string
}

/** A cluster of three masters. */
export interface RedisClusterTarget {
  readonly kind: 'cluster'
  /** For titles: `redis cluster`. */
  readonly name: string
  readonly nodes: readonly Address[]
}

/**
 * What this run tests against, of these kinds only. Call it while the test file is loaded, outside of any hook or test: that
 * call is what makes the global setup start them. With `REDIS_URL` there is no cluster. A cluster takes two seconds to start.
 */
export function redisTargets(): readonly RedisTarget[]
export function redisTargets(kind: 'server'): readonly RedisServerTarget[]
export function redisTargets(kind: 'cluster'): readonly RedisClusterTarget[]
export function redisTargets(kind?: RedisTarget['kind']): readonly RedisTarget[] {
  const url = process.env['REDIS_URL']
  const servers = kind === 'cluster' ? [] : [serverTarget(url)]
  const clusters = kind === 'server' || url ? [] : [clusterTarget()]
  return [...servers, ...clusters]
}

function serverTarget(outside: string | undefined): RedisServerTarget {
  const name = outside ? 'redis (REDIS_URL)' : 'redis'
  const server = shared<{ url: string }>(name, async () => (outside ? givenRedis(outside) : startedServer()))
  server.ask()
  return {
    kind: 'server',
    name,
    get url() {
      return server.reached.url
    },
  }
}

function clusterTarget(): RedisClusterTarget {
  const name = 'redis cluster'
  const cluster = shared(name, startedCluster)
  cluster.ask()
  return {
    kind: 'cluster',
    name,
    get nodes() {
      return cluster.reached.nodes
    },
  }
}

async function startedServer(): Promise<Opened<{ url: string }>> {
  const server = await startRedis()
  return { reached: { url: server.url }, stop: async () => server.stop() }
}

async function startedCluster(): Promise<Opened<{ nodes: readonly Address[] }>> {
  const cluster = await startRedisCluster()
  return { reached: { nodes: cluster.nodes }, stop: async () => cluster.stop() }
}

/** The server that REDIS_URL names. @throws with a message of one line when it does not answer within `withinMs` */
export async function givenRedis(url: string, withinMs: number = ANSWER_MS): Promise<Opened<{ url: string }>> {
  try {
    const { hostname, port, username, password } = new URL(url)
    const words = [username, password].filter((word) => word !== '').map(decodeURIComponent)
    const greeting = words.length === 0 ? [] : [['AUTH', ...words]]
    await redisCommands({ host: hostname, port: Number(port || 6379) }, [...greeting, ['PING']], withinMs)
    return { reached: { url }, stop: nothing }
  } catch (cause) {
    throw unreachable('REDIS_URL', cause)
  }
}
