/** Leases in the memory of one process. */
export { MemoryGuard } from './memory-guard.ts'
export { MemoryStore, type MemoryStoreOptions } from './memory-store.ts'
export {
  memoryClient,
  MemorySubstrate,
  type MemoryClientOptions,
  type MemorySubstrateOptions,
} from './memory-substrate.ts'
