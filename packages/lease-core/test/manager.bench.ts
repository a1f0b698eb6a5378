/** What the tests of the Manager share: a store, a wire on which everything can go wrong, time that stands still. */
import { expect } from 'chai'
import { Manager, type ManagerConfig } from '#src/manager.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, TestClock, type FaultySubstrateOptions, type TestClockOptions } from '#src/testing/index.ts'

export interface BenchOptions {
  readonly wire?: FaultySubstrateOptions
  readonly time?: TestClockOptions
  readonly maxSleep?: ManagerConfig['maxSleep']
  /** Whether the store has a clock. @default true */
  readonly serverClock?: boolean
}

/** One process: a manager with a client of its own. */
export interface Process {
  readonly wire: FaultySubstrate
  readonly client: SubstrateClient
  readonly manager: Manager
}

/** A process, with others at the same store (`other()`), which see the same clock. */
export class Bench implements Process {
  readonly clock: TestClock
  readonly store: MemoryStore
  readonly wire: FaultySubstrate
  readonly client: SubstrateClient
  readonly manager: Manager
  readonly #options: BenchOptions

  constructor(options: BenchOptions = {}) {
    this.#options = options
    this.clock = new TestClock(options.time)
    this.store = new MemoryStore({ clock: this.clock, serverClock: options.serverClock ?? true })
    const { wire, client, manager } = this.other()
    this.wire = wire
    this.client = client
    this.manager = manager
  }

  other(): Process {
    const { clock } = this
    const wire = new FaultySubstrate(new MemorySubstrate({ store: this.store }), { clock, ...this.#options.wire })
    const client = new SubstrateClient({ substrate: wire, clock })
    const { maxSleep } = this.#options
    const manager = new Manager({ client, clock, ...(maxSleep === undefined ? {} : { maxSleep }) })
    return { wire, client, manager }
  }

  /** Who holds the lease by the store's own word. */
  holder(lease = 'db'): string | undefined {
    return this.store.namespace('default').read([lease]).get(lease)?.holder
  }

  fencingToken(lease = 'db'): bigint | undefined {
    return this.store.namespace('default').read([lease]).get(lease)?.fencingToken
  }
}

/** What the work rejected with, which must be of this class. */
export async function rejection<E extends Error>(
  work: PromiseLike<unknown>,
  type: abstract new (...args: never[]) => E,
): Promise<E> {
  let outcome: unknown = 'nothing'
  try {
    await work
  } catch (error) {
    outcome = error
  }
  expect(outcome).to.be.instanceOf(type)
  return outcome as E
}
