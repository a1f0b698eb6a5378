/** Tools to test what is built on leases, and the library itself: time that stands still, and things that go wrong. */
export { FakeLeases, type FakeLeasesOptions } from './fake-leases.ts'
export {
  InjectedFault,
  type CallKind,
  type Fault,
  type FaultFilter,
  type FaultName,
  type FaultPlace,
  type PlacedFaultFilter,
} from './fault.ts'
export { FaultySubstrate, type Counts, type FaultySubstrateOptions } from './faulty-substrate.ts'
export { infoOf, type InfoParts } from './info-of.ts'
export {
  ScriptedClient,
  type OptionalMethod,
  type RecordedCall,
  type ScriptedClientOptions,
  type ScriptedMethod,
  type ScriptStep,
} from './scripted-client.ts'
export { SimulatedTime, type SimulatedClockOptions, type StallOptions } from './simulated-time.ts'
export { TestClock, type TestClockOptions } from './test-clock.ts'
export { track, type Tracked } from './track.ts'
export { whileLive } from './while-live.ts'
