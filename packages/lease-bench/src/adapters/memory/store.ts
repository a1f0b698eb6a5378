/** On the memory substrate. */
import { MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient, type Call, type Holding, type Op, type Substrate, type Verdict } from 'lease-core/adapter'
import { ownSeat, type Adapter } from '../../bench.ts'
import { batches, batchName, inBatches, LONG_MS, oneByOne, type ByHand } from '../by-hand.ts'
import { libraryCan, libraryContestant } from '../library.ts'
import { timelessCall } from '../recorded.ts'

const namespace = 'bench'

export const memoryLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager over the memory substrate',
  can: libraryCan,
  async open(_ground, { space } = ownSeat()) {
    const store = storeOf(space)
    return libraryContestant({
      connect: (clock) => new SubstrateClient({ clock, substrate: new CountedSubstrate(store) }),
      atEnd: async () => {},
    })
  },
}

/** While somebody uses it. */
const stores = new Map<string, WeakRef<MemoryStore>>()

function storeOf(space: string): MemoryStore {
  const known = stores.get(space)?.deref()
  if (known !== undefined) return known
  const store = new MemoryStore()
  stores.set(space, new WeakRef(store))
  return store
}

/** What the store costs by itself. */
export const memoryStore: Adapter = {
  name: 'store',
  role: 'raw',
  about: 'the memory substrate called by hand',
  can: ['one', 'keep'],
  async open() {
    const hand = byHand()
    return {
      ...oneByOne(hand),
      keep: {
        async hold(lease) {
          await hand.claim([lease])
          return { held: true, release: () => hand.release([lease]) }
        },
        renewals: () => 0,
        timers: () => 0,
      },
    }
  },
}

/** One call for the leases of all callers. */
export const memoryStoreBatch: Adapter = {
  name: batchName('store', 1),
  role: 'raw',
  about: `the memory substrate called by hand, ${batches(1)}`,
  can: ['many'],
  open: async () => inBatches(byHand(), 1),
}

/** Calls of the substrates of this process, which is the server as well. */
export function memoryCommands(): number {
  return calls
}

/** What a round trip is where there is none. */
export async function memoryRoundTrip(): Promise<void> {
  await nobody.read([], timelessCall)
}

const nobody: Substrate = new MemorySubstrate()
let calls = 0

class CountedSubstrate extends MemorySubstrate {
  constructor(store: MemoryStore) {
    super({ store, namespace })
  }

  override apply(ops: readonly Op[], options: Call): Promise<readonly Verdict[]> {
    calls++
    return super.apply(ops, options)
  }

  override read(leases: readonly string[] | undefined, options: Call): Promise<ReadonlyMap<string, Holding>> {
    calls++
    return super.read(leases, options)
  }
}

function byHand(): ByHand {
  const substrate = new CountedSubstrate(new MemoryStore())
  const [holder, durationMs] = ['bench', LONG_MS]
  const [value, lapsed, seen] = [undefined, undefined, undefined]
  const terms = new Map<string, Holding>()
  let nonces = 0
  const apply = async (ops: readonly Op[]): Promise<void> => {
    const verdicts = await substrate.apply(ops, timelessCall)
    for (const [index, { outcome, holding }] of verdicts.entries()) {
      const { kind, lease } = ops[index] as Op
      if (outcome !== 'granted') throw new Error(`${kind}: ${outcome}`)
      if (holding === undefined) terms.delete(lease)
      else terms.set(lease, holding)
    }
  }
  const termOf = (lease: string): Holding => {
    const term = terms.get(lease)
    if (term === undefined) throw new Error(`"${lease}" is not held`)
    return term
  }
  return {
    claim: (leases) =>
      apply(
        leases.map((lease) => ({ kind: 'claim', lease, holder, durationMs, nonce: `n${nonces++}`, value, lapsed })),
      ),
    extend: (leases) =>
      apply(
        leases.map((lease) => {
          const { fencingToken } = termOf(lease)
          return { kind: 'extend', lease, holder, fencingToken, durationMs, value, seen }
        }),
      ),
    release: (leases) =>
      apply(
        leases.map((lease) => {
          const { fencingToken, nonce } = termOf(lease)
          return { kind: 'release', lease, holder, fencingToken, nonce }
        }),
      ),
    close: () => substrate.close(),
  }
}
