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

/** Where the median of what was sampled lies, by the order of the samples alone: it supposes no distribution. */
export interface MedianInterval {
  readonly low: number
  readonly high: number
  /** How likely an interval made this way holds the median: at least the level that was asked for. */
  readonly coverage: number
}

/**
 * The narrowest interval from the k-th lowest to the k-th highest sample that holds the median with at least this
 * probability. The median is outside exactly when fewer than k samples fall on one side of it, which is a binomial tail.
 *
 * @returns undefined where even the lowest and the highest are too few: below six samples for 95 %
 */
export function medianInterval(samples: readonly number[], level: number = 0.95): MedianInterval | undefined {
  const count = samples.length
  const sorted = Float64Array.from(samples).toSorted()
  let chance = 2 ** -count // that exactly `below` samples fall on one side
  let tail = 0 // that at most `below` do
  let found: MedianInterval | undefined
  for (let below = 0; below < count / 2; below++) {
    tail += chance
    const coverage = 1 - 2 * tail
    if (coverage < level) break
    found = { low: sorted[below] as number, high: sorted[count - 1 - below] as number, coverage }
    chance *= (count - below) / (below + 1)
  }
  return found
}
