import { brokenDurationRule, toMillis, type HoldOptions, type Problem } from 'lease-core'

/** A span of time; a number is in milliseconds. */
export type DurationLike = HoldOptions['duration']

/** In milliseconds. What is wrong with it is added to the problems. */
export function durationMs(argument: string, value: DurationLike, problems: Problem[]): number {
  const rule = brokenDurationRule(value)
  if (rule !== undefined) problems.push({ argument, rule, value })
  return toMillis(value)
}
