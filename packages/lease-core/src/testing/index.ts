/** Tools to test what is built on leases, and the library itself: time that stands still, and things that go wrong. */
export {
  FaultySubstrate,
  InjectedFault,
  type CallKind,
  type Counts,
  type Fault,
  type FaultFilter,
  type FaultName,
  type FaultPlace,
  type FaultySubstrateOptions,
  type PlacedFaultFilter,
} from './faulty-substrate.ts'
export { infoOf, type InfoParts } from './info-of.ts'
export {
  ScriptedClient,
  type RecordedCall,
  type ScriptedClientOptions,
  type ScriptedMethod,
  type ScriptStep,
} from './scripted-client.ts'
export { TestClock, type TestClockOptions } from './test-clock.ts'
export { track, type Tracked } from './track.ts'
export { whileLive } from './while-live.ts'
