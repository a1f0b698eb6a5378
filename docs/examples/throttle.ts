/** Mails of all servers together: no more than the provider takes in a minute. */
import type { Manager } from 'lease-core'
import { Throttle } from 'lease-recipes'

/** The same on every server. */
export function mailsPerMinute(manager: Manager, n: number): Throttle {
  return new Throttle({ manager, name: 'mails', n, period: { minutes: 1 } })
}

/** Sends it when it is its turn. */
export async function sendMail(throttle: Throttle, send: () => Promise<void>, stop: AbortSignal): Promise<void> {
  await throttle.start({ signal: stop })
  await send()
}

/** Sends it now, or says that it cannot. */
export async function trySendMail(throttle: Throttle, send: () => Promise<void>): Promise<boolean> {
  if (!(await throttle.tryStart())) return false
  await send()
  return true
}
