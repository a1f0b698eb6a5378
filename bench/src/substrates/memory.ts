import type { Substrate } from '../bench.ts'
import { memoryCommands, memoryLibrary, memoryRoundTrip, memoryStore, memoryStoreBatch } from '../adapters/memory.ts'

/** The "server" is in this process: what is left is what the library itself costs. */
export const memory: Substrate = {
  name: 'memory',
  adapters: [memoryLibrary, memoryStore, memoryStoreBatch],
  open: async () => ({
    about: 'memory',
    url: '',
    commands: async () => memoryCommands(),
    roundTrip: memoryRoundTrip,
    close: async () => {},
  }),
}
