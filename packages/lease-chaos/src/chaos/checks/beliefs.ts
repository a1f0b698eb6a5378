/** C1: what two holders of one lease rely on for certain never overlaps. */
import { conflictsIn, groupedBy, type Window } from '../../checker.ts'
import { CLOSED_LOCK, ELECTION, isRevocable, JOBS, LOCK, SEMAPHORES } from '../event.ts'
import { PRECISION_MS, type Facts, type Violation } from './facts.ts'

/** What an operator takes away is left out: its holder may go on relying on it. */
export function checkBeliefs({ windows, history: { events } }: Facts): Violation[] {
  const cleared = groupedBy(
    events.filter(({ what }) => what === 'cleared'),
    ({ lease = '' }) => lease,
  )
  const isCleared = ({ lease, fromMs, toMs }: Window): boolean =>
    (cleared.get(lease) ?? []).some((event) => fromMs <= (event.sampledMs ?? event.atMs) && toMs >= event.atMs)
  const exclusive = windows.filter(
    (window) =>
      !isRevocable(window.lease) && !(window.lease in SEMAPHORES) && window.lease !== LOCK && !isCleared(window),
  )
  return conflictsIn(exclusive, PRECISION_MS).map((conflict) => ({ check: groupOf(conflict.lease), ...conflict }))
}

/** Locks, leaders and jobs are recipes. */
function groupOf(lease: string): string {
  const isRecipe = lease === CLOSED_LOCK || lease === ELECTION || JOBS.some((job) => job === lease)
  return isRecipe ? 'C8' : 'C1'
}
