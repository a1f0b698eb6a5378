/** C7: nothing goes wrong unseen, a closed process ends by itself with the descriptors that it had, and nothing grows. */
import { groupedBy } from '../../checker.ts'
import { RUN, type ChaosEvent, type Usage } from '../event.ts'
import { isStuck } from './liveness.ts'
import type { Facts, Violation } from './facts.ts'

/** Fewer measurements of a worker than this show no trend: there is one a second. */
const LEAST_MEASUREMENTS = 120
const WINDOWS = 12
/** Of the pairs of windows, the later one is higher in so many: of those that only fluctuate, in half. */
const RISING_SHARE = 0.8
const MEASURED = ['heapBytes', 'descriptors', 'timers', 'listeners'] as const satisfies readonly (keyof Usage)[]

export function checkLeftovers({ history: { events } }: Facts): Violation[] {
  return [...events.flatMap(mishap), ...growths(events)]
}

/** Calls that threw what they do not promise. */
export function checkFailures({ history: { events } }: Facts): Violation[] {
  return events.flatMap(({ what, outcome, worker, operation, detail = '', atMs }) => {
    if (what !== 'answered' || outcome !== 'failed') return []
    return [{ check: 'C7', lease: worker, atMs, what: `${worker}: ${operation} threw ${detail}` }]
  })
}

function mishap(event: ChaosEvent): Violation[] {
  const { what, worker, lease = '', atMs, detail = '', code } = event
  const found = (text: string, of: string = worker): Violation[] => [{ check: 'C7', lease: of, atMs, what: text }]
  if (what === 'uncaught') return found(`${worker} has an error that nobody caught: ${detail}`)
  if (what === 'warning') return found(`${worker} warns: ${detail}`)
  if (isStuck(event)) return found(`${lease} did not end by itself`, lease)
  if (worker === RUN && what === 'gone' && typeof code === 'number' && code !== 0) {
    return found(`${lease} ended by itself with ${code}`, lease)
  }
  if (what === 'closed' && event.left !== undefined && event.left.length > 0) {
    return found(`${worker} closed everything and has more descriptors than at its start: ${event.left.join(', ')}`)
  }
  return []
}

/** Workers that take more and more. */
function growths(events: readonly ChaosEvent[]): Violation[] {
  const measured = groupedBy(
    events.filter(({ what }) => what === 'usage'),
    ({ worker }) => worker,
  )
  return [...measured].flatMap(([worker, all]) => {
    if (all.length < LEAST_MEASUREMENTS) return []
    const warm = all.slice(Math.floor(all.length / 4)) // until then caches are filled
    return MEASURED.flatMap((of) => {
      const trend = trendOf(warm, of)
      if (!trend.isGrowth) return []
      const what = `${worker} grows: ${of} by ${trend.rise} in ${trend.minutes} minutes, and it fluctuates by ${trend.fluctuation}`
      return [{ check: 'C7', lease: worker, atMs: warm.at(-1)?.atMs ?? 0, what }]
    })
  })
}

interface Trend {
  readonly isGrowth: boolean
  readonly rise: number
  readonly minutes: string
  readonly fluctuation: number
}

/**
 * The floors of equal windows of time, because a heap goes up and down with each collection. It is growth if nearly each floor is above
 * those before, and if the rise is more than what the measurements of one window differ by: both bounds come from the run itself.
 */
function trendOf(measurements: readonly ChaosEvent[], of: keyof Usage): Trend {
  const length = Math.floor(measurements.length / WINDOWS)
  const windows = Array.from({ length: WINDOWS }, (_, index) => {
    const own = measurements.slice(index * length, (index + 1) * length).map(({ usage }) => usage?.[of] ?? 0)
    return { floor: Math.min(...own), spread: Math.max(...own) - Math.min(...own) }
  })
  const floors = windows.map(({ floor }) => floor)
  const slopes = floors.flatMap((floor, index) => {
    return floors.slice(index + 1).map((later, distance) => (later - floor) / (distance + 1))
  })
  const rise = Math.round(median(slopes) * (WINDOWS - 1))
  const fluctuation = Math.round(median(windows.map(({ spread }) => spread)))
  const risingShare = slopes.filter((slope) => slope > 0).length / slopes.length
  const [first, last] = [measurements[0], measurements.at(-1)]
  const minutes = (((last?.atMs ?? 0) - (first?.atMs ?? 0)) / 60_000).toFixed(1)
  return { isGrowth: risingShare >= RISING_SHARE && rise > fluctuation, rise, minutes, fluctuation }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0
}
