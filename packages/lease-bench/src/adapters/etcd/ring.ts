import type { Adapter, Seat } from '../../bench.ts'
import { LONG_MS } from '../by-hand.ts'
import { neighboursOf, ring, type RingClient } from '../ring.ts'
import { openEtcd } from './connection.ts'

/** As in the classic recipe: each client watches the key of the one before it. */
export const etcdRing: Adapter = ring({
  about: 'by hand, to the next of a ring: delete of a key, the watch event, a transaction that creates the next key',
  connect: async ({ url }, seat) => clientOf(url, seat),
})

async function clientOf(url: string, seat: Seat): Promise<RingClient> {
  const etcd = openEtcd(url)
  const { ID: granted } = await etcd.leaseClient.leaseGrant({ TTL: LONG_MS / 1000 })
  const keyOf = (lease: string, index: number): string => `${seat.space}/${lease}/${index}`
  return {
    async listen(lease, woken) {
      const watcher = await etcd
        .watch()
        .key(keyOf(lease, neighboursOf(seat).before))
        .only('delete')
        .create()
      watcher.on('delete', woken)
    },
    async claim(lease) {
      const key = Buffer.from(keyOf(lease, seat.index))
      const { succeeded } = await etcd.kv.txn({
        compare: [{ key, result: 'Equal', target: 'Create', create_revision: '0' }],
        success: [{ request_put: { key, value: Buffer.from('ring'), lease: granted } }],
        failure: [],
      })
      if (!succeeded) throw new Error(`${lease} is taken`)
    },
    async release(lease) {
      const { deleted } = await etcd.kv.deleteRange({ key: Buffer.from(keyOf(lease, seat.index)) })
      if (deleted !== '1') throw new Error(`${lease} was not held`)
    },
    close: async () => etcd.close(),
  }
}
