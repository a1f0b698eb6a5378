/** What the tests know of the servers on which the demo plays. */
import { DynamoDBClient, ListTablesCommand } from '@aws-sdk/client-dynamodb'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import {
  dynamodbTarget,
  etcdTargets,
  type FreshDatabase,
  freshDatabase,
  postgresTargets,
  redisTargets,
  until,
} from 'lease-servers'
import { Client } from 'pg'

export interface Ground {
  /** As `--on` has it. */
  readonly name: string
  /** Makes the demo play here. From `open` on. */
  readonly env: Record<string, string>
  /** The same variable, with nobody at the address. */
  readonly nowhere: Record<string, string>
  open(): Promise<void>
  close(): Promise<void>
  /** What the demo that was this process has made and not removed. */
  leftovers(pid: number): Promise<readonly string[]>
}

export class PostgresGround implements Ground {
  readonly name = 'postgres'
  readonly nowhere = { DATABASE_URL: 'postgres://postgres@127.0.0.1:1/postgres' }
  readonly #target = postgresTargets()[0]
  #database: FreshDatabase | undefined

  get env(): Record<string, string> {
    return { DATABASE_URL: this.#database?.url ?? '' }
  }

  async open(): Promise<void> {
    if (this.#target === undefined) throw new Error('no PostgreSQL to play on')
    this.#database = await freshDatabase(this.#target)
  }

  /** Idempotent; cuts every connection. */
  async close(): Promise<void> {
    await this.#database?.drop()
  }

  async leftovers(): Promise<readonly string[]> {
    const rows = await this.#ask<{ nspname: string }>(`SELECT nspname FROM pg_namespace WHERE nspname LIKE 'lease%'`)
    return rows.map((row) => row.nspname)
  }

  /** Resolves once nobody else is connected to the database; sessions of killed processes end a moment later. */
  async noConnections(): Promise<void> {
    await until('no other session on the database', async () => {
      const [row] = await this.#ask<{ nobody: boolean }>(
        `SELECT count(*) = 0 AS nobody FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`,
      )
      return row?.nobody
    })
  }

  async #ask<Row extends object>(sql: string): Promise<Row[]> {
    const client = new Client({ connectionString: this.#database?.url })
    await client.connect()
    try {
      return (await client.query<Row>(sql)).rows
    } finally {
      await client.end()
    }
  }
}

export class RedisGround implements Ground {
  readonly name = 'redis'
  readonly nowhere = { REDIS_URL: 'redis://127.0.0.1:1' }
  readonly #target = redisTargets('server')[0]
  #redis: Redis | undefined

  get env(): Record<string, string> {
    return { REDIS_URL: this.#target?.url ?? '' }
  }

  async open(): Promise<void> {
    if (this.#target === undefined) throw new Error('no Redis to play on')
    this.#redis = new Redis(this.#target.url)
    await this.#redis.ping()
  }

  async close(): Promise<void> {
    await this.#redis?.quit()
  }

  async leftovers(pid: number): Promise<readonly string[]> {
    const found: string[] = []
    const keys = this.#redis?.scanStream({ match: `*lease_demo_${pid}_*`, count: 1000 })
    for await (const page of keys ?? []) found.push(...(page as string[]))
    return found
  }
}

export class EtcdGround implements Ground {
  readonly name = 'etcd'
  readonly nowhere = { ETCD_ENDPOINTS: 'http://127.0.0.1:1' }
  readonly #target = etcdTargets(1)[0]
  #etcd: Etcd3 | undefined

  get env(): Record<string, string> {
    return { ETCD_ENDPOINTS: this.#target?.endpoints.join() ?? '' }
  }

  async open(): Promise<void> {
    if (this.#target === undefined) throw new Error('no etcd to play on')
    this.#etcd = new Etcd3({ hosts: [...this.#target.endpoints] })
    await this.#etcd.get('anything')
  }

  async close(): Promise<void> {
    this.#etcd?.close()
  }

  async leftovers(pid: number): Promise<readonly string[]> {
    return (await this.#etcd?.getAll().prefix(`lease_demo_${pid}_`).keys()) ?? []
  }
}

// The SDK tells of the end of Node 20 in every process.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'

export class DynamodbGround implements Ground {
  readonly name = 'dynamodb'
  readonly nowhere = { DYNAMODB_ENDPOINT: 'http://127.0.0.1:1' }
  readonly #target = dynamodbTarget()
  #dynamodb: DynamoDBClient | undefined

  get env(): Record<string, string> {
    return { DYNAMODB_ENDPOINT: this.#target.endpoint }
  }

  async open(): Promise<void> {
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    this.#dynamodb = new DynamoDBClient({ endpoint: this.#target.endpoint, region: 'us-east-1', credentials })
    await this.#dynamodb.send(new ListTablesCommand())
  }

  async close(): Promise<void> {
    this.#dynamodb?.destroy()
  }

  async leftovers(pid: number): Promise<readonly string[]> {
    const { TableNames = [] } = (await this.#dynamodb?.send(new ListTablesCommand())) ?? {}
    return TableNames.filter((name) => name.startsWith(`lease_demo_${pid}_`))
  }
}
