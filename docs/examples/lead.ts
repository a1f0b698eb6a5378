/** One of several servers sends the invoices that are due, for as long as it runs. */
import type { Manager, Token } from 'lease-core'
import { lead, type Candidate } from 'lease-recipes'

/** The invoices that are due. `send` uses `token.check(key)` in its transaction, which rejects a former leader. */
export interface Invoices {
  next(signal: AbortSignal): Promise<string>
  send(invoice: string, token: Token): Promise<void>
}

/** Campaigns from now on, and sends invoices whenever this server leads. */
export function sendInvoices(manager: Manager, invoices: Invoices, warn: (error: unknown) => void): Candidate {
  const candidate = lead(manager, 'invoices', async ({ signal, token }) => {
    while (!signal.aborted) {
      const invoice = await invoices.next(signal)
      await invoices.send(invoice, token)
    }
  })
  candidate.on('error', warn) // the candidate campaigns again
  return candidate
}

/** At shutdown: the current invoice is sent, then the next server takes over. */
export async function shutDown(candidate: Candidate, manager: Manager): Promise<void> {
  await candidate.stop() // resolves within 15 seconds, the default `duration`
  if (candidate.isWorking) console.warn('the work has not ended: the next leader may begin beside it')
  await manager.stop()
}
