import { startEtcd } from 'lease-servers'
import { openEtcd } from '../adapters/etcd/connection.ts'
import { etcd3Election } from '../adapters/etcd/election.ts'
import { etcdKey } from '../adapters/etcd/key.ts'
import { etcdLibrary } from '../adapters/etcd/library.ts'
import { etcd3Lock } from '../adapters/etcd/lock.ts'
import { etcdRing } from '../adapters/etcd/ring.ts'
import { etcdTransaction, etcdTransactionBatch } from '../adapters/etcd/transaction.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Place, Substrate } from '../bench.ts'
import { countedBytes } from '../counted-bytes.ts'

/** One node that flushes every commit, or those that ETCD_ENDPOINTS names. */
export const etcd: Substrate = {
  name: 'etcd',
  adapters: [
    etcdLibrary,
    etcdTransaction,
    etcdKey,
    etcdRing,
    etcdTransactionBatch({ inFlight: 1 }),
    etcdTransactionBatch({ inFlight: 2 }),
    etcdTransactionBatch({ inFlight: 4 }),
    etcd3Lock,
    etcd3Election,
    roundTrip,
  ],
  open,
  async reach(url) {
    const bytes = countedBytes()
    const beside = openEtcd(url)
    const sum = async (metric: RegExp): Promise<number> => {
      const counts = await Promise.all(url.split(',').map((endpoint) => countOf(metric, endpoint)))
      return counts.reduce((sum, count) => sum + count, 0)
    }
    const key = Buffer.from('nobody')
    return {
      substrate: 'etcd',
      url,
      counts: 'server',
      commands: () => sum(received),
      messages: () => sum(watched),
      bytes,
      async roundTrip() {
        await beside.kv.range({ key })
      },
      close: async () => beside.close(),
    }
  },
}

async function open(given: string | undefined = process.env['ETCD_ENDPOINTS']): Promise<Place> {
  const server = given ? undefined : await startEtcd({ nodes: 1, durable: true })
  const endpoints = server?.endpoints ?? (given ?? '').split(',').map((one) => one.trim())
  const url = endpoints.join(',')
  const beside = openEtcd(url)
  try {
    const { version } = await beside.maintenance.status()
    const nodes = `${endpoints.length} node${endpoints.length === 1 ? '' : 's'}`
    return {
      about: `etcd ${version} (${nodes}${server === undefined ? '' : ', fsync on'})`,
      url,
      close: async () => server?.stop(),
    }
  } catch (error) {
    await server?.stop()
    throw error
  } finally {
    beside.close()
  }
}

/** What clients have sent, by calls and within streams. */
const received = /^grpc_server_msg_received_total\{.*\} (\S+)$/gm

/** What watches were sent. */
const watched = /^grpc_server_msg_sent_total\{.*grpc_method="Watch".*\} (\S+)$/gm

/** The sum of what this node has counted so. */
async function countOf(metric: RegExp, endpoint: string): Promise<number> {
  const metrics = await (await fetch(`${endpoint}/metrics`)).text()
  let sum = 0
  for (const [, count] of metrics.matchAll(metric)) sum += Number(count)
  return sum
}
