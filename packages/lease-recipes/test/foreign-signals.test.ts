import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { FailOpenLock, ReadWriteLock, using } from 'lease-recipes'

/** As a polyfill's, and that of jsdom: no instance of Node's class, and without `throwIfAborted`. */
class ForeignSignal {
  aborted = false
  reason: unknown
  readonly #listeners = new Set<() => void>()

  addEventListener(_: string, listener: () => void): void {
    this.#listeners.add(listener)
  }

  removeEventListener(_: string, listener: () => void): void {
    this.#listeners.delete(listener)
  }

  abort(reason: unknown): void {
    Object.assign(this, { aborted: true, reason })
    for (const listener of [...this.#listeners]) listener()
  }
}

describe('Signals that are not those of Node', () => {
  it('recipes take those that the manager takes, and end with their reason', async () => {
    const clock = new TestClock()
    const manager = new Manager({ client: memoryClient({ store: new MemoryStore({ clock }), clock }), clock })
    const foreign = new ForeignSignal()
    const signal = foreign as unknown as AbortSignal
    const locks = new FailOpenLock({ manager, clock, leaseDuration: 30_000, heartbeatPeriod: 10_000 })
    const lock = await locks.acquireLock('db', { signal })
    const readWrite = new ReadWriteLock({ manager, clock, name: 'rw' })
    await readWrite.wlock('a', { signal })
    const working = new Error('the work')
    const work = track(using(lock, () => Promise.reject(working), { signal }))
    await clock.settle()
    expect(work.error).to.equal(working)
    await locks.acquireLock('db')
    const waits = [
      track<unknown>(locks.acquireLock('db', { signal, wait: true })),
      track<unknown>(readWrite.wlock('b', { signal })),
    ]
    await clock.settle()
    const reason = new Error('enough')
    foreign.abort(reason)
    await clock.settle()
    expect(waits.map(({ error }) => error)).to.deep.equal([reason, reason])
    for (const late of [() => locks.acquireLock('x', { signal }), () => readWrite.rlock('c', { signal })]) {
      expect(await late().catch((error: unknown) => error)).to.equal(reason)
    }
    await locks.close()
    await manager.stop()
  })
})
