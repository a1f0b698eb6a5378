import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { catalogueLock, rebuild, search } from './read-write-lock.ts'

describe('example: a catalogue that is read by many and rebuilt by one', () => {
  it('is never read while it is rebuilt', async () => {
    const store = new MemoryStore()
    const managers = [1, 2].map(() => new Manager({ client: memoryClient({ store }) }))
    const locks = managers.map((manager) => catalogueLock(manager))
    let version = 1
    let whole = true
    let together = 0
    let most = 0
    const tokens: bigint[] = []
    const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
    const find = async (): Promise<string> => {
      most = Math.max(most, ++together)
      await turn()
      together--
      return whole ? `version ${version}` : 'a ruin'
    }
    const write = async (signal: AbortSignal, fencingToken: bigint): Promise<void> => {
      tokens.push(fencingToken)
      whole = false
      await turn()
      signal.throwIfAborted()
      version++
      whole = true
    }
    const searches: Promise<string>[] = []
    for (const round of [1, 2, 3]) {
      for (const [server, lock] of locks.entries()) {
        for (const request of ['a', 'b', 'c']) searches.push(search(lock, `${request}-${server}-${round}`, find))
        await rebuild(lock, `server-${server}`, write)
      }
    }
    const found = await Promise.all(searches)
    expect(found).not.to.include('a ruin')
    expect([version, most > 1]).to.deep.equal([7, true])
    expect(tokens).to.deep.equal(tokens.toSorted((a, b) => Number(a - b)))
    for (const lock of locks) await lock.stop()
    for (const manager of managers) await manager.stop()
  })
})
