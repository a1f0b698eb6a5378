import { expect } from 'chai'
import { ErrClaimDenied, ErrNotValid } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { memoryClient, MemoryStore } from '#src/memory/index.ts'
import { TestClock, track } from '#src/testing/index.ts'
import { Bench, rejection } from './manager.bench.ts'

type Listener = (event: { readonly type: string }) => void

/** As the globals of jsdom are: classes of its own, which Node does not know. */
class ForeignTarget {
  readonly listeners = new Set<Listener>()

  addEventListener(_: string, listener: Listener): void {
    this.listeners.add(listener)
  }

  removeEventListener(_: string, listener: Listener): void {
    this.listeners.delete(listener)
  }
}

class ForeignSignal extends ForeignTarget {
  aborted = false
  reason: unknown

  throwIfAborted(): void {
    if (this.aborted) throw this.reason
  }
}

class ForeignController {
  readonly signal = new ForeignSignal()

  abort(reason: unknown = new Error('aborted')): void {
    if (this.signal.aborted) return
    Object.assign(this.signal, { aborted: true, reason })
    for (const listener of [...this.signal.listeners]) listener({ type: 'abort' })
  }
}

async function withForeignGlobals(work: () => Promise<void>): Promise<void> {
  const { EventTarget, AbortSignal, AbortController } = globalThis
  Object.assign(globalThis, {
    EventTarget: ForeignTarget,
    AbortSignal: ForeignSignal,
    AbortController: ForeignController,
  })
  try {
    await work()
  } finally {
    Object.assign(globalThis, { EventTarget, AbortSignal, AbortController })
  }
}

/** A signal on which this fails. */
function broken(key: 'aborted' | 'addEventListener', { late = false } = {}): AbortSignal {
  let reads = 0
  return new Proxy(new AbortController().signal, {
    get(signal, name) {
      if (name === key && (!late || ++reads > 1)) throw new Error('it throws')
      const value: unknown = Reflect.get(signal, name)
      return typeof value === 'function' ? (value.bind(signal) as unknown) : value
    },
  })
}

/** One to which nobody can listen. */
function deaf(): AbortSignal {
  const { signal } = new AbortController()
  signal.addEventListener = () => {
    throw new Error('it throws')
  }
  return signal
}

describe('Abort signals of other platforms', () => {
  it('a manager works where the globals are not those of Node, and takes their signals', () =>
    withForeignGlobals(async () => {
      const clock = new TestClock()
      const store = new MemoryStore({ clock })
      const [one, two] = [1, 2].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
      const hold = await one?.hold('db', 'a', { duration: 30_000 })
      const [patience, impatience] = [new AbortController(), new AbortController()]
      const options = { duration: 30_000, wait: true }
      const waits = [patience, impatience].map(({ signal }, index) =>
        track(two?.hold('db', `w${index}`, { ...options, signal }) ?? expect.fail()),
      )
      await clock.advance(60_000)
      const reason = new Error('enough')
      impatience.abort(reason)
      await hold?.release()
      await clock.settle()
      expect([waits[0]?.state, waits[1]?.error, hold?.signal.aborted]).to.deep.equal(['fulfilled', reason, true])
      await two?.claim('mail', 'w', 1_000, { signal: patience.signal })
      await one?.stop()
      await two?.stop()
    }))

  it('a signal of Node is taken where the globals are not, and the other way round', async () => {
    const { signal } = new AbortController()
    const foreign = new ForeignController().signal as unknown as AbortSignal
    const bench = new Bench()
    await bench.manager.claim('db', 'a', 1_000, { signal: foreign })
    await bench.client.claimLease('mail', { holder: 'a', duration: 1_000 }, { signal: foreign })
    await withForeignGlobals(async () => {
      await bench.manager.claim('db', 'a', 1_000, { signal })
      await rejection(bench.manager.claim('db', 'b', 1_000, { signal }), ErrClaimDenied)
    })
    await bench.manager.stop()
  })
})

describe('Abort signals that cannot be used', () => {
  const signals = {
    'that cannot be read': () => broken('aborted'),
    'that cannot be read twice': () => broken('aborted', { late: true }),
    'without a method that can be read': () => broken('addEventListener'),
    'to which nobody can listen': () => deaf(),
  }
  const calls: Record<string, (bench: Bench, signal: AbortSignal) => Promise<unknown>> = {
    'Manager.claim': ({ manager }, signal) => manager.claim('db', 'a', 1_000, { signal }),
    'Manager.hold': ({ manager }, signal) => manager.hold('db', 'a', { duration: 1_000, signal }),
    'Manager.hold with wait': ({ manager }, signal) => manager.hold('db', 'a', { duration: 1_000, wait: true, signal }),
    'Manager.holdAny': ({ manager }, signal) => manager.holdAny(['db', 'mail'], 'a', { duration: 1_000, signal }),
    'Manager.waitUntilExpired': ({ manager }, signal) => manager.waitUntilExpired('db', { signal }),
    'Manager.release': ({ manager }, signal) => manager.release('db', 'a', { signal }),
    'Manager.revoke': ({ manager }, signal) => manager.revoke('db', { signal }),
    'Manager.pin': ({ manager }, signal) => manager.pin('db', 'a', { signal }),
    'Manager.find': ({ manager }, signal) => manager.find('db', { signal }),
    'Manager.observe': ({ manager }, signal) => manager.observe('db', { signal }).next(),
    'Client.claimLease': ({ client }, signal) => client.claimLease('db', { holder: 'a', duration: 1_000 }, { signal }),
    'Client.extendLease': ({ client }, signal) =>
      client.extendLease('db', { holder: 'a', duration: 1_000 }, { signal }),
    'Client.releaseLease': ({ client }, signal) => client.releaseLease('db', 'a', { signal }),
    'Client.pinLease': ({ client }, signal) => client.pinLease('db', 'a', { signal }),
  }
  for (const [call, work] of Object.entries(calls)) {
    it(`${call} refuses them by name, and sends nothing`, async () => {
      for (const [what, make] of Object.entries(signals)) {
        const bench = new Bench()
        const { problems } = await rejection(work(bench, make()), ErrNotValid)
        await bench.clock.settle()
        expect(
          problems.map(({ argument }) => argument),
          what,
        ).to.deep.equal(['signal'])
        expect([bench.wire.counts.roundTrips, bench.clock.pending], what).to.deep.equal([0, 0])
        await bench.manager.stop()
      }
    })
  }

  it('options that cannot be read are refused, and nothing is sent', async () => {
    const options = new Proxy({ duration: 1_000 }, { get: () => expect.fail('it throws') })
    const bench = new Bench()
    const { manager, client } = bench
    const hold = await bench.other().manager.hold('mail', 'a', { duration: 1_000 })
    const rule = 'must be readable: to read it throws'
    for (const [argument, call] of [
      ['options', () => manager.hold('db', 'a', options)],
      ['options', () => manager.holdAny(['db', 'mail'], 'a', options)],
      ['options', () => manager.claim('db', 'a', 1_000, options as never)],
      ['options', () => manager.release('db', 'a', options as never)],
      ['options', () => manager.observe('db', options as never).next()],
      ['options', () => client.claimLease('db', { holder: 'a', duration: 1_000 }, options as never)],
      ['options', () => hold.release(options as never)],
      ['request', () => client.claimLease('db', options as never)],
      ['leases', () => manager.holdAny(new Proxy(['db'], { get: () => expect.fail('it throws') }), 'a', options)],
    ] as const) {
      const { problems } = await rejection(call(), ErrNotValid)
      expect(problems[0]).to.include({ argument, rule })
    }
    expect([bench.wire.counts.roundTrips, hold.held]).to.deep.equal([0, true])
    await manager.stop()
  })
})
