/** A program with nodes that are stopped; nothing but these could keep it alive. Their managers are not stopped. */
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { election, type ElectionNode } from '#src/election.ts'

const store = new MemoryStore()
const [a, b] = ['a', 'b'].map((id) => {
  const locker = election({ manager: new Manager({ client: memoryClient({ store }) }) })
  return locker('/master', { id, value: `value of ${id}`, ttl: { hours: 1 } })
}) as [ElectionNode, ElectionNode]
const c = election({ manager: new Manager({ client: memoryClient({ store }) }) })('/master', { candidate: false })
await a.start()
await Promise.all([b.start(), c.start()])
const leader = c.id()
await a.resign()
await Promise.all([a.stop(), b.stop(), c.stop()])
process.stdout.write(`${leader} leads\n`)
