/**
 * A real Redis of our own that fails over: a master, its replicas, and sentinels that watch them. Replication is asynchronous,
 * so a failover may forget what the master has acknowledged.
 */
import { randomBytes } from 'node:crypto'
import { until } from './awaited.ts'
import { findRedis, launchRedis, type Redis, type RedisProcess } from './redis.ts'
import { type Address, redisCommand, redisCommands, type RespValue } from './resp.ts'
import { onFreePorts, stopAll } from './server.ts'

/** What to start. */
export interface RedisSentinelOptions {
  /** @default 1 */
  readonly replicas?: number
  /** How long a server may be silent before a sentinel thinks it down, in milliseconds. @default 500 */
  readonly downAfterMs?: number
  /** After twice this long a failover that did not succeed is tried again, in milliseconds. @default 3000 */
  readonly failoverTimeoutMs?: number
  /** Further lines of redis.conf of the master and the replicas. */
  readonly settings?: Readonly<Record<string, string>>
}

/** Servers under watch. Clients reach all of them at their own addresses. */
export interface RedisSentinel extends AsyncDisposable {
  /** What sentinels call the master. */
  readonly name: 'lease'
  /** What to give to a client, with `name`. */
  readonly sentinels: readonly Address[]
  /** The sentinels themselves, three with a quorum of two, to be paused, killed and restarted. */
  readonly sentinelServers: readonly Redis[]
  /** The server that was the master at first. A pause or a kill makes it fail over. */
  readonly master: Redis
  /** The servers that were replicas at first. */
  readonly replicas: readonly Redis[]
  /** Where the master is now according to the sentinel that has the newest word. @throws when none answers. */
  masterPort(): Promise<number>
  /**
   * From now on nothing that is written reaches a replica; clients and sentinels notice nothing. No sentinel promotes a replica
   * that has been cut off for ten times `downAfterMs`, so a failover has to begin before that.
   */
  cutReplication(): Promise<void>
  /** Lets replicas connect again; within a second or so they are up to date. */
  mendReplication(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

const host = '127.0.0.1'
const name = 'lease'
const replicator = 'replicator'
const sentinelCount = 3

/**
 * Starts them on free ports of 127.0.0.1 and resolves once every sentinel could fail over; they die with this process.
 * @throws with one line per origin when there is no Redis 7 or later.
 */
export async function startRedisSentinel(options: RedisSentinelOptions = {}): Promise<RedisSentinel> {
  const replicaCount = options.replicas ?? 1
  return await onFreePorts(1 + replicaCount + sentinelCount, async ([master = 0, ...ports]) => {
    const watched = new Watched(master, ports.slice(0, replicaCount), ports.slice(replicaCount))
    try {
      await watched.start(options)
      return watched
    } catch (error) {
      await watched.stop()
      throw error
    }
  })
}

class Watched implements RedisSentinel {
  readonly name = name
  readonly sentinels: readonly Address[]
  readonly #masterPort: number
  readonly #replicaPorts: readonly number[]
  #servers: readonly RedisProcess[] = []
  #sentinelServers: readonly RedisProcess[] = []

  constructor(masterPort: number, replicaPorts: readonly number[], sentinelPorts: readonly number[]) {
    this.sentinels = sentinelPorts.map((port) => ({ host, port }))
    this.#masterPort = masterPort
    this.#replicaPorts = replicaPorts
  }

  get master(): Redis {
    const [master] = this.#servers
    if (!master) throw new Error('not started')
    return master
  }

  get replicas(): readonly Redis[] {
    return this.#servers.slice(1)
  }

  get sentinelServers(): readonly Redis[] {
    return this.#sentinelServers
  }

  async start(options: RedisSentinelOptions): Promise<void> {
    const found = await findRedis()
    const settings = serverSettings(options)
    const replicaSettings = { ...settings, replicaof: `${host} ${this.#masterPort}` }
    this.#servers = await all([
      launchRedis(found, this.#masterPort, { settings }),
      ...this.#replicaPorts.map(async (port) => launchRedis(found, port, { settings: replicaSettings })),
    ])
    // A sentinel that first sees a replica without its link would look again only after ten seconds.
    await this.#until('replicate', async () => {
      const roles = await Promise.all(this.#replicaPorts.map(async (port) => redisCommand({ host, port }, 'ROLE')))
      return roles.every((role) => Array.isArray(role) && role[3] === 'connected')
    })
    const ids = this.sentinels.map(() => randomBytes(20).toString('hex'))
    this.#sentinelServers = await all(
      this.sentinels.map(async ({ port }, index) => {
        const sentinelSettings = this.#sentinelSettings(index, ids, options)
        return launchRedis(found, port, { settings: sentinelSettings }, 'sentinel')
      }),
    )
    await this.#until('know each other', async () => {
      const ready = await Promise.all(this.sentinels.map(async (sentinel) => this.#couldFailOver(sentinel)))
      return ready.every(Boolean)
    })
  }

  async masterPort(): Promise<number> {
    const answers = await Promise.allSettled(
      this.sentinels.map(async (sentinel) => redisCommands(sentinel, [['SENTINEL', 'MASTER', name]], 1000)),
    )
    let newest = { port: 0, epoch: -1 }
    for (const answer of answers) {
      if (answer.status === 'rejected') continue
      const told = { port: Number(field(answer.value, 'port')), epoch: Number(field(answer.value, 'config-epoch')) }
      if (told.epoch > newest.epoch) newest = told
    }
    if (newest.epoch < 0) throw new Error('no sentinel answers')
    return newest.port
  }

  async cutReplication(): Promise<void> {
    await this.#onEach(async (server) => {
      await redisCommand(server, 'ACL', 'SETUSER', replicator, 'off')
      await redisCommand(server, 'CLIENT', 'KILL', 'TYPE', 'replica')
    })
  }

  async mendReplication(): Promise<void> {
    await this.#onEach(async (server) => redisCommand(server, 'ACL', 'SETUSER', replicator, 'on'))
  }

  async stop(): Promise<void> {
    await stopAll([...this.#sentinelServers, ...this.#servers])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  /** Any server may be the master some day; those that are down have no replicas to lose. */
  async #onEach(act: (server: Address) => Promise<unknown>): Promise<void> {
    const running = this.#servers.filter((server) => server.pid !== undefined)
    await Promise.all(running.map(async ({ port }) => act({ host, port })))
  }

  #sentinelSettings(index: number, ids: readonly string[], options: RedisSentinelOptions): Record<string, string> {
    const settings: Record<string, string> = {
      'sentinel myid': ids[index] ?? '',
      [`sentinel monitor ${name}`]: `${host} ${this.#masterPort} ${Math.floor(sentinelCount / 2) + 1}`,
      [`sentinel down-after-milliseconds ${name}`]: String(options.downAfterMs ?? 500),
      [`sentinel failover-timeout ${name}`]: String(options.failoverTimeoutMs ?? 3000),
    }
    // They would find each other within seconds; with the addresses beforehand, they know each other at once.
    for (const port of this.#replicaPorts) settings[`sentinel known-replica ${name} ${host} ${port}`] = ''
    for (const [other, { port }] of this.sentinels.entries()) {
      if (other !== index) settings[`sentinel known-sentinel ${name} ${host} ${port} ${ids[other]}`] = ''
    }
    return settings
  }

  async #couldFailOver(sentinel: Address): Promise<boolean> {
    const quorum = await redisCommand(sentinel, 'SENTINEL', 'CKQUORUM', name).catch(() => '')
    const replicas = await redisCommand(sentinel, 'SENTINEL', 'REPLICAS', name)
    return (
      String(quorum).startsWith(`OK ${sentinelCount} `) &&
      Array.isArray(replicas) &&
      replicas.length === this.#replicaPorts.length &&
      replicas.every((replica) => field(replica, 'flags') === 'slave' && field(replica, 'master-link-status') === 'ok')
    )
  }

  async #until(what: string, ask: () => Promise<boolean>): Promise<void> {
    await until(`the servers that sentinels watch ${what}`, async () => ask().catch(() => false), 10)
  }
}

function serverSettings(options: RedisSentinelOptions): Readonly<Record<string, string>> {
  const secret = randomBytes(12).toString('hex')
  return {
    // Replicas log in as a user of their own, so that they can be kept out.
    [`user ${replicator}`]: `on >${secret} +psync +replconf +ping`,
    masteruser: replicator,
    masterauth: secret,
    'repl-diskless-sync-delay': '0',
    ...options.settings,
  }
}

/** All of them, or none: those that did start are stopped. */
async function all(launches: readonly Promise<RedisProcess>[]): Promise<readonly RedisProcess[]> {
  const ends = await Promise.allSettled(launches)
  const failure = ends.find((end) => end.status === 'rejected')
  const servers = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []))
  if (failure === undefined) return servers
  await stopAll(servers)
  throw failure.reason
}

function field(entry: RespValue, key: string): RespValue | undefined {
  return Array.isArray(entry) ? entry[entry.indexOf(key) + 1] : undefined
}
