/**
 * Renewals in bytes. A batch of them is the one message that is sent all the time, by anyone who holds many leases, and the
 * driver's own way to bytes and back takes half of what such a batch costs: it makes an object for each message inside,
 * twice, and text of each number.
 *
 * So the driver is asked to send these by `encoded` and to read their answers by `decoded`. It is only a short cut: what
 * they do not know is left to the driver's own way, and so is everything where the driver is not as it is known to be.
 */
import type { EtcdCallOptions, EtcdTxn, EtcdTxnAnswer } from './driver.ts'
import { isFailFast } from './fail-fast.ts'
import { MOD } from './txn.ts'

/** A call of grpc-js before it is sent. */
interface GrpcCall {
  methodDefinition?: {
    readonly path: string
    readonly requestSerialize: (txn: EtcdTxn) => Buffer
    readonly responseDeserialize: (bytes: Buffer) => EtcdTxnAnswer
  }
}

/** Sends a transaction of renewals the short way. The answers inside are left out: that they succeeded is all they say. */
export const swiftly: Pick<EtcdCallOptions, 'interceptors'> = { interceptors: [shortCut] }

function shortCut(options: never, next: (options: never) => GrpcCall): GrpcCall {
  const call = next(options)
  const usual = call.methodDefinition
  if (usual?.path !== '/etcdserverpb.KV/Txn') return call
  call.methodDefinition = {
    ...usual,
    requestSerialize: (txn) => encoded(txn) ?? usual.requestSerialize(txn),
    responseDeserialize: (bytes) => decoded(bytes) ?? usual.responseDeserialize(bytes),
  }
  return call
}

/**
 * Whether calls carry no interceptors of the user's own: those of a call take the place of all others. A function of the
 * user that makes options for each call might bring some; it is not asked.
 */
export function mayBeSwift(etcd: object): boolean {
  const { options } = etcd as { options?: { grpcOptions?: object; defaultCallOptions?: unknown } }
  if (options === undefined) return false
  const { grpcOptions = {}, defaultCallOptions } = options
  if (defaultCallOptions !== undefined && !isFailFast(defaultCallOptions)) return false
  return !('interceptors' in grpcOptions) && !('interceptor_providers' in grpcOptions)
}

/** Bytes that a comparison or a put takes besides the key, at most. */
const AROUND_KEY = 40

/** The transaction as it is sent; undefined where it is not one of renewals. */
export function encoded({ compare = [], success = [], failure = [] }: EtcdTxn): Buffer | undefined {
  if (failure.length > 0 || compare.length !== success.length) return undefined
  let size = 0
  for (const { key } of compare) size += key.length + AROUND_KEY
  for (const { request_put } of success) size += (request_put?.key.length ?? 0) + AROUND_KEY
  const bytes = Buffer.allocUnsafe(size)
  let at = 0
  for (const { key, target, result, mod_revision } of compare) {
    const revision = Number(mod_revision)
    if (target !== MOD || result !== 0 || !Number.isSafeInteger(revision) || revision < 0) return undefined
    at = varint(bytes, byte(bytes, at, 0x0a), 4 + sizeOfVarint(key.length) + key.length + sizeOfVarint(revision))
    at = byte(bytes, byte(bytes, at, 0x10), MOD)
    at = keyed(bytes, byte(bytes, at, 0x1a), key)
    at = varint(bytes, byte(bytes, at, 0x30), revision)
  }
  let ofLease = ''
  let leaseBytes: readonly number[] = []
  for (const { request_put } of success) {
    if (request_put?.ignore_value !== true || request_put.value !== undefined) return undefined
    const { key, lease = '0' } = request_put
    if (lease !== ofLease) leaseBytes = varintOf(BigInt((ofLease = lease)))
    const size = 4 + sizeOfVarint(key.length) + key.length + leaseBytes.length
    at = varint(bytes, byte(bytes, at, 0x12), 1 + sizeOfVarint(size) + size)
    at = varint(bytes, byte(bytes, at, 0x12), size)
    at = keyed(bytes, byte(bytes, at, 0x0a), key)
    at = byte(bytes, at, 0x18)
    for (const part of leaseBytes) at = byte(bytes, at, part)
    at = byte(bytes, byte(bytes, at, 0x28), 1)
  }
  return bytes.subarray(0, at)
}

/** What the answer says of the whole; undefined where that is not to be understood. */
export function decoded(bytes: Buffer): EtcdTxnAnswer | undefined {
  const cursor = { at: 0 }
  let revision = 0
  let succeeded = false
  while (cursor.at < bytes.length) {
    const tag = numberAt(bytes, cursor)
    const value = numberAt(bytes, cursor)
    if (tag === 0x10) succeeded = value === 1
    else if (tag === 0x0a) {
      const end = cursor.at + value
      if (!(end <= bytes.length)) return undefined
      while (cursor.at < end) {
        const inside = numberAt(bytes, cursor)
        const field = numberAt(bytes, cursor)
        if (inside === 0x18) revision = field
        else if ((inside & 7) !== 0) return undefined
      }
    } else if (tag === 0x1a) cursor.at += value
    else return undefined
  }
  if (cursor.at !== bytes.length || !Number.isSafeInteger(revision) || revision === 0) return undefined
  return { header: { revision: String(revision) }, succeeded, responses: [] }
}

/** The number that stands here; NaN past the end. */
function numberAt(bytes: Buffer, cursor: { at: number }): number {
  for (let value = 0, weight = 1; ; weight *= 0x80) {
    const part = bytes[cursor.at++]
    if (part === undefined) return Number.NaN
    value += (part & 0x7f) * weight
    if (part < 0x80) return value
  }
}

function keyed(bytes: Buffer, at: number, key: Buffer): number {
  const from = varint(bytes, at, key.length)
  bytes.set(key, from)
  return from + key.length
}

function byte(bytes: Buffer, at: number, value: number): number {
  bytes[at] = value
  return at + 1
}

function varint(bytes: Buffer, at: number, value: number): number {
  let rest = value
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes[at++] = (rest % 0x80) | 0x80
  return byte(bytes, at, rest)
}

function sizeOfVarint(value: number): number {
  let size = 1
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++
  return size
}

/** Of a number of 64 bits. */
function varintOf(value: bigint): readonly number[] {
  const parts: number[] = []
  let rest = BigInt.asUintN(64, value)
  for (; rest >= 0x80n; rest >>= 7n) parts.push(Number(rest & 0x7fn) | 0x80)
  return [...parts, Number(rest)]
}
