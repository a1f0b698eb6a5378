/**
 * Authority: a candidate that competes for a lease, and keeps it only while its work makes progress.
 *
 *   idle ────ready()────▶ standing ───granted───▶ held
 *    ▲                      │  ▲                   │ │
 *    ├──────release()───────┘  └─ lost: revoked, ──┘ │
 *    │                            taken, unreachable │
 *    └────── release(), or lost: expired ────────────┘
 *
 * Promises.
 * - Of all candidates for one lease, at most one is `held` at any instant. The next one is granted the lease when the substrate
 *   notifies it, or when the lease expires. Nobody polls.
 * - Only `extend()` and `heartbeat()` extend the lease. Without them it expires after `ttl`. After that loss (`expired`) the candidate
 *   stops competing until the next `ready()`, `extend()` or `heartbeat()`. After any other loss it goes on competing.
 * - Every loss is reported once by `lost` and once by `signal`, before the lease can be granted to another; after a revocation, when
 *   the news arrives. `release()` and `stop()` are not losses.
 * - After `stop()` no timer, wait or subscription is left.
 *
 * Failure. A failed attempt in the background is retried with growing pauses for as long as this competes. Only an error that no retry
 * can cure (the manager was stopped) ends the candidacy: `error`.
 *
 * After `authoritah`; the names are the same.
 */
import { randomUUID } from 'node:crypto'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  MAX_DURATION_MS,
  systemClock,
  type Clock,
  type Held,
  type Hold,
  type Info,
  type LossReason,
  type Manager,
  type Timer,
  type Token,
  throwIfAborted,
} from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'
import { checkedSignal } from './calls.ts'
import { Emitter } from './emitter.ts'
import { orAborted, whenAborted } from './or-aborted.ts'
import { isFinal, pauseAfter } from './retry.ts'
import { unlessGone } from './unless-gone.ts'

/** Options of an Authority. */
export interface AuthorityOptions {
  /** The recipe does not stop it. */
  readonly manager: Pick<Manager, 'hold' | 'observe' | 'token'>
  /** The name of the lease; the same for all candidates. */
  readonly lease: string
  /** The name of this candidate; different for each candidate. @default a random UUID */
  readonly holder?: string | undefined
  /** How long a grant or an extension lasts. A number is in milliseconds. @default 15 seconds */
  readonly ttl?: DurationLike | undefined
  /**
   * `heartbeat()` extends at most once in this time. Shorter than `ttl` by 0.1 % and 6 ms. A number is in
   * milliseconds.
   *
   * @default 2 seconds
   */
  readonly heartbeatInterval?: DurationLike | undefined
  /** Text that travels with the lease; everyone can read it. At most 4 KiB. */
  readonly value?: string | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Options of `ready`. */
export interface ReadyOptions {
  /**
   * false: resolves after one try. A duration, counted from the call, bounds the wait. true: waits as long as `signal` allows. The end of
   * the candidacy ends the wait. The end of the wait does not end the candidacy. A number is in milliseconds.
   *
   * @default false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends this call with its reason; the candidacy goes on. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `release` and `extend`. */
export interface AuthorityCallOptions {
  /** Ends this call with its reason. What was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** The argument of `lost`. */
export interface AuthorityLoss {
  /**
   * `expired`: no extension in time · `revoked`: vacated before its expiry · `taken`: another holds it · `unreachable`: extensions
   * failed until the lease expired.
   */
  readonly reason: LossReason
  /** Whether the reason is `expired`: this has stopped competing. */
  readonly expired: boolean
  /** Of the term that ended. */
  readonly fencingToken: bigint
  /** The reason of the term's signal. */
  readonly error: ErrLost
}

/** Events with the arguments of their listeners. */
export interface AuthorityEvents {
  /** The lease was granted. */
  acquired: [Held]
  /** The term ended unasked. */
  lost: [AuthorityLoss]
  /** For logs: this competes from now on. */
  ready: []
  /** For logs: another candidate was found to hold the lease. */
  taken: [{ readonly holder: string | undefined }]
  /** For logs: the lease of another candidate was seen to expire. */
  expired: [{ readonly holder: string }]
  /** The candidacy ended: an attempt failed, and no retry can help. */
  error: [unknown]
}

const TTL_MS = 15_000
const HEARTBEAT_MS = 2_000
/** The known expiry is a latest instant: a lease may have expired about this much earlier. For logs only. */
const ROUND_TRIP_MS = 50

/** A candidate for one lease: see the head of this file. */
export class Authority extends Emitter<AuthorityEvents> implements AsyncDisposable {
  /** The name of the lease. */
  readonly lease: string
  /** The name of this candidate. */
  readonly holder: string
  /** For `token.check(key)` before a guarded write. */
  readonly token: Token
  readonly #manager: AuthorityOptions['manager']
  readonly #ttlMs: number
  readonly #heartbeatMs: number
  readonly #value: string | undefined
  readonly #clock: Clock
  /** While this competes. Aborts when the candidacy ends. */
  #candidacy: AbortController | undefined
  /** The attempt that answers `ready()`, while it is in flight. */
  #attempt: Promise<boolean> | undefined
  /** Attempts and waits in flight. Each releases what it is granted after the candidacy has ended. */
  readonly #attempts = new Set<Promise<unknown>>()
  /** What calls of `ready({ wait })` wait for. */
  #acquisition: Acquisition | undefined
  #hold: Hold | undefined
  #leader: Info | undefined
  /** The holder in the last `taken` event, since the lease was vacant or held here. */
  #takenBy: string | undefined
  /** Set by `release()`: heartbeats do not undo it. */
  #released = false
  #releasing: Promise<void> | undefined
  #stopping: Promise<void> | undefined
  #latestBeat: Promise<boolean> = Promise.resolve(false)
  #nextBeatMs = Number.NEGATIVE_INFINITY
  #trailingBeat: Timer | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: AuthorityOptions) {
    super()
    const reader = new OptionReader(options, known)
    const { manager } = reader.read
    reader.object('manager', 'a Manager', ['hold', 'observe', 'token'])
    this.lease = reader.name('lease')
    this.holder = reader.name('holder', randomUUID())
    this.#ttlMs = reader.leaseDuration('ttl', TTL_MS)
    this.#heartbeatMs = reader.duration('heartbeatInterval', HEARTBEAT_MS)
    reader.renewal('heartbeatInterval', this.#heartbeatMs, 'ttl', this.#ttlMs)
    this.#value = reader.value()
    this.#clock = reader.clock() ?? systemClock
    reader.finish()
    this.#manager = manager
    this.token = manager.token(this.lease, this.holder)
  }

  /** Whether this candidate may rely on the lease now. Reads the clocks when called; does not depend on timers. */
  get held(): boolean {
    return this.#hold?.held === true
  }

  /** Whether this has the lease or competes for it. */
  get standing(): boolean {
    return this.held || this.#candidacy !== undefined
  }

  /** Of the present term; undefined while this does not have the lease. */
  get fencingToken(): bigint | undefined {
    return this.held ? this.#hold?.fencingToken : undefined
  }

  /** The present term; undefined while this does not have the lease. Its `release()` releases the authority. */
  get term(): Held | undefined {
    return this.held ? this.#hold : undefined
  }

  /** Of the present term: aborts with an `ErrLost` after a loss, with an AbortError after a release. Already aborted without a term. */
  get signal(): AbortSignal {
    if (this.held && this.#hold !== undefined) return this.#hold.signal
    return AbortSignal.abort(new ErrNotHeld(`"${this.holder}" does not hold lease "${this.lease}"`))
  }

  /** The last known holder, which may be this one, with its value. undefined: vacant, or this does not compete. */
  get leader(): Info | undefined {
    return this.#leader
  }

  /**
   * Competes for the lease from now on, and tries to claim it. Resolves to whether this has it. If not, the candidacy goes on, and
   * `acquired` reports a later grant. If this competes already, no further claim is sent.
   *
   * @throws ErrUnknown the lease may have been granted; the candidacy goes on
   * @throws ErrStopped the authority or the manager was stopped
   */
  async ready(options: ReadyOptions = {}): Promise<boolean> {
    const reader = new OptionReader(options, ['wait', 'signal'])
    const waitMs = reader.wait()
    const signal = reader.signal()
    reader.finish()
    throwIfAborted(signal)
    this.#assertOpen()
    return orAborted(this.#readyWithin(waitMs), signal)
  }

  /**
   * Gives the lease up, if this has it, and stops competing. Resolves when the lease is free, or another holds it.
   *
   * @throws ErrNotHeld reason `adopted`: another candidate uses the same `holder` name, which is not allowed, and goes on with the lease
   * @throws ErrUnknown the lease may have been released; if not, it expires by itself
   */
  async release(options: AuthorityCallOptions = {}): Promise<void> {
    const signal = checkedSignal(options)
    return orAborted(this.#release(), signal)
  }

  /**
   * Extends the lease to a `ttl` from now. Resolves to whether this has it. If the lease turns out to be lost, this tries to claim it
   * again at once. If this does not compete, it does what `ready()` does. A waiting candidate sends nothing and gets false.
   *
   * @throws ErrUnknown the lease may have been extended; this relies on it no longer than before
   * @throws ErrStopped the authority or the manager was stopped
   */
  async extend(options: AuthorityCallOptions = {}): Promise<boolean> {
    const signal = checkedSignal(options)
    this.#assertOpen()
    return orAborted(this.#extend(), signal)
  }

  /**
   * Call it whenever the work makes progress, as often as you like. Extends as `extend()` does: at once, then at most once per
   * `heartbeatInterval`, and once more after the last call. Returns the outcome of the latest extension; you need not await it. After
   * `release()` it sends nothing and resolves to false.
   */
  heartbeat(): Promise<boolean> {
    if (this.#stopping === undefined) {
      if (this.#released) return Promise.resolve(false)
      // The monotonic clock may have stood still during a suspend: after the end of the term, do not wait for the interval.
      const waitMs = this.held ? this.#nextBeatMs - this.#clock.monotonic() : 0
      if (waitMs <= 0) this.#beat()
      else this.#trailingBeat ??= this.#clock.setTimer(Math.ceil(waitMs), () => this.#trail())
      return this.#latestBeat
    }
    const refusal = this.extend()
    refusal.catch(() => {})
    return refusal
  }

  /**
   * Releases the lease and ends the authority for good: later calls reject with `ErrStopped`. If the release fails, the lease
   * expires by itself. Never rejects; idempotent.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#release().catch(() => {})
    return this.#stopping
  }

  /** The same as `stop()`. */
  close(): Promise<void> {
    return this.stop()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  // ── candidacy ─────────────────────────────────────────────────────────────────────────────────────────────────

  async #readyWithin(waitMs: number): Promise<boolean> {
    const ready = this.#ready(waitMs > 0)
    if (waitMs <= 0 || waitMs > MAX_DURATION_MS) return ready
    return new Promise((resolve, reject) => {
      const timer = this.#clock.setTimer(waitMs, () => resolve(this.held))
      ready.then(resolve, reject).finally(() => timer.cancel())
    })
  }

  async #ready(wait: boolean): Promise<boolean> {
    this.#released = false
    if (this.held) return true // first: reading it ends the candidacy of a term that expired during a pause
    if (wait) this.#acquisition ??= new Acquisition()
    const acquired = wait ? this.#acquisition?.promise : undefined // before the candidacy begins: it may fail at once
    if (this.#candidacy === undefined) this.#stand()
    return acquired ?? this.#attempt ?? false
  }

  #stand(): void {
    const candidacy = new AbortController()
    this.#candidacy = candidacy
    this.#takenBy = undefined
    this.emit('ready')
    this.#try(candidacy)
    void this.#watch(candidacy)
  }

  /** Tries once. After a refusal or a failure, waits. */
  #try(candidacy: AbortController): void {
    const attempt = this.#tryOnce(candidacy)
    this.#attempt = attempt
    const end = (): void => {
      if (this.#attempt === attempt) this.#attempt = undefined
    }
    attempt.then(end, end)
    this.#track(attempt)
  }

  #track(attempt: Promise<unknown>): void {
    this.#attempts.add(attempt)
    const forget = (): void => void this.#attempts.delete(attempt)
    attempt.then(forget, forget)
  }

  async #tryOnce(candidacy: AbortController): Promise<boolean> {
    const { signal } = candidacy
    try {
      return await this.#take(candidacy, this.#acquire(signal, false))
    } catch (error) {
      if (signal.aborted) return false
      if (isFinal(error)) {
        this.#fail(candidacy, error)
        throw error
      }
      const isTaken = error instanceof ErrClaimDenied
      if (isTaken) this.#tellTaken(error.currentHolder)
      this.#track(this.#wait(candidacy))
      if (!isTaken) throw error
      return false
    }
  }

  /** Tries until it is granted or the candidacy ends. */
  async #wait(candidacy: AbortController): Promise<void> {
    const { signal } = candidacy
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        return void (await this.#take(candidacy, this.#acquire(signal, true)))
      } catch (error) {
        if (isFinal(error)) return this.#fail(candidacy, error)
        await pauseAfter(failures, { clock: this.#clock, signal })
      }
    }
  }

  async #acquire(signal: AbortSignal, wait: boolean): Promise<Hold> {
    const { lease, holder } = this
    const options = { duration: this.#ttlMs, renewEvery: false, value: this.#value, wait, signal } as const
    for (;;) {
      const hold = await this.#manager.hold(lease, holder, options)
      if (hold.held || signal.aborted) return hold
      // Lost before it could be relied on, for instance in a pause: nobody hears of it, and it is claimed again.
      await hold.release().catch(() => {})
    }
  }

  /** Makes the Hold the present term, unless the candidacy has ended. */
  async #take(candidacy: AbortController, acquired: Promise<Hold>): Promise<boolean> {
    const hold = await acquired
    if (candidacy.signal.aborted) {
      await hold.release().catch(() => {}) // if it fails, the lease expires
      return false
    }
    this.#hold = hold
    this.#takenBy = undefined
    this.emit('acquired', hold)
    whenAborted(hold.signal, () => {
      const reason: unknown = hold.signal.reason
      if (reason instanceof ErrLost) this.#lose(candidacy, hold, reason)
      else if (this.#hold === hold) this.#resigned(hold)
    })
    const { held } = this // after a late answer the trust window may be over: then the term is lost
    if (held) this.#settle((acquisition) => acquisition.resolve(true))
    return held
  }

  #lose(candidacy: AbortController, hold: Hold, error: ErrLost): void {
    hold.release().catch(() => {}) // sends nothing: a follower of the hold learns that nothing relies on it
    if (this.#hold !== hold) return
    this.#hold = undefined
    const { reason } = error
    this.emit('lost', { reason, expired: reason === 'expired', fencingToken: hold.fencingToken, error })
    if (reason === 'expired') {
      this.#endCandidacy(candidacy)
      this.#settle((acquisition) => acquisition.resolve(false))
    } else this.#try(candidacy)
  }

  /** The caller released the term itself: the caller gets the outcome, and `stop()` waits for it. */
  #resigned(hold: Hold): void {
    this.#track(Promise.resolve().then(() => hold.release().catch(() => {})))
    this.#release().catch(() => {})
  }

  #fail(candidacy: AbortController, error: unknown): void {
    if (candidacy.signal.aborted) return
    this.#endCandidacy(candidacy)
    this.emit('error', error)
    this.#settle((acquisition) => acquisition.reject(error))
  }

  #endCandidacy(candidacy: AbortController): void {
    candidacy.abort(new DOMException('the candidacy has ended', 'AbortError'))
    this.#candidacy = undefined
    this.#leader = undefined
    this.#cancelBeat()
  }

  /** Ends the waits of `ready({ wait })`. */
  #settle(settle: (acquisition: Acquisition) => void): void {
    const acquisition = this.#acquisition
    this.#acquisition = undefined
    if (acquisition !== undefined) settle(acquisition)
  }

  #release(): Promise<void> {
    this.#released = true
    const hold = this.#hold
    const attempts = [...this.#attempts]
    if (this.#candidacy !== undefined) this.#endCandidacy(this.#candidacy)
    this.#hold = undefined
    this.#settle((acquisition) => acquisition.resolve(false))
    const before = this.#releasing
    if (hold === undefined && attempts.length === 0) return before ?? Promise.resolve()
    const releasing = giveUp(hold, [...attempts, before])
    this.#releasing = releasing
    const end = (): void => {
      if (this.#releasing === releasing) this.#releasing = undefined
    }
    releasing.then(end, end)
    return releasing
  }

  /** Keeps `leader` up to date and reports other holders. */
  async #watch(candidacy: AbortController): Promise<void> {
    const { signal } = candidacy
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        await this.#look(candidacy)
      } catch (error) {
        // The attempts report a stopped manager.
        if (isFinal(error) && !signal.aborted && !(error instanceof ErrStopped)) this.emit('error', error)
        if (isFinal(error)) return
        await pauseAfter(failures, { clock: this.#clock, signal })
      }
    }
  }

  async #look({ signal }: AbortController): Promise<void> {
    let before: Info | undefined
    for await (const info of this.#manager.observe(this.lease, { signal, renewals: true })) {
      if (signal.aborted) return
      this.#leader = info
      const { holder } = before ?? {}
      const ended = holder !== undefined && info?.fencingToken !== before?.fencingToken
      const leftMs = (before?.expiry.toMillis() ?? 0) - this.#clock.now()
      if (ended && holder !== this.holder && leftMs < ROUND_TRIP_MS) this.emit('expired', { holder })
      if (info === undefined) this.#takenBy = undefined
      else if (info.holder !== this.holder) this.#tellTaken(info.holder)
      before = info
    }
  }

  #tellTaken(holder: string | undefined): void {
    if (holder !== undefined && holder === this.#takenBy) return
    this.#takenBy = holder
    this.emit('taken', { holder })
  }

  // ── extension ─────────────────────────────────────────────────────────────────────────────────────────────────

  async #extend(): Promise<boolean> {
    const candidacy = this.#candidacy
    if (candidacy === undefined) return this.#ready(false)
    const hold = this.#hold
    if (hold === undefined) return false
    try {
      await hold.renew()
      return true
    } catch (error) {
      if (!(error instanceof ErrLost)) throw error
      if (this.#released) return false
      return this.#ready(false)
    }
  }

  #beat(): void {
    this.#cancelBeat()
    this.#nextBeatMs = this.#clock.monotonic() + this.#heartbeatMs
    this.#latestBeat = this.extend()
    this.#latestBeat.catch(() => {})
  }

  /** Extends for the heartbeats since the last extension. It never starts a candidacy: that work is done already. */
  #trail(): void {
    this.#trailingBeat = undefined
    if (this.held) this.#beat()
  }

  #cancelBeat(): void {
    this.#trailingBeat?.cancel()
    this.#trailingBeat = undefined
  }

  #assertOpen(): void {
    if (this.#stopping !== undefined) throw new ErrStopped('the authority was stopped', { lease: this.lease })
  }
}

const known = ['manager', 'lease', 'holder', 'ttl', 'heartbeatInterval', 'value', 'clock']

/** The promise behind `ready({ wait })`. */
class Acquisition {
  resolve: (acquired: boolean) => void = () => {}
  reject: (error: unknown) => void = () => {}
  readonly promise: Promise<boolean> = new Promise((resolve, reject) => {
    this.resolve = resolve
    this.reject = reject
  })
}

/** @param attempts each releases what it was granted after all */
async function giveUp(hold: Hold | undefined, attempts: readonly (Promise<unknown> | undefined)[]): Promise<void> {
  const released = hold?.release().catch(unlessGone)
  await Promise.all([released, ...attempts.map((attempt) => attempt?.catch(() => {}))])
}
