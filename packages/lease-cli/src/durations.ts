/** Durations as people write them on a command line (`30s`, `1h30m`), and as they read them in a table. */
import { wrongUsage } from './exit-codes.ts'

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const PART = /(\d+(?:\.\d+)?)(ms|s|m|h|d)/g
const WHOLE = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/

/**
 * Returns milliseconds. Units are `ms`, `s`, `m`, `h` and `d`; several add up.
 *
 * @param option names it in the message
 * @throws CommandEnd 64: it is no duration, or zero where `zero` does not allow it. A bare number is refused, because nobody can know its unit
 */
export function parseDuration(
  text: string,
  option: string,
  { zero = false }: { readonly zero?: boolean } = {},
): number {
  if (/^\d+(\.\d+)?$/.test(text) && !(zero && Number(text) === 0)) {
    throw wrongUsage(`${option} must have a unit (got ${text})`, `write ${text}s for seconds, or ${text}m for minutes`)
  }
  let ms = 0
  if (WHOLE.test(text))
    for (const [, count, unit = ''] of text.matchAll(PART)) ms += Number(count) * (UNIT_MS[unit] ?? 0)
  else if (!(zero && Number(text) === 0)) {
    throw wrongUsage(
      `${option} must be a duration (got ${JSON.stringify(text.slice(0, 40))})`,
      'write 30s, 5m or 1h30m',
    )
  }
  if (ms <= 0 && !zero) throw wrongUsage(`${option} must be longer than zero (got ${text})`)
  return ms
}

const SHOWN: readonly (readonly [unit: string, ms: number])[] = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
]

/** Its two largest units: `3h12m`, `24s`. Below a second it is `<1s`. */
export function showDuration(ms: number): string {
  if (ms <= 0) return '0s'
  if (ms < 1000) return '<1s'
  const at = SHOWN.findIndex(([, unitMs]) => ms >= unitMs)
  const [unit, unitMs] = SHOWN[at] as (typeof SHOWN)[number]
  const next = SHOWN[at + 1]
  const count = Math.floor(ms / unitMs)
  const rest = next === undefined ? 0 : Math.floor((ms - count * unitMs) / next[1])
  return rest === 0 || next === undefined ? `${count}${unit}` : `${count}${unit}${rest}${next[0]}`
}
