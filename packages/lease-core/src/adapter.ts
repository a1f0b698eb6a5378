/**
 * What an adapter is made of: the interface to a store (`Substrate`), the Client over it, and what adapters share. `docs/adapters.md`
 * explains how to write one.
 */
export {
  CLIENT_LENGTH,
  clientOf,
  contended,
  granted,
  isNamed,
  late,
  LONGEST_DEADLINE_MS,
  mayExtend,
  refused,
  StoreFailure,
  unknown,
} from './substrate.ts'
export type {
  Call,
  ClaimOp,
  Counted,
  DefineOp,
  ExpireOp,
  ExtendOp,
  Holding,
  LeaveOp,
  Op,
  PassOverOp,
  PinOp,
  Pins,
  ReleaseOp,
  ShareOp,
  StoreFailureDetails,
  Substrate,
  SubstrateLimits,
  SubstrateWarning,
  UnpinOp,
  Verdict,
} from './substrate.ts'
export { brokenNamespaceRule, clientOver, notHeld, readAdapterOptions } from './adapter-parts.ts'
export { SubstrateClient } from './substrate-client.ts'
export type { SubstrateClientOptions } from './substrate-client.ts'
export { lockedTrapdoor } from './client.ts'
export { brokenCapacityRule, countedOf, DEFINITION_MS } from './share.ts'
export { INTEREST_MS, noTicket, TOLD } from './ticket.ts'
export type { Place } from './ticket.ts'
export { changesIn } from './hint-message.ts'
export { HintStream, warnOfNoHints } from './hint-stream.ts'
export type { HintConnection, HintStreamOptions, OpenHintConnection } from './hint-stream.ts'
export { brokenNameRule } from './lease.ts'
export { instantsOf } from './lease-states.ts'
export { OptionReader } from './option-reader.ts'
export type { OptionReaderWords } from './option-reader.ts'
export { HOLD_OPTIONS, readHold } from './options.ts'
export type { ParsedHoldOptions } from './options.ts'
export { withoutSecrets } from './shown.ts'
export { HintListeners } from './hint-listeners.ts'
export { LatestMap } from './latest-map.ts'
export { OncePerLease } from './once-per-lease.ts'
export { RecordSubstrate, type RecordSubstrateOptions } from './records/record-substrate.ts'
export { ABSENT } from './records/record.ts'
export type {
  Abortable,
  Definition,
  FoundRecords,
  LeaseRecord,
  QueueTicket,
  RecordStore,
  RecordWrite,
  Term,
  Written,
} from './records/record.ts'
