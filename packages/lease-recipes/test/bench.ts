/** What the suites of the standing recipes share: processes at one store whose line can be cut, and a record of events. */
import {
  ErrUnknown,
  Manager,
  systemClock,
  type Client,
  type Clock,
  type CountedClient,
  type LeaseChange,
  type Renewal,
  type SubscribeOptions,
} from 'lease-core'
import type { Emitter, EventMap } from '#src/emitter.ts'
import { unique, type Store } from './stores.ts'

/** The calls of a `Client` that go to the store. */
const sent = new Set<PropertyKey>([
  'claimLease',
  'extendLease',
  'expireLease',
  'releaseLease',
  'pinLease',
  'unpinLease',
  'pinned',
  'refresh',
])

/** One process: a client of its own on a line that can be watched, held up and cut, and its manager. */
export class Process {
  readonly client: Client
  readonly manager: Manager
  /** How many calls of each kind were sent. */
  readonly counts: Record<string, number> = {}
  /** How many `resync` hints came: one after the subscription, then one for each new connection. */
  resyncs = 0
  /** How many calls were rejected with `ErrUnknown`. */
  failures = 0
  /** How long the slowest call took, without the time for which `pause()` held it up. */
  slowestMs = 0
  /** Every call from now on is `ErrUnknown`. */
  cut = false
  #inFlight = 0
  readonly #clock: Clock
  #held: { readonly opened: Promise<void>; readonly open: () => void } | undefined

  constructor(store: Store, namespace: string) {
    const client = store.client(namespace)
    this.#clock = store.clock
    this.client = new Proxy(client, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name)
        if (name === 'counted') return member === undefined ? undefined : this.#counted(member as CountedClient)
        if (typeof member !== 'function') return member
        const method = member as (...args: unknown[]) => unknown
        if (name === 'renewLease') {
          return (renewal: Renewal) => void this.#renew(renewal, (own) => method.call(target, own))
        }
        if (name === 'subscribe') {
          return (listener: (change: LeaseChange) => void, options?: SubscribeOptions) => {
            const own = (change: LeaseChange): void => {
              if (change.kind === 'resync') this.resyncs++
              listener(change)
            }
            return method.call(target, own, options)
          }
        }
        return sent.has(name)
          ? (...args: unknown[]) => this.#send(String(name), () => method.apply(target, args))
          : method.bind(target)
      },
    })
    this.manager = new Manager({ client: this.client, clock: store.clock })
  }

  get sent(): number {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0)
  }

  /** Whether it has subscribed, and none of its calls is in flight. */
  get settled(): boolean {
    return this.resyncs > 0 && this.#inFlight === 0
  }

  /** No call gets through until `resume()`. */
  pause(): void {
    let open = (): void => {}
    const opened = new Promise<void>((resolve) => (open = resolve))
    this.#held = { opened, open }
  }

  resume(): void {
    this.#held?.open()
    this.#held = undefined
  }

  #counted(counted: CountedClient): CountedClient {
    return {
      read: (lease) => this.#send('counted', () => counted.read(lease)) as ReturnType<CountedClient['read']>,
      define: (...args) => this.#send('define', () => counted.define(...args)) as Promise<string>,
      blocking: (lease) => counted.blocking(lease),
    }
  }

  /** Which calls back instead of a promise; counted as what it is. */
  async #renew(renewal: Renewal, call: (renewal: Renewal) => unknown): Promise<void> {
    const { lease, holder, fencingToken, durationMs } = renewal
    const answered = (): Promise<void> =>
      new Promise((granted, failed) => void call({ lease, holder, fencingToken, durationMs, granted, failed }))
    await this.#send('extendLease', answered).then(
      () => renewal.granted(),
      (error: unknown) => renewal.failed(error),
    )
  }

  async #send(name: string, call: () => unknown): Promise<unknown> {
    this.counts[name] = (this.counts[name] ?? 0) + 1
    this.#inFlight++
    try {
      await this.#held?.opened
      if (this.cut) throw new ErrUnknown('the line is cut')
      const sentMs = this.#clock.monotonic()
      try {
        return await call()
      } finally {
        this.slowestMs = Math.max(this.slowestMs, this.#clock.monotonic() - sentMs)
      }
    } catch (error) {
      if (error instanceof ErrUnknown) this.failures++
      throw error
    } finally {
      this.#inFlight--
    }
  }
}

/** The processes of one test, in a namespace of its own. */
export class Bench {
  readonly namespace: string = unique('bench')
  readonly #store: Store
  readonly #processes: Process[] = []
  readonly #recipes: AsyncDisposable[] = []

  constructor(store: Store) {
    this.#store = store
  }

  process(): Process {
    const process = new Process(this.#store, this.namespace)
    this.#processes.push(process)
    return process
  }

  /** Whether its store's time is exact. */
  get exact(): boolean {
    return this.#store.exact
  }

  /** The longest time that the store took to answer. */
  get slowestMs(): number {
    return Math.max(...this.#processes.map(({ slowestMs }) => slowestMs))
  }

  /** Lets time pass until these processes have subscribed and wait for what comes; without names, all of them. */
  async settled(...processes: readonly Process[]): Promise<void> {
    const all = processes.length > 0 ? processes : this.#processes
    await this.#store.until('processes that wait for news', () => all.every(({ settled }) => settled))
  }

  /**
   * How many messages these processes sent while there was nothing to ask for, those that sent some. Up to two are not
   * counted for each time that a process heard that hints may have been lost (as when it subscribed), or that a call failed.
   */
  async unprompted(processes: readonly Process[]): Promise<number[]> {
    await this.settled(...processes)
    const before = processes.map(({ sent }) => sent)
    await this.#store.pass(5 * this.#store.momentMs)
    const counts = processes.map(({ sent, resyncs, failures }, index) => {
      return sent - (before[index] ?? 0) - 2 * (resyncs + failures)
    })
    return counts.filter((count) => count > 0)
  }

  /** Closed at the end of the test. */
  own<T extends AsyncDisposable>(recipe: T): T {
    this.#recipes.push(recipe)
    return recipe
  }

  /** Its outcome, letting time pass until it is there. */
  async within<T>(work: Promise<T>): Promise<T> {
    let done = false
    const mark = (): void => void (done = true)
    work.then(mark, mark)
    await this.#store.until('an outcome', () => done)
    return work
  }

  async close(): Promise<void> {
    for (const process of this.#processes) {
      process.resume()
      process.cut = false
    }
    await Promise.all(this.#recipes.splice(0).map((recipe) => recipe[Symbol.asyncDispose]()))
    await Promise.all(this.#processes.splice(0).map(({ manager }) => manager.stop()))
    await this.#store.closeClients()
  }
}

/**
 * Runs a scene in which short leases must survive on renewals, or end for one reason and no other. A scene that failed while
 * the machine or the store stalled has proved nothing: it is repeated with leases twice as long, at most `DOUBLINGS` times.
 *
 * @param begin opens a bench for each attempt, on which the scene takes place
 * @throws what the first undisturbed scene threw, or the last one
 */
export async function undisturbed(
  firstTtlMs: number,
  begin: () => Promise<Bench>,
  scene: (ttlMs: number) => Promise<void>,
): Promise<void> {
  for (let doublings = 0; ; doublings++) {
    const ttlMs = firstTtlMs * 2 ** doublings
    const bench = await begin()
    const lateness = new Lateness()
    try {
      await scene(ttlMs)
      return
    } catch (error) {
      const stalledMs = bench.exact ? 0 : Math.max(bench.slowestMs, lateness.mostMs)
      if (stalledMs < ttlMs / 10 || doublings === DOUBLINGS) throw error
    } finally {
      lateness.stop()
    }
  }
}

/** How late the timers of this process are. */
class Lateness {
  #mostMs = 0
  #lastMs = systemClock.monotonic()
  readonly #timer = setInterval(() => void this.mostMs, TICK_MS)

  get mostMs(): number {
    const nowMs = systemClock.monotonic()
    this.#mostMs = Math.max(this.#mostMs, nowMs - this.#lastMs - TICK_MS)
    this.#lastMs = nowMs
    return this.#mostMs
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}

const TICK_MS = 5
/** With the longest leases a scene takes some ten seconds, and a stall must last for seconds to disturb it. */
const DOUBLINGS = 4

/** Notes every such event as `name` or `name detail`. */
export function record<Events extends EventMap<Events>>(
  emitter: Emitter<Events>,
  events: { readonly [Name in keyof Events]?: (...args: Events[Name]) => string },
): string[] {
  const told: string[] = []
  for (const name of Object.keys(events) as (keyof Events & string)[]) {
    emitter.on(name, (...args) => {
      const detail = events[name]?.(...args) ?? ''
      told.push(detail === '' ? name : `${name} ${detail}`)
    })
  }
  return told
}

/** The `hold` of a manager, and how often it was granted. The operator revokes the first grant at once: its caller gets a lost Hold. */
export function losingTheFirst(
  manager: Manager,
  operator: Manager,
): { readonly hold: Manager['hold']; readonly grants: () => number } {
  let grants = 0
  const hold: Manager['hold'] = async (lease, ...args) => {
    const granted = await manager.hold(lease, ...args)
    if (++grants === 1) {
      const lost = new Promise((resolve) => granted.signal.addEventListener('abort', resolve))
      await operator.revoke(lease)
      await lost
    }
    return granted
  }
  return { hold, grants: () => grants }
}

/** What the work rejected with, which must be of this class. */
export async function rejection<E extends Error>(
  work: PromiseLike<unknown>,
  type: abstract new (...args: never[]) => E,
): Promise<E> {
  try {
    await work
  } catch (error) {
    if (error instanceof type) return error
    throw error
  }
  throw new Error(`resolved, where ${type.name} was expected`)
}

/** Rejections that nobody handled while the work was done. */
export async function unhandledDuring(work: () => Promise<void>): Promise<unknown[]> {
  const unhandled: unknown[] = []
  const listener = (reason: unknown): void => void unhandled.push(reason)
  const before = process.listeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection')
  process.on('unhandledRejection', listener)
  try {
    await work()
    // oxlint-disable-next-line no-restricted-globals -- they are notified of after a turn of the event loop
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.off('unhandledRejection', listener)
    for (const one of before) process.on('unhandledRejection', one)
  }
  return unhandled
}
