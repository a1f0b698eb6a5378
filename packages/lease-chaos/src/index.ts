export {
  crowds,
  misorderedShares,
  misreportedWrites,
  repeatedRuns,
  staleWrites,
  trustConflicts,
  windowsIn,
  type StoreEvent,
  type Window,
} from './checker.ts'
export { nowMs, record, recordReliance, type Report, type Term } from './recorder.ts'
export { measureStalls, Stalls, type Stall } from './stalls.ts'
export { openClient, raceStores, type OpenClient, type OpenStore, type RaceStore, type StoreAddress } from './stores.ts'
export { whenTold, Worker, workerEntry, Workers, type WorkerEntry } from './workers.ts'
