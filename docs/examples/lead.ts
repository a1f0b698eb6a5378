/** Servers of which one sends the invoices that are due, for as long as it runs. */
import type { Manager, Token } from 'lease-core'
import { lead, type Candidate } from 'lease-recipes'

/** What there is to do, and how it is sent: `token.check(key)` in the same transaction keeps a late one out. */
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
  candidate.on('error', warn) // it is tried again
  return candidate
}

/** At the end of the process: the invoice in hand is sent, and then the next server goes on. */
export async function shutDown(candidate: Candidate, manager: Manager): Promise<void> {
  await candidate.stop() // at the latest after 15 seconds, the `duration`
  if (candidate.isWorking) console.warn('the work has not ended: the next leader may begin beside it')
  await manager.stop()
}
