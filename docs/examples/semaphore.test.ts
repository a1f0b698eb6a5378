import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import type { Semaphores } from 'lease-recipes'
import { openPrinters, printReport, tryPrinter } from './semaphore.ts'

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
    for (const semaphores of servers) await semaphores.stop()
    for (const manager of managers) await manager.stop()
  })
})
