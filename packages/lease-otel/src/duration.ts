import type { HoldOptions } from 'lease-core'

/** A span of time; a number is in milliseconds. */
export type DurationLike = HoldOptions['duration']
