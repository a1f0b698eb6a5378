import type { Workload } from '../bench.ts'
import { idleWaiters } from './idle-waiters.ts'
import { w1Sequential } from './w1-sequential.ts'
import { w2Concurrent } from './w2-concurrent.ts'
import { w3Renewals } from './w3-renewals.ts'
import { w4HandOff } from './w4-hand-off.ts'
import { w5StillMine } from './w5-still-mine.ts'
import { w6Memory } from './w6-memory.ts'
import { w7Guarded } from './w7-guarded.ts'
import { w8Growth } from './w8-growth.ts'
import { w9Fleet } from './w9-fleet.ts'

/** In the order in which they run: those that leave much behind come last. */
export const workloads: readonly Workload[] = [
  w1Sequential,
  w2Concurrent,
  w3Renewals,
  w4HandOff,
  w9Fleet,
  w5StillMine,
  w7Guarded,
  idleWaiters,
  w8Growth,
  w6Memory,
]
