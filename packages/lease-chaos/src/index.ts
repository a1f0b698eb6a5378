export { kinds, UNGUARDED, type Kind, type Ledger, type Stint, type Teller } from './accounts.ts'
export {
  conflictsIn,
  crowds,
  misorderedShares,
  misreportedWrites,
  repeatedRuns,
  staleWrites,
  trustConflicts,
  windowsIn,
  type Conflict,
  type StoreEvent,
  type Window,
} from './checker.ts'
export { GROUNDS, type Battle, type Ground, type GroundName, type Nemesis, type Reach } from './ground.ts'
export { openGround, type GroundOptions } from './grounds/index.ts'
export { nemesesOf } from './nemeses/index.ts'
export { nowMs, record, recordReliance, type Report, type Term } from './recorder.ts'
export { measureStalls, Stalls, type Stall } from './stalls.ts'
export { openClient, openEtcd, openPool, openRedis, type OpenClient, type StoreAddress } from './connections.ts'
export { raceStores, type OpenStore, type RaceStore } from './stores.ts'
export { whenTold, workerEntry, type WorkerEntry } from './worker-entry.ts'
export { Worker, Workers } from './workers.ts'
