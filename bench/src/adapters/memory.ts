/** On the memory substrate. */
import { memoryClient, MemoryStore, MemorySubstrate, type Call, type Op } from 'lease-core'
import type { Adapter } from '../bench.ts'
import { libraryContestant } from './library.ts'

const namespace = 'bench'

export const memoryLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager over the memory substrate',
  async open() {
    const store = new MemoryStore()
    return libraryContestant(
      (clock) => memoryClient({ store, namespace, clock }),
      async () => {},
    )
  },
}

/** What the store costs by itself. */
export const memoryStore: Adapter = {
  name: 'store',
  role: 'raw',
  about: 'the memory substrate called by hand',
  async open() {
    const substrate = new MemorySubstrate({ store: new MemoryStore(), namespace })
    const call: Call = { signal: new AbortController().signal, timeoutMs: 1_000 }
    let nonces = 0
    const claim = async (lease: string): Promise<void> => {
      const nonce = `n${nonces++}`
      const op = { kind: 'claim', lease, holder: 'bench', durationMs: 7_200_000, nonce } as const
      await apply({ ...op, value: undefined, lapsed: undefined })
    }
    const apply = async (op: Op): Promise<void> => {
      const [verdict] = await substrate.apply([op], call)
      if (verdict?.outcome !== 'granted') throw new Error(`${op.kind} of ${op.lease}: ${verdict?.outcome}`)
    }
    return {
      one: {
        claim,
        release: (lease) =>
          apply({ kind: 'release', lease, holder: 'bench', fencingToken: undefined, nonce: undefined }),
      },
      keep: { hold: claim, timers: () => 0 },
      close: () => substrate.close(),
    }
  },
}
