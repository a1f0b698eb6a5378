/**
 * C5: when the faults are over, every worker succeeds again with every operation, and everything that was called has an outcome. The run
 * waits for that, for as long as `patience`: the check says only that it was waited for in vain.
 */
import { groupedBy } from '../../checker.ts'
import { RUN, type ChaosEvent } from '../event.ts'
import { phaseAtMs } from '../history.ts'
import type { Facts, Violation } from './facts.ts'

export function checkLiveness({ history, calls }: Facts): Violation[] {
  const quietMs = phaseAtMs(history, 'quiet')
  const endMs = phaseAtMs(history, 'end')
  if (quietMs === undefined || endMs === undefined) return []
  const gaveUp = history.events.find(
    ({ worker, what, detail }) => worker === RUN && what === 'phase' && detail === 'impatient',
  )
  if (gaveUp === undefined) return []
  const gone = new Set(
    history.events.flatMap(({ what, lease, atMs }) => (what === 'gone' && atMs < endMs ? lease : [])),
  )
  const tried = calls.filter(({ worker, sentMs }) => sentMs >= quietMs && !gone.has(worker))
  const failures = [...groupedBy(tried, ({ worker, operation }) => `${worker} ${operation}`).values()]
    .filter((all) => !all.some(({ outcome }) => outcome === 'granted'))
    .map((all): Violation => {
      const [{ worker, operation }] = all as [(typeof all)[number]]
      const outcomes = [...new Set(all.map(({ outcome, detail }) => `${outcome} ${detail}`.trim()))].slice(0, 3)
      const what = `${operation} never succeeded after the faults, in ${all.length} calls: ${outcomes.join(', ')}`
      return { check: 'C5', lease: worker, atMs: gaveUp.atMs, what }
    })
  return failures
}

/** Calls that their worker had in flight when the run gave up waiting for its end. */
export function checkPending({ history: { events }, calls }: Facts): Violation[] {
  const stuck = new Set(events.flatMap((event) => (isStuck(event) ? (event.lease ?? '') : [])))
  return calls
    .filter(({ worker, answeredMs }) => stuck.has(worker) && answeredMs === Number.POSITIVE_INFINITY)
    .map(({ worker, operation, lease, sentMs }) => {
      const what = `${worker}: a call of ${operation} was still without outcome at the end`
      return { check: 'C5', lease: lease === '' ? worker : lease, atMs: sentMs, what }
    })
}

/** The run ended the worker, because it did not end by itself. */
export function isStuck({ worker, what, detail }: ChaosEvent): boolean {
  return worker === RUN && what === 'gone' && detail === 'stuck'
}
