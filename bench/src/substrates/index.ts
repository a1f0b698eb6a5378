import type { Substrate } from '../bench.ts'
import { etcd } from './etcd.ts'
import { memory } from './memory.ts'
import { postgres } from './postgres.ts'
import { redis } from './redis.ts'

/** In the order in which they run. */
export const substrates: readonly Substrate[] = [memory, postgres, redis, etcd]
