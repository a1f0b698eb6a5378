/**
 * Ids of locks (a string, a number, bytes, a partition key with a sort key), written as valid lease names.
 *
 *     'order 42'                      order%2042
 *     42, 42n                         =42, =42n
 *     Uint8Array [1, 255]             =x01ff
 *     ['eu', 7]                       [eu,=7]
 *     { partition: 'eu', sort: 0 }    (partition=eu,sort==0)
 *
 * The encoding is injective and can be decoded: two ids have the same lease only when they are equal, with the same types (`5` and `'5'` are
 * two locks; the order of an object's keys does not matter).
 *
 * After the composite keys of dynamodb-lock-client, where a sort key of 0 or '' was dropped and bytes became no key at all.
 */
import { isUint8Array } from 'node:util/types'
import { brokenTextRule, encodeSegment } from './segments.ts'

/** One part of a lock id. `-0` is `0`. */
export type LockIdPart = string | number | bigint | Uint8Array

/** The id of a lock: one part, a list of parts, or named parts. */
export type LockId = LockIdPart | readonly LockIdPart[] | { readonly [part: string]: LockIdPart }

/** The rule that this id breaks, or undefined. */
export function brokenLockIdRule(id: unknown): string | undefined {
  if (isPart(id)) return brokenPartRule(id)
  const parts = partsOf(id)
  if (parts === undefined) return 'must be a string, a number, a bigint, bytes, or an array or a plain object of these'
  if (parts.length === 0) return 'must not be empty'
  for (const [index, [key, part]] of parts.entries()) {
    const rule =
      brokenTextRule(key) ?? (isPart(part) ? brokenPartRule(part) : 'must be a string, a number, a bigint or bytes')
    // The rule is part of a message, and a key that is not a plain word may be a URL with a password.
    if (rule !== undefined) return `is not valid: part ${/^\w{1,40}$/.test(key) ? `"${key}"` : index + 1} ${rule}`
  }
  return undefined
}

/** Encodes a valid id as a part of a lease name. */
export function encodeLockId(id: LockId): string {
  if (isPart(id)) return encodePart(id)
  if (Array.isArray(id)) return `[${id.map(encodePart).join(',')}]`
  const parts = (partsOf(id) as [string, LockIdPart][]).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return `(${parts.map(([key, part]) => `${encodeSegment(key)}=${encodePart(part)}`).join(',')})`
}

/** Decodes an id; undefined when this is not an encoded id. */
export function decodeLockId(name: string): LockId | undefined {
  const id = decode(name)
  return id !== undefined && brokenLockIdRule(id) === undefined && encodeLockId(id) === name ? id : undefined
}

function isPart(value: unknown): value is LockIdPart {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint' || isUint8Array(value)
}

function brokenPartRule(part: LockIdPart): string | undefined {
  if (typeof part === 'string') return brokenTextRule(part)
  return typeof part === 'number' && !Number.isFinite(part) ? 'must be finite' : undefined
}

/** The parts with their names; undefined when this is neither an array nor a plain object. */
function partsOf(id: unknown): [string, unknown][] | undefined {
  if (Array.isArray(id)) return Array.from(id, (part: unknown, index) => [String(index), part]) // holes are parts, too
  if (typeof id !== 'object' || id === null) return undefined
  const prototype: unknown = Object.getPrototypeOf(id)
  return prototype === Object.prototype || prototype === null ? Object.entries(id) : undefined
}

function encodePart(part: LockIdPart): string {
  if (typeof part === 'string') return encodeSegment(part)
  if (typeof part === 'number') return `=${encodeSegment(String(part))}`
  if (typeof part === 'bigint') return `=${part}n`
  return `=x${Buffer.from(part.buffer, part.byteOffset, part.byteLength).toString('hex')}`
}

function decode(name: string): LockId | undefined {
  const inner = name.slice(1, -1)
  if (/^\[.*\]$/.test(name)) return all(inner.split(',').map(decodePart))
  if (!/^\(.*\)$/.test(name)) return decodePart(name)
  const id = Object.create(null) as Record<string, LockIdPart>
  for (const entry of inner.split(',')) {
    const at = entry.indexOf('=')
    const key = at < 0 ? undefined : decodeText(entry.slice(0, at))
    const part = decodePart(entry.slice(at + 1))
    if (key === undefined || part === undefined) return undefined
    id[key] = part
  }
  return { ...id }
}

function decodePart(text: string): LockIdPart | undefined {
  if (!text.startsWith('=')) return decodeText(text)
  const value = decodeText(text.slice(1)) ?? ''
  if (/^x([0-9a-f]{2})*$/.test(value)) return Uint8Array.from(Buffer.from(value.slice(1), 'hex'))
  if (/^-?\d+n$/.test(value)) return BigInt(value.slice(0, -1))
  return value === '' ? undefined : Number(value)
}

function decodeText(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

function all<T>(parts: readonly (T | undefined)[]): readonly T[] | undefined {
  return parts.includes(undefined) ? undefined : (parts as readonly T[])
}
