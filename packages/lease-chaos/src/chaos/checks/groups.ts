/** C8: permits, locks, leaders and jobs. What their holders rely on is checked with that of leases. */
import { MAX_CAPACITY } from 'lease-core'
import { crowds, misorderedShares, repeatedRuns } from '../../checker.ts'
import { ELECTION, JOBS, LOCK, SEMAPHORES, type ChaosEvent } from '../event.ts'
import type { Facts, Violation } from './facts.ts'

const CAPACITIES: Readonly<Record<string, number>> = { ...SEMAPHORES, [LOCK]: MAX_CAPACITY }

export function checkGroups({ windows, history: { events } }: Facts): Violation[] {
  const shares = Object.entries(CAPACITIES).flatMap(([lease, capacity]) => {
    const own = windows.filter((window) => window.lease === lease)
    const atMs = own[0]?.fromMs ?? 0
    const found = (what: string): Violation => ({ check: 'C8', lease, atMs, what })
    return [
      ...crowds(own, capacity).map((what) => {
        const [taken, at] = what.split(' at ')
        return { ...found(`${taken} of ${capacity} were relied on`), atMs: Number(at) }
      }),
      ...misorderedShares(own, capacity).map(found),
    ]
  })
  const runs = JOBS.flatMap((job) => {
    const reports = events.filter(({ lease }) => lease === job)
    return repeatedRuns(reports, { retry: job === 'job-retry' }).map((what): Violation => {
      return { check: 'C8', lease: job, atMs: reports[0]?.atMs ?? 0, what: what.slice(job.length + 2) }
    })
  })
  return [...shares, ...runs, ...unpaired(events)]
}

/** Selections of a node that do not alternate with losses. */
function unpaired(events: readonly ChaosEvent[]): Violation[] {
  const last = new Map<string, string>()
  return events.flatMap(({ what, worker, atMs }) => {
    if (what !== 'selected' && what !== 'deselected') return []
    const before = last.get(worker) ?? 'deselected'
    last.set(worker, what)
    return what === before ? [{ check: 'C8', lease: ELECTION, atMs, what: `${worker} was ${what} twice in a row` }] : []
  })
}
