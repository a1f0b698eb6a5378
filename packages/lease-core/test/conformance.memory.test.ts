import { after, before, describe, it } from 'mocha'
import { conformance, faultsOf, type Guard, type Harness } from '#src/conformance/index.ts'
import type { Trapdoor } from '#src/lease.ts'
import { MemoryGuard, memoryClient, MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock } from '#src/testing/index.ts'

for (const serverClock of [true, false]) {
  conformance({ describe, it, before, after }, memoryHarness(serverClock))
}

function memoryHarness(serverClock: boolean): Harness {
  const clock = new TestClock()
  const store = new MemoryStore({ clock, serverClock })
  return {
    name: `the memory substrate ${serverClock ? 'with' : 'without'} a clock of its own`,
    supports: {
      notifications: true,
      queues: true,
      addressed: true,
      shares: true,
      serverClock,
      exactClock: true,
      repeats: true,
    },
    clock,
    unitMs: 100,
    sleep: (delayMs) => clock.advance(delayMs),
    open: async (namespace) => memoryClient({ store, namespace, clock }),
    openFaulty: async (namespace, requestTimeout) => {
      const substrate = new FaultySubstrate(new MemorySubstrate({ store, namespace }), { clock })
      return { client: new SubstrateClient({ substrate, clock, requestTimeout }), faults: faultsOf(substrate) }
    },
    guard: memoryGuard(),
  }
}

function memoryGuard(): Guard {
  const written: string[] = []
  return {
    write: (trapdoor: Trapdoor, text: string) => trapdoor(new MemoryGuard(() => written.push(text))),
    written: async () => written,
  }
}
