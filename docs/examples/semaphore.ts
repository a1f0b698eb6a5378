/** A printer farm that prints three reports at once, however many servers ask for one. */
import { ErrClaimDenied, type Manager } from 'lease-core'
import { Semaphores } from 'lease-recipes'

/** The semaphores of this server; once `printers` is made, it is the same for everyone. */
export async function openPrinters(manager: Manager): Promise<Semaphores> {
  const semaphores = new Semaphores({ manager })
  await semaphores.create('printers', 3)
  return semaphores
}

/** Prints when it is this report's turn; the print stops when the permit is lost. */
export async function printReport(
  semaphores: Semaphores,
  report: string,
  print: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  await using permit = await semaphores.post('printers', report, { minutes: 1 }, { keepAlive: true })
  await print(permit.signal)
}

/** How busy they are, and whether there is a place right now. */
export async function tryPrinter(semaphores: Semaphores, report: string): Promise<string> {
  try {
    await semaphores.post('printers', report, { seconds: 30 }, { retries: 0 })
    return 'printing'
  } catch (error) {
    if (!(error instanceof ErrClaimDenied)) throw error
    const { n, active } = await semaphores.read('printers')
    return `${active} of ${n} are busy`
  }
}
