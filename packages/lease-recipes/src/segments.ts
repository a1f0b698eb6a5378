/**
 * Ids of any text, escaped as parts of lease names: in one way in all recipes, and two different ids never give the same name.
 *
 *     'order 42', 'order:42', 'eu/7', 'my.app'    order%2042, order:42, eu%2F7, my%2Eapp
 *
 * An escaped id breaks no rule for names, and contains no separator: the parts of a name are joined by `/`, or by other signs that are
 * escaped here.
 */

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
