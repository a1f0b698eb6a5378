/**
 * How leases lie in the table: layout 1. One item for each lease, in the partition of its namespace.
 *
 *     ns  (S, HASH)   namespace
 *     nm  (S, RANGE)  lease
 *     v   (S)   version of the item: new with every write, and never used again
 *     tk  (N)   fencing token of the latest term; of a counted lease that of the latest share
 *     h   (S)   holder; absent: vacant
 *     e   (S)   version of the term: new with every claim and extension
 *     d   (N)   the longest duration granted in this term, in milliseconds
 *     u   (N)   until when its holder may rely on it, by its own wall clock, in milliseconds: only `maxSkewMs` asks for it
 *     q   (S)   nonce of the latest term or of its last adoption; o (S): of the claim that opened it
 *     a   (S)   value
 *     w   (N)   weight of a share
 *     p   (L)   pins: entity, generation, entity, generation, …
 *     k   (BOOL) of a share: its item stays when it is vacant
 *     t   (S)   queue: `place:weight:until:nonce` of each waiter, in the order of the places; until is in milliseconds since 1970
 *     l   (N)   place of the latest ticket
 *     s   (S)   `place:duration` of the latest grant, if a waiter with a ticket has it
 *     x   (N)   when DynamoDB may delete the item, in seconds since 1970: only of what is vacant (`tombstoneOf`)
 *
 * The item of a counted lease (`printers#`) decides each grant of a share. It has `v`, `tk`, `t`, `l`, `s` and `x`, and:
 *
 *     c   (N)   capacity; absent: not defined
 *     g   (S)   generation of the definition; b (S): of the one before, if it is not defined any more; y (BOOL): made by a claim
 *
 * Other attributes are left as they are. What decides a condition is `v` alone: a version never comes again, so a request that arrives late
 * changes nothing.
 */
import type { AttributeValue } from '@aws-sdk/client-dynamodb'
import { StoreFailure, type Holding, type Pins } from 'lease-core/adapter'
import type { Item } from './driver.ts'

/** The attributes of the primary key. */
export const HASH = 'ns'
export const RANGE = 'nm'
/** The attribute for the time to live of the table. */
export const EXPIRES = 'x'

/** A term that stands. */
export interface Term {
  readonly holder: string
  readonly version: string
  readonly durationMs: number
  /** By the wall clock of its holder. */
  readonly untilMs: number
  readonly nonce: string
  readonly value: string | undefined
  readonly weight: number | undefined
}

/** What an item says about a lease. */
export interface State {
  /** Of the item; undefined: there is no item. */
  readonly version: string | undefined
  /** Of the latest term; 0: there was none. */
  readonly fencingToken: bigint
  readonly term: Term | undefined
  /** The nonces of the latest term, also when it is over. */
  readonly nonces: readonly string[]
  readonly pins: Pins
  readonly keeps: boolean
  readonly definition: Definition | undefined
  /** The generation that was removed last, if the counted lease is not defined. */
  readonly before: readonly string[]
  /** Of those who wait, in the order of the places; also those that have lapsed. */
  readonly queue: readonly Ticket[]
  /** The place of the latest ticket. */
  readonly places: number
  /** The grant of the latest term, if a waiter with a ticket has got it. */
  readonly served: { readonly place: number; readonly durationMs: number } | undefined
  /** Of what is vacant, and of definitions that claims made; in seconds. */
  readonly expires: number | undefined
}

/** The ticket of one who waits. */
export interface Ticket {
  readonly place: number
  /** Of the claim that got it. It begins with the name of its client. */
  readonly nonce: string
  /** Of the share that it asked for last; of a lease 1. */
  readonly weight: number
  /** By the wall clock. */
  readonly untilMs: number
}

/** The capacity of a counted lease. */
export interface Definition {
  readonly capacity: number
  readonly generation: string
  /** A claim made it. */
  readonly byUse: boolean
}

/** Of a lease that the store knows nothing about. */
export const ABSENT: State = {
  version: undefined,
  fencingToken: 0n,
  term: undefined,
  nonces: [],
  pins: new Map(),
  keeps: false,
  definition: undefined,
  before: [],
  queue: [],
  places: 0,
  served: undefined,
  expires: undefined,
}

/** Every attribute but those of the key: a write replaces them all. */
const ATTRIBUTES = 'v tk h e d u q o a w p k t l s c g b y x'.split(' ')

/** @throws StoreFailure the item was not written by this library */
export function stateIn(item: Item | undefined): State {
  if (item === undefined) return ABSENT
  const { v, tk, h, e, d, u, q, o, a, w, p, k, t, l, s, c, g, b, y, x } = item
  const isText = [h, e, q, o, a, t, s, g, b].every((one) => one === undefined || one.S !== undefined)
  const isNumber = [tk, d, u, w, l, c, x].every((one) => one === undefined || one.N !== undefined)
  const isHeld =
    h === undefined || (e !== undefined && d !== undefined && u !== undefined && q !== undefined && tk !== undefined)
  const pins = p === undefined ? [] : p.L?.map((one) => one.S)
  if (v?.S === undefined || !isText || !isNumber || !isHeld || pins === undefined || pins.includes(undefined)) {
    throw foreign(item)
  }
  const term =
    h?.S === undefined
      ? undefined
      : { holder: h.S, version: textOf(e), durationMs: Number(d?.N), untilMs: Number(u?.N) }
  const definition =
    c?.N === undefined ? undefined : { capacity: Number(c.N), generation: textOf(g), byUse: y?.BOOL === true }
  return {
    version: v.S,
    fencingToken: BigInt(tk?.N ?? 0),
    term: term && { ...term, nonce: textOf(q), value: a?.S, weight: w?.N === undefined ? undefined : Number(w.N) },
    nonces: [q?.S, o?.S].filter((one) => one !== undefined),
    pins: new Map(pins.flatMap((one, index) => (index % 2 === 0 ? [[one as string, pins[index + 1] as string]] : []))),
    keeps: k?.BOOL === true,
    definition,
    before: (b?.S ?? '').split('|').filter((one) => one !== ''),
    queue: textOf(t)
      .split(' ')
      .filter((one) => one !== '')
      .map(ticketIn),
    places: Number(l?.N ?? 0),
    served: s?.S === undefined ? undefined : servedIn(s.S),
    expires: x?.N === undefined ? undefined : Number(x.N),
  }
}

function textOf(attribute: AttributeValue | undefined): string {
  return attribute?.S ?? ''
}

function ticketIn(text: string): Ticket {
  const [place, weight, untilMs, ...nonce] = text.split(':')
  return { place: Number(place), weight: Number(weight), untilMs: Number(untilMs), nonce: nonce.join(':') }
}

function servedIn(text: string): State['served'] {
  const [place, durationMs] = text.split(':')
  return { place: Number(place), durationMs: Number(durationMs) }
}

function attributesOf(state: State): Readonly<Record<string, AttributeValue>> {
  const { term, definition, pins, nonces, before, queue, places, served, expires } = state
  return {
    v: { S: state.version ?? '' },
    ...(state.fencingToken > 0n && { tk: { N: String(state.fencingToken) } }),
    ...(term && {
      h: { S: term.holder },
      e: { S: term.version },
      d: { N: String(term.durationMs) },
      u: { N: String(term.untilMs) },
    }),
    ...(nonces[0] !== undefined && { q: { S: nonces[0] } }),
    ...(nonces[1] !== undefined && { o: { S: nonces[1] } }),
    ...(term?.value !== undefined && { a: { S: term.value } }),
    ...(term?.weight !== undefined && { w: { N: String(term.weight) } }),
    ...(pins.size > 0 && { p: { L: [...pins].flat().map((one) => ({ S: one })) } }),
    ...(state.keeps && { k: { BOOL: true } }),
    ...(queue.length > 0 && {
      t: { S: queue.map(({ place, weight, untilMs, nonce }) => [place, weight, untilMs, nonce].join(':')).join(' ') },
    }),
    ...(places > 0 && { l: { N: String(places) } }),
    ...(served && { s: { S: `${served.place}:${served.durationMs}` } }),
    ...(definition && { c: { N: String(definition.capacity) }, g: { S: definition.generation } }),
    ...(definition?.byUse && { y: { BOOL: true } }),
    ...(before.length > 0 && { b: { S: before.join('|') } }),
    ...(expires !== undefined && { [EXPIRES]: { N: String(expires) } }),
  }
}

/** A condition of a write or of a transaction. */
interface Condition {
  readonly ConditionExpression: string
  readonly ExpressionAttributeNames: Record<string, string>
  readonly ExpressionAttributeValues?: Item
}

/** Whether the item is as it was when it had this version; undefined: absent. */
export function isUnchanged(version: string | undefined): Condition {
  return version === undefined
    ? { ConditionExpression: 'attribute_not_exists(#nm)', ExpressionAttributeNames: { '#nm': RANGE } }
    : {
        ConditionExpression: '#v = :was',
        ExpressionAttributeNames: { '#v': 'v' },
        ExpressionAttributeValues: { ':was': { S: version } },
      }
}

/** An update that makes the item what `state` says, on condition that it still has the version `was`. */
export interface Update extends Condition {
  readonly TableName: string
  readonly Key: Item
  readonly UpdateExpression: string
}

export function updateOf({
  table,
  key,
  was,
  state,
}: {
  table: string
  key: Item
  was: string | undefined
  state: State
}): Update {
  const attributes = attributesOf(state)
  const names: Record<string, string> = {}
  const values: Item = {}
  const sets: string[] = []
  const removals: string[] = []
  for (const name of ATTRIBUTES) {
    names[`#${name}`] = name
    const value = attributes[name]
    if (value === undefined) removals.push(`#${name}`)
    else {
      values[`:${name}`] = value
      sets.push(`#${name} = :${name}`)
    }
  }
  const condition = isUnchanged(was)
  return {
    TableName: table,
    Key: key,
    UpdateExpression: `SET ${sets.join(', ')}${removals.length === 0 ? '' : ` REMOVE ${removals.join(', ')}`}`,
    ConditionExpression: condition.ConditionExpression,
    ExpressionAttributeNames: { ...names, ...condition.ExpressionAttributeNames },
    ExpressionAttributeValues: { ...values, ...condition.ExpressionAttributeValues },
  }
}

export function holdingOf({ term, fencingToken, pins }: State): Holding | undefined {
  if (term === undefined) return undefined
  const { holder, nonce, durationMs, value, version, weight } = term
  return { holder, fencingToken, nonce, remainingMs: durationMs, value, pinned: pins.size > 0, version, weight }
}

/** The name of the lease that an item is about. */
export function nameOf(item: Item): string {
  return textOf(item[RANGE])
}

/** The item was not written by this library. */
function foreign(item: Item): StoreFailure {
  const name = JSON.stringify(nameOf(item))
  return new StoreFailure(`the item ${name} was written by somebody else: is the table shared?`, { isNotDone: true })
}
