import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import type { Semaphores } from 'lease-recipes'
import { openPrinters, printReport, tryPrinter, withMemory } from './semaphore.ts'

describe('example: three printers', () => {
  it('prints three reports at once, and all of them', async () => {
    const store = new MemoryStore()
    const managers = [1, 2].map(() => new Manager({ client: memoryClient({ store }) }))
    const servers = await Promise.all(managers.map((manager) => openPrinters(manager)))
    const [first, second] = servers as [Semaphores, Semaphores]
    let printing = 0
    let most = 0
    let printed = 0
    const print = async (signal: AbortSignal): Promise<void> => {
      most = Math.max(most, ++printing)
      for (let page = 0; page < 3; page++) await new Promise((resolve) => setImmediate(resolve))
      signal.throwIfAborted()
      printing--
      printed++
    }
    const reports = Array.from({ length: 12 }, (_, index) => `report-${index}`)
    await Promise.all(reports.map((report, index) => printReport(index % 2 === 0 ? first : second, report, print)))
    expect([most, printed]).to.deep.equal([3, 12])

    const answers = []
    for (const report of reports.slice(0, 4)) answers.push(await tryPrinter(first, report))
    expect(answers).to.deep.equal(['printing', 'printing', 'printing', '3 of 3 are busy'])

    let taken = 0
    let mostTaken = 0
    const jobs = [60, 8, 8, 40, 24, 16].map((gigabytes, index) =>
      withMemory(index % 2 === 0 ? first : second, `job-${index}`, gigabytes, async () => {
        mostTaken = Math.max(mostTaken, (taken += gigabytes))
        await new Promise((resolve) => setImmediate(resolve))
        taken -= gigabytes
      }),
    )
    await Promise.all(jobs)
    expect([taken, mostTaken]).to.satisfy(([left = 0, most = 0]) => left === 0 && most >= 60 && most <= 64)
    for (const semaphores of servers) await semaphores.stop()
    for (const manager of managers) await manager.stop()
  })
})
