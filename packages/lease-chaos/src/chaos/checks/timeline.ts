/** C4: the terms of a lease, in the order of their fencing tokens, fit everything that was seen of them. */
import { groupedBy, type Window } from '../../checker.ts'
import { isRevocable } from '../event.ts'
import {
  asksForTerm,
  callsByLease,
  PRECISION_MS,
  type Call,
  type Facts,
  type TermFacts,
  type Violation,
} from './facts.ts'

export function checkTimeline({ calls, terms, windows }: Facts): Violation[] {
  const windowsOf = groupedBy(windows, ({ lease }) => lease)
  return [...callsByLease(calls)].flatMap(([lease, all]) => {
    const own = terms.get(lease) ?? []
    const trusted = isRevocable(lease) ? [] : (windowsOf.get(lease) ?? [])
    return [
      ...seenWhenOver(own),
      ...all.flatMap((call) => unseen(call, trusted)),
      ...all.flatMap((call) => refusedWhileHeld(call, own, trusted)),
      ...all.flatMap((call) => deniedWhileFree(call, all, own)),
    ]
  })
}

/** Seen after the answer to its release, or after a later term. */
function seenWhenOver(terms: readonly TermFacts[]): Violation[] {
  let followerMs = Number.POSITIVE_INFINITY
  return terms.toReversed().flatMap(({ lease, token, stoodMs, begunMs, endedMs }) => {
    const isReleased = endedMs <= followerMs
    const overMs = Math.min(endedMs, followerMs)
    followerMs = Math.min(followerMs, begunMs)
    if (stoodMs <= overMs + PRECISION_MS) return []
    const what = `token ${token} was seen after ${isReleased ? 'its release was answered' : 'a later term'}`
    return [{ check: 'C4', lease, atMs: stoodMs, what }]
  })
}

/** Read as vacant while it was held for the whole call. */
function unseen(
  { operation, outcome, lease, token, sentMs, answeredMs }: Call,
  trusted: readonly Window[],
): Violation[] {
  if (operation !== 'find' || outcome !== 'granted' || token !== undefined) return []
  const holding = trusted.find(({ fromMs, toMs }) => fromMs <= sentMs && toMs >= answeredMs)
  if (holding === undefined) return []
  const what = `read as vacant while ${holding.name} held it with token ${holding.token}`
  return [{ check: 'C4', lease, atMs: answeredMs, what }]
}

/** A claim of a holder that held it for the whole call. */
function refusedWhileHeld(call: Call, terms: readonly TermFacts[], trusted: readonly Window[]): Violation[] {
  const { lease, holder, sentMs, answeredMs } = call
  if (call.operation !== 'claim' || call.outcome !== 'refused') return []
  const own = terms.filter(({ holders }) => holders.has(holder)).map(({ token }) => String(token))
  const holding = trusted.find(
    ({ token, fromMs, toMs }) => own.includes(token) && fromMs <= sentMs && toMs >= answeredMs,
  )
  if (holding === undefined) return []
  return [{ check: 'C4', lease, atMs: answeredMs, what: `${holder} was refused while it held token ${holding.token}` }]
}

/** A single try that was denied although nothing can have been in its way. */
function deniedWhileFree(call: Call, all: readonly Call[], terms: readonly TermFacts[]): Violation[] {
  const { operation, outcome, lease, holder, sentMs, answeredMs } = call
  if (outcome !== 'refused' || (operation !== 'claim' && operation !== 'hold')) return []
  const isTermInTheWay = terms.some(({ fromMs, endedMs }) => fromMs <= answeredMs && endedMs >= sentMs)
  if (isTermInTheWay) return []
  // What is not known to have opened a term may have opened one: a refused call one that is over with its answer.
  const isCallInTheWay = all.some(
    (other) =>
      other !== call &&
      asksForTerm(other) &&
      other.outcome !== 'granted' &&
      other.sentMs <= answeredMs &&
      (other.outcome !== 'refused' || other.answeredMs >= sentMs),
  )
  if (isCallInTheWay) return []
  return [{ check: 'C4', lease, atMs: answeredMs, what: `${holder} was denied a lease that nobody can have held` }]
}
