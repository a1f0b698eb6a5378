/**
 * The Manager: many callers, one Client, few round trips, and no caller who believes more than is true.
 *
 * Assumptions. The Client keeps its contract (`client.ts`); clock *rates* agree to 0.1 % (`skew.ts`). Nothing is assumed
 * about clock readings, about how long an answer takes, or about how long this process is asleep.
 *
 * Promises.
 * - A claim that resolves holds for at least `duration` from the start of the call. A denial is the substrate's own
 *   answer, never a stale snapshot. What is neither is `ErrUnknown`.
 * - A check inside the trust window of a grant made here costs no I/O; any other costs exactly one read.
 * - A Hold's signal aborts no later than its trust window ends (`hold.ts`).
 * - Operations on one lease run one after another; on different leases they neither wait for nor fail with each other.
 * - Waiters wake by the substrate's hint *and* by a timer at the known expiry; whoever waits is re-read after every
 *   (re)subscription and at least every `maxSleep`. Hints are never believed: they only cause a read.
 *
 * State, all of it by lease and none of it by namespace: `#beliefs` (what was granted here and for how long it may be
 * relied on), `#holds`, `#waitingRoom` (those who wait, in order), `#lanes` (operations in flight). One timer: `#agenda`.
 *
 * Failure. An unexpected error rejects that call and no other. In the background (renewals, waits) everything is tried
 * again until it succeeds or its time is over; each failure is told as a `retrying` event.
 *
 * After juju `worker/lease` (claims, tokens, one loop), with renewal and waiting taken in.
 */
import { setMaxListeners } from 'node:events'
import type { DurationLike } from 'luxon'
import { Agenda, type Task } from './agenda.ts'
import { backoffMs } from './backoff.ts'
import { Belief } from './belief.ts'
import { CompactingMap } from './compacting-map.ts'
import type { Client, ClientCallOptions, LeaseChange } from './client.ts'
import { sleep, systemClock, type Clock } from './clock.ts'
import { ErrClaimDenied, ErrInvalid, ErrNotHeld, ErrStopped, ErrUnknown, notValid } from './errors.ts'
import type { ErrLost, LeaseErrorDetails, LossReason } from './errors.ts'
import { LeaseEvents } from './events.ts'
import { Extension, type ExtensionDesk, type HeldTerm } from './extension.ts'
import { ManagedHold, type Hold, type HoldKeeper } from './hold.ts'
import { Holds } from './holds.ts'
import { KeyedMutex } from './keyed-mutex.ts'
import { brokenLeases, brokenNames, brokenValueRule, checkNames, checkRequest } from './lease.ts'
import type { Info, TermAware, Request } from './lease.ts'
import type { Turn } from './line.ts'
import { observation } from './observation.ts'
import { parseHoldOptions, parseManagerConfig, parseObserveOptions, type ParsedHoldOptions } from './options.ts'
import { elapsedTimeOf, RecentReading, type ClockReading, type ElapsedTime } from './elapsed-time.ts'
import { Renewals } from './renewals.ts'
import type {
  Checker,
  Claimer,
  ClaimOptions,
  HoldOptions,
  ObserveOptions,
  Pinner,
  Reader,
  Releaser,
  WaitOptions,
} from './roles.ts'
import { LeaseToken, type Token } from './token.ts'
import { WaitingRoom, type Contention } from './waiting-room.ts'

export interface ManagerConfig {
  readonly client: Client
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Where transitions are told. @default a stream of its own, see `manager.events` */
  readonly events?: LeaseEvents | undefined
  /** At least this often everything awaited or held is read again. @default 1 minute */
  readonly maxSleep?: DurationLike | undefined
}

/** Attempts of one claim, release or revocation that keeps meeting another state. */
const MAX_ATTEMPTS = 10
/** How often the two clocks are compared while anything is held here. */
const VIGIL_MS = 1_000
/** Below this many entries the beliefs are not swept. */
const SWEEP_FLOOR = 1024

export class Manager implements Claimer, Checker, Releaser, Pinner, Reader, AsyncDisposable {
  /** What happened, for logs and metrics. */
  readonly events: LeaseEvents
  readonly #client: Client
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #recent: RecentReading
  readonly #maxSleepMs: number
  readonly #agenda: Agenda
  readonly #keeper: HoldKeeper
  readonly #desk: ExtensionDesk
  readonly #renewals = new Renewals(() => this.#now())
  readonly #lanes = new KeyedMutex()
  readonly #beliefs = new CompactingMap<Belief>()
  readonly #holds = new Holds<ManagedHold>()
  readonly #waitingRoom: WaitingRoom
  /** Reads that are about to be sent. */
  readonly #nextReads = new Map<string, Promise<void>>()
  /** An array, and not a Set, whose tables would keep each other and the calls of long ago alive (`keyed-mutex.ts`). */
  readonly #calls: CallInFlight[] = []
  readonly #stopping = new AbortController()
  /** A machine that was suspended, or whose wall clock was set, finds out here: timers count only the monotonic clock. */
  readonly #vigil: Task = { wakeAtMs: -1, wake: () => this.#compareClocks() }
  #clocksApartMs = 0
  #sharedNow: ClockReading | undefined
  #unsubscribe: (() => void) | undefined
  #sweepAt = SWEEP_FLOOR

  constructor(config: ManagerConfig) {
    const { client, clock, events, maxSleepMs } = parseManagerConfig(config)
    this.#client = client
    this.#clock = clock ?? systemClock
    this.#time = elapsedTimeOf(this.#clock)
    this.#recent = new RecentReading(this.#clock)
    this.events = events ?? new LeaseEvents()
    this.#maxSleepMs = maxSleepMs
    this.#agenda = new Agenda(this.#clock)
    this.#keeper = this.#makeKeeper()
    this.#desk = {
      client,
      lanes: this.#lanes,
      stopping: this.#stopping.signal,
      now: () => this.#now(),
      lossOf: (hold) => this.#lossOf(hold),
    }
    this.#waitingRoom = this.#makeWaitingRoom()
    setMaxListeners(0, this.#stopping.signal) // every claim that pauses listens to it
  }

  claim(lease: string, holder: string, duration: DurationLike, options: ClaimOptions = {}): Promise<void> {
    const { signal, value, announce } = options
    return this.#call(signal, () => {
      const durationMs = checkRequest(lease, { holder, duration, value, announce })
      return this.#claim(lease, { holder, durationMs, value, announce, signal }).then(nothing)
    })
  }

  token(lease: string, holder: string): Token {
    return new LeaseToken(lease, holder, this.#checker)
  }

  waitUntilExpired(lease: string, options: WaitOptions = {}): Promise<void> {
    let leave = (): void => {}
    return this.#call(
      options.signal,
      () => {
        checkNames({ lease })
        this.#subscribe()
        const waiting = this.#waitingRoom.wait(lease)
        leave = waiting.leave
        return waiting.outcome
      },
      { atEnd: () => leave() },
    )
  }

  release(lease: string, holder: string): Promise<void> {
    return this.#call(undefined, () => {
      checkNames({ lease, holder })
      return this.#release(lease, holder)
    })
  }

  revoke(lease: string): Promise<void> {
    return this.#call(undefined, () => {
      checkNames({ lease })
      return this.#inLane(lease, undefined, () => this.#revoke(lease))
    })
  }

  pin(lease: string, entity: string): Promise<void> {
    return this.#call(undefined, () => {
      checkNames({ lease, entity })
      return this.#inLane(lease, undefined, () => this.#client.pinLease(lease, entity))
    })
  }

  unpin(lease: string, entity: string): Promise<void> {
    return this.#call(undefined, () => {
      checkNames({ lease, entity })
      return this.#inLane(lease, undefined, () => this.#client.unpinLease(lease, entity))
    })
  }

  pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#call(undefined, () => this.#client.pinned())
  }

  leases(): Promise<ReadonlyMap<string, Info>> {
    return this.#call(undefined, async () => {
      await this.#client.refresh()
      const held = new Map<string, Info>()
      for (const [lease, info] of this.#client.leases()) if (!this.#hasLapsed(info)) held.set(lease, info)
      return held
    })
  }

  observe(lease: string, options: ObserveOptions = {}): AsyncGenerator<Info | undefined, never, void> {
    return observation({
      check: () => parseObserveOptions(options, brokenNames({ lease })),
      call: (signal, body) => this.#call(signal, body),
      enter: (tell, fail) => {
        this.#subscribe()
        return this.#waitingRoom.observe(lease, tell, fail)
      },
    })
  }

  /**
   * Claims the lease and keeps it alive until it is released or lost. `hold(…, { wait })` tries until it is granted.
   *
   * @throws ErrClaimDenied another holds it, or still did when `wait` ran out
   * @throws ErrNotValid    nothing was sent
   * @throws ErrUnknown     it may have happened
   */
  hold(lease: string, holder: string, options: HoldOptions): Promise<Hold> {
    let parsed: ParsedHoldOptions
    try {
      parsed = parseHoldOptions(options, brokenNames({ lease, holder }))
    } catch (error) {
      return Promise.reject(error)
    }
    return this.#holdOne({ leases: [lease], holder, options: parsed })
  }

  /**
   * Claims any one of these leases, at most 128, and keeps it alive; `hold.lease` says which. One that this holder has
   * already is extended instead, and no second one taken. Otherwise as `hold`.
   *
   * @throws ErrClaimDenied others hold all of them, or still did when `wait` ran out
   * @throws ErrNotValid    nothing was sent
   * @throws ErrUnknown     it may have happened
   */
  holdAny(leases: readonly string[], holder: string, options: HoldOptions): Promise<Hold> {
    let parsed: ParsedHoldOptions
    try {
      parsed = parseHoldOptions(options, [...brokenLeases(leases), ...brokenNames({ holder })])
    } catch (error) {
      return Promise.reject(error)
    }
    return this.#holdOne({ leases: [...leases], holder, options: parsed })
  }

  #holdOne(contention: Contention): Promise<Hold> {
    const { signal, waitMs } = contention.options
    if (waitMs === 0) return this.#call(signal, () => this.#acquire(contention, signal), { unwanted: giveBack })
    let leave: ((error: unknown) => void) | undefined
    return this.#call(
      signal,
      () => {
        this.#subscribe()
        const waiting = this.#waitingRoom.contend(contention)
        leave = waiting.leave
        return waiting.outcome
      },
      { atEnd: (error) => leave?.(error), unwanted: giveBack },
    )
  }

  /**
   * Ends all background work. Calls in flight reject with `ErrStopped`, and so does every later call; live Holds are not
   * renewed any more and abort. Nothing is released in the substrate, and the client stays open: it is yours to close.
   * Idempotent.
   */
  stop(): Promise<void> {
    if (this.#stopping.signal.aborted) return Promise.resolve()
    const stopped = new ErrStopped('the manager was stopped')
    this.#stopping.abort(stopped)
    this.#unsubscribe?.()
    this.#unsubscribe = undefined
    for (const hold of this.#holds.all()) hold.lose('unreachable', 'the manager was stopped', stopped)
    this.#waitingRoom.close(stopped)
    for (const call of [...this.#calls]) call.fail(stopped)
    this.#beliefs.clear()
    this.#agenda.clear()
    return Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** What every call shares: it never throws synchronously, and rejects when its signal aborts or the manager stops. */
  #call<T>(signal: AbortSignal | undefined, body: () => Promise<T>, ending: Ending<T> = {}): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#stopping.signal.aborted) return reject(new ErrStopped('the manager is stopped'))
      if (signal?.aborted === true) return reject(signal.reason as Error)
      const onAbort = (): void => fail(signal?.reason)
      const end = (): void => {
        this.#forgetCall(call)
        signal?.removeEventListener('abort', onAbort)
      }
      const fail = (error: unknown): void => {
        if (call.place === OVER) return
        end()
        reject(error)
        ending.atEnd?.(error)
      }
      const call: CallInFlight = { place: this.#calls.length, fail }
      this.#calls.push(call)
      if (signal !== undefined) {
        setMaxListeners(0, signal) // one signal may end a thousand calls
        signal.addEventListener('abort', onAbort, { once: true })
      }
      try {
        body().then((value) => {
          if (call.place === OVER) ending.unwanted?.(value) // the caller has gone
          else {
            end()
            resolve(value)
            ending.atEnd?.()
          }
        }, fail)
      } catch (error) {
        fail(error)
      }
    })
  }

  /** The last one takes its place. */
  #forgetCall(call: CallInFlight): void {
    const last = this.#calls.pop()
    if (last !== undefined && last !== call) {
      this.#calls[call.place] = last
      last.place = call.place
    }
    call.place = OVER
  }

  /** Now, read once for all that one answer sets going: reading two clocks for each of a thousand takes its time. */
  #now(): ClockReading {
    if (this.#sharedNow === undefined) {
      this.#sharedNow = this.#time.read()
      queueMicrotask(() => (this.#sharedNow = undefined))
    }
    return this.#sharedNow
  }

  async #inLane<T>(lease: string, signal: AbortSignal | undefined, body: () => Promise<T>): Promise<T> {
    const turn = this.#lanes.enter(lease)
    if (turn !== undefined) await turn
    try {
      this.#stopping.signal.throwIfAborted()
      signal?.throwIfAborted()
      return await body()
    } finally {
      this.#lanes.leave(lease)
    }
  }

  // ── claim ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** In its lane: claims or extends, whichever the latest state asks for. */
  async #claim(lease: string, request: ClaimRequest): Promise<Belief> {
    const turnInLane = this.#lanes.enter(lease)
    if (turnInLane !== undefined) await turnInLane
    try {
      for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
        // A state that changed under the first attempt is tried again at once; then others deserve their turn.
        if (attempt > 2) await sleep(this.#clock, backoffMs(attempt - 2), this.#stopping.signal)
        this.#stopping.signal.throwIfAborted()
        request.signal?.throwIfAborted()
        const known = this.#client.leases().get(lease)
        const own = known !== undefined && known.holder === request.holder && !this.#hasLapsed(known)
        const placeless = request.turn?.place === 0
        const sent = this.#now()
        try {
          await this.#ask(lease, request, own)
        } catch (error) {
          if (!(error instanceof ErrInvalid)) throw error
          const found = this.#client.leases().get(lease)
          if (found !== undefined && found.holder !== request.holder && !this.#hasLapsed(found))
            throw this.#denied(lease, request.holder, found)
          if (placeless && request.turn.place > 0) throw this.#denied(lease, request.holder, undefined) // vacant, and others were first
          continue
        }
        return this.#believe(lease, request.holder, sent, request.durationMs, own)
      }
    } finally {
      this.#lanes.leave(lease)
    }
    throw this.#exhausted('claim', lease, { holder: request.holder })
  }

  #ask(
    lease: string,
    { holder, durationMs, value, announce, signal, turn }: ClaimRequest,
    own: boolean,
  ): Promise<void> {
    const asked = { holder, duration: durationMs, value, announce }
    const options = signal === undefined && turn === undefined ? undefined : { signal, turn }
    return own ? this.#client.extendLease(lease, asked, options) : this.#client.claimLease(lease, asked, options)
  }

  /** Extends the one that this holder has, or claims one that is free. */
  #claimAny(leases: readonly string[], request: ClaimRequest): Promise<readonly [lease: string, belief: Belief]> {
    const { holder, durationMs, value, announce, signal } = request
    const asked = { holder, duration: durationMs, value, announce }
    const mine = (lease: string): boolean => this.#holderOf(lease) === holder
    // Two calls for one holder come one after another: the second extends what the first has got.
    return this.#inLane(`${holder} ${leases[0]}`, signal, async () => {
      for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
        if (attempt > 2) await sleep(this.#clock, backoffMs(attempt - 2), this.#stopping.signal)
        signal?.throwIfAborted()
        const own = leases.find(mine)
        try {
          if (own !== undefined) return [own, await this.#claim(own, request)]
          const sent = this.#time.read()
          const lease = await this.#claimFreeOne(leases, asked, signal === undefined ? undefined : { signal })
          return [lease, this.#believe(lease, holder, sent, durationMs, false)]
        } catch (error) {
          if (!(error instanceof ErrInvalid || error instanceof ErrClaimDenied)) throw error
          const others = leases.every((lease) => this.#holderOf(lease) !== undefined) && !leases.some(mine)
          if (others) throw this.#deniedAny(leases, holder)
        }
      }
      throw this.#exhausted('claim one of several, among them', leases[0] as string, { holder })
    })
  }

  /** Each holder begins at another place: those who come at once are not to meet at the first. */
  async #claimFreeOne(
    leases: readonly string[],
    request: Request,
    options: ClientCallOptions | undefined,
  ): Promise<string> {
    const from = placeOf(request.holder) % leases.length
    const order = [...leases.slice(from), ...leases.slice(0, from)]
    if (this.#client.claimAnyLease !== undefined) return this.#client.claimAnyLease(order, request, options)
    await this.#client.refresh(leases)
    const free = order.find((lease) => this.#holderOf(lease) === undefined)
    if (free === undefined || leases.some((lease) => this.#holderOf(lease) === request.holder)) {
      throw new ErrInvalid('nothing to claim: all of them are held, or one by this holder', { holder: request.holder })
    }
    await this.#client.claimLease(free, request, options)
    return free
  }

  /** By what the client knows; undefined: vacant, or lapsed. */
  #holderOf(lease: string): string | undefined {
    const info = this.#client.leases().get(lease)
    return info === undefined || this.#hasLapsed(info) ? undefined : info.holder
  }

  #deniedAny(leases: readonly string[], holder: string): ErrClaimDenied {
    let first: readonly [lease: string, info: Info] | undefined
    for (const lease of leases) {
      const info = this.#client.leases().get(lease)
      if (info !== undefined && (first === undefined || info.expiry < first[1].expiry)) first = [lease, info]
    }
    const [lease, info] = first ?? [leases[0] as string]
    if (this.events.heard('denied')) {
      this.events.emit({ type: 'denied', lease, holder, currentHolder: info?.holder })
    }
    const message = `all of ${leases.length} leases are held by others`
    return new ErrClaimDenied(message, { holder, expiry: info?.expiry })
  }

  #believe(lease: string, holder: string, sent: ClockReading, durationMs: number, renewed: boolean): Belief {
    // Another client's read may have replaced our entry since: then this term is over, and its token unknown (-1n).
    const info = this.#client.leases().get(lease)
    const fencingToken = info?.holder === holder ? info.fencingToken : -1n
    let belief = this.#beliefs.get(lease)
    if (belief !== undefined && belief.holder === holder && belief.fencingToken === fencingToken) {
      belief.extend(sent, durationMs)
    } else {
      for (const hold of this.#holds.of(lease)) if (hold.fencingToken !== fencingToken) hold.lose('taken')
      belief = new Belief(holder, fencingToken, sent, durationMs)
      this.#beliefs.set(lease, belief)
      if (this.#beliefs.size > this.#sweepAt) this.#sweep()
      this.#waitingRoom.lookForObservers(lease)
    }
    if (this.events.heard('claimed')) this.events.emit({ type: 'claimed', lease, holder, fencingToken, renewed })
    return belief
  }

  #denied(lease: string, holder: string, info: Info | undefined): ErrClaimDenied {
    const currentHolder = info?.holder
    if (this.events.heard('denied')) this.events.emit({ type: 'denied', lease, holder, currentHolder })
    const by = currentHolder === undefined ? 'another' : `"${currentHolder}"`
    return new ErrClaimDenied(`lease "${lease}" is held by ${by}`, {
      lease,
      holder,
      currentHolder,
      expiry: info?.expiry,
    })
  }

  #sweep(): void {
    const now = this.#recent.take()
    for (const [lease, belief] of this.#beliefs) if (!belief.trusted(now)) this.#beliefs.delete(lease)
    this.#sweepAt = Math.max(SWEEP_FLOOR, 2 * this.#beliefs.size)
  }

  // ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────

  readonly #checker = {
    check: async (lease: string, holder: string, trapdoorKey: unknown): Promise<Info> => {
      const believed = this.#believedInfo(lease, holder)
      if (believed !== undefined && !this.#stopping.signal.aborted) {
        if (trapdoorKey !== undefined) await believed.trapdoor(trapdoorKey)
        return believed
      }
      return this.#call(undefined, async () => {
        checkNames({ lease, holder })
        const doubts = this.#beliefs.get(lease)?.doubts ?? 0
        await this.#read(lease)
        const info = this.#client.leases().get(lease)
        if (info === undefined || info.holder !== holder || this.#hasLapsed(info)) {
          const reason = info === undefined || this.#hasLapsed(info) ? 'vacant' : `held by "${info.holder}"`
          throw new ErrNotHeld(`"${holder}" does not hold lease "${lease}": it is ${reason}`, { lease, holder, reason })
        }
        const belief = this.#beliefs.get(lease)
        if (belief?.fencingToken === info.fencingToken) belief.settle(doubts)
        if (trapdoorKey !== undefined) await info.trapdoor(trapdoorKey)
        return info
      })
    },
  }

  /** What is known of a lease that this process may rely on, granted here; undefined: ask. */
  #believedInfo(lease: string, holder: string): Info | undefined {
    const belief = this.#beliefs.get(lease)
    if (belief === undefined || belief.holder !== holder || belief.doubts > 0 || !belief.trusted(this.#time.read()))
      return undefined
    const info = this.#client.leases().get(lease)
    return info !== undefined && info.holder === holder && info.fencingToken === belief.fencingToken ? info : undefined
  }

  /**
   * Reads the lease. Those who ask before the read is sent share it; nobody is answered by a read that was sent before
   * he asked. Each lease is read by itself, so that none waits for or fails with another; the client coalesces.
   */
  #read(lease: string): Promise<void> {
    let read = this.#nextReads.get(lease)
    if (read === undefined) {
      read = Promise.resolve().then(() => {
        this.#nextReads.delete(lease)
        return this.#client.refresh([lease])
      })
      this.#nextReads.set(lease, read)
    }
    return read
  }

  /** Whether the lease is certainly not valid any more: strictly after its latest instant. */
  #hasLapsed(info: Info & Partial<TermAware>): boolean {
    if (info.isLapsed !== undefined) return info.isLapsed()
    return !info.pinned && this.#clock.now() > info.expiry.toMillis()
  }

  // ── release, revoke ───────────────────────────────────────────────────────────────────────────────────────────

  async #release(lease: string, holder: string, term?: bigint): Promise<void> {
    const turn = this.#lanes.enter(lease)
    if (turn !== undefined) await turn
    try {
      this.#stopping.signal.throwIfAborted()
      const known = this.#client.leases().get(lease)
      if (term !== undefined && known !== undefined && known.fencingToken > term) return // a later term is not ours to end
      // Whatever becomes of the request: from the moment it is sent, the lease may be another's.
      if (this.#beliefs.get(lease)?.holder === holder) this.#beliefs.delete(lease)
      for (const hold of this.#holds.of(lease))
        if (hold.holder === holder) hold.lose('revoked', 'its holder released the lease')
      try {
        await this.#vacate(lease, holder)
        this.events.emit({ type: 'released', lease, holder })
      } finally {
        this.#vacated(lease) // those who wait in this process need no hint from outside
      }
    } finally {
      this.#lanes.leave(lease)
    }
  }

  async #vacate(lease: string, holder: string): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      if (attempt > 2) await sleep(this.#clock, backoffMs(attempt - 2), this.#stopping.signal)
      try {
        await this.#client.releaseLease(lease, holder)
        return
      } catch (error) {
        if (!(error instanceof ErrInvalid)) throw error
        const info = this.#client.leases().get(lease)
        if (info === undefined || this.#hasLapsed(info)) return
        if (info.holder !== holder) {
          const reason = `held by "${info.holder}"`
          throw new ErrNotHeld(`"${holder}" cannot release lease "${lease}": it is ${reason}`, {
            lease,
            holder,
            reason,
          })
        }
        if (attempt >= MAX_ATTEMPTS) throw this.#exhausted('release', lease, { cause: error })
      }
    }
  }

  async #revoke(lease: string): Promise<void> {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      if (attempt > 2) await sleep(this.#clock, backoffMs(attempt - 2), this.#stopping.signal)
      await this.#read(lease)
      const info = this.#client.leases().get(lease)
      if (info === undefined || this.#hasLapsed(info)) return
      const { holder } = info
      if (this.#beliefs.get(lease)?.holder === holder) this.#beliefs.delete(lease)
      for (const hold of this.#holds.of(lease)) hold.lose('revoked')
      try {
        await this.#client.releaseLease(lease, holder)
      } catch (error) {
        if (error instanceof ErrInvalid) continue // it changed hands since the read
        throw error
      }
      this.events.emit({ type: 'revoked', lease, holder })
      this.#vacated(lease)
      return
    }
    throw this.#exhausted('revoke', lease)
  }

  #exhausted(doing: string, lease: string, more: LeaseErrorDetails = {}): ErrUnknown {
    const message = `could not ${doing} lease "${lease}": its state changed under each of ${MAX_ATTEMPTS} attempts`
    return new ErrUnknown(message, { lease, reason: 'retries exhausted', ...more })
  }

  // ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Claims until the grant can be relied on: an answer that took longer than the lease is worth nothing. */
  async #acquire(contention: Contention, signal: AbortSignal | undefined, turn?: Turn): Promise<Hold> {
    const { leases, holder, options } = contention
    const { durationMs, renewEveryMs, value, announce } = options
    const request: ClaimRequest = { holder, durationMs, value, announce, signal, turn }
    const only = leases[0] as string
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const [lease, belief] =
        leases.length > 1 ? await this.#claimAny(leases, request) : [only, await this.#claim(only, request)]
      this.#stopping.signal.throwIfAborted()
      if (signal?.aborted === true) {
        await this.#release(lease, holder, belief.fencingToken).catch(() => {}) // it lapses by itself
        throw signal.reason
      }
      if (!belief.trusted(this.#recent.take()) || belief.fencingToken < 0n) continue
      this.#subscribe() // a hold wants to hear at once that it was revoked
      const hold = new ManagedHold(this.#keeper, lease, belief, { durationMs, renewEveryMs })
      this.#holds.add(hold)
      if (this.#vigil.wakeAtMs === -1) this.#keepVigil()
      return hold
    }
    throw new ErrUnknown(
      `could not hold lease "${only}": each of ${MAX_ATTEMPTS} grants took longer to arrive than its ${durationMs} ms`,
      { lease: only, holder, reason: 'retries exhausted' },
    )
  }

  #makeKeeper(): HoldKeeper {
    return {
      recent: this.#recent,
      agenda: this.#agenda,
      maxSleepMs: this.#maxSleepMs,
      token: (lease, holder) => this.token(lease, holder),
      now: () => this.#now(),
      due: (hold, now) => this.#renewals.due(hold, now),
      extend: (hold, now) => {
        const extension = new Extension(this.#desk, hold, undefined, hold, this.#renewals.done)
        extension.begin(now)
        return extension
      },
      reread: async (hold) => {
        await this.#read(hold.lease)
        return this.#lossOf(hold)
      },
      release: (hold) => this.#call(undefined, () => this.#release(hold.lease, hold.holder, hold.fencingToken)),
      update: (hold, value) => this.#call(undefined, () => this.#update(hold, value)),
      ended: (hold, loss) => this.#ended(hold, loss),
      retrying: ({ lease }, cause) => this.events.emit({ type: 'retrying', lease, doing: 'renewal', cause }),
      checkValue: (value) => {
        const rule = brokenValueRule(value)
        if (rule !== undefined) throw notValid([{ argument: 'value', rule, value }])
      },
    }
  }

  async #update(hold: ManagedHold, value: string | undefined): Promise<LossReason | undefined> {
    const { lease, holder } = hold
    try {
      return await new Promise((resolve, reject) => {
        const listener = {
          extended: (_: Extension, loss?: LossReason) => resolve(loss),
          failed: (_: Extension, error: unknown) => reject(error),
        }
        new Extension(this.#desk, hold, value, listener).begin()
      })
    } catch (error) {
      if (!(error instanceof ErrInvalid)) throw error
      throw new ErrUnknown(`could not update lease "${lease}": it was refused although the term stands`, {
        lease,
        holder,
        cause: error,
      })
    }
  }

  /** Why this term is over by what the client knows, or undefined when it stands. */
  #lossOf({ lease, holder, belief }: HeldTerm): LossReason | undefined {
    const info = this.#client.leases().get(lease)
    if (info === undefined || this.#hasLapsed(info)) return belief.trusted(this.#recent.take()) ? 'revoked' : 'expired'
    return info.holder === holder && info.fencingToken === belief.fencingToken ? undefined : 'taken'
  }

  #ended(hold: ManagedHold, loss: ErrLost | undefined): void {
    const { lease, holder, fencingToken, belief } = hold
    this.#holds.remove(hold)
    if (this.#holds.size === 0) this.#agenda.off(this.#vigil)
    if (this.#beliefs.get(lease) === belief) this.#beliefs.delete(lease)
    if (loss === undefined) return
    this.events.emit({ type: 'lost', lease, holder, fencingToken, reason: loss.reason })
    this.#vacated(lease)
  }

  #keepVigil(now: ClockReading = this.#time.read()): void {
    this.#clocksApartMs = now.atMostMs - now.monotonicMs
    this.#agenda.at(this.#vigil, Math.ceil(now.monotonicMs + VIGIL_MS))
  }

  #compareClocks(): void {
    const before = this.#clocksApartMs
    const now = this.#time.read()
    this.#keepVigil(now)
    if (this.#clocksApartMs - before <= 1) return
    for (const hold of this.#holds.all()) hold.wake(now)
  }

  #makeWaitingRoom(): WaitingRoom {
    return new WaitingRoom({
      clock: this.#clock,
      agenda: this.#agenda,
      maxSleepMs: this.#maxSleepMs,
      known: (lease) => this.#client.leases().get(lease),
      hasLapsed: (info) => this.#hasLapsed(info),
      read: (lease) => this.#read(lease),
      isHeldHere: (lease, butNotBy) => this.#holds.of(lease).some((hold) => hold.held && hold.holder !== butNotBy),
      acquire: (contention, signal, turn) => this.#acquire(contention, signal, turn),
      denied: ({ leases, holder }) => {
        if (leases.length > 1) return this.#deniedAny(leases, holder)
        const lease = leases[0] as string
        const info = this.#client.leases().get(lease)
        return this.#denied(lease, holder, info?.holder === holder ? undefined : info)
      },
      retrying: (lease, doing, cause) => this.events.emit({ type: 'retrying', lease, doing, cause }),
    })
  }

  // ── hints ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #subscribe(): void {
    this.#unsubscribe ??= this.#client.subscribe((change) => this.#hinted(change))
  }

  #hinted(change: LeaseChange): void {
    if (change.kind === 'resync') {
      this.#waitingRoom.lookAtAll()
      for (const hold of this.#holds.all()) hold.suspect()
    } else if (change.kind === 'vacated') {
      this.#beliefs.get(change.lease)?.doubt()
      this.#vacated(change.lease)
    } else if (change.kind === 'taken') this.#waitingRoom.taken(change)
    else this.#waitingRoom.lookForObservers(change.lease)
  }

  /** The lease may be free: whoever waits for it looks, and whoever holds it here makes sure. */
  #vacated(lease: string): void {
    if (this.#stopping.signal.aborted) return
    this.#waitingRoom.look(lease)
    for (const hold of this.#holds.of(lease)) hold.suspect()
  }
}

/** A call whose promise is pending, and how to reject it. */
interface CallInFlight {
  /** In the array of all of them. */
  place: number
  readonly fail: (error: unknown) => void
}

const OVER = -1

/** What else belongs to the end of a call. */
interface Ending<T> {
  /** Tidies up, whatever the end; with the error if that is what it was. */
  readonly atEnd?: (error?: unknown) => void
  /** Takes a result that came after the caller had gone. */
  readonly unwanted?: (value: T) => void
}

/** A number that is the same for the same name, and for others likely another. */
function placeOf(name: string): number {
  let place = 0
  for (let index = 0; index < name.length; index++) place = (place * 31 + name.charCodeAt(index)) >>> 0
  return place
}

function nothing(): void {}

function giveBack(hold: Hold): void {
  hold.release().catch(() => {}) // it lapses by itself
}

interface ClaimRequest {
  readonly holder: string
  readonly durationMs: number
  readonly value: string | undefined
  readonly announce: boolean | undefined
  readonly signal: AbortSignal | undefined
  /** Of one who waits in line. */
  readonly turn?: Turn | undefined
}
