/** `--wait`, `--wait=DUR`. */
import { parseDuration } from './durations.ts'

/** What `wait` of a hold says: whether to wait, and for how many milliseconds. */
export function waitOf(flag: string | boolean | undefined): number | boolean {
  if (flag === undefined || flag === false) return false
  if (flag === true || flag === 'forever') return true
  return parseDuration(flag, '--wait')
}
