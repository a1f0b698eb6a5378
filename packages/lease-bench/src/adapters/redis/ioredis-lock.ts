import type { Adapter } from '../../bench.ts'
import type { PeerLock } from '../peer.ts'
import { redisPeer } from './peer.ts'

export const ioredisLock: Adapter = redisPeer({
  name: 'ioredis-lock',
  dependency: '@microfleet/ioredis-lock',
  about: 'it extends nothing by itself',
  can: ['one', 'keep', 'queue'],
  async connect(redis, prefix) {
    const { createLock } = await import('@microfleet/ioredis-lock')
    const acquired = async (lease: string, timeout: number, retries: number): Promise<PeerLock> => {
      const lock = createLock(redis, { timeout, retries })
      await lock.acquire(prefix + lease)
      return { release: () => lock.release(), extend: (ms) => lock.extend(ms) }
    }
    return {
      acquire: (lease, durationMs) => acquired(lease, durationMs, 0),
      wait: (lease, durationMs) => acquired(lease, durationMs, Number.POSITIVE_INFINITY),
    }
  },
})
