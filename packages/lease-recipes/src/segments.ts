/** Names of leases that belong together, `prefix/id/part`: ids as people have them, told apart whatever is in them. */
import { brokenLockIdRule, encodeText } from './lock-id.ts'

/** The rule that this id breaks, or undefined. */
export function brokenSegmentRule(id: unknown): string | undefined {
  if (typeof id !== 'string') return 'must be a string'
  return id === '' ? 'must not be empty' : brokenLockIdRule(id)
}

/** The id, which must break no rule, as one segment: with no slash in it. */
export function encodeSegment(id: string): string {
  return encodeText(id).replaceAll('/', '%2F')
}

/** What was encoded; undefined: this is no encoded id. */
export function decodeSegment(segment: string): string | undefined {
  try {
    const id = decodeURIComponent(segment)
    return encodeSegment(id) === segment ? id : undefined
  } catch {
    return undefined
  }
}
