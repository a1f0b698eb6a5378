export * from './worker.ts'
export type { Kind, Ledger, Teller } from './accounts.ts'
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
export { GROUNDS, type Battle, type Ground, type GroundName, type Nemesis } from './ground.ts'
export { openGround, type GroundOptions } from './grounds/index.ts'
export { nemesesOf } from './nemeses/index.ts'
export { Stalls, type Stall } from './stalls.ts'
export { raceStores, type OpenStore, type RaceStore } from './stores.ts'
export { Worker, Workers } from './workers.ts'
