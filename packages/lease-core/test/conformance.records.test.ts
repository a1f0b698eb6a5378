/** Leases on a store of records: the whole kit, on a map with conditional writes. */
import { after, before, describe, it } from 'mocha'
import { conformance, faultsOf, type Harness } from '#src/conformance/index.ts'
import { MemoryGuard } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock } from '#src/testing/index.ts'
import { MapStore, MapSubstrate } from './records.setting.ts'

conformance({ describe, it, before, after }, harness())

function harness(): Harness {
  const clock = new TestClock()
  const stores = new Map<string, MapStore>()
  const written: string[] = []
  const substrateOf = (namespace: string): MapSubstrate => {
    const store = stores.get(namespace) ?? new MapStore()
    stores.set(namespace, store)
    return new MapSubstrate(store, clock)
  }
  return {
    name: 'a store of records',
    supports: {
      notifications: true,
      queues: true,
      addressed: true,
      shares: true,
      serverClock: false,
    },
    clock,
    unitMs: 600, // a holder hears of the end of its term within 15 s
    thousands: 128,
    sleep: (delayMs) => clock.advance(delayMs),
    open: async (namespace) => new SubstrateClient({ substrate: substrateOf(namespace), clock }),
    openFaulty: async (namespace, requestTimeout) => {
      const substrate = new FaultySubstrate(substrateOf(namespace), { clock })
      return { client: new SubstrateClient({ substrate, clock, requestTimeout }), faults: faultsOf(substrate) }
    },
    guard: {
      write: (trapdoor, text) => trapdoor(new MemoryGuard(() => written.push(text))),
      written: async () => written,
    },
  }
}
