import type { Adapter } from '../../bench.ts'
import { verrouLocks } from '../verrou.ts'
import { redisPeer } from './peer.ts'

export const verrouRedis: Adapter = redisPeer({
  name: 'verrou',
  dependency: '@verrou/core',
  about: 'Redis store; it extends nothing by itself',
  can: ['one', 'keep', 'queue', 'knows', 'asks'],
  async connect(redis, prefix) {
    const { redisStore } = await import('@verrou/core/drivers/redis')
    return verrouLocks(redisStore({ connection: redis }), prefix)
  },
})
