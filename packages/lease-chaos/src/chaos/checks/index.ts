/** All checks of a history. Each is one-sided: it reports nothing that could have been right, however slow the machine was. */
import { readHistory, sizeOfHistory, type History, type RunSettings } from '../history.ts'
import { checkBeliefs } from './beliefs.ts'
import { factsOf, type Facts, type Violation } from './facts.ts'
import { checkGroups } from './groups.ts'
import { checkFailures, checkLeftovers } from './leftovers.ts'
import { checkLinearization } from './linearization.ts'
import { checkLiveness, checkPending } from './liveness.ts'
import { explaining, lossesIn, type NamedViolation } from './losses.ts'
import { checkSignals } from './signals.ts'
import { checkTimeline } from './timeline.ts'
import { checkTokens } from './tokens.ts'
import { checkWrites, unguardedViolations } from './writes.ts'

export type { Violation } from './facts.ts'
export type { NamedViolation } from './losses.ts'

type Check = (facts: Facts) => Violation[]

/** Each looks at one lease at a time. */
const OF_LEASES: readonly Check[] = [
  checkBeliefs,
  checkTokens,
  checkWrites,
  checkTimeline,
  checkLinearization,
  checkPending,
  checkSignals,
  checkFailures,
  checkGroups,
]
/** Of what concerns no lease, and of the calls in the quiet. */
const OF_THE_RUN: readonly Check[] = [checkLiveness, checkLeftovers]

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
  return verdictOf(history, [...OF_LEASES, ...OF_THE_RUN])
}

/** A verdict on a folder. */
export interface Judged extends Verdict {
  readonly settings: RunSettings
  readonly damage: readonly string[]
  /** The first instant of the history. */
  readonly fromMs: number
}

/** What is read of a history at a time, in bytes: three times as much is needed of memory. */
const PART_BYTES = 150 * 2 ** 20

/**
 * Reads the history of a folder by all checks, and a long one in parts: the leases of each part at a time. So what it takes of memory is
 * bounded, unless most is about a few leases: those of one are checked together.
 *
 * @param partBytes how much to read at a time
 */
export async function judgeFolder(folder: string, partBytes: number = PART_BYTES): Promise<Judged> {
  const parts = Math.ceil(sizeOfHistory(folder) / partBytes)
  if (parts <= 1) {
    const history = await readHistory(folder)
    return judgedOf(history, history.events[0]?.atMs, [judge(history)])
  }
  const verdicts: Verdict[] = []
  let fromMs: number | undefined
  for (let part = 0; part < parts; part++) {
    const ofPart = await readHistory(folder, { concerns: (lease) => hashOf(lease) % parts === part })
    verdicts.push(verdictOf(ofPart, OF_LEASES))
    const firstMs = ofPart.events[0]?.atMs
    fromMs = Math.min(fromMs ?? Number.POSITIVE_INFINITY, firstMs ?? Number.POSITIVE_INFINITY)
  }
  const rest = await readHistory(folder, { sinceQuiet: true })
  const { violations, named } = verdictOf(rest, OF_THE_RUN)
  const [{ losses, figures: { faults } } = { losses: 0, figures: { faults: 0 } }] = verdicts
  const none = { operations: 0, grants: 0, terms: 0, faults }
  const ofRest: Verdict = { violations, named, losses, unguarded: [], figures: none }
  return judgedOf(rest, fromMs, [...verdicts, ofRest])
}

function judgedOf({ settings, damage }: History, fromMs: number = 0, verdicts: readonly Verdict[]): Judged {
  const sum = (of: keyof Figures): number => verdicts.reduce((all, { figures }) => all + figures[of], 0)
  const [first] = verdicts
  return {
    settings,
    damage,
    fromMs,
    violations: verdicts.flatMap(({ violations }) => violations).toSorted((a, b) => a.atMs - b.atMs),
    named: verdicts.flatMap(({ named }) => named),
    losses: first?.losses ?? 0,
    unguarded: verdicts.flatMap(({ unguarded }) => unguarded),
    figures: {
      operations: sum('operations'),
      grants: sum('grants'),
      terms: sum('terms'),
      faults: first?.figures.faults ?? 0,
    },
  }
}

function hashOf(text: string): number {
  let hash = 0
  for (let index = 0; index < text.length; index++) hash = (Math.imul(hash, 31) + text.charCodeAt(index)) >>> 0
  return hash
}

function verdictOf(history: History, checks: readonly Check[]): Verdict {
  const facts = factsOf(history)
  const losses = lossesIn(facts)
  const violations: Violation[] = []
  const named: NamedViolation[] = []
  for (const violation of checks.flatMap((check) => check(facts)).toSorted((a, b) => a.atMs - b.atMs)) {
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
