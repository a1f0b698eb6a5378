import {
  memoryCommands,
  memoryLibrary,
  memoryRoundTrip,
  memoryStore,
  memoryStoreBatch,
} from '../adapters/memory/store.ts'
import { roundTrip } from '../adapters/round-trip.ts'
import type { Substrate } from '../bench.ts'

/** The "server" is in each process: what is left is what the library itself costs. */
export const memory: Substrate = {
  name: 'memory',
  adapters: [memoryLibrary, memoryStore, memoryStoreBatch, roundTrip],
  open: async () => ({ about: 'memory', url: '', close: async () => {} }),
  reach: async (url) => ({
    url,
    commands: async () => memoryCommands(),
    roundTrip: memoryRoundTrip,
    close: async () => {},
  }),
}
