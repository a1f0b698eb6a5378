/** A program that stands, works, and closes; nothing but the authority could keep it alive. Its manager is not stopped. */
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { Authority } from '#src/authority.ts'

const store = new MemoryStore()
const [a, b] = ['a', 'b'].map(
  (holder) =>
    new Authority({
      manager: new Manager({ client: memoryClient({ store }) }),
      lease: 'l',
      holder,
      ttl: { hours: 1 },
      heartbeatInterval: { minutes: 30 },
    }),
) as [Authority, Authority]
const acquired = (await a.ready()) && !(await b.ready())
await a.heartbeat()
void a.heartbeat()
await Promise.all([a.close(), b.close()])
process.stdout.write(acquired ? 'held and closed\n' : 'not held\n')
