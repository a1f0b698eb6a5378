/**
 * What each kind of operation sends, and what it makes of the answer: a verdict, or one more step.
 *
 * One idea serves all. The first step is optimistic: it does what should be possible, on conditions that the store
 * checks, and where they are not met it reads the key instead, so that the answer brings the truth. Where the truth
 * still allows the operation, the next step does it on the condition that nothing has changed since (`isUnchanged`).
 *
 * Every step may be sent twice, and executed late: what was done already is found by its nonce, its term, or its absence; what
 * changes or ends something demands the version on which that was decided, and versions never come again. What creates a key
 * that is absent has no version to demand: such a step says that it `opens`, and is sent under the client's epoch (`epochs.ts`).
 * So is a step that changes a value, for an operation that was sent again demands the version that it finds.
 */
import {
  countedOf,
  granted,
  isNamed,
  mayExtend,
  refused,
  type ClaimOp,
  type ExpireOp,
  type ExtendOp,
  type Holding,
  type Op,
  type PinOp,
  type ReleaseOp,
  type UnpinOp,
  type Verdict,
} from 'lease-core/adapter'
import type { EtcdAnswer, EtcdCompare, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { bodyOf, foundIn, holdingOf, pinsIn, pinsOf, type Body, type Found, type Keys } from './layout.ts'
import { define } from './definitions.ts'
import type { Step } from './requests.ts'
import { claimShare } from './shares.ts'
import {
  TELLING_MS,
  leave,
  makerOf,
  openInTurn,
  openOrQueue,
  passOver,
  vacancyReads,
  vacated,
  type StepContext,
} from './waiting.ts'
import {
  foundBy,
  get,
  isAbsent,
  isPresent,
  isUnchanged,
  NO_LEASE,
  ping,
  put,
  remove,
  touch,
  when,
  whenLikely,
} from './txn.ts'

/** The first step of the operation, or what becomes of it without any. */
export function firstStep(op: Op, context: StepContext): Verdict | Step {
  const keys = context.layout.keysOf(op.lease)
  switch (op.kind) {
    case 'claim':
      if (op.share !== undefined) return openShare(op, keys, context)
      return op.lapsed === undefined ? open(op, keys, context) : takeOver(op, keys, op.lapsed, context)
    case 'extend':
      return extend(op, keys)
    case 'release':
      return release(op, keys, context)
    case 'expire': {
      const decide = (kv: EtcdKeyValue | undefined): Verdict | Step => vacate(op, kv, keys, context, () => false)
      if (op.lapsed === undefined) return read(keys.key, decide)
      return removal(
        op,
        lapsed(keys, op.lapsed),
        keys,
        { toTell: undefined, held: undefined, otherwise: decide },
        context,
      )
    }
    case 'leave':
      return leave(op, keys, context)
    case 'passOver':
      return passOver(op, keys, context)
    case 'define':
      return define(op, keys, context)
    case 'pin':
    case 'unpin':
      break
  }
  return repinned(op, keys, context)
}

/** Ends the term unread where it is as it was seen. */
function release(op: ReleaseOp, keys: Keys, context: StepContext): Step {
  const { seen } = op
  const may = (held: Holding): boolean => isNamed(op, held)
  const decide = (kv: EtcdKeyValue | undefined): Verdict | Step => vacate(op, kv, keys, context, may)
  if (seen?.version !== undefined && isNamed(op, seen)) {
    const how = { toTell: makerOf(seen, context), held: seen, otherwise: decide }
    return removal(op, [isUnchanged(keys.key, seen.version)], keys, how, context, { likely: true })
  }
  return read(keys.key, decide)
}

/** Reads the pins, and the lease. */
function repinned(op: PinOp | UnpinOp, keys: Keys, context: StepContext): Step {
  const both = [get(keys.key), get(keys.pin)]
  return {
    coverMs: undefined,
    request: () => when([], both, []),
    next: (answer) => repin(op, keys, answer.response_txn.responses, context),
  }
}

/**
 * Creates the key, on an etcd lease: nobody pins the lease, or so it seems until the store says that there is no key and
 * that it may not be created all the same. `pinned`: then without one.
 */
function open(
  op: ClaimOp,
  keys: Keys,
  context: StepContext,
  { pinned }: { readonly pinned: boolean } = { pinned: false },
): Verdict | Step {
  const { key, pin } = keys
  const { place } = op
  if (op.share !== undefined) return openShare(op, keys, context)
  if (place !== undefined) {
    const otherwise = (kv: EtcdKeyValue): Verdict | Step => contend(op, keys, context, kv)
    return place === 0
      ? openOrQueue(op, keys, context, otherwise)
      : openInTurn({ ...op, place }, keys, context, otherwise)
  }
  const bytes = bodyOf(op)
  const tells = op.announce === true
  return {
    coverMs: pinned && !tells ? undefined : op.durationMs,
    opens: true,
    request: (lease) =>
      when(
        [isAbsent(key), pinned ? isPresent(pin) : isAbsent(pin)],
        [put(key, bytes, pinned ? NO_LEASE : lease), ...(tells ? [ping(keys.news, lease)] : [])],
        [get(key)],
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) => {
      if (succeeded) return granted(holdingOf(op, revision, { since: revision, pinned }))
      const kv = foundBy(responses)
      return kv === undefined && !pinned ? open(op, keys, context, { pinned: true }) : contend(op, keys, context, kv)
    },
  }
}

/** Creates the key of a share, as its counted lease allows. */
function openShare(op: ClaimOp, keys: Keys, context: StepContext): Verdict | Step {
  return claimShare(op, context, (kv) => contend(op, keys, context, kv))
}

/** Ends the term that has lapsed; then the lease is open to anyone who comes first. */
function takeOver(op: ClaimOp, keys: Keys, version: string, context: StepContext): Step {
  const { key } = keys
  return {
    coverMs: undefined,
    request: () => when(lapsed(keys, version), [remove(key)], [get(key)]),
    next: ({ response_txn: { succeeded, responses } }) =>
      // Anyone who waits gets its ticket in the same step as it sees the state.
      succeeded || op.place !== undefined ? open(op, keys, context) : contend(op, keys, context, foundBy(responses)),
  }
}

/**
 * What a claim makes of the key it found. Its own key needs no write: it was put on an etcd lease that covers the
 * duration from an instant after the claim began, and observers count from when they saw it. Its value is the one that it was
 * put with, or a later one: that stays.
 */
function contend(op: ClaimOp, keys: Keys, context: StepContext, kv: EtcdKeyValue | undefined): Verdict | Step {
  if (kv === undefined) return open(op, keys, context)
  const found = foundIn(kv)
  const { body, holding } = found
  if (body.holder !== op.holder || body.nonce !== op.nonce) return refused(holding)
  if (body.durationMs >= op.durationMs) return granted(holding)
  return rewrite(op, keys, found, (after) => contend(op, keys, context, after))
}

/** A term that is as it was seen is written unread; where nothing changes but its end, it is only put on another etcd lease. */
function extend(op: ExtendOp, keys: Keys): Step {
  const { seen, value, durationMs, adoption } = op
  if (seen?.version !== undefined && seen.nonce !== undefined && mayExtend(op, seen)) {
    const { holder, nonce, remainingMs } = seen
    const changes = value !== undefined || durationMs > remainingMs || adoption !== undefined
    if (!changes) return new Renewal(op, keys, seen)
    const body = { holder, durationMs: remainingMs, nonce, value: seen.value, weight: seen.weight }
    return rewrite(op, keys, { body, holding: seen }, (kv) => extended(op, keys, kv))
  }
  return read(keys.key, (kv) => extended(op, keys, kv))
}

/** What an extension makes of the key it found. */
function extended(op: ExtendOp, keys: Keys, kv: EtcdKeyValue | undefined): Verdict | Step {
  if (kv === undefined) return refused(undefined)
  const found = foundIn(kv)
  if (!mayExtend(op, found.holding)) return refused(found.holding)
  return rewrite(op, keys, found, (after) => extended(op, keys, after))
}

/** Ten thousand of them may be due at once: one object for each. */
class Renewal implements Step {
  readonly likely = true
  readonly #op: ExtendOp
  readonly #keys: Keys
  readonly #seen: Holding

  constructor(op: ExtendOp, keys: Keys, seen: Holding) {
    this.#op = op
    this.#keys = keys
    this.#seen = seen
  }

  get coverMs(): number | undefined {
    return this.#seen.pinned ? undefined : this.#seen.remainingMs
  }

  request(lease: string): EtcdRequest {
    const { key } = this.#keys
    const { pinned, version = '' } = this.#seen
    return when([isUnchanged(key, version)], [touch(key, pinned ? NO_LEASE : lease)], [get(key)])
  }

  next({ response_txn: { succeeded, responses } }: EtcdAnswer, revision: string): Verdict | Step {
    if (!succeeded) return extended(this.#op, this.#keys, foundBy(responses))
    const { holder, fencingToken, nonce, remainingMs, value, pinned, weight } = this.#seen
    return granted({ holder, fencingToken, nonce, remainingMs, value, pinned, version: revision, weight })
  }
}

/**
 * Writes the term with a duration that is no shorter, if it is still as it was found; an adoption replaces its nonce. A step that
 * changes the value is sent under the client's epoch, as one that opens a term: what is left of it when that is over is late.
 */
function rewrite(
  op: ClaimOp | ExtendOp,
  keys: Keys,
  { body, holding }: Found,
  otherwise: (kv: EtcdKeyValue | undefined) => Verdict | Step,
): Step {
  const { durationMs, announce } = op
  const value = op.kind === 'extend' ? op.value : undefined
  const { pinned, fencingToken, version = '' } = holding
  const next: Body = {
    holder: body.holder,
    durationMs: Math.max(body.durationMs, durationMs),
    nonce: (op.kind === 'extend' ? op.adoption?.nonce : undefined) ?? body.nonce,
    value: value ?? body.value,
    weight: body.weight,
  }
  const bytes = bodyOf(next)
  const { key } = keys
  const isNews = next.value !== body.value
  const tells = announce === true && isNews
  return {
    coverMs: pinned && !tells ? undefined : next.durationMs,
    opens: isNews,
    request: (lease) =>
      when(
        [isUnchanged(key, version)],
        [put(key, bytes, pinned ? NO_LEASE : lease), ...(tells ? [ping(keys.news, lease)] : [])],
        [get(key)],
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) =>
      succeeded ? granted(holdingOf(next, revision, { since: fencingToken, pinned })) : otherwise(foundBy(responses)),
  }
}

/** What a release or expiry makes of the key it found. */
function vacate(
  op: ReleaseOp | ExpireOp,
  kv: EtcdKeyValue | undefined,
  keys: Keys,
  context: StepContext,
  may: (held: Holding) => boolean,
): Verdict | Step {
  if (kv === undefined) return granted(undefined)
  const { holding } = foundIn(kv)
  if (!may(holding)) return refused(holding)
  const otherwise = (after: EtcdKeyValue | undefined): Verdict | Step => vacate(op, after, keys, context, may)
  const how = { toTell: makerOf(holding, context), held: holding, otherwise }
  return removal(op, [isUnchanged(keys.key, kv.mod_revision)], keys, how, context)
}

/**
 * The pins with another generation of one, or without it; the lease's key comes off its etcd lease with the first, and back with the last.
 * If the lease was observed to have lapsed meanwhile, its key goes with the last.
 */
function repin(op: PinOp | UnpinOp, keys: Keys, answers: readonly EtcdAnswer[], context: StepContext): Verdict | Step {
  const { key, pin } = keys
  const kv = foundBy(answers, 0)
  const pinKv = foundBy(answers, 1)
  const holding = kv === undefined ? undefined : foundIn(kv).holding
  const after = new Map(pinKv === undefined ? [] : pinsIn(pinKv))
  const isThere = after.get(op.entity) === op.generation
  if (isThere === (op.kind === 'pin')) return granted(holding)
  if (op.kind === 'pin') after.set(op.entity, op.generation)
  else after.delete(op.entity)

  const conditions = [isUnchanged(key, kv?.mod_revision ?? '0'), isUnchanged(pin, pinKv?.mod_revision ?? '0')]
  const reads = [get(key), get(pin)]
  const otherwise = (found: readonly EtcdAnswer[]): Verdict | Step => repin(op, keys, found, context)
  const pinned = after.size > 0
  if (op.kind === 'unpin' && !pinned && holding !== undefined && holding.version === op.lapsed) {
    const toTell = makerOf(holding, context)
    const counted = countedOf(op.lease)
    return {
      coverMs: toTell === undefined ? undefined : TELLING_MS,
      request: (lease) =>
        when(
          conditions,
          [
            remove(pin),
            remove(key),
            ...vacancyReads(keys, counted !== undefined),
            ...toldOfEnd(op, keys, toTell, lease),
          ],
          reads,
        ),
      next: ({ response_txn: { succeeded, responses } }, revision) => {
        if (!succeeded) return otherwise(responses)
        shareIsGone(op, holding, context, revision)
        return vacated(responses, 2, { counted, revision, gates: context.gates })
      },
    }
  }
  const moves = holding !== undefined && holding.pinned !== pinned
  return {
    coverMs: moves && !pinned ? holding.remainingMs : undefined,
    opens: op.kind === 'pin',
    request: (lease) =>
      when(
        conditions,
        [
          pinned ? put(pin, pinsOf(after), NO_LEASE) : remove(pin),
          ...(moves ? [touch(key, pinned ? NO_LEASE : lease)] : []),
        ],
        reads,
      ),
    next: ({ response_txn: { succeeded, responses } }, revision) => {
      if (!succeeded) return otherwise(responses)
      return granted(moves ? { ...holding, pinned, version: revision } : holding)
    },
  }
}

function read(key: Buffer, next: (kv: EtcdKeyValue | undefined) => Verdict | Step): Step {
  return { coverMs: undefined, request: () => get(key), next: (answer) => next(foundBy([answer])) }
}

/** What the end of a term concerns besides its key. */
interface Removal {
  /** The client whose term it was, if it is another one. */
  readonly toTell: string | undefined
  /** The term, where it is known. */
  readonly held: Holding | undefined
  /** What to do where the conditions are not met. */
  readonly otherwise: (kv: EtcdKeyValue | undefined) => Verdict | Step
}

/**
 * Removes the key. Those who wait hear of that by their watches; the answer says which are the first of them. A likely one reads nothing
 * as long as nobody waits in the whole namespace.
 */
function removal(
  op: ReleaseOp | ExpireOp,
  conditions: EtcdCompare[],
  keys: Keys,
  { toTell, held, otherwise }: Removal,
  context: StepContext,
  { likely = false }: { readonly likely?: boolean } = {},
): Step {
  const { key } = keys
  const { layout, queues } = context
  const reads = !likely || !queues.seemEmpty
  const counted = countedOf(op.lease)
  return {
    coverMs: toTell === undefined ? undefined : TELLING_MS,
    likely,
    // That it could not be notified must not keep the term from ending: a server that is full takes no puts.
    instead:
      toTell === undefined
        ? undefined
        : () => removal(op, conditions, keys, { toTell: undefined, held, otherwise }, context),
    request: (etcdLease) => {
      const told = toldOfEnd(op, keys, toTell, etcdLease)
      const reading = (): EtcdRequest =>
        when(conditions, [remove(key), ...vacancyReads(keys, counted !== undefined), ...told], [get(key)])
      if (reads) return reading()
      return whenLikely([...conditions, layout.nobodyWaits], [remove(key), ...told], () => [reading()])
    },
    next: ({ response_txn: whole }, revision) => {
      if (!reads && whole.succeeded) {
        if (counted !== undefined) shareIsGone(op, held, context, revision)
        return granted(undefined)
      }
      const { succeeded, responses } = reads ? whole : (whole.responses[0] as EtcdAnswer).response_txn
      if (!succeeded) return otherwise(foundBy(responses))
      if (counted !== undefined) shareIsGone(op, held, context, revision)
      if (!reads) queues.seen()
      return vacated(responses, 1, { counted, revision, gates: context.gates })
    },
  }
}

/** Leaves room behind the gate of its counted lease. */
function shareIsGone({ lease }: Op, held: Holding | undefined, { gates }: StepContext, revision: string): void {
  const counted = countedOf(lease)
  if (counted === undefined || held === undefined) return
  gates.gone(counted, { weight: held.weight, fencingToken: held.fencingToken, revision })
}

/** Tells this client that another has ended its term. */
function toldOfEnd({ lease }: Op, keys: Keys, client: string | undefined, etcdLease: string): EtcdRequest[] {
  return client === undefined ? [] : [put(keys.toldTo(client), Buffer.from(JSON.stringify([lease])), etcdLease)]
}

/** Whether this version, observed to have lapsed, still stands unpinned. */
function lapsed({ key, pin }: Keys, version: string): EtcdCompare[] {
  return [isUnchanged(key, version), isAbsent(pin)]
}
