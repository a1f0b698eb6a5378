/** What the suites of the standing recipes share: processes at one store whose line can be cut, and a record of events. */
import { ErrUnknown, Manager, type Client, type Renewal } from 'lease-core'
import type { Emitter, EventMap } from '#src/emitter.ts'
import { unique, type Store } from './stores.ts'

/** The calls of a `Client` that go to the store. */
const sent = new Set<PropertyKey>([
  'claimLease',
  'claimAnyLease',
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
  /** Every call from now on is `ErrUnknown`. */
  cut = false
  #held: { readonly opened: Promise<void>; readonly open: () => void } | undefined

  constructor(store: Store, namespace: string) {
    const client = store.client(namespace)
    this.client = new Proxy(client, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        const method = member as (...args: unknown[]) => unknown
        if (name === 'renewLease')
          return (renewal: Renewal) => void this.#renew(renewal, () => method.call(target, renewal))
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

  /** Which calls back instead of a promise; counted as what it is. */
  async #renew(renewal: Renewal, call: () => unknown): Promise<void> {
    try {
      await this.#send('extendLease', call)
    } catch (error) {
      renewal.failed(error)
    }
  }

  async #send(name: string, call: () => unknown): Promise<unknown> {
    this.counts[name] = (this.counts[name] ?? 0) + 1
    await this.#held?.opened
    if (this.cut) throw new ErrUnknown('the line is cut')
    return call()
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
    for (const recipe of this.#recipes) await recipe[Symbol.asyncDispose]()
    for (const { manager } of this.#processes) await manager.stop()
    await this.#store.closeClients()
  }
}

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
    // oxlint-disable-next-line no-restricted-globals -- they are told of after a turn of the event loop
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.off('unhandledRejection', listener)
    for (const one of before) process.on('unhandledRejection', one)
  }
  return unhandled
}
