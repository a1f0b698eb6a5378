/**
 * Ids of any text, escaped as parts of lease names: in one way in all recipes, and two different ids never give the same name.
 *
 *     'order 42', 'order:42', 'eu/7', 'my.app'    order%2042, order:42, eu%2F7, my%2Eapp
 *
 * An escaped id breaks no rule for names, and contains no separator: the parts of a name are joined by `/`, or by other signs that are
 * escaped here.
 */

import { MAX_NAME_BYTES } from 'lease-core'
import type { OptionReader } from 'lease-core/adapter'

/** The option `prefix`, with which the names of a family of leases begin; escaped. It must be a valid name by itself. */
export function prefixIn(options: OptionReader, otherwise: string): string {
  const before = options.problems.length
  const prefix = options.name('prefix', otherwise)
  return options.problems.length === before ? encodeSegment(prefix) : ''
}

/**
 * Checks an id. Returns the lease name that is made of it, escaped.
 *
 * @param prefix the beginning of the name, as `prefixIn` returns it; none: the id is the whole name
 * @param suffix the end of the longest name that is made of this one
 */
export function leaseNameIn(
  options: OptionReader,
  id: string,
  { prefix, suffix = '' }: { readonly prefix?: string; readonly suffix?: string } = {},
): string {
  const value = options.given(id)
  const rule = brokenSegmentRule(value)
  options.fault(id, rule)
  const segment = rule === undefined ? encodeSegment(value as string) : ''
  const name = prefix === undefined || segment === '' ? segment : `${prefix}/${segment}`
  checkLength(options, id, name + suffix)
  return name
}

/**
 * Checks the length of a lease name that is made of an id.
 *
 * @param name the whole name. The rule does not show it, because it may be a URL with a password
 */
export function checkLength(options: OptionReader, id: string, name: string): void {
  const bytes = Buffer.byteLength(name)
  const rule = `must be shorter: the name made of it would have ${bytes} bytes, and at most ${MAX_NAME_BYTES} are allowed`
  options.must(id, bytes <= MAX_NAME_BYTES, rule)
}

/** The rule that this id breaks, or undefined. */
export function brokenSegmentRule(id: unknown): string | undefined {
  if (typeof id !== 'string') return 'must be a string'
  return id === '' ? 'must not be empty' : brokenTextRule(id)
}

/** The rule that this text breaks, or undefined. */
export function brokenTextRule(text: string): string | undefined {
  return /\p{Cs}/u.test(text) ? 'must be well-formed Unicode' : undefined
}

/** Encodes a valid id: percent-encodes all but ASCII letters, digits and `_ - : @`. */
export function encodeSegment(id: string): string {
  return encodeURIComponent(id)
    .replace(/[.!~*'()]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`)
    .replace(/%3A/g, ':')
    .replace(/%40/g, '@')
}

/** Decodes an id; undefined when this is not an encoded id. */
export function decodeSegment(segment: string): string | undefined {
  try {
    const id = decodeURIComponent(segment)
    return encodeSegment(id) === segment ? id : undefined
  } catch {
    return undefined
  }
}
