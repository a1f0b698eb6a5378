/** Histories made by hand. */
import { type Verdict, judge } from '#src/chaos/checks/index.ts'
import { RUN, type CallOutcome, type ChaosEvent, type Operation } from '#src/chaos/event.ts'
import type { History, RunSettings } from '#src/chaos/history.ts'

export const SETTINGS: RunSettings = {
  ground: 'redis',
  kind: 'redis',
  nemeses: ['none'],
  seed: 7,
  minutes: 1,
  workers: 2,
  leaseMs: 600,
  commit: 'unknown',
  versions: {},
  startedAt: '2026-01-01T00:00:00.000Z',
}

/** A call of a holder `p1-…` of the worker `p1`. */
export interface MadeCall {
  readonly operation: Operation
  readonly holder: string
  readonly sentMs: number
  /** Absent: it has no answer. */
  readonly answeredMs?: number
  readonly lease?: string
  readonly outcome?: CallOutcome
  /** What the answer names. */
  readonly token?: number
  /** Whose term the answer names, if not the holder's own. */
  readonly seen?: string
  readonly durationMs?: number
}

let calls = 0

export function callEvents(made: MadeCall): ChaosEvent[] {
  const { operation, holder, sentMs, answeredMs, lease = 'cold-1', outcome = 'granted', token, seen } = made
  const { durationMs = 1000 } = made
  const worker = holder.split('-')[0] ?? holder
  const call = ++calls
  const sent = { worker, what: 'sent', call, operation, lease, holder, durationMs, atMs: sentMs }
  // A release says with the call which term it is about.
  const about = operation === 'release' && token !== undefined ? { token: String(token) } : {}
  if (answeredMs === undefined) return [{ ...sent, ...about }]
  const term = token === undefined ? {} : { token: String(token) }
  const answer = { worker, what: 'answered', call, operation, outcome, atMs: answeredMs, ...term }
  return [
    { ...sent, ...about },
    { ...answer, ...(seen !== undefined && { holder: seen }) },
  ]
}

/** Samples of what a holder relied on, one a millisecond. */
export function reliedEvents(
  { holder, lease = 'cold-1', token, weight = 1 }: Pick<MadeCall, 'holder' | 'lease' | 'token'> & { weight?: number },
  {
    fromMs,
    toMs,
    trustedUntilMs,
  }: { readonly fromMs: number; readonly toMs: number; readonly trustedUntilMs?: number },
): ChaosEvent[] {
  const worker = holder.split('-')[0] ?? holder
  const samples: ChaosEvent[] = []
  for (let atMs = fromMs - 0.5; atMs <= toMs; atMs += 0.5) {
    const until = trustedUntilMs === undefined ? {} : { trustedUntilMs }
    const named = { worker, what: 'relied', lease, holder, token: String(token), weight, askedMs: fromMs - 5, ...until }
    samples.push({ ...named, atMs, sampledMs: atMs + 0.5 })
  }
  return samples
}

export function phaseEvent(detail: string, atMs: number): ChaosEvent {
  return { worker: RUN, what: 'phase', detail, atMs }
}

export function historyOf(...events: readonly (ChaosEvent | readonly ChaosEvent[])[]): History {
  return { settings: SETTINGS, events: events.flat().toSorted((a, b) => a.atMs - b.atMs), damage: [] }
}

export function verdictOf(...events: readonly (ChaosEvent | readonly ChaosEvent[])[]): Verdict {
  return judge(historyOf(...events))
}

/** What was found, by check. */
export function foundIn(...events: readonly (ChaosEvent | readonly ChaosEvent[])[]): string[] {
  return verdictOf(...events).violations.map(({ check, what }) => `${check}: ${what}`)
}
