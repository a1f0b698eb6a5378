import { expect } from 'chai'
import type { Client } from '#src/client.ts'
import { ErrLost, ErrUnknown } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { memoryClient, MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { TestClock, track } from '#src/testing/index.ts'
import { rejection } from './manager.bench.ts'

describe('Manager over a client that throws instead of rejecting', () => {
  for (const method of ['extendLease', 'renewLease'] as const) {
    it(`a hold whose ${method} threw is renewed when it tries again, and so are the others`, async () => {
      const clock = new TestClock()
      const substrate = new MemorySubstrate({ store: new MemoryStore({ clock }) })
      const inner = new SubstrateClient({ substrate, clock })
      let throws = 0
      const client = new Proxy<Client>(inner, {
        get(target, name) {
          if (name === 'renewLease' && method === 'extendLease') return undefined
          const value: unknown = Reflect.get(target, name, target)
          if (typeof value !== 'function') return value
          return (...args: unknown[]): unknown => {
            const lease = name === 'renewLease' ? (args[0] as { lease: string }).lease : args[0]
            if (name === method && lease === 'bad' && throws++ === 0) throw new Error('once')
            return Reflect.apply(value, target, args)
          }
        },
      })
      const manager = new Manager({ client, clock })
      const holds = await Promise.all(['bad', 'good'].map((lease) => manager.hold(lease, 'a', { duration: 30_000 })))
      const retried: unknown[] = []
      manager.events.subscribe((event) => event.type === 'retrying' && retried.push(event.lease))
      await clock.advance(120_000)
      expect(throws).to.be.greaterThan(1)
      expect(retried).to.deep.equal(['bad'])
      expect(holds.map(({ held }) => held)).to.deep.equal([true, true])
      await Promise.all(holds.map((hold) => hold.release()))
      await manager.stop()
      await inner.close()
      expect(clock.pending).to.equal(0)
    })
  }
})

describe('Manager over a client whose renewLease is async', () => {
  const outcomes: Record<string, () => Promise<void>> = {
    rejects: () => Promise.reject(new Error('cut')),
    'never answers': () => Promise.resolve(),
  }
  for (const [outcome, renewLease] of Object.entries(outcomes)) {
    it(`and ${outcome}: hold.renew() ends, at the latest with the Hold, and nothing is unhandled`, async () => {
      const clock = new TestClock()
      const unhandled: unknown[] = []
      const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
      process.on('unhandledRejection', onUnhandled)
      const client = new Proxy<Client>(memoryClient({ clock }), {
        get: (target, name) => {
          const value: unknown = name === 'renewLease' ? renewLease : Reflect.get(target, name, target)
          return typeof value === 'function' ? value.bind(target) : value
        },
      })
      const manager = new Manager({ client, clock })
      const hold = await manager.hold('db', 'a', { duration: 3_000 })
      const renewed = track(hold.renew())
      await clock.advance(10)
      expect(renewed.state).to.equal(outcome === 'rejects' ? 'rejected' : 'pending')
      await clock.advance(60_000)
      await new Promise((resolve) => setImmediate(resolve))
      process.off('unhandledRejection', onUnhandled)
      expect(renewed.error).to.be.instanceOf(outcome === 'rejects' ? ErrUnknown : ErrLost)
      expect([hold.held, unhandled]).to.deep.equal([false, []])
      await manager.stop()
      expect(clock.pending).to.equal(0)
    })
  }
})

describe('Manager over a client that fails in ways of its own', () => {
  const failures: Record<string, () => unknown> = {
    'throws at once': () => {
      throw new TypeError('no such table')
    },
    'rejects with an error of its own': () => Promise.reject(new TypeError('no such table')),
    'rejects with nothing': () => Promise.reject(undefined),
    'rejects with what has no words': () => Promise.reject(Object.create(null)),
    'rejects with a proxy that was revoked': () => {
      const { proxy, revoke } = Proxy.revocable({}, {})
      revoke()
      return Promise.reject(proxy)
    },
  }
  for (const [what, fails] of Object.entries(failures)) {
    it(`${what}: every call rejects with ErrUnknown, whose cause is what was thrown`, async () => {
      const client = new Proxy<Client>(memoryClient(), {
        get: (target, name) =>
          name === 'leases' || name === 'subscribe' ? Reflect.get(target, name, target).bind(target) : fails,
      })
      const manager = new Manager({ client })
      const hold = { duration: 30_000 }
      const calls = {
        claim: manager.claim('db', 'a', 30_000),
        hold: manager.hold('db', 'a', hold),
        wait: manager.hold('db', 'a', { ...hold, wait: true }),
        holdAny: manager.holdAny(['db', 'other'], 'a', hold),
        release: manager.release('db', 'a'),
        revoke: manager.revoke('db'),
        pin: manager.pin('db', 'e'),
        unpin: manager.unpin('db', 'e'),
        pinned: manager.pinned(),
        find: manager.find('db'),
        leases: manager.leases(),
        check: manager.token('db', 'a').check(),
        waitUntilExpired: manager.waitUntilExpired('db'),
      }
      for (const [name, call] of Object.entries(calls)) {
        const error = await rejection(call, ErrUnknown)
        expect(error.reason, name).to.equal('client failed')
        if (fails === failures['throws at once']) expect(error.cause, name).to.be.instanceOf(TypeError)
      }
      await manager.stop()
    })
  }
})
