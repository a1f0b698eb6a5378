/** One life of a process: its machine, its client and managers, and what its code holds in its hands. */
import type { Client, LeaseChange } from '#src/client.ts'
import type { Hold, Info, Token } from '#src/index.ts'
import { Manager } from '#src/manager.ts'
import type { SubstrateClient } from '#src/substrate-client.ts'
import { SimulatedProcess, type ProcessParts } from 'lease-simulation'
import type { Settings } from './settings.ts'

export interface LifeParts extends ProcessParts<Settings> {
  readonly managers: number
  readonly lacksOptionalMethods: boolean
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

export class Life extends SimulatedProcess {
  readonly seen: Client
  managers: Manager[]
  /** Those that were held when last looked at, and the last of the others. */
  holds: HeldHere[] = []
  dead: HeldHere[] = []
  tokens: Token[] = []
  readonly observations = new Set<AsyncGenerator<Info | undefined, never, void>>()
  readonly #settings: Settings

  constructor(parts: LifeParts) {
    super(parts)
    const { settings, managers, lacksOptionalMethods } = parts
    this.#settings = settings
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
