import type { Adapter, Kept } from '../../bench.ts'
import { redisPeer } from './peer.ts'

export const redlockUniversal: Adapter = redisPeer({
  name: 'redlock-universal',
  dependency: 'redlock-universal',
  about: 'its `createLock` for one server, without metrics',
  can: ['one', 'keep', 'queue', 'asks'],
  async connect(redis, prefix) {
    const { createLock, IoredisAdapter } = await import('redlock-universal')
    const adapter = new IoredisAdapter(redis)
    const lockOf = (lease: string, ttl: number, retryAttempts: number): ReturnType<typeof createLock> =>
      createLock({ adapter, key: prefix + lease, ttl, retryAttempts, performance: 'lean' })
    const acquired = async (lease: string, ttl: number, retryAttempts: number) => {
      const lock = lockOf(lease, ttl, retryAttempts)
      const handle = await lock.acquire()
      return { release: () => lock.release(handle), check: () => lock.isLocked(handle.key) }
    }
    return {
      acquire: (lease, durationMs) => acquired(lease, durationMs, 0),
      wait: (lease, durationMs) => acquired(lease, durationMs, 1_000_000),
      keep: (lease, durationMs) =>
        new Promise<Kept>((resolve, reject) => {
          let end = (): void => {}
          const ended = new Promise<void>((finish) => (end = finish))
          const used = lockOf(lease, durationMs, 0).using((signal) => {
            resolve({
              get held() {
                return !signal.aborted
              },
              async release() {
                end()
                await used
              },
            })
            return ended
          })
          used.catch(reject)
        }),
    }
  },
})
