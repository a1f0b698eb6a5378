/**
 * Semaphores: at most n permits are held at once, each for its own time.
 *
 *     <prefix>/<id>            a counted lease (`share.ts` of lease-core): its capacity is n
 *     <prefix>/<id>#<holder>   the permits of this holder: a share of it, which is a lease of its own
 *
 * Promises.
 * - Never more than n permits are held, over all timeouts, pauses and crashes: the store counts them when it grants one. The permits of
 *   one holder are one lease. They expire together, and have a fencing token above those of all earlier permits of this semaphore.
 * - A holder has one permit (or k, if it asked for k). If it posts again, in any process, it gets the same permit.
 * - Waiters are served first come, first served, also when they want different numbers of permits. Nobody polls. A hand-over takes the
 *   same few requests for any number of waiters.
 * - `resize` and `destroy` are one write each, which counts for every later grant. After `resize`, permits above n expire or are given
 *   back. `destroy` revokes all permits; a holder may go on until it is notified, at most for the time of its permit.
 *
 * After clusterluck's DSMServer; the names are the same.
 */
import { ErrClaimDenied, ErrInvalid, ErrNotHeld, ErrNotValid, notValid, showAs } from 'lease-core'
import { MAX_CAPACITY, MAX_DURATION_MS, shareName, sleep, systemClock } from 'lease-core'
import type { Clock, CountedInfo, Held, Hold, Manager, Token } from 'lease-core'
import { brokenCapacityRule, OptionReader } from 'lease-core/adapter'
import type { DateTime, Duration, DurationLike } from 'luxon'
import { Calls, Takers } from './calls.ts'
import { Emitter } from './emitter.ts'
import { LinkedSignal } from './or-aborted.ts'
import { leaseNameIn, prefixIn } from './segments.ts'
import { ShareQueue } from './share-queue.ts'
import { isGone, releaseAnywhere, unlessGone } from './unless-gone.ts'

/** Options of `Semaphores`. */
export interface SemaphoresOptions {
  /** The recipe does not stop it. */
  readonly manager: Manager
  /** The first part of each lease name: semaphores of two prefixes are independent. @default 'semaphores' */
  readonly prefix?: string | undefined
  /** The shortest wait that one of the `retries` of `post` adds. A number is in milliseconds. @default 10 ms */
  readonly minWaitTimeout?: DurationLike | undefined
  /** The longest wait that one of the `retries` of `post` adds. A number is in milliseconds. @default 100 ms */
  readonly maxWaitTimeout?: DurationLike | undefined
  /**
   * How long a call may stay unanswered, not counting its wait for others. A number is in milliseconds.
   *
   * @default 30 seconds
   */
  readonly requestTimeout?: DurationLike | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Options of `create`, `read`, `destroy` and `close`. */
export interface SemaphoreCallOptions {
  /**
   * How long the call may stay unanswered; then it rejects with `ErrUnknown`. A number is in milliseconds.
   *
   * @default that of the `Semaphores`
   */
  readonly requestTimeout?: DurationLike | undefined
  /** Ends this call with its reason. What was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `resize`. */
export interface ResizeOptions {
  /** Ends the wait for the end of permits above n. The new limit stays. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `post`. */
export interface PostOptions {
  /** How many permits to take, all or none. @default 1 */
  readonly permits?: number | undefined
  /**
   * The capacity of the semaphore. If the semaphore does not exist, the post creates it with this n. If it has another n, the post rejects
   * with `ErrLimitMismatch`. @default the semaphore must exist
   */
  readonly n?: number | undefined
  /**
   * false: a single try. A duration bounds the wait for others; `requestTimeout` bounds the answer to a claim. true: waits as long as
   * `signal` allows. A number is in milliseconds. @default true
   */
  readonly wait?: DurationLike | boolean | undefined
  /**
   * Another way to bound the wait: each retry adds a random time between `minWaitTimeout` and `maxWaitTimeout`. 0: a single try. No
   * request is sent for a retry. Not together with `wait`.
   */
  readonly retries?: number | undefined
  /**
   * How long each try may stay unanswered. The call rejects with `ErrUnknown` after its wait plus this time for every try: two tries, or
   * with `retries` one more than these. With `wait: true` the call has no such bound. A number is in milliseconds.
   *
   * @default that of the `Semaphores`
   */
  readonly requestTimeout?: DurationLike | undefined
  /** Whether the permit is renewed, after a third of its time, until it is released or lost. @default false */
  readonly keepAlive?: boolean | undefined
  /** Ends this call with its reason; does not end a permit. A permit that was granted after all is given back, if possible. */
  readonly signal?: AbortSignal | undefined
}

/** The permits of one holder, as `read` shows them. */
export interface PermitInfo {
  /** The name under which it was posted. */
  readonly holder: string
  /** How many permits the holder has. */
  readonly permits: number
  /** The latest instant, by the local wall clock, at which it ends, unless it is refreshed. */
  readonly expiry: DateTime
  /** Above those of all earlier permits of the semaphore. */
  readonly fencingToken: bigint
  /** The name of its lease. */
  readonly lease: string
}

/** A semaphore, freshly read. */
export interface SemaphoreInfo {
  /** How many permits there are. */
  readonly n: number
  /** How many permits are taken; may be more than n for some time after `resize`. */
  readonly active: number
  /** Everyone who has permits. */
  readonly holders: readonly PermitInfo[]
}

/** Events with the arguments of their listeners. */
export interface SemaphoresEvents {
  /** A `closeAsync` failed: the permit ends when its time is over. Needs no listener. */
  readonly error: readonly [cause: unknown]
}

/** The semaphore did not exist at the moment of the read. Extends `ErrNotHeld`, with the same code. */
export class ErrNoSemaphore extends ErrNotHeld {
  override readonly name: string = 'ErrNoSemaphore'
  readonly id: string

  constructor(id: string, lease: string) {
    super(`semaphore "${id}" does not exist`, { lease, reason: 'no semaphore' })
    this.id = id
  }
}

/** The semaphore, lock or throttle exists with another capacity, and keeps it. Extends `ErrClaimDenied`, with the same code. */
export class ErrLimitMismatch extends ErrClaimDenied {
  override readonly name: string = 'ErrLimitMismatch'
  readonly id: string
  /** The capacity that it has; of a lock its `maxReaders`, where Infinity is any number. */
  readonly n: number
  /** The capacity that the call named. */
  readonly asked: number

  constructor(id: string, lease: string, limits: LimitMismatch) {
    const { n, asked, message = `semaphore "${id}" already exists with n equal to ${n}, not ${asked}` } = limits
    super(message, { lease, reason: 'limit mismatch' })
    this.id = id
    this.n = n
    this.asked = asked
  }
}

interface LimitMismatch {
  readonly n: number
  readonly asked: number
  /** @default that of a semaphore */
  readonly message?: string
}

/** The permits of one holder. They are given back or lost exactly once, together, and never held again. */
export class Permit implements Held {
  /** The id of the semaphore. */
  readonly id: string
  /** The name under which it was posted. */
  readonly holder: string
  readonly #hold: Hold
  /** Of the latest `post`. All Holds of a permit are of one term. */
  #latest: Hold
  /** The first one that renews itself. */
  #renewing: Hold | undefined

  /** `post` makes it. */
  constructor(id: string, hold: Hold, keepAlive: boolean) {
    this.id = id
    this.holder = hold.holder
    this.#hold = hold
    this.#latest = hold
    if (keepAlive) this.#renewing = hold
  }

  /**
   * For `post`: the same holder was granted the permit again. Keeps at most three Holds, however often that happens.
   * Returns false when this permit is over, or is of another term.
   */
  again(hold: Hold, keepAlive: boolean): boolean {
    if (!this.held || hold.fencingToken !== this.fencingToken) return false
    const before = this.#latest
    this.#latest = hold
    if (keepAlive) this.#renewing ??= hold
    if (before !== this.#hold && before !== this.#renewing) before.release().catch(() => {}) // shared: sends nothing
    return true
  }

  /** The name of its lease in the store. */
  get lease(): string {
    return this.#hold.lease
  }

  /** Above those of all earlier permits of the semaphore. A refresh does not change it. */
  get fencingToken(): bigint {
    return this.#hold.fencingToken
  }

  /** For `token.check(key)` before a guarded write. It is of this term. */
  get token(): Token {
    return this.#hold.token
  }

  /** Whether the holder may rely on the permit now. Reads the clocks. */
  get held(): boolean {
    return this.#hold.held
  }

  /** Aborts with an `ErrLost` when the permit is lost, and with an AbortError after a release. */
  get signal(): AbortSignal {
    return this.#hold.signal
  }

  /** Whether it takes the whole capacity, and no other permit is left from before a `resize`. Reads the store. @throws ErrNotHeld, ErrUnknown */
  isExclusive(): Promise<boolean> {
    return this.#hold.isExclusive()
  }

  /** How long the holder may rely on the permit without a renewal; zero when it is over. */
  remaining(): Duration {
    return this.#hold.remaining()
  }

  /** @throws ErrLost the permit is over, by loss or by release */
  assertHeld(): void {
    this.#hold.assertHeld()
  }

  /**
   * Renews the permit: it lasts the `timeout` of the latest `post`, from now.
   *
   * @throws ErrLost    the permit is over
   * @throws ErrUnknown the permit may have been renewed
   */
  async refresh(): Promise<void> {
    this.assertHeld()
    const latest = this.#latest
    await latest.renew().catch((error: unknown) => {
      if (latest === this.#latest || !this.held) throw error // otherwise a concurrent `post` has refreshed it
    })
    this.assertHeld()
  }

  /**
   * Gives the permit back. When it resolves, another can have it. Resolves if it is over already.
   *
   * @throws ErrNotHeld reason `adopted`: the same holder has posted again in another process, which keeps the permit. This object is
   *   over. `close` of the `Semaphores` frees the permit there too
   * @throws ErrUnknown the permit may have been given back; if not, it ends when its time is over
   */
  release(): Promise<void> {
    return this.#hold.release({ all: true }).catch(unlessGone)
  }

  /** The same as `release()`. */
  close(): Promise<void> {
    return this.release()
  }

  /** Releases the permit. Never rejects, so that it does not hide the outcome of the work: the permit ends by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {})
  }
}

showAs(Permit, 'Permit', ['lease', 'holder', 'fencingToken', 'held'])

/** How often a definition is read and written again when others change it at the same time. */
const ROUNDS = 20
/** How many permits `resize` watches, and for how long; then it reads all of them again. */
const MOST_WATCHED = 32
const LONGEST_WATCH_MS = 10_000
const KNOWN_OPTIONS = ['manager', 'prefix', 'minWaitTimeout', 'maxWaitTimeout', 'requestTimeout', 'clock']
const CALL_OPTIONS = ['requestTimeout', 'signal']
const TRY_OPTIONS = [...CALL_OPTIONS, 'permits', 'n', 'keepAlive']
const POST_OPTIONS = [...TRY_OPTIONS, 'wait', 'retries']
const METHODS = ['hold', 'find', 'counted', 'define', 'release', 'revoke', 'waitUntilExpired'] as const

/** The semaphores of one prefix: see the head of this file. */
export class Semaphores extends Emitter<SemaphoresEvents> implements AsyncDisposable {
  readonly #manager: Manager
  readonly #clock: Clock
  readonly #prefix: string
  readonly #minWaitMs: number
  readonly #maxWaitMs: number
  readonly #requestMs: number
  /** Permits posted here that are not over, by lease. */
  readonly #permits = new Map<string, Permit>()
  /** An aborted post that was granted gives back what no other post uses. */
  readonly #takers = new Takers<Permit>()
  readonly #queue: ShareQueue
  readonly #calls: Calls
  #stopping: Promise<void> | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: SemaphoresOptions) {
    super()
    const reader = new OptionReader(options, KNOWN_OPTIONS)
    const { manager } = reader.read
    reader.object('manager', 'a Manager', METHODS)
    this.#prefix = prefixIn(reader, 'semaphores')
    this.#minWaitMs = reader.duration('minWaitTimeout', 10)
    this.#maxWaitMs = reader.duration('maxWaitTimeout', 100)
    const isUpsideDown = this.#minWaitMs > this.#maxWaitMs
    const rule = isUpsideDown ? `must be at least minWaitTimeout (${this.#minWaitMs} ms)` : undefined
    reader.fault('maxWaitTimeout', rule, reader.given('maxWaitTimeout') ?? this.#maxWaitMs)
    this.#requestMs = reader.duration('requestTimeout', 30_000)
    this.#clock = reader.clock() ?? systemClock
    reader.finish()
    this.#manager = manager
    this.#queue = new ShareQueue(manager, this.#clock)
    this.#calls = new Calls(this.#clock, 'the semaphores are')
  }

  /**
   * Creates the semaphore with capacity n, from 1 to 2³⁰. It exists until it is destroyed. Resolves if it exists with this n.
   *
   * @throws ErrLimitMismatch it exists with another capacity: see `resize`
   * @throws ErrUnknown       it may have been created; call again
   */
  async create(id: string, n: number, options: SemaphoreCallOptions = {}): Promise<void> {
    const reader = new OptionReader(options, CALL_OPTIONS, { arguments: { id, n } })
    const name = leaseNameIn(reader, 'id', { prefix: this.#prefix })
    reader.fault('n', brokenCapacityRule(n))
    await this.#call(reader, (signal) =>
      this.#redefine(name, signal, ({ capacity }) => {
        if (capacity !== undefined && capacity !== n) throw new ErrLimitMismatch(id, name, { n: capacity, asked: n })
        return { capacity: n } // also if it is n already: a definition that a post made would be forgotten one day
      }),
    )
  }

  /**
   * Reads the capacity and the holders.
   *
   * @throws ErrNoSemaphore the semaphore does not exist
   */
  async read(id: string, options: SemaphoreCallOptions = {}): Promise<SemaphoreInfo> {
    const reader = new OptionReader(options, CALL_OPTIONS, { arguments: { id } })
    const name = leaseNameIn(reader, 'id', { prefix: this.#prefix })
    return this.#call(reader, async (signal) => {
      const { capacity: n, shares } = await this.#manager.counted(name, { signal })
      if (n === undefined) throw new ErrNoSemaphore(id, name)
      const holders = Array.from(
        shares,
        ([lease, { holder, weight: permits = 1, expiry, fencingToken }]): PermitInfo => {
          return { holder, permits, expiry, fencingToken, lease }
        },
      )
      return { n, active: taken(shares), holders }
    })
  }

  /**
   * Changes the capacity, in one write, for every later grant. Resolves when at most n permits are taken: permits above n are not revoked;
   * they expire, or are given back. Idempotent.
   *
   * @throws ErrNoSemaphore the semaphore does not exist
   * @throws ErrUnknown     the capacity may have been changed
   */
  async resize(id: string, n: number, options: ResizeOptions = {}): Promise<void> {
    const reader = new OptionReader(options, ['signal'], { arguments: { id, n } })
    const name = leaseNameIn(reader, 'id', { prefix: this.#prefix })
    reader.fault('n', brokenCapacityRule(n))
    const resize = async (signal: AbortSignal): Promise<void> => {
      await this.#redefine(name, signal, ({ capacity }) => {
        if (capacity === undefined) throw new ErrNoSemaphore(id, name)
        return capacity === n ? undefined : { capacity: n }
      })
      for (;;) {
        const { shares } = await this.#manager.counted(name, { signal })
        if (taken(shares) <= n) return
        await this.#endOfAny(shares, signal)
      }
    }
    await this.#call(reader, resize, { byDefaultMs: MAX_DURATION_MS })
  }

  /**
   * Destroys the semaphore: grants nothing more, refuses the waiters, and revokes every permit. The signal of a permit aborts when its
   * process is notified, and at the latest when the time of the permit is over. Resolves if the semaphore is missing.
   *
   * @throws ErrUnknown it may be destroyed, or half destroyed; call again to complete it
   */
  async destroy(id: string, options: SemaphoreCallOptions = {}): Promise<void> {
    const reader = new OptionReader(options, CALL_OPTIONS, { arguments: { id } })
    const name = leaseNameIn(reader, 'id', { prefix: this.#prefix })
    await this.#call(reader, async (signal) => {
      await this.#redefine(name, signal, ({ capacity }) =>
        capacity === undefined ? undefined : { capacity: undefined },
      )
      const { shares } = await this.#manager.counted(name, { signal })
      const revoked = Array.from(shares, ([lease, { fencingToken }]) =>
        this.#manager.revoke(lease, { fencingToken, signal }),
      )
      for (const outcome of await Promise.allSettled(revoked)) if (outcome.status === 'rejected') throw outcome.reason
    })
  }

  /**
   * Takes permits for `timeout`. If the holder has permits already, it takes no more: the call returns the same `Permit`, refreshed.
   *
   * @throws ErrNoSemaphore   the semaphore does not exist, and `n` is not given. At once, without a wait
   * @throws ErrLimitMismatch the semaphore has another `n`. At once, without a wait
   * @throws ErrNotValid      an argument breaks a rule; or the semaphore has fewer than `permits`; or the holder has another number of them
   * @throws ErrClaimDenied   others had the permits, or were ahead, until the wait was over
   * @throws ErrUnknown       the permits may have been taken; they end when their time is over, or by `close`
   */
  post(id: string, holder: string, timeout: DurationLike, options: PostOptions = {}): Promise<Permit> {
    return this.#post(id, holder, timeout, options)
  }

  async #post(
    id: string,
    holder: string,
    timeout: DurationLike,
    options: PostOptions,
    isTry: boolean = false,
  ): Promise<Permit> {
    const known = isTry ? TRY_OPTIONS : POST_OPTIONS
    const reader = new OptionReader(options, known, { arguments: { id, holder, timeout } })
    const name = leaseNameIn(reader, 'id', { prefix: this.#prefix })
    reader.name('holder')
    const keepAlive = reader.boolean('keepAlive', false)
    const duration = keepAlive ? reader.renewedDuration('timeout') : reader.leaseDuration('timeout')
    const permits = reader.count('permits', MAX_CAPACITY) ?? 1
    const n = reader.count('n', MAX_CAPACITY)
    if (n !== undefined && permits > n) reader.fault('permits', `must be at most n (${n})`)
    const { waitMs, tries } = this.#waitIn(reader, isTry)
    const grant = keepAlive ? { duration, shared: true } : ({ duration, shared: true, renewEvery: false } as const)
    const share = { weight: permits, capacity: n }
    const post = async (signal: AbortSignal): Promise<Permit> => {
      try {
        const hold = await this.#queue.hold(name, holder, { ...grant, share, signal, waitMs })
        const permit = this.#keep(id, hold, keepAlive)
        this.#takers.add(permit)
        return permit
      } catch (error) {
        throw error instanceof Error ? await this.#explained(error, { id, name, holder, n }) : error
      }
    }
    const onOrphanedResult = (permit: Permit): void => {
      if (this.#takers.remove(permit)) permit.release().catch(() => {}) // if it fails, the permit ends when its time is over
    }
    return this.#call(reader, post, { tries, waitMs, onOrphanedResult })
  }

  /** Does what `post` does, in a single try. Resolves with undefined when others have the permits or are ahead. */
  async tryPost(
    id: string,
    holder: string,
    timeout: DurationLike,
    options: Omit<PostOptions, 'wait' | 'retries'> = {},
  ): Promise<Permit | undefined> {
    try {
      return await this.#post(id, holder, timeout, options, true)
    } catch (error) {
      if (error instanceof ErrClaimDenied && !(error instanceof ErrLimitMismatch)) return undefined
      throw error
    }
  }

  /**
   * Frees the permit of this holder, in whichever process it is. When it resolves, another can have it. Resolves if the holder has none.
   *
   * @throws ErrNoSemaphore the semaphore does not exist
   * @throws ErrUnknown     the permit may have been freed; if not, it ends when its time is over
   */
  async close(id: string, holder: string, options: SemaphoreCallOptions = {}): Promise<void> {
    const reader = new OptionReader(options, CALL_OPTIONS, { arguments: { id, holder } })
    const name = leaseNameIn(reader, 'id', { prefix: this.#prefix })
    reader.name('holder')
    await this.#call(reader, async (signal) => {
      const lease = shareName(name, holder)
      const permit = this.#permits.get(lease)
      if (permit?.held === true && (await isGone(permit.release()))) return
      const { capacity, shares } = await this.#manager.counted(name, { signal })
      if (shares.has(lease)) await releaseAnywhere(this.#manager, lease, holder)
      else if (capacity === undefined) throw new ErrNoSemaphore(id, name)
    })
  }

  /** Does what `close` does, in the background. Never throws; a failure is an `error` event. */
  closeAsync(id: string, holder: string): void {
    this.close(id, holder).catch((error: unknown) => this.emit('error', error))
  }

  /**
   * Ends this object: calls in progress reject with `ErrStopped`, and so does every later one. Gives back the permits that were posted
   * here; semaphores, and permits of others, stay. Resolves when no request is in flight. Never rejects; idempotent.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #stop(): Promise<void> {
    await this.#calls.stop()
    await Promise.allSettled(Array.from(this.#permits.values(), (permit) => permit.release()))
  }

  // ── permits ───────────────────────────────────────────────────────────────────────────────────────────────────

  #keep(id: string, hold: Hold, keepAlive: boolean): Permit {
    const { lease } = hold
    const before = this.#permits.get(lease)
    if (before?.again(hold, keepAlive) === true) return before
    const permit = new Permit(id, hold, keepAlive)
    if (permit.signal.aborted) return permit
    this.#permits.set(lease, permit)
    const forget = (): void => {
      if (this.#permits.get(lease) === permit) this.#permits.delete(lease)
    }
    permit.signal.addEventListener('abort', forget, { once: true })
    return permit
  }

  /** Translates a refusal of the counted lease. */
  async #explained(
    error: unknown,
    {
      id,
      name,
      holder,
      n,
    }: { readonly id: string; readonly name: string; readonly holder: string; readonly n: number | undefined },
  ): Promise<unknown> {
    if (error instanceof ErrNotValid) {
      return notValid(
        error.problems.map(({ rule, value }) => ({ argument: 'permits', rule, value })),
        { holder },
      )
    }
    if (error instanceof ErrInvalid) {
      if (n === undefined) return new ErrNoSemaphore(id, name)
      const { capacity } = await this.#manager.counted(name)
      if (capacity === undefined) return new ErrNoSemaphore(id, name) // destroyed since the refusal
      return new ErrLimitMismatch(id, name, { n: capacity, asked: n })
    }
    if (!(error instanceof ErrClaimDenied)) return error
    const message = `failed to grab semaphore "${id}" with holder "${holder}": all permits are taken, or others are ahead`
    return new ErrClaimDenied(message, { lease: name, holder, expiry: error.expiry, cause: error })
  }

  /** A call that only tries has neither of the two options. */
  #waitIn(
    options: OptionReader<Pick<PostOptions, 'wait' | 'retries'>>,
    isTry: boolean,
  ): { readonly waitMs: number; readonly tries: number } {
    const { wait, retries } = options.read
    const isOne = wait === undefined || retries === undefined
    options.must('retries', isOne, 'must not be given together with wait')
    if (retries === undefined) return { waitMs: options.wait(!isTry), tries: 2 }
    const isCount = retries === Number.POSITIVE_INFINITY || (Number.isSafeInteger(retries) && retries >= 0)
    options.must('retries', isCount, 'must be a whole number, 0 or more, or Infinity')
    return isCount ? { waitMs: this.#waitMs(retries), tries: retries + 1 } : { waitMs: 0, tries: 1 }
  }

  /** How long this many retries wait in all. */
  #waitMs(retries: number): number {
    const [least, span] = [this.#minWaitMs, this.#maxWaitMs - this.#minWaitMs]
    if (retries > 1000) return Math.ceil(retries * (least + span / 2)) // the average, for so many
    let sumMs = 0
    for (let retry = 0; retry < retries; retry++) sumMs += least + Math.random() * span
    return Math.ceil(sumMs)
  }

  /** Resolves when one of the watched shares has ended, or after `LONGEST_WATCH_MS`. */
  async #endOfAny(shares: CountedInfo['shares'], signal: AbortSignal): Promise<void> {
    const until = new LinkedSignal(signal)
    try {
      const soonest = [...shares].toSorted(([, one], [, other]) => one.expiry.toMillis() - other.expiry.toMillis())
      const ends = soonest
        .slice(0, MOST_WATCHED)
        .map(([lease]) => this.#manager.waitUntilExpired(lease, { signal: until.signal }))
      await Promise.race([...ends, sleep(this.#clock, LONGEST_WATCH_MS, until.signal)])
    } finally {
      until.abort(new DOMException('the wait is over', 'AbortError'))
      until.letGo()
    }
  }

  // ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Reads the definition, and changes it to what `next` returns; undefined: no change. */
  async #redefine(
    name: string,
    signal: AbortSignal,
    next: (found: CountedInfo) => { readonly capacity: number | undefined } | undefined,
  ): Promise<void> {
    for (let round = 1; ; round++) {
      const found = await this.#manager.counted(name, { signal })
      const change = next(found)
      if (change === undefined) return
      try {
        await this.#manager.define(name, change.capacity, { from: found.generation, signal })
        return
      } catch (error) {
        if (!(error instanceof ErrInvalid) || round >= ROUNDS) throw error // others changed it first: read again
      }
    }
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Bounds a call by its signal, by its time, and by `stop()`. */
  async #call<T>(
    options: OptionReader,
    body: (signal: AbortSignal) => Promise<T>,
    {
      tries = 1,
      waitMs = 0,
      byDefaultMs = this.#requestMs,
      onOrphanedResult,
    }: {
      readonly tries?: number
      readonly waitMs?: number
      readonly byDefaultMs?: number
      readonly onOrphanedResult?: (value: T) => void
    } = {},
  ): Promise<T> {
    const signal = options.signal()
    const requestMs = options.duration('requestTimeout', byDefaultMs)
    options.finish()
    return this.#calls.run({ signal, limitMs: waitMs + tries * requestMs, onOrphanedResult }, body)
  }
}

/** How many permits these shares take. */
function taken(shares: CountedInfo['shares']): number {
  let sum = 0
  for (const { weight = 1 } of shares.values()) sum += weight
  return sum
}
