/**
 * The stores on which every recipe is tried: memory, where the test owns the time, and real servers.
 *
 * A suite says what happens and lets time pass through `store.pass`; it never sleeps by itself. Durations are counted in
 * `store.unitMs`, the shortest comfortable lease.
 */
import { DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { systemClock, type Client, type Clock, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { createTable, dynamodbClient } from 'lease-dynamodb'
import { etcdClient, failFast } from 'lease-etcd'
import { migrate, postgresClient } from 'lease-postgres'
import { redisClient } from 'lease-redis'
import {
  dynamodbTarget,
  etcdTargets,
  freshDatabase,
  isMatrix,
  postgresTargets,
  redisTargets,
  until,
  type DynamodbTarget,
  type EtcdTarget,
  type FreshDatabase,
  type PostgresTarget,
  type RedisTarget,
} from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { Cluster, Redis } from 'ioredis'
import { Pool } from 'pg'

export interface Store {
  /** For titles. */
  readonly name: string
  /** Whether a lapsed lease may be taken over at once; otherwise only by one who has watched it for its duration. */
  readonly serverClock: boolean
  /** The shortest comfortable lease. */
  readonly unitMs: number
  /**
   * Whether the test owns the time: then nothing stalls, and counts, order and whole lists are exact. A real server may be
   * slow at any moment, so a test asserts only what is true however slow it is.
   */
  readonly exact: boolean
  /** How long a lease lasts that lapses in the course of a test. */
  readonly briefMs: number
  /** How long a test waits before it says that nothing has happened. */
  readonly momentMs: number
  /** The clock of clients, managers and recipes. */
  readonly clock: Clock
  /** Starts what it needs; call it in `before`. */
  open(): Promise<void>
  /** A new client, as if in another process. */
  client(namespace: string): Client
  /** At the end of a test: closes them, and their connections, because a server does not have many for all test files. */
  closeClients(): Promise<void>
  /** Lets time pass: really waits, or advances the test clock. */
  pass(ms: number): Promise<void>
  /** Lets time pass until the condition holds. @throws after thirty units of the test clock; on real clocks mocha's limit is the only one */
  until(what: string, condition: () => boolean | Promise<boolean>): Promise<void>
  close(): Promise<void>
}

/** The sorts of real servers. */
type Sort = 'redis' | 'cluster' | 'postgres' | 'etcd' | 'dynamodb'

/**
 * Memory, Redis, a Redis Cluster, PostgreSQL, etcd and DynamoDB. What a recipe asks of a store is the kit's matter, so the test command runs each
 * suite on memory and mostly on one sort of server, a different one from suite to suite. Call it while the test file is loaded.
 *
 * @param usual the sort on which the test command runs this suite as well
 */
export function stores(usual?: Sort): readonly Store[] {
  const isWanted = (sort: Sort): boolean => isMatrix() || sort === usual
  return [
    new InMemory(),
    ...(isWanted('redis') ? redisTargets('server') : []).map((target) => new OnRedis(target)),
    ...(isWanted('cluster') ? redisTargets('cluster') : []).map((target) => new OnRedis(target)),
    ...(isWanted('postgres') ? postgresTargets().slice(0, 1) : []).map((target) => new OnPostgres(target)),
    ...(isWanted('etcd') ? etcdTargets(1) : []).map((target) => new OnEtcd(target)),
    ...(isWanted('dynamodb') ? [new OnDynamodb(dynamodbTarget())] : []),
  ]
}

let count = 0

/** A name that no other test uses. */
export function unique(word: string): string {
  return `${word}-${process.pid}-${++count}`
}

abstract class AnyStore implements Store {
  abstract readonly name: string
  abstract readonly serverClock: boolean
  abstract readonly unitMs: number
  readonly exact: boolean = false
  readonly briefMs: number = 400
  readonly momentMs: number = 60
  readonly clock: Clock = systemClock
  readonly #clients: (() => Promise<unknown>)[] = []

  abstract open(): Promise<void>
  abstract client(namespace: string): Client

  /** Is done when the clients are closed, the latest first. */
  protected whenClosing(close: () => Promise<unknown>): void {
    this.#clients.push(close)
  }

  async pass(ms: number): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, ms))
  }

  async until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    await until(what, condition)
  }

  async closeClients(): Promise<void> {
    for (const close of this.#clients.splice(0).toReversed()) await close()
  }

  async close(): Promise<void> {
    await this.closeClients()
  }
}

class InMemory extends AnyStore {
  readonly name = 'memory'
  readonly serverClock = true
  readonly unitMs = 100
  override readonly exact = true
  override readonly momentMs = 600
  override readonly clock = new TestClock()
  readonly #store = new MemoryStore({ clock: this.clock })

  async open(): Promise<void> {}

  client(namespace: string): Client {
    const client = memoryClient({ store: this.#store, namespace, clock: this.clock })
    this.whenClosing(() => client.close())
    return client
  }

  override async pass(ms: number): Promise<void> {
    await this.clock.advance(ms)
  }

  override async until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    const { clock, unitMs } = this
    const startedMs = clock.monotonic()
    for (let stepMs = 0; !(await condition()); stepMs = Math.min(unitMs / 10, stepMs * 2 + unitMs / 100)) {
      if (clock.monotonic() - startedMs > 30 * unitMs) throw new Error(`no ${what} within ${30 * unitMs} ms`)
      await this.pass(stepMs)
    }
  }
}

class OnPostgres extends AnyStore {
  readonly name: string
  readonly serverClock = true
  readonly unitMs = 250
  readonly #target: PostgresTarget
  #database: FreshDatabase | undefined
  /** Of all clients: each connection costs the server a process that compiles the functions anew. */
  #pool: Pool | undefined

  constructor(target: PostgresTarget) {
    super()
    this.name = target.name
    this.#target = target
  }

  async open(): Promise<void> {
    const database = await freshDatabase(this.#target)
    this.#database = database
    this.#pool = new Pool({ connectionString: database.url, max: 16 })
    this.#pool.on('error', () => {}) // the database is dropped before the last connection is closed
    await migrate(this.#pool)
  }

  override async close(): Promise<void> {
    await super.close()
    await this.#pool?.end()
    await this.#database?.drop()
  }

  client(namespace: string): Client {
    if (this.#pool === undefined) throw new Error('open() comes first')
    const client = postgresClient({ pool: this.#pool, namespace })
    this.whenClosing(() => client.close())
    return client
  }
}

class OnRedis extends AnyStore {
  readonly name: string
  readonly serverClock = true
  readonly unitMs = 250
  readonly #target: RedisTarget

  constructor(target: RedisTarget) {
    super()
    this.name = target.name
    this.#target = target
  }

  async open(): Promise<void> {}

  client(namespace: string): Client {
    const redis = this.#target.kind === 'cluster' ? new Cluster([...this.#target.nodes]) : new Redis(this.#target.url)
    this.whenClosing(async () => redis.disconnect())
    const client = redisClient({ redis, namespace })
    this.whenClosing(() => client.close())
    return client
  }
}

class OnEtcd extends AnyStore {
  readonly name: string
  readonly serverClock = false
  readonly unitMs = 300
  readonly #target: EtcdTarget

  constructor(target: EtcdTarget) {
    super()
    this.name = target.name
    this.#target = target
  }

  async open(): Promise<void> {}

  client(namespace: string): Client {
    const etcd = new Etcd3({ hosts: [...this.#target.endpoints], ...failFast() })
    this.whenClosing(async () => etcd.close())
    const client = etcdClient({ etcd, namespace })
    this.whenClosing(() => client.close())
    return client
  }
}

class OnDynamodb extends AnyStore {
  readonly name: string
  readonly serverClock = false
  readonly unitMs = 300
  readonly #target: DynamodbTarget
  readonly #table = unique('recipes')

  constructor(target: DynamodbTarget) {
    super()
    this.name = target.name
    this.#target = target
  }

  async open(): Promise<void> {
    const client = this.#connect()
    await createTable({ client, table: this.#table })
    client.destroy()
  }

  client(namespace: string): Client {
    const connection = this.#connect()
    this.whenClosing(async () => connection.destroy())
    const client = dynamodbClient({ client: connection, table: this.#table, namespace })
    this.whenClosing(() => client.close())
    return client
  }

  #connect(): DynamoDBClient {
    process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    return new DynamoDBClient({ endpoint: this.#target.endpoint, region: 'us-east-1', credentials })
  }
}
