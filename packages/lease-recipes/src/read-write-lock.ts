/**
 * A lock for many readers or one writer.
 *
 *     <prefix>/<name>            a counted lease (`share.ts` of lease-core); its capacity is the largest number of readers
 *     <prefix>/<name>#<holder>   the lock of this holder: a share of it. A reader weighs 1, a writer the whole capacity
 *
 * Promises.
 * - A reader and a writer, or two writers, never hold the lock at once: the store counts the weights when it grants one.
 * - Readers and writers are served first come, first served: neither starves. Nobody polls.
 * - A lock is renewed until it is released, or until its `timeout` is over. After a crash it expires within `duration`.
 * - A holder has one lock. If it locks again in the same mode, in any process, it gets the same lock, refreshed. A reader that asks to
 *   write, or a writer that asks to read, is refused at once and keeps its lock: there is no upgrade.
 *
 * After clusterluck's DLMServer; the names are the same. Here the store replaces its quorum of nodes.
 */
import { ErrClaimDenied, ErrInvalid, ErrLost, ErrNotValid, MAX_CAPACITY, MAX_DURATION_MS, showAs } from 'lease-core'
import { abortController, shareName, Stopwatch, systemClock } from 'lease-core'
import type { Clock, Held, Hold, Manager, Timer, Token } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { Duration, type DurationLike } from 'luxon'
import { Calls, Takers } from './calls.ts'
import { Emitter } from './emitter.ts'
import { released } from './released.ts'
import { leaseNameIn, prefixIn } from './segments.ts'
import { ErrLimitMismatch } from './semaphore.ts'
import { ShareQueue } from './share-queue.ts'
import { isGone, releaseAnywhere, unlessGone } from './unless-gone.ts'

/** Options of a ReadWriteLock. */
export interface ReadWriteLockOptions {
  /** The recipe does not stop it. */
  readonly manager: Manager
  /** The name of the lock; the same for everyone who shares it. */
  readonly name: string
  /** How many readers at once; the same for everyone who shares the lock: the store compares it. @default any number */
  readonly maxReaders?: number | undefined
  /** After a crash of its holder a lock expires within this time. A number is in milliseconds. @default 15 seconds */
  readonly duration?: DurationLike | undefined
  /** The first part of each lease name: locks of two prefixes are independent. @default 'rwlocks' */
  readonly prefix?: string | undefined
  /**
   * How long a call may stay unanswered, not counting its wait for others. A number is in milliseconds.
   *
   * @default 30 seconds
   */
  readonly requestTimeout?: DurationLike | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Options of `rlock` and `wlock`. */
export interface LockOptions {
  /**
   * false: a single try. A duration bounds the wait for others; `requestTimeout` bounds the answer to a claim. true: waits as long as
   * `signal` allows. A number is in milliseconds. @default true
   */
  readonly wait?: DurationLike | boolean | undefined
  /**
   * The lock ends by itself this long after it was acquired or last refreshed. A number is in milliseconds.
   *
   * @default it is renewed until released
   */
  readonly timeout?: DurationLike | undefined
  /** Ends this call with its reason; does not end a lock. A lock that was granted after all is released, if possible. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `runlock` and `wunlock`. */
export interface UnlockOptions {
  /** Ends this call with its reason. What was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** Events with the arguments of their listeners. */
export interface ReadWriteLockEvents {
  /** A `runlockAsync` or `wunlockAsync` failed. Needs no listener. */
  readonly error: readonly [cause: unknown]
}

/** Whether a lock is for reading or for writing. */
export type LockMode = 'read' | 'write'

/** A lock that was acquired. It is released or lost exactly once, and never held again. */
export class Lock implements Held {
  readonly mode: LockMode
  /** The name under which it was locked. */
  readonly holder: string
  readonly #hold: Hold
  readonly #clock: Clock
  readonly #controller = abortController()
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

  /** Above those of all earlier readers and writers of this lock. */
  get fencingToken(): bigint {
    return this.#hold.fencingToken
  }

  /** For `token.check(key)` before a guarded write. It is of this term. */
  get token(): Token {
    return this.#hold.token
  }

  /** Whether the holder may rely on the lock now. Reads the clocks. */
  get held(): boolean {
    if (this.#controller.signal.aborted) return false
    if (this.#since.elapsedMs >= this.#timeoutMs) this.#expire()
    return this.#hold.held && !this.#controller.signal.aborted
  }

  /** Aborts with an `ErrLost` when the lock is lost or its `timeout` is over, and with an AbortError after a release. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Whether it excludes all others: true for a writer, false for a reader. */
  isExclusive(): Promise<boolean> {
    return Promise.resolve(this.mode === 'write')
  }

  /** How long the holder may rely on the lock without a renewal, at most until its `timeout`; zero when it is over. */
  remaining(): Duration {
    if (!this.held) return Duration.fromMillis(0)
    const [leaseMs, leftMs] = [this.#hold.remaining().toMillis(), this.#timeoutMs - this.#since.elapsedMs]
    return Duration.fromMillis(Math.max(0, Math.min(leaseMs, leftMs)))
  }

  /** @throws ErrLost the lock is over, by loss, by release, or by its `timeout` */
  assertHeld(): void {
    if (this.held) return
    const reason: unknown = this.signal.reason
    throw reason instanceof ErrLost ? reason : released({ lease: this.#hold.lease, holder: this.holder })
  }

  /**
   * Renews the lock, and counts its `timeout` from now.
   *
   * @param timeout replaces the timeout of the lock. @default the same again
   * @throws ErrLost    the lock is over
   * @throws ErrUnknown the lock may have been renewed
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
   * Gives the lock back. When it resolves, others can have it. Resolves if it is over already.
   *
   * @throws ErrNotHeld reason `adopted`: the same holder has locked again in another process, which keeps the lock. This object is over.
   *   `runlock` and `wunlock` free the lock there too
   * @throws ErrUnknown the lock may have been released; if not, it expires
   */
  release(): Promise<void> {
    this.#end(new DOMException('the lock was unlocked', 'AbortError'))
    return this.#releasing ?? Promise.resolve()
  }

  /** The same as `release()`. */
  unlock(): Promise<void> {
    return this.release()
  }

  /** Releases the lock. Never rejects, so that it does not hide the outcome of the work: the lock expires by itself. */
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
    this.#end(this.#expired())
  }

  #end(reason: unknown): void {
    if (this.#controller.signal.aborted) return
    this.#timer?.cancel()
    this.#controller.abort(reason)
    this.#releasing = this.#hold.release({ all: true }).catch(unlessGone)
    this.#releasing.catch(() => {}) // `release()` returns it
  }

  #expired(): ErrLost {
    const { lease } = this.#hold
    const message = `the ${this.mode} lock "${lease}" of "${this.holder}" is not held any more: its time is over`
    return new ErrLost(message, { lease, holder: this.holder, reason: 'expired' })
  }
}

showAs(Lock, 'Lock', ['mode', 'holder', 'fencingToken', 'held'])

interface LockParts {
  readonly mode: LockMode
  readonly hold: Hold
  readonly clock: Clock
  readonly timeoutMs: number
}

const KNOWN_OPTIONS = ['manager', 'name', 'maxReaders', 'duration', 'prefix', 'requestTimeout', 'clock']
const METHODS = ['hold', 'counted', 'find', 'release']

/** A lock for many readers or one writer: see the head of this file. */
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
  /** An aborted call that was granted releases what no other call uses. */
  readonly #takers = new Takers<Lock>()
  readonly #queue: ShareQueue
  readonly #calls: Calls
  /** Locks acquired here that are not over, by holder. */
  readonly #locks = new Map<string, Lock>()
  #stopping: Promise<void> | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: ReadWriteLockOptions) {
    super()
    const reader = new OptionReader(options, KNOWN_OPTIONS)
    const { manager, name } = reader.read
    reader.object('manager', 'a Manager', METHODS)
    this.#lease = leaseNameIn(reader, 'name', { prefix: prefixIn(reader, 'rwlocks') })
    const maxReaders = reader.count('maxReaders', MAX_READERS)
    this.#durationMs = reader.renewedDuration('duration', 15_000)
    this.#requestMs = reader.duration('requestTimeout', 30_000)
    this.#clock = reader.clock() ?? systemClock
    reader.finish()
    this.name = name
    this.maxReaders = maxReaders
    this.#manager = manager
    this.#weights = weightsFor(maxReaders)
    this.#queue = new ShareQueue(manager, this.#clock)
    this.#calls = new Calls(this.#clock, 'the read-write lock is')
  }

  /**
   * Locks for reading, together with other readers. If the holder reads already, returns that lock, refreshed.
   *
   * @throws ErrClaimDenied   a writer had the lock, others were ahead, or `maxReaders` were reading, until the wait was over; at once when
   *   this holder has the lock for writing
   * @throws ErrLimitMismatch others share this lock with another `maxReaders`
   * @throws ErrNotValid      an argument breaks a rule; nothing was sent
   * @throws ErrUnknown       the lock may have been granted; `runlock` frees it
   */
  rlock(holder: string, options: LockOptions = {}): Promise<Lock> {
    return this.#lock('read', holder, options)
  }

  /**
   * Locks for writing, alone. If the holder writes already, returns that lock, refreshed.
   *
   * @throws ErrClaimDenied   others had the lock, or were ahead, until the wait was over; at once when this holder has the lock for reading
   * @throws ErrLimitMismatch others share this lock with another `maxReaders`
   * @throws ErrNotValid      an argument breaks a rule; nothing was sent
   * @throws ErrUnknown       the lock may have been granted; `wunlock` frees it
   */
  wlock(holder: string, options: LockOptions = {}): Promise<Lock> {
    return this.#lock('write', holder, options)
  }

  /** Does what `rlock` does, in a single try. Resolves with undefined when it is refused. */
  tryRlock(holder: string, options: Omit<LockOptions, 'wait'> = {}): Promise<Lock | undefined> {
    return this.#tryLock('read', holder, options)
  }

  /** Does what `wlock` does, in a single try. Resolves with undefined when it is refused. */
  tryWlock(holder: string, options: Omit<LockOptions, 'wait'> = {}): Promise<Lock | undefined> {
    return this.#tryLock('write', holder, options)
  }

  /**
   * Frees the read lock of this holder, in whichever process it is. Resolves if the holder has none.
   *
   * @throws ErrUnknown the lock may have been released; if not, it expires when its process stops renewing it
   */
  runlock(holder: string, options: UnlockOptions = {}): Promise<void> {
    return this.#unlock('read', holder, options)
  }

  /**
   * Frees the write lock of this holder, in whichever process it is. Resolves if the holder has none.
   *
   * @throws ErrUnknown the lock may have been released; if not, it expires when its process stops renewing it
   */
  wunlock(holder: string, options: UnlockOptions = {}): Promise<void> {
    return this.#unlock('write', holder, options)
  }

  /** Does what `runlock` does, in the background. Never throws; a failure is an `error` event. */
  runlockAsync(holder: string): void {
    this.runlock(holder).catch((error: unknown) => this.emit('error', error))
  }

  /** Does what `wunlock` does, in the background. Never throws; a failure is an `error` event. */
  wunlockAsync(holder: string): void {
    this.wunlock(holder).catch((error: unknown) => this.emit('error', error))
  }

  /**
   * Ends this object: calls in progress reject with `ErrStopped`, and so does every later one. Releases the locks acquired here. Never
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
    await Promise.allSettled(Array.from(this.#locks.values(), (lock) => lock.release()))
  }

  async #lock(mode: LockMode, holder: string, options: LockOptions, isTry: boolean = false): Promise<Lock> {
    const known = isTry ? ['timeout', 'signal'] : ['wait', 'timeout', 'signal']
    const reader = new OptionReader(options, known, { arguments: { holder } })
    reader.name('holder')
    const waitMs = reader.wait(!isTry)
    const { timeout } = reader.read
    const timeoutMs = reader.duration('timeout', MAX_DURATION_MS)
    const signal = reader.signal()
    reader.finish()
    const onOrphanedResult = (lock: Lock): void => {
      if (this.#takers.remove(lock)) lock.release().catch(() => {}) // if it fails, the lock expires
    }
    return this.#calls.run({ signal, limitMs: waitMs + this.#requestMs, onOrphanedResult }, async (until) => {
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
        throw error instanceof Error ? await this.#explained(error, mode, holder) : error
      }
    })
  }

  #given(lock: Lock): Lock {
    this.#takers.add(lock)
    return lock
  }

  async #tryLock(mode: LockMode, holder: string, options: Omit<LockOptions, 'wait'>): Promise<Lock | undefined> {
    try {
      return await this.#lock(mode, holder, options, true)
    } catch (error) {
      if (error instanceof ErrClaimDenied && !(error instanceof ErrLimitMismatch)) return undefined
      throw error
    }
  }

  async #unlock(mode: LockMode, holder: string, options: UnlockOptions): Promise<void> {
    const reader = new OptionReader(options, ['signal'], { arguments: { holder } })
    reader.name('holder')
    const until = reader.signal()
    reader.finish()
    await this.#calls.run({ signal: until, limitMs: this.#requestMs }, async (signal) => {
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
      hold.release().catch(() => {}) // shared: sends nothing
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

  /** Translates a refusal of the counted lease. */
  async #explained(error: Error, mode: LockMode, holder: string): Promise<unknown> {
    if (error instanceof ErrNotValid || error instanceof ErrInvalid) {
      const { capacity } = await this.#manager.counted(this.#lease)
      if (capacity === this.#weights.write) return this.#otherMode(mode, holder)
      if (capacity === undefined) return error
      const [n, asked] = [readersOf(capacity), this.maxReaders ?? Number.POSITIVE_INFINITY]
      const message = `lock "${this.name}" has maxReaders equal to ${n}, not ${asked}`
      return new ErrLimitMismatch(this.name, this.#lease, { n, asked, message })
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

/** One less than the capacity of one reader: each number of readers has a capacity of its own, by which the store compares it. */
const MAX_READERS = MAX_CAPACITY - 2

/**
 * The weights of a reader and a writer; a writer weighs the whole capacity. The two weights must differ: by the weight the store
 * recognises a reader that asks to write.
 */
function weightsFor(maxReaders: number | undefined): Readonly<Record<LockMode, number>> {
  if (maxReaders === 1) return { read: MAX_CAPACITY / 2, write: MAX_CAPACITY - 1 }
  return { read: 1, write: maxReaders ?? MAX_CAPACITY }
}

/** Which `maxReaders` has this capacity. */
function readersOf(capacity: number): number {
  if (capacity === MAX_CAPACITY) return Number.POSITIVE_INFINITY
  return capacity === MAX_CAPACITY - 1 ? 1 : capacity
}

function timeoutMsOf(duration: DurationLike): number {
  const reader = new OptionReader({}, [], { arguments: { timeout: duration } })
  const ms = reader.duration('timeout')
  reader.finish()
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
