/** What may befall a Redis Cluster of masters. */
import { type Address, type Redis, redisCommand, type RedisCluster, until } from 'lease-servers'
import type { Battle } from '../ground.ts'
import { fault, type Fault, lasting } from './strike.ts'
import { redisNemeses } from './redis.ts'
import { kill, pause, restart } from './server.ts'

/** Below the time after which a node is thought to have failed. */
const PAUSE = { fromMs: 100, toMs: 3500 }

export function clusterNemeses(cluster: RedisCluster, namespace: string): readonly Fault[] {
  const ofLeases = async (): Promise<Redis> => (await whereLeasesAre(cluster, namespace)).server
  return [
    pause('cluster-pause', ofLeases, PAUSE),
    mendedBy(kill('cluster-kill', ofLeases)),
    mendedBy(restart('cluster-restart', ofLeases)),
    fault('cluster-migrate', { breaks: 'server', lasts: { fromMs: 0, toMs: 200 } }, async (battle, say) => {
      const from = await whereLeasesAre(cluster, namespace)
      const others = cluster.servers.filter((server) => server !== from.server)
      const to = others[Math.floor(battle.random() * others.length)]
      if (to === undefined) throw new Error('a cluster of one node cannot move slots')
      say(`slot ${from.slot} from ${from.server.port} to ${to.port}`)
      await migrate(battle, cluster, { slot: from.slot, from: from.server, to })
      return () => undefined
    }),
    ...redisNemeses(async () => at(await ofLeases())),
  ]

  /** A node that is back is asked by clients only when the others know it. */
  function mendedBy(one: Fault): Fault {
    return {
      ...one,
      async strike(battle) {
        await one.strike(battle)
        await until('all nodes of the cluster serve', async () => isWhole(cluster), 20)
      },
    }
  }
}

/** The node with the leases, and their slot: all keys of a namespace carry it as their hash tag. */
async function whereLeasesAre(
  { servers }: RedisCluster,
  namespace: string,
): Promise<{ readonly server: Redis; readonly slot: number }> {
  const slot = Number(await redisCommand(at(first(servers)), 'CLUSTER', 'KEYSLOT', `{${namespace}}`))
  return { server: await ownerOf(servers, slot), slot }
}

async function ownerOf(servers: readonly Redis[], slot: number): Promise<Redis> {
  const ranges = await redisCommand(at(first(servers)), 'CLUSTER', 'SLOTS')
  for (const range of Array.isArray(ranges) ? ranges : []) {
    if (!Array.isArray(range) || !(Number(range[0]) <= slot && slot <= Number(range[1]))) continue
    const port = Array.isArray(range[2]) ? range[2][1] : undefined
    const owner = servers.find((server) => server.port === port)
    if (owner !== undefined) return owner
  }
  return first(servers)
}

interface Move {
  readonly slot: number
  readonly from: Redis
  readonly to: Redis
}

/** Key by key, so that a batch meets keys on both nodes; when the signal aborts, the rest at once. */
async function migrate(battle: Battle, { servers }: RedisCluster, { slot, from, to }: Move): Promise<void> {
  const idOf = async (server: Redis): Promise<string> => String(await redisCommand(at(server), 'CLUSTER', 'MYID'))
  const [fromId, toId] = [await idOf(from), await idOf(to)]
  await redisCommand(at(to), 'CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId)
  await redisCommand(at(from), 'CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId)
  for (;;) {
    const keys = await redisCommand(at(from), 'CLUSTER', 'GETKEYSINSLOT', slot, battle.signal.aborted ? 1000 : 1)
    if (!Array.isArray(keys) || keys.length === 0) break
    await redisCommand(at(from), 'MIGRATE', '127.0.0.1', to.port, '', 0, 60_000, 'KEYS', ...keys.map(String))
    await lasting(battle, battle.random() * 20)
  }
  // The new owner first: the old one then knows where to send those that ask.
  for (const server of [to, from, ...servers.filter((one) => one !== to && one !== from)]) {
    await redisCommand(at(server), 'CLUSTER', 'SETSLOT', slot, 'NODE', toId)
  }
}

async function isWhole({ servers }: RedisCluster): Promise<boolean> {
  const infos = await Promise.all(
    servers.map(async (server) => redisCommand(at(server), 'CLUSTER', 'INFO').catch(String)),
  )
  const nodes = await Promise.all(
    servers.map(async (server) => redisCommand(at(server), 'CLUSTER', 'NODES').catch(() => 'fail')),
  )
  return (
    infos.every((info) => String(info).includes('cluster_state:ok')) &&
    nodes.every((list) => !/fail|disconnected/.test(String(list)))
  )
}

function at({ port }: Redis): Address {
  return { host: '127.0.0.1', port }
}

function first(servers: readonly Redis[]): Redis {
  const [server] = servers
  if (server === undefined) throw new Error('a cluster without nodes')
  return server
}
