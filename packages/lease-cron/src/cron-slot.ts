/** The slots of cron (4 or later), and so of @nestjs/schedule. */
import { notValid } from 'lease-core'

/** A `CronJob` of cron, as far as it matters here. */
export interface CronJobLike {
  readonly cronTime: {
    readonly source: unknown
    /** Whether the source is one time, and no pattern. */
    readonly realDate: boolean
    /** The first fire time after the second of `start`. */
    getNextDateFrom(start: Date, timeZone?: string): { toMillis(): number }
  }
  lastDate(): Date | null
  nextDate(): { readonly zoneName: string | null }
}

const SECOND_MS = 1000
/** As far as cron itself looks. */
const MAX_SPAN_MS = 8 * 366 * 86_400_000

/**
 * Returns the slot of a job: the last fire time of its pattern that was due when it last ticked; before the first tick, the last one that
 * is due now. The clocks and timers of processes are late by different amounts, this time is the same in all of them.
 *
 * @throws ErrNotValid no fire time was due yet
 */
export function cronSlot(job: CronJobLike): Date {
  const { cronTime } = job
  if (cronTime.realDate) return new Date(Number(cronTime.source))
  const atMs = (job.lastDate() ?? new Date()).getTime()
  const zone = job.nextDate().zoneName ?? undefined
  const after = (ms: number): number => cronTime.getNextDateFrom(new Date(ms), zone).toMillis()
  const isDueAfter = (ms: number): boolean => after(ms) <= atMs
  // cron looks forward only: go back in growing steps, then halve the last one down to a second, in which it fires once.
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
