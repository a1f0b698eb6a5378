import { expect } from 'chai'
import { ErrNotValid, Manager, memoryClient } from 'lease-core'
import {
  Authority,
  election,
  FailClosedLock,
  FailOpenLock,
  FencingGate,
  holdAll,
  lead,
  MemoryFencingStore,
  Once,
  OncePer,
  ReadWriteLock,
  Semaphores,
  Throttle,
  using,
  webLocks,
  withLease,
} from 'lease-recipes'

/** Options that count how often each of them is read. */
function counting<O extends object>(options: O): { readonly options: O; readonly reads: Map<PropertyKey, number> } {
  const reads = new Map<PropertyKey, number>()
  const get = (target: O, name: PropertyKey): unknown => {
    reads.set(name, (reads.get(name) ?? 0) + 1)
    return Reflect.get(target, name)
  }
  return { options: new Proxy(options, { get }), reads }
}

describe('the options of recipes', () => {
  const manager = new Manager({ client: memoryClient() })
  const semaphores = new Semaphores({ manager })
  const readWriteLock = new ReadWriteLock({ manager, name: 'l' })
  const throttle = new Throttle({ manager, name: 'l', n: 100, period: 1_000 })
  const once = new Once({ manager })
  const oncePer = new OncePer({ manager })
  const open = new FailOpenLock({ manager, leaseDuration: 30_000 })
  const gate = new FencingGate({ store: new MemoryFencingStore() })
  after(async () => {
    for (const one of [semaphores, readWriteLock, open]) await one.stop()
    await manager.stop()
  })

  const duration = 30_000
  const signal = new AbortController().signal
  const work = async (): Promise<void> => {}
  const calls: Readonly<Record<string, readonly [options: object, call: (options: never) => unknown]>> = {
    Authority: [{ manager, lease: 'a', ttl: duration, value: 'v', holder: 'h' }, (options) => new Authority(options)],
    election: [{ manager }, (options) => election(options)],
    node: [{ path: 'e', value: 'v', id: 'i', ttl: duration }, (options) => election({ manager })(options)],
    FailOpenLock: [{ manager, leaseDuration: duration, owner: 'o', lockTable: 't' }, (of) => new FailOpenLock(of)],
    FailClosedLock: [{ manager, owner: 'o', lockTable: 't' }, (options) => new FailClosedLock(options)],
    'FailOpenLock.acquire': [{ wait: false, signal }, async (of) => (await open.acquire('x', of)).release()],
    'FailOpenLock.list': [{ signal }, (options) => open.list(options)],
    'FencingGate.admit': [{ signal }, (options) => gate.admit('r', { fencingToken: 1n, holder: 'h' }, options)],
    holdAll: [{ duration, wait: true, signal }, async (of) => (await holdAll(manager, ['a', 'b'], 'h', of)).release()],
    lead: [{ duration, holder: 'h', again: false, signal }, (options) => lead(manager, 'lead', work, options).stop()],
    Once: [{ manager, prefix: 'p', duration, keepResult: duration }, (options) => new Once(options)],
    'Once.run': [{ wait: true, signal }, (options) => once.run('k', work, options)],
    OncePer: [{ manager, prefix: 'p', atMost: duration, renew: true }, (options) => new OncePer(options)],
    'OncePer.run': [{ atMost: duration, renew: true, signal }, (options) => oncePer.run('j', 'slot', work, options)],
    ReadWriteLock: [{ manager, name: 'n', maxReaders: 3, duration }, (options) => new ReadWriteLock(options)],
    'ReadWriteLock.rlock': [{ wait: true, timeout: 5_000, signal }, (options) => readWriteLock.rlock('h', options)],
    Semaphores: [{ manager, prefix: 'p', minWaitTimeout: 5, maxWaitTimeout: 9 }, (options) => new Semaphores(options)],
    'Semaphores.post': [
      { permits: 1, n: 3, wait: true, keepAlive: true, signal },
      (options) => semaphores.post('s', 'h', duration, options),
    ],
    Throttle: [{ manager, name: 'n', n: 5, period: 1_000 }, (options) => new Throttle(options)],
    'Throttle.start': [{ wait: true, signal }, (options) => throttle.start(options)],
    using: [{ signal }, async (options) => using(await manager.hold('u', 'h', { duration }), work, options)],
    webLocks: [{ duration, prefix: 'w' }, (options) => webLocks(manager, options)],
    'webLocks.request': [{ mode: 'shared', signal }, (options) => webLocks(manager).request('r', options, work)],
    withLease: [{ duration, wait: true, holder: 'h', signal }, (options) => withLease(manager, 'w', options, work)],
  }

  for (const [name, [given, call]] of Object.entries(calls)) {
    it(`${name} reads each of its options once`, async () => {
      const { options, reads } = counting(given)
      await call(options as never)
      expect(Object.fromEntries(reads)).to.deep.include(Object.fromEntries(Object.keys(given).map((key) => [key, 1])))
    })

    it(`${name} names options that throw when they are read`, async () => {
      const options = new Proxy(given, { get: () => expect.fail('the getter') })
      const error: unknown = await (async () => call(options as never))().catch((thrown: unknown) => thrown)
      expect(error).to.be.instanceOf(ErrNotValid)
      expect((error as ErrNotValid).message).to.match(/^options must be readable/)
    })
  }
})
