/** What follows for certain from a history: calls, windows of trust, and terms. The checks read nothing else. */
import { trustWindowMs } from 'lease-core'
import { groupedBy, windowsIn, type Window } from '../../checker.ts'
import { isRevocable, LOCAL, type CallOutcome, type ChaosEvent, type Operation } from '../event.ts'
import type { History } from '../history.ts'

/** Something that must not have been. */
export interface Violation {
  /** Of `docs/reliability.md`: C1 … C8. */
  readonly check: string
  /** The lease, or the worker where no lease is concerned. */
  readonly lease: string
  readonly atMs: number
  readonly what: string
  /** The fencing tokens of the terms concerned, where they are known. */
  readonly tokens?: readonly string[]
}

/** Readings of the clock in two processes agree to this. */
export const PRECISION_MS = 0.02

/** One call of the public API. */
export interface Call {
  readonly worker: string
  readonly operation: Operation
  readonly lease: string
  readonly holder: string
  readonly sentMs: number
  /** Infinity: it has no answer. */
  readonly answeredMs: number
  /** Without an answer: unknown. */
  readonly outcome: CallOutcome
  /** Of what was granted or seen, or of the term that the call was about. */
  readonly token: bigint | undefined
  readonly durationMs: number
  readonly detail: string
}

/** A term of one lease, and between which instants it was in place. */
export interface TermFacts {
  readonly lease: string
  readonly token: bigint
  readonly holders: ReadonlySet<string>
  /** It began no earlier. */
  readonly fromMs: number
  /** It had begun by then. */
  readonly begunMs: number
  /** It was still in place at this instant, or later. */
  readonly stoodMs: number
  /** It was released or revoked by then. Infinity: nothing says so. */
  readonly endedMs: number
}

export interface Facts {
  readonly history: History
  readonly calls: readonly Call[]
  /** All that was relied on. */
  readonly windows: readonly Window[]
  /** By lease, in the order of their fencing tokens. */
  readonly terms: ReadonlyMap<string, readonly TermFacts[]>
}

const GRANTS: ReadonlySet<Operation> = new Set(['claim', 'hold', 'hold-wait', 'hold-any'])
/** What shows that the term stood at some instant of the call. A check without a key need not have asked the store. */
const SIGHTS: ReadonlySet<Operation> = new Set([...GRANTS, 'find', 'check', 'write', 'update', 'renew'])

/** Whether the call asks for a term of a lease. */
export function asksForTerm({ operation }: Pick<Call, 'operation'>): boolean {
  return GRANTS.has(operation)
}

export function factsOf(history: History): Facts {
  const calls = callsOf(history.events)
  const windows = joined([...windowsIn(holdersOf(history.events)), ...claimWindows(calls)])
  return { history, calls, windows, terms: termsOf(calls, windows) }
}

/** The calls on one lease each, in the order in which they were sent. */
export function callsByLease(calls: readonly Call[]): Map<string, Call[]> {
  return groupedBy(calls, ({ lease }) => lease)
}

function callsOf(events: readonly ChaosEvent[]): Call[] {
  const sent = new Map<string, ChaosEvent>()
  const calls: Call[] = []
  for (const event of events) {
    const key = `${event.worker} ${event.call}`
    if (event.what === 'sent') sent.set(key, event)
    if (event.what !== 'answered') continue
    const asked = sent.get(key)
    if (asked === undefined) continue
    sent.delete(key)
    calls.push(callOf(asked, event))
  }
  calls.push(...Array.from(sent.values(), (asked) => callOf(asked, undefined)))
  return calls.toSorted((a, b) => a.sentMs - b.sentMs)
}

function callOf(sent: ChaosEvent, answer: ChaosEvent | undefined): Call {
  const token = answer?.token ?? sent.token
  return {
    worker: sent.worker,
    operation: sent.operation ?? 'find',
    lease: answer?.lease ?? sent.lease ?? '',
    holder: answer?.holder ?? sent.holder ?? '',
    sentMs: sent.atMs,
    answeredMs: answer?.atMs ?? Number.POSITIVE_INFINITY,
    outcome: answer?.outcome ?? 'unknown',
    token: token === undefined ? undefined : BigInt(token),
    durationMs: sent.durationMs ?? 0,
    detail: answer?.detail ?? '',
  }
}

/** By who relied, which is a worker or one of its runners. */
function holdersOf(events: readonly ChaosEvent[]): { readonly name: string; readonly reports: ChaosEvent[] }[] {
  const relied = events.filter(({ what }) => what === 'relied')
  return Array.from(
    groupedBy(relied, ({ holder, worker }) => holder ?? worker),
    ([name, reports]) => ({ name, reports }),
  )
}

/** What a plain claim promises: the lease from the answer until its trust window ends, unless it was released before. */
function claimWindows(calls: readonly Call[]): Window[] {
  const released = new Map<string, number>()
  for (const { operation, lease, token, sentMs } of calls) {
    const key = `${lease} ${token}`
    if (operation === 'release' && sentMs < (released.get(key) ?? Number.POSITIVE_INFINITY)) released.set(key, sentMs)
  }
  return calls.flatMap(({ operation, outcome, holder, lease, token, sentMs, answeredMs, durationMs }) => {
    if (operation !== 'claim' || outcome !== 'granted' || token === undefined) return []
    const releasedMs = released.get(`${lease} ${token}`) ?? Number.POSITIVE_INFINITY
    const toMs = Math.min(sentMs + trustWindowMs(durationMs), releasedMs)
    return toMs <= answeredMs
      ? []
      : { name: holder, lease, token: String(token), fromMs: answeredMs, toMs, weight: 1, askedMs: sentMs }
  })
}

/** A term stands between any two instants at which it stood: the windows of one term are one. */
function joined(windows: readonly Window[]): Window[] {
  const terms = groupedBy(windows, ({ name, lease, token }) => `${name} ${lease} ${token}`)
  return Array.from(terms.values(), (all) => ({
    ...(all[0] as Window),
    fromMs: Math.min(...all.map(({ fromMs }) => fromMs)),
    toMs: Math.max(...all.map(({ toMs }) => toMs)),
  })).toSorted((a, b) => a.fromMs - b.fromMs)
}

function termsOf(calls: readonly Call[], windows: readonly Window[]): Map<string, TermFacts[]> {
  /** When a holder first asked for a lease: its names are not used again for another term. */
  const asked = new Map<string, number>()
  for (const call of calls) {
    const key = `${call.lease} ${call.holder}`
    if (asksForTerm(call)) asked.set(key, Math.min(asked.get(key) ?? Number.POSITIVE_INFINITY, call.sentMs))
  }
  const terms = new Map<string, TermFacts & { holders: Set<string> }>()
  const grow = (lease: string, token: bigint, more: Partial<TermFacts>, holder?: string): void => {
    const key = `${lease} ${token}`
    const known = terms.get(key)
    const askedMs = holder === undefined ? undefined : (asked.get(`${lease} ${holder}`) ?? Number.NEGATIVE_INFINITY)
    terms.set(key, {
      lease,
      token,
      holders: known?.holders ?? new Set(),
      fromMs: Math.max(known?.fromMs ?? Number.NEGATIVE_INFINITY, askedMs ?? Number.NEGATIVE_INFINITY),
      begunMs: Math.min(known?.begunMs ?? Number.POSITIVE_INFINITY, more.begunMs ?? Number.POSITIVE_INFINITY),
      stoodMs: Math.max(known?.stoodMs ?? Number.NEGATIVE_INFINITY, more.stoodMs ?? Number.NEGATIVE_INFINITY),
      endedMs: Math.min(known?.endedMs ?? Number.POSITIVE_INFINITY, more.endedMs ?? Number.POSITIVE_INFINITY),
    })
    if (holder !== undefined) terms.get(key)?.holders.add(holder)
  }
  for (const { operation, outcome, lease, holder, token, sentMs, answeredMs, detail } of calls) {
    if (token === undefined || outcome !== 'granted') continue
    if (SIGHTS.has(operation) && !(operation === 'check' && isRevocable(lease))) {
      grow(lease, token, { begunMs: answeredMs, stoodMs: sentMs }, holder)
    }
    if ((operation === 'release' && detail !== LOCAL) || operation === 'revoke')
      grow(lease, token, { endedMs: answeredMs })
  }
  for (const { lease, token, fromMs, toMs } of windows) {
    if (!isRevocable(lease) && terms.has(`${lease} ${token}`)) {
      grow(lease, BigInt(token), { begunMs: fromMs, stoodMs: toMs })
    }
  }
  const byLease: Map<string, TermFacts[]> = groupedBy([...terms.values()], ({ lease }) => lease)
  for (const all of byLease.values()) all.sort((a, b) => (a.token < b.token ? -1 : 1))
  return byLease
}
