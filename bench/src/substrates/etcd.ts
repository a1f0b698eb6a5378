import { startEtcd } from 'lease-servers'
import { openEtcd } from '../adapters/etcd-connection.ts'
import { etcdKey } from '../adapters/etcd-key.ts'
import { etcdLibrary } from '../adapters/etcd-library.ts'
import { etcdTransaction, etcdTransactionBatch } from '../adapters/etcd-transaction.ts'
import type { Place, Substrate } from '../bench.ts'

/** One node that flushes every commit, or those that ETCD_ENDPOINTS names. */
export const etcd: Substrate = {
  name: 'etcd',
  adapters: [
    etcdLibrary,
    etcdTransaction,
    etcdKey,
    etcdTransactionBatch({ inFlight: 1 }),
    etcdTransactionBatch({ inFlight: 2 }),
    etcdTransactionBatch({ inFlight: 4 }),
  ],
  open,
}

async function open(): Promise<Place> {
  const given = process.env['ETCD_ENDPOINTS']
  const server = given ? undefined : await startEtcd({ nodes: 1, durable: true })
  const endpoints = server?.endpoints ?? (given ?? '').split(',').map((one) => one.trim())
  const url = endpoints.join(',')
  const beside = openEtcd(url)
  const close = async (): Promise<void> => {
    beside.close()
    await server?.stop()
  }
  try {
    const { version } = await beside.maintenance.status()
    const nodes = `${endpoints.length} node${endpoints.length === 1 ? '' : 's'}`
    const key = Buffer.from('nobody')
    return {
      about: `etcd ${version} (${nodes}${server === undefined ? '' : ', fsync on'})`,
      url,
      async commands() {
        const received = await Promise.all(endpoints.map(messagesTo))
        return received.reduce((sum, count) => sum + count, 0)
      },
      async roundTrip() {
        await beside.kv.range({ key })
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** What clients have sent to this node, by calls and within streams. */
async function messagesTo(endpoint: string): Promise<number> {
  const metrics = await (await fetch(`${endpoint}/metrics`)).text()
  let sum = 0
  for (const [, count] of metrics.matchAll(/^grpc_server_msg_received_total\{.*\} (\S+)$/gm)) sum += Number(count)
  return sum
}
