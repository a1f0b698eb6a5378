import type { Lease } from 'etcd3'
import { ownSeat, type Adapter, type Contestant, type Kept } from '../../bench.ts'
import { peerContestant, versionOf } from '../peer.ts'
import { openEtcd } from './connection.ts'

/** An etcd lease for each lock, which the client keeps alive by itself. It can neither wait nor tell a loss. */
export const etcd3Lock: Adapter = {
  name: 'etcd3-lock',
  role: 'peer',
  about: `${versionOf('etcd3')}, its Lock: an etcd lease for each`,
  can: ['one', 'keep'],
  open: ({ url }, { space } = ownSeat()) => open(url, `${space}/`),
}

async function open(url: string, prefix: string): Promise<Contestant> {
  const etcd = openEtcd(url)
  let renewals = 0
  const kept = async (lease: string, durationMs: number): Promise<Kept> => {
    const lock = etcd.lock(prefix + lease).ttl(Math.max(1, Math.ceil(durationMs / 1000)))
    await lock.acquire()
    const { lease: renewed } = lock as unknown as { lease: Lease }
    renewed.on('keepaliveSucceeded', () => void renewals++)
    let held = true
    renewed.on('lost', () => (held = false))
    return {
      get held() {
        return held
      },
      async release() {
        await lock.release()
      },
    }
  }
  return peerContestant({
    acquire: async (lease, durationMs) => {
      const lock = await kept(lease, durationMs)
      return { release: () => lock.release() }
    },
    keep: kept,
    renewals: () => renewals,
    close: async () => etcd.close(),
  })
}
