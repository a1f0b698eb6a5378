/**
 * The package `redis` (node-redis 5 and 6) in the shape of ioredis.
 *
 * Differences that are levelled here: keys and arguments of scripts are lists; a duplicate connects when it is asked to; one without a
 * reconnect strategy ends by an error, not by an event; an EXEC after a change of what was watched rejects instead of answering null.
 */
import { hasMethods } from 'lease-core'
import type {
  NodeRedisClient,
  NodeRedisCluster,
  NodeRedisListener,
  NodeRedisScripting,
  RedisClusterNodes,
  RedisDuplicable,
  RedisListenConnection,
  RedisScripting,
} from './driver.ts'
import { OwnConnection } from './own-connection.ts'

/** Whether it is a client, a cluster or a sentinel of node-redis. */
export function isNodeRedis(given: unknown): given is NodeRedisScripting {
  const isTransaction = hasMethods(given, 'exec')
  return hasMethods(given, 'evalSha', 'eval') && !hasMethods(given, 'evalsha') && !isTransaction
}

/** The same in the shape of ioredis. */
export function overNodeRedis(given: NodeRedisScripting): RedisScripting {
  if (hasMethods(given, 'nodeClient')) return new OverCluster(given as unknown as NodeRedisCluster)
  if (hasMethods(given, 'duplicate', 'connect', 'watch')) return new OverClient(given as unknown as NodeRedisClient)
  return new OverScripting(given)
}

/** A connection that listens: it is connected, and ends as those of ioredis do. */
export function listeningOverNodeRedis(made: NodeRedisScripting): RedisListenConnection {
  return new Duplicate(made as NodeRedisClient)
}

/** Whether an EXEC wrote nothing because something that was watched has changed. */
export function isWatchError(error: unknown): boolean {
  return nameOf(error) === 'WatchError'
}

/** The errors that say what the server has answered. */
const REPLIES = new Set(['ErrorReply', 'SimpleError', 'BlobError', 'MultiErrorReply'])

/** Whether the server said this, by the class of the error. */
export function isNodeRedisReply(error: unknown): boolean {
  return REPLIES.has(nameOf(error))
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.constructor.name : ''
}

type Argument = string | Buffer | number

/** Runs scripts, and no more: a sentinel, which watches nothing and whose duplicates are other sentinels. */
class OverScripting implements RedisScripting {
  readonly #redis: NodeRedisScripting

  constructor(redis: NodeRedisScripting) {
    // Answers are read as they come without a mapping of the user's own.
    this.#redis = hasMethods(redis, 'withTypeMapping') ? (redis.withTypeMapping?.({}) ?? redis) : redis
  }

  /** Clusters and sentinels do not show their options, but this. Their nodes put no prefix in front. */
  get options(): { readonly keyPrefix?: string | undefined } {
    const { _keyPrefix: keyPrefix } = this.#redis
    return keyPrefix === undefined ? {} : { keyPrefix: keyPrefix.toString() }
  }

  eval(script: string, numberOfKeys: number, ...rest: Argument[]): Promise<unknown> {
    return this.#redis.eval(script, split(numberOfKeys, rest))
  }

  evalsha(sha: string, numberOfKeys: number, ...rest: Argument[]): Promise<unknown> {
    return this.#redis.evalSha(sha, split(numberOfKeys, rest))
  }
}

function split(numberOfKeys: number, rest: readonly Argument[]): { keys: string[]; arguments: (string | Buffer)[] } {
  const texts = rest.map((one) => (typeof one === 'number' ? String(one) : one))
  return { keys: texts.slice(0, numberOfKeys) as string[], arguments: texts.slice(numberOfKeys) }
}

/** WATCH is answered by the mapping of the user, whatever we ask for: a text may come as a Buffer. */
function asText(answer: unknown): unknown {
  return Buffer.isBuffer(answer) ? answer.toString() : answer
}

interface NodeRedisOverrides {
  readonly username?: string
  readonly password?: string
}

class OverClient extends OverScripting implements RedisDuplicable {
  readonly #client: NodeRedisClient
  #hasEnded = false

  constructor(client: NodeRedisClient) {
    super(client)
    this.#client = client
    client.on('end', () => (this.#hasEnded = true))
    client.on('ready', () => (this.#hasEnded = false))
  }

  override get options(): { readonly db: number; readonly keyPrefix: string | undefined } {
    const { database = 0, keyPrefix } = this.#client.options ?? {}
    return { db: database, keyPrefix: keyPrefix?.toString() }
  }

  /** `end`: its owner has closed it. `wait`: its owner has not connected it yet. */
  get status(): string {
    if (this.#hasEnded) return 'end'
    if (this.#client.isOpen !== true) return 'wait'
    return this.#client.isReady === true ? 'ready' : 'connecting'
  }

  duplicate({ username, password }: NodeRedisOverrides = {}): Duplicate {
    const credentials = { ...(username && { username }), ...(password && { password }) }
    return new Duplicate(this.#client.duplicate(ownWay(this.#client, credentials)), this.options.keyPrefix)
  }

  multi(): unknown {
    return this.#client.multi?.()
  }

  async watch(...keys: string[]): Promise<unknown> {
    return asText(await this.#client.watch?.(keys))
  }

  unwatch(): Promise<unknown> {
    return Promise.resolve(this.#client.unwatch?.())
  }

  on(event: string, listener: NodeRedisListener): unknown {
    return this.#client.on(event, listener)
  }

  off(event: string, listener: NodeRedisListener): unknown {
    return this.#client.off(event, listener)
  }
}

/** What a connection of ours has other than its model: its end is final, and what is asked early waits for the connection. */
function ownWay({ options }: NodeRedisClient, more: object): object {
  return { ...more, disableOfflineQueue: false, socket: { ...options?.socket, reconnectStrategy: false } }
}

/** A connection of our own. It connects by itself, and its end is final. */
class Duplicate extends OwnConnection<NodeRedisClient> implements RedisListenConnection {
  /** Once it is connected. */
  #current: NodeRedisClient | undefined
  readonly options: { readonly retryStrategy: null; readonly keyPrefix: string | undefined }

  /** @param keyPrefix what the driver puts in front of each key, also here */
  constructor(model: NodeRedisClient | Promise<NodeRedisClient>, keyPrefix?: string) {
    super(model)
    this.options = { retryStrategy: null, keyPrefix }
  }

  protected override async open(client: NodeRedisClient): Promise<void> {
    client.on('error', (error: unknown) => {
      this.fail(error)
      destroy(client) // now, for a client that does not get its first connection would try without end
    })
    client.on('end', () => this.end())
    if (this.isOver) throw new Error('this connection is closed')
    if (client.isOpen !== true) await client.connect()
    if (this.isOver) destroy(client)
    this.#current = client
  }

  protected override scripting(client: NodeRedisClient): RedisScripting {
    return new OverScripting(client)
  }

  protected override close(client: NodeRedisClient): void {
    destroy(client)
  }

  async watch(...keys: string[]): Promise<unknown> {
    return asText(await (await this.client).watch?.(keys))
  }

  async unwatch(): Promise<unknown> {
    return (await this.client).unwatch?.()
  }

  /** After the first answer: it is asked for once something is watched. */
  multi(): unknown {
    return this.#current?.multi?.()
  }

  async subscribe(channel: string): Promise<unknown> {
    return (await this.client).subscribe?.(channel, (message, from) => this.emit('message', from, message))
  }

  async unsubscribe(channel: string): Promise<unknown> {
    return (await this.client).unsubscribe?.(channel)
  }

  async ping(): Promise<unknown> {
    return (await this.client).ping?.()
  }
}

function destroy(client: NodeRedisClient): void {
  try {
    if (client.isOpen !== true) return
    if (client.destroy === undefined) void client.disconnect?.()
    else client.destroy()
  } catch {
    // it has ended meanwhile
  }
}

class OverCluster extends OverScripting implements RedisClusterNodes {
  readonly isCluster = true
  readonly #cluster: NodeRedisCluster

  constructor(cluster: NodeRedisCluster) {
    super(cluster)
    this.#cluster = cluster
  }

  nodes(): RedisDuplicable[] {
    return this.#cluster.masters.map((node) => ({
      status: 'ready',
      duplicate: ({ username, password }) => {
        const credentials = { ...(username && { username }), ...(password && { password }) }
        const made = async (): Promise<NodeRedisClient> => {
          const client = await this.#cluster.nodeClient(node)
          return client.duplicate(ownWay(client, credentials))
        }
        return new Duplicate(made())
      },
    }))
  }

  on(event: string, listener: NodeRedisListener): unknown {
    return hasMethods(this.#cluster, 'on') ? this.#cluster.on?.(event, listener) : undefined
  }
}
