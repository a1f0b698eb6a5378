/**
 * Leases for the tests of an application: a real Manager over leases in memory, and what happens to them on command.
 *
 *     const leases = new FakeLeases()
 *     await leases.take('invoices')        // another process holds it: claims are denied, waiters wait
 *     await leases.free('invoices')        // … until now
 *     await leases.take('invoices')        // its holder has lost it: the signal aborts with ErrLost
 *     leases.cut()                         // the store does not answer any more
 *     leases.reconnect()
 *
 * Everything but the store is as in production: the same checks, events and errors. Time is that of `Date`, `performance` and
 * `setTimeout`, so fake timers move it; or that of a clock of your own, as `TestClock`.
 */
import { systemClock, type Clock } from '../clock.ts'
import { Manager } from '../manager.ts'
import { MemoryStore } from '../memory/memory-store.ts'
import { MemorySubstrate } from '../memory/memory-substrate.ts'
import type { Ticket } from '../ticket.ts'
import { SubstrateClient } from '../substrate-client.ts'
import { turn } from '../turns.ts'
import { FaultySubstrate } from './faulty-substrate.ts'

export interface FakeLeasesOptions {
  /** @default the machine's clocks, which fake timers replace */
  readonly clock?: Clock | undefined
}

/** So long the others hold what they take: longer than any test moves its time. */
const OTHERS_MS = 365 * 24 * 3_600_000
const OTHERS = 'another-process'
/** Ahead of all who wait. */
const FIRST: Ticket = { place: 1, ahead: 0, isFull: false, passing: 0 }
/** Turns of the event loop until everybody has heard of a change. */
const TURNS = 5

interface Instance {
  readonly manager: Manager
  readonly client: SubstrateClient
  readonly substrate: FaultySubstrate
}

export class FakeLeases implements AsyncDisposable {
  /** For the application under test. */
  readonly manager: Manager
  readonly #clock: Clock
  readonly #store: MemoryStore
  readonly #instances: Instance[] = []
  readonly #others: Manager
  readonly #othersClient: SubstrateClient

  constructor({ clock = systemClock }: FakeLeasesOptions = {}) {
    this.#clock = clock
    this.#store = new MemoryStore({ clock })
    this.manager = this.instance()
    this.#othersClient = new SubstrateClient({ substrate: new MemorySubstrate({ store: this.#store }), clock })
    this.#others = new Manager({ client: this.#othersClient, clock })
  }

  /** Returns the manager of one more instance of the application: a process of its own, on the same leases. */
  instance(): Manager {
    const substrate = new FaultySubstrate(new MemorySubstrate({ store: this.#store }), { clock: this.#clock })
    const client = new SubstrateClient({ substrate, clock: this.#clock })
    const manager = new Manager({ client, clock: this.#clock })
    this.#instances.push({ manager, client, substrate })
    return manager
  }

  /**
   * Lets another process hold this lease from now on, until `free`. Its holder loses it, as by an operator's `revoke`; those who wait go on
   * waiting. Resolves when the instances have heard of it.
   */
  async take(lease: string, holder: string = OTHERS): Promise<void> {
    const claims = this.#instances.map(({ substrate }) => substrate.hang({ kind: 'claim', lease }))
    try {
      await this.#others.revoke(lease)
      await this.#othersClient.claimLease(lease, { holder, duration: OTHERS_MS }, { ticket: { ...FIRST } })
    } finally {
      for (const claim of claims) claim.heal()
    }
    await heard()
  }

  /** Ends the term of the holder of this lease, another process or an instance. Waiters are granted the lease. */
  async free(lease: string): Promise<void> {
    await this.#others.revoke(lease)
    await heard()
  }

  /** From now on no request of any instance is answered, and no notification arrives. Renewals fail, and holds end in time. */
  cut(): void {
    for (const { substrate } of this.#instances) {
      substrate.hang()
      substrate.disconnectWatch()
    }
  }

  /** The store answers again. */
  reconnect(): void {
    for (const { substrate } of this.#instances) {
      substrate.heal()
      substrate.reconnectWatch()
    }
  }

  /** Stops all managers. No timer is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.reconnect()
    await Promise.all([this.#others, ...this.#instances.map(({ manager }) => manager)].map((manager) => manager.stop()))
    await Promise.all(
      [this.#othersClient, ...this.#instances.map(({ client }) => client)].map((client) => client.close()),
    )
  }
}

/** The instances read what they hear, and a read in memory takes no time. */
async function heard(): Promise<void> {
  for (let turns = 0; turns < TURNS; turns++) await turn()
}
