/**
 * zod schemas of what may stand in a configuration file: names, durations, and the options of a Hold. They accept what the calls accept, and
 * say in the same words what is wrong.
 *
 *     const configuration = z.object({ lease: leaseNameSchema, hold: holdOptionsSchema })
 *     const { lease, hold } = configuration.parse(JSON.parse(text))
 *     await manager.hold(lease, uniqueHolder(), hold)
 *
 * An entry of its own, `lease-core/schemas`: zod is an optional peer, and nothing else here loads it
 * (docs/decisions/0036-options-are-checked-without-zod.md).
 */
import type { DurationLike } from 'luxon'
import { z } from 'zod'
import { ErrNotValid } from './errors.ts'
import { brokenDurationRule, brokenNameRule } from './lease.ts'
import { parseHoldOptions } from './options.ts'
import type { HoldOptions } from './roles.ts'

/** The options of `manager.hold` that a file can have. */
export type HoldConfiguration = Omit<HoldOptions, 'signal'>

/** What each call takes as a duration: an object such as `{ seconds: 30 }`, or milliseconds. It is passed on as it is. */
export const durationSchema: z.ZodType<DurationLike> = ruled(brokenDurationRule)

/** The name of a lease. */
export const leaseNameSchema: z.ZodType<string> = ruled(brokenNameRule)

/** The name of a holder. */
export const holderSchema: z.ZodType<string> = ruled(brokenNameRule)

/** The options of `manager.hold`, passed on as they are. */
export const holdOptionsSchema: z.ZodType<HoldConfiguration> = z
  .custom<HoldConfiguration>()
  .superRefine((value, context) => {
    try {
      parseHoldOptions(value)
    } catch (error) {
      if (!(error instanceof ErrNotValid)) throw error
      for (const { argument, rule } of error.problems) {
        context.addIssue({ code: 'custom', message: rule, path: argument === 'options' ? [] : argument.split('.') })
      }
    }
  })

/** Whatever breaks no rule. */
function ruled<T>(broken: (value: unknown) => string | undefined): z.ZodType<T> {
  return z.custom<T>().superRefine((value, context) => {
    const rule = broken(value)
    if (rule !== undefined) context.addIssue({ code: 'custom', message: rule })
  })
}
