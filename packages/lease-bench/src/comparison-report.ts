/** What a comparison with another checkout shows, for a terminal and as JSON. */
import type { Comparison, Comparisons } from './compare.ts'
import type { BenchOptions } from './options.ts'
import { figure, reportOf, type Report } from './report.ts'
import { verdictLine, type Ratio } from './verdict.ts'

export interface ComparisonReport extends Omit<Report, 'results'>, Comparisons {
  /** The folder of the other checkout. */
  readonly there: string
}

export function comparisonReportOf(options: BenchOptions, there: string, comparisons: Comparisons): ComparisonReport {
  const { results: _none, ...where } = reportOf(options, [])
  return { ...where, there, ...comparisons }
}

/** What the lines below mean. */
export function comparisonHead({ pairs, seconds, warmUpSeconds }: BenchOptions, there: string): string {
  return [
    `This checkout (here) and ${there} (there): ${pairs} pairs of ${seconds} s after ${warmUpSeconds} s to warm up, in turns.`,
    'In brackets: a 95 % interval of the median, from the order statistics of the pairs.',
  ].join('\n')
}

export function comparisonText(comparison: Comparison): string {
  const { workload, place, title, label, metric, speed, cpu, commands } = comparison
  const direction = metric.better === 'more' ? 'here ÷ there' : 'there ÷ here'
  return [
    `\n${workload} on ${place}: ${title}: ${label}`,
    `  pairs: ${speed.ratios.map((ratio) => ratio.toFixed(2)).join(' ')}`,
    `  ${speed.metric}, ${direction} (above 1: better here): ${middle(speed)}${sides(speed)}`,
    ...[cpu, commands].flatMap((cost) =>
      cost === undefined || cost.metric === speed.metric
        ? []
        : `  ${cost.metric}, here ÷ there (above 1: costs more here): ${middle(cost)}${sides(cost)}`,
    ),
    `  ${verdictLine(comparison)}`,
  ].join('\n')
}

function middle({ median, interval }: Ratio): string {
  const range = interval === undefined ? '–' : `${interval.low.toFixed(2)}–${interval.high.toFixed(2)}`
  return `${median.toFixed(3)} [${range}]`
}

const sides = ({ here, there }: Ratio): string => `; ${figure(here)} here, ${figure(there)} there`
