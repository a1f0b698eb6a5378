/** Transactions in few words: what etcd calls compare, request and response. */
import type { EtcdAnswer, EtcdCompare, EtcdKeyValue, EtcdRequest, EtcdTxn } from './driver.ts'

const EQUAL = 0
const GREATER = 1
const LESS = 2
const VERSION = 0
const CREATE = 1
/** What a comparison of `mod_revision` is called. */
export const MOD = 2
const VALUE = 3

export function isAbsent(key: Buffer): EtcdCompare {
  return { key, result: EQUAL, target: VERSION, version: '0' }
}

export function isPresent(key: Buffer): EtcdCompare {
  return { key, result: GREATER, target: VERSION, version: '0' }
}

/** Whether the key was created at this revision and has stood since. */
export function isOfTerm(key: Buffer, fencingToken: bigint): EtcdCompare {
  return { key, result: EQUAL, target: CREATE, create_revision: fencingToken.toString() }
}

/** Whether there is no key from this one up to the end of the range. */
export function isEmpty(key: Buffer, range_end: Buffer): EtcdCompare {
  return { ...isAbsent(key), range_end }
}

/** Whether the key is as it was at this `mod_revision`; that of an absent key is `0`. */
export function isUnchanged(key: Buffer, modRevision: string): EtcdCompare {
  return { key, result: EQUAL, target: MOD, mod_revision: modRevision }
}

/** Whether no key from this one up to the end of the range was put after this revision. */
export function noneSince(key: Buffer, range_end: Buffer, revision: string): EtcdCompare {
  return { key, range_end, result: LESS, target: MOD, mod_revision: next(revision) }
}

/** The same of keys that were created; put over those that were there, others may have been. */
export function noneNewSince(key: Buffer, range_end: Buffer, revision: string): EtcdCompare {
  return { key, range_end, result: LESS, target: CREATE, create_revision: next(revision) }
}

function next(revision: string): string {
  return String(BigInt(revision) + 1n)
}

/** Whether the key is there, and its value is this one or sorts before it; for values of one length. */
export function isAtMost(key: Buffer, value: string): EtcdCompare {
  return { key, result: LESS, target: VALUE, value: Buffer.from(`${value}~`) }
}

/** Whether the key is there with this value. */
export function hasValue(key: Buffer, value: Buffer): EtcdCompare {
  return { key, result: EQUAL, target: VALUE, value }
}

/** In the place of an etcd lease: none. */
export const NO_LEASE = '0'

/** Writes the key anew, on this etcd lease; `NO_LEASE` for none. */
export function put(key: Buffer, value: Buffer, lease: string): EtcdRequest {
  return { request_put: { key, value, lease } }
}

/** Puts an empty key: that it was put is all it tells, and it goes with its etcd lease. */
export function ping(key: Buffer, lease: string): EtcdRequest {
  return put(key, Buffer.alloc(0), lease)
}

/** Writes the key with the value it has, on this etcd lease. The whole transaction fails where the key is absent. */
export function touch(key: Buffer, lease: string): EtcdRequest {
  return { request_put: { key, ignore_value: true, lease } }
}

export function remove(key: Buffer): EtcdRequest {
  return { request_delete_range: { key } }
}

/** Removes all keys from this one up to the end of the range. */
export function removeAll(key: Buffer, range_end: Buffer): EtcdRequest {
  return { request_delete_range: { key, range_end } }
}

export function get(key: Buffer): EtcdRequest {
  return { request_range: { key } }
}

/** The names of the first keys of the range. */
export function firstOf(key: Buffer, range_end: Buffer, limit: number): EtcdRequest {
  return { request_range: { key, range_end, limit, keys_only: true } }
}

/** The first keys of the range. */
export function pageOf(key: Buffer, range_end: Buffer, limit: number): EtcdRequest {
  return { request_range: { key, range_end, limit } }
}

/** How many keys the range has. */
export function countOf(key: Buffer, range_end: Buffer): EtcdRequest {
  return { request_range: { key, range_end, count_only: true } }
}

const DESCENDING = 2
const BY_KEY = 0

/** The last keys of the range, the last one first. */
export function lastOf(key: Buffer, range_end: Buffer, limit: number): EtcdRequest {
  return { request_range: { key, range_end, limit, sort_order: DESCENDING, sort_target: BY_KEY } }
}

/** A transaction inside another, with conditions of its own: `compare ? success : failure`. */
export function when(compare: EtcdCompare[], success: EtcdRequest[], failure: EtcdRequest[]): EtcdRequest {
  return { request_txn: { compare, success, failure } }
}

/** The same of one whose conditions are most likely met: `failure` only reads, and is made when it is asked for. */
export function whenLikely(compare: EtcdCompare[], success: EtcdRequest[], failure: () => EtcdRequest[]): EtcdRequest {
  return { request_txn: new LikelyTxn(compare, success, failure) }
}

/** Merged with others nobody asks for `failure` (`bundle.ts`). */
class LikelyTxn implements EtcdTxn {
  readonly compare: EtcdCompare[]
  readonly success: EtcdRequest[]
  readonly #make: () => EtcdRequest[]
  #failure: EtcdRequest[] | undefined

  constructor(compare: EtcdCompare[], success: EtcdRequest[], failure: () => EtcdRequest[]) {
    this.compare = compare
    this.success = success
    this.#make = failure
  }

  get failure(): EtcdRequest[] {
    return (this.#failure ??= this.#make())
  }
}

/** All of these side by side, each with its own conditions. */
export function together(requests: EtcdRequest[]): EtcdTxn {
  return { compare: [], success: requests, failure: [] }
}

/** What the nth of these answers, one to `get`, has found. */
export function foundBy(answers: readonly EtcdAnswer[], index: number = 0): EtcdKeyValue | undefined {
  return answers[index]?.response_range.kvs[0]
}

/** What the nth of these answers, one to a range, has found. */
export function allBy(answers: readonly EtcdAnswer[], index: number): EtcdAnswer['response_range'] {
  return answers[index]?.response_range ?? { kvs: [], count: '0' }
}

/** How many operations its longest branch has, those of the longest branch inside included. */
export function widthOf({ request_txn }: EtcdRequest): number {
  if (request_txn === undefined) return 1
  const { compare = [], success = [], failure = [] } = request_txn
  let inside = 0
  for (const request of success) if (request.request_txn !== undefined) inside = Math.max(inside, widthOf(request))
  for (const request of failure) if (request.request_txn !== undefined) inside = Math.max(inside, widthOf(request))
  return Math.max(compare.length, success.length, failure.length) + inside
}

/** About how many bytes the request takes on the wire, without what a likely one reads where its conditions are not met. */
export function sizeOf({ request_put, request_range, request_delete_range, request_txn }: EtcdRequest): number {
  let size = 16
  if (request_put !== undefined) size += request_put.key.length + (request_put.value?.length ?? 0)
  size += (request_range?.key.length ?? 0) + (request_delete_range?.key.length ?? 0)
  if (request_txn !== undefined) {
    for (const { key } of request_txn.compare ?? []) size += 16 + key.length
    for (const request of request_txn.success ?? []) size += sizeOf(request)
    if (!(request_txn instanceof LikelyTxn)) {
      for (const request of request_txn.failure ?? []) size += sizeOf(request)
    }
  }
  return size
}
