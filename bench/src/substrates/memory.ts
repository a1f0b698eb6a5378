import type { Substrate } from '../bench.ts'
import { memoryLibrary, memoryStore } from '../adapters/memory.ts'

/** The "server" is in this process: what is left is what the library itself costs. */
export const memory: Substrate = {
  name: 'memory',
  adapters: [memoryLibrary, memoryStore],
  open: async () => ({ about: 'memory', url: '', close: async () => {} }),
}
