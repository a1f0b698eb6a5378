import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { readDraft, refreshed, saveDraft, serverLocks } from './web-locks.ts'

describe('example: navigator.locks on servers', () => {
  it('refreshes one at a time, and does not save what somebody reads', async () => {
    const store = new MemoryStore()
    const managers = [1, 2].map(() => new Manager({ client: memoryClient({ store }) }))
    const [first, second] = managers.map((manager) => serverLocks(manager))
    if (first === undefined || second === undefined) throw new Error('two servers')
    let refreshing = 0
    let most = 0
    const refresh = async (): Promise<string> => {
      most = Math.max(most, ++refreshing)
      await new Promise((resolve) => setImmediate(resolve))
      refreshing--
      return 'token'
    }
    const tokens = await Promise.all([first, second, first, second].map((locks) => refreshed(locks, refresh)))
    expect([tokens, most]).to.deep.equal([['token', 'token', 'token', 'token'], 1])

    let saved = 0
    const save = async (): Promise<void> => void saved++
    const text = await readDraft(first, async () => {
      expect(await saveDraft(second, save)).to.equal(false)
      return readDraft(second, async () => 'both read')
    })
    expect([text, saved]).to.deep.equal(['both read', 0])
    expect([await saveDraft(second, save), saved]).to.deep.equal([true, 1])
    for (const manager of managers) await manager.stop()
  })
})
