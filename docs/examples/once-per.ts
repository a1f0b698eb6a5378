/** A report that is sent once a day or once a week, by the first process that asks. */
import type { Manager } from 'lease-core'
import { OncePer } from 'lease-recipes'

/** One per process, with the same options in every process. */
export function jobs(manager: Manager): OncePer {
  return new OncePer({ manager, atMost: { minutes: 1 }, atLeast: { days: 7 } })
}

export type Send = (slot: string, signal: AbortSignal, fencingToken: bigint) => Promise<void>

/** Sends the report of one day, unless it was sent. Returns which process sent it. */
export async function sendDaily(once: OncePer, day: Date, send: Send): Promise<string> {
  const outcome = await once.run('report', day, ({ slot, signal, fencingToken }) => send(slot, signal, fencingToken))

  return outcome.ran ? 'sent' : `${outcome.reason} by ${outcome.by}`
}

/** A period without a fire time: a string that sorts. If the sending process dies, another process that asked takes over. */
export async function sendWeekly(once: OncePer, week: `${number}-W${number}`, send: Send): Promise<boolean> {
  const outcome = await once.run('weekly', week, ({ slot, signal, fencingToken }) => send(slot, signal, fencingToken), {
    retry: true,
  })

  return outcome.ran
}

/** After an outage: runs every slot since the last one that ran. */
export async function catchUp(once: OncePer, days: readonly Date[], send: Send): Promise<void> {
  const last = await once.last('report') // { slot, by, done }
  const missed = days.filter((day) => last === undefined || day.toISOString() > last.slot)

  for (const day of missed) await sendDaily(once, day, send) // the oldest first
}
