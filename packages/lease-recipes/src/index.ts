/** Recipes on leases. They use only the public API of lease-core. */
export { Authority } from './authority.ts'
export type {
  AuthorityCallOptions,
  AuthorityEvents,
  AuthorityLoss,
  AuthorityOptions,
  ReadyOptions,
} from './authority.ts'
export { election, ElectionNode } from './election.ts'
export type {
  DeselectReason,
  ElectionCallOptions,
  ElectionOptions,
  Leader,
  Leadership,
  NodeEvents,
  NodeFactory,
  NodeOptions,
} from './election.ts'
export { Emitter } from './emitter.ts'
export type { EventMap, Listener } from './emitter.ts'
export { FailClosedLock, FailOpenLock } from './fenced-lock.ts'
export type {
  AcquireLockOptions,
  FailClosedLockOptions,
  FailOpenLockOptions,
  FencedLock,
  FencedLockEvents,
  FencedLockOptions,
  LockCallOptions,
  LockInfo,
} from './fenced-lock.ts'
export { lead } from './lead.ts'
export type { Candidate, CandidateEvents, LeaderTerm, LeadOptions, LeadWork } from './lead.ts'
export type { LockId, LockIdPart } from './lock-id.ts'
export { using } from './using.ts'
export type { Usable, UsingOptions, UsingScope } from './using.ts'
export { ErrFenced, FencingGate, MemoryFencingStore, PostgresFencingStore, RedisFencingStore } from './fencing-gate.ts'
export type {
  AdmitOptions,
  Fence,
  FencingEvaluator,
  FencingGateOptions,
  FencingQueryable,
  FencingStore,
  PostgresFencingStoreOptions,
  RedisFencingStoreOptions,
} from './fencing-gate.ts'
export { ErrLimitMismatch, ErrNoSemaphore, Permit, Semaphores } from './semaphore.ts'
export type {
  PermitInfo,
  PostOptions,
  ResizeOptions,
  SemaphoreCallOptions,
  SemaphoreInfo,
  SemaphoresEvents,
  SemaphoresOptions,
} from './semaphore.ts'
export { OncePer, Run } from './once-per.ts'
export type {
  Begun,
  LastOptions,
  LastRun,
  OncePerOptions,
  Outcome,
  RunCallOptions,
  RunOptions,
  RunScope,
  Skipped,
  Slot,
} from './once-per.ts'
export { Lock, ReadWriteLock } from './read-write-lock.ts'
export type {
  LockMode,
  LockOptions,
  ReadWriteLockEvents,
  ReadWriteLockOptions,
  UnlockOptions,
} from './read-write-lock.ts'
export { Throttle } from './throttle.ts'
export type { StartOptions, ThrottleOptions } from './throttle.ts'
export { webLocks } from './web-locks.ts'
export type {
  WebLock,
  WebLockInfo,
  WebLockMode,
  WebLockRequestOptions,
  WebLocks,
  WebLocksOptions,
  WebLocksState,
} from './web-locks.ts'
export { withLease } from './with-lease.ts'
export type { LeaseScope, WithLeaseOptions } from './with-lease.ts'
export { HeldAll, holdAll } from './hold-all.ts'
export type { HoldAllOptions } from './hold-all.ts'
export { ErrNoResult, ErrNotRecorded, Once } from './once.ts'
export type { NotRecordedReason, OnceCallOptions, OnceOptions, OnceRunOptions, OnceScope, OnceStore } from './once.ts'
