/** Processes that lock things, on one store. */
import { Manager } from 'lease-core'
import { track } from 'lease-core/testing'
import { FailClosedLock, FailOpenLock, type FencedLock, type FencedLockEvents } from 'lease-recipes'
import { type Store, unique } from './stores.ts'

/** As if a process: a manager of its own, and both kinds of locks on it. */
export interface Process {
  readonly manager: Manager
  readonly failOpen: FailOpenLock
  readonly failClosed: FailClosedLock
  /** From here on nothing is renewed, released or heard. */
  crash(): Promise<void>
}

/** Starts processes in a namespace of their own, and ends them all. */
export class Town {
  readonly namespace: string = unique('town')
  readonly #store: Store
  readonly #managers: Manager[] = []

  constructor(store: Store) {
    this.#store = store
  }

  /** Of locks that are to lapse, or to be renewed, in the course of a test; others last, however slow the machine. */
  get leaseMs(): number {
    return 5 * this.#store.unitMs
  }

  /** @param options `heartbeat: false`: its fail-open locks are not renewed */
  process(options: { heartbeat?: boolean; owner?: string; leaseMs?: number } = {}): Process {
    const { heartbeat = true, owner, leaseMs = 1000 * this.leaseMs } = options
    const { clock } = this.#store
    const manager = new Manager({ client: this.#store.client(this.namespace), clock })
    this.#managers.push(manager)
    const common = { manager, clock, owner, leaseDuration: leaseMs }
    const failClosed = new FailClosedLock(common)
    const failOpen = new FailOpenLock({ ...common, heartbeatPeriod: heartbeat ? leaseMs / 4 : undefined })
    return { manager, failOpen, failClosed, crash: () => manager.stop() }
  }

  async close(): Promise<void> {
    for (const manager of this.#managers.splice(0)) await manager.stop()
    await this.#store.closeClients()
  }
}

/** What a lock has told so far. */
export function heard(lock: FencedLock): string[] {
  const told: string[] = []
  const names: (keyof FencedLockEvents)[] = ['error', 'lost']
  for (const name of names) lock.on(name, (cause) => told.push(`${name}: ${(cause as Error).message}`))
  return told
}

/** What the promise rejected with. @throws when it did not */
export async function errorOf(promise: Promise<unknown>): Promise<Error> {
  const tracked = track(promise)
  await promise.catch(() => {})
  if (tracked.state !== 'rejected') throw new Error('it did not reject')
  return tracked.error as Error
}
