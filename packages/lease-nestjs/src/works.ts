/**
 * Runs the decorated methods, and ends them in order when the application does:
 *
 *     running ──`refuse`──▶ new calls and waits end with ErrStopped, works go on ──`end`──▶ works are aborted and awaited, then all is closed
 *
 * Nest calls the first before it closes its servers, and the second when the requests that were under way have ended.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { ErrStopped, type Manager, sleep, systemClock, warn, type Client } from 'lease-core'
import { OncePer, withLease, type RunOptions, type Slot, type WithLeaseOptions } from 'lease-recipes'

/** What a decorated method relies on while it runs. */
export interface LeaseWork {
  /** Aborts when the lease is lost, and when the application ends. */
  readonly signal: AbortSignal
  /** For every write to what the lease protects. */
  readonly fencingToken: bigint
  /** The name of the lease, or of the job. */
  readonly name: string
}

const current = new AsyncLocalStorage<LeaseWork>()

/**
 * The lease of the decorated method that runs here: in the method, and in all that it calls and awaits.
 *
 * @throws Error no decorated method runs here
 */
export function currentLease(): LeaseWork {
  const work = current.getStore()
  if (work !== undefined) return work
  throw new Error(
    'no lease is held here: call currentLease() in a method with @Lease or @CronOncePer, or in what it calls',
  )
}

/** Each reading of its signal is right, also after a pause of the process, when the timers are late. */
function workOf(name: string, signal: AbortSignal, fencingToken: bigint, lock: { readonly held: boolean }): LeaseWork {
  return {
    name,
    fencingToken,
    get signal(): AbortSignal {
      void lock.held // aborts the signal if the time of the lease is over
      return signal
    },
  }
}

/** How a call ends that cannot begin any more. */
const stopped = (): ErrStopped => new ErrStopped('the application is ending, and begins no work under a lease any more')

interface Call {
  readonly controller: AbortController
  isWork: boolean
}

export interface WorksOptions {
  readonly manager: Manager
  /** Closed at the end, after the manager has stopped: what the module made itself. */
  readonly owned: Client | undefined
  readonly close: (() => unknown) | undefined
  readonly patienceMs: number
}

export class Works {
  readonly manager: Manager
  readonly #options: WorksOptions
  readonly #calls = new Map<Promise<unknown>, Call>()
  #once: OncePer | undefined
  #isOver = false
  #ended: Promise<void> | undefined

  constructor(options: WorksOptions) {
    this.#options = options
    this.manager = options.manager
  }

  /** Runs it under a lease. @throws as `withLease`; ErrStopped the application ends */
  underLease<T>(
    name: string,
    options: Omit<WithLeaseOptions, 'signal'>,
    work: () => T | PromiseLike<T>,
  ): Promise<Awaited<T>> {
    return this.#call(({ controller }, begun) =>
      withLease(this.manager, name, { ...options, signal: controller.signal }, ({ signal, fencingToken, hold }) =>
        begun(workOf(name, signal, fencingToken, hold), work),
      ),
    )
  }

  /** Runs a slot of a job, unless it runs or has run somewhere. Resolves with undefined where it was skipped. */
  async oncePer<T>(
    name: string,
    slot: Slot,
    options: RunOptions,
    work: () => T | PromiseLike<T>,
  ): Promise<Awaited<T> | undefined> {
    const once = (this.#once ??= new OncePer({ manager: this.manager }))
    const outcome = await this.#call(({ controller }, begun) =>
      once.run(name, slot, ({ signal, fencingToken, run }) => begun(workOf(name, signal, fencingToken, run), work), {
        ...options,
        signal: controller.signal,
      }),
    )
    return outcome.ran ? outcome.result : undefined
  }

  /** No call begins any more, and those that wait end. Works go on. */
  refuse(): void {
    this.#isOver = true
    for (const { controller, isWork } of this.#calls.values()) if (!isWork) controller.abort(stopped())
  }

  /** Aborts the works, waits for them, and closes what the module made. Idempotent. */
  end(): Promise<void> {
    return (this.#ended ??= this.#end())
  }

  async #end(): Promise<void> {
    this.refuse()
    for (const { controller } of this.#calls.values()) controller.abort(stopped())
    await this.#settled()
    const { owned, close } = this.#options
    if (owned !== undefined) {
      await this.manager.stop()
      await owned.close()
    }
    await close?.()
  }

  /** Waits until the works have ended, or for as long as they may take. */
  async #settled(): Promise<void> {
    const timer = new AbortController()
    const works = Promise.allSettled(this.#calls.keys())
    const late = sleep(systemClock, this.#options.patienceMs, timer.signal).then(
      () => true,
      () => false,
    )
    const isLate = await Promise.race([late, works.then(() => false)])
    timer.abort()
    const left = this.#calls.size
    if (isLate) warn(new Error(`${left} work${left === 1 ? '' : 's'} under a lease did not end within shutdownTimeout`))
  }

  #call<T>(run: (call: Call, begun: <W>(work: LeaseWork, body: () => W) => W) => Promise<T>): Promise<T> {
    if (this.#isOver) return Promise.reject(stopped())
    const call: Call = { controller: new AbortController(), isWork: false }
    const begun = <W>(work: LeaseWork, body: () => W): W => {
      call.isWork = true
      return current.run(work, body)
    }
    const promise = run(call, begun)
    this.#calls.set(promise, call)
    const leave = (): void => void this.#calls.delete(promise)
    promise.then(leave, leave)
    return promise
  }
}
