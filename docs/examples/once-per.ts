/** A report that is sent once a day, or once a week, by whichever process comes first. */
import type { Manager } from 'lease-core'
import { OncePer } from 'lease-recipes'

/** One for each process; all of them name the same jobs. */
export function jobs(manager: Manager): OncePer {
  return new OncePer({ manager, atMost: { minutes: 1 }, atLeast: { days: 7 } })
}

export type Send = (slot: string, signal: AbortSignal, fencingToken: bigint) => Promise<void>

/** Comes for one day; tells who sent the report. */
export async function sendDaily(once: OncePer, day: Date, send: Send): Promise<string> {
  const outcome = await once.run('report', day, ({ slot, signal, fencingToken }) => send(slot, signal, fencingToken))

  return outcome.ran ? 'sent' : `${outcome.reason} by ${outcome.by}`
}

/** A period that has no fire time: a string that sorts. If the process that sends dies, another one that came takes over. */
export async function sendWeekly(once: OncePer, week: `${number}-W${number}`, send: Send): Promise<boolean> {
  const outcome = await once.run('weekly', week, ({ slot, signal, fencingToken }) => send(slot, signal, fencingToken), {
    retry: true,
  })

  return outcome.ran
}

/** What a process does that was down: it comes for all that may have been missed. What has run is skipped. */
export async function catchUp(once: OncePer, days: readonly Date[], send: Send): Promise<void> {
  const last = await once.last('report') // { slot, by, done }
  const missed = days.filter((day) => last === undefined || day.toISOString() > last.slot)

  for (const day of missed) await sendDaily(once, day, send) // the oldest first
}
