/** Slots of jobs of croner (10 or later). */
import { hasMethods, notValid } from 'lease-core'

/** The part of a `Cron` of croner that is used here. */
export interface CronerJob {
  readonly options?: { readonly interval?: number | undefined } | undefined
  currentRun(): Date | null
  previousRuns(n: number, reference: Date): Date[]
}

/**
 * Returns the slot of a job: the last fire time of its pattern at or before its last trigger, or before the first trigger, at or before now.
 * This time is the same in all processes, although their clocks and timers differ.
 *
 * @throws ErrNotValid this is no job of croner; the job has an `interval`, which each process counts from its own start; or no fire time was due yet
 */
export function cronerSlot(job: CronerJob): Date {
  if (!hasMethods(job, 'currentRun', 'previousRuns')) {
    throw notValid([{ argument: 'job', rule: 'must be a Cron of croner, version 10 or later', value: job }])
  }
  const interval = job.options?.interval
  if (interval !== undefined && interval > 0) {
    throw notValid([
      { argument: 'job', rule: 'must have no interval: it has no fire times in common', value: interval },
    ])
  }
  const at = job.currentRun() ?? new Date()
  // Fire times are whole seconds. Versions of croner differ on whether a fire time in the second of the reference is a previous one.
  const [slot] = job.previousRuns(1, new Date((Math.floor(at.getTime() / 1000) + 1) * 1000))
  if (slot === undefined) throw notValid([{ argument: 'job', rule: 'must have been due before', value: at }])
  return slot
}
