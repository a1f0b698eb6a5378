/** Redis: one server, one that Sentinels watch, and a cluster. */
import { setTimeout as pass } from 'node:timers/promises'
import { type RedisSentinel, startRedis, startRedisCluster, startRedisSentinel } from 'lease-servers'
import type { Ground, Loss, Reach } from '../ground.ts'
import { clusterNemeses } from '../nemeses/cluster.ts'
import { connectionNemeses, listenerNemeses } from '../nemeses/connections.ts'
import { everysecKill, redisNemeses } from '../nemeses/redis.ts'
import { masterOf, replicates, sentinelNemeses } from '../nemeses/sentinel.ts'
import { kill, pause, restart, SERVER_CLOCK_NEMESES, serverClockNemeses } from '../nemeses/server.ts'
import { nowMs } from '../recorder.ts'
import { assembled, type GroundOptions, inParts } from './assemble.ts'
import { Ways } from './ways.ts'

/** What was answered is on the disk: a killed server loses nothing, and what is lost is a finding. */
const DURABLE = { appendonly: 'yes', appendfsync: 'always', 'enable-debug-command': 'local' }

export async function openRedis(options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    const shim = ways.shim?.control()
    const server = stack.use(await startRedis({ settings: DURABLE, ...(shim && { env: shim.env }) }))
    const proxies = (): Ways['proxies'] => ways.proxies
    const { namespace } = options
    const losses: Loss[] = []
    return assembled({
      name: 'redis',
      ways,
      stack,
      judge: { kind: 'redis', url: server.url, namespace },
      async reach(worker): Promise<Reach> {
        const { urls, env } = await ways.add(worker, [server.url])
        return { kind: 'redis', url: urls.join(','), namespace, env }
      },
      withShim: [...SERVER_CLOCK_NEMESES, 'redis-everysec-kill'],
      losses: () => losses,
      faults: [
        pause('server-pause', () => server),
        kill('server-kill', () => server),
        restart('server-restart', () => server),
        ...connectionNemeses(proxies),
        ...listenerNemeses(proxies),
        ...redisNemeses(() => ({ host: '127.0.0.1', port: server.port })),
        ...(shim === undefined ? [] : serverClockNemeses(shim, server)),
        ...(shim === undefined ? [] : [everysecKill(server, shim, (loss) => void losses.push(loss))]),
      ],
    })
  })
}

/** A node is thought to have failed after five seconds. */
export async function openRedisCluster(options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    const cluster = stack.use(await startRedisCluster({ settings: DURABLE }))
    const url = cluster.servers.map((server) => server.url).join(',')
    const { namespace } = options
    return assembled({
      name: 'redis-cluster',
      ways,
      stack,
      judge: { kind: 'redis', url, namespace },
      // Nodes send their clients to each other's own addresses, so there are no proxies.
      async reach(worker): Promise<Reach> {
        const { env } = await ways.add(worker, [])
        return { kind: 'redis', url, namespace, env }
      },
      faults: clusterNemeses(cluster, namespace),
    })
  })
}

/** Long enough for a busy machine: a failover that nobody ordered is a documented exception, and makes a run say less. */
const DOWN_AFTER_MS = 4000
const PAUSES = { fromMs: 100, toMs: 2000 }

export async function openSentinel(options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    const watched = stack.use(await startRedisSentinel({ downAfterMs: DOWN_AFTER_MS, settings: DURABLE }))
    const log = stack.use(new Promotions(watched))
    const { namespace } = options
    const sentinels = watched.sentinels.map(({ host, port }) => `redis://${host}:${port}`).join(',')
    const address = { kind: 'redis', url: watched.master.url, namespace, sentinels, master: watched.name } as const
    return assembled({
      name: 'sentinel',
      ways,
      stack,
      judge: address,
      async reach(worker): Promise<Reach> {
        const { env } = await ways.add(worker, [])
        return { ...address, env }
      },
      promotions: () => log.all,
      losses: () => log.losses,
      faults: [
        ...sentinelNemeses(watched, PAUSES),
        ...redisNemeses(async () => ({ host: '127.0.0.1', port: (await masterOf(watched)).port }), PAUSES),
      ],
    })
  })
}

/**
 * Asks the Sentinels for the master again and again: a second holder is an exception only where there was another master. What a promotion
 * may lose was reported to a master that goes on until it follows the new one, and came after the last look at which a replica had all.
 */
class Promotions implements AsyncDisposable {
  readonly all: { readonly atMs: number; readonly port: number }[] = []
  readonly #losses: Loss[] = []
  readonly #running: Promise<void>
  readonly #ended = new AbortController()
  /** All replicas had what the master had then. */
  #completeMs = nowMs()
  /** A promotion has begun to lose: since when. */
  #losingMs: number | undefined

  constructor(watched: RedisSentinel) {
    this.#running = this.#watch(watched)
  }

  /** One of a promotion that is not over reaches until now. */
  get losses(): readonly Loss[] {
    return this.#losingMs === undefined ? this.#losses : [...this.#losses, this.#lossUntilNow(this.#losingMs)]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    await this.#running
  }

  async #watch(watched: RedisSentinel): Promise<void> {
    const { signal } = this.#ended
    let { port: last } = watched.master
    while (!signal.aborted) {
      const port = await watched.masterPort().catch(() => last)
      if (port !== last) {
        this.all.push({ atMs: nowMs(), port })
        this.#losingMs ??= this.#completeMs
      }
      last = port
      const atMs = nowMs()
      if (await replicates(watched)) {
        if (this.#losingMs !== undefined) this.#losses.push(this.#lossUntilNow(this.#losingMs))
        this.#losingMs = undefined
        this.#completeMs = atMs
      }
      await pass(250, undefined, { signal }).catch(() => undefined)
    }
  }

  #lossUntilNow(fromMs: number): Loss {
    return { what: 'promotion', fromMs, toMs: nowMs() }
  }
}
