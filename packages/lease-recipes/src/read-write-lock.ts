/**
 * A lock for many readers or one writer.
 *
 *     <prefix>/<name>            a counted lease (`share.ts` of lease-core); its capacity is as many readers as may be
 *     <prefix>/<name>#<holder>   the lock of this holder: a share of it. A reader weighs 1, a writer the whole capacity
 *
 * Promises.
 * - A reader and a writer, or two writers, never have the lock at once: the store counts the weights when it grants one.
 * - Readers and writers are served first come, first served: neither starves. Nobody polls.
 * - A lock is renewed until it is unlocked, or `timeout` is over; after a crash it lapses within `duration`.
 * - A holder has one lock, however often it asks and in how many processes: it has the same again, refreshed. A reader that asks to
 *   write, or a writer that asks to read, is refused at once and keeps what it has: there is no upgrade.
 *
 * After clusterluck's DLMServer, whose names it keeps. Its quorum of nodes is the store's business here.
 */
import { ErrClaimDenied, ErrInvalid, ErrLost, ErrNotValid, hasMethods, MAX_CAPACITY, MAX_DURATION_MS } from 'lease-core'
import { shareName, Stopwatch, systemClock } from 'lease-core'
import type { Clock, Held, Hold, Manager, Timer, Token } from 'lease-core'
import { Duration, type DurationLike } from 'luxon'
import { Calls, Takers } from './calls.ts'
import { Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { brokenSegmentRule, encodeSegment } from './segments.ts'
import { ErrLimitMismatch } from './semaphore.ts'
import { ShareQueue } from './share-queue.ts'
import { isGone, releaseAnywhere, unlessGone } from './unless-gone.ts'

export interface ReadWriteLockOptions {
  /** It stays yours to stop. */
  readonly manager: Manager
  /** What the lock is called; the same for all who share it. */
  readonly name: string
  /** How many may read at once; the same for all who share the lock, which is checked. @default any number */
  readonly maxReaders?: number | undefined
  /** How long a lock outlives the crash of its holder at most. @default 15 seconds */
  readonly duration?: DurationLike | undefined
  /** The family of locks. @default 'rwlocks' */
  readonly prefix?: string | undefined
  /** How long a call may go without an answer; waiting does not count. @default 30 seconds */
  readonly requestTimeout?: DurationLike | undefined
  /** The manager's. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

export interface LockOptions {
  /**
   * false: a single try. A duration bounds the wait for others, and not the answer to a claim, which has `requestTimeout`; true waits
   * as long as `signal` allows. @default true
   */
  readonly wait?: DurationLike | boolean | undefined
  /** The lock ends by itself so long after it was acquired or refreshed last. @default it does not */
  readonly timeout?: DurationLike | undefined
  /** Ends this call with its reason, not the lock. What was granted after all is given back if possible. */
  readonly signal?: AbortSignal | undefined
}

export interface UnlockOptions {
  /** Ends this call with its reason; what was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

export interface ReadWriteLockEvents {
  /** A `runlockAsync` or `wunlockAsync` failed. Nobody needs to listen. */
  readonly error: readonly [cause: unknown]
}

export type LockMode = 'read' | 'write'

/** A lock that was acquired. It is released or lost exactly once, and never held again. */
export class Lock implements Held {
  readonly mode: LockMode
  readonly holder: string
  readonly #hold: Hold
  readonly #clock: Clock
  readonly #controller = new AbortController()
  #timeoutMs: number
  #since: Stopwatch
  #timer: Timer | undefined
  #releasing: Promise<void> | undefined

  /** `rlock` and `wlock` make it. */
  constructor({ mode, hold, clock, timeoutMs }: LockParts) {
    this.mode = mode
    this.holder = hold.holder
    this.#hold = hold
    this.#clock = clock
    this.#timeoutMs = timeoutMs
    this.#since = new Stopwatch(clock)
    const { signal } = hold
    if (signal.aborted) this.#end(signal.reason)
    else signal.addEventListener('abort', () => this.#end(signal.reason), { once: true })
    this.#keepTime()
  }

  /** Above those of all who had the lock before, readers and writers. */
  get fencingToken(): bigint {
    return this.#hold.fencingToken
  }

  get token(): Token {
    return this.#hold.token
  }

  get held(): boolean {
    if (this.#controller.signal.aborted) return false
    if (this.#since.elapsedMs >= this.#timeoutMs) this.#expire()
    return this.#hold.held && !this.#controller.signal.aborted
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** A writer's is, and a reader's is not. */
  isExclusive(): Promise<boolean> {
    return Promise.resolve(this.mode === 'write')
  }

  remaining(): Duration {
    if (!this.held) return Duration.fromMillis(0)
    const [leaseMs, leftMs] = [this.#hold.remaining().toMillis(), this.#timeoutMs - this.#since.elapsedMs]
    return Duration.fromMillis(Math.max(0, Math.min(leaseMs, leftMs)))
  }

  assertHeld(): void {
    if (this.held) return
    const reason: unknown = this.signal.reason
    if (reason instanceof ErrLost) throw reason
    throw this.#lost('it was unlocked', reason)
  }

  /**
   * Renews it now; its `timeout` is counted from here.
   *
   * @throws ErrLost    it is over
   * @throws ErrUnknown it may have happened
   */
  async refresh(timeout?: DurationLike): Promise<void> {
    this.assertHeld()
    const since = new Stopwatch(this.#clock)
    const timeoutMs = timeout === undefined ? this.#timeoutMs : timeoutMsOf(timeout)
    await this.#hold.renew()
    this.assertHeld()
    this.#since = since
    this.#timeoutMs = timeoutMs
    this.#timer?.cancel()
    this.#keepTime()
  }

  /**
   * Gives it back: when it resolves, others can have it. Over already: resolves.
   *
   * @throws ErrNotHeld the same holder has locked in another process since, which keeps the lock (reason `adopted`). This one is
   *   over; `runlock` and `wunlock` take it from the other process, too
   * @throws ErrUnknown it may have happened; if not, it lapses
   */
  release(): Promise<void> {
    this.#end(new DOMException('the lock was unlocked', 'AbortError'))
    return this.#releasing ?? Promise.resolve()
  }

  /** As `release`. */
  unlock(): Promise<void> {
    return this.release()
  }

  /** Never rejects: the work's own outcome must not be masked, and the lock lapses by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {})
  }

  #keepTime(): void {
    if (this.#timeoutMs >= MAX_DURATION_MS || this.#controller.signal.aborted) return
    const leftMs = this.#timeoutMs - this.#since.elapsedMs
    if (leftMs <= 0) this.#expire()
    else this.#timer = this.#clock.setTimer(Math.ceil(leftMs), () => this.#keepTime())
  }

  #expire(): void {
    this.#end(this.#lost('its time is over'))
  }

  #end(reason: unknown): void {
    if (this.#controller.signal.aborted) return
    this.#timer?.cancel()
    this.#controller.abort(reason)
    this.#releasing = this.#hold.release({ all: true }).catch(unlessGone)
    this.#releasing.catch(() => {}) // told to whoever releases
  }

  #lost(how: string, cause?: unknown): ErrLost {
    const { lease } = this.#hold
    const message = `the ${this.mode} lock "${lease}" of "${this.holder}" is not held any more: ${how}`
    return new ErrLost(message, { lease, holder: this.holder, reason: 'expired', cause })
  }
}

interface LockParts {
  readonly mode: LockMode
  readonly hold: Hold
  readonly clock: Clock
  readonly timeoutMs: number
}

const KNOWN_OPTIONS = ['manager', 'name', 'maxReaders', 'duration', 'prefix', 'requestTimeout', 'clock']
const METHODS = ['hold', 'counted', 'find', 'release']

/** A lock for many readers or one writer. See the head of this file. */
export class ReadWriteLock extends Emitter<ReadWriteLockEvents> implements AsyncDisposable {
  readonly name: string
  /** undefined: any number. */
  readonly maxReaders: number | undefined
  readonly #manager: Manager
  readonly #clock: Clock
  readonly #durationMs: number
  readonly #requestMs: number
  readonly #lease: string
  readonly #weights: Readonly<Record<LockMode, number>>
  /** A call that is given up when it has been granted gives back what no other call has. */
  readonly #takers = new Takers<Lock>()
  readonly #queue: ShareQueue
  readonly #calls: Calls
  /** Those acquired here and not over, by holder. */
  readonly #locks = new Map<string, Lock>()
  #stopping: Promise<void> | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: ReadWriteLockOptions) {
    super()
    const checks = new Checks(options, KNOWN_OPTIONS)
    const { manager, name, maxReaders, duration = 15_000, prefix = 'rwlocks', requestTimeout = 30_000 } = options
    checks.must('manager', hasMethods(manager, ...METHODS), 'must be a Manager', manager)
    const rule = brokenSegmentRule(name)
    checks.must('name', rule === undefined, rule ?? '', name)
    const isCount = Number.isSafeInteger(maxReaders) && Number(maxReaders) >= 1 && Number(maxReaders) <= MAX_READERS
    const countable = maxReaders === undefined || isCount
    checks.must('maxReaders', countable, `must be a whole number from 1 to ${MAX_READERS}`, maxReaders)
    this.#durationMs = checks.leaseDuration('duration', duration)
    checks.name('prefix', prefix)
    this.#requestMs = checks.duration('requestTimeout', requestTimeout)
    const isClock = options.clock === undefined || hasMethods(options.clock, 'now', 'monotonic', 'setTimer')
    checks.must('clock', isClock, 'must be a Clock', options.clock)
    const sound = rule === undefined && typeof prefix === 'string'
    this.#lease = sound ? `${encodeSegment(prefix)}/${encodeSegment(name)}` : ''
    checks.fits('name', this.#lease, name)
    checks.finish()
    this.name = name
    this.maxReaders = maxReaders
    this.#manager = manager
    this.#clock = options.clock ?? systemClock
    this.#weights = weightsFor(maxReaders)
    this.#queue = new ShareQueue(manager, this.#clock)
    this.#calls = new Calls(this.#clock, 'the read-write lock is')
  }

  /**
   * Locks for reading, together with other readers. A holder that reads already has that lock again, refreshed.
   *
   * @throws ErrClaimDenied   a writer has the lock, others are ahead, or `maxReaders` read, until the wait was over; at once when this
   *   very holder writes
   * @throws ErrLimitMismatch others share this lock with another `maxReaders`
   * @throws ErrUnknown       it may have happened
   */
  rlock(holder: string, options: LockOptions = {}): Promise<Lock> {
    return this.#lock('read', holder, options)
  }

  /**
   * Locks for writing, alone. A holder that writes already has that lock again, refreshed.
   *
   * @throws ErrClaimDenied   others had the lock, or were ahead, until the wait was over; at once when this very holder reads
   * @throws ErrLimitMismatch others share this lock with another `maxReaders`
   * @throws ErrUnknown       it may have happened
   */
  wlock(holder: string, options: LockOptions = {}): Promise<Lock> {
    return this.#lock('write', holder, options)
  }

  /** As `rlock`, in a single try; resolves to undefined where that is an `ErrClaimDenied`. */
  tryRlock(holder: string, options: Omit<LockOptions, 'wait'> = {}): Promise<Lock | undefined> {
    return this.#tryLock('read', holder, options)
  }

  /** As `wlock`, in a single try; resolves to undefined where that is an `ErrClaimDenied`. */
  tryWlock(holder: string, options: Omit<LockOptions, 'wait'> = {}): Promise<Lock | undefined> {
    return this.#tryLock('write', holder, options)
  }

  /**
   * The holder does not read any more. It did not: resolves.
   *
   * @throws ErrUnknown it may have happened
   */
  runlock(holder: string, options: UnlockOptions = {}): Promise<void> {
    return this.#unlock('read', holder, options)
  }

  /**
   * The holder does not write any more. It did not: resolves.
   *
   * @throws ErrUnknown it may have happened
   */
  wunlock(holder: string, options: UnlockOptions = {}): Promise<void> {
    return this.#unlock('write', holder, options)
  }

  /** As `runlock`, without waiting for it. Never throws or rejects; what fails is told by the event `error`. */
  runlockAsync(holder: string): void {
    this.runlock(holder).catch((error: unknown) => this.emit('error', error))
  }

  /** As `wunlock`, without waiting for it. Never throws or rejects; what fails is told by the event `error`. */
  wunlockAsync(holder: string): void {
    this.wunlock(holder).catch((error: unknown) => this.emit('error', error))
  }

  /**
   * Ends this object: calls under way reject with `ErrStopped`, and so does every later one; locks acquired here are
   * unlocked. Never rejects; idempotent.
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
    await Promise.allSettled(Array.from(this.#locks.values(), (lock) => lock.release()))
  }

  async #lock(mode: LockMode, holder: string, options: LockOptions): Promise<Lock> {
    const checks = new Checks(options, ['wait', 'timeout', 'signal'])
    checks.name('holder', holder)
    const { wait = true, timeout, signal } = options
    const waitMs = checks.wait('wait', wait)
    const timeoutMs = timeout === undefined ? MAX_DURATION_MS : checks.duration('timeout', timeout)
    checks.signal('signal', signal)
    checks.finish()
    const unwanted = (lock: Lock): void => {
      if (this.#takers.remove(lock)) lock.release().catch(() => {}) // it lapses
    }
    return this.#calls.run({ signal, limitMs: waitMs + this.#requestMs, unwanted }, async (until) => {
      const before = this.#locks.get(holder)
      if (before?.held === true) {
        if (before.mode !== mode) throw this.#otherMode(mode, holder)
        if (await refreshed(before, timeout)) return this.#given(before)
      }
      const share = { weight: this.#weights[mode], capacity: this.#weights.write }
      const duration = this.#durationMs
      try {
        const hold = await this.#queue.hold(this.#lease, holder, {
          duration,
          shared: true,
          value: mode,
          share,
          signal: until,
          waitMs,
        })
        return this.#given(await this.#keep({ mode, hold, clock: this.#clock, timeoutMs }))
      } catch (error) {
        throw await this.#explained(error, mode, holder)
      }
    })
  }

  #given(lock: Lock): Lock {
    this.#takers.add(lock)
    return lock
  }

  async #tryLock(mode: LockMode, holder: string, options: Omit<LockOptions, 'wait'>): Promise<Lock | undefined> {
    try {
      return await this.#lock(mode, holder, { ...options, wait: false })
    } catch (error) {
      if (error instanceof ErrClaimDenied && !(error instanceof ErrLimitMismatch)) return undefined
      throw error
    }
  }

  async #unlock(mode: LockMode, holder: string, options: UnlockOptions): Promise<void> {
    const checks = new Checks(options, ['signal'])
    checks.name('holder', holder)
    checks.signal('signal', options.signal)
    checks.finish()
    await this.#calls.run({ signal: options.signal, limitMs: this.#requestMs }, async (signal) => {
      const lock = this.#locks.get(holder)
      if (lock?.held === true && lock.mode === mode && (await isGone(lock.release()))) return
      const lease = shareName(this.#lease, holder)
      const found = await this.#manager.find(lease, { signal })
      if (found?.value === mode) await releaseAnywhere(this.#manager, lease, holder)
    })
  }

  async #keep(parts: LockParts): Promise<Lock> {
    const { hold, timeoutMs } = parts
    const before = this.#locks.get(hold.holder)
    if (before?.held === true && before.fencingToken === hold.fencingToken) {
      hold.release().catch(() => {}) // shared: it sends nothing
      if (await refreshed(before, timeoutMs)) return before
    }
    const lock = new Lock(parts)
    if (lock.signal.aborted) return lock
    this.#locks.set(hold.holder, lock)
    const forget = (): void => {
      if (this.#locks.get(hold.holder) === lock) this.#locks.delete(hold.holder)
    }
    lock.signal.addEventListener('abort', forget, { once: true })
    return lock
  }

  /** What a refusal of the counted lease means for a lock. */
  async #explained(error: unknown, mode: LockMode, holder: string): Promise<unknown> {
    if (error instanceof ErrNotValid) return this.#otherMode(mode, holder)
    if (error instanceof ErrInvalid) {
      const { capacity } = await this.#manager.counted(this.#lease)
      const asked = this.#weights.write
      return capacity === undefined ? error : new ErrLimitMismatch(this.name, this.#lease, { n: capacity, asked })
    }
    if (!(error instanceof ErrClaimDenied)) return error
    const message = `"${holder}" cannot ${mode}: others have the lock "${this.name}", or are ahead`
    return new ErrClaimDenied(message, { lease: this.#lease, holder, expiry: error.expiry, cause: error })
  }

  #otherMode(mode: LockMode, holder: string): ErrClaimDenied {
    const does = mode === 'read' ? 'writes' : 'reads'
    const message = `"${holder}" cannot ${mode}: it ${does}, and cannot wait for itself`
    return new ErrClaimDenied(message, { lease: this.#lease, holder, currentHolder: holder })
  }
}

/** One less than the largest capacity, so that a writer always weighs more than a reader. */
const MAX_READERS = MAX_CAPACITY - 1

/**
 * What a reader and a writer weigh; a writer weighs the whole capacity. Readers and writers must not weigh the same, as it is by
 * the weight that the store knows a reader that asks to write.
 */
function weightsFor(maxReaders: number | undefined): Readonly<Record<LockMode, number>> {
  if (maxReaders === 1) return { read: 2, write: 3 }
  return { read: 1, write: maxReaders ?? MAX_CAPACITY }
}

function timeoutMsOf(duration: DurationLike): number {
  const checks = new Checks({}, [])
  const ms = checks.duration('timeout', duration)
  checks.finish()
  return ms
}

async function refreshed(lock: Lock, timeout: DurationLike | undefined): Promise<boolean> {
  try {
    await lock.refresh(timeout)
    return true
  } catch (error) {
    if (error instanceof ErrLost) return false
    throw error
  }
}
