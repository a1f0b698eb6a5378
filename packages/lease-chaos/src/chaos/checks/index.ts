/** All checks of a history. Each is one-sided: it reports nothing that could have been right, however slow the machine was. */
import type { History } from '../history.ts'
import { checkBeliefs } from './beliefs.ts'
import { factsOf, type Facts, type Violation } from './facts.ts'
import { checkGroups } from './groups.ts'
import { checkLeftovers } from './leftovers.ts'
import { checkLinearization } from './linearization.ts'
import { checkLiveness, checkPending } from './liveness.ts'
import { explaining, lossesIn, type NamedViolation } from './losses.ts'
import { checkSignals } from './signals.ts'
import { checkTimeline } from './timeline.ts'
import { checkTokens } from './tokens.ts'
import { checkWrites, unguardedViolations } from './writes.ts'

export type { Violation } from './facts.ts'
export type { NamedViolation } from './losses.ts'

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
  /** What the guarantees do not name. */
  readonly violations: readonly Violation[]
  /** What the store forgot, as the guarantees say that it may. */
  readonly named: readonly NamedViolation[]
  /** How often it may have forgotten something. */
  readonly losses: number
  /** In the accounts that are written without a guard. */
  readonly unguarded: readonly Violation[]
  readonly figures: Figures
}

/** Reads a history by all checks. Violations are in the order of their instants. */
export function judge(history: History): Verdict {
  const facts = factsOf(history)
  const losses = lossesIn(facts)
  const violations: Violation[] = []
  const named: NamedViolation[] = []
  for (const violation of CHECKS.flatMap((check) => check(facts)).toSorted((a, b) => a.atMs - b.atMs)) {
    const loss = explaining(violation, losses, facts)
    if (loss === undefined) violations.push(violation)
    else named.push({ violation, loss })
  }
  const figures = {
    operations: facts.calls.length,
    grants: facts.calls.filter(({ outcome }) => outcome === 'granted').length,
    terms: [...facts.terms.values()].reduce((sum, all) => sum + all.length, 0),
    faults: history.events.filter(({ what }) => what === 'fault').length,
  }
  return { violations, named, losses: losses.length, unguarded: unguardedViolations(facts), figures }
}
