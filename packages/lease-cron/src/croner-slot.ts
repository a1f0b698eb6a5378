/** The slots of croner (10 or later). */
import { notValid } from 'lease-core'

/** A `Cron` of croner, as far as it matters here. */
export interface CronerJob {
  readonly options?: { readonly interval?: number | undefined } | undefined
  currentRun(): Date | null
  previousRuns(n: number, reference: Date): Date[]
}

/**
 * Returns the slot of a job: the last fire time of its pattern that was due when it was last triggered; before the first time, the last
 * one that is due now. The clocks and timers of processes are late by different amounts, this time is the same in all of them.
 *
 * @throws ErrNotValid the job has an `interval`, which each process counts from its own start; or no fire time was due yet
 */
export function cronerSlot(job: CronerJob): Date {
  const interval = job.options?.interval
  if (interval !== undefined && interval > 0) {
    throw notValid([
      { argument: 'job', rule: 'must have no interval: it has no fire times in common', value: interval },
    ])
  }
  const at = job.currentRun() ?? new Date()
  // Fire times are whole seconds. Whether one in the second of the reference counts as previous depends on the version of croner.
  const [slot] = job.previousRuns(1, new Date((Math.floor(at.getTime() / 1000) + 1) * 1000))
  if (slot === undefined) throw notValid([{ argument: 'job', rule: 'must have been due before', value: at }])
  return slot
}
