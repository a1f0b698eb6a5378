/**
 * Whether one checkout is slower than another, by pairs of measurements taken one after the other. "No worse" means no
 * worse by more than 5 %: over eleven pairs or more, the median of the ratios is 0.95 or more. Where the machine is too
 * noisy for that, CPU and commands per operation count: they can show that it is worse; otherwise the verdict prints them.
 */
import type { Metric, Sample } from './bench.ts'
import { medianInterval, quantile, type MedianInterval } from './statistics.ts'

/** Fewer pairs decide nothing. */
export const LEAST_PAIRS = 11

/** A speed ratio below this is worse; so is a cost ratio above its inverse. */
const LIMIT = 0.95

/** An interval wider than this that holds the limit is too noisy. */
const WIDE = 0.1

/** What both sides measured one after the other. */
export interface Pair {
  readonly here: Sample
  readonly there: Sample
}

/** One quantity on both sides. */
export interface Ratio {
  readonly metric: string
  /** Medians. */
  readonly here: number
  readonly there: number
  /** Of each pair. */
  readonly ratios: readonly number[]
  readonly median: number
  /** Of the median, at 95 % or more; undefined below six pairs. */
  readonly interval: MedianInterval | undefined
}

export interface Judgement {
  readonly verdict: 'no worse' | 'worse' | 'undecided'
  /** '' where the speed alone decides. */
  readonly reason: string
  /** By the main metric; above 1: better here. */
  readonly speed: Ratio
  /** Per operation, here ÷ there; undefined where the workload does not measure it. */
  readonly cpu: Ratio | undefined
  readonly commands: Ratio | undefined
}

/** @throws RangeError a pair lacks the metric */
export function judge(pairs: readonly Pair[], { name, better }: Metric): Judgement {
  const speed = ratioOf(pairs, name, better === 'more' ? quotient : (here, there) => quotient(there, here))
  if (speed === undefined) throw new RangeError(`"${name}" was not measured in each pair`)
  const costOf = (prefix: string): Ratio | undefined => {
    const metric = Object.keys(pairs[0]?.here ?? {}).find((one) => one.startsWith(prefix))
    return metric === undefined ? undefined : ratioOf(pairs, metric, quotient)
  }
  const [cpu, commands] = [costOf('CPU µs/'), costOf('commands/')]
  return { ...verdictOf(speed, cpu, commands), speed, cpu, commands }
}

/** `no worse`, `worse`, or `undecided: too noisy; CPU 1.02, commands 1.00`. */
export function verdictLine({ verdict, reason }: Pick<Judgement, 'verdict' | 'reason'>): string {
  return reason === '' ? verdict : `${verdict}: ${reason}`
}

function verdictOf(
  { ratios, median, interval }: Ratio,
  cpu: Ratio | undefined,
  commands: Ratio | undefined,
): Pick<Judgement, 'verdict' | 'reason'> {
  const costs = `CPU ${shown(cpu)}, commands ${shown(commands)}`
  const tooFew = ratios.length < LEAST_PAIRS || interval === undefined
  if (!tooFew) {
    const { low, high } = interval
    if (low >= LIMIT) return { verdict: 'no worse', reason: '' }
    if (high < LIMIT) return { verdict: 'worse', reason: '' }
    if (high - low <= WIDE) return { verdict: median >= LIMIT ? 'no worse' : 'worse', reason: '' }
    if ([cpu, commands].some((cost) => (cost?.interval?.low ?? 0) > 1 / LIMIT)) {
      return { verdict: 'worse', reason: `time is too noisy; ${costs}` }
    }
  }
  return { verdict: 'undecided', reason: `${tooFew ? `fewer than ${LEAST_PAIRS} pairs` : 'too noisy'}; ${costs}` }
}

function ratioOf(
  pairs: readonly Pair[],
  metric: string,
  divide: (here: number, there: number) => number,
): Ratio | undefined {
  const both = pairs.map(({ here, there }) => [here[metric], there[metric]] as const)
  const measured = both.filter((pair): pair is readonly [number, number] => pair.every(Number.isFinite))
  if (measured.length === 0 || measured.length < pairs.length) return undefined
  const ratios = measured.map(([here, there]) => divide(here, there))
  return {
    metric,
    here: quantile(
      measured.map(([here]) => here),
      0.5,
    ),
    there: quantile(
      measured.map(([, there]) => there),
      0.5,
    ),
    ratios,
    median: quantile(ratios, 0.5),
    interval: medianInterval(ratios),
  }
}

/** Nothing on both sides is the same. */
const quotient = (a: number, b: number): number => (a === b ? 1 : a / b)

const shown = (ratio: Ratio | undefined): string => ratio?.median.toFixed(2) ?? 'unknown'
