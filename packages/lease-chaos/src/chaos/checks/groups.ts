/** C8: permits, locks, leaders and jobs. What their holders rely on is checked with that of leases. */
import { MAX_CAPACITY } from 'lease-core'
import { crowdsIn, groupedBy, misorderedSharesIn, repeatedRunsIn, type Conflict, type Window } from '../../checker.ts'
import { ELECTION, JOBS, LOCK, SEMAPHORES, type ChaosEvent } from '../event.ts'
import type { Facts, Violation } from './facts.ts'

const CAPACITIES: Readonly<Record<string, number>> = { ...SEMAPHORES, [LOCK]: MAX_CAPACITY }

export function checkGroups({ windows, history: { events } }: Facts): Violation[] {
  const shares = Object.entries(CAPACITIES).flatMap(([lease, capacity]) => {
    const own = windows.filter((window) => window.lease === lease)
    return [
      ...crowdsIn(own, capacity).map(({ active, atMs }) => {
        return { check: 'C8', lease, atMs, what: `${active} of ${capacity} were relied on` }
      }),
      ...misorderedSharesIn(own, capacity).map(inGroup),
      ...twins(lease, own),
    ]
  })
  const runs = JOBS.flatMap((job) => {
    const reports = events.filter(({ lease }) => lease === job)
    return repeatedRunsIn(reports, { retry: job === 'job-retry' }).map(inGroup)
  })
  return [...shares, ...runs, ...unpaired(events)]
}

function inGroup(conflict: Conflict): Violation {
  return { check: 'C8', ...conflict }
}

/** Shares with one fencing token. */
function twins(lease: string, windows: readonly Window[]): Violation[] {
  return [...groupedBy(windows, ({ token }) => token)].flatMap(([token, [, second]]) => {
    if (second === undefined) return []
    return [{ check: 'C8', lease, atMs: second.fromMs, what: `two shares have token ${token}`, tokens: [token] }]
  })
}

/** Selections of a node that do not alternate with losses. */
function unpaired(events: readonly ChaosEvent[]): Violation[] {
  const last = new Map<string, string>()
  return events.flatMap(({ what, worker, atMs }) => {
    if (what !== 'selected' && what !== 'deselected') return []
    const before = last.get(worker) ?? 'deselected'
    last.set(worker, what)
    if (what !== before) return []
    return [{ check: 'C8', lease: ELECTION, atMs, what: `${worker} was ${what} twice in a row`, tokens: [] }]
  })
}
