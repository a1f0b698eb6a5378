import type { Adapter } from '../../bench.ts'
import { effectDistributedLock } from './effect-distributed-lock.ts'
import { ioredisLock } from './ioredis-lock.ts'
import { redisSemaphore } from './redis-semaphore.ts'
import { redlock4, redlock5, sesamecare } from './redlock.ts'
import { redlockUniversal } from './redlock-universal.ts'
import { verrouRedis } from './verrou.ts'

/** The libraries on npm that keep locks in Redis. */
export const redisPeers: readonly Adapter[] = [
  redlock4,
  redlock5,
  sesamecare,
  redisSemaphore,
  redlockUniversal,
  verrouRedis,
  ioredisLock,
  effectDistributedLock,
]
