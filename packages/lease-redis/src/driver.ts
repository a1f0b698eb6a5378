/**
 * The shape of the driver: only what is called. `Redis` and `Cluster` of ioredis fit as they are.
 */

/** What runs scripts. */
export interface RedisScripting {
  eval(script: string, numberOfKeys: number, ...keysAndArguments: (string | Buffer | number)[]): Promise<unknown>
  evalsha(sha: string, numberOfKeys: number, ...keysAndArguments: (string | Buffer | number)[]): Promise<unknown>
  /** `keyPrefix` is put in front of every key by the driver itself. `db` is the database it was asked to use. */
  readonly options?: { readonly keyPrefix?: string | undefined; readonly db?: number | undefined }
  /** `select` is the database after the last SELECT. */
  readonly condition?: { readonly select?: number | undefined } | null | undefined
}

/** One connection to one server, made after the model of another. `Redis` of ioredis fits. */
export interface RedisDuplicable {
  duplicate(override: RedisListenOverrides): RedisListenConnection
  readonly status?: string
}

/** Where scripts go: `Redis` of ioredis, by Sentinels or not, or `Cluster`. */
export type RedisConnection = RedisScripting & (RedisDuplicable | RedisClusterNodes)

/** What runs scripts in node-redis: a client, a cluster or a sentinel of the package `redis`, 5 or 6. */
export interface NodeRedisScripting {
  eval(script: string, options: NodeRedisScriptOptions): Promise<unknown>
  evalSha(sha: string, options: NodeRedisScriptOptions): Promise<unknown>
  withTypeMapping?(mapping: object): NodeRedisScripting
  /** What it puts in front of each key, since 6.3. */
  readonly _keyPrefix?: string | Buffer | undefined
}

/** What a script is called with. */
export interface NodeRedisScriptOptions {
  keys: string[]
  arguments: (string | Buffer)[]
}

/** What listens to an event of node-redis. */
// oxlint-disable-next-line typescript/no-explicit-any -- each event has arguments of its own
export type NodeRedisListener = (...args: any[]) => void

/** A client of node-redis: `createClient(…)`. */
export interface NodeRedisClient extends NodeRedisScripting {
  connect(): Promise<unknown>
  duplicate(overrides?: object): NodeRedisClient
  on(event: string, listener: NodeRedisListener): unknown
  off(event: string, listener: NodeRedisListener): unknown
  readonly options?:
    | { readonly database?: number; readonly keyPrefix?: string | Buffer; readonly socket?: object | undefined }
    | undefined
  readonly isOpen?: boolean
  readonly isReady?: boolean
  multi?(): unknown
  watch?(keys: string[]): Promise<unknown>
  unwatch?(): Promise<unknown>
  ping?(): Promise<unknown>
  subscribe?(channel: string, listener: (message: string, channel: string) => void): Promise<unknown>
  unsubscribe?(channel: string): Promise<unknown>
  destroy?(): void
  disconnect?(): unknown
}

/** A client of node-redis that makes transactions. */
export interface NodeRedisTransactional<Multi> extends NodeRedisScripting {
  multi(): Multi
  connect(): Promise<unknown>
}

/** A cluster of node-redis: `createCluster(…)`. */
export interface NodeRedisCluster extends NodeRedisScripting {
  readonly masters: readonly object[]
  nodeClient(node: object): NodeRedisClient | Promise<NodeRedisClient>
  on?(event: string, listener: NodeRedisListener): unknown
}

/** A client of valkey-glide: `GlideClient.createClient(…)` or `GlideClusterClient.createClient(…)`. */
export interface ValkeyGlideClient {
  customCommand(args: (string | Buffer)[], options?: ValkeyGlideOptions): Promise<unknown>
  subscribe(channels: Iterable<string>, timeoutMs: number): Promise<unknown>
  unsubscribe(channels: Iterable<string>, timeoutMs: number): Promise<unknown>
  getPubSubMessage(): Promise<ValkeyGlideMessage>
  close(): void
}

/** How an answer is read, and which node of a Cluster gives it. */
export interface ValkeyGlideOptions {
  readonly decoder: number
  readonly route?: 'allPrimaries' | { readonly type: 'primarySlotKey'; readonly key: string }
}

/** What came over a channel. */
export interface ValkeyGlideMessage {
  readonly channel: string | Uint8Array
  readonly message: string | Uint8Array
}

/** What tells a Cluster from a single connection. */
export interface RedisClusterNodes {
  nodes(): RedisDuplicable[]
  readonly isCluster: boolean
  readonly options?: {
    readonly keyPrefix?: string | undefined
    readonly redisOptions?:
      | { readonly username?: string | undefined; readonly password?: string | undefined }
      | undefined
  }
}

/** What a connection that listens has other than its model: it is used once, and its end is final. */
export interface RedisListenOverrides {
  readonly autoResubscribe: false
  readonly enableOfflineQueue: true
  readonly lazyConnect: true
  readonly failoverDetector: false
  readonly retryStrategy: null
  readonly sentinelCommandTimeout: number
  readonly sentinelRetryStrategy: () => null
  readonly username?: string
  readonly password?: string
}

/** A connection of its own, for SUBSCRIBE. `Redis` of ioredis fits. */
export interface RedisListenConnection {
  subscribe(channel: string): Promise<unknown>
  unsubscribe?(channel: string): Promise<unknown>
  ping(): Promise<unknown>
  disconnect(): void
  on(event: 'message', listener: (channel: string, message: string) => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  on(event: 'close' | 'end', listener: () => void): unknown
}

/**
 * A connection that nobody else uses and that does not reconnect: `redis.duplicate({ retryStrategy: null })`. `Redis` of
 * ioredis fits.
 */
export interface RedisPrivateConnection extends RedisScripting {
  watch(...keys: string[]): Promise<unknown>
  unwatch(): Promise<unknown>
  readonly options?: {
    readonly keyPrefix?: string | undefined
    readonly db?: number | undefined
    readonly retryStrategy?: unknown
  }
  readonly isCluster?: boolean
}

/** What a connection for transactions has other than its model: nobody else has it, and its end is final. */
export interface RedisPrivateOverrides {
  readonly autoResendUnfulfilledCommands: false
  readonly enableAutoPipelining: false
  readonly enableOfflineQueue: true
  readonly lazyConnect: true
  readonly failoverDetector: false
  readonly retryStrategy: null
  readonly sentinelCommandTimeout: number
  readonly sentinelRetryStrategy: () => null
}

/** A connection that `multi()` makes transactions for, and that shows how to make another. `Redis` of ioredis fits. */
export interface RedisTransactional<Multi> {
  multi(): Multi
  duplicate(override: RedisPrivateOverrides): RedisPrivateConnection & {
    multi(): unknown
    disconnect(): void
    on(event: 'error', listener: (error: Error) => void): unknown
    on(event: 'end', listener: () => void): unknown
  }
  on(event: 'end', listener: () => void): unknown
  off(event: 'end', listener: () => void): unknown
  readonly status?: string
}
