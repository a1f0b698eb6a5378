/** Processes of one fleet, each with a scheduler of its own, in the hands of one fake clock. */
import { Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { OncePer, type OncePerOptions } from 'lease-recipes'
import { useFakeTimers, type SinonFakeTimers } from 'sinon'

/** A second before a full minute. */
export const START_MS = Date.UTC(2026, 2, 1, 2, 59, 59)

export class Fleet {
  /** Of the leases. It stands still: none lapses by itself. */
  readonly clock = new TestClock()
  /** Of the schedulers. */
  readonly timers: SinonFakeTimers
  readonly #store = new MemoryStore({ clock: this.clock })
  readonly #managers: Manager[] = []

  constructor() {
    const toFake = ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] as const
    this.timers = useFakeTimers({ now: START_MS, toFake: [...toFake] })
  }

  /** As if another process. */
  process(options: Omit<OncePerOptions, 'manager'> = {}): OncePer & { readonly manager: Manager } {
    const manager = new Manager({ client: memoryClient({ store: this.#store, clock: this.clock }), clock: this.clock })
    this.#managers.push(manager)
    return Object.assign(new OncePer({ manager, ...options }), { manager })
  }

  /** Lets the schedulers do what is due in this time, and comes to rest. */
  async pass(ms: number): Promise<void> {
    await this.timers.tickAsync(ms)
    await this.clock.settle()
  }

  async close(): Promise<void> {
    this.timers.restore()
    await Promise.all(this.#managers.map((manager) => manager.stop()))
  }
}
