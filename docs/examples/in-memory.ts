/** The quick start without a server: leases in the memory of one process. */
import { Manager, memoryClient, MemoryGuard, uniqueHolder } from 'lease-core'

export async function withdrawInMemory(accounts: Map<number, number>): Promise<void> {
  const client = memoryClient()
  const manager = new Manager({ client })

  const worker = uniqueHolder('billing') // the name of this caller: two callers with one name are one holder
  const token = await manager.claim('account-42', worker, { seconds: 30 })
  const guard = new MemoryGuard(() => accounts.set(42, (accounts.get(42) ?? 0) - 10))
  await token.check(guard) // runs the function only while worker holds it
  await manager.release('account-42', worker)

  await manager.stop()
  await client.close()
}
