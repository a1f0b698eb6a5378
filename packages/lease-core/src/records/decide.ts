/**
 * What each operation on one record makes of the record that it found: a pure function. The substrate writes the record after it on condition
 * that it still has the version that was found; where it has another one, it decides again.
 */
import { countedOf } from '../share.ts'
import {
  clientOf,
  granted,
  isNamed,
  late,
  mayExtend,
  refused,
  type ClaimOp,
  type DefineOp,
  type ExpireOp,
  type ExtendOp,
  type LeaveOp,
  type Op,
  type Verdict,
} from '../substrate.ts'
import { lastTold, TOLD } from '../ticket.ts'
import { aheadOf, queued, served, waitersIn, type Queued } from './queue.ts'
import { ABSENT, holdingOf, type LeaseRecord, type RecordWrite, type Term } from './record.ts'

/** A verdict, and what has to happen before it is given. */
export interface Decision<Found = LeaseRecord> {
  readonly verdict: Verdict
  /** What to write; nothing: it is as it is to be. */
  readonly writes: readonly RecordWrite[]
  /** What there is afterwards. */
  readonly after: Found
  /** Shares that have lapsed: end them, and decide again. */
  readonly ends?: readonly ExpireOp[] | undefined
}

/** What an operation makes of a record; `after`: absent, the record stays. `deleted`: it is not needed any more. */
interface Change {
  readonly outcome: 'granted' | 'refused' | 'late'
  readonly after?: LeaseRecord | 'deleted' | undefined
  readonly queued?: Queued | undefined
  /** Refused only because of waiters: no term is in the way. */
  readonly isVacant?: boolean | undefined
}

/** What a decision depends on, besides the record. */
export interface DecisionContext {
  /** For the record and the term, if they are written. */
  readonly version: string
  readonly client: string
  /** Whether the client has sent a later request whose epoch is higher: then this one must open nothing. */
  readonly isStale: boolean
  /** The wall clock, in milliseconds. Fencing tokens and the time to live depend on it, and what `maxSkewMs` takes over. */
  readonly nowMs: number
  /** By how much the clocks of two machines differ at most, in milliseconds; undefined: not known. */
  readonly maxSkewMs: number | undefined
}

const REFUSED = { outcome: 'refused' } as const
const LATE = { outcome: 'late' } as const
const DONE: Change = { outcome: 'granted' }

/** An operation on one record: all but claims of shares, and what is asked of counted leases. */
export type SingleOp = Exclude<Op, DefineOp>

/** Decides an operation on a lease. A claim is decided as one that is not of a share. */
export function decide(op: SingleOp, record: LeaseRecord, context: DecisionContext): Decision {
  return decisionOf(op.lease, record, changeBy(op, record, context), context)
}

/** What is to be done for this change of the record. */
export function decisionOf(
  lease: string,
  found: LeaseRecord,
  { outcome, after: changed, isVacant = false, queued: more }: Change,
  context: DecisionContext,
): Decision {
  if (outcome === 'late') return { verdict: late, writes: [], after: found }
  const after = typeof changed === 'object' ? written(changed, context) : changed
  const record = after === 'deleted' ? ABSENT : (after ?? found)
  const holding = isVacant ? undefined : holdingOf(record)
  const verdict = { ...(outcome === 'granted' ? granted(holding) : refused(holding)), ...more }
  return { verdict, writes: after === undefined ? [] : [{ lease, was: found.version, after }], after: record }
}

function changeBy(op: SingleOp, record: LeaseRecord, context: DecisionContext): Change {
  const { term, pins } = record
  const held = holdingOf(record)
  switch (op.kind) {
    case 'claim':
      return decideClaim(op, record, context)
    case 'extend': {
      if (held === undefined || term === undefined || !mayExtend(op, held)) return REFUSED
      if (op.value !== undefined && op.value !== term.value && context.isStale) return LATE
      return becomes(extended(op, record, term, context))
    }
    case 'release':
      if (held === undefined) return DONE
      return isNamed(op, held) ? vacated(op.lease, record, context) : REFUSED
    case 'expire':
      if (term === undefined) return DONE
      return isLapsed(record, op.lapsed) ? vacated(op.lease, record, context) : REFUSED
    case 'pin': {
      if (pins.get(op.entity) === op.generation) return DONE
      if (context.isStale) return LATE
      return becomes(repinned(op.lease, record, new Map(pins).set(op.entity, op.generation)))
    }
    case 'unpin': {
      if (pins.get(op.entity) !== op.generation) return DONE
      const left = new Map([...pins].filter(([entity]) => entity !== op.entity))
      const after = repinned(op.lease, record, left)
      return isLapsed(after, op.lapsed) ? vacated(op.lease, after, context) : becomes(after)
    }
    case 'leave':
      return decideLeave(op, record, context)
    case 'passOver':
      break
  }
  if (term !== undefined) return DONE
  const waiters = waitersIn(record, context)
  const queue = waiters.filter(({ place }) => place > op.place)
  return requeued(record, { before: waiters, queue, isTold: true })
}

function decideClaim(op: ClaimOp, record: LeaseRecord, context: DecisionContext): Change {
  const change = claimed(op, record, context)
  const isHeld = change !== undefined
  if (isHeld && change.outcome !== 'refused') return change
  if (isHeld || (op.place === 0 && aheadOf(op, waitersIn(record, context)).length > 0)) {
    return { outcome: 'refused', isVacant: !isHeld, ...queued(op, record, context, { isHeld }) }
  }
  const after = opened(op, record, nextToken(record, context), context)
  return becomes({ ...after, ...served(op, record, context) })
}

/** Of a counted lease it is found out later whether anybody is notified. */
function decideLeave({ lease, place }: LeaveOp, record: LeaseRecord, context: DecisionContext): Change {
  const before = waitersIn(record, context)
  const index = before.findIndex((ticket) => ticket.place === place && clientOf(ticket.nonce) === context.client)
  if (index === -1) return DONE
  const isTold = index < TOLD && record.term === undefined && countedOf(lease) === undefined
  return requeued(record, { before, queue: before.toSpliced(index, 1), isTold })
}

interface Requeued {
  readonly before: LeaseRecord['queue']
  readonly queue: LeaseRecord['queue']
  readonly isTold: boolean
}

function requeued(record: LeaseRecord, { before, queue, isTold }: Requeued): Change {
  const after = queue.length === before.length ? undefined : { ...record, queue }
  return { outcome: 'granted', after, queued: { told: isTold ? lastTold(queue) : undefined } }
}

/** What becomes of a claim that opens no term; undefined: it may open one. */
export function claimed(
  op: ClaimOp,
  record: LeaseRecord,
  context: DecisionContext,
): (Change & { readonly after?: LeaseRecord | undefined }) | undefined {
  const { term } = record
  if (term !== undefined && term.holder === op.holder && term.nonce === op.nonce) {
    // Sent again. It is written again as well: an observer may have watched the first one for some time.
    return becomes(extended({ durationMs: op.durationMs }, record, term, context))
  }
  if (term !== undefined && !isLapsed(record, op.lapsed) && !isOver(record, context)) return REFUSED
  return record.nonces.includes(op.nonce) || context.isStale ? LATE : undefined
}

/** The record in the new term of this claim. */
export function opened(
  op: ClaimOp,
  record: LeaseRecord,
  fencingToken: bigint,
  { version, nowMs }: DecisionContext,
): LeaseRecord {
  const { holder, durationMs, nonce, value, share } = op
  const untilMs = Math.ceil(nowMs + durationMs)
  const term = { holder, version, durationMs, untilMs, nonce, value, weight: share?.weight }
  return { ...record, fencingToken, term, nonces: [nonce] }
}

/**
 * The token of the next term: above the latest one, and above those of a name whose record was deleted. Tokens are microseconds since 1970,
 * or one more than the latest. A record is deleted a week after its token's time, by the store's clock (`expiryOf`). So a token repeats only
 * if a claimer's clock is a week slow.
 */
export function nextToken({ fencingToken }: LeaseRecord, { nowMs }: DecisionContext): bigint {
  const micros = BigInt(Math.floor(nowMs * 1000))
  return micros > fencingToken ? micros : fencingToken + 1n
}

/** How long a vacant lease is remembered, at least, in milliseconds. */
export const REMEMBERED_MS: number = 7 * 86_400_000

/** When the store may delete a record in which nothing stands, in seconds since 1970: later than its token's time plus a week. */
export function expiryOf(
  { fencingToken }: LeaseRecord,
  { nowMs }: Pick<DecisionContext, 'nowMs'>,
  moreMs: number = 0,
): number {
  return Math.ceil((Math.max(nowMs, Number(fencingToken / 1000n)) + REMEMBERED_MS + moreMs) / 1000)
}

/** The record as it is written: in a new version, and with its expiry. A definition that a claim made keeps that of the latest grant. */
export function written(record: LeaseRecord, context: Pick<DecisionContext, 'version' | 'nowMs'>): LeaseRecord {
  const { term, pins, definition } = record
  const { version } = context
  if (definition?.byUse === true) return { ...record, version }
  const isNeeded = term !== undefined || pins.size > 0 || definition !== undefined
  return { ...record, version, expires: isNeeded ? undefined : expiryOf(record, context) }
}

/** Whether this version of a term was observed to have lapsed, and no pin holds it. */
export function isLapsed({ term, pins }: LeaseRecord, lapsed: string | undefined): boolean {
  return term !== undefined && term.version === lapsed && pins.size === 0
}

/** Whether the holder of an unpinned term relies on it no more, by its clock, if that differs from this one by `maxSkewMs` at most. */
export function isOver(
  { term, pins }: LeaseRecord,
  { nowMs, maxSkewMs }: Pick<DecisionContext, 'nowMs' | 'maxSkewMs'>,
): boolean {
  return maxSkewMs !== undefined && term !== undefined && pins.size === 0 && nowMs > term.untilMs + maxSkewMs
}

function becomes(after: LeaseRecord): Change & { readonly after: LeaseRecord } {
  return { outcome: 'granted', after }
}

function extended(
  op: Pick<ExtendOp, 'durationMs' | 'value' | 'adoption'> | Pick<ClaimOp, 'durationMs'>,
  record: LeaseRecord,
  term: Term,
  { version, nowMs }: DecisionContext,
): LeaseRecord {
  const { value, adoption } = { value: undefined, adoption: undefined, ...op }
  const durationMs = Math.max(term.durationMs, op.durationMs)
  const untilMs = Math.max(term.untilMs, Math.ceil(nowMs + op.durationMs))
  const nonce = adoption?.nonce ?? term.nonce
  const next = { ...term, version, durationMs, untilMs, nonce, value: value ?? term.value }
  const opener = record.nonces.at(-1) ?? nonce
  return { ...record, term: next, nonces: opener === nonce ? [nonce] : [nonce, opener] }
}

/** The record of a share goes with it: that of its counted lease remembers the tokens, and every grant changes its version. */
function vacated(lease: string, record: LeaseRecord, context: DecisionContext): Change {
  const isShare = countedOf(lease) !== undefined
  if (isShare && !record.keeps && record.pins.size === 0) return { outcome: 'granted', after: 'deleted' }
  return { ...becomes({ ...record, term: undefined }), queued: { told: lastTold(waitersIn(record, context)) } }
}

/** A pin on what is absent leaves a record behind, so that a copy of it that comes late finds another version. */
function repinned(lease: string, record: LeaseRecord, pins: LeaseRecord['pins']): LeaseRecord {
  return { ...record, pins, keeps: countedOf(lease) !== undefined }
}
