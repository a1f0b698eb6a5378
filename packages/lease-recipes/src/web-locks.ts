/**
 * `navigator.locks` over leases, for code that runs in browsers and on servers.
 *
 *     <prefix>/<name>#<request>   each request holds a share of a counted lease: an exclusive one all of it, a shared one a 2³⁰th
 *
 * Promises.
 * - As in the Web Locks API: requests for one name are granted first come, first served. An exclusive lock is held alone, shared locks are
 *   held together. A lock is held until the promise of its callback settles, and `request` settles as that promise does.
 * - Beyond it: the locks of all processes in one namespace exclude each other. So a lock can be lost, for instance when its process was
 *   paused for longer than `duration`. Then, as when it is stolen, `request` rejects with an AbortError at once, and its `signal` aborts.
 * - `query` shows the locks held in all processes, and the requests that wait in this process.
 *
 * After the Web Locks API of the W3C (https://w3c.github.io/web-locks/).
 */
import { ErrClaimDenied, MAX_CAPACITY, onAbort, throwIfAborted, uniqueHolder } from 'lease-core'
import type { Hold, Manager } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'
import { decodeSegment, leaseNameIn, prefixIn } from './segments.ts'

/** Options of `webLocks`. */
export interface WebLocksOptions {
  /**
   * After a crash of its process a lock expires within this time. It is renewed while it is held. A number is in
   * milliseconds.
   *
   * @default 15 seconds
   */
  readonly duration?: DurationLike | undefined
  /** The first part of each lease name: locks of two prefixes are independent. @default 'weblocks' */
  readonly prefix?: string | undefined
}

/** Whether a lock excludes all others, or only exclusive ones. */
export type WebLockMode = 'exclusive' | 'shared'

/** The lock that the callback is called with. */
export interface WebLock {
  readonly name: string
  readonly mode: WebLockMode
  /** Aborts when the lock is lost, stolen or released. Not part of the Web Locks API. */
  readonly signal: AbortSignal
  /** Above those of all earlier holders of the lock. Not part of the Web Locks API. */
  readonly fencingToken: bigint
}

/** Options of `request`. */
export interface WebLockRequestOptions {
  /** @default 'exclusive' */
  readonly mode?: WebLockMode | undefined
  /** Calls the callback with null instead of waiting. @default false */
  readonly ifAvailable?: boolean | undefined
  /** Revokes the lock of all holders, whose requests reject, and takes it ahead of all waiters. @default false */
  readonly steal?: boolean | undefined
  /** Ends the wait with its reason; does not end the lock. */
  readonly signal?: AbortSignal | undefined
}

/** A lock or a waiting request, as `query` shows it. */
export interface WebLockInfo {
  readonly name: string
  readonly mode: WebLockMode
  /** Names one request; there are no clients here. */
  readonly clientId: string
}

/** What `query` returns. */
export interface WebLocksState {
  /** Locks held in all processes. */
  readonly held: WebLockInfo[]
  /** Requests that wait in this process. */
  readonly pending: WebLockInfo[]
}

/** The part of `navigator.locks` that `webLocks` provides. */
export interface WebLocks {
  /**
   * Calls the callback with the lock, and settles as the callback does.
   *
   * @throws DOMException `AbortError`: the lock was stolen or lost before the callback settled; its `cause` is the `ErrLost`.
   *   `NotSupportedError`: options that exclude each other, or a name that begins with "-"
   * @throws ErrNotValid, ErrUnknown, ErrStopped, or the reason of the signal
   */
  request<T>(name: string, callback: (lock: WebLock | null) => T | PromiseLike<T>): Promise<Awaited<T>>
  request<T>(
    name: string,
    options: WebLockRequestOptions | undefined,
    callback: (lock: WebLock | null) => T | PromiseLike<T>,
  ): Promise<Awaited<T>>
  /** Returns the held locks and the waiting requests. Reads the whole namespace. @throws ErrUnknown */
  query(): Promise<WebLocksState>
}

/**
 * Returns `navigator.locks` over this manager. It does not stop the manager.
 *
 * @throws ErrNotValid with every problem
 */
export function webLocks(manager: Manager, options: WebLocksOptions = {}): WebLocks {
  const reader = new OptionReader(options, ['duration', 'prefix'], { arguments: { manager } })
  reader.object('manager', 'a Manager', ['hold', 'counted', 'find', 'revoke', 'leases'])
  const durationMs = reader.renewedDuration('duration', 15_000)
  const segment = prefixIn(reader, 'weblocks')
  reader.finish()
  return new LeaseLocks(manager, durationMs, segment)
}

type Callback<T> = (lock: WebLock | null) => T | PromiseLike<T>

class LeaseLocks implements WebLocks {
  readonly #manager: Manager
  readonly #durationMs: number
  readonly #prefix: string
  readonly #pending = new Set<WebLockInfo>()

  constructor(manager: Manager, durationMs: number, prefix: string) {
    this.#manager = manager
    this.#durationMs = durationMs
    this.#prefix = prefix
  }

  async request<T>(name: string, ...rest: readonly unknown[]): Promise<Awaited<T>> {
    const [given = {}, callback] = rest.length < 2 ? [{}, rest[0]] : rest
    const { mode, ifAvailable, steal, signal, lease } = this.#checked(name, given, callback)
    throwIfAborted(signal)
    const hold = await this.#take(lease, { name, mode, wait: !ifAvailable && !steal, steal, signal })
    return this.#work(hold, { name, mode }, callback as Callback<Awaited<T>>)
  }

  async query(): Promise<WebLocksState> {
    const held: WebLockInfo[] = []
    for (const [lease, { holder: clientId, weight, value }] of await this.#manager.leases()) {
      const [prefix, segment, ...others] = lease.slice(0, lease.indexOf('#')).split('/')
      if (weight === undefined || prefix !== this.#prefix || segment === undefined || others.length > 0) continue
      const name = decodeSegment(segment)
      if (name !== undefined) held.push({ name, mode: value === 'shared' ? 'shared' : 'exclusive', clientId })
    }
    return { held, pending: [...this.#pending] }
  }

  /** @throws ErrNotValid, DOMException */
  #checked(name: unknown, given: unknown, callback: unknown): Parsed {
    const known = ['mode', 'ifAvailable', 'steal', 'signal']
    const reader = new OptionReader(given as WebLockRequestOptions, known, { arguments: { name, callback } })
    const lease = leaseNameIn(reader, 'name', { prefix: this.#prefix })
    reader.must('callback', typeof callback === 'function', 'must be a function')
    const { mode = 'exclusive' } = reader.read
    reader.must('mode', mode === 'exclusive' || mode === 'shared', 'must be "exclusive" or "shared"')
    const ifAvailable = reader.boolean('ifAvailable', false)
    const steal = reader.boolean('steal', false)
    const signal = reader.signal()
    reader.finish()
    if ((name as string).startsWith('-')) throw unsupported('a name must not begin with "-"')
    if (steal && ifAvailable) throw unsupported('steal and ifAvailable exclude each other')
    if (steal && mode === 'shared') throw unsupported('only an exclusive lock can be stolen')
    if (signal !== undefined && (steal || ifAvailable)) throw unsupported('signal excludes steal and ifAvailable')
    return { mode, ifAvailable, steal, signal, lease }
  }

  /** undefined: the lock is not available. */
  async #take(lease: string, { name, mode, wait, steal, signal }: Taking): Promise<Hold | undefined> {
    const holder = uniqueHolder('lock')
    const weight = mode === 'shared' ? 1 : MAX_CAPACITY
    const share = { weight, capacity: MAX_CAPACITY, ahead: steal }
    const options = { duration: this.#durationMs, value: mode, share, wait, signal } as const
    const pending = { name, mode, clientId: holder }
    this.#pending.add(pending)
    try {
      const claim = (): Promise<Hold | undefined> =>
        this.#manager.hold(lease, holder, options).catch((error: unknown) => {
          if (!(error instanceof ErrClaimDenied) || wait) throw error
          return undefined
        })
      return steal ? await this.#steal(lease, claim) : await claim()
    } finally {
      this.#pending.delete(pending)
    }
  }

  /**
   * Revokes and claims until it is granted the lock. The claim travels with the revocations, behind them, so a waiter does not hear of the
   * vacancy before. A store that works on both side by side may still grant a waiter the lock: that one is revoked too.
   */
  async #steal(lease: string, claim: () => Promise<Hold | undefined>): Promise<Hold> {
    for (;;) {
      const { shares } = await this.#manager.counted(lease)
      const revocations = Array.from(shares, ([share, { fencingToken }]) =>
        this.#manager.revoke(share, { fencingToken }),
      )
      const revoked = Promise.all(revocations)
      revoked.catch(() => {}) // when the claim is granted, they took effect, whatever their answers
      const [first] = shares.keys()
      if (first !== undefined) await this.#manager.find(first) // each revocation reads its share first: this read travels with theirs
      const together = await claim()
      if (together !== undefined) return together
      await revoked
      const afterwards = await claim()
      if (afterwards !== undefined) return afterwards
    }
  }

  /** Runs the callback. Waits for its outcome only while the lock is held. */
  async #work<T>(
    hold: Hold | undefined,
    { name, mode }: Pick<WebLockInfo, 'name' | 'mode'>,
    callback: Callback<T>,
  ): Promise<T> {
    if (hold === undefined) return callback(null)
    const { signal, fencingToken } = hold
    const loss = (): DOMException =>
      new DOMException(`the lock "${name}" was stolen or lost`, { name: 'AbortError', cause: signal.reason as unknown })
    let stopListening = (): void => {}
    const lost = new Promise<never>((_, reject) => {
      stopListening = onAbort(signal, () => reject(loss()))
    })
    lost.catch(() => {}) // the callback may settle first
    try {
      if (!hold.held) throw loss() // since the grant, for instance in a pause of the process
      return await Promise.race([lost, (async () => callback({ name, mode, signal, fencingToken }))()])
    } finally {
      stopListening()
      await hold.release().catch(() => {}) // the lease expires by itself; do not hide the outcome of the callback
    }
  }
}

interface Parsed {
  readonly mode: WebLockMode
  readonly ifAvailable: boolean
  readonly steal: boolean
  readonly signal: AbortSignal | undefined
  readonly lease: string
}

interface Taking extends Pick<Parsed, 'mode' | 'steal' | 'signal'> {
  readonly name: string
  readonly wait: boolean
}

function unsupported(message: string): DOMException {
  return new DOMException(message, 'NotSupportedError')
}
