/**
 * A fleet of processes over the memory store, on a clock that this program moves: counts what the processes ask of the store, and
 * takes only CPU. Each process has a client, a Manager and listeners of its own, as on a real server; the store applies each request
 * at once. The counts are deterministic.
 */
import { Manager, MemoryStore, MemorySubstrate, type Hold } from 'lease-core'
import { SubstrateClient, type Op } from 'lease-core/adapter'
import { TestClock } from 'lease-core/testing'
import type { Fleet } from './fleet-load.ts'

/** What the store was asked, and what it reported. */
export interface Counts {
  /** Calls of `apply`. */
  requests: number
  /** Operations in these calls. */
  operations: Record<Op['kind'], number>
  /** Calls of `read`. */
  readRequests: number
  /** Leases in these calls. */
  reads: number
  /** Messages to clients. */
  messages: number
}

export interface SimulatedFleet extends Fleet {
  /** How far apart a process claims its leases; 0: all at once. In milliseconds. */
  readonly apartMs: number
  /** Whether all wait for leases of the first process, and not each for those of the next one. @default false */
  readonly waitForFirst?: boolean
}

/** A fleet that holds its leases and waits, and the means to let time pass. */
export class FleetSimulation {
  readonly #clock: TestClock
  readonly #counts: Counts
  readonly #managers: readonly Manager[]
  readonly #holds: readonly Hold[]

  private constructor(
    clock: TestClock,
    counts: Counts,
    { managers, holds }: { readonly managers: readonly Manager[]; readonly holds: readonly Hold[] },
  ) {
    this.#clock = clock
    this.#counts = counts
    this.#managers = managers
    this.#holds = holds
  }

  /** Resolves once every lease is held and every wait has begun. The processes start one after the other, a millisecond apart. */
  static async start(fleet: SimulatedFleet): Promise<FleetSimulation> {
    const { processes, leases, durationMs, waits, serverClock, apartMs, waitForFirst = false } = fleet
    const clock = new TestClock()
    const store = new MemoryStore({ clock, serverClock })
    const counts = noCounts()
    const managers = Array.from({ length: processes }, () => {
      const client = new SubstrateClient({ substrate: new CountingSubstrate(store, counts), clock })
      return new Manager({ client, clock })
    })
    const holds: Hold[] = []
    const hold = (manager: Manager, process: number, lease: number): void => {
      const held = manager.hold(`lease-${process}-${lease}`, `process-${process}`, { duration: durationMs })
      void held.then((one) => holds.push(one))
    }
    if (apartMs === 0) {
      for (const [process, manager] of managers.entries()) {
        for (let lease = 0; lease < leases; lease++) hold(manager, process, lease)
        await clock.advance(1)
      }
    } else {
      for (let lease = 0; lease < leases; lease++) {
        for (const [process, manager] of managers.entries()) hold(manager, process, lease)
        await clock.advance(apartMs)
      }
    }
    for (const [process, manager] of managers.entries()) {
      for (let wait = 0; wait < waits; wait++) {
        const holder = waitForFirst ? 0 : (process + 1) % processes
        if (holder === process) continue
        const lease = `lease-${holder}-${wait}`
        const waiting = manager.hold(lease, `process-${process}`, { duration: durationMs, wait: true })
        waiting.catch(() => {}) // at the end everybody stops waiting
      }
      if (waits > 0) await clock.advance(1)
    }
    await clock.settle()
    if (holds.length !== processes * leases) throw new Error('not every lease is held')
    return new FleetSimulation(clock, counts, { managers, holds })
  }

  /** What is asked while so much time passes. */
  async countFor(ms: number): Promise<Counts> {
    await this.#clock.settle()
    const before = structuredClone(this.#counts)
    await this.#clock.advance(ms)
    if (this.#holds.some(({ held }) => !held)) throw new Error('a lease was lost')
    return difference(this.#counts, before)
  }

  async stop(): Promise<void> {
    await Promise.all(this.#managers.map((manager) => manager.stop()))
  }
}

/**
 * Hands one lease on so many times while so many processes wait for it, each process again once it has released. Counts what that
 * takes once each process has had the lease: a process that is served for the first time asks once more.
 */
export async function countHandOffs(waiters: number, handOffs: number): Promise<Counts> {
  const clock = new TestClock()
  const store = new MemoryStore({ clock })
  const counts = noCounts()
  const managers = Array.from({ length: waiters + 1 }, () => {
    const client = new SubstrateClient({ substrate: new CountingSubstrate(store, counts), clock })
    return new Manager({ client, clock })
  })
  const granted: { readonly index: number; readonly hold: Hold }[] = []
  const wait = async (index: number): Promise<void> => {
    const manager = managers[index] as Manager
    const hold = await manager.hold('handed-on', `process-${index}`, { duration: { hours: 2 }, wait: true })
    granted.push({ index, hold })
  }
  for (const index of managers.keys()) {
    wait(index).catch(() => {}) // as above
    await clock.advance(1)
  }
  await clock.settle()
  const handOn = async (): Promise<void> => {
    const holding = granted.shift()
    if (holding === undefined) throw new Error('nobody holds the lease')
    await holding.hold.release()
    wait(holding.index).catch(() => {})
    await clock.settle()
    if (granted.length !== 1) throw new Error('nobody was granted the lease')
  }
  for (let done = 0; done <= waiters; done++) await handOn()
  const before = structuredClone(counts)
  for (let done = 0; done < handOffs; done++) await handOn()
  const counted = difference(counts, before)
  await Promise.all(managers.map((manager) => manager.stop()))
  return counted
}

/** The memory store, asked as a server would be. */
class CountingSubstrate extends MemorySubstrate {
  readonly #counts: Counts

  constructor(store: MemoryStore, counts: Counts) {
    super({ store, namespace: 'fleet' })
    this.#counts = counts
  }

  override apply(...args: Parameters<MemorySubstrate['apply']>): ReturnType<MemorySubstrate['apply']> {
    this.#counts.requests++
    for (const { kind } of args[0]) this.#counts.operations[kind]++
    return super.apply(...args)
  }

  override read(...args: Parameters<MemorySubstrate['read']>): ReturnType<MemorySubstrate['read']> {
    this.#counts.readRequests++
    this.#counts.reads += args[0]?.length ?? 0
    return super.read(...args)
  }

  override watch(...[listener, client]: Parameters<MemorySubstrate['watch']>): () => void {
    return super.watch((change) => {
      if (change.kind !== 'resync') this.#counts.messages++
      listener(change)
    }, client)
  }
}

function noCounts(): Counts {
  const operations = { claim: 0, extend: 0, release: 0, expire: 0, pin: 0, unpin: 0, leave: 0, passOver: 0, define: 0 }
  return { requests: 0, operations, readRequests: 0, reads: 0, messages: 0 }
}

function difference(after: Counts, before: Counts): Counts {
  const operations = noCounts().operations
  for (const kind of Object.keys(operations) as Op['kind'][]) {
    operations[kind] = after.operations[kind] - before.operations[kind]
  }
  return {
    requests: after.requests - before.requests,
    operations,
    readRequests: after.readRequests - before.readRequests,
    reads: after.reads - before.reads,
    messages: after.messages - before.messages,
  }
}
