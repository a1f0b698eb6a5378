import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore, uniqueHolder } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import {
  FailOpenLock,
  holdAll,
  Once,
  ReadWriteLock,
  Semaphores,
  Throttle,
  using,
  webLocks,
  withLease,
} from 'lease-recipes'

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

  it('work in one call, several leases and idempotent work take them, and end with their reason', async () => {
    const clock = new TestClock()
    const manager = new Manager({ client: memoryClient({ store: new MemoryStore({ clock }), clock }), clock })
    const foreign = new ForeignSignal()
    const signal = foreign as unknown as AbortSignal
    const options = { duration: 30_000, clock, wait: true, signal }
    const once = new Once({ manager, clock })
    const begin = (): readonly Promise<unknown>[] => [
      withLease(manager, 'db', { duration: 30_000, wait: true, signal }, () => 'done'),
      holdAll(manager, ['a', 'db'], uniqueHolder(), options),
      once.run('db', () => 'done', { wait: true, signal }),
      webLocks(manager).request('db', { signal }, () => 'done'),
    ]
    const rival = await manager.hold('db', 'rival', { duration: 30_000 })
    const inside = track(webLocks(manager).request('db', () => new Promise(() => {})))
    const work = new AbortController()
    const running = track(
      once.run('db', () => new Promise((resolve) => work.signal.addEventListener('abort', resolve))),
    )
    await clock.settle()
    const warnings: unknown[] = []
    const onWarning = (warning: unknown): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const calls = Array.from({ length: 20 }, begin).flat()
    const waits = calls.map((call) => track(call))
    await clock.settle()
    expect(new Set(waits.map(({ state }) => state))).to.deep.equal(new Set(['pending']))
    const reason = new Error('enough')
    foreign.abort(reason)
    await clock.settle()
    for (const late of begin()) waits.push(track(late))
    await clock.settle()
    expect(new Set(waits.map(({ error }) => error))).to.deep.equal(new Set([reason]))
    expect([...(await manager.leases()).keys()].map((name) => name.split('#')[0])).to.have.members([
      'db',
      'once/db',
      'weblocks/db',
    ])
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning)
    expect(warnings).to.deep.equal([])
    work.abort()
    await running.promise
    await rival.release()
    await manager.stop()
    await inside.promise.catch(() => {})
  })

  it('a reason that could be awaited is passed on as it is', async () => {
    const clock = new TestClock()
    const manager = new Manager({ client: memoryClient({ store: new MemoryStore({ clock }), clock }), clock })
    const semaphores = new Semaphores({ manager, clock })
    const readWrite = new ReadWriteLock({ manager, clock, name: 'rw' })
    const throttle = new Throttle({ manager, name: 'mails', n: 1, period: 30_000 })
    await semaphores.post('pool', 'a', 30_000, { n: 1 })
    await readWrite.wlock('a')
    await throttle.start()
    const abort = new AbortController()
    const { signal } = abort
    const waits = [
      track<unknown>(semaphores.post('pool', 'b', 30_000, { n: 1, signal })),
      track<unknown>(readWrite.wlock('b', { signal })),
      track<unknown>(throttle.start({ signal })),
    ]
    await clock.settle()
    const reason = Promise.resolve('another')
    abort.abort(reason)
    await clock.settle()
    expect(waits.map(({ error }) => error === reason)).to.deep.equal([true, true, true])
    await manager.stop()
  })

  it('a signal that many calls share causes no warning', async () => {
    const clock = new TestClock()
    const manager = new Manager({ client: memoryClient({ store: new MemoryStore({ clock }), clock }), clock })
    const warnings: unknown[] = []
    const onWarning = (warning: unknown): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const { signal } = new AbortController()
    const options = { duration: 30_000, signal }
    const once = new Once({ manager, clock })
    await withLease(manager, 'db', options, () =>
      Promise.all(
        Array.from({ length: 30 }, async (_, index) => {
          await withLease(manager, 'db', options, () => clock.settle())
          await using(await holdAll(manager, [`a${index}`, `b${index}`], 'me', { ...options, clock }), () => {})
          await once.run(`key ${index}`, () => {}, { signal })
        }),
      ),
    )
    const names = Array.from({ length: 30 }, (_, index) => `c${index}`)
    await using(await holdAll(manager, names, 'me', options), () => {})
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning)
    expect(warnings).to.deep.equal([])
    await manager.stop()
  })
})
