import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { rebuild, reload, type SearchIndex } from './with-lease.ts'

describe('example: a search index that one process at a time changes', () => {
  let managers: readonly [Manager, Manager]
  let steps: string[]

  beforeEach(() => {
    const store = new MemoryStore()
    managers = [new Manager({ client: memoryClient({ store }) }), new Manager({ client: memoryClient({ store }) })]
    steps = []
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  function index(who: string): SearchIndex {
    const step = async (what: string): Promise<void> => {
      steps.push(`${who} begins to ${what}`)
      await new Promise((resolve) => setImmediate(resolve))
      steps.push(`${who} is done`)
    }
    return { load: () => step('load'), rebuild: () => step('rebuild') }
  }

  it('the inner function joins the outer one, and nobody comes between them', async () => {
    const [here, there] = managers
    const reloading = reload(here, index('a'))
    while (steps.length === 0) await new Promise((resolve) => setImmediate(resolve))
    await Promise.all([reloading, rebuild(there, index('b'))])
    expect(steps).to.deep.equal([
      'a begins to load',
      'a is done',
      'a begins to rebuild',
      'a is done',
      'b begins to rebuild',
      'b is done',
    ])
  })
})
