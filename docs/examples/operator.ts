/** What an operator asks and does, and what goes into the log of every process. */
import type { Manager } from 'lease-core'

/** Who holds the lease now, as a line for people. */
export async function whoHolds(manager: Manager, lease: string): Promise<string> {
  const info = await manager.find(lease) // undefined: nobody holds it
  return info === undefined ? 'nobody' : `${info.holder} until ${info.expiry.toISO()}, term ${info.fencingToken}`
}

/** Takes the lease away. A waiter is granted it at once. The former holder is notified, and its guards refuse from now on. */
export async function takeAway(manager: Manager, lease: string): Promise<void> {
  await manager.revoke(lease)
}

/** Writes what an operator should know into a log. Call it once, before the first claim. Returns how to end it. */
export function logLeases(manager: Manager, log: { info(line: string): void; warn(line: string): void }): () => void {
  return manager.events.subscribe((event) => {
    if (event.type === 'lost' || event.type === 'warning' || event.type === 'retrying') log.warn(JSON.stringify(event))
    else log.info(JSON.stringify(event))
  })
}
