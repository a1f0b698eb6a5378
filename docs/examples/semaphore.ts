/** A printer farm that prints three reports at once, however many servers ask for one. */
import type { Manager } from 'lease-core'
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
  const permit = await semaphores.tryPost('printers', report, { seconds: 30 })
  if (permit !== undefined) return 'printing'
  const { n, active } = await semaphores.read('printers')
  return `${active} of ${n} are busy`
}

/** Works when there is so much memory left of the 64 GB that all servers share. */
export async function withMemory(
  semaphores: Semaphores,
  job: string,
  gigabytes: number,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const options = { n: 64, permits: gigabytes, keepAlive: true }
  await using permit = await semaphores.post('memory', job, { minutes: 1 }, options)
  await work(permit.signal)
}
