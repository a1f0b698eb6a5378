/** Connections and substrates that are closed in the end. */
import { Redis, type RedisOptions as AnyRedisOptions } from 'ioredis'
import { RedisSubstrate, type RedisSubstrateOptions } from 'lease-redis'
import { unique } from 'lease-scenes'

/** Those that do not change the shape of answers. */
export type RedisOptions = Omit<AnyRedisOptions, 'replyMapping'>

export interface Setting extends AsyncDisposable {
  readonly url: string
  readonly redis: Redis
  /** A substrate over `redis` that is closed in the end. */
  substrate(options?: Partial<RedisSubstrateOptions>): RedisSubstrate
  /** A further connection, closed in the end. */
  connect(options?: RedisOptions, url?: string): Redis
}

export function openSetting(url: string): Setting {
  const connections: Redis[] = []
  const substrates: RedisSubstrate[] = []
  const connect = (options: RedisOptions = {}, to: string = url): Redis => {
    const connection = new Redis(to, { lazyConnect: true, ...options })
    connection.on('error', () => {}) // what was asked rejects as well
    connections.push(connection)
    return connection
  }
  const redis = connect()
  return {
    url,
    redis,
    connect,
    substrate(options) {
      const substrate = new RedisSubstrate({ redis, namespace: unique('ns'), ...options })
      substrates.push(substrate)
      return substrate
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(substrates.map((substrate) => substrate.close()))
      for (const connection of connections) connection.disconnect()
    },
  }
}
