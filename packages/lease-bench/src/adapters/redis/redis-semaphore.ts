import { Mutex } from 'redis-semaphore'
import type { Adapter } from '../../bench.ts'
import { redisPeer } from './peer.ts'

export const redisSemaphore: Adapter = redisPeer({
  name: 'redis-semaphore',
  dependency: 'redis-semaphore',
  about: 'its Mutex',
  can: ['one', 'keep', 'queue', 'knows'],
  async connect(redis, prefix) {
    const mutex = async (lease: string, lockTimeout: number, options: object): Promise<Mutex> => {
      const mutex = new Mutex(redis, prefix + lease, {
        lockTimeout,
        acquireTimeout: Number.POSITIVE_INFINITY,
        ...options,
      })
      await mutex.acquire()
      return mutex
    }
    const once = { acquireAttemptsLimit: 1, refreshInterval: 0 }
    return {
      async acquire(lease, durationMs) {
        const acquired = await mutex(lease, durationMs, once)
        return { release: () => acquired.release(), held: () => acquired.isAcquired }
      },
      wait: (lease, durationMs) => mutex(lease, durationMs, { refreshInterval: 0 }),
      async keep(lease, durationMs) {
        const onLockLost = (): void => {} // known from isAcquired
        const acquired = await mutex(lease, durationMs, { ...once, refreshInterval: durationMs / 3, onLockLost })
        return {
          get held() {
            return acquired.isAcquired
          },
          release: () => acquired.release(),
        }
      },
    }
  },
})
