/** The public API: claim a lease by name for a time, check it, and put the check into your own transaction. */
export {
  callListener,
  ErrClaimDenied,
  ErrInvalid,
  ErrLost,
  ErrNotHeld,
  ErrNotValid,
  ErrStopped,
  ErrTrapdoor,
  ErrUnknown,
  isFinalUnknown,
  LeaseError,
  notValid,
  reasonOf,
  warn,
} from './errors.ts'
export type { LeaseErrorCode, LeaseErrorDetails, LossReason, Problem } from './errors.ts'
export {
  brokenDurationRule,
  checkRequest,
  toMillis,
  MAX_ANY,
  MAX_DURATION_MS,
  MAX_NAME_BYTES,
  MAX_VALUE_BYTES,
  validateString,
} from './lease.ts'
export type { Info, Request, Trapdoor } from './lease.ts'
export { abortController, brokenSignalRule, onAbort, throwIfAborted } from './abort-signal.ts'
export { brokenOptionsRule, brokenRenewalRule, hasMethods, readOptions } from './option-reader.ts'
export { uniqueHolder } from './unique-holder.ts'
export { lockedTrapdoor } from './client.ts'
export type {
  Client,
  ClientCallOptions,
  CountedClient,
  CountedInfo,
  LeaseChange,
  RefreshOptions,
  Renewal,
  ShareRefusal,
  SubscribeOptions,
  TermId,
} from './client.ts'
export { countedName, MAX_CAPACITY, shareName } from './share.ts'
export type { ShareRequest } from './share.ts'
export type { Ticket } from './ticket.ts'
export { sleep, systemClock } from './clock.ts'
export type { Clock, Timer } from './clock.ts'
export { Stopwatch } from './elapsed-time.ts'
export { trustWindowMs } from './skew.ts'
export { showAs } from './shown.ts'
export { LeaseEvents } from './events.ts'
export type { LeaseEvent, LeaseEventListener, StoreName, SubscribeToEvents } from './events.ts'
export { traces, traceWork } from './tracing.ts'
export type { ApplyTrace, CallTrace, CheckTrace, ClaimTrace, HoldTrace, ReleaseTrace, WorkTrace } from './tracing.ts'
// Of `lease-core/adapter`: for a Client over your own store.
export { contended, granted, refused, unknown } from './substrate.ts'
export { HintStream } from './hint-stream.ts'
export { SubstrateClient } from './substrate-client.ts'
export type { SubstrateClientOptions } from './substrate-client.ts'
export type { Token } from './token.ts'
export type { Held } from './held.ts'
export type { Hold, ReleaseOptions, UpdateOptions } from './hold.ts'
export { Manager } from './manager.ts'
export type { ManagerConfig } from './manager.ts'
export type {
  Checker,
  Claimer,
  ClaimOptions,
  Counter,
  DefineOptions,
  HoldOptions,
  ObserveOptions,
  OperationOptions,
  Pinner,
  Reader,
  Releaser,
  RevokeOptions,
  ShareOptions,
  WaitOptions,
} from './roles.ts'
export { memoryClient, MemoryGuard, MemoryStore, MemorySubstrate } from './memory/index.ts'
export type { MemoryClientOptions, MemoryStoreOptions, MemorySubstrateOptions } from './memory/index.ts'
