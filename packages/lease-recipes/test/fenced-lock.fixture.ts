/** Processes that lock things, on one store. */
import { ErrUnknown, Manager } from 'lease-core'
import { track } from 'lease-core/testing'
import { FailClosedLock, FailOpenLock, type FencedLock, type FencedLockEvents, type LockId } from 'lease-recipes'
import { renewingEvery } from './store-events.ts'
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
  readonly #processes: Process[] = []

  constructor(store: Store) {
    this.#store = store
  }

  /** Of locks that are to lapse in the course of a test; others last, however slow the machine. */
  get leaseMs(): number {
    return 3 * this.#store.unitMs
  }

  /** How often locks are renewed whose heartbeats a test waits for. */
  get heartbeatMs(): number {
    return this.#store.unitMs / 2
  }

  /** @param options `heartbeat: false`: its fail-open locks are not renewed */
  process(options: { heartbeat?: boolean; heartbeatMs?: number; owner?: string; leaseMs?: number } = {}): Process {
    const { heartbeat = true, heartbeatMs, owner, leaseMs = 1000 * this.leaseMs } = options
    const { clock } = this.#store
    const manager = new Manager({ client: this.#store.client(this.namespace), clock })
    const common = { clock, owner, leaseDuration: leaseMs }
    const failClosed = new FailClosedLock({
      ...common,
      manager: heartbeatMs === undefined ? manager : renewingEvery(manager, heartbeatMs),
    })
    const heartbeatPeriod = heartbeat ? (heartbeatMs ?? leaseMs / 4) : undefined
    const failOpen = new FailOpenLock({ ...common, manager, heartbeatPeriod })
    const process = { manager, failOpen, failClosed, crash: () => manager.stop() }
    this.#processes.push(process)
    return process
  }

  async close(): Promise<void> {
    for (const { manager, failOpen } of this.#processes.splice(0)) {
      await failOpen.close() // what is not renewed keeps this process from ending until its time is over
      await manager.stop()
    }
    await this.#store.closeClients()
  }
}

/** What a lock has reported so far. */
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

/** A lock of a brief lease. A grant that came too late, to be pinned as well, is given back: then it is tried again. */
export async function acquireInTime(locks: FailOpenLock | FailClosedLock, id: LockId): Promise<FencedLock> {
  for (;;) {
    try {
      return await locks.acquireLock(id, { wait: true })
    } catch (error) {
      if (!(error instanceof ErrUnknown)) throw error
    }
  }
}
