/** C7: nothing goes wrong unseen, a closed process ends by itself with the descriptors that it had, and nothing grows. */
import { groupedBy } from '../../checker.ts'
import { RUN, type ChaosEvent, type Usage } from '../event.ts'
import { isStuck } from './liveness.ts'
import type { Facts, Violation } from './facts.ts'

/** Fewer measurements of a worker than this show no trend: there is one a second. */
const LEAST_MEASUREMENTS = 120
/** What a quarter may have above the quarter after the start. */
const GROWTH: Readonly<Record<keyof Usage, (before: number) => number>> = {
  heapBytes: (before) => 1.5 * before + 32 * 2 ** 20,
  descriptors: (before) => before + 20,
  timers: (before) => 2 * before + 100,
  listeners: (before) => 2 * before + 50,
}

export function checkLeftovers({ history: { events } }: Facts): Violation[] {
  return [...events.flatMap(mishap), ...growths(events)]
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
  if (what === 'answered' && event.outcome === 'failed') return found(`${worker}: ${event.operation} threw ${detail}`)
  if (what === 'closed' && event.left !== undefined && event.left.length > 0) {
    return found(`${worker} closed everything and has more descriptors than at its start: ${event.left.join(', ')}`)
  }
  return []
}

/** The last quarter of a worker's life against the second one: the first one is still filling caches. */
function growths(events: readonly ChaosEvent[]): Violation[] {
  const measured = groupedBy(
    events.filter(({ what }) => what === 'usage'),
    ({ worker }) => worker,
  )
  return [...measured].flatMap(([worker, all]) => {
    if (all.length < LEAST_MEASUREMENTS) return []
    const quarter = Math.floor(all.length / 4)
    return (Object.keys(GROWTH) as (keyof Usage)[]).flatMap((of) => {
      const before = median(all.slice(quarter, 2 * quarter), of)
      const after = median(all.slice(-quarter), of)
      if (after <= GROWTH[of](before)) return []
      const what = `${worker} grows: ${of} from ${before} to ${after}`
      return [{ check: 'C7', lease: worker, atMs: all.at(-1)?.atMs ?? 0, what }]
    })
  })
}

function median(events: readonly ChaosEvent[], of: keyof Usage): number {
  const all = events.map(({ usage }) => usage?.[of] ?? 0).toSorted((a, b) => a - b)
  return all[Math.floor(all.length / 2)] ?? 0
}
