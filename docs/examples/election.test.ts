import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { followLeader, joinCluster } from './election.ts'

describe('example: a cluster that elects its scheduler', () => {
  it('one schedules, all know where, and another goes on when it leaves', async () => {
    const store = new MemoryStore()
    const managers = ['a', 'b', 'proxy'].map(() => new Manager({ client: memoryClient({ store }) }))
    const [ofA, ofB, ofProxy] = managers as [Manager, Manager, Manager]
    const log: string[] = []
    const schedule =
      (name: string) =>
      async (signal: AbortSignal): Promise<void> => {
        log.push(`${name} begins`)
        signal.addEventListener('abort', () => log.push(`${name} ends`))
      }

    const routes: (string | undefined)[] = []
    const end = new AbortController()
    const following = followLeader(ofProxy, (address) => routes.push(address), end.signal).catch(() => {})
    const a = await joinCluster(ofA, 'http://10.0.0.1', schedule('a'))
    const b = await joinCluster(ofB, 'http://10.0.0.2', schedule('b'))
    expect([a.value(), b.value()]).to.deep.equal(['http://10.0.0.1', 'http://10.0.0.1'])
    await a.stop()
    while (!b.isSelected() || routes.at(-1) !== 'http://10.0.0.2') await new Promise((resolve) => setImmediate(resolve))
    await b.stop()
    end.abort()
    await following
    expect(log).to.deep.equal(['a begins', 'a ends', 'b begins', 'b ends'])
    expect(routes.filter((address) => address !== undefined)).to.deep.equal(['http://10.0.0.1', 'http://10.0.0.2'])
    for (const manager of managers) await manager.stop()
  })
})
