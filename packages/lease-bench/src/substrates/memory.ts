import { heard } from '../adapters/library.ts'
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
  // Not W9: there are no other processes.
  workloads: ['W1', 'W2', 'W3', 'W4', 'W5', 'W6', 'W7', 'W8', 'idle'],
  adapters: [memoryLibrary, heard(memoryLibrary), memoryStore, memoryStoreBatch, roundTrip],
  open: async () => ({ about: 'memory', url: '', close: async () => {} }),
  reach: async (url) => ({
    substrate: 'memory',
    url,
    counts: 'process',
    commands: async () => memoryCommands(),
    messages: async () => Number.NaN, // they are calls of functions
    bytes: () => Number.NaN,
    roundTrip: memoryRoundTrip,
    close: async () => {},
  }),
}
