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
    const coverOf = (windowsIn: readonly Window[]): Cover<Window> => longestBy(windowsIn, ({ toMs }) => toMs)
    const heldBy = new Map(
      Array.from(
        groupedBy(trusted, ({ name }) => name),
        ([name, one]) => [name, coverOf(one)],
      ),
    )
    const held = coverOf(trusted)
    const stood = longestBy(own, ({ endedMs }) => endedMs)
    return [
      ...seenWhenOver(own),
      ...all.flatMap((call) => unseen(call, held)),
      ...all.flatMap((call) => refusedWhileHeld(call, heldBy.get(call.holder))),
      ...all.flatMap((call) => deniedWhileFree(call, all, stood)),
    ]
  })
}

/** Of those that had begun by this instant, the one that ends last. */
type Cover<T> = (atMs: number) => T | undefined

function longestBy<T extends { readonly fromMs: number }>(all: readonly T[], endOf: (one: T) => number): Cover<T> {
  const begun = all.toSorted((a, b) => a.fromMs - b.fromMs)
  const longest: T[] = []
  for (const one of begun) {
    const before = longest.at(-1)
    longest.push(before !== undefined && endOf(before) >= endOf(one) ? before : one)
  }
  return (atMs) => {
    let low = 0
    for (let high = begun.length; low < high;) {
      const middle = (low + high) >>> 1
      if ((begun[middle] as T).fromMs <= atMs) low = middle + 1
      else high = middle
    }
    return longest[low - 1]
  }
}

/** Seen after the answer to its release, or after a later term. */
function seenWhenOver(terms: readonly TermFacts[]): Violation[] {
  let followerMs = Number.POSITIVE_INFINITY
  let follower = ''
  return terms.toReversed().flatMap(({ lease, token, stoodMs, begunMs, endedMs }) => {
    const isReleased = endedMs <= followerMs
    const overMs = Math.min(endedMs, followerMs)
    const tokens = [String(token), ...(isReleased ? [] : [follower])]
    if (begunMs < followerMs) follower = String(token)
    followerMs = Math.min(followerMs, begunMs)
    if (stoodMs <= overMs + PRECISION_MS) return []
    const what = `token ${token} was seen after ${isReleased ? 'its release was answered' : 'a later term'}`
    return [{ check: 'C4', lease, atMs: stoodMs, what, tokens }]
  })
}

/** Read as vacant while it was held for the whole call. */
function unseen({ operation, outcome, lease, token, sentMs, answeredMs }: Call, held: Cover<Window>): Violation[] {
  if (operation !== 'find' || outcome !== 'granted' || token !== undefined) return []
  const holding = held(sentMs)
  if (holding === undefined || holding.toMs < answeredMs) return []
  const what = `read as vacant while ${holding.name} held it with token ${holding.token}`
  return [{ check: 'C4', lease, atMs: answeredMs, what, tokens: [holding.token] }]
}

/** A claim of a holder that held it for the whole call. */
function refusedWhileHeld(call: Call, held: Cover<Window> | undefined): Violation[] {
  const { lease, holder, sentMs, answeredMs } = call
  if (call.operation !== 'claim' || call.outcome !== 'refused') return []
  const holding = held?.(sentMs)
  if (holding === undefined || holding.toMs < answeredMs) return []
  const what = `${holder} was refused while it held token ${holding.token}`
  return [{ check: 'C4', lease, atMs: answeredMs, what, tokens: [holding.token] }]
}

/** A single try that was denied although nothing can have been in its way. */
function deniedWhileFree(call: Call, all: readonly Call[], stood: Cover<TermFacts>): Violation[] {
  const { operation, outcome, lease, holder, sentMs, answeredMs } = call
  if (outcome !== 'refused' || (operation !== 'claim' && operation !== 'hold')) return []
  const term = stood(answeredMs)
  if (term !== undefined && term.endedMs >= sentMs) return []
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
