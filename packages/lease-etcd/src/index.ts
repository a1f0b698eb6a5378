/** lease-core on etcd. */
export { etcdClient } from './etcd-client.ts'
export { EtcdSubstrate } from './etcd-substrate.ts'
export type { EtcdOptions, EtcdSubstrateOptions } from './options.ts'
export { failFast, type FailFastOptions } from './fail-fast.ts'
export { EtcdGuard, type EtcdComparison } from './guard.ts'
export type {
  EtcdAlarm,
  EtcdAnswer,
  EtcdCallOptions,
  EtcdCompare,
  EtcdComparisons,
  EtcdDriver,
  EtcdKeyValue,
  EtcdRange,
  EtcdRangeAnswer,
  EtcdRequest,
  EtcdTransactions,
  EtcdTxn,
  EtcdTxnAnswer,
  EtcdWatchAnswer,
  EtcdWatchedKey,
  EtcdWatchRequest,
  EtcdWatchStream,
} from './driver.ts'
