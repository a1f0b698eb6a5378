/** The few statistics that the report needs. */

/** What repeated measurements of one thing say. */
export interface Summary {
  readonly median: number
  readonly min: number
  readonly max: number
  readonly samples: readonly number[]
}

/** @throws RangeError without any sample */
export function summarize(samples: readonly number[]): Summary {
  return { median: quantile(samples, 0.5), min: Math.min(...samples), max: Math.max(...samples), samples }
}

/**
 * The ratios of measurements taken side by side, round by round: what slowed the machine down in one round slowed both.
 *
 * @throws RangeError unless there are as many of the one as of the other, and at least one
 */
export function pairedRatio(of: readonly number[], to: readonly number[]): Summary {
  if (of.length !== to.length) throw new RangeError(`${of.length} rounds cannot be paired with ${to.length}`)
  return summarize(of.map((value, round) => value / (to[round] as number)))
}

/**
 * By linear interpolation between the closest ranks.
 *
 * @throws RangeError without any value
 */
export function quantile(values: ArrayLike<number> & Iterable<number>, part: number): number {
  if (values.length === 0) throw new RangeError('no values')
  const sorted = Float64Array.from(values).toSorted()
  const rank = (sorted.length - 1) * part
  const below = sorted[Math.floor(rank)] as number
  const above = sorted[Math.ceil(rank)] as number
  return below + (above - below) * (rank - Math.floor(rank))
}
