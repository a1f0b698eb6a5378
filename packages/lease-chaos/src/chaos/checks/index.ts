/** All checks of a history. Each is one-sided: it reports nothing that could have been right, however slow the machine was. */
import type { History } from '../history.ts'
import { checkBeliefs } from './beliefs.ts'
import { factsOf, type Facts, type Violation } from './facts.ts'
import { checkGroups } from './groups.ts'
import { checkLeftovers } from './leftovers.ts'
import { checkLinearization } from './linearization.ts'
import { checkLiveness, checkPending } from './liveness.ts'
import { checkSignals } from './signals.ts'
import { checkTimeline } from './timeline.ts'
import { checkTokens } from './tokens.ts'
import { checkWrites, unguardedViolations } from './writes.ts'

export type { Violation } from './facts.ts'

const CHECKS: readonly ((facts: Facts) => Violation[])[] = [
  checkBeliefs,
  checkTokens,
  checkWrites,
  checkTimeline,
  checkLinearization,
  checkLiveness,
  checkPending,
  checkSignals,
  checkLeftovers,
  checkGroups,
]

/** How much a history has of what the checks read. */
export interface Figures {
  readonly operations: number
  readonly grants: number
  readonly terms: number
  readonly faults: number
}

export interface Verdict {
  readonly violations: readonly Violation[]
  /** In the accounts that are written without a guard. */
  readonly unguarded: readonly Violation[]
  readonly figures: Figures
}

/** Reads a history by all checks. Violations are in the order of their instants. */
export function judge(history: History): Verdict {
  const facts = factsOf(history)
  const violations = CHECKS.flatMap((check) => check(facts)).toSorted((a, b) => a.atMs - b.atMs)
  const figures = {
    operations: facts.calls.length,
    grants: facts.calls.filter(({ outcome }) => outcome === 'granted').length,
    terms: [...facts.terms.values()].reduce((sum, all) => sum + all.length, 0),
    faults: history.events.filter(({ what }) => what === 'fault').length,
  }
  return { violations, unguarded: unguardedViolations(facts), figures }
}
