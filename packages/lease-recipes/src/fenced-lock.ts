/**
 * Fenced locks in two modes, after dynamodb-lock-client:
 *
 * - `FailOpenLock`: a lock is a lease. After a crash of its holder it opens by itself when the lease has expired.
 * - `FailClosedLock`: a lock is a pinned lease (`pinned-hold.ts`). After a crash of its holder it stays closed until an operator has
 *   inspected what the holder left behind, and calls `forceRelease`.
 *
 * Both modes share their locks: an id that is locked in one mode is locked in the other. Every acquisition has a `fencingToken` higher
 * than all before it, and a holder name of its own: two acquisitions are never confused, even with the same `owner`, which is for people.
 *
 * `stop()` releases fail-open locks that are still held. Fail-closed locks stay closed.
 */
import { randomBytes } from 'node:crypto'
import { hostname, userInfo } from 'node:os'
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrStopped, systemClock, throwIfAborted, warn, showAs } from 'lease-core'
import type { Clock, Held, Hold, Manager, Token } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DateTime, Duration, DurationLike } from 'luxon'
import { checkedSignal } from './calls.ts'
import { Emitter } from './emitter.ts'
import { brokenLockIdRule, decodeLockId, encodeLockId, type LockId } from './lock-id.ts'
import { LinkedSignal, orAborted, whenAborted } from './or-aborted.ts'
import { holdPinned, type PinnedHold } from './pinned-hold.ts'
import { released } from './released.ts'
import { checkLength, encodeSegment } from './segments.ts'
import { waitThenTry } from './try-then-wait.ts'
import { unlessGone } from './unless-gone.ts'

/** Options of both modes. */
export interface FencedLockOptions {
  /** The locks do not stop it. */
  readonly manager: Manager
  /** The first part of each lease name: locks of two tables are independent. @default 'locks' */
  readonly lockTable?: string | undefined
  /** Who acquires, for people: the value of the lease, and the beginning of the holder name. @default user@host */
  readonly owner?: string | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Options of a FailOpenLock. */
export interface FailOpenLockOptions extends FencedLockOptions {
  /**
   * How long a lock stays closed after a crash of its holder. On a store without a clock others must watch it for as
   * long first. A number is in milliseconds.
   */
  readonly leaseDuration: DurationLike
  /**
   * How often the lease is renewed. Shorter than `leaseDuration` by 0.1 % and 6 ms, so that the renewal comes in
   * time. A number is in milliseconds.
   *
   * @default no renewals: the lock is lost (`expired`) when its lease ends
   */
  readonly heartbeatPeriod?: DurationLike | undefined
}

/** Options of a FailClosedLock. */
export interface FailClosedLockOptions extends FencedLockOptions {
  /**
   * How long the claim before the pin lasts: after a crash between the two, others wait this long. The holder renews the lease after a
   * third of it, and so learns whether an operator has freed the lock. A number is in milliseconds.
   *
   * @default 1 minute
   */
  readonly leaseDuration?: DurationLike | undefined
}

/** Options of `acquire` and `acquireLock`. */
export interface AcquireLockOptions {
  /**
   * false: a single try. A duration bounds the wait for others; the timeouts of the client bound the answer to a claim. true: waits as
   * long as `signal` allows. A number is in milliseconds. @default true; of `acquireLock` false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends the acquisition with its reason; does not end an acquired lock. A lock that was granted after all is released, if possible. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `tryAcquire`, `forceRelease` and `list`. */
export interface LockCallOptions {
  /** Rejects the call with its reason. What was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** Events of a `FencedLock`, with the arguments of their listeners. */
export interface FencedLockEvents {
  /** A request failed and is retried; the lock is still held. Needs no listener. */
  readonly error: readonly [cause: unknown]
  /** The lock ended unasked. Emitted once, as the last event. */
  readonly lost: readonly [loss: ErrLost]
}

/** A lock that some process holds, for operators. */
export interface LockInfo {
  readonly id: LockId
  /** The name of its lease. */
  readonly lease: string
  /** The name of the acquisition. */
  readonly holder: string
  /** Who acquired it, for people. */
  readonly owner: string | undefined
  /** Of the acquisition. */
  readonly fencingToken: bigint
  /** Whether it is fail-closed: only a release or an operator opens it. */
  readonly pinned: boolean
  /** The latest instant, by the local wall clock, at which it opens by itself, unless it is renewed or pinned. */
  readonly expiry: DateTime
}

/** What keeps a lock: a Hold or a PinnedHold. */
type LockBacking = Pick<Held, 'fencingToken' | 'token' | 'held' | 'signal' | 'remaining' | 'release'>

/** Where failures of one acquisition are reported. The lock takes it over when it exists. */
interface ErrorReporter {
  report: (cause: unknown) => void
}

interface Acquired {
  readonly id: LockId
  readonly lease: string
  readonly holder: string
  readonly owner: string
  readonly reporter: ErrorReporter
  readonly backing: LockBacking
}

/** A lock that was acquired. It is released or lost exactly once, and never held again. */
export class FencedLock extends Emitter<FencedLockEvents> implements Held {
  /** The id that was acquired. */
  readonly id: LockId
  /** The name of its lease. */
  readonly lease: string
  /** A name of this acquisition alone. */
  readonly holder: string
  /** Who acquired it, for people. */
  readonly owner: string
  readonly #backing: LockBacking
  #releasing: Promise<void> | undefined

  /** `acquire`, `tryAcquire` and `acquireLock` make it. */
  constructor({ id, lease, holder, owner, reporter, backing }: Acquired) {
    super()
    this.id = id
    this.lease = lease
    this.holder = holder
    this.owner = owner
    this.#backing = backing
    const { signal } = backing
    reporter.report = (cause) => {
      if (!signal.aborted) this.emit('error', cause)
    }
    whenAborted(signal, () => {
      if (signal.reason instanceof ErrLost) this.emit('lost', signal.reason)
    })
  }

  /** Higher than that of every earlier acquisition of this id, in either mode. Heartbeats do not change it. */
  get fencingToken(): bigint {
    return this.#backing.fencingToken
  }

  /** For `token.check(key)` before a guarded write. It is of this term. */
  get token(): Token {
    return this.#backing.token
  }

  /**
   * Whether the holder may rely on the lock now. Fail-open: reads the clocks. Fail-closed: true until it is released, or until this
   * process learns that an operator freed it; `token.check(key)` asks the store.
   */
  get held(): boolean {
    return this.#backing.held
  }

  /**
   * Aborts with an `ErrLost` when the lock is lost: a fail-open lock before another can have it (after a revocation: when the news
   * arrives). When a release begins, it aborts with an AbortError.
   */
  get signal(): AbortSignal {
    return this.#backing.signal
  }

  /** How long the holder may rely on it without a renewal; zero when it is over. Fail-closed: 100 years, because it does not expire. */
  remaining(): Duration {
    return this.#backing.remaining()
  }

  /** @throws ErrLost the lock is over, by loss or by release */
  assertHeld(): void {
    if (this.held) return
    const reason: unknown = this.signal.reason
    throw reason instanceof ErrLost ? reason : released(this)
  }

  /**
   * Gives the lock up, after a heartbeat in flight. When it resolves, another can have the lock. A second call sends nothing, except
   * after a release of a fail-closed lock that rejected with `ErrUnknown`: it tries again.
   *
   * Fail-open: also resolves when the lock was lost, or another holds it. Fail-closed: that is an `ErrNotHeld`.
   *
   * @throws ErrNotHeld an operator had freed the fail-closed lock; or another process has adopted the lock (reason `adopted`)
   * @throws ErrUnknown the lock may have been released. If not, a fail-open lock opens by itself; a fail-closed one may stay closed
   */
  release(): Promise<void> {
    this.#releasing ??= this.#backing.release().catch((error: unknown) => {
      if (!(error instanceof ErrNotHeld)) this.#releasing = undefined
      throw error
    })
    return this.#releasing
  }

  /** Releases the lock. Never rejects, so that it does not hide the outcome of the work: a failure becomes a warning of the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(warnOfRelease)
  }
}

showAs(FencedLock, 'FencedLock', ['lease', 'holder', 'fencingToken', 'held', 'owner'])

interface Acquisition {
  readonly lease: string
  readonly holder: string
  readonly owner: string
  readonly waitMs: number
  readonly signal: AbortSignal
  readonly reporter: ErrorReporter
}

/** What both modes have in common. */
abstract class FencedLocks<T extends LockBacking> implements AsyncDisposable {
  protected readonly manager: Manager
  protected readonly clock: Clock
  readonly #prefix: string
  readonly #owner: string
  /** The locks held, by lease. */
  readonly #held = new Map<string, { readonly backing: T; readonly reporter: ErrorReporter }>()
  /** Acquisitions in progress. Each promise resolves when the acquisition has ended, and an onOrphanedResult grant is released. */
  readonly #acquiring = new Map<LinkedSignal, Promise<void>>()
  #stopped = false
  #unsubscribe: (() => void) | undefined

  protected constructor({ manager, lockTable = 'locks', owner = whoIsThis(), clock = systemClock }: FencedLockOptions) {
    this.manager = manager
    this.clock = clock
    this.#prefix = `${encodeSegment(lockTable).replaceAll(':', '%3A')}:`
    this.#owner = owner
  }

  /**
   * Acquires the lock of this id. The lock is held when the call resolves.
   *
   * @throws ErrClaimDenied another holds it, or still did when `wait` ran out
   * @throws ErrNotValid    an argument breaks a rule; nothing was sent
   * @throws ErrUnknown     the lock may have been granted, and was withdrawn as far as possible. A fail-closed lock may stay closed
   * @throws ErrStopped     the locks or the manager were stopped
   */
  acquire(id: LockId, options: AcquireLockOptions = {}): Promise<FencedLock> {
    return this.#acquire(id, options, { wait: true })
  }

  /** Does what `acquire` does, in a single try. Resolves with undefined when another holds the lock. */
  async tryAcquire(id: LockId, options: LockCallOptions = {}): Promise<FencedLock | undefined> {
    try {
      return await this.#acquire(id, options, { wait: false }, ['signal'])
    } catch (error) {
      if (error instanceof ErrClaimDenied) return undefined
      throw error
    }
  }

  /** Does what `acquire` does, but `wait` is false by default. */
  acquireLock(id: LockId, options: AcquireLockOptions = {}): Promise<FencedLock> {
    return this.#acquire(id, options, { wait: false })
  }

  /**
   * Frees the lock, no matter who holds it, in either mode; for operators. A live holder is notified by `lost`. Until then it may go on
   * working, and only guards and the fencing token reject its writes. Resolves when nobody holds the lock. Reads the whole namespace.
   *
   * @throws ErrUnknown the lock may have been freed; call again
   */
  async forceRelease(id: LockId, options: LockCallOptions = {}): Promise<void> {
    const reader = new OptionReader(options, ['signal'], { arguments: { id } })
    const lease = this.#leaseIn(reader, id)
    const signal = reader.signal()
    reader.finish()
    throwIfAborted(signal)
    await orAborted(this.#free(lease), signal)
  }

  /** Returns every lock of the table that is held now, in either mode. Reads the whole namespace. */
  async list(options: LockCallOptions = {}): Promise<readonly LockInfo[]> {
    const signal = checkedSignal(options)
    const locks: LockInfo[] = []
    const leases = await orAborted(this.manager.leases(), signal)
    for (const [lease, { holder, value, fencingToken, pinned, expiry }] of leases) {
      const id = lease.startsWith(this.#prefix) ? decodeLockId(lease.slice(this.#prefix.length)) : undefined
      if (id !== undefined) locks.push({ id, lease, holder, owner: value, fencingToken, pinned, expiry })
    }
    return locks
  }

  /**
   * Ends this object: acquisitions in progress reject with `ErrStopped`, and so does every later one. Fail-open locks that are still
   * held are released. Fail-closed locks stay closed, because their work may be unfinished; the manager renews them until it stops. The
   * manager is not stopped. Never rejects; idempotent.
   *
   * Resolves when no request is in flight and onOrphanedResult grants are released. So stop the manager after it. If the store does not answer,
   * this waits for each request for as long as the client repeats it: a claim; for a fail-closed lock also a pin, its withdrawal and a
   * release.
   */
  async stop(): Promise<void> {
    this.#stopped = true
    for (const acquiring of this.#acquiring.keys()) acquiring.abort(stopped())
    const left = Array.from(this.#held.values(), ({ backing }) => this.leave(backing))
    await Promise.all([...left, ...this.#acquiring.values()])
  }

  /** The same as `stop()`. */
  close(): Promise<void> {
    return this.stop()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  protected abstract claim(acquisition: Acquisition): Promise<T>
  protected abstract leave(backing: T): Promise<void>

  async #acquire(
    id: LockId,
    options: AcquireLockOptions,
    byDefault: { readonly wait: boolean },
    known: readonly string[] = ['wait', 'signal'],
  ): Promise<FencedLock> {
    const reader = new OptionReader(options, known, { arguments: { id } })
    const lease = this.#leaseIn(reader, id)
    const waitMs = reader.wait(byDefault.wait)
    const signal = reader.signal()
    reader.finish()
    throwIfAborted(signal)
    if (this.#stopped) throw stopped()
    const until = new LinkedSignal(signal)
    const ended = this.#begin(until)
    const owner = this.#owner
    const holder = `${readable(owner)}~${randomBytes(16).toString('base64url')}`
    const reporter: ErrorReporter = { report: () => {} }
    const acquiring = this.claim({ lease, holder, owner, waitMs, signal: until.signal, reporter })
    try {
      const backing = await orAborted(acquiring, until.signal)
      until.signal.throwIfAborted() // it may have aborted together with the grant
      const lock = new FencedLock({ id, lease, holder, owner, reporter, backing })
      this.#keep(lease, backing, reporter)
      ended()
      return lock
    } catch (error) {
      const withdrawn = acquiring.then((late) => late.release()) // the caller has gone: release a late grant
      withdrawn.then(ended, ended)
      throw error
    } finally {
      until.letGo()
    }
  }

  /** Registers an acquisition. Call the returned function when all its requests have ended. */
  #begin(until: LinkedSignal): () => void {
    let resolve = (): void => {}
    this.#acquiring.set(until, new Promise((done) => (resolve = done)))
    return () => {
      this.#acquiring.delete(until)
      resolve()
    }
  }

  #leaseIn(options: OptionReader, id: LockId): string {
    const rule = brokenLockIdRule(id)
    options.fault('id', rule)
    const lease = rule === undefined ? `${this.#prefix}${encodeLockId(id)}` : ''
    checkLength(options, 'id', lease)
    return lease
  }

  /**
   * Withdraws the pins of our holders first, then ends exactly the term that was read. After a crash in between, the lease expires. A
   * process that acquires the lock in between keeps it.
   */
  async #free(lease: string): Promise<void> {
    const [pinned, leases] = await Promise.all([this.manager.pinned(), this.manager.leases()])
    const holder = leases.get(lease)?.holder
    for (const entity of pinned.get(lease) ?? []) if (HOLDER.test(entity)) await this.manager.unpin(lease, entity)
    if (holder !== undefined) await this.manager.release(lease, holder).catch(unlessGone)
  }

  #keep(lease: string, backing: T, reporter: ErrorReporter): void {
    const kept = { backing, reporter }
    if (backing.signal.aborted) return
    this.#held.set(lease, kept)
    whenAborted(backing.signal, () => {
      if (this.#held.get(lease) === kept) this.#held.delete(lease)
      if (this.#held.size > 0) return
      this.#unsubscribe?.()
      this.#unsubscribe = undefined
    })
    this.#unsubscribe ??= this.manager.events.subscribe((event) => {
      if (event.type === 'retrying' && event.operation === 'renewal')
        this.#held.get(event.lease)?.reporter.report(event.cause)
    })
  }
}

/** Locks that open by themselves after a crash of their holder, or when they are not renewed: see the head of this file. */
export class FailOpenLock extends FencedLocks<LockBacking> {
  readonly #durationMs: number
  readonly #heartbeatMs: number | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: FailOpenLockOptions) {
    const reader = new OptionReader(options, [...COMMON_OPTIONS, 'leaseDuration', 'heartbeatPeriod'])
    checkCommon(reader)
    const durationMs = reader.leaseDuration('leaseDuration')
    const beats = reader.read.heartbeatPeriod !== undefined
    const heartbeatMs = beats ? reader.duration('heartbeatPeriod') : undefined
    if (heartbeatMs !== undefined) reader.renewal('heartbeatPeriod', heartbeatMs, 'leaseDuration', durationMs)
    reader.finish()
    super(reader.read)
    this.#durationMs = durationMs
    this.#heartbeatMs = heartbeatMs
  }

  protected override async claim({ lease, holder, owner, waitMs, signal }: Acquisition): Promise<LockBacking> {
    const renewEvery: number | false = this.#heartbeatMs ?? false
    const options = { duration: this.#durationMs, renewEvery, value: owner, signal }
    return openEnded(await waitThenTry((wait) => this.manager.hold(lease, holder, { ...options, wait }), waitMs))
  }

  protected override async leave(backing: LockBacking): Promise<void> {
    await backing.release().catch(() => {}) // if it fails, the lease expires
  }
}

/** Locks that stay closed until they are released, or an operator frees them: see the head of this file. */
export class FailClosedLock extends FencedLocks<PinnedHold> {
  readonly #durationMs: number

  /** @throws ErrNotValid with every problem */
  constructor(options: FailClosedLockOptions) {
    const reader = new OptionReader(options, [...COMMON_OPTIONS, 'leaseDuration'])
    checkCommon(reader)
    const durationMs = reader.renewedDuration('leaseDuration', 60_000)
    reader.finish()
    super(reader.read)
    this.#durationMs = durationMs
  }

  protected override claim(acquisition: Acquisition): Promise<PinnedHold> {
    const { lease, holder, owner, waitMs, signal, reporter } = acquisition
    const options = { duration: this.#durationMs, value: owner, signal }
    const { manager, clock } = this
    return holdPinned({ manager, clock, lease, holder, options, waitMs, onError: (cause) => reporter.report(cause) })
  }

  protected override async leave(backing: PinnedHold): Promise<void> {
    backing.forget(stopped())
  }
}

const COMMON_OPTIONS = ['manager', 'lockTable', 'owner', 'clock']
/** The end of a holder name: 16 random bytes. */
const HOLDER = /~[\w-]{22}$/

function checkCommon(options: OptionReader<FencedLockOptions>): void {
  const methods = [
    'hold',
    'claim',
    'token',
    'waitUntilExpired',
    'release',
    'revoke',
    'pin',
    'unpin',
    'pinned',
    'leases',
  ]
  options.object('manager', 'a Manager', methods)
  if (options.read.lockTable !== undefined) options.name('lockTable')
  options.must('owner', options.read.owner !== '', 'must not be empty')
  options.value('owner')
  options.clock()
}

/** A Hold whose release resolves when another holds the lease. */
function openEnded(hold: Hold): LockBacking {
  return {
    fencingToken: hold.fencingToken,
    token: hold.token,
    signal: hold.signal,
    get held() {
      return hold.held
    },
    remaining: () => hold.remaining(),
    release: () => hold.release().catch(unlessGone),
  }
}

function warnOfRelease(error: unknown): void {
  warn(error, 'LeaseReleaseWarning')
}

function stopped(): ErrStopped {
  return new ErrStopped('the locks were stopped')
}

/** `user@host`, with what this machine knows. */
function whoIsThis(): string {
  let user = 'unknown'
  try {
    user = userInfo().username
  } catch {} // a user id without an entry, as in many containers
  return `${user}@${hostname()}`
}

/** The owner, as far as a name may contain it. */
function readable(owner: string): string {
  return Array.from(owner.replace(/[^\p{L}\p{N}_@-]+/gu, '-'))
    .slice(0, 40)
    .join('')
}
