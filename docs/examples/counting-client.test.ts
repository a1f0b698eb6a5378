import { memoryClient, MemoryGuard, MemoryStore } from 'lease-core'
import { conformance, type Harness } from 'lease-core/conformance'
import { TestClock } from 'lease-core/testing'
import { after, before, describe, it } from 'mocha'
import { CountingClient } from './counting-client.ts'

const clock = new TestClock()
const store = new MemoryStore({ clock })
const written: string[] = []

const harness: Harness = {
  name: 'example: a client of my own',
  supports: { notifications: true, queues: true, addressed: true, serverClock: true, exactClock: true },
  clock,
  unitMs: 100,
  sleep: (delayMs) => clock.advance(delayMs),
  open: async (namespace) => new CountingClient(memoryClient({ store, namespace, clock })),
  guard: {
    write: (trapdoor, text) => trapdoor(new MemoryGuard(() => written.push(text))),
    written: async () => written,
  },
}

conformance({ describe, it, before, after }, harness)
