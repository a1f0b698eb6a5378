/**
 * Semaphores: at most n permits are taken at once, each for its own time.
 *
 *     <prefix>/<id>            a counted lease (`share.ts` of lease-core): its capacity is n
 *     <prefix>/<id>#<holder>   the permits of this holder: a share of it, which is a lease of its own
 *
 * Promises.
 * - Never more than n permits are taken, whatever the mix of timeouts, pauses and crashes: the store counts them when it grants one. Each
 *   holder's are a lease, so they end by themselves, alone, and have a fencing token that is above those of all earlier permits of
 *   this semaphore.
 * - A holder has one permit (or k, if it asked for k), however often it posts and in how many processes at once: it has the same again.
 * - Those who wait are served first come, first served, whatever the number of permits that they want. Nobody polls, and to hand a
 *   permit over takes the same few requests however many wait.
 * - `resize` and `destroy` are one write each, which holds for every later grant. Permits that are too many run out. `destroy` revokes
 *   all permits; holders that have not heard of that yet may go on until their permits' time would have been over.
 *
 * After clusterluck's DSMServer, whose names it keeps.
 */
import { ErrClaimDenied, ErrInvalid, ErrNotHeld, ErrNotValid, hasMethods, notValid } from 'lease-core'
import { MAX_CAPACITY, MAX_DURATION_MS, shareName, sleep, systemClock } from 'lease-core'
import type { Clock, CountedInfo, Held, Hold, Manager, Token } from 'lease-core'
import type { DateTime, Duration, DurationLike } from 'luxon'
import { Calls, Takers } from './calls.ts'
import { Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { LinkedSignal } from './or-aborted.ts'
import { encodeSegment } from './segments.ts'
import { ShareQueue } from './share-queue.ts'
import { isGone, releaseAnywhere, unlessGone } from './unless-gone.ts'

export interface SemaphoresOptions {
  /** It stays yours to stop. */
  readonly manager: Manager
  /** The family of semaphores: those of two prefixes have nothing to do with each other. @default 'semaphores' */
  readonly prefix?: string | undefined
  /** Least wait that a retry of `post` stands for. @default 10 ms */
  readonly minWaitTimeout?: DurationLike | undefined
  /** Greatest wait that a retry of `post` stands for. @default 100 ms */
  readonly maxWaitTimeout?: DurationLike | undefined
  /** How long a call may go without an answer, unless it says otherwise; waiting does not count. @default 30 seconds */
  readonly requestTimeout?: DurationLike | undefined
  /** The manager's. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

export interface SemaphoreCallOptions {
  /** How long the call may go without an answer; then it is an `ErrUnknown`. @default that of the `Semaphores` */
  readonly requestTimeout?: DurationLike | undefined
  /** Ends this call with its reason; what was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

export interface ResizeOptions {
  /** Ends the wait for permits that are too many; the limit stays as it was made. */
  readonly signal?: AbortSignal | undefined
}

export interface PostOptions {
  /** How many permits are taken, all or none. @default 1 */
  readonly permits?: number | undefined
  /**
   * How many there are. The first post of a semaphore that is not created creates it, with this n; of one that has another n the post is an
   * `ErrLimitMismatch`. @default it must have been created
   */
  readonly n?: number | undefined
  /**
   * false: a single try. A duration bounds the wait for others, and not the answer to a claim, which has `requestTimeout`; true
   * waits as long as `signal` allows. @default true
   */
  readonly wait?: DurationLike | boolean | undefined
  /**
   * Another way to say how long to wait: each retry stands for a random wait between `minWaitTimeout` and `maxWaitTimeout`. 0: a single
   * try. Nothing is sent for a retry. Not together with `wait`.
   */
  readonly retries?: number | undefined
  /**
   * How long each of these tries may go without an answer: the call ends, in `ErrUnknown`, after the wait and so long for every
   * try. With an endless wait it does not end.
   *
   * @default that of the `Semaphores`
   */
  readonly requestTimeout?: DurationLike | undefined
  /** Whether the permit is renewed, from a third of its time on, until it is closed or lost. @default false */
  readonly keepAlive?: boolean | undefined
  /** Ends this call with its reason, not the permit. What was granted after all is given back if possible. */
  readonly signal?: AbortSignal | undefined
}

/** Somebody's permit. */
export interface PermitInfo {
  readonly holder: string
  /** How many it is. */
  readonly permits: number
  /** When it ends at the latest, unless it is refreshed. */
  readonly expiry: DateTime
  /** Above those of all earlier permits of the semaphore. */
  readonly fencingToken: bigint
  readonly lease: string
}

/** A semaphore, freshly read. */
export interface SemaphoreInfo {
  /** How many permits there are. */
  readonly n: number
  /** How many are taken; more than n for a while after `resize`. */
  readonly active: number
  readonly holders: readonly PermitInfo[]
}

export interface SemaphoresEvents {
  /** A `closeAsync` failed: the permit ends when its time is over. Nobody needs to listen. */
  readonly error: readonly [cause: unknown]
}

/** There is no such semaphore: surely so at the moment of the read. `instanceof ErrNotHeld`, with the same code. */
export class ErrNoSemaphore extends ErrNotHeld {
  override readonly name: string = 'ErrNoSemaphore'
  readonly id: string

  constructor(id: string, lease: string) {
    super(`semaphore "${id}" does not exist`, { lease, reason: 'no semaphore' })
    this.id = id
  }
}

/** The semaphore exists with another limit, and stays so. `instanceof ErrClaimDenied`, with the same code. */
export class ErrLimitMismatch extends ErrClaimDenied {
  override readonly name: string = 'ErrLimitMismatch'
  readonly id: string
  /** What it is. */
  readonly n: number
  /** What was asked for. */
  readonly asked: number

  constructor(id: string, lease: string, limits: { readonly n: number; readonly asked: number }) {
    const { n, asked } = limits
    super(`semaphore "${id}" already exists with n equal to ${n}, not ${asked}`, { lease, reason: 'limit mismatch' })
    this.id = id
    this.n = n
    this.asked = asked
  }
}

/** Permits of one holder. They are given back or lost exactly once, together, and never held again. */
export class Permit implements Held {
  readonly id: string
  readonly holder: string
  readonly #hold: Hold
  /** Of the latest `post`: all of them are of one term. */
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
   * For `post`: the same holder was granted the permit again. At most three Holds stay, however often that happens.
   * Returns false when this permit is over, or is another.
   */
  again(hold: Hold, keepAlive: boolean): boolean {
    if (!this.held || hold.fencingToken !== this.fencingToken) return false
    const before = this.#latest
    this.#latest = hold
    if (keepAlive) this.#renewing ??= hold
    if (before !== this.#hold && before !== this.#renewing) before.release().catch(() => {}) // shared: it sends nothing
    return true
  }

  /** What it is for the store: a lease like any other. */
  get lease(): string {
    return this.#hold.lease
  }

  /** Above those of all earlier permits of the semaphore; unchanged by a refresh. */
  get fencingToken(): bigint {
    return this.#hold.fencingToken
  }

  get token(): Token {
    return this.#hold.token
  }

  get held(): boolean {
    return this.#hold.held
  }

  get signal(): AbortSignal {
    return this.#hold.signal
  }

  /** Whether it is all permits that there are. */
  isExclusive(): Promise<boolean> {
    return this.#hold.isExclusive()
  }

  remaining(): Duration {
    return this.#hold.remaining()
  }

  assertHeld(): void {
    this.#hold.assertHeld()
  }

  /**
   * Gives it its full time again, that of the latest `post`, from now on.
   *
   * @throws ErrLost    it is over
   * @throws ErrUnknown it may have happened
   */
  async refresh(): Promise<void> {
    this.assertHeld()
    const latest = this.#latest
    await latest.renew().catch((error: unknown) => {
      if (latest === this.#latest || !this.held) throw error // otherwise a `post` meanwhile has refreshed it
    })
    this.assertHeld()
  }

  /**
   * Gives it back: when it resolves, another can have it. Over already: resolves.
   *
   * @throws ErrNotHeld the same holder has posted in another process since, which keeps the permit (reason `adopted`). This one
   *   is over; `close` of the `Semaphores` takes it from the other process, too
   * @throws ErrUnknown it may have happened; if not, it ends when its time is over
   */
  release(): Promise<void> {
    return this.#hold.release({ all: true }).catch(unlessGone)
  }

  /** As `release`. */
  close(): Promise<void> {
    return this.release()
  }

  /** Never rejects: the work's own outcome must not be masked, and the permit ends by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {})
  }
}

/** How often a definition is read and changed that others change as well. */
const ROUNDS = 20
/** Of permits that are too many so many are watched, for so long; then all are read again. */
const MOST_WATCHED = 32
const LONGEST_WATCH_MS = 10_000
const KNOWN_OPTIONS = ['manager', 'prefix', 'minWaitTimeout', 'maxWaitTimeout', 'requestTimeout', 'clock']
const CALL_OPTIONS = ['requestTimeout', 'signal']
const POST_OPTIONS = [...CALL_OPTIONS, 'permits', 'n', 'wait', 'retries', 'keepAlive']
const METHODS = ['hold', 'find', 'counted', 'define', 'release', 'revoke', 'waitUntilExpired'] as const

/** The semaphores of one prefix. See the head of this file. */
export class Semaphores extends Emitter<SemaphoresEvents> implements AsyncDisposable {
  readonly #manager: Manager
  readonly #clock: Clock
  readonly #prefix: string
  readonly #minWaitMs: number
  readonly #maxWaitMs: number
  readonly #requestMs: number
  /** Those posted here and not over, by their lease. */
  readonly #permits = new Map<string, Permit>()
  /** A post that is given up when it has been granted gives back what no other post has. */
  readonly #takers = new Takers<Permit>()
  readonly #queue: ShareQueue
  readonly #calls: Calls
  #stopping: Promise<void> | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: SemaphoresOptions) {
    super()
    const checks = new Checks(options, KNOWN_OPTIONS)
    const { manager, prefix = 'semaphores', minWaitTimeout = 10, maxWaitTimeout = 100 } = options
    const { requestTimeout = 30_000, clock } = options
    checks.must('manager', hasMethods(manager, ...METHODS), 'must be a Manager', manager)
    checks.name('prefix', prefix)
    this.#minWaitMs = checks.duration('minWaitTimeout', minWaitTimeout)
    this.#maxWaitMs = checks.duration('maxWaitTimeout', maxWaitTimeout)
    const upsideDown = this.#minWaitMs > this.#maxWaitMs
    const rule = `must be at least minWaitTimeout (${this.#minWaitMs} ms)`
    checks.must('maxWaitTimeout', !upsideDown, rule, maxWaitTimeout)
    this.#requestMs = checks.duration('requestTimeout', requestTimeout)
    const isClock = clock === undefined || hasMethods(clock, 'now', 'monotonic', 'setTimer')
    checks.must('clock', isClock, 'must be a Clock', clock)
    checks.finish()
    this.#manager = manager
    this.#clock = clock ?? systemClock
    this.#prefix = encodeSegment(prefix)
    this.#queue = new ShareQueue(manager, this.#clock)
    this.#calls = new Calls(this.#clock, 'the semaphores are')
  }

  /**
   * The semaphore exists, with this limit, until it is destroyed. Created before with the same limit: resolves.
   *
   * @throws ErrLimitMismatch it exists with another limit: see `resize`
   * @throws ErrUnknown       it may have happened; to create it again tells
   */
  async create(id: string, n: number, options: SemaphoreCallOptions = {}): Promise<void> {
    const checks = new Checks(options, CALL_OPTIONS)
    const name = checks.id('id', id, this.#prefix)
    checkCount(checks, 'n', n)
    await this.#call(options, checks, (signal) =>
      this.#redefine(name, signal, ({ capacity }) => {
        if (capacity !== undefined && capacity !== n) throw new ErrLimitMismatch(id, name, { n: capacity, asked: n })
        return { capacity: n } // also if it is so already: what a post has made would be forgotten some day
      }),
    )
  }

  /**
   * How many permits there are, and who has one: freshly read.
   *
   * @throws ErrNoSemaphore
   */
  async read(id: string, options: SemaphoreCallOptions = {}): Promise<SemaphoreInfo> {
    const checks = new Checks(options, CALL_OPTIONS)
    const name = checks.id('id', id, this.#prefix)
    return this.#call(options, checks, async (signal) => {
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
   * Changes the limit, in one write, for every later grant; resolves when no more than n permits are taken. Permits that are too many are
   * not taken away: they run out, or are given back. Idempotent.
   *
   * @throws ErrNoSemaphore
   * @throws ErrUnknown     it may have happened
   */
  async resize(id: string, n: number, options: ResizeOptions = {}): Promise<void> {
    const checks = new Checks(options, ['signal'])
    const name = checks.id('id', id, this.#prefix)
    checkCount(checks, 'n', n)
    await this.#call({ ...options, requestTimeout: MAX_DURATION_MS }, checks, async (signal) => {
      await this.#redefine(name, signal, ({ capacity }) => {
        if (capacity === undefined) throw new ErrNoSemaphore(id, name)
        return capacity === n ? undefined : { capacity: n }
      })
      for (;;) {
        const { shares } = await this.#manager.counted(name, { signal })
        if (taken(shares) <= n) return
        await this.#endOfAny(shares, signal)
      }
    })
  }

  /**
   * The semaphore is no more: nothing is granted, those who wait are refused, and every permit is revoked. Its signal aborts when its
   * process hears of that, and at the latest when the time of the permit is over. Missing already: resolves.
   *
   * @throws ErrUnknown it may have happened; to destroy it again tells, and completes it
   */
  async destroy(id: string, options: SemaphoreCallOptions = {}): Promise<void> {
    const checks = new Checks(options, CALL_OPTIONS)
    const name = checks.id('id', id, this.#prefix)
    await this.#call(options, checks, async (signal) => {
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
   * Takes permits for so long. A holder that has some gets these again, the same object, refreshed, and takes no further ones.
   *
   * @throws ErrNoSemaphore   at once: it is not waited for
   * @throws ErrLimitMismatch at once: it has another `n`
   * @throws ErrNotValid      also where the semaphore has fewer than so many `permits`, or this holder has another number of them
   * @throws ErrClaimDenied   others had all permits, or were ahead, until the wait was over
   * @throws ErrUnknown       it may have happened; it ends when its time is over, or by `close`
   */
  async post(id: string, holder: string, timeout: DurationLike, options: PostOptions = {}): Promise<Permit> {
    const checks = new Checks(options, POST_OPTIONS)
    const name = checks.id('id', id, this.#prefix)
    checks.name('holder', holder)
    const duration = checks.leaseDuration('timeout', timeout)
    const { permits = 1, n, wait, retries, keepAlive = false } = options
    checkCount(checks, 'permits', permits)
    if (n !== undefined) {
      checkCount(checks, 'n', n)
      checks.must('permits', !(n >= 1 && permits > n), `must be at most n (${n})`, permits)
    }
    const { waitMs, tries } = this.#waitOf(checks, { wait, retries })
    checks.must('keepAlive', typeof keepAlive === 'boolean', 'must be true or false', keepAlive)
    const grant = keepAlive ? { duration, shared: true } : ({ duration, shared: true, renewEvery: false } as const)
    const share = { weight: permits, capacity: n }
    const post = async (signal: AbortSignal): Promise<Permit> => {
      try {
        const hold = await this.#queue.hold(name, holder, { ...grant, share, signal, waitMs })
        const permit = this.#keep(id, hold, keepAlive)
        this.#takers.add(permit)
        return permit
      } catch (error) {
        throw await this.#explained(error, { id, name, holder, n })
      }
    }
    const unwanted = (permit: Permit): void => {
      if (this.#takers.remove(permit)) permit.release().catch(() => {}) // it ends when its time is over
    }
    return this.#call(options, checks, post, { tries, waitMs, unwanted })
  }

  /** As `post`; resolves to undefined where that is an `ErrClaimDenied`. */
  async tryPost(
    id: string,
    holder: string,
    timeout: DurationLike,
    options: Omit<PostOptions, 'wait' | 'retries'> = {},
  ): Promise<Permit | undefined> {
    try {
      return await this.post(id, holder, timeout, { ...options, wait: false })
    } catch (error) {
      if (error instanceof ErrClaimDenied && !(error instanceof ErrLimitMismatch)) return undefined
      throw error
    }
  }

  /**
   * The holder has no permit any more: when it resolves, another can have it. It had none: resolves.
   *
   * @throws ErrNoSemaphore
   * @throws ErrUnknown it may have happened; if not, the permit ends when its time is over
   */
  async close(id: string, holder: string, options: SemaphoreCallOptions = {}): Promise<void> {
    const checks = new Checks(options, CALL_OPTIONS)
    const name = checks.id('id', id, this.#prefix)
    checks.name('holder', holder)
    await this.#call(options, checks, async (signal) => {
      const lease = shareName(name, holder)
      const permit = this.#permits.get(lease)
      if (permit?.held === true && (await isGone(permit.release()))) return
      const { capacity, shares } = await this.#manager.counted(name, { signal })
      if (shares.has(lease)) await releaseAnywhere(this.#manager, lease, holder)
      else if (capacity === undefined) throw new ErrNoSemaphore(id, name)
    })
  }

  /** As `close`, without waiting for it. Never throws or rejects; what fails is told by the event `error`. */
  closeAsync(id: string, holder: string): void {
    this.close(id, holder).catch((error: unknown) => this.emit('error', error))
  }

  /**
   * Ends this object: calls under way reject with `ErrStopped`, and so does every later one; resolves when nothing of it is
   * under way. Permits that were posted here are given back; semaphores, and permits of others, stay as they are. Never
   * rejects; idempotent.
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

  /** What a refusal of the counted lease means for a semaphore. */
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
      if (capacity === undefined) return new ErrNoSemaphore(id, name) // it was destroyed since
      return new ErrLimitMismatch(id, name, { n: capacity, asked: n })
    }
    if (!(error instanceof ErrClaimDenied)) return error
    const message = `failed to grab semaphore "${id}" with holder "${holder}": all permits are taken, or others are ahead`
    return new ErrClaimDenied(message, { lease: name, holder, expiry: error.expiry, cause: error })
  }

  #waitOf(
    checks: Checks,
    { wait, retries }: Pick<PostOptions, 'wait' | 'retries'>,
  ): { readonly waitMs: number; readonly tries: number } {
    checks.must('retries', wait === undefined || retries === undefined, 'must not be given together with wait', retries)
    if (retries === undefined) {
      const waitMs = checks.wait('wait', wait ?? true)
      return { waitMs, tries: 2 }
    }
    const isCount = retries === Number.POSITIVE_INFINITY || (Number.isSafeInteger(retries) && retries >= 0)
    checks.must('retries', isCount, 'must be a whole number, 0 or more, or Infinity', retries)
    return isCount ? { waitMs: this.#waitMs(retries), tries: retries + 1 } : { waitMs: 0, tries: 1 }
  }

  /** What so many retries would have waited. */
  #waitMs(retries: number): number {
    const [least, span] = [this.#minWaitMs, this.#maxWaitMs - this.#minWaitMs]
    if (retries > 1000) return Math.ceil(retries * (least + span / 2)) // what the sum of so many comes to
    let sumMs = 0
    for (let retry = 0; retry < retries; retry++) sumMs += least + Math.random() * span
    return Math.ceil(sumMs)
  }

  /** Resolves when one of these has ended, as far as a few are watched, or after a while. */
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

  /** Reads what the semaphore is, and makes it what is returned; undefined: it is as it should be. */
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
        if (!(error instanceof ErrInvalid) || round >= ROUNDS) throw error // others were first
      }
    }
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** What every call shares: it ends with its signal, with its time, and with this object. */
  async #call<T>(
    options: SemaphoreCallOptions,
    checks: Checks,
    body: (signal: AbortSignal) => Promise<T>,
    {
      tries = 1,
      waitMs = 0,
      unwanted,
    }: { readonly tries?: number; readonly waitMs?: number; readonly unwanted?: (value: T) => void } = {},
  ): Promise<T> {
    const { signal, requestTimeout } = options
    checks.signal('signal', signal)
    const requestMs = requestTimeout === undefined ? this.#requestMs : checks.duration('requestTimeout', requestTimeout)
    checks.finish()
    return this.#calls.run({ signal, limitMs: waitMs + tries * requestMs, unwanted }, body)
  }
}

/** How many permits these shares are. */
function taken(shares: CountedInfo['shares']): number {
  let sum = 0
  for (const { weight = 1 } of shares.values()) sum += weight
  return sum
}

function checkCount(checks: Checks, option: string, value: unknown): void {
  const isCount = Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= MAX_CAPACITY
  checks.must(option, isCount, `must be a whole number from 1 to ${MAX_CAPACITY}`, value)
}
