/** A printer farm prints at most three reports at once, for any number of servers. */
import type { Manager } from 'lease-core'
import { Semaphores } from 'lease-recipes'

/** The semaphores of this server. Every server creates `printers`: the first call creates it, later calls find it. */
export async function openPrinters(manager: Manager): Promise<Semaphores> {
  const semaphores = new Semaphores({ manager })
  await semaphores.create('printers', 3)
  return semaphores
}

/** Waits for a permit, then prints. Printing stops when the permit is lost. */
export async function printReport(
  semaphores: Semaphores,
  report: string,
  print: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  await using permit = await semaphores.post('printers', report, { minutes: 1 }, { keepAlive: true })
  await print(permit.signal)
}

/** A single try; if all permits are taken, says how many. */
export async function tryPrinter(semaphores: Semaphores, report: string): Promise<string> {
  const permit = await semaphores.tryPost('printers', report, { seconds: 30 })
  if (permit !== undefined) return 'printing'
  const { n, active } = await semaphores.read('printers')
  return `${active} of ${n} are busy`
}

/** Works when this much memory is free, of the 64 GB that all servers share. */
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
