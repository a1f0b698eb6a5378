/** Leases on a store of records: the whole kit, on a map with conditional writes. */
import { after, before, describe, it } from 'mocha'
import { notHeld } from '#src/adapter-parts.ts'
import { conformance, faultsOf, type Harness } from '#src/conformance/index.ts'
import type { Clock } from '#src/clock.ts'
import { ErrTrapdoor } from '#src/errors.ts'
import type { Trapdoor } from '#src/lease.ts'
import { MemoryGuard } from '#src/memory/index.ts'
import { isMemoryGuard } from '#src/memory/memory-guard.ts'
import { RecordSubstrate } from '#src/records/record-substrate.ts'
import type { FoundRecords, LeaseRecord, RecordStore, RecordWrite, Written } from '#src/records/record.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import type { SubstrateLimits, SubstrateWarning } from '#src/substrate.ts'
import { FaultySubstrate, TestClock } from '#src/testing/index.ts'

/** The records of one namespace. */
class MapStore implements RecordStore {
  readonly records = new Map<string, LeaseRecord>()

  async read(leases: readonly string[]): Promise<FoundRecords> {
    return new Map([...this.records].filter(([lease]) => leases.includes(lease)))
  }

  async readAll(prefix: string): Promise<FoundRecords> {
    return new Map([...this.records].filter(([lease]) => lease.startsWith(prefix)))
  }

  async write(writes: readonly RecordWrite[]): Promise<readonly Written[]> {
    const isMet = ({ lease, was }: RecordWrite): boolean => this.records.get(lease)?.version === was
    if (!writes.every(isMet)) {
      return writes.map((write) =>
        isMet(write) ? { isMet: true } : { isMet: false, found: this.records.get(write.lease) },
      )
    }
    for (const { lease, after: record } of writes) {
      if (record === 'deleted') this.records.delete(lease)
      else this.records.set(lease, record)
    }
    return writes.map(() => ({ isMet: true }))
  }
}

class MapSubstrate extends RecordSubstrate {
  readonly limits: SubstrateLimits = { maxOps: 1_000, maxInFlight: 4 }
  readonly page = 'docs/adapters.md'
  readonly #records: MapStore['records']

  constructor(store: MapStore, clock: Clock) {
    const unreadable = (lease: string, message: string): SubstrateWarning => ({ warning: lease, message })
    super({ store, clock, maxSkewMs: undefined, onWarning: undefined, unreadable })
    this.#records = store.records
  }

  async inspect(): Promise<readonly SubstrateWarning[]> {
    return []
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return async (key) => {
      if (key === undefined) return
      const record = this.#records.get(lease)
      const isHeld = record?.term?.holder === holder && record.fencingToken === fencingToken
      if (!isMemoryGuard(key)) throw new ErrTrapdoor('a MemoryGuard is understood, and nothing else', { lease, holder })
      if (!isHeld) throw notHeld({ lease, holder, fencingToken })
      key.run()
    }
  }
}

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
