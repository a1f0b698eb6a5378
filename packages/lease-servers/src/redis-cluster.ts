/**
 * A real Redis Cluster of our own: masters only, each with its share of the slots.
 */
import { until } from './awaited.ts'
import { releasePorts } from './ports.ts'
import { findRedis, launchRedis, type Redis } from './redis.ts'
import { type Address, redisCommand, redisCommands } from './resp.ts'
import { onFreePorts, stopAll } from './server.ts'

/** What to start. */
export interface RedisClusterOptions {
  /** How many masters. @default 3 */
  readonly nodes?: number
  /** Further lines of each node's redis.conf. */
  readonly settings?: Readonly<Record<string, string>>
}

/** A running cluster. */
export interface RedisCluster extends AsyncDisposable {
  readonly nodes: readonly Address[]
  /** The same nodes, to be paused, killed and restarted one by one; a restarted one rejoins with its slots and without its data. */
  readonly servers: readonly Redis[]
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

const slots = 16_384

/**
 * Starts it on free ports of 127.0.0.1 and resolves once every node says that all slots are served, which takes Redis two
 * seconds; it dies with this process.
 * @throws with one line per origin when there is no Redis 7 or later.
 */
export async function startRedisCluster(options: RedisClusterOptions = {}): Promise<RedisCluster> {
  const found = await findRedis()
  const count = options.nodes ?? 3
  return await onFreePorts(2 * count, async (ports) => {
    const places = Array.from({ length: count }, (_, index) => ({
      host: '127.0.0.1',
      port: Number(ports[2 * index]),
      bus: Number(ports[2 * index + 1]),
    }))
    const launched = await Promise.allSettled(
      places.map(async ({ port, bus }) => launchRedis(found, port, { settings: settingsOf(bus, options) })),
    )
    const servers = launched.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    const stop = async (): Promise<void> => {
      await stopAll(servers)
      releasePorts(ports)
    }
    try {
      for (const one of launched) if (one.status === 'rejected') throw one.reason
      await join(places)
      return { nodes: places.map(({ host, port }) => ({ host, port })), servers, stop, [Symbol.asyncDispose]: stop }
    } catch (error) {
      await stop()
      throw error
    }
  })
}

function settingsOf(bus: number, options: RedisClusterOptions): Readonly<Record<string, string>> {
  return {
    'cluster-enabled': 'yes',
    'cluster-port': String(bus),
    'cluster-announce-ip': '127.0.0.1',
    'cluster-node-timeout': '5000',
    ...options.settings,
  }
}

/** Gives each node its slots and introduces it to the first. */
async function join(places: readonly (Address & { readonly bus: number })[]): Promise<void> {
  const [first] = places
  if (!first) return
  const edge = (index: number): number => Math.ceil((index * slots) / places.length)
  await Promise.all(
    places.map(async (place, index) =>
      redisCommands(place, [
        ['CLUSTER', 'SET-CONFIG-EPOCH', index + 1],
        ['CLUSTER', 'ADDSLOTSRANGE', edge(index), edge(index + 1) - 1],
      ]),
    ),
  )
  // Only now: a node that knows another takes no epoch any more.
  await Promise.all(
    places.slice(1).map(async (place) => redisCommand(place, 'CLUSTER', 'MEET', first.host, first.port, first.bus)),
  )
  await until(
    'the nodes of a Redis Cluster find together',
    async () => {
      const states = await Promise.all(
        places.map(async (place) => redisCommand(place, 'CLUSTER', 'INFO').catch(String)),
      )
      const seesAll = `cluster_known_nodes:${places.length}\r\n`
      return states.every((state) => String(state).includes('cluster_state:ok') && String(state).includes(seesAll))
    },
    10,
  )
}
