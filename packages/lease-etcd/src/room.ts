/** What one transaction reads of a counted lease: its gate, and the first of its shares. */
import type { Counted, Holding, Verdict } from 'lease-core/adapter'
import type { EtcdAnswer, EtcdKeyValue, EtcdRequest } from './driver.ts'
import { gateIn, weightIn, type Gate } from './gates.ts'
import { failureOf } from './explain.ts'
import { endOf, foundIn, type Keys, type Layout } from './layout.ts'
import type { Step } from './requests.ts'
import { allBy, countOf, foundBy, get, pageOf } from './txn.ts'

/** Of more shares than this the rest is read only where the number is not enough. */
const PAGE = 64

/** A counted lease as it was at one revision. */
export interface Room {
  readonly gate: Gate | undefined
  readonly gateKv: EtcdKeyValue | undefined
  /** The first of its shares. */
  readonly shares: readonly EtcdKeyValue[]
  /** How many there are. */
  readonly count: number
  readonly revision: string
}

/** Reads all keys from this one up to the end of the range, as they were at the revision. */
export type ReadRest = (range: {
  readonly key: Buffer
  readonly range_end: Buffer
  readonly revision: string
}) => Promise<readonly EtcdKeyValue[]>

/** @param options.countOnly the shares are too large to be read beside others, or none is needed */
export function roomReads(
  { gate, key }: Keys,
  { countOnly = false }: { readonly countOnly?: boolean } = {},
): EtcdRequest[] {
  return [get(gate), countOnly ? countOf(key, endOf(key)) : pageOf(key, endOf(key), PAGE)]
}

/** What `roomReads` has found. @throws when a key was not written by this library */
export function roomIn(answers: readonly EtcdAnswer[], index: number, revision: string): Room {
  const gateKv = foundBy(answers, index)
  const { kvs, count } = allBy(answers, index + 1)
  const gate = gateKv === undefined ? undefined : gateIn(gateKv)
  return { gate, gateKv, shares: kvs, count: Number(count), revision }
}

export function isComplete({ shares, count }: Room): boolean {
  return shares.length >= count
}

/** What the shares weigh at least, and at most. */
export function weightsOf({ gate, shares, count }: Room): { readonly least: number; readonly most: number } {
  let seen = 0
  for (const kv of shares) seen += weightIn(kv)
  const unseen = Math.max(0, count - shares.length)
  if (unseen === 0) return { least: seen, most: seen }
  const { heaviest = Number.POSITIVE_INFINITY, weight = Number.POSITIVE_INFINITY } = gate ?? {}
  return { least: seen + unseen, most: Math.min(seen + unseen * heaviest, weight) }
}

/** Whether so much more fits; undefined: that is not known without the rest of the shares. */
export function fits(
  room: Room,
  weight: number,
  capacity: number | undefined = room.gate?.capacity,
): boolean | undefined {
  if (capacity === undefined) return false
  const { least, most } = weightsOf(room)
  if (most + weight <= capacity) return true
  return least + weight > capacity ? false : undefined
}

/**
 * Goes on with all shares.
 *
 * @param anew what reads the counted lease once more: its history may be compacted before the rest of that revision is read
 */
export function completed(
  room: Room,
  { key, gate }: Keys,
  readRest: ReadRest,
  next: (room: Room) => Verdict | Step,
  anew: () => Verdict | Step,
): Verdict | Step {
  if (isComplete(room)) return next(room)
  const { shares, revision } = room
  const last = shares.at(-1)
  const from = last === undefined ? key : Buffer.concat([last.key, Buffer.alloc(1)])
  const withRest = (rest: readonly EtcdKeyValue[]): Verdict | Step => {
    const all = [...shares, ...rest]
    return next({ ...room, shares: all, count: all.length })
  }
  return onceRead({ key: from, range_end: endOf(key), revision }, gate, readRest, withRest, anew)
}

/**
 * Goes on with all keys of the range.
 *
 * @param any a key that may be read beside them
 * @param anew what to do where the history was compacted before all of that revision was read
 */
export function onceRead(
  range: Parameters<ReadRest>[0],
  any: Buffer,
  readRest: ReadRest,
  next: (kvs: readonly EtcdKeyValue[]) => Verdict | Step,
  anew: () => Verdict | Step,
): Step {
  let kvs: readonly EtcdKeyValue[] | undefined
  let failure: unknown
  return {
    goesOn: true,
    coverMs: undefined,
    async prepare() {
      try {
        kvs = await readRest(range)
      } catch (error) {
        failure = error
      }
    },
    request: () => get(any),
    next() {
      if (kvs !== undefined) return next(kvs)
      if (failureOf(failure) === 'compacted') return anew()
      throw failure
    },
  }
}

/** @param room with all shares */
export function countedIn({ gate, shares }: Room, layout: Layout): Counted {
  const holdings = new Map<string, Holding>()
  for (const kv of shares) holdings.set(layout.nameOf(kv.key), foundIn(kv).holding)
  const { capacity } = gate ?? {}
  return { capacity, generation: capacity === undefined ? undefined : gate?.generation, shares: holdings }
}
