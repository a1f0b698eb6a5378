/**
 * The least that one could write: a transaction that creates a key on an etcd lease granted beforehand, and one that
 * deletes it while it is still the same. No lost reply that resolves to "it was mine", no duration in milliseconds.
 */
import { randomUUID } from 'node:crypto'
import type { Adapter } from '../../bench.ts'
import { LONG_MS } from '../by-hand.ts'
import { openEtcd } from './connection.ts'

/** One transaction per claim. */
export const etcdKey: Adapter = {
  name: 'key',
  role: 'raw',
  about: 'one transaction to create and one to delete, on an etcd lease granted beforehand',
  can: ['one'],
  async open({ url }) {
    const etcd = openEtcd(url)
    const { ID: lease } = await etcd.leaseClient.leaseGrant({ TTL: LONG_MS / 1000 })
    const prefix = randomUUID()
    const revisions = new Map<string, string>()
    const value = Buffer.from('bench')
    const commit = async (name: string, revision: string, success: object): Promise<string> => {
      const compare = [
        {
          key: Buffer.from(`${prefix}/${name}`),
          result: 'Equal',
          target: 'Create',
          create_revision: revision,
        } as const,
      ]
      const { succeeded, header } = await etcd.kv.txn({ compare, success: [success], failure: [] })
      if (!succeeded) throw new Error(`the key of ${name} is not as it should be`)
      return header.revision
    }
    return {
      one: {
        async claim(name) {
          const key = Buffer.from(`${prefix}/${name}`)
          revisions.set(name, await commit(name, '0', { request_put: { key, value, lease } }))
        },
        async release(name) {
          const key = Buffer.from(`${prefix}/${name}`)
          await commit(name, revisions.get(name) ?? '', { request_delete_range: { key } })
        },
      },
      close: async () => etcd.close(),
    }
  },
}
