import { expect } from 'chai'
import type { Client } from '#src/client.ts'
import { Manager } from '#src/manager.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { TestClock } from '#src/testing/index.ts'

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
