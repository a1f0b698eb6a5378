/**
 * Fenced locks in two modes, after dynamodb-lock-client:
 *
 * - `FailOpenLock`: a lock is a lease. When its holder crashes, it opens by itself once the lease has run out.
 * - `FailClosedLock`: a lock is a pinned lease (`pinned-hold.ts`). When its holder crashes, it stays closed until a
 *   person has looked at what the holder left behind, and calls `forceRelease`.
 *
 * Both modes share their locks: an id that is locked in one is locked in the other. Every acquisition has a
 * `fencingToken` higher than all before it, and a holder's name of its own: two acquisitions never pass for one another,
 * even if they have the same `owner`, which is for people to read.
 *
 * After `stop()` a fail-open lock that was still held is released; a fail-closed one stays closed.
 */
import { randomBytes } from 'node:crypto'
import { hostname, userInfo } from 'node:os'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  hasMethods,
  systemClock,
  throwIfAborted,
  warn,
} from 'lease-core'
import type { Clock, Held, Hold, Manager, Token } from 'lease-core'
import type { DateTime, Duration, DurationLike } from 'luxon'
import { Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { brokenLockIdRule, decodeLockId, encodeLockId, type LockId } from './lock-id.ts'
import { LinkedSignal, orAborted, whenAborted } from './or-aborted.ts'
import { holdPinned, type PinnedHold } from './pinned-hold.ts'
import { encodeSegment } from './segments.ts'
import { waitThenTry } from './try-then-wait.ts'
import { unlessGone } from './unless-gone.ts'

/** What both modes want to know. */
export interface FencedLockOptions {
  readonly manager: Manager
  /** The family of locks: those of two tables have nothing to do with each other. @default 'locks' */
  readonly lockTable?: string | undefined
  /** Who asks, for people: travels with the lease and begins the holder's name. @default user@host */
  readonly owner?: string | undefined
  /** The manager's. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

export interface FailOpenLockOptions extends FencedLockOptions {
  /** How long a lock outlives the crash of its holder at most. */
  readonly leaseDuration: DurationLike
  /**
   * How often the lease is renewed; less than `leaseDuration` by 0.1 % and 6 ms, so that the renewal comes in time. Without it a lock
   * ends when its lease does.
   */
  readonly heartbeatPeriod?: DurationLike | undefined
}

export interface FailClosedLockOptions extends FencedLockOptions {
  /**
   * How long the claim lasts that precedes the pin; a crash between the two costs others so much time. Thrice in it the
   * holder makes sure that nobody freed the lock.
   *
   * @default 1 minute
   */
  readonly leaseDuration?: DurationLike | undefined
}

export interface AcquireLockOptions {
  /**
   * false: another's lock is refused at once. A duration bounds the wait for others, and not the answer to a claim, which ends by the
   * time-outs of the client; true waits as long as `signal` allows. @default true; of `acquireLock` false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends the acquisition, not the lock. What was granted after all is released again if possible. */
  readonly signal?: AbortSignal | undefined
}

export interface LockCallOptions {
  /** Rejects the call with its reason; what was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** What a `FencedLock` tells. */
export interface FencedLockEvents {
  /** Something went wrong and is tried again: the lock is still held. Nobody needs to listen. */
  readonly error: readonly [cause: unknown]
  /** The lock ended unasked. Once, and the last event. */
  readonly lost: readonly [loss: ErrLost]
}

/** Somebody's lock, for an operator. */
export interface LockInfo {
  readonly id: LockId
  readonly lease: string
  readonly holder: string
  readonly owner: string | undefined
  readonly fencingToken: bigint
  /** Whether only a release or a person opens it: a fail-closed lock. */
  readonly pinned: boolean
  /** When it opens by itself at the latest, unless it is renewed or pinned. */
  readonly expiry: DateTime
}

/** What a lock stands on: a Hold or a PinnedHold. */
type LockBacking = Pick<Held, 'fencingToken' | 'token' | 'held' | 'signal' | 'remaining' | 'release'>

/** Where trouble of one acquisition is told; the lock takes it over when there is one. */
interface Trouble {
  tell: (cause: unknown) => void
}

interface Acquired {
  readonly id: LockId
  readonly lease: string
  readonly holder: string
  readonly owner: string
  readonly trouble: Trouble
  readonly backing: LockBacking
}

/** A lock that was acquired. It is released or lost exactly once, and never held again. */
export class FencedLock extends Emitter<FencedLockEvents> implements Held {
  readonly id: LockId
  readonly lease: string
  /** Of this acquisition alone. */
  readonly holder: string
  readonly owner: string
  readonly #backing: LockBacking
  #releasing: Promise<void> | undefined

  /** `acquireLock` makes it. */
  constructor({ id, lease, holder, owner, trouble, backing }: Acquired) {
    super()
    this.id = id
    this.lease = lease
    this.holder = holder
    this.owner = owner
    this.#backing = backing
    const { signal } = backing
    trouble.tell = (cause) => {
      if (!signal.aborted) this.emit('error', cause)
    }
    whenAborted(signal, () => {
      if (signal.reason instanceof ErrLost) this.emit('lost', signal.reason)
    })
  }

  /** Higher than that of every earlier acquisition of this id, in either mode; unchanged by heartbeats. */
  get fencingToken(): bigint {
    return this.#backing.fencingToken
  }

  /** For `token.check(key)` before a guarded write, or to ask the store. */
  get token(): Token {
    return this.#backing.token
  }

  /**
   * Whether the holder may rely on it now. Fail-open: reads the clock. Fail-closed: true until it is released, or this
   * process learns that a person freed it; `token.check()` asks.
   */
  get held(): boolean {
    return this.#backing.held
  }

  /**
   * Aborts with an `ErrLost` when the lock is lost: a fail-open one before another can have it. At the beginning of a
   * release it aborts with a plain AbortError.
   */
  get signal(): AbortSignal {
    return this.#backing.signal
  }

  /** How long it may be relied on unless it is renewed; zero when it is over. Fail-closed: 100 years, for it does not end by itself. */
  remaining(): Duration {
    return this.#backing.remaining()
  }

  /** @throws ErrLost when the lock is not held any more, by loss or by release */
  assertHeld(): void {
    if (this.held) return
    const { lease, holder } = this
    const reason: unknown = this.signal.reason
    if (reason instanceof ErrLost) throw reason
    const message = `lease "${lease}" of "${holder}" is not held any more: released`
    throw new ErrLost(message, { lease, holder, reason: 'expired', cause: reason })
  }

  /**
   * Gives the lock up, after a heartbeat in flight: when it resolves, another can have it at once. A second release sends
   * nothing, except after one of a fail-closed lock that rejected: that is tried again.
   *
   * Fail-open: resolves as well when the lock was lost or is another's by now. Fail-closed: that is an `ErrNotHeld`.
   *
   * @throws ErrNotHeld a person freed the fail-closed lock while this holder believed to have it
   * @throws ErrUnknown it may have happened. A fail-open lock opens by itself; a fail-closed one may stay closed
   */
  release(): Promise<void> {
    this.#releasing ??= this.#backing.release().catch((error: unknown) => {
      if (!(error instanceof ErrNotHeld)) this.#releasing = undefined
      throw error
    })
    return this.#releasing
  }

  /** Never rejects: the work's own outcome must not be masked. A release that fails becomes a warning of the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(warnOfRelease)
  }
}

interface Acquisition {
  readonly lease: string
  readonly holder: string
  readonly owner: string
  readonly waitMs: number
  readonly signal: AbortSignal
  readonly trouble: Trouble
}

/** What the two modes have in common. */
abstract class FencedLocks<T extends LockBacking> implements AsyncDisposable {
  protected readonly manager: Manager
  protected readonly clock: Clock
  readonly #prefix: string
  readonly #owner: string
  /** Those held, by lease. */
  readonly #held = new Map<string, { readonly backing: T; readonly trouble: Trouble }>()
  /** Acquisitions under way, each with a promise that resolves when it has ended and what it was granted for nobody is given back. */
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
   * Resolves with the lock when it is held.
   *
   * @throws ErrClaimDenied another has it, or still had when `wait` ran out
   * @throws ErrNotValid    nothing was sent
   * @throws ErrUnknown     it may have happened
   * @throws ErrStopped     this was stopped, or the manager was
   */
  acquire(id: LockId, options: AcquireLockOptions = {}): Promise<FencedLock> {
    return this.#acquire(id, options, { wait: true })
  }

  /** As `acquire`, in a single try; resolves with undefined where another has it. */
  async tryAcquire(id: LockId, options: LockCallOptions = {}): Promise<FencedLock | undefined> {
    try {
      return await this.#acquire(id, options, { wait: false }, ['signal'])
    } catch (error) {
      if (error instanceof ErrClaimDenied) return undefined
      throw error
    }
  }

  /** As `acquire`, but a single try unless `wait` says otherwise. */
  acquireLock(id: LockId, options: AcquireLockOptions = {}): Promise<FencedLock> {
    return this.#acquire(id, options, { wait: false })
  }

  /**
   * A person frees the lock, whoever has it and in whichever mode. Its holder, if he lives, is told by `lost`; he may be at
   * work until then, and only the fencing token keeps him out. Nobody has it: resolves. Reads the namespace.
   *
   * @throws ErrUnknown it may have happened
   */
  async forceRelease(id: LockId, options: LockCallOptions = {}): Promise<void> {
    const checks = new Checks(options, ['signal'])
    const lease = this.#leaseOf(id, checks)
    checks.signal('signal', options.signal)
    checks.finish()
    throwIfAborted(options.signal)
    await orAborted(this.#free(lease), options.signal)
  }

  /** Every lock of the table that is held now, in either mode, freshly read with all leases of the namespace. */
  async list(options: LockCallOptions = {}): Promise<readonly LockInfo[]> {
    const checks = new Checks(options, ['signal'])
    checks.signal('signal', options.signal)
    checks.finish()
    throwIfAborted(options.signal)
    const locks: LockInfo[] = []
    const leases = await orAborted(this.manager.leases(), options.signal)
    for (const [lease, { holder, value, fencingToken, pinned, expiry }] of leases) {
      const id = lease.startsWith(this.#prefix) ? decodeLockId(lease.slice(this.#prefix.length)) : undefined
      if (id !== undefined) locks.push({ id, lease, holder, owner: value, fencingToken, pinned, expiry })
    }
    return locks
  }

  /**
   * Acquisitions under way reject with `ErrStopped`, and so does every later one. Fail-open locks that are still held are
   * released; fail-closed ones stay closed, for nobody knows how far the work of their holders is, and are renewed until the
   * manager stops. The manager stays as it is. Never rejects; idempotent.
   *
   * Resolves when nothing is under way any more, so stop the manager after it: what an acquisition was granted for nobody is given
   * back first. A store that does not answer is waited for as long as the client repeats a request, for each of the requests: a
   * claim, and for a fail-closed lock a pin, its withdrawal and a release.
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
    const checks = new Checks(options, known)
    const lease = this.#leaseOf(id, checks)
    const { signal, wait = byDefault.wait } = options
    const waitMs = checks.wait('wait', wait)
    checks.signal('signal', signal)
    checks.finish()
    throwIfAborted(signal)
    if (this.#stopped) throw stopped()
    const until = new LinkedSignal(signal)
    const ended = this.#begin(until)
    const owner = this.#owner
    const holder = `${readable(owner)}~${randomBytes(16).toString('base64url')}`
    const trouble: Trouble = { tell: () => {} }
    const acquiring = this.claim({ lease, holder, owner, waitMs, signal: until.signal, trouble })
    try {
      const backing = await orAborted(acquiring, until.signal)
      until.signal.throwIfAborted() // at the last moment
      const lock = new FencedLock({ id, lease, holder, owner, trouble, backing })
      this.#keep(lease, backing, trouble)
      ended()
      return lock
    } catch (error) {
      const withdrawn = acquiring.then((late) => late.release()) // nobody is here any more to take it
      withdrawn.then(ended, ended)
      throw error
    } finally {
      until.letGo()
    }
  }

  /** Registers an acquisition; what it returns is to be called when nothing of it is under way any more. */
  #begin(until: LinkedSignal): () => void {
    let resolve = (): void => {}
    this.#acquiring.set(until, new Promise((done) => (resolve = done)))
    return () => {
      this.#acquiring.delete(until)
      resolve()
    }
  }

  #leaseOf(id: LockId, checks: Checks): string {
    const rule = brokenLockIdRule(id)
    checks.must('id', rule === undefined, rule ?? '', id)
    const lease = rule === undefined ? `${this.#prefix}${encodeLockId(id)}` : ''
    checks.fits('id', lease, id)
    return lease
  }

  /**
   * The pins that our holders put on are withdrawn first, and then exactly the term that was found is ended: a crash in
   * between leaves a lease that lapses, and whoever acquires the lock meanwhile keeps it.
   */
  async #free(lease: string): Promise<void> {
    const [pinned, leases] = await Promise.all([this.manager.pinned(), this.manager.leases()])
    const holder = leases.get(lease)?.holder
    for (const entity of pinned.get(lease) ?? []) if (HOLDER.test(entity)) await this.manager.unpin(lease, entity)
    if (holder !== undefined) await this.manager.release(lease, holder).catch(unlessGone)
  }

  #keep(lease: string, backing: T, trouble: Trouble): void {
    const kept = { backing, trouble }
    if (backing.signal.aborted) return
    this.#held.set(lease, kept)
    whenAborted(backing.signal, () => {
      if (this.#held.get(lease) === kept) this.#held.delete(lease)
      if (this.#held.size > 0) return
      this.#unsubscribe?.()
      this.#unsubscribe = undefined
    })
    this.#unsubscribe ??= this.manager.events.subscribe((event) => {
      if (event.type === 'retrying' && event.doing === 'renewal') this.#held.get(event.lease)?.trouble.tell(event.cause)
    })
  }
}

/** Locks that open by themselves when their holder does not renew them: see `FailOpenLockOptions`. */
export class FailOpenLock extends FencedLocks<LockBacking> {
  readonly #durationMs: number
  readonly #heartbeatMs: number | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: FailOpenLockOptions) {
    const checks = new Checks(options, [...COMMON_OPTIONS, 'leaseDuration', 'heartbeatPeriod'])
    checkCommon(checks, options)
    const durationMs = checks.leaseDuration('leaseDuration', options.leaseDuration)
    const { heartbeatPeriod } = options
    const heartbeatMs = heartbeatPeriod === undefined ? undefined : checks.duration('heartbeatPeriod', heartbeatPeriod)
    if (heartbeatMs !== undefined) checks.renewal('heartbeatPeriod', heartbeatMs, 'leaseDuration', durationMs)
    checks.finish()
    super(options)
    this.#durationMs = durationMs
    this.#heartbeatMs = heartbeatMs
  }

  protected override async claim({ lease, holder, owner, waitMs, signal }: Acquisition): Promise<LockBacking> {
    const renewEvery: number | false = this.#heartbeatMs ?? false
    const options = { duration: this.#durationMs, renewEvery, value: owner, signal }
    return openEnded(await waitThenTry((wait) => this.manager.hold(lease, holder, { ...options, wait }), waitMs))
  }

  protected override async leave(backing: LockBacking): Promise<void> {
    await backing.release().catch(() => {}) // it lapses by itself
  }
}

/** Locks that stay closed until they are released, or freed by a person: see `FailClosedLockOptions`. */
export class FailClosedLock extends FencedLocks<PinnedHold> {
  readonly #durationMs: number

  /** @throws ErrNotValid with every problem */
  constructor(options: FailClosedLockOptions) {
    const checks = new Checks(options, [...COMMON_OPTIONS, 'leaseDuration'])
    checkCommon(checks, options)
    const durationMs = checks.leaseDuration('leaseDuration', options.leaseDuration ?? 60_000)
    checks.finish()
    super(options)
    this.#durationMs = durationMs
  }

  protected override claim(acquisition: Acquisition): Promise<PinnedHold> {
    const { lease, holder, owner, waitMs, signal, trouble } = acquisition
    const options = { duration: this.#durationMs, value: owner, signal }
    const { manager, clock } = this
    return holdPinned({ manager, clock, lease, holder, options, waitMs, troubled: (cause) => trouble.tell(cause) })
  }

  protected override async leave(backing: PinnedHold): Promise<void> {
    backing.forget(stopped())
  }
}

const COMMON_OPTIONS = ['manager', 'lockTable', 'owner', 'clock']
/** What `readable` and 16 random bytes make. */
const HOLDER = /~[\w-]{22}$/

function checkCommon(checks: Checks, { manager, lockTable, owner, clock }: FencedLockOptions): void {
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
  checks.must('manager', hasMethods(manager, ...methods), 'must be a Manager', manager)
  if (lockTable !== undefined) checks.name('lockTable', lockTable)
  checks.must('owner', owner !== '', 'must not be empty', owner)
  checks.value('owner', owner)
  const isClock = clock === undefined || hasMethods(clock, 'now', 'monotonic', 'setTimer')
  checks.must('clock', isClock, 'must be a Clock', clock)
}

/** A Hold whose release does not mind that the lease is another's by now. */
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

/** user@host, as far as this machine tells. */
function whoIsThis(): string {
  let user = 'unknown'
  try {
    user = userInfo().username
  } catch {} // an id without an entry, as in many a container
  return `${user}@${hostname()}`
}

/** As much of the owner as fits into a name. */
function readable(owner: string): string {
  return Array.from(owner.replace(/[^\p{L}\p{N}_@-]+/gu, '-'))
    .slice(0, 40)
    .join('')
}
