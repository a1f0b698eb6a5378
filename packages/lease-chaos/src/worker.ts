/** What worker processes need, and nothing that is slow to load: there are hundreds of them. */
export { kinds, UNGUARDED, type Stint } from './accounts.ts'
export {
  dynamodbParts,
  loadStore,
  openClient,
  openEtcd,
  openPool,
  openRedis,
  type OpenClient,
  type Reach,
  type StoreAddress,
} from './connections.ts'
export { nowMs, record, recordReliance, type Report, type Term } from './recorder.ts'
export { measureStalls } from './stalls.ts'
export { whenTold, workerEntry, type WorkerEntry } from './worker-entry.ts'
