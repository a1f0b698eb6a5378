import { expect } from 'chai'
import { ErrLost, Manager, memoryClient, MemoryStore, type Token } from 'lease-core'
import { track } from 'lease-core/testing'
import { importFeed } from './authority.ts'

describe('example: an import by one process at a time', () => {
  let managers: [Manager, Manager]
  const written: string[] = []

  beforeEach(() => {
    const store = new MemoryStore()
    managers = [new Manager({ client: memoryClient({ store }) }), new Manager({ client: memoryClient({ store }) })]
    written.length = 0
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  async function* feed(name: string, ready?: Promise<void>): AsyncGenerator<string> {
    yield `${name} 1`
    await ready
    yield `${name} 2`
  }

  const write = async (row: string, token: Token): Promise<void> => {
    await token.check()
    written.push(row)
  }

  it('one imports, the next goes on when it is done', async () => {
    let goOn = (): void => {}
    const first = importFeed(managers[0], feed('a', new Promise((resolve) => (goOn = resolve))), write)
    while (written.length === 0) await new Promise((resolve) => setImmediate(resolve))
    const second = importFeed(managers[1], feed('b'), write)
    goOn()
    await Promise.all([first, second])
    expect(written).to.deep.equal(['a 1', 'a 2', 'b 1', 'b 2'])
  })

  it('who lost it writes no more', async () => {
    let goOn = (): void => {}
    const first = track(importFeed(managers[0], feed('a', new Promise((resolve) => (goOn = resolve))), write))
    while (written.length === 0) await new Promise((resolve) => setImmediate(resolve))
    await managers[1].revoke('import')
    while ((await managers[1].leases()).size === 0) await new Promise((resolve) => setImmediate(resolve))
    goOn()
    const error: unknown = await first.promise.catch((thrown: unknown) => thrown)
    expect(error).to.be.instanceOf(ErrLost)
    expect(written).to.deep.equal(['a 1'])
  })
})
