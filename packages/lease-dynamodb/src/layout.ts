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
import type { AttributeValue, CreateTableCommandInput } from '@aws-sdk/client-dynamodb'
import { StoreFailure, type LeaseRecord, type QueueTicket } from 'lease-core/adapter'
import type { Item } from './driver.ts'

/** The attributes of the primary key. */
export const HASH = 'ns'
export const RANGE = 'nm'
export const VERSION = 'v'
/** The attribute for the time to live of the table. */
export const EXPIRES = 'x'

/** The primary key, as DynamoDB describes it. */
export const SCHEMA: Required<Pick<CreateTableCommandInput, 'AttributeDefinitions' | 'KeySchema'>> = {
  AttributeDefinitions: [
    { AttributeName: HASH, AttributeType: 'S' },
    { AttributeName: RANGE, AttributeType: 'S' },
  ],
  KeySchema: [
    { AttributeName: HASH, KeyType: 'HASH' },
    { AttributeName: RANGE, KeyType: 'RANGE' },
  ],
}

const TEXTS = ['v', 'h', 'e', 'q', 'o', 'a', 't', 's', 'g', 'b'] as const
const NUMBERS = ['tk', 'd', 'u', 'w', 'l', 'c', 'x'] as const
/** Every attribute but those of the key: a write replaces them all. */
export const ATTRIBUTES: readonly string[] = [...TEXTS, ...NUMBERS, 'p', 'k', 'y']

/** What an item says; a failure where it was not written by this library. */
export function recordIn(item: Item): LeaseRecord | StoreFailure {
  const { p, k, y } = item
  const pins = p === undefined ? [] : listIn(p)
  const [texts, numbers] = [typed(item, TEXTS, 'S'), typed(item, NUMBERS, 'N')]
  if (texts?.v === undefined || numbers === undefined || pins === undefined) return foreign(item)
  const { v, h, e, q, o, a, t = '', s, g = '', b = '' } = texts
  const { tk, d, u, w, l = 0, c, x } = numbers
  const isWhole = e !== undefined && d !== undefined && u !== undefined && q !== undefined && tk !== undefined
  if (h !== undefined && !isWhole) return foreign(item)
  const [place, durationMs] = numbersIn(s)
  return {
    version: v,
    fencingToken: BigInt(tk ?? 0),
    term:
      h === undefined || !isWhole
        ? undefined
        : { holder: h, version: e, durationMs: Number(d), untilMs: Number(u), nonce: q, value: a, weight: numberOf(w) },
    nonces: [q, o].filter((one) => one !== undefined),
    pins: new Map(pins.flatMap((one, index) => (index % 2 === 0 ? [[one, pins[index + 1] ?? '']] : []))),
    keeps: k?.BOOL === true,
    definition: c === undefined ? undefined : { capacity: Number(c), generation: g, byUse: y?.BOOL === true },
    before: b.split('|').filter((one) => one !== ''),
    queue: t.split(' ').flatMap((one) => (one === '' ? [] : [ticketIn(one)])),
    places: Number(l),
    served: place === undefined || durationMs === undefined ? undefined : { place, durationMs },
    expires: numberOf(x),
  }
}

/** These attributes, as far as they are there; undefined: one has another type. */
function typed<Name extends string>(
  item: Item,
  names: readonly Name[],
  type: 'S' | 'N',
): Partial<Record<Name, string>> | undefined {
  const found: Partial<Record<Name, string>> = {}
  for (const name of names) {
    const attribute = item[name]
    const text = attribute?.[type]
    if (attribute !== undefined && text === undefined) return undefined
    if (text !== undefined) found[name] = text
  }
  return found
}

function listIn({ L }: AttributeValue): readonly string[] | undefined {
  const texts = L?.map(({ S }) => S)
  return texts?.every((text) => text !== undefined) === true ? texts : undefined
}

function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text)
}

function numbersIn(text: string | undefined): readonly number[] {
  return text === undefined ? [] : text.split(':').map(Number)
}

function ticketIn(text: string): QueueTicket {
  const [place, weight, untilMs, ...nonce] = text.split(':')
  return { place: Number(place), weight: Number(weight), untilMs: Number(untilMs), nonce: nonce.join(':') }
}

/** The attributes of an item that says this; those that say nothing are absent. */
export function attributesOf(record: LeaseRecord): Item {
  const { term, definition, pins, nonces, before, queue, served } = record
  const tickets = queue.map(({ place, weight, untilMs, nonce }) => [place, weight, untilMs, nonce].join(':'))
  const texts: Partial<Record<(typeof TEXTS)[number], string | undefined>> = {
    v: record.version,
    h: term?.holder,
    e: term?.version,
    q: nonces[0],
    o: nonces[1],
    a: term?.value,
    t: tickets.join(' ') || undefined,
    s: served && `${served.place}:${served.durationMs}`,
    g: definition?.generation,
    b: before.join('|') || undefined,
  }
  const numbers: Partial<Record<(typeof NUMBERS)[number], bigint | number | undefined>> = {
    tk: record.fencingToken || undefined,
    d: term?.durationMs,
    u: term?.untilMs,
    w: term?.weight,
    l: record.places || undefined,
    c: definition?.capacity,
    x: record.expires,
  }
  const attributes: Item = {}
  for (const [name, text] of Object.entries(texts)) if (text !== undefined) attributes[name] = { S: text }
  for (const [name, number] of Object.entries(numbers))
    if (number !== undefined) attributes[name] = { N: String(number) }
  if (pins.size > 0) attributes['p'] = { L: [...pins].flat().map((one): AttributeValue => ({ S: one })) }
  if (record.keeps) attributes['k'] = { BOOL: true }
  if (definition?.byUse === true) attributes['y'] = { BOOL: true }
  return attributes
}

/** The name of the lease that an item is about. */
export function nameOf(item: Item): string {
  return item[RANGE]?.S ?? ''
}

function foreign(item: Item): StoreFailure {
  const name = JSON.stringify(nameOf(item))
  return new StoreFailure(`the item ${name} was written by somebody else: is the table shared?`, { isNotDone: true })
}
