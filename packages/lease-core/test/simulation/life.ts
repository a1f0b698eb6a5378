/** One life of a process: its machine, its client and managers, and what its code holds in its hands. */
import type { Client, LeaseChange } from '#src/client.ts'
import { MemorySubstrate, type MemoryStore } from '#src/memory/index.ts'
import type { Hold, Info, Token } from '#src/index.ts'
import { Manager } from '#src/manager.ts'
import type { Op } from '#src/substrate.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, type TestClock } from '#src/testing/index.ts'
import { Wire } from 'lease-simulation'
import type { Settings } from './settings.ts'

export interface LifeParts {
  readonly id: number
  /** The process; the same after a restart. */
  readonly name: number
  readonly settings: Settings
  readonly store: MemoryStore
  readonly server: TestClock
  readonly clock: TestClock
  readonly latency: () => number
  readonly managers: number
  readonly lacksOptionalMethods: boolean
  readonly sending: (op: Op) => void
}

/** A hold, and what the tester knows about it. */
export interface HeldHere {
  readonly hold: Hold
  readonly token: Token
  readonly manager: Manager
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
  readonly shared: boolean
  /** When it was first found not to be held, by the clock of the process. */
  deadMs: number | undefined
  /** The same by the true time. */
  seenDeadMs?: number
}

export class Life {
  readonly id: number
  readonly name: number
  readonly clock: TestClock
  readonly faulty: FaultySubstrate
  readonly client: SubstrateClient
  readonly seen: Client
  managers: Manager[]
  /** Those that were held when last looked at, and the last of the others. */
  holds: HeldHere[] = []
  dead: HeldHere[] = []
  tokens: Token[] = []
  readonly observations = new Set<AsyncGenerator<Info | undefined, never, void>>()
  isOver = false
  /** For so long after a sleep that a wall clock set back has hidden it may rely on a term too long (docs/reliability.md). */
  graceMs = 0
  readonly #settings: Settings

  constructor({
    id,
    name,
    settings,
    store,
    server,
    clock,
    latency,
    managers,
    lacksOptionalMethods,
    sending,
  }: LifeParts) {
    this.id = id
    this.name = name
    this.clock = clock
    this.#settings = settings
    this.faulty = new FaultySubstrate(new MemorySubstrate({ store }), {
      clock: server,
      receiver: clock,
      latency,
      watch: !(settings.blind && name === 1),
    })
    const substrate = new Wire(this.faulty, sending)
    this.client = new SubstrateClient({ substrate, clock, requestTimeout: settings.requestTimeoutMs })
    this.seen = lacksOptionalMethods ? withoutOptionalMethods(this.client) : this.client
    this.managers = Array.from({ length: managers }, () => this.newManager())
  }

  newManager(): Manager {
    return new Manager({ client: this.seen, clock: this.clock, maxSleep: this.#settings.maxSleepMs })
  }
}

const OPTIONAL: readonly (string | symbol)[] = ['renewLease', 'unwatch', 'leaveQueue']

/**
 * The same client for a manager that finds only the methods that every client has. Who cannot say what it watches hears of
 * everything; the tickets of such a process stay when it leaves.
 */
function withoutOptionalMethods(client: SubstrateClient): Client {
  return new Proxy<SubstrateClient>(client, {
    get(target, name) {
      if (OPTIONAL.includes(name)) return undefined
      if (name === 'subscribe') return (listener: (change: LeaseChange) => void) => target.subscribe(listener)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
