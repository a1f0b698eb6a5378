/** Hints by SUBSCRIBE, on a connection of its own. */
import { changesIn, type OpenHintConnection } from 'lease-core'
import type { RedisConnection, RedisDuplicable, RedisListenConnection, RedisListenOverrides } from './driver.ts'

/** Makes a connection of its own, connected or not. */
export type OpenListenConnection = () => RedisListenConnection

/** Its end is final, so that every connection begins with a `resync`: what is missed meanwhile is not replayed. */
export const overrides: RedisListenOverrides = {
  autoResubscribe: false,
  enableOfflineQueue: true,
  lazyConnect: true,
  retryStrategy: null,
  sentinelRetryStrategy: () => null,
}

/** A connection made as this one was; for a Cluster, to one of its nodes: all of them hear what one announces. */
export function likeTheConnection(redis: RedisConnection): RedisListenConnection {
  if (!('nodes' in redis)) return redis.duplicate(overrides)
  const nodes = redis.nodes()
  const ready = nodes.filter(({ status }) => status === 'ready')
  const choice = ready.length > 0 ? ready : nodes
  const node: RedisDuplicable | undefined = choice[Math.floor(Math.random() * choice.length)]
  if (node === undefined) throw new Error('the Cluster knows no node yet')
  return node.duplicate(overrides)
}

/** Listens to this channel over a connection that `open` makes. */
export function listenTo(channel: string, open: OpenListenConnection): OpenHintConnection {
  return async (tell, signal) => {
    const connection = open()
    const ended = new Promise<void>((resolve) => {
      connection.on('close', resolve)
      connection.on('end', resolve)
    })
    connection.on('error', ignore) // `close` follows, and whatever was asked rejects
    connection.on('message', (from, message) => {
      if (from === channel) changesIn(message).forEach(tell)
    })
    const abandon = (): void => connection.disconnect()
    signal.addEventListener('abort', abandon, { once: true })
    try {
      await connection.subscribe(channel)
    } catch (error) {
      abandon()
      throw error
    } finally {
      signal.removeEventListener('abort', abandon)
    }
    return { ended, ping: () => connection.ping(), close: abandon }
  }
}

function ignore(): void {}
