/** What every process of a random tester is: a machine, and a client whose way to the store can be struck. */
import { MemorySubstrate, type MemoryStore } from 'lease-core'
import { SubstrateClient, type Op } from 'lease-core/adapter'
import { FaultySubstrate, type TestClock } from 'lease-core/testing'
import type { StruckProcess } from './faults.ts'
import { Wire } from './wire.ts'

export interface ProcessSettings {
  /** The process called 1 gets no hints. */
  readonly blind: boolean
  readonly requestTimeoutMs: number
}

export interface ProcessParts<S extends ProcessSettings> {
  readonly id: number
  readonly name: number
  readonly settings: S
  readonly store: MemoryStore
  readonly server: TestClock
  readonly clock: TestClock
  readonly latency: () => number
  /** Called with each operation when it is sent. */
  readonly sending: (op: Op) => void
}

/** One life of a process. */
export class SimulatedProcess implements StruckProcess {
  /** Of this life alone. */
  readonly id: number
  /** The process; the same after a restart. */
  readonly name: number
  readonly clock: TestClock
  readonly faulty: FaultySubstrate
  readonly client: SubstrateClient
  isOver = false
  graceMs = 0

  constructor({ id, name, settings, store, server, clock, latency, sending }: ProcessParts<ProcessSettings>) {
    this.id = id
    this.name = name
    this.clock = clock
    this.faulty = new FaultySubstrate(new MemorySubstrate({ store }), {
      clock: server,
      receiver: clock,
      latency,
      watch: !(settings.blind && name === 1),
    })
    const substrate = new Wire(this.faulty, sending)
    this.client = new SubstrateClient({ substrate, clock, requestTimeout: settings.requestTimeoutMs })
  }
}
