/** Slots of jobs of cron (4 or later), which are also the jobs of @nestjs/schedule. */
import { hasMethods, notValid } from 'lease-core'

/** The part of a `CronJob` of cron that is used here. */
export interface CronJobLike {
  readonly cronTime: {
    readonly source: unknown
    /** Whether the source is a single time, not a pattern. */
    readonly realDate: boolean
    /** The first fire time after the second that contains `start`. */
    getNextDateFrom(start: Date, timeZone?: string): { toMillis(): number }
  }
  lastDate(): Date | null
  nextDate(): { readonly zoneName: string | null }
}

const SECOND_MS = 1000
/** How far ahead cron itself searches. */
const MAX_SPAN_MS = 8 * 366 * 86_400_000

/**
 * Returns the slot of a job: the last fire time of its pattern at or before its last tick, or before the first tick, at or before now. This
 * time is the same in all processes, although their clocks and timers differ. If the job runs at a single time, that time is the slot.
 *
 * @throws ErrNotValid this is no job of cron; or no fire time was due in the last eight years
 */
export function cronSlot(job: CronJobLike): Date {
  if (!hasMethods(job, 'lastDate', 'nextDate') || !hasMethods(job.cronTime, 'getNextDateFrom')) {
    const rule = 'must be a CronJob of cron. In `onTick` of a job with a `context`, `this` is that context, not the job'
    throw notValid([{ argument: 'job', rule, value: job }])
  }
  const { cronTime } = job
  if (cronTime.realDate) return new Date(Number(cronTime.source))
  const atMs = (job.lastDate() ?? new Date()).getTime()
  const zone = job.nextDate().zoneName ?? undefined
  const after = (ms: number): number => cronTime.getNextDateFrom(new Date(ms), zone).toMillis()
  const isDueAfter = (ms: number): boolean => after(ms) <= atMs
  // cron searches forward only: go back in growing steps, then halve the last step down to one second, which has at most one fire time.
  let notAfterMs = atMs
  let spanMs = SECOND_MS
  while (!isDueAfter(atMs - spanMs)) {
    notAfterMs = atMs - spanMs
    spanMs *= 2
    if (spanMs > MAX_SPAN_MS) {
      throw notValid([{ argument: 'job', rule: 'must have been due in the last eight years', value: cronTime.source }])
    }
  }
  let dueAfterMs = atMs - spanMs
  while (notAfterMs - dueAfterMs > SECOND_MS) {
    const middleMs = Math.floor((dueAfterMs + notAfterMs) / 2)
    if (isDueAfter(middleMs)) dueAfterMs = middleMs
    else notAfterMs = middleMs
  }
  return new Date(after(dueAfterMs))
}
