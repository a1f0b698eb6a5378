/**
 * What each operation makes of the state that it found: a pure function. The substrate writes the state after it on condition that the item
 * still has the version that was found; where it has another one, it decides again.
 */
import { countedOf, TOLD, type ClaimOp, type ExtendOp, type LeaveOp, type Op, type ReleaseOp } from 'lease-core/adapter'
import type { State, Term } from './layout.ts'
import { aheadOf, clientOf, queued, served, toldOf, waitersIn, type Queued } from './queue.ts'

/** `after`: what to write first; undefined: nothing. `deleted`: the item is not needed any more. */
export interface Decision {
  readonly outcome: 'granted' | 'refused' | 'late'
  readonly after?: State | 'deleted' | undefined
  readonly queued?: Queued | undefined
  /** Refused only because of those who wait: no term is in the way. */
  readonly isVacant?: boolean | undefined
}

/** What a decision depends on, besides the state. */
export interface DecisionContext {
  /** For the item and the term, if they are written. */
  readonly version: string
  readonly client: string
  /** Whether the client has sent a later request whose epoch is higher: then this one must open nothing. */
  readonly isStale: boolean
  /** The wall clock, in milliseconds. Fencing tokens and the time to live depend on it, and what `maxSkewMs` takes over. */
  readonly nowMs: number
  /** By how much the clocks of two machines differ at most, in milliseconds; undefined: not known. */
  readonly maxSkewMs: number | undefined
}

const REFUSED: Decision = { outcome: 'refused' }
const LATE: Decision = { outcome: 'late' }
const DONE: Decision = { outcome: 'granted' }

/** An operation on one item: all but claims of shares, and definitions. */
export type SingleOp = Exclude<Op, { readonly kind: 'define' }>

/** Decides an operation on a lease. A claim is decided as one that is not of a share. */
export function decide(op: SingleOp, state: State, context: DecisionContext): Decision {
  const { term, pins } = state
  switch (op.kind) {
    case 'claim':
      return decideClaim(op, state, context)
    case 'extend': {
      if (term === undefined || !mayExtend(op, state)) return REFUSED
      if (op.value !== undefined && op.value !== term.value && context.isStale) return LATE
      return granted(extended(op, state, term, context))
    }
    case 'release':
      if (term === undefined) return DONE
      return isNamed(op, state) ? vacated(op.lease, state, context) : REFUSED
    case 'expire':
      if (term === undefined) return DONE
      return isLapsed(state, op.lapsed) ? vacated(op.lease, state, context) : REFUSED
    case 'pin': {
      if (pins.get(op.entity) === op.generation) return DONE
      if (context.isStale) return LATE
      return granted(repinned(op.lease, state, new Map(pins).set(op.entity, op.generation), context))
    }
    case 'unpin': {
      if (pins.get(op.entity) !== op.generation) return DONE
      const left = new Map([...pins].filter(([entity]) => entity !== op.entity))
      const after = repinned(op.lease, state, left, context)
      return isLapsed(after, op.lapsed) ? vacated(op.lease, after, context) : granted(after)
    }
    case 'leave':
      return decideLeave(op, state, context)
    case 'passOver':
      break
  }
  if (term !== undefined) return DONE
  const waiters = waitersIn(state, context)
  const queue = waiters.filter(({ place }) => place > op.place)
  return requeued(state, { before: waiters, queue, isTold: true }, context)
}

function decideClaim(op: ClaimOp, state: State, context: DecisionContext): Decision {
  const decision = claimed(op, state, context)
  const isHeld = decision !== undefined
  if (isHeld && decision.outcome !== 'refused') return decision
  if (isHeld || (op.place === 0 && aheadOf(op, waitersIn(state, context)).length > 0)) {
    return { outcome: 'refused', isVacant: !isHeld, ...queued(op, state, context, { isHeld }) }
  }
  const after = opened(op, state, nextToken(state, context), context)
  return granted({ ...after, ...served(op, state, context) })
}

/** Of a counted lease it is found out later whether anybody is notified. */
function decideLeave({ lease, place }: LeaveOp, state: State, context: DecisionContext): Decision {
  const before = waitersIn(state, context)
  const index = before.findIndex((ticket) => ticket.place === place && clientOf(ticket) === context.client)
  if (index === -1) return DONE
  const isTold = index < TOLD && state.term === undefined && countedOf(lease) === undefined
  return requeued(state, { before, queue: before.toSpliced(index, 1), isTold }, context)
}

interface Requeued {
  readonly before: State['queue']
  readonly queue: State['queue']
  readonly isTold: boolean
}

function requeued(state: State, { before, queue, isTold }: Requeued, { version }: DecisionContext): Decision {
  const after = queue.length === before.length ? undefined : { ...state, version, queue }
  return { outcome: 'granted', after, queued: { told: isTold ? toldOf(queue) : undefined } }
}

/** What becomes of a claim that opens no term; undefined: it may open one. */
export function claimed(op: ClaimOp, state: State, context: DecisionContext): Decision | undefined {
  const { term } = state
  if (term !== undefined && term.holder === op.holder && term.nonce === op.nonce) {
    // Sent again. It is written again as well: an observer may have watched the first one for some time.
    return granted(extended({ durationMs: op.durationMs }, state, term, context))
  }
  if (term !== undefined && !isLapsed(state, op.lapsed) && !isOver(state, context)) return REFUSED
  return state.nonces.includes(op.nonce) || context.isStale ? LATE : undefined
}

/** The state in the new term of this claim. */
export function opened(op: ClaimOp, state: State, fencingToken: bigint, { version, nowMs }: DecisionContext): State {
  const { holder, durationMs, nonce, value, share } = op
  const untilMs = Math.ceil(nowMs + durationMs)
  const term = { holder, version, durationMs, untilMs, nonce, value, weight: share?.weight }
  return { ...state, version, fencingToken, term, nonces: [nonce], expires: undefined }
}

/**
 * The token of the next term: above the latest one, and above those of a name whose item was deleted. Tokens are microseconds since 1970, or
 * one more than the latest. An item is deleted a week after its token's time, by DynamoDB's clock (`tombstoneOf`). So a token repeats only
 * if a claimer's clock is a week slow.
 */
export function nextToken({ fencingToken }: State, { nowMs }: DecisionContext): bigint {
  const micros = BigInt(Math.floor(nowMs * 1000))
  return micros > fencingToken ? micros : fencingToken + 1n
}

/** How long a vacant lease is remembered, at least, in milliseconds. */
export const REMEMBERED_MS: number = 7 * 86_400_000

/** What is left of a state in which nothing stands: DynamoDB may delete it later than its token's time plus a week. */
export function tombstoneOf(state: State, { nowMs }: DecisionContext, moreMs: number = 0): State {
  const tokenMs = Number(state.fencingToken / 1000n)
  return { ...state, expires: Math.ceil((Math.max(nowMs, tokenMs) + REMEMBERED_MS + moreMs) / 1000) }
}

/** Whether this version of a term was observed to have lapsed, and no pin holds it. */
export function isLapsed({ term, pins }: State, lapsed: string | undefined): boolean {
  return term !== undefined && term.version === lapsed && pins.size === 0
}

/** Whether the holder of an unpinned term relies on it no more, by its clock, if that differs from this one by `maxSkewMs` at most. */
export function isOver(
  { term, pins }: State,
  { nowMs, maxSkewMs }: Pick<DecisionContext, 'nowMs' | 'maxSkewMs'>,
): boolean {
  return maxSkewMs !== undefined && term !== undefined && pins.size === 0 && nowMs > term.untilMs + maxSkewMs
}

function granted(after: State): Decision {
  return { outcome: 'granted', after }
}

function extended(
  op: Pick<ExtendOp, 'durationMs' | 'value' | 'adoption'> | Pick<ClaimOp, 'durationMs'>,
  state: State,
  term: Term,
  { version, nowMs }: DecisionContext,
): State {
  const { value, adoption } = { value: undefined, adoption: undefined, ...op }
  const durationMs = Math.max(term.durationMs, op.durationMs)
  const untilMs = Math.max(term.untilMs, Math.ceil(nowMs + op.durationMs))
  const nonce = adoption?.nonce ?? term.nonce
  const next = { ...term, version, durationMs, untilMs, nonce, value: value ?? term.value }
  const opener = state.nonces.at(-1) ?? nonce
  return { ...state, version, term: next, nonces: opener === nonce ? [nonce] : [nonce, opener] }
}

/** The item of a share goes with it: that of its counted lease remembers the tokens, and every grant changes its version. */
function vacated(lease: string, state: State, context: DecisionContext): Decision {
  const isShare = countedOf(lease) !== undefined
  if (isShare && !state.keeps && state.pins.size === 0) return { outcome: 'granted', after: 'deleted' }
  const vacant: State = { ...state, version: context.version, term: undefined }
  const after = state.pins.size > 0 ? vacant : tombstoneOf(vacant, context)
  return { ...granted(after), queued: { told: toldOf(waitersIn(state, context)) } }
}

/** A pin on what is absent leaves an item behind, so that a copy of it that comes late finds another version. */
function repinned(lease: string, state: State, pins: State['pins'], context: DecisionContext): State {
  const { version } = context
  const after: State = { ...state, version, pins, keeps: countedOf(lease) !== undefined, expires: undefined }
  return pins.size > 0 || state.term !== undefined ? after : tombstoneOf(after, context)
}

/** The same state in a new version: what was sent on the one before does nothing any more. */
export function bumped(lease: string, state: State, context: DecisionContext): State {
  const { version } = context
  const after: State = { ...state, version, keeps: countedOf(lease) !== undefined }
  const isEmpty = state.term === undefined && state.pins.size === 0 && state.definition === undefined
  return isEmpty ? tombstoneOf(after, context) : after
}

function mayExtend({ holder, fencingToken, adoption }: ExtendOp, { term, fencingToken: present }: State): boolean {
  if (term?.holder !== holder || present !== fencingToken) return false
  return adoption === undefined || term.nonce === adoption.from || term.nonce === adoption.nonce
}

function isNamed({ holder, fencingToken, nonce }: ReleaseOp, { term, fencingToken: present }: State): boolean {
  if (term?.holder !== holder || (fencingToken !== undefined && present !== fencingToken)) return false
  return nonce === undefined || term.nonce === nonce
}
