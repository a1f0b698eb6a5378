/** Parts of the random testers: those of `lease-core` and of `lease-recipes` are made of them. */
export { runCommand } from './command.ts'
export { CountedHistory, isFullFor, type CountedEntry, type DefineCall } from './counted-history.ts'
export { strike, type FaultSettings, type StruckProcess, type StruckWorld } from './faults.ts'
export { History, type Entry, type Sent, type StoredTerm } from './history.ts'
export { Random, Weighted } from './random.ts'
export { shrink, type Rerun } from './shrink.ts'
export type { Outcome, Tester } from './tester.ts'
export { Wire } from './wire.ts'
