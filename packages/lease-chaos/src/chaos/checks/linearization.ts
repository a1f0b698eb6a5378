/**
 * C4, for leases with few calls: searches for an order of all calls, each at one instant between its sending and its answer, in which a
 * lease gives the same answers. A term may end by itself at any instant, so nothing is said about durations. A call of unknown outcome is
 * executed once after it was sent, or never.
 *
 * After Wing and Gong, "Testing and verifying concurrent objects" (1993), with the memory of Lowe (2017).
 */
import { isCold, LOCAL } from '../event.ts'
import { asksForTerm, callsByLease, type Call, type Facts, type Violation } from './facts.ts'

/** More calls than this are not searched, nor are more of unknown outcome. */
const MOST_CALLS = 120
const MOST_UNKNOWN = 8
/** How many states a search may visit; then it says nothing. */
const MOST_STATES = 200_000

/** Who has the lease, and the highest fencing token so far. */
interface State {
  /** undefined: vacant. */
  readonly holder: string | undefined
  /** undefined: of a call whose answer was lost, so anything above `highest`. */
  readonly token: bigint | undefined
  readonly highest: bigint
}

const VACANT: State = { holder: undefined, token: undefined, highest: -1n }

export function checkLinearization({ calls }: Facts): Violation[] {
  return [...callsByLease(calls)].flatMap(([lease, all]) => {
    if (!isCold(lease)) return []
    const counted = all.filter(isCounted)
    const unknown = counted.filter(isUnknown)
    if (counted.length > MOST_CALLS || unknown.length > MOST_UNKNOWN || hasOrder(counted) !== false) return []
    const atMs = Math.max(...counted.map(({ sentMs }) => sentMs))
    return [{ check: 'C4', lease, atMs, what: `no order of its ${counted.length} calls gives these answers` }]
  })
}

/** A refused wait says nothing about the lease: others may have been ahead. What failed to check may be local. */
function isCounted({ operation, outcome, token, detail }: Call): boolean {
  if (detail === LOCAL) return false
  if (outcome === 'granted') {
    return asksForTerm({ operation }) || ['find', 'check', 'release', 'update', 'renew', 'write'].includes(operation)
  }
  if (outcome === 'refused') return operation === 'claim' || operation === 'hold'
  return asksForTerm({ operation }) || (operation === 'release' && token !== undefined)
}

function isUnknown({ outcome }: Call): boolean {
  return outcome !== 'granted' && outcome !== 'refused'
}

/** undefined: the search was given up. */
export function hasOrder(calls: readonly Call[]): boolean | undefined {
  const all = calls.toSorted((a, b) => a.sentMs - b.sentMs)
  const answered = all.filter((call) => !isUnknown(call)).length
  const visited = new Set<string>()
  const done = all.map(() => false)
  let states = 0

  const search = (state: State, left: number): boolean | undefined => {
    if (left === 0) return true
    const key = `${done.map(Number).join('')} ${state.holder} ${state.token} ${state.highest}`
    if (visited.has(key)) return false
    if (++states > MOST_STATES) return undefined
    visited.add(key)
    // The next one was sent before any of those that remain was answered.
    const limitMs = Math.min(
      ...all.map((call, index) => (done[index] || isUnknown(call) ? Number.POSITIVE_INFINITY : call.answeredMs)),
    )
    for (const [index, call] of all.entries()) {
      if (call.sentMs > limitMs) break
      if (done[index]) continue
      done[index] = true
      for (const next of outcomes(state, call)) {
        const found = search(next, isUnknown(call) ? left : left - 1)
        if (found !== false) return found
      }
      done[index] = false
    }
    return false
  }
  return search(VACANT, answered)
}

/** The states to which the call leads when it is executed now and gives its answer; none: it does not give it now. */
function outcomes(state: State, call: Call): State[] {
  const { operation, outcome, holder, token } = call
  if (outcome === 'refused') return state.holder !== undefined && state.holder !== holder ? [state] : []
  if (isUnknown(call)) {
    if (operation === 'release') return state.token === token ? [vacated(state)] : []
    return state.holder === holder ? [] : [{ ...state, holder, token: undefined }]
  }
  if (operation === 'release') {
    if (state.holder === undefined) return [state]
    const seen = token === undefined ? undefined : sighted(state, holder, token)
    return seen === undefined ? [vacated(state)] : [vacated(seen)]
  }
  if (token === undefined) return [vacated(state)] // read as vacant: what was there has lapsed
  const seen = sighted(state, holder, token)
  if (seen !== undefined) return [seen]
  return asksForTerm(call) && token > state.highest ? [{ holder, token, highest: token }] : []
}

/** The state, when this term stands in it. */
function sighted(state: State, holder: string, token: bigint): State | undefined {
  if (state.holder !== holder) return undefined
  if (state.token === token) return state
  return state.token === undefined && token > state.highest ? { holder, token, highest: token } : undefined
}

function vacated({ highest }: State): State {
  return { holder: undefined, token: undefined, highest }
}
