/**
 * The contract of a lease client as tests that anyone can run against a client of their own, with any test runner:
 *
 * ```ts
 * import { after, before, describe, it } from 'mocha' // or node:test, vitest, jest
 * import { conformance } from 'lease-core/conformance'
 *
 * conformance({ describe, it, before, after }, harness)
 * ```
 *
 * Give each test of a real store a minute. On a real clock the clauses of a suite run side by side, and a slow store makes
 * the kit slower, never red: steps that came too late are repeated with longer leases. On a test clock clauses run one after
 * the other, with exact bounds. `harness.ts` says more.
 *
 * One file per suite; each title is a promise. What a substrate does not have by its nature, or what its harness
 * cannot do, is reported as skipped with the reason. That the kit notices broken clients is proved by its own tests,
 * which run it against substrates with one defect each.
 */
import { badInput } from './bad-input.ts'
import { claims } from './claims.ts'
import { exclusion } from './exclusion.ts'
import { expiry } from './expiry.ts'
import { extension } from './extension.ts'
import { faults } from './faults.ts'
import { fencing } from './fencing.ts'
import type { Harness, Runner } from './harness.ts'
import { declare, type Suite } from './kit.ts'
import { late } from './late.ts'
import { limits } from './limits.ts'
import { manager } from './manager.ts'
import { pins } from './pins.ts'
import { queue } from './queue.ts'
import { refusals } from './refusals.ts'
import { release } from './release.ts'
import { scale } from './scale.ts'
import { shares } from './shares.ts'
import { trapdoor } from './trapdoor.ts'
import { values } from './values.ts'
import { waiting } from './waiting.ts'

export { faultsOf } from './faults-of.ts'
export type { Faults, FaultyClient, Guard, Harness, Packets, Runner, Supports, TestFunction } from './harness.ts'

const SUITES: readonly Suite[] = [
  claims,
  extension,
  expiry,
  release,
  fencing,
  pins,
  values,
  trapdoor,
  refusals,
  waiting,
  queue,
  shares,
  limits,
  badInput,
  scale,
  exclusion,
  faults,
  late,
  manager,
]

/** Declares every clause of the contract as a test of this runner, against the clients of this harness. */
export function conformance(runner: Runner, harness: Harness): void {
  runner.describe(`${harness.name} keeps the lease contract`, () => {
    for (const suite of SUITES) declare(runner, harness, suite)
  })
}
