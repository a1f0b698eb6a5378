/**
 * A lock for many readers or one writer.
 *
 *     <prefix>/<name>          the gate: held by the writer who has the lock, or is next
 *     <prefix>/<name>/<slot>   slots 0 … maxReaders − 1: a reader holds one, a writer all of them
 *
 * Promises.
 * - A reader and a writer, or two writers, never have the lock at once: each holds a slot that the other would need. The
 *   gate is not needed for that; it lets writers come one after another, and keeps new readers out while one waits.
 * - Writers do not starve: a writer keeps every slot that it has got, and readers who see the gate taken wait. (Readers
 *   wait for as long as one writer follows another.)
 * - A lock is renewed until it is unlocked, or `timeout` is over; after a crash it lapses within `duration`. What is lost
 *   in part is lost as a whole: the signal aborts, and the rest is given back.
 * - The same holder again has the lock that it has, refreshed; an attempt that fails frees nothing that it had before.
 * - Nobody polls.
 *
 * After clusterluck's DLMServer, whose names it keeps. Its quorum of nodes is the store's business here.
 */
import { ErrClaimDenied, ErrLost, hasMethods, MAX_ANY, MAX_DURATION_MS } from 'lease-core'
import { sleep, Stopwatch, systemClock } from 'lease-core'
import type { Clock, Hold, Info, Manager, ReleaseOptions, Timer, Token } from 'lease-core'
import type { DurationLike } from 'luxon'
import { Calls } from './calls.ts'
import { Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { LinkedSignal, orAborted } from './or-aborted.ts'
import { readLease } from './read-lease.ts'
import { brokenSegmentRule, encodeSegment } from './segments.ts'
import { type Patience, patienceFor, tryThenWait } from './try-then-wait.ts'
import { isGone, releaseAnywhere, unlessGone } from './unless-gone.ts'

export interface ReadWriteLockOptions {
  /** It stays yours to stop. */
  readonly manager: Manager
  /** What the lock is called; the same for all who share it. */
  readonly name: string
  /** How many may read at once, at most 128; the same for all who share the lock. @default 16 */
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

/** A lock that was acquired. It is unlocked or lost exactly once, and never held again. */
export class Lock implements AsyncDisposable {
  readonly mode: LockMode
  readonly holder: string
  readonly #holds: Holds
  readonly #clock: Clock
  readonly #controller = new AbortController()
  #timeoutMs: number
  #since: Stopwatch
  #timer: Timer | undefined
  #unlocking: Promise<void> | undefined

  /** `rlock` and `wlock` make it. */
  constructor({ mode, holder, holds, clock, timeoutMs }: LockParts) {
    this.mode = mode
    this.holder = holder
    this.#holds = holds
    this.#clock = clock
    this.#timeoutMs = timeoutMs
    this.#since = new Stopwatch(clock)
    for (const { signal } of holds) {
      if (signal.aborted) this.#end(signal.reason)
      else signal.addEventListener('abort', () => this.#end(signal.reason), { once: true })
    }
    this.#keepTime()
  }

  /** A writer's is higher than that of every earlier writer, a reader's than that of earlier holders of its slot. */
  get fencingToken(): bigint {
    return this.#holds[0].fencingToken
  }

  /** For `token.check(key)` before a guarded write: of a writer, that no other writer has come since. */
  get token(): Token {
    return this.#holds[0].token
  }

  /** Whether the holder may rely on it now. Reads the clock. */
  get held(): boolean {
    if (this.#controller.signal.aborted) return false
    if (this.#since.elapsedMs >= this.#timeoutMs) this.#expire()
    return this.#holds.every((hold) => hold.held) && !this.#controller.signal.aborted
  }

  /**
   * Aborts with an `ErrLost` before another can have what this one excludes; with a plain AbortError when it is unlocked.
   */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** @throws ErrLost when it is not held any more, by loss or because it was unlocked */
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
    await Promise.all(this.#holds.map((hold) => hold.renew()))
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
  unlock(): Promise<void> {
    this.#end(new DOMException('the lock was unlocked', 'AbortError'))
    return this.#unlocking ?? Promise.resolve()
  }

  /** Never rejects: the work's own outcome must not be masked, and the lock lapses by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.unlock().catch(() => {})
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
    this.#unlocking = giveBack(this.#holds, { all: true })
    this.#unlocking.catch(() => {}) // told to whoever unlocks
  }

  #lost(how: string, cause?: unknown): ErrLost {
    const { lease } = this.token
    const message = `the ${this.mode} lock "${lease}" of "${this.holder}" is not held any more: ${how}`
    return new ErrLost(message, { lease, holder: this.holder, reason: 'expired', cause })
  }
}

interface LockParts {
  readonly mode: LockMode
  readonly holder: string
  readonly holds: Holds
  readonly clock: Clock
  readonly timeoutMs: number
}

/** The slot of a reader; the gate of a writer, and all slots. */
type Holds = readonly [Hold, ...Hold[]]

interface LockRequest {
  readonly holder: string
  readonly waitMs: number
  readonly timeoutMs: number
}

const KNOWN_OPTIONS = ['manager', 'name', 'maxReaders', 'duration', 'prefix', 'requestTimeout', 'clock']
const METHODS = ['hold', 'holdAny', 'observe', 'release']

/** A lock for many readers or one writer. See the head of this file. */
export class ReadWriteLock extends Emitter<ReadWriteLockEvents> implements AsyncDisposable {
  readonly name: string
  readonly maxReaders: number
  readonly #manager: Manager
  readonly #clock: Clock
  readonly #durationMs: number
  readonly #requestMs: number
  readonly #gate: string
  readonly #slots: readonly string[]
  readonly #calls: Calls
  /** Those acquired here and not over, by mode and holder. */
  readonly #locks = new Map<string, Lock>()
  /** Of those that come for one holder, one is served at a time: the next one finds what the one before has got. */
  readonly #turns = new Map<string, Promise<unknown>>()
  #gateState: GateState | undefined
  #observing: Promise<GateState> | undefined
  readonly #stopped = new AbortController()
  #stopping: Promise<void> | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: ReadWriteLockOptions) {
    super()
    const checks = new Checks(options, KNOWN_OPTIONS)
    const { manager, name, maxReaders = 16, duration = 15_000, prefix = 'rwlocks', requestTimeout = 30_000 } = options
    checks.must('manager', hasMethods(manager, ...METHODS), 'must be a Manager', manager)
    const rule = brokenSegmentRule(name)
    checks.must('name', rule === undefined, rule ?? '', name)
    const countable = Number.isInteger(maxReaders) && maxReaders >= 1 && maxReaders <= MAX_ANY
    checks.must('maxReaders', countable, `must be a whole number from 1 to ${MAX_ANY}`, maxReaders)
    this.#durationMs = checks.leaseDuration('duration', duration)
    checks.name('prefix', prefix)
    this.#requestMs = checks.duration('requestTimeout', requestTimeout)
    const isClock = options.clock === undefined || hasMethods(options.clock, 'now', 'monotonic', 'setTimer')
    checks.must('clock', isClock, 'must be a Clock', options.clock)
    this.#gate =
      rule === undefined && typeof prefix === 'string' ? `${encodeSegment(prefix)}/${encodeSegment(name)}` : ''
    checks.fits('name', `${this.#gate}/${MAX_ANY - 1}`, name)
    checks.finish()
    this.name = name
    this.maxReaders = maxReaders
    this.#manager = manager
    this.#clock = options.clock ?? systemClock
    this.#slots = Array.from({ length: maxReaders }, (_, index) => `${this.#gate}/${index}`)
    this.#calls = new Calls(this.#clock, 'the read-write lock is')
  }

  /**
   * Locks for reading, together with other readers. A holder that reads already has that lock again, refreshed.
   *
   * @throws ErrClaimDenied a writer has the lock, or waits for it, or `maxReaders` read, until the wait was over; at once
   *   when it is this very holder that has it for writing
   * @throws ErrUnknown     it may have happened
   */
  rlock(holder: string, options: LockOptions = {}): Promise<Lock> {
    return this.#lock('read', holder, options)
  }

  /**
   * Locks for writing, alone. A holder that writes already has that lock again, refreshed.
   *
   * @throws ErrClaimDenied others had the lock until the wait was over; at once when this very holder reads
   * @throws ErrUnknown     it may have happened
   */
  wlock(holder: string, options: LockOptions = {}): Promise<Lock> {
    return this.#lock('write', holder, options)
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
    this.#stopped.abort(new DOMException('the read-write lock is stopped', 'AbortError'))
    await Promise.allSettled(Array.from(this.#locks.values(), (lock) => lock.unlock()))
  }

  async #lock(mode: LockMode, holder: string, options: LockOptions): Promise<Lock> {
    const checks = new Checks(options, ['wait', 'timeout', 'signal'])
    checks.name('holder', holder)
    const asHolder = leaseHolder(mode, typeof holder === 'string' ? holder : '')
    checks.fits('holder', asHolder, holder)
    const { wait = true, timeout, signal } = options
    const waitMs = typeof wait === 'boolean' ? (wait ? Number.POSITIVE_INFINITY : 0) : checks.duration('wait', wait)
    const timeoutMs = timeout === undefined ? Number.POSITIVE_INFINITY : checks.duration('timeout', timeout)
    checks.signal('signal', signal)
    checks.finish()
    const request = { holder, waitMs, timeoutMs }
    return this.#calls.run({ signal, limitMs: waitMs + this.#requestMs }, (until) =>
      this.#inTurn(asHolder, until, async () => {
        const before = this.#locks.get(asHolder)
        if (before?.held === true && (await refreshed(before, timeout))) return before
        const holds = mode === 'read' ? await this.#enter(request, until) : await this.#takeAll(request, until)
        if (until.aborted) {
          await giveBack(holds).catch(() => {}) // they lapse
          until.throwIfAborted()
        }
        const lock = new Lock({ mode, holder, holds, clock: this.#clock, timeoutMs })
        this.#keep(asHolder, lock)
        return lock
      }),
    )
  }

  async #unlock(mode: LockMode, holder: string, options: UnlockOptions): Promise<void> {
    const checks = new Checks(options, ['signal'])
    checks.name('holder', holder)
    checks.signal('signal', options.signal)
    checks.finish()
    const asHolder = leaseHolder(mode, holder)
    await this.#calls.run({ signal: options.signal, limitMs: this.#requestMs }, async (signal) => {
      const lock = this.#locks.get(asHolder)
      if (lock?.held === true && (await isGone(lock.unlock()))) return
      let leases = [this.#gate, ...this.#slots]
      if (mode === 'read') {
        const infos = await Promise.all(this.#slots.map((slot) => readLease(this.#manager, slot, signal)))
        leases = this.#slots.filter((_, index) => infos[index]?.holder === asHolder)
      }
      await Promise.all(leases.map((lease) => releaseAnywhere(this.#manager, lease, asHolder)))
    })
  }

  // ── readers ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** A slot, as soon as no writer is at the gate. */
  async #enter({ holder, waitMs }: LockRequest, signal: AbortSignal): Promise<Holds> {
    const patience = patienceFor(waitMs, this.#clock)
    for (;;) {
      const gate = await this.#atGate(signal)
      const leftMs = patience.leftMs()
      const asWriter = leaseHolder('write', holder)
      let { writer } = gate
      // A refusal is the store's own answer: the writer who was seen may have left.
      if (writer !== undefined && (leftMs <= 0 || writer.holder === asWriter)) {
        writer = await readLease(this.#manager, this.#gate, signal)
      }
      if (writer?.holder === asWriter) {
        throw this.#denied('read', holder, `it has the lock "${this.name}" for writing`, writer)
      }
      if (writer === undefined) {
        const hold = await this.#takeSlot(holder, gate, patience, signal)
        if (hold !== undefined) return [hold]
      } else if (leftMs > 0) await this.#nextState(gate, leftMs, signal)
      else throw this.#denied('read', holder, `"${writer.holder}" is at the gate of the lock "${this.name}"`, writer)
    }
  }

  /** Waits for a slot; undefined when a writer came meanwhile. */
  async #takeSlot(holder: string, gate: GateState, patience: Patience, signal: AbortSignal): Promise<Hold | undefined> {
    const until = new LinkedSignal(signal)
    const onChange = (): void => until.abort(gate.over.reason)
    if (gate.over.aborted) onChange() // a writer came between the look at the gate and this one
    gate.over.addEventListener('abort', onChange, { once: true })
    try {
      const options = { duration: this.#durationMs, shared: true, signal: until.signal }
      return await tryThenWait(
        (wait) => this.#manager.holdAny(this.#slots, leaseHolder('read', holder), { ...options, wait }),
        patience,
      )
    } catch (error) {
      if (gate.over.aborted && !signal.aborted) return undefined
      throw error
    } finally {
      gate.over.removeEventListener('abort', onChange)
      until.letGo()
    }
  }

  /** Resolves when somebody has come to the gate or left it, or the time is over. */
  async #nextState(gate: GateState, leftMs: number, signal: AbortSignal): Promise<void> {
    const rest = new LinkedSignal(signal)
    const onChange = (): void => rest.abort(gate.over.reason)
    if (gate.over.aborted) onChange()
    gate.over.addEventListener('abort', onChange, { once: true })
    try {
      await sleep(this.#clock, Math.min(leftMs, MAX_DURATION_MS), rest.signal)
    } catch (error) {
      if (signal.aborted || !gate.over.aborted) throw error
    } finally {
      gate.over.removeEventListener('abort', onChange)
      rest.letGo()
    }
  }

  /** Who is at the gate, as far as is known: it is observed from the first reader on. */
  async #atGate(signal: AbortSignal): Promise<GateState> {
    if (this.#gateState !== undefined) return this.#gateState
    const first = this.#observeGate()
    return orAborted(first, signal)
  }

  #observeGate(): Promise<GateState> {
    this.#observing ??= new Promise<GateState>((resolve, reject) => {
      const observe = async (): Promise<void> => {
        let over = new AbortController()
        const end = (): void => over.abort(new DOMException('the gate has changed', 'AbortError'))
        try {
          for await (const writer of this.#manager.observe(this.#gate, { signal: this.#stopped.signal })) {
            end()
            over = new AbortController()
            this.#gateState = { writer, over: over.signal }
            resolve(this.#gateState)
          }
        } catch (error) {
          reject(error)
        } finally {
          this.#observing = undefined
          this.#gateState = undefined
          end()
        }
      }
      void observe()
    })
    return this.#observing
  }

  // ── writers ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** The gate, and then every slot as its reader leaves. */
  async #takeAll(request: LockRequest, signal: AbortSignal): Promise<Holds> {
    const patience = patienceFor(request.waitMs, this.#clock)
    for (;;) {
      await this.#anchor(leaseHolder('write', request.holder), signal)
      try {
        return await this.#collect(request.holder, patience, signal)
      } catch (error) {
        // What is lost while the rest is waited for may have let others in between: from the beginning.
        if (!(error instanceof ErrLost)) throw error
        signal.throwIfAborted()
      }
    }
  }

  async #collect(holder: string, patience: Patience, signal: AbortSignal): Promise<Holds> {
    const asHolder = leaseHolder('write', holder)
    const until = new LinkedSignal(signal)
    const got: Hold[] = []
    const take = async (lease: string): Promise<Hold> => {
      const announce = lease === this.#gate
      const options = { duration: this.#durationMs, shared: true, announce, signal: until.signal }
      const hold = await tryThenWait((wait) => this.#manager.hold(lease, asHolder, { ...options, wait }), {
        ...patience,
        refused: ({ currentHolder }) => {
          if (currentHolder !== leaseHolder('read', holder)) return
          throw this.#denied('write', holder, `it reads, and cannot wait for itself`)
        },
      })
      got.push(hold)
      hold.signal.addEventListener('abort', () => until.abort(hold.signal.reason), { once: true })
      return hold
    }
    try {
      const gate = await take(this.#gate)
      const slots = await allOf(this.#slots.map(take), (error) => until.abort(error))
      until.signal.throwIfAborted()
      return [gate, ...slots]
    } catch (error) {
      await giveBack(got).catch(() => {}) // they lapse
      throw error
    } finally {
      until.letGo()
    }
  }

  /**
   * What this holder has already, by another object or process, is held once more, by Holds that do not renew themselves and are
   * never released: as long as one of them stands, to give back another Hold of its term sends nothing. So a call that fails or is
   * given up frees nothing that its holder had before. The gate is the first thing that a writer takes: without it there is nothing.
   */
  async #anchor(asHolder: string, signal: AbortSignal): Promise<void> {
    const gate = await readLease(this.#manager, this.#gate, signal)
    if (gate?.holder !== asHolder) return
    const slots = await Promise.all(this.#slots.map((slot) => readLease(this.#manager, slot, signal)))
    const had = [gate, ...slots]
    const anchor = async (lease: string, index: number): Promise<void> => {
      const info = had[index]
      if (info?.holder !== asHolder) return
      const options = { duration: this.#durationMs, shared: true, renewEvery: false } as const
      try {
        const hold = await this.#manager.hold(lease, asHolder, options)
        if (hold.fencingToken !== info.fencingToken) await giveBack([hold]) // that term is over, and this is another
      } catch (error) {
        if (!(error instanceof ErrClaimDenied)) throw error
      }
    }
    await allOf([this.#gate, ...this.#slots].map(anchor), () => {})
  }

  // ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────

  async #inTurn<T>(key: string, signal: AbortSignal, body: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(key)
    const turn = (async () => {
      if (before !== undefined)
        await orAborted(
          before.catch(() => {}),
          signal,
        )
      return body()
    })()
    // Who gives up while he waits leaves the turn of the one before him.
    const over = Promise.allSettled([before, turn])
    this.#turns.set(key, over)
    try {
      return await turn
    } finally {
      void over.then(() => {
        if (this.#turns.get(key) === over) this.#turns.delete(key)
      })
    }
  }

  #keep(key: string, lock: Lock): void {
    if (lock.signal.aborted) return
    this.#locks.set(key, lock)
    const forget = (): void => {
      if (this.#locks.get(key) === lock) this.#locks.delete(key)
    }
    lock.signal.addEventListener('abort', forget, { once: true })
  }

  #denied(mode: LockMode, holder: string, why: string, info?: Info): ErrClaimDenied {
    const message = `"${holder}" cannot ${mode}: ${why}`
    const { holder: currentHolder, expiry } = info ?? {}
    return new ErrClaimDenied(message, { lease: this.#gate, holder, currentHolder, expiry })
  }
}

/** Who was at the gate when it was last looked at, and a signal that aborts when that is over. */
interface GateState {
  readonly writer: Info | undefined
  readonly over: AbortSignal
}

/** Readers and writers of one name are told apart: nobody's reading is taken for his writing. */
function leaseHolder(mode: LockMode, holder: string): string {
  return `${mode}:${holder}`
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

/** Every one of them is given back, even if some cannot be. @throws the first of the errors, at the end */
async function giveBack(holds: readonly Hold[], options?: ReleaseOptions): Promise<void> {
  const outcomes = await Promise.allSettled(holds.map((hold) => hold.release(options).catch(unlessGone)))
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
}

/** All results, or the first error when all have come to an end. */
async function allOf<T>(promises: readonly Promise<T>[], onError: (error: unknown) => void): Promise<T[]> {
  let first: { readonly error: unknown } | undefined
  const results: T[] = []
  await Promise.all(
    promises.map((promise, index) =>
      promise.then(
        (result) => void (results[index] = result),
        (error: unknown) => {
          if (first === undefined) onError(error)
          first ??= { error }
        },
      ),
    ),
  )
  if (first !== undefined) throw first.error
  return results
}
