/** The harness for the breakable store: on a test clock, or on the machine's clocks with a store that stalls. */
import { faultsOf, type Harness } from '#src/conformance/index.ts'
import { sleep, systemClock } from '#src/clock.ts'
import type { Call, Counted, Holding, Op, Pins, Substrate, Verdict } from '#src/substrate.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock } from '#src/testing/index.ts'
import { BreakableStore, BreakableSubstrate, WriteKey } from './conformance.breakable-store.ts'
import type { Defect } from './conformance.defects.ts'

/** Time passes only when the kit lets it. */
export function harnessOf(defect: Defect): Harness {
  const clock = new TestClock()
  const substrateOf = (store: BreakableStore): Substrate => new BreakableSubstrate(store)
  const harness = harnessOn(defect, { clock, substrateOf, requestTimeout: 200 })
  return {
    ...harness,
    supports: { ...harness.supports, exactClock: true },
    clock,
    unitMs: 100,
    sleep: (delayMs) => clock.advance(delayMs),
  }
}

/** Time passes by itself, and of a hundred round trips some three take up to four units longer. */
export function stallingHarnessOf(defect: Defect): Harness {
  const unitMs = 20
  const stall = (): Promise<void> => sleep(systemClock, Math.random() < 0.015 ? Math.random() * unitMs * 4 : 0)
  const substrateOf = (store: BreakableStore): Substrate => new StallingSubstrate(store, stall)
  // No stall is so long, and this machine may be slow as well: what takes long must not count as lost.
  const harness = harnessOn(defect, { clock: systemClock, substrateOf, requestTimeout: 5_000 })
  return { ...harness, unitMs, sleep: (delayMs) => sleep(systemClock, delayMs) }
}

interface Surroundings {
  readonly clock: typeof systemClock
  readonly substrateOf: (store: BreakableStore) => Substrate
  readonly requestTimeout: number
}

function harnessOn(
  { store: Store = BreakableStore, serverClock = true, client: wrap = (client) => client }: Defect,
  { clock, substrateOf, requestTimeout }: Surroundings,
): Omit<Harness, 'unitMs' | 'sleep'> {
  const stores = new Map<string, BreakableStore>()
  const written: string[] = []
  const open = (namespace: string): Substrate => {
    const store = stores.get(namespace) ?? new Store({ clock, serverClock, written })
    stores.set(namespace, store)
    return substrateOf(store)
  }
  return {
    name: 'a breakable store',
    supports: { notifications: true, queues: true, addressed: true, shares: true, serverClock, repeats: true },
    thousands: 128, // more than a batch; there are more than a hundred defects to notice
    open: async (namespace) => wrap(new SubstrateClient({ substrate: open(namespace), clock, requestTimeout })),
    openFaulty: async (namespace, timeout) => {
      const substrate = new FaultySubstrate(open(namespace), { clock })
      const client = new SubstrateClient({ substrate, clock, requestTimeout: timeout })
      return { client: wrap(client), faults: faultsOf(substrate) }
    },
    restart: async () => {
      for (const store of stores.values()) store.restart()
    },
    guard: {
      write: (trapdoor, text) => trapdoor(new WriteKey(text)),
      outside: (trapdoor) => trapdoor(new WriteKey('outside', { inTransaction: false })),
      written: async () => written,
    },
  }
}

/** Pauses before and after it does anything. */
class StallingSubstrate extends BreakableSubstrate {
  readonly #stall: () => Promise<void>

  constructor(store: BreakableStore, stall: () => Promise<void>) {
    super(store)
    this.#stall = stall
  }

  override apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    return this.#slowly(() => super.apply(ops, call))
  }

  override read(
    leases: readonly string[] | undefined,
    call: Call,
    watched?: readonly string[],
  ): Promise<ReadonlyMap<string, Holding>> {
    return this.#slowly(() => super.read(leases, call, watched))
  }

  override counted(lease: string, call: Call): Promise<Counted> {
    return this.#slowly(() => super.counted(lease, call))
  }

  override waiting(lease: string, call: Call): Promise<number> {
    return this.#slowly(() => super.waiting(lease, call))
  }

  override pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    return this.#slowly(() => super.pinned(call, leases))
  }

  async #slowly<T>(call: () => Promise<T>): Promise<T> {
    await this.#stall()
    const answer = await call()
    await this.#stall()
    return answer
  }
}
