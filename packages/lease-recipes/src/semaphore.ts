/**
 * Semaphores: at most n hold a permit at once, each for its own time.
 *
 *     <prefix>/<id>          the definition: pinned, its value says n
 *     <prefix>/<id>/<slot>   a permit each, slots 0 … n − 1: ordinary leases
 *     <prefix>/<id>/admin    held by whoever creates, resizes or destroys
 *
 * Promises.
 * - Never more than n holders, whatever the mix of timeouts, pauses and crashes: each permit is a lease of its own, so it
 *   expires on its own, has a fencing token of its own, and is lost by itself. n is the limit of the last `create` or
 *   `resize`; while a `resize` is under way, the larger of the two. Nobody is made to give a permit back for it.
 * - Only `destroy` takes permits away. Whoever lost one may not have heard of it yet: until then, at most until the permit's
 *   time would have been over, he may be at work beside those of a semaphore created anew. What was his is not given to
 *   anybody before `destroy` has resolved.
 * - To take a permit costs one round trip while the definition is known (`semaphore-definitions.ts`). Whoever waits is
 *   woken when a permit is closed or lapses; nobody polls.
 * - A slot is out of use when it is *retired*: held, with the value `retired`, by an administrator. n is made smaller, and a
 *   semaphore destroyed, only while every slot that goes is retired, and it stays so for longer than anybody may rely on
 *   what he knew of the definition before. n is made larger before retired slots are freed. So a poster whose knowledge is
 *   old meets a retired slot, and is never one too many.
 * - To destroy is to close first: the definition says so, and whoever reads it takes the semaphore for missing. Then the
 *   permits are revoked. Between that and the retirement a slot is vacant, and a poster who has not heard may be granted
 *   it; so the slot is pinned before, and whoever is granted a pinned one reads the definition before he relies on it.
 *
 * A crash of an administrator, in the order of the steps. Who resizes: while he waits for permits to end, n is as before,
 * and the slots that he retired are free again after `RETIRED_MS`; after n was changed, the same. Who destroys: once it is
 * closed there is no such semaphore, and permits that were not revoked yet go on for their time; `create` revokes them
 * before it makes another. To call again completes it.
 *
 * After clusterluck's DSMServer, whose names it keeps.
 */
import { randomUUID } from 'node:crypto'
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrUnknown, hasMethods, MAX_ANY } from 'lease-core'
import { MAX_DURATION_MS, sleep, Stopwatch, systemClock } from 'lease-core'
import type { Clock, Hold, HoldOptions, Info, Manager, Token } from 'lease-core'
import type { DateTime, DurationLike } from 'luxon'
import { Calls } from './calls.ts'
import { Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { LinkedSignal } from './or-aborted.ts'
import { readLease } from './read-lease.ts'
import { brokenSegmentRule, encodeSegment } from './segments.ts'
import { type Patience, tryThenWait } from './try-then-wait.ts'
import { isGone, releaseAnywhere, unlessGone } from './unless-gone.ts'
import { Definitions, FRESH_MS, formatDefinition, isLimit, parseDefinition } from './semaphore-definitions.ts'
import type { Definition, DefinitionContent, KnownDefinition } from './semaphore-definitions.ts'

export interface SemaphoresOptions {
  /** It stays yours to stop. */
  readonly manager: Manager
  /** The family of semaphores: those of two prefixes have nothing to do with each other. @default 'semaphores' */
  readonly prefix?: string | undefined
  /** Least wait that a retry of `post` stands for. @default 10 ms */
  readonly minWaitTimeout?: DurationLike | undefined
  /** Greatest wait that a retry of `post` stands for. @default 100 ms */
  readonly maxWaitTimeout?: DurationLike | undefined
  /** How long a call may go without an answer, unless it says otherwise. @default 30 seconds */
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
  /** Ends the wait for permits that are too many; the size is as before, then, unless it was just being changed. */
  readonly signal?: AbortSignal | undefined
}

export interface PostOptions {
  /**
   * How long to wait for a permit, told in retries: each stands for a random wait between `minWaitTimeout` and
   * `maxWaitTimeout`. 0: a single try. Within that time, counted from the refusal of the first try, a permit that becomes free
   * is taken at once, and nothing is sent for retries' sake.
   *
   * @default Infinity: as long as `signal` allows
   */
  readonly retries?: number | undefined
  /**
   * How long each of these tries may go without an answer: the call ends, in `ErrUnknown`, after the waits and so long for
   * every try. With endless retries it does not end.
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
  /** When it ends at the latest, unless it is refreshed. */
  readonly expiry: DateTime
  /** Rises with each holder of the slot `lease`. */
  readonly fencingToken: bigint
  readonly lease: string
}

/** A semaphore, freshly read. */
export interface SemaphoreInfo {
  /** How many may hold a permit at once. */
  readonly n: number
  /** How many do. */
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

/** One of the n. It is closed or lost exactly once, and never held again. */
export class Permit implements AsyncDisposable {
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
    if (!this.held || hold.lease !== this.lease || hold.fencingToken !== this.fencingToken) return false
    const before = this.#latest
    this.#latest = hold
    if (keepAlive) this.#renewing ??= hold
    if (before !== this.#hold && before !== this.#renewing) before.release().catch(() => {}) // shared: it sends nothing
    return true
  }

  /** Which slot it is. */
  get lease(): string {
    return this.#hold.lease
  }

  /** Higher than that of every earlier holder of this slot (`lease`); unchanged by a refresh. */
  get fencingToken(): bigint {
    return this.#hold.fencingToken
  }

  /** For `token.check(key)` before a guarded write. */
  get token(): Token {
    return this.#hold.token
  }

  /** Whether the holder may rely on it now. Reads the clock. */
  get held(): boolean {
    return this.#hold.held
  }

  /** Aborts with an `ErrLost` before another can have it; with a plain AbortError when it is closed. */
  get signal(): AbortSignal {
    return this.#hold.signal
  }

  /** @throws ErrLost when it is not held any more, by loss or because it was closed */
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
  close(): Promise<void> {
    return this.#hold.release({ all: true }).catch(unlessGone)
  }

  /** Never rejects: the work's own outcome must not be masked, and the permit ends by itself. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close().catch(() => {})
  }
}

/** A retired slot is out of use for so long; longer than any definition is relied on. */
const RETIRED_MS = 4 * FRESH_MS
/** How long a crash of one administrator keeps the next one waiting. */
const ADMIN_MS = 10_000
/** The lease of a definition is pinned: its own time means nothing. */
const DEFINITION_MS = 60_000
const RETIRED = 'retired'
/** Pins a slot while it is taken away from its holder. */
const PIN = 'semaphore'
const KNOWN_OPTIONS = ['manager', 'prefix', 'minWaitTimeout', 'maxWaitTimeout', 'requestTimeout', 'clock']

/** The semaphores of one prefix. See the head of this file. */
export class Semaphores extends Emitter<SemaphoresEvents> implements AsyncDisposable {
  readonly #manager: Manager
  readonly #clock: Clock
  readonly #prefix: string
  readonly #minWaitMs: number
  readonly #maxWaitMs: number
  readonly #requestMs: number
  readonly #definitions: Definitions
  /** Those posted here and not over, by definition and holder. */
  readonly #permits = new Map<string, Permit>()
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
    this.#calls = new Calls(this.#clock, 'the semaphores are')
    this.#definitions = new Definitions(manager, this.#clock)
  }

  /**
   * The semaphore exists, with this limit. Created before with the same limit: resolves, and nothing changes.
   *
   * @throws ErrLimitMismatch it exists with another limit: see `resize`
   * @throws ErrUnknown       it may have happened; to create it again tells
   */
  async create(id: string, n: number, options: SemaphoreCallOptions = {}): Promise<void> {
    const checks = new Checks(options, CALL_OPTIONS)
    const names = this.#namesOf(id, checks)
    checkLimit(checks, n)
    await this.#call(options, checks, async (signal) => {
      const found = await this.#read(names, signal)
      if (found !== undefined && !found.closed) return sameLimit(names, found, n)
      await this.#administer(names, signal, async (admin) => {
        const meanwhile = await this.#read(names, admin.signal)
        if (meanwhile !== undefined && !meanwhile.closed) return sameLimit(names, meanwhile, n)
        if (meanwhile !== undefined) await this.#destroy(names, meanwhile, admin)
        const holder = `semaphore-${randomUUID()}`
        // A pin on a vacant lease harms nobody: the definition never exists without it. It has a name of its own, so that
        // an administrator of the one before who is late does not withdraw it.
        try {
          await this.#manager.pin(names.definition, holder)
          admin.assertHeld()
          // Without the signal: a definition that somebody has seen is not taken back because its creator gives up.
          const more = { value: formatDefinition({ n, closed: false }), announce: true }
          await this.#manager.claim(names.definition, holder, DEFINITION_MS, more)
        } catch (error) {
          await this.#undefine(names, holder).catch(() => {}) // it may exist, and then the pin must stay
          throw error
        }
        await this.#free(slotsOf(names, 0, n), admin.signal)
      })
    })
  }

  /**
   * How many permits there are, and who has one: freshly read.
   *
   * @throws ErrNoSemaphore
   */
  async read(id: string, options: SemaphoreCallOptions = {}): Promise<SemaphoreInfo> {
    const checks = new Checks(options, CALL_OPTIONS)
    const names = this.#namesOf(id, checks)
    return this.#call(options, checks, async (signal) => {
      const { n } = await this.#existing(names, signal)
      const holders: PermitInfo[] = []
      for (const [lease, { holder, expiry, fencingToken, value }] of await this.#held(slotsOf(names, 0, n), signal)) {
        if (value !== RETIRED) holders.push({ holder, expiry, fencingToken, lease })
      }
      return { n, active: holders.length, holders }
    })
  }

  /**
   * Changes the limit. To a larger one: at once. To a smaller one: no new permits are given from the slots that go; it
   * resolves when those that are too many have ended. Administrators of one semaphore come one after another; the last
   * one's limit stays. Idempotent: after any error, call it again.
   *
   * @throws ErrNoSemaphore
   * @throws ErrUnknown     it may have happened
   */
  async resize(id: string, n: number, options: ResizeOptions = {}): Promise<void> {
    const checks = new Checks(options, ['signal'])
    const names = this.#namesOf(id, checks)
    checkLimit(checks, n)
    await this.#call({ ...options, requestTimeout: MAX_DURATION_MS }, checks, (outer) =>
      this.#administer(names, outer, async (admin) => {
        const { signal } = admin
        const definition = await this.#existing(names, signal)
        const surplus = slotsOf(names, n, definition.n)
        const by = `${RETIRED}-${randomUUID()}`
        try {
          await this.#drain(surplus, by, signal)
        } catch (error) {
          const free = surplus.map((slot) => this.#manager.release(slot, by).catch(() => {})) // they lapse
          await Promise.all(free)
          throw error
        }
        if (definition.n !== n) {
          await this.#whileRetired({ slots: surplus, by, evict: false, admin }, () =>
            this.#redefine(names, definition, { n, closed: false }, signal),
          )
        }
        await this.#free(slotsOf(names, 0, n), signal)
      }),
    )
  }

  /**
   * The semaphore is no more, and every permit of it is revoked: their signals abort when their processes hear of it, and
   * at the latest when the time of the permit is over. Missing already: resolves.
   *
   * @throws ErrUnknown it may have happened; to destroy it again tells
   */
  async destroy(id: string, options: SemaphoreCallOptions = {}): Promise<void> {
    const checks = new Checks(options, CALL_OPTIONS)
    const names = this.#namesOf(id, checks)
    await this.#call(options, checks, async (outer) => {
      if ((await this.#read(names, outer)) === undefined) return
      await this.#administer(names, outer, async (admin) => {
        const definition = await this.#read(names, admin.signal)
        if (definition !== undefined) await this.#destroy(names, definition, admin)
      })
    })
  }

  /**
   * Takes a permit for so long. A holder that has one gets that one again, the same object, refreshed, and takes no second.
   *
   * @throws ErrNoSemaphore at once: it is not waited for
   * @throws ErrClaimDenied others had all permits until the retries were over
   * @throws ErrUnknown     it may have happened; it ends when its time is over, or by `close`
   */
  async post(id: string, holder: string, timeout: DurationLike, options: PostOptions = {}): Promise<Permit> {
    const checks = new Checks(options, [...CALL_OPTIONS, 'retries', 'keepAlive'])
    const names = this.#namesOf(id, checks)
    checks.name('holder', holder)
    const durationMs = checks.leaseDuration('timeout', timeout)
    const { retries = Number.POSITIVE_INFINITY, keepAlive = false } = options
    const countable = retries === Number.POSITIVE_INFINITY || (Number.isSafeInteger(retries) && retries >= 0)
    checks.must('retries', countable, 'must be a whole number, 0 or more, or Infinity', retries)
    checks.must('keepAlive', typeof keepAlive === 'boolean', 'must be true or false', keepAlive)
    const request = { names, holder, durationMs, waitMs: countable ? this.#waitMs(retries) : 0, keepAlive }
    const post = (signal: AbortSignal): Promise<Permit> =>
      this.#definitions.use(names.definition, () => this.#post(request, signal))
    return this.#call(options, checks, post, { tries: countable ? retries + 1 : 1, ...request })
  }

  /**
   * The holder has no permit any more: when it resolves, another can have it. It had none: resolves.
   *
   * @throws ErrNoSemaphore
   * @throws ErrUnknown it may have happened; if not, the permit ends when its time is over
   */
  async close(id: string, holder: string, options: SemaphoreCallOptions = {}): Promise<void> {
    const checks = new Checks(options, CALL_OPTIONS)
    const names = this.#namesOf(id, checks)
    checks.name('holder', holder)
    await this.#call(options, checks, async (signal) => {
      const permit = this.#permits.get(keyOf(names, holder))
      if (permit?.held === true && (await isGone(permit.close()))) return
      const { n } = await this.#existing(names, signal)
      for (const [lease, info] of await this.#held(slotsOf(names, 0, n), signal)) {
        if (info.holder === holder) await releaseAnywhere(this.#manager, lease, holder)
      }
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
    const ended = this.#calls.stop()
    this.#definitions.close()
    await ended
    await Promise.allSettled(Array.from(this.#permits.values(), (permit) => permit.close()))
  }

  // ── permits ───────────────────────────────────────────────────────────────────────────────────────────────────

  async #post(request: PostRequest, signal: AbortSignal): Promise<Permit> {
    const { names } = request
    const { waitMs } = request
    let waiting: Stopwatch | undefined
    /** The waits count from the first refusal: before it nobody was waited for. */
    const leftMs = (): number => waitMs - (waiting ??= new Stopwatch(this.#clock)).elapsedMs
    const before = this.#permits.get(keyOf(names, request.holder))
    for (;;) {
      const known = await this.#definitions.current(names.definition, signal)
      if (known === undefined) throw new ErrNoSemaphore(names.id, names.definition)
      const hold = (await this.#again(request, known)) ?? (await this.#take(request, known, { waitMs, leftMs }, signal))
      if (hold === undefined) continue // the definition has changed
      const certain = known.fresh && !(await isPinned(hold))
      if (certain || (await this.#isStill(known, hold, names, signal))) {
        if (!signal.aborted || before?.held === true) return this.#keep(request, hold)
      }
      await hold.release().catch(() => {}) // it lapses by itself
      signal.throwIfAborted()
    }
  }

  /**
   * The permit that this holder has by this object, refreshed: before those who wait, and without the signal, for to give
   * up a refresh is not to give the permit back.
   */
  async #again(
    { names, holder, durationMs, keepAlive }: PostRequest,
    known: KnownDefinition,
  ): Promise<Hold | undefined> {
    if (this.#permits.get(keyOf(names, holder))?.held !== true) return undefined
    try {
      return await this.#manager.holdAny(slotsOf(names, 0, known.n), holder, grantOptions(durationMs, keepAlive))
    } catch (error) {
      if (error instanceof ErrClaimDenied) return undefined
      throw error
    }
  }

  /** Waits for any of the slots; undefined when the definition turned out to be another. */
  async #take(
    { names, holder, durationMs, keepAlive }: PostRequest,
    known: KnownDefinition,
    patience: Patience,
    signal: AbortSignal,
  ): Promise<Hold | undefined> {
    const slots = slotsOf(names, 0, known.n)
    const until = new LinkedSignal(signal)
    const onChange = (): void => until.abort(known.changed.reason)
    known.changed.addEventListener('abort', onChange, { once: true })
    try {
      const options = { ...grantOptions(durationMs, keepAlive), signal: until.signal }
      return await tryThenWait((wait) => this.#manager.holdAny(slots, holder, { ...options, wait }), patience)
    } catch (error) {
      if (known.changed.aborted && !signal.aborted) return undefined
      if (!(error instanceof ErrClaimDenied)) throw error
      const { id, definition: lease } = names
      const message = `failed to grab semaphore "${id}" with holder "${holder}": all ${known.n} permits are taken`
      throw new ErrClaimDenied(message, { lease, holder, expiry: error.expiry, cause: error })
    } finally {
      known.changed.removeEventListener('abort', onChange)
      until.letGo()
    }
  }

  /** Whether the slot is one of those that there are, by a read sent after it was granted. */
  async #isStill(known: KnownDefinition, hold: Hold, names: Names, signal: AbortSignal): Promise<boolean> {
    try {
      if (await this.#definitions.confirm(names.definition, known, signal)) return hold.held
      const found = await this.#read(names, signal)
      if (found === undefined || found.closed || found.generation !== known.generation) return false
      return slotsOf(names, 0, found.n).includes(hold.lease) && hold.held
    } catch (error) {
      hold.release().catch(() => {}) // it lapses by itself
      throw error
    }
  }

  #keep({ names, holder, keepAlive }: PostRequest, hold: Hold): Permit {
    const key = keyOf(names, holder)
    const before = this.#permits.get(key)
    if (before?.again(hold, keepAlive) === true) return before
    const permit = new Permit(names.id, hold, keepAlive)
    if (permit.signal.aborted) return permit
    this.#permits.set(key, permit)
    const forget = (): void => {
      if (this.#permits.get(key) === permit) this.#permits.delete(key)
    }
    permit.signal.addEventListener('abort', forget, { once: true })
    return permit
  }

  /** What so many retries would have waited. */
  #waitMs(retries: number): number {
    const [least, span] = [this.#minWaitMs, this.#maxWaitMs - this.#minWaitMs]
    if (retries > 1000) return Math.ceil(retries * (least + span / 2)) // what the sum of so many comes to
    let sumMs = 0
    for (let retry = 0; retry < retries; retry++) sumMs += least + Math.random() * span
    return Math.ceil(sumMs)
  }

  // ── administration ────────────────────────────────────────────────────────────────────────────────────────────

  /** One administrator of this semaphore at a time. */
  async #administer(names: Names, signal: AbortSignal, body: (admin: Admin) => Promise<void>): Promise<void> {
    const { id, admin: lease } = names
    const hold = await this.#manager.hold(lease, `admin-${randomUUID()}`, { duration: ADMIN_MS, wait: true, signal })
    const until = new LinkedSignal(signal)
    const onEnd = (): void => until.abort(hold.signal.reason)
    hold.signal.addEventListener('abort', onEnd, { once: true })
    const assertHeld = (): void => {
      signal.throwIfAborted()
      if (hold.held) return
      const message = `semaphore "${id}" may be another administrator's by now: call again`
      throw new ErrUnknown(message, { lease, holder: hold.holder, cause: hold.signal.reason })
    }
    try {
      await body({ signal: until.signal, assertHeld })
      assertHeld()
    } catch (error) {
      if (error instanceof ErrLost || error instanceof ErrClaimDenied) assertHeld()
      throw error
    } finally {
      hold.signal.removeEventListener('abort', onEnd)
      until.letGo()
      await hold.release().catch(() => {}) // it lapses by itself
    }
  }

  /** Retires each slot when its permit has ended. */
  async #drain(slots: readonly string[], by: string, signal: AbortSignal): Promise<void> {
    if (slots.length === 0) return
    const end = new LinkedSignal(signal)
    const mine = new Set<string>()
    const retired = Promise.all(
      slots.map((slot) => this.#retire({ slot, by, evict: false }, end.signal).then(() => mine.add(slot))),
    )
    retired.catch(() => {})
    try {
      for (;;) {
        await Promise.race([retired, sleep(this.#clock, RETIRED_MS / 4, end.signal)])
        if (mine.size === slots.length) return
        for (const slot of mine) await this.#retire({ slot, by, evict: false }, end.signal) // those wait for the others
      }
    } finally {
      end.abort(new DOMException('the wait is over', 'AbortError'))
      end.letGo()
    }
  }

  /** The slot is kept from holders for `RETIRED_MS` from now on: when its permit has ended, or without it. */
  async #retire({ slot, by, evict }: Retirement, signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        await this.#manager.claim(slot, by, RETIRED_MS, { value: RETIRED, signal })
        return
      } catch (error) {
        if (!(error instanceof ErrClaimDenied)) throw error
      }
      const info = await readLease(this.#manager, slot, signal)
      if (info === undefined || info.holder === by) continue
      if (evict) {
        await this.#manager.pin(slot, PIN)
        await this.#manager.revoke(slot)
      } else if (info.value === RETIRED) {
        // Another administrator's: he is through with it, or has crashed.
        await this.#manager.release(slot, info.holder).catch(unlessGone)
      } else await this.#manager.waitUntilExpired(slot, { signal })
    }
  }

  /** Closes it if it is open, and goes on from wherever somebody else stopped. */
  async #destroy(names: Names, definition: Definition, admin: Admin): Promise<void> {
    const { n, holder, generation } = definition
    const slots = slotsOf(names, 0, n)
    if (!definition.closed) await this.#redefine(names, definition, { n, closed: true }, admin.signal)
    await this.#whileRetired({ slots, by: `${RETIRED}-${randomUUID()}`, evict: true, admin }, async () => {
      await Promise.all(slots.map((slot) => this.#manager.unpin(slot, PIN)))
      admin.assertHeld()
      await this.#manager.revoke(names.definition, { fencingToken: generation }) // of this one, not of a later one
    })
    await this.#manager.unpin(names.definition, holder)
  }

  /** Changes the definition so that these slots surely outlast, retired, what anybody knew of it before. */
  async #whileRetired(
    {
      slots,
      by,
      evict,
      admin,
    }: Omit<Retirement, 'slot'> & { readonly slots: readonly string[]; readonly admin: Admin },
    change: () => Promise<void>,
  ): Promise<void> {
    for (;;) {
      const begun = new Stopwatch(this.#clock)
      await Promise.all(slots.map((slot) => this.#retire({ slot, by, evict }, admin.signal)))
      admin.assertHeld()
      await change()
      if (slots.length === 0 || begun.elapsedMs < RETIRED_MS - 2 * FRESH_MS) return
    }
  }

  async #redefine(
    names: Names,
    { holder, generation }: Definition,
    content: DefinitionContent,
    signal: AbortSignal,
  ): Promise<void> {
    const { definition: lease, id } = names
    const value = formatDefinition(content)
    await this.#manager.claim(lease, holder, DEFINITION_MS, { value, announce: true, signal })
    const { fencingToken } = await this.#manager.token(lease, holder).check()
    if (fencingToken === generation) return
    await this.#manager.revoke(lease, { fencingToken }) // it was destroyed, and this claim made another
    throw new ErrNoSemaphore(id, lease)
  }

  /** What a creation that failed has left. */
  async #undefine({ definition }: Names, holder: string): Promise<void> {
    await this.#manager.release(definition, holder).catch(unlessGone)
    await this.#manager.unpin(definition, holder)
  }

  /** Retired slots among these are in use again, and none is pinned by an administrator who was late. */
  async #free(slots: readonly string[], signal: AbortSignal): Promise<void> {
    for (const [slot, { holder, value, pinned }] of await this.#held(slots, signal)) {
      if (pinned) await this.#manager.unpin(slot, PIN)
      if (value === RETIRED) await this.#manager.release(slot, holder).catch(unlessGone)
    }
  }

  async #read(names: Names, signal: AbortSignal): Promise<Definition | undefined> {
    return parseDefinition(await readLease(this.#manager, names.definition, signal))
  }

  async #existing(names: Names, signal: AbortSignal): Promise<Definition> {
    const definition = await this.#read(names, signal)
    if (definition === undefined || definition.closed) throw new ErrNoSemaphore(names.id, names.definition)
    return definition
  }

  /** Those of the slots that are held; read in one round trip. */
  async #held(slots: readonly string[], signal: AbortSignal): Promise<readonly (readonly [string, Info])[]> {
    const infos = await Promise.all(slots.map((slot) => readLease(this.#manager, slot, signal)))
    return slots.flatMap((slot, index) => {
      const info = infos[index]
      return info === undefined ? [] : [[slot, info] as const]
    })
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #namesOf(id: string, checks: Checks): Names {
    const rule = brokenSegmentRule(id)
    checks.must('id', rule === undefined, rule ?? '', id)
    const definition = rule === undefined ? `${this.#prefix}/${encodeSegment(id)}` : ''
    const admin = `${definition}/admin`
    checks.fits('id', admin, id)
    return { id, definition, admin }
  }

  /** What every call shares: it ends with its signal, with its time, and with this object. */
  async #call<T>(
    options: SemaphoreCallOptions,
    checks: Checks,
    body: (signal: AbortSignal) => Promise<T>,
    { tries = 1, waitMs = 0 }: { readonly tries?: number; readonly waitMs?: number } = {},
  ): Promise<T> {
    const { signal, requestTimeout } = options
    checks.signal('signal', signal)
    const requestMs = requestTimeout === undefined ? this.#requestMs : checks.duration('requestTimeout', requestTimeout)
    checks.finish()
    return this.#calls.run({ signal, limitMs: waitMs + tries * requestMs }, body)
  }
}

const CALL_OPTIONS = ['requestTimeout', 'signal']
const METHODS = [
  'claim',
  'hold',
  'holdAny',
  'observe',
  'pin',
  'release',
  'revoke',
  'unpin',
  'waitUntilExpired',
] as const

/** The leases of one semaphore. */
interface Names {
  readonly id: string
  readonly definition: string
  readonly admin: string
}

interface PostRequest {
  readonly names: Names
  readonly holder: string
  readonly durationMs: number
  readonly waitMs: number
  readonly keepAlive: boolean
}

interface Retirement {
  readonly slot: string
  readonly by: string
  /** Whether a permit is revoked, not waited for. */
  readonly evict: boolean
}

/** One who administers, alone. */
interface Admin {
  readonly signal: AbortSignal
  /** @throws ErrUnknown when he may not be alone any more */
  assertHeld(): void
}

function slotsOf({ definition }: Names, from: number, to: number): string[] {
  return Array.from({ length: Math.max(0, to - from) }, (_, index) => `${definition}/${from + index}`)
}

function grantOptions(duration: number, keepAlive: boolean): HoldOptions {
  return keepAlive ? { duration, shared: true } : { duration, shared: true, renewEvery: false }
}

/** Whether the slot was being taken away when it was granted: costs nothing right after the grant. */
async function isPinned(hold: Hold): Promise<boolean> {
  try {
    return (await hold.token.check()).pinned
  } catch {
    return true // it is over, or nobody knows: to be found out
  }
}

function keyOf({ definition }: Names, holder: string): string {
  return `${definition} ${holder}`
}

function checkLimit(checks: Checks, n: unknown): void {
  checks.must('n', isLimit(n), `must be a whole number from 1 to ${MAX_ANY}`, n)
}

function sameLimit({ id, definition }: Names, { n }: Definition, asked: number): void {
  if (n !== asked) throw new ErrLimitMismatch(id, definition, { n, asked })
}
