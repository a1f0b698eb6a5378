/** Servers whose own figures are read: started here, as durable as in production, so that their processes are known. */
import { readdirSync, readlinkSync } from 'node:fs'
import type { Redis } from 'ioredis'
import { migrate } from 'lease-postgres'
import { startEtcd, startPostgres, startRedis } from 'lease-servers'
import { openEtcd } from '../adapters/etcd/connection.ts'
import { openPool } from '../adapters/postgres/pool.ts'
import { openRedis } from '../adapters/redis/connection.ts'
import { anonymousBytes, childrenPssBytes, ServerCpu } from './process-cpu.ts'

export type MeasuredName = 'redis' | 'postgres' | 'etcd'

export interface MeasuredServer {
  readonly about: string
  readonly url: string
  /** Of all its threads and processes so far. */
  cpuMicros(): number
  /** Of clients, without the one that asks. */
  connections(): Promise<number>
  /** That grows with its connections. */
  memoryBytes(): Promise<number>
  /** That its leases take, without what the store may forget. */
  storedBytes(): Promise<number>
  /** Written so far to what it recovers from: append-only file, write-ahead log; on etcd the revisions in its database. */
  writtenBytes(): Promise<number>
  stop(): Promise<void>
}

/** Enough for the clients of these measurements: each Postgres client has a pool, and a connection that listens. */
const POSTGRES_CONNECTIONS = '500'

export const measuredServers: Readonly<Record<MeasuredName, () => Promise<MeasuredServer>>> = {
  redis: redisServer,
  postgres: postgresServer,
  etcd: etcdServer,
}

async function redisServer(): Promise<MeasuredServer> {
  const server = await startRedis({ appendonly: true, settings: { 'auto-aof-rewrite-percentage': '0' } })
  const cpu = new ServerCpu(running(server.pid))
  const beside: Redis = await openRedis(server.url)
  const info = async (name: string): Promise<number> => {
    const figure = new RegExp(`^${name}:(\\d+)`, 'm').exec(await beside.info())?.[1]
    if (figure === undefined) throw new Error(`Redis does not report ${name}`)
    return Number(figure)
  }
  return {
    about: `Redis ${server.version} (append-only file)`,
    url: server.url,
    cpuMicros: () => cpu.micros(),
    connections: async () => (await info('connected_clients')) - 1,
    memoryBytes: () => info('used_memory'),
    storedBytes: () => info('used_memory'),
    writtenBytes: () => info('aof_current_size'),
    async stop() {
      beside.disconnect()
      await server.stop()
    },
  }
}

async function postgresServer(): Promise<MeasuredServer> {
  const settings = { max_connections: POSTGRES_CONNECTIONS }
  const server = await startPostgres({ version: 18, durable: true, settings })
  const cpu = new ServerCpu(running(server.pid))
  const beside = openPool(server.url, 1)
  const ask = async (expression: string): Promise<number> => {
    const { rows } = await beside.query<{ figure: string }>(`SELECT (${expression})::text AS figure`)
    return Number(rows[0]?.figure)
  }
  await migrate(beside)
  return {
    about: `PostgreSQL ${server.version} (fsync on, synchronous_commit on)`,
    url: server.url,
    cpuMicros: () => cpu.micros(),
    connections: async () =>
      (await ask(`SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'`)) - 1,
    memoryBytes: async () => childrenPssBytes(running(server.pid)),
    storedBytes: () => ask(`pg_total_relation_size('lease') + pg_total_relation_size('lease_waiter')`),
    writtenBytes: () => ask(`pg_current_wal_insert_lsn() - '0/0'`),
    async stop() {
      await beside.end()
      await server.stop()
    },
  }
}

async function etcdServer(): Promise<MeasuredServer> {
  const server = await startEtcd({ nodes: 1, durable: true })
  const url = server.endpoints.join(',')
  const beside = openEtcd(url)
  const pid = running(server.members[0]?.pid)
  const cpu = new ServerCpu(pid)
  const bytesInUse = async (): Promise<number> => {
    const metrics = await (await fetch(`${url}/metrics`)).text()
    return Number(/^etcd_mvcc_db_total_size_in_use_in_bytes (\S+)$/m.exec(metrics)?.[1])
  }
  return {
    about: `etcd ${server.version} (1 node, fsync on)`,
    url,
    cpuMicros: () => cpu.micros(),
    connections: async () => socketsOf(pid),
    memoryBytes: async () => anonymousBytes(pid),
    async storedBytes() {
      const { header } = await beside.kv.range({ key: Buffer.from('nobody') })
      // Compacted before: there is nothing between the two revisions.
      await beside.kv.compact({ revision: header.revision, physical: true }).catch(() => {})
      return bytesInUse()
    },
    writtenBytes: bytesInUse,
    async stop() {
      beside.close()
      await server.stop()
    },
  }
}

function running(pid: number | undefined): number {
  if (pid === undefined) throw new Error('the server does not run')
  return pid
}

/** Open ones, those that listen included. */
function socketsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:')
    } catch {
      return false // closed since
    }
  }).length
}
