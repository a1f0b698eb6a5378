/**
 * Authority: a standing candidate for a lease, who keeps it by working.
 *
 *   idle ────ready()────▶ standing ───granted───▶ held
 *    ▲                      │  ▲                   │ │
 *    ├──────release()───────┘  └─ lost: revoked, ──┘ │
 *    │                            taken, unreachable │
 *    └────── release(), or lost: expired ────────────┘
 *
 * Promises.
 * - Of all that stand for one lease, at most one is `held` at any instant. The next is granted it as soon as the substrate
 *   tells that it is free, and otherwise when it lapses; nobody polls.
 * - Nothing extends the lease but `extend()` and `heartbeat()`: who stops working loses it after `ttl`. Whoever lost it
 *   so (`expired`) does not stand again until told to; every other loss leaves the candidate standing.
 * - Every loss is told, once, by `lost` and by `signal`, no later than the lease can be another's, unless an
 *   operator revoked it: then as soon as the news has come. To give it up by `release()` or `stop()` is no loss.
 * - After `stop()` no timer, wait or subscription of it is left.
 *
 * Failure. An attempt in the background that fails is repeated with growing pauses for as long as this stands, whatever it met: errors
 * of others end nothing. What cannot be repeated (the manager was stopped) ends the candidacy: `error`.
 *
 * After `authoritah`, whose names it keeps.
 */
import { randomUUID } from 'node:crypto'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  hasMethods,
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
import type { DurationLike } from 'luxon'
import { checkedSignal, Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { orAborted, whenAborted } from './or-aborted.ts'
import { isFinal, pauseAfter } from './retry.ts'
import { unlessGone } from './unless-gone.ts'

export interface AuthorityOptions {
  /** It stays yours to stop. */
  readonly manager: Pick<Manager, 'hold' | 'observe' | 'token'>
  /** What the authority is over; all its candidates name the same. */
  readonly lease: string
  /** Who this candidate is; no two candidates may be the same. @default a random UUID */
  readonly holder?: string | undefined
  /** How long a grant lasts unless it is extended. A number is in milliseconds. @default 15 seconds */
  readonly ttl?: DurationLike | undefined
  /** `heartbeat()` extends at most once in this time; less than `ttl` by 0.1 % and 6 ms. @default 2 seconds */
  readonly heartbeatInterval?: DurationLike | undefined
  /** Travels with the lease for everyone to read; at most 4 KiB. */
  readonly value?: string | undefined
  /** The manager's. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

export interface ReadyOptions {
  /**
   * false: resolves after one try. A duration bounds the wait, which counts from the call; true waits as long as `signal` allows. The
   * wait also ends with the candidacy. When it is over, the candidacy goes on. @default false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends this call with its reason; the candidacy goes on. */
  readonly signal?: AbortSignal | undefined
}

export interface AuthorityCallOptions {
  /** Ends this call with its reason; what was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** What `lost` tells. */
export interface AuthorityLoss {
  /**
   * `expired`: nothing extended it in time · `revoked`: it was vacated before its time · `taken`: another has it ·
   * `unreachable`: extensions failed until its time was over.
   */
  readonly reason: LossReason
  /** Whether the reason is `expired`: this does not stand any more. */
  readonly expired: boolean
  /** Of the term that ended. */
  readonly fencingToken: bigint
  readonly error: ErrLost
}

/** Events with the arguments of their listeners. */
export interface AuthorityEvents {
  /** It was granted. */
  acquired: [Held]
  /** It ended unasked. */
  lost: [AuthorityLoss]
  /** For logs: it stands from now on. */
  ready: []
  /** For logs: another was found to hold the lease. */
  taken: [{ readonly holder: string | undefined }]
  /** For logs: another's lease was seen to lapse. */
  expired: [{ readonly holder: string }]
  /** The candidacy ended: an attempt failed in a way that no other attempt can mend. */
  error: [unknown]
}

const TTL_MS = 15_000
const HEARTBEAT_MS = 2_000
/** The expiry that is known is a latest instant; a lease may have lapsed about so long before it. For logs only. */
const ROUND_TRIP_MS = 50

export class Authority extends Emitter<AuthorityEvents> implements AsyncDisposable {
  readonly lease: string
  readonly holder: string
  /** For `token.check(key)` before a guarded write. */
  readonly token: Token
  readonly #manager: AuthorityOptions['manager']
  readonly #ttlMs: number
  readonly #heartbeatMs: number
  readonly #value: string | undefined
  readonly #clock: Clock
  /** While this stands: aborted when it does not any more. */
  #candidacy: AbortController | undefined
  /** The attempt that answers `ready()`, while it is in flight. */
  #attempt: Promise<boolean> | undefined
  /** The attempts and waits in flight: each gives back what it is granted when it is not wanted any more. */
  readonly #attempts = new Set<Promise<unknown>>()
  /** For those who wait to see it acquired. */
  #acquisition: Acquisition | undefined
  #hold: Hold | undefined
  #leader: Info | undefined
  /** Who was told of as `taken` last, since nobody or this had the lease. */
  #takenBy: string | undefined
  /** By release(): heartbeats do not undo that. */
  #released = false
  #releasing: Promise<void> | undefined
  #stopping: Promise<void> | undefined
  #latestBeat: Promise<boolean> = Promise.resolve(false)
  #nextBeatMs = Number.NEGATIVE_INFINITY
  #trailingBeat: Timer | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: AuthorityOptions) {
    super()
    const checks = new Checks(options, known)
    const { manager, lease, holder, ttl, heartbeatInterval, value, clock } = options
    checks.must('manager', hasMethods(manager, 'hold', 'observe', 'token'), 'must be a Manager', manager)
    checks.name('lease', lease)
    if (holder !== undefined) checks.name('holder', holder)
    this.#ttlMs = ttl === undefined ? TTL_MS : checks.leaseDuration('ttl', ttl)
    this.#heartbeatMs =
      heartbeatInterval === undefined ? HEARTBEAT_MS : checks.duration('heartbeatInterval', heartbeatInterval)
    checks.renewal('heartbeatInterval', this.#heartbeatMs, 'ttl', this.#ttlMs)
    checks.value('value', value)
    const isClock = clock === undefined || hasMethods(clock, 'now', 'monotonic', 'setTimer')
    checks.must('clock', isClock, 'must be a Clock', clock)
    checks.finish()
    this.#manager = manager
    this.lease = lease
    this.holder = holder ?? randomUUID()
    this.#value = value
    this.#clock = clock ?? systemClock
    this.token = manager.token(lease, this.holder)
  }

  /** Whether this may rely on the lease now. Reads the clock; never trusts a timer. */
  get held(): boolean {
    return this.#hold?.held === true
  }

  /** Whether this has the lease or stands for it. */
  get standing(): boolean {
    return this.held || this.#candidacy !== undefined
  }

  /** Of the present term; undefined while this does not have the lease. */
  get fencingToken(): bigint | undefined {
    return this.held ? this.#hold?.fencingToken : undefined
  }

  /** The present term; undefined while this does not have the lease. Its `release()` is that of this. */
  get term(): Held | undefined {
    return this.held ? this.#hold : undefined
  }

  /** Of the present term: aborts when it ends, by loss (`ErrLost`) or by release. Without a term it is aborted already. */
  get signal(): AbortSignal {
    if (this.held && this.#hold !== undefined) return this.#hold.signal
    return AbortSignal.abort(new ErrNotHeld(`"${this.holder}" does not hold lease "${this.lease}"`))
  }

  /** Who was last seen to have the lease, and with which value; this one included. Undefined: nobody, or not standing. */
  get leader(): Info | undefined {
    return this.#leader
  }

  /**
   * Stands for the lease from now on and tries to acquire it. Resolves to whether this has it; if not, it is acquired as
   * soon as it is free. Standing already, it only tells.
   *
   * @throws ErrUnknown it may have been acquired; this stands and tries on
   * @throws ErrStopped this was stopped, or the manager was
   */
  async ready(options: ReadyOptions = {}): Promise<boolean> {
    const checks = new Checks(options, ['wait', 'signal'])
    const { wait = false, signal } = options
    const waitMs = checks.wait('wait', wait)
    checks.signal('signal', signal)
    checks.finish()
    throwIfAborted(signal)
    this.#assertOpen()
    return orAborted(this.#readyWithin(waitMs), signal)
  }

  /**
   * Gives the lease up if this has it, and stands no more. Resolves when it is free for the next, or another's already.
   *
   * @throws ErrNotHeld another candidate of the same `holder` name, which none may have, goes on with it (reason `adopted`)
   * @throws ErrUnknown it may have happened; if not, the lease lapses by itself
   */
  async release(options: AuthorityCallOptions = {}): Promise<void> {
    const signal = checkedSignal(options)
    return orAborted(this.#release(), signal)
  }

  /**
   * Extends the lease by `ttl` from now. Resolves to whether this has it: a lease found lost is tried for again at once,
   * and one who does not stand does so from now on, as by `ready()`. One who stands without it does nothing.
   *
   * @throws ErrUnknown it may have happened; until when this may rely on the lease has not changed
   * @throws ErrStopped this was stopped, or the manager was
   */
  async extend(options: AuthorityCallOptions = {}): Promise<boolean> {
    const signal = checkedSignal(options)
    this.#assertOpen()
    return orAborted(this.#extend(), signal)
  }

  /**
   * To be called as work gets on, as often as you like: extends as `extend()` does, at once and then at most once in each
   * `heartbeatInterval`, the last time after the last call. Returns the outcome of the latest extension; to ignore it
   * is safe. After `release()` it does nothing and resolves to false.
   */
  heartbeat(): Promise<boolean> {
    if (this.#stopping === undefined) {
      if (this.#released) return Promise.resolve(false)
      // The interval goes by a clock that may have slept: a term that is over by now is not waited for.
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
   * Gives the lease up and ends this for good: later calls reject with `ErrStopped`. A lease that could not be given up
   * lapses by itself. Idempotent.
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
    if (this.held) return true // before all else: a term that ran out in a pause ends the candidacy here
    if (wait) this.#acquisition ??= new Acquisition()
    const acquired = wait ? this.#acquisition?.promise : undefined // before it stands: that may fail at once
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

  /** Tries once, and if that is in vain, waits. */
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

  #acquire(signal: AbortSignal, wait: boolean): Promise<Hold> {
    const { lease, holder } = this
    return this.#manager.hold(lease, holder, {
      duration: this.#ttlMs,
      renewEvery: false,
      value: this.#value,
      wait,
      signal,
    })
  }

  /** Makes the Hold this one's term, unless the candidacy has ended meanwhile. */
  async #take(candidacy: AbortController, acquired: Promise<Hold>): Promise<boolean> {
    const hold = await acquired
    if (candidacy.signal.aborted) {
      await hold.release().catch(() => {}) // it lapses by itself
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
    const { held } = this // an answer that came late may be worth nothing by now: then it is lost
    if (held) this.#settle((acquisition) => acquisition.resolve(true))
    return held
  }

  #lose(candidacy: AbortController, hold: Hold, error: ErrLost): void {
    if (this.#hold !== hold) return
    this.#hold = undefined
    const { reason } = error
    this.emit('lost', { reason, expired: reason === 'expired', fencingToken: hold.fencingToken, error })
    if (reason === 'expired') {
      this.#endCandidacy(candidacy)
      this.#settle((acquisition) => acquisition.resolve(false))
    } else this.#try(candidacy)
  }

  /** The term was released by itself: its caller gets the outcome, and whoever stops this waits for it. */
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

  /** Whoever waits to see it acquired waits no more. */
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

  /** Keeps `leader` up to date and tells of the others. */
  async #watch(candidacy: AbortController): Promise<void> {
    const { signal } = candidacy
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        await this.#look(candidacy)
      } catch (error) {
        // A manager that was stopped is told of by the attempts.
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

  /** Extends for the heartbeats since the last extension, but never stands again for them: that work was done before. */
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

/** What those wait for who want to see it acquired. */
class Acquisition {
  resolve: (acquired: boolean) => void = () => {}
  reject: (error: unknown) => void = () => {}
  readonly promise: Promise<boolean> = new Promise((resolve, reject) => {
    this.resolve = resolve
    this.reject = reject
  })
}

/** @param attempts each gives back what it was granted after all */
async function giveUp(hold: Hold | undefined, attempts: readonly (Promise<unknown> | undefined)[]): Promise<void> {
  const released = hold?.release().catch(unlessGone)
  await Promise.all([released, ...attempts.map((attempt) => attempt?.catch(() => {}))])
}
