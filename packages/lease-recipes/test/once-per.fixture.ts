/** Processes that run jobs once per slot, on one store. */
import { Manager } from 'lease-core'
import { OncePer, type OncePerOptions } from 'lease-recipes'
import { type Store, unique } from './stores.ts'

/** As if a process: a manager of its own. */
export interface Process {
  readonly manager: Manager
  readonly once: OncePer
  /** From here on nothing is renewed or released. */
  crash(): Promise<void>
}

/** Starts processes in a namespace of their own, and ends them all. */
export class Fleet {
  readonly #namespace: string = unique('fleet')
  readonly #store: Store
  readonly #managers: Manager[] = []

  constructor(store: Store) {
    this.#store = store
  }

  /** @param wrap what `OncePer` is given for the manager */
  process(
    options: Omit<OncePerOptions, 'manager'> = {},
    wrap: (manager: Manager) => OncePerOptions['manager'] = (manager) => manager,
  ): Process {
    const manager = new Manager({ client: this.#store.client(this.#namespace), clock: this.#store.clock })
    this.#managers.push(manager)
    return { manager, once: new OncePer({ manager: wrap(manager), ...options }), crash: () => manager.stop() }
  }

  async close(): Promise<void> {
    for (const manager of this.#managers.splice(0)) await manager.stop()
    await this.#store.closeClients()
  }
}

/** The fire time of a job that fires every minute. */
export function minute(n: number): Date {
  return new Date(Date.UTC(2026, 2, 1, 3, n))
}
