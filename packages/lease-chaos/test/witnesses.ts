/** Plain drivers that see whether a store serves, without any part of the library. */
import { setTimeout as pass } from 'node:timers/promises'
import { PutItemCommand } from '@aws-sdk/client-dynamodb'
import { dynamodbParts, openEtcd, openRedis, type Reach } from 'lease-chaos/worker'
import { until } from 'lease-servers'
import { Redis } from 'ioredis'
import { Client } from 'pg'

/** A sound store on a quiet machine takes a tenth of it. On a slow one the witness may see a fault that is none: never the other way round. */
const SLOW_MS = 100
/** Long enough to be seen where bytes trickle. */
const VALUE = 'x'.repeat(10_000)

interface Connection {
  write(): Promise<unknown>
  close(): unknown
}

/** Writes again and again on one connection, and on another one when that is broken. */
export class Writer implements AsyncDisposable {
  /** A write failed, or had no answer for {@link SLOW_MS}. */
  isHurt = false
  /** How many writes were answered. */
  written = 0
  readonly #reach: Reach
  readonly #running: Promise<void>
  #ended = false
  #connection: Connection | undefined

  constructor(reach: Reach) {
    this.#reach = reach
    this.#running = this.#run()
  }

  /** Resolves when two writes were answered; the second began after the call. */
  async isServed(): Promise<void> {
    const { written } = this
    await until('a store that serves a plain driver', () => this.written >= written + 2)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true
    this.#connection?.close()
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#ended) {
      const late = setTimeout(() => (this.isHurt = true), SLOW_MS * 5) // a connection takes longer than a write
      try {
        this.#connection = await open(this.#reach)
        clearTimeout(late)
        while (!this.#ended) await this.#write(this.#connection)
      } catch {
        if (!this.#ended) this.isHurt = true
      } finally {
        clearTimeout(late)
        this.#connection?.close()
      }
      await pass(20)
    }
  }

  async #write(connection: Connection): Promise<void> {
    const late = setTimeout(() => (this.isHurt = true), SLOW_MS)
    try {
      await connection.write()
      this.written++
    } finally {
      clearTimeout(late)
    }
    await pass(5)
  }
}

async function open(reach: Reach): Promise<Connection> {
  if (reach.kind === 'postgres') {
    const client = await connected(reach.url)
    await client.query('CREATE TABLE IF NOT EXISTS probe (id int PRIMARY KEY, value text)').catch(() => undefined)
    const text = 'INSERT INTO probe VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET value = $1'
    return { write: () => client.query(text, [VALUE]), close: () => void client.end().catch(() => undefined) }
  }
  if (reach.kind === 'redis') {
    const redis = openRedis(reach, { maxRetriesPerRequest: 0, retryStrategy: () => null })
    await new Promise<void>((resolve, reject) => {
      redis.once('ready', () => resolve())
      redis.once('close', () => reject(new Error('closed')))
    }).catch((error: unknown) => {
      redis.disconnect()
      throw error
    })
    return { write: () => redis.set(`{${reach.namespace}}probe`, VALUE), close: () => redis.disconnect() }
  }
  if (reach.kind === 'dynamodb') {
    const { client, table } = openOnce(reach)
    const item = { ns: { S: 'probe' }, nm: { S: 'probe' }, value: { S: VALUE } }
    return {
      write: () => client.send(new PutItemCommand({ TableName: table, Item: item })),
      close: () => client.destroy(),
    }
  }
  const etcd = openEtcd(reach)
  return { write: () => etcd.put('probe').value(VALUE).exec(), close: () => etcd.close() }
}

/** A client of DynamoDB that sends nothing twice, so that it sees what becomes of each request. */
export function openOnce(reach: Reach): ReturnType<ReturnType<typeof dynamodbParts>['openDynamodb']> {
  const opened = dynamodbParts().openDynamodb(reach)
  opened.client.config.maxAttempts = async () => 1
  return opened
}

/** A connection to PostgreSQL whose end is no error. */
export async function connected(connectionString: string): Promise<Client> {
  const client = new Client({ connectionString })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

/** Listens on a connection by the way of a worker, and is sent messages past it. */
export class Listener implements AsyncDisposable {
  /** The connection was cut or refused, or a message had not come after {@link SLOW_MS}. */
  isHurt = false
  heard = 0
  readonly #running: Promise<void>
  #ended = false

  constructor(reach: Reach, judge: Reach) {
    this.#running = this.#run(reach.listenUrl ?? reach.url, judge)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true
    await this.#running
  }

  /** Resolves when a message that was sent since the call has come. */
  async isServed(): Promise<void> {
    const { heard } = this
    await until('a message for the listener', () => this.heard >= heard + 2)
  }

  async #run(url: string, judge: Reach): Promise<void> {
    while (!this.#ended) {
      try {
        await (judge.kind === 'postgres' ? this.#listenToPostgres(url, judge.url) : this.#listenToRedis(url, judge.url))
      } catch {
        this.isHurt = true
      }
      await pass(20)
    }
  }

  async #listenToPostgres(url: string, direct: string): Promise<void> {
    const [listening, sending] = [await connected(url), await connected(direct)]
    try {
      let isOpen = true
      listening.once('end', () => (isOpen = false))
      const heard = (then: () => void): void => void listening.on('notification', then)
      await listening.query('LISTEN news')
      await this.#exchange(
        heard,
        () => sending.query('NOTIFY news'),
        () => isOpen,
      )
    } finally {
      void listening.end().catch(() => undefined)
      await sending.end()
    }
  }

  async #listenToRedis(url: string, direct: string): Promise<void> {
    const [listening, sending] = [new Redis(url, { retryStrategy: () => null }), new Redis(direct)]
    try {
      let isOpen = true
      listening.on('error', () => undefined)
      listening.once('close', () => (isOpen = false))
      const heard = (then: () => void): void => void listening.on('message', then)
      await listening.subscribe('news')
      await this.#exchange(
        heard,
        () => sending.publish('news', ''),
        () => isOpen,
      )
    } finally {
      listening.disconnect()
      sending.disconnect()
    }
  }

  async #exchange(
    onHeard: (then: () => void) => void,
    send: () => Promise<unknown>,
    isOpen: () => boolean,
  ): Promise<void> {
    const heard: string[] = []
    onHeard(() => heard.push(''))
    while (!this.#ended) {
      heard.length = 0
      const sentMs = performance.now()
      await send()
      while (heard.length === 0) {
        if (!isOpen()) throw new Error('cut')
        if (performance.now() - sentMs > SLOW_MS) this.isHurt = true
        if (this.#ended) return
        await pass(5)
      }
      this.heard++
    }
  }
}
