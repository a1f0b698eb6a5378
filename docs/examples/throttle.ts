/** All servers together send no more mails per minute than the provider accepts. */
import type { Manager } from 'lease-core'
import { Throttle } from 'lease-recipes'

/** The same on every server. */
export function mailsPerMinute(manager: Manager, n: number): Throttle {
  return new Throttle({ manager, name: 'mails', n, period: { minutes: 1 } })
}

/** Waits for its turn, then sends. */
export async function sendMail(throttle: Throttle, send: () => Promise<void>, stop: AbortSignal): Promise<void> {
  await throttle.start({ signal: stop })
  await send()
}

/** Sends now, or returns false. */
export async function trySendMail(throttle: Throttle, send: () => Promise<void>): Promise<boolean> {
  if (!(await throttle.tryStart())) return false
  await send()
  return true
}
