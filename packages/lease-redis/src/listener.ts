/**
 * Hints by SUBSCRIBE. One connection listens for all namespaces over one connection of the caller: each joins it with its channel,
 * and the last one that leaves closes it.
 */
import { hasMethods, notValid, type LeaseChange } from 'lease-core'
import { changesIn, type HintConnection, type OpenHintConnection } from 'lease-core/adapter'
import { asListenConnection, type AnyListenConnection } from './as-ioredis.ts'
import type { RedisConnection, RedisDuplicable, RedisListenConnection, RedisListenOverrides } from './driver.ts'

/** Makes a connection of its own, connected or not. */
export type OpenListenConnection = () => AnyListenConnection | Promise<AnyListenConnection>

/** Without it a Sentinel that hangs keeps a connection of ours for as long. */
export const SENTINEL_TIMEOUT_MS = 3_000

/**
 * Its end is final, so that every connection begins with a `resync`: what is missed meanwhile is not replayed. It keeps
 * no connections to Sentinels: the server ends its connections when it is made a replica.
 */
export const overrides: RedisListenOverrides = {
  autoResubscribe: false,
  enableOfflineQueue: true,
  lazyConnect: true,
  failoverDetector: false,
  retryStrategy: null,
  sentinelCommandTimeout: SENTINEL_TIMEOUT_MS,
  sentinelRetryStrategy: () => null,
}

/** Of each connection, and of each function that makes one to listen. */
const listeners = new WeakMap<object, SharedListener>()

/** Listens to this channel over a connection that `source` makes, or that is made as `source` was. */
export function listenTo(channel: string, source: RedisConnection | OpenListenConnection): OpenHintConnection {
  const listener =
    listeners.get(source) ?? new SharedListener(typeof source === 'function' ? source : () => likeTheConnection(source))
  listeners.set(source, listener)
  return (tell, signal) => listener.join(channel, tell, signal)
}

/** A connection made as this one was; for a Cluster, to one of its nodes: all of them hear what one announces. */
function likeTheConnection(redis: RedisConnection): RedisListenConnection {
  if (!('nodes' in redis)) return redis.duplicate(overrides)
  const nodes = redis.nodes()
  const ready = nodes.filter(({ status }) => status === 'ready')
  const choice = ready.length > 0 ? ready : nodes
  const node: RedisDuplicable | undefined = choice[Math.floor(Math.random() * choice.length)]
  if (node === undefined) throw new Error('the Cluster knows no node yet')
  // A node keeps the credentials that it was made with, and those of the Cluster may be newer.
  const { username, password } = redis.options?.redisOptions ?? {}
  return node.duplicate({ ...overrides, ...(username && { username }), ...(password && { password }) })
}

type Tell = (change: LeaseChange) => void

class SharedListener {
  readonly #open: OpenListenConnection
  #current: SharedConnection | undefined

  constructor(open: OpenListenConnection) {
    this.#open = open
  }

  join(channel: string, tell: Tell, signal: AbortSignal): Promise<HintConnection> {
    if (this.#current === undefined || this.#current.isOver) this.#current = new SharedConnection(this.#open)
    return this.#current.join(channel, tell, signal)
  }
}

/** One connection, from the moment it is asked for until it has ended. */
class SharedConnection {
  readonly #connection: Promise<RedisListenConnection>
  readonly #ended: Promise<void>
  readonly #channels = new Map<string, { readonly tells: Set<Tell>; readonly subscribed: Promise<unknown> }>()
  #end: () => void = ignore
  #users = 0
  /** What was wrong with it: what was asked rejects with less. */
  #why: Error | undefined
  isOver = false

  constructor(open: OpenListenConnection) {
    this.#ended = new Promise((resolve) => {
      this.#end = () => {
        this.isOver = true
        resolve()
      }
    })
    this.#connection = this.#connect(open)
    this.#connection.catch(this.#end)
  }

  async #connect(open: OpenListenConnection): Promise<RedisListenConnection> {
    const connection = asListenConnection(await open())
    if (!hasMethods(connection, 'subscribe', 'ping', 'disconnect', 'on')) {
      const rule = 'must make a connection (an object with subscribe, ping, disconnect and on), or a promise of one'
      throw notValid([{ argument: 'listen', rule, value: connection }])
    }
    connection.on('close', this.#end)
    connection.on('end', this.#end)
    connection.on('error', (error) => (this.#why = error)) // `close` follows, and whatever was asked rejects
    connection.on('message', (channel, message) => {
      const tells = this.#channels.get(channel)?.tells
      if (tells === undefined) return
      const changes = changesIn(message)
      for (const tell of [...tells]) changes.forEach(tell)
    })
    void this.#ended.then(() => connection.disconnect())
    return connection
  }

  async join(channel: string, tell: Tell, signal: AbortSignal): Promise<HintConnection> {
    const own: Tell = (change) => tell(change)
    let asking = 1 // for a sign of life
    let left = false
    /** Who leaves without the answer it waits for has given it up: then the others had better have a new one, too. */
    const leave = (): void => {
      if (left) return
      left = true
      this.#leave(channel, own)
      if (--this.#users === 0 || asking > 0) this.#end()
    }
    this.#users++
    signal.addEventListener('abort', leave, { once: true })
    try {
      const connection = await Promise.race([this.#connection, this.#ended])
      if (connection === undefined || left) throw new Error('the connection ended')
      let entry = this.#channels.get(channel)
      if (entry === undefined) {
        entry = { tells: new Set(), subscribed: connection.subscribe(channel) }
        this.#channels.set(channel, entry)
      }
      entry.tells.add(own)
      await entry.subscribed
      asking--
      const ping = (): Promise<unknown> => {
        asking++
        return connection.ping().finally(() => asking--)
      }
      return { ended: this.#ended, ping, close: leave }
    } catch (error) {
      asking = 0
      leave()
      throw this.#why ?? error
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }

  #leave(channel: string, own: Tell): void {
    const entry = this.#channels.get(channel)
    entry?.tells.delete(own)
    if (entry?.tells.size !== 0) return
    this.#channels.delete(channel)
    // Without the right to do so it goes on hearing what nobody listens to.
    void this.#connection
      .then((connection) => (hasMethods(connection, 'unsubscribe') ? connection.unsubscribe?.(channel) : undefined))
      .catch(ignore)
  }
}

function ignore(): void {}
