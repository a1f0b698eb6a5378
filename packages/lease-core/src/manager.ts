/**
 * The Manager: many callers, one Client, few round trips. No caller relies on a lease for longer than is safe.
 *
 * Assumptions. The Client keeps its contract (`client.ts`); clock *rates* agree to 0.1 % (`skew.ts`). Nothing is assumed about clock
 * readings, about how long an answer takes, or about how long this process is paused.
 *
 * Promises.
 * - When a claim resolves, the holder has the lease for at least `duration` from the start of the call. A denial is the store's own answer,
 *   never a stale snapshot. Any other outcome is `ErrUnknown`.
 * - Every Hold, claim and token relies on one term of its lease (`term.ts`). A term that was released or revoked never counts again. A lost
 *   Hold is never held again.
 * - A check inside the trust window of a grant of this process sends nothing, unless a hint said that the lease was vacated. Any other check
 *   sends exactly one read, over the connection of its trapdoor key if that is one.
 * - The signal of a Hold aborts no later than its trust window ends.
 * - Operations that open or end a term of one lease run one after another. Operations on different leases do not wait for each other, nor
 *   fail together. Renewals wait for nothing.
 * - A waiter wakes by a hint of the substrate, and by a timer at the known expiry. What it waits for is read after every (re)subscription,
 *   and at least every `maxSleep`. A hint only causes a read; it decides nothing.
 *
 * State, all of it per lease: the terms of this process (`terms.ts`), its Holds (`hold.ts`), its waiters (`wait-queue.ts`), and the calls
 * in flight (`calls.ts`).
 *
 * Failure. An unexpected error rejects only its own call. Renewals and waits in the background are retried until they succeed or their time
 * is over; each failure is a `retrying` event.
 *
 * After juju `worker/lease` (claims, tokens, one loop), with renewals and waits added.
 */
import type { DurationLike } from 'luxon'
import { abortController } from './abort-signal.ts'
import { backoffMs } from './backoff.ts'
import { Calls, type CallEnd } from './calls.ts'
import { Claims, exhausted, hasLapsed, MAX_ATTEMPTS, type ClaimRequest } from './claims.ts'
import { isSound, type Client, type CountedClient, type CountedInfo, type LeaseChange } from './client.ts'
import { sleep, systemClock, type Clock } from './clock.ts'
import type { ClockReading } from './elapsed-time.ts'
import { ErrInvalid, ErrNotHeld, ErrStopped, ErrUnknown, notValid } from './errors.ts'
import type { ErrLost, LossReason, Problem } from './errors.ts'
import { LeaseEvents, type StoreName } from './events.ts'
import { abandon, ManagedHold, type Hold, type Extended, type HoldHost } from './hold.ts'
import {
  bareNumberWarning,
  brokenNameRule,
  brokenNames,
  brokenPlainNames,
  checkNames,
  checkRequest,
  readLeases,
} from './lease.ts'
import type { Info, TermAware } from './lease.ts'
import type { WaitRequest } from './lease-waiters.ts'
import { brokenCapacityRule, countedName, countedOf } from './share.ts'
import { Observation } from './observation.ts'
import { readOptions } from './option-reader.ts'
import { parseHoldOptions, parseManagerConfig, parseObserveOptions, type ParsedHoldOptions } from './options.ts'
import { Renewals } from './renewals.ts'
import { Reports } from './reports.ts'
import { Resyncs } from './resyncs.ts'
import type {
  Checker,
  Claimer,
  ClaimOptions,
  Counter,
  DefineOptions,
  HoldOptions,
  ObserveOptions,
  OperationOptions,
  Pinner,
  Reader,
  Releaser,
  RevokeOptions,
  WaitOptions,
} from './roles.ts'
import { TermRenewal, type RenewalHost } from './term-renewal.ts'
import type { Ticket } from './ticket.ts'
import type { Term, TermEnd } from './term.ts'
import { Terms } from './terms.ts'
import { LeaseToken, type Token, type TokenChecker } from './token.ts'
import { traces, withoutContext, type ClaimTrace } from './tracing.ts'
import { WaitQueue } from './wait-queue.ts'

/** Options of a Manager. */
export interface ManagerConfig {
  /** The client of one namespace of a store. Managers over one client share the terms of this process. The Manager does not close it. */
  readonly client: Client
  /** For tests. The same for all managers over one client. @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Where events are emitted. @default a stream of its own: `manager.events` */
  readonly events?: LeaseEvents | undefined
  /**
   * The longest time without a read of a lease that is held or awaited; at most a minute for an awaited one. A
   * number is in milliseconds.
   *
   * @default 1 minute
   */
  readonly maxSleep?: DurationLike | undefined
}

const OPERATION_OPTIONS: readonly (keyof OperationOptions)[] = ['signal']
const CLAIM_OPTIONS: readonly (keyof ClaimOptions)[] = ['signal', 'value', 'announce']
const DEFINE_OPTIONS: readonly (keyof DefineOptions)[] = ['signal', 'from']
const REVOKE_OPTIONS: readonly (keyof RevokeOptions)[] = ['signal', 'fencingToken']

/** Claims, checks, holds, observes and releases the leases of one client: see the head of this file. */
export class Manager implements Claimer, Checker, Releaser, Pinner, Counter, Reader, AsyncDisposable {
  /** The events of this manager, for logs and metrics, and the warnings of its client. */
  readonly events: LeaseEvents
  readonly #client: Client
  /** Where its leases are, as events name it. undefined: the client does not say. */
  readonly store: StoreName | undefined
  readonly #reports: Reports
  readonly #clock: Clock
  readonly #maxSleepMs: number
  readonly #terms: Terms
  readonly #claims: Claims
  readonly #renewals: Renewals
  readonly #holdHost: HoldHost
  readonly #renewalHost: RenewalHost
  readonly #waitQueue: WaitQueue
  readonly #resyncs: Resyncs
  /** Reads that are about to be sent. */
  readonly #nextReads = new Map<string, Promise<void>>()
  readonly #stopping = abortController() // every claim that pauses listens to it
  readonly #calls = new Calls(this.#stopping.signal)
  #unsubscribe: (() => void) | undefined
  #isWarnedOfBareNumber = false
  readonly #endWarnings: () => void

  /** @throws ErrNotValid with every problem */
  constructor(config: ManagerConfig) {
    const { client, clock, events, maxSleepMs } = parseManagerConfig(config)
    this.#client = client
    this.store = client.store
    this.#clock = clock ?? systemClock
    this.events = events ?? new LeaseEvents()
    this.#endWarnings = warningsOf(client, this.events)
    this.#maxSleepMs = maxSleepMs
    this.#terms = Terms.join(client, this.#clock)
    this.#reports = new Reports({
      manager: this,
      events: this.events,
      store: this.store,
      clock: this.#clock,
      now: () => this.#terms.now(),
    })
    this.#renewals = new Renewals(this.#terms.timers, () => this.#terms.now())
    this.#claims = new Claims({
      client,
      clock: this.#clock,
      events: this.events,
      store: this.store,
      stopping: this.#stopping.signal,
      terms: this.#terms,
      leaveQueue: (lease, ticket) => this.#leaveQueue(lease, ticket),
      opened: ({ lease }) => this.#waitQueue.changed(lease),
    })
    this.#renewalHost = {
      client,
      stopping: this.#stopping.signal,
      margin: (term) => this.#reports.margin(term),
      lossOf: (term) => this.#lossOf(term),
    }
    this.#holdHost = this.#makeHoldHost()
    this.#waitQueue = this.#makeWaitQueue()
    this.#resyncs = new Resyncs(this.#clock, this.#terms.timers, () => {
      this.#reports.resync()
      this.#waitQueue.lookAtAll()
      for (const term of this.#terms.held()) this.#holdsOf(term)[0]?.suspect()
    })
  }

  claim(lease: string, holder: string, duration: DurationLike, options: ClaimOptions = {}): Promise<Token> {
    if (!traces.claim.hasSubscribers) return this.#claim(lease, holder, duration, options)
    const about = { call: 'claim', leases: [lease], holder, waits: false } as const
    return this.#reports.claim(about, (trace) => this.#claim(lease, holder, duration, options, trace))
  }

  #claim(
    lease: string,
    holder: string,
    duration: DurationLike,
    options: ClaimOptions,
    trace?: ClaimTrace,
  ): Promise<Token> {
    let granted: Term | undefined
    const body = ({ signal, value, announce }: ClaimOptions): Promise<Token> => {
      const durationMs = checkRequest(lease, { holder, duration, value, announce })
      this.#warnOfBareNumber(duration)
      const rule = brokenNameRule(lease)
      if (rule !== undefined) throw notValid([{ argument: 'lease', rule, value: lease }], { lease, holder })
      const request = { holder, durationMs, value, announce, signal, trace }
      return this.#claims.one(lease, request, (term) => {
        term.addClaim()
        granted = term
        return this.#tokenOf(term)
      })
    }
    const onOrphanedResult = (): void => {
      granted?.removeClaim()
      this.#giveBack(granted)
    }
    return this.#start(options, CLAIM_OPTIONS, body, { onOrphanedResult })
  }

  token(lease: string, holder: string): Token {
    return new LeaseToken({ lease, holder }, this.#checker)
  }

  #tokenOf(term: Term): Token {
    return new LeaseToken(term, this.#checker, term)
  }

  waitUntilExpired(lease: string, options: WaitOptions = {}): Promise<void> {
    let leave = (): void => {}
    return this.#start(
      options,
      OPERATION_OPTIONS,
      () => {
        checkNames({ lease })
        this.#subscribe()
        const waiting = this.#waitQueue.wait(lease)
        leave = waiting.leave
        return waiting.outcome
      },
      { atEnd: () => leave() },
    )
  }

  release(lease: string, holder: string, options: OperationOptions = {}): Promise<void> {
    if (!traces.release.hasSubscribers) return this.#releaseByName(lease, holder, options)
    const about = { call: 'release', lease, holder } as const
    return this.#reports.release(about, () => this.#releaseByName(lease, holder, options))
  }

  #releaseByName(lease: string, holder: string, options: OperationOptions): Promise<void> {
    return this.#start(options, OPERATION_OPTIONS, ({ signal }) => {
      checkNames({ lease, holder })
      return this.#inTurn(lease, signal, () => this.#release(lease, holder, signal))
    })
  }

  revoke(lease: string, options: RevokeOptions = {}): Promise<void> {
    if (!traces.release.hasSubscribers) return this.#revokeByName(lease, options)
    const about = { call: 'revoke', lease, holder: undefined } as const
    return this.#reports.release(about, () => this.#revokeByName(lease, options))
  }

  #revokeByName(lease: string, options: RevokeOptions): Promise<void> {
    return this.#start(options, REVOKE_OPTIONS, ({ signal, fencingToken }) => {
      checkNames({ lease })
      checkFencingToken(fencingToken)
      return this.#inTurn(lease, signal, () => this.#revoke(lease, fencingToken, signal))
    })
  }

  pin(lease: string, entity: string, options: OperationOptions = {}): Promise<void> {
    return this.#start(options, OPERATION_OPTIONS, ({ signal }) => {
      checkNames({ lease, entity })
      return this.#inTurn(lease, signal, () => this.#client.pinLease(lease, entity, { signal }))
    })
  }

  unpin(lease: string, entity: string, options: OperationOptions = {}): Promise<void> {
    return this.#start(options, OPERATION_OPTIONS, ({ signal }) => {
      checkNames({ lease, entity })
      return this.#inTurn(lease, signal, () => this.#client.unpinLease(lease, entity, { signal }))
    })
  }

  define(name: string, capacity: number | undefined, options: DefineOptions = {}): Promise<string> {
    return this.#start(options, DEFINE_OPTIONS, ({ signal, from }) => {
      const rule = capacity === undefined ? undefined : brokenCapacityRule(capacity)
      const problems = [...brokenPlainNames({ name })]
      if (rule !== undefined) problems.push({ argument: 'capacity', rule, value: capacity })
      if (from !== undefined && typeof from !== 'string') {
        problems.push({ argument: 'from', rule: 'must be the generation of a definition', value: from })
      }
      if (problems.length > 0) throw notValid(problems)
      return this.#countedClient().define(countedName(name), { capacity, from }, { signal })
    })
  }

  counted(name: string, options: OperationOptions = {}): Promise<CountedInfo> {
    return this.#start(options, OPERATION_OPTIONS, async () => {
      const problems = brokenPlainNames({ name })
      if (problems.length > 0) throw notValid(problems)
      const { shares, ...definition } = await this.#countedClient().read(countedName(name))
      for (const share of shares.keys()) this.#wasRead(share)
      return { ...definition, shares: new Map([...shares].filter(([, info]) => !hasLapsed(info, this.#clock))) }
    })
  }

  /** @throws ErrNotValid */
  #countedClient(): CountedClient {
    const { counted } = this.#client
    if (counted !== undefined) return counted
    throw notValid([{ argument: 'client', rule: 'must keep counted leases, for shares of them', value: this.#client }])
  }

  pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#calls.start(undefined, () => this.#client.pinned())
  }

  find(lease: string, options: OperationOptions = {}): Promise<Info | undefined> {
    return this.#start(options, OPERATION_OPTIONS, async () => {
      checkNames({ lease })
      await this.#read(lease)
      const info = this.#client.leases().get(lease)
      return info === undefined || hasLapsed(info, this.#clock) ? undefined : info
    })
  }

  waiting(lease: string, options: OperationOptions = {}): Promise<number | undefined> {
    return this.#start(options, OPERATION_OPTIONS, async () => {
      checkNames({ lease })
      return await this.#client.waiting?.(lease)
    })
  }

  leases(): Promise<ReadonlyMap<string, Info>> {
    return this.#calls.start(undefined, async () => {
      await this.#client.refresh()
      for (const term of [...this.#terms.held()]) this.#reconcile(term)
      const held = new Map<string, Info>()
      this.#client.leases().forEach((info, lease) => {
        if (!hasLapsed(info, this.#clock)) held.set(lease, info)
      })
      return held
    })
  }

  observe(lease: string, options: ObserveOptions = {}): AsyncGenerator<Info | undefined, never, void> {
    return new Observation({
      clock: this.#clock,
      check: () => parseObserveOptions(options, brokenNames({ lease })),
      call: (signal, body) => this.#calls.start(signal, body),
      enter: (report, fail) => {
        this.#subscribe()
        return this.#waitQueue.observe(lease, report, fail)
      },
    })
  }

  /**
   * Claims the lease, and renews it until it is released or lost. With `wait` it waits until the lease is granted.
   *
   * @throws ErrClaimDenied another holds it, or still did when `wait` ran out: the store has answered since the call, and no claim is in
   *                        flight. Or this process has a Hold of it for this holder, and not both Holds are `shared`
   * @throws ErrInvalid     of a share: the counted lease is not defined, or has another capacity
   * @throws ErrNotValid    an argument breaks a rule; nothing was sent
   * @throws ErrStopped     the manager was stopped
   * @throws ErrUnknown     the lease may have been granted, or the store did not answer before `wait` ran out. A grant is withdrawn if
   *                        possible; otherwise it expires
   */
  hold(lease: string, holder: string, options: HoldOptions): Promise<Hold> {
    let parsed: ParsedHoldOptions
    try {
      parsed = parseHoldOptions(options, brokenPlainNames({ lease, holder }))
      if (parsed.share !== undefined) this.#countedClient()
    } catch (error) {
      return Promise.reject(error)
    }
    const name = parsed.share === undefined ? lease : countedName(lease)
    return this.#holdOne({ leases: [name], holder, options: parsed }, 'hold')
  }

  /**
   * Claims any one of these leases, at most 128, and renews it as `hold` does; `hold.lease` says which one. If this holder has one of them
   * already, that one is extended, and no second one is claimed. Two processes with one holder name may get two leases.
   *
   * @throws ErrClaimDenied others hold all of them, or still did when `wait` ran out; or as in `hold`
   * @throws ErrNotValid    an argument breaks a rule; nothing was sent
   * @throws ErrStopped     the manager was stopped
   * @throws ErrUnknown     one may have been granted
   */
  holdAny(leases: readonly string[], holder: string, options: HoldOptions): Promise<Hold> {
    const { names, problems } = readLeases(leases)
    let parsed: ParsedHoldOptions
    try {
      parsed = parseHoldOptions(options, [...problems, ...brokenNames({ holder })])
      const { share } = parsed
      if (share !== undefined)
        throw notValid([{ argument: 'share', rule: 'is not an option of holdAny', value: share }])
    } catch (error) {
      return Promise.reject(error)
    }
    return this.#holdOne({ leases: names, holder, options: parsed }, 'holdAny')
  }

  /** Once. */
  #warnOfBareNumber(duration: unknown): void {
    const message = this.#isWarnedOfBareNumber ? undefined : bareNumberWarning(duration)
    if (message === undefined) return
    this.#isWarnedOfBareNumber = true
    this.events.emit({ type: 'warning', ...this.store, warning: 'few-milliseconds', message, page: 'docs/setup.md' })
  }

  #holdOne(request: WaitRequest, call: 'hold' | 'holdAny'): Promise<Hold> {
    if (!traces.claim.hasSubscribers) return this.#beginHold(request)
    const { leases, holder, options } = request
    const about = { call, leases, holder, waits: options.waitMs > 0 }
    return this.#reports.claim(about, (trace) => this.#beginHold({ ...request, trace }))
  }

  #beginHold(request: WaitRequest): Promise<Hold> {
    const { signal, waitMs, givenDuration } = request.options
    this.#warnOfBareNumber(givenDuration)
    const onOrphanedResult = (hold: Hold): void => abandon(hold)
    if (waitMs === 0) {
      return this.#calls.start(signal, () => this.#acquire(request, signal), { onOrphanedResult })
    }
    let leave: ((error: unknown) => void) | undefined
    return this.#calls.start(
      signal,
      () => {
        this.#subscribe()
        const waiting = this.#waitQueue.contend(request)
        leave = waiting.leave
        return waiting.outcome
      },
      { atEnd: (error) => leave?.(error), onOrphanedResult },
    )
  }

  /**
   * Ends all background work. Calls in flight reject with `ErrStopped`, and so does every later call. Live Holds are lost (`unreachable`):
   * they abort and are no longer renewed. Nothing is released in the store: release your Holds first, or their leases stay held until they
   * expire. The client stays open; close it yourself. Idempotent.
   */
  stop(): Promise<void> {
    if (this.#stopping.signal.aborted) return Promise.resolve()
    const stopped = new ErrStopped('the manager was stopped')
    this.#stopping.abort(stopped)
    this.#unsubscribe?.()
    this.#unsubscribe = undefined
    this.#endWarnings()
    const end = { reason: 'unreachable', detail: 'the manager was stopped', cause: stopped } as const
    for (const term of [...this.#terms.held()]) {
      for (const hold of this.#holdsOf(term)) hold.termEnded(end)
      if (!term.isHeld) this.#terms.end(term, end)
    }
    this.#waitQueue.close(stopped)
    this.#terms.timers.off(this.#resyncs)
    this.#calls.failAll(stopped)
    this.#terms.leaveRegistry()
    return Promise.resolve()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** A call, unless its options are none of its own. */
  #start<O extends OperationOptions, T>(
    options: O,
    known: readonly string[],
    body: (options: O) => Promise<T>,
    end?: CallEnd<T>,
  ): Promise<T> {
    try {
      const { read, problems } = readOptions(options, known)
      if (problems.length > 0) throw notValid(known === CLAIM_OPTIONS ? problems.map(unlessItWaits) : problems)
      return this.#calls.start(read.signal, () => body(read), end)
    } catch (error) {
      return this.#calls.start(undefined, () => Promise.reject(error))
    }
  }

  /** Runs the body when it is its turn on the lease. */
  async #inTurn<T>(lease: string, signal: AbortSignal | undefined, body: () => Promise<T>): Promise<T> {
    const turn = this.#terms.enter(lease)
    if (turn !== undefined) await turn
    try {
      this.#stopping.signal.throwIfAborted()
      if (signal?.aborted === true) throw signal.reason
      return await body()
    } finally {
      this.#terms.leave(lease)
    }
  }

  // ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────

  readonly #checker: TokenChecker = {
    check: (named, term, trapdoorKey) => {
      if (!traces.check.hasSubscribers) return this.#check(named, term, trapdoorKey)
      const about = { lease: named.lease, holder: named.holder, key: trapdoorKey }
      return this.#reports.check(about, () => this.#check(named, term, trapdoorKey))
    },
  }

  /** Where this process relies on a grant of its own, and there is no key, this makes a promise and nothing else. */
  #check(
    named: { readonly lease: string; readonly holder: string },
    term: Term | undefined,
    trapdoorKey: unknown,
  ): Promise<Info> {
    try {
      const trusted = this.#stopping.signal.aborted ? undefined : this.#trustedInfo(named.lease, named.holder, term)
      if (trusted !== undefined && trapdoorKey === undefined) return Promise.resolve(trusted)
      return this.#checkInStore(named, term, { trusted, trapdoorKey })
    } catch (error) {
      return Promise.reject(error) // a client of somebody else threw
    }
  }

  async #checkInStore(
    { lease, holder }: { readonly lease: string; readonly holder: string },
    term: Term | undefined,
    { trusted, trapdoorKey }: { readonly trusted: Info | undefined; readonly trapdoorKey: unknown },
  ): Promise<Info> {
    const info = trusted ?? (await this.#calls.start(undefined, () => this.#ask({ lease, holder }, term, trapdoorKey)))
    if (info instanceof KeyFailure) throw info.error
    if (trapdoorKey !== undefined) await this.#pass(lease, info, trapdoorKey)
    return info
  }

  /** @param named the term that must stand; undefined: any of this holder */
  async #ask(
    { lease, holder }: { readonly lease: string; readonly holder: string },
    named: Term | undefined,
    trapdoorKey: unknown,
  ): Promise<Info | KeyFailure> {
    checkNames({ lease, holder })
    if (isOver(named)) throw notHeld(lease, holder, 'its term is over')
    const suspicions = this.#terms.get(lease)?.suspicions ?? 0
    const isRead = await this.#readOver(lease, trapdoorKey)
    if (isRead instanceof KeyFailure) return isRead
    if (!isRead) await this.#read(lease)
    const info: (Info & Partial<TermAware>) | undefined = this.#client.leases().get(lease)
    if (info === undefined || hasLapsed(info, this.#clock)) throw notHeld(lease, holder, 'it is vacant')
    if (info.holder !== holder) throw notHeld(lease, holder, `it is held by "${info.holder}"`)
    const latest = this.#terms.latest(lease)
    const isOther = named !== undefined && named.fencingToken !== info.fencingToken
    if (isOther || isOver(named) || (latest !== undefined && isOver(latest) && isOf(info, latest))) {
      throw notHeld(lease, holder, 'its term is over')
    }
    if (latest?.fencingToken === info.fencingToken) latest.confirm(suspicions)
    return info
  }

  /** What is known of a lease that this process may rely on, granted here; undefined: ask. */
  #trustedInfo(lease: string, holder: string, named: Term | undefined): Info | undefined {
    const term = this.#terms.get(lease)
    if (term === undefined || term.holder !== holder || (named !== undefined && named !== term)) return undefined
    if (term.suspicions > 0 || !term.isTrusted(this.#terms.readClock())) return undefined
    const info = this.#client.leases().get(lease)
    return info !== undefined && info.holder === holder && info.fencingToken === term.fencingToken ? info : undefined
  }

  /** Calls the trapdoor. Where a guard finds the term gone, the Holds of the lease read it again. */
  async #pass(lease: string, info: Info, trapdoorKey: unknown): Promise<void> {
    try {
      await info.trapdoor(trapdoorKey)
    } catch (error) {
      if (error instanceof ErrNotHeld) this.#suspect(lease)
      throw error
    }
  }

  /**
   * Reads the lease. Calls before the read is sent share it; no call is answered by a read that was sent before it. Each lease is read by
   * itself, so that no lease waits for or fails with another; the client coalesces the reads.
   */
  #read(lease: string): Promise<void> {
    let read = this.#nextReads.get(lease)
    if (read === undefined) {
      read = Promise.resolve().then(() => {
        this.#nextReads.delete(lease)
        return this.#client.refresh([lease])
      })
      void read.then(() => this.#wasRead(lease), nothing)
      this.#nextReads.set(lease, read)
    }
    return read
  }

  async #watch(lease: string, watcher: object): Promise<void> {
    if (countedOf(lease) === lease) return void (await this.#countedClient().read(lease))
    if (this.#client.unwatch === undefined) return this.#read(lease)
    await this.#client.refresh([lease], { watcher })
    this.#wasRead(lease)
  }

  /** Reads the lease over the connection that the key is, if it is one. */
  async #readOver(lease: string, trapdoorKey: unknown): Promise<boolean | KeyFailure> {
    if (trapdoorKey === undefined || this.#client.refreshOver === undefined) return false
    try {
      if (!(await this.#client.refreshOver(lease, trapdoorKey))) return false
    } catch (error) {
      return new KeyFailure(error)
    }
    this.#wasRead(lease)
    return true
  }

  /** What the read found may end the term that lives here, or make the next look of a waiter due earlier. */
  #wasRead(lease: string): void {
    const term = this.#terms.get(lease)
    if (term?.isHeld === true) this.#reconcile(term)
    this.#waitQueue.known(lease)
  }

  #reconcile(term: Term): void {
    const loss = this.#lossOf(term)
    if (loss !== undefined) this.#terms.end(term, { reason: loss })
  }

  // ── release, revoke ───────────────────────────────────────────────────────────────────────────────────────────

  /** By name: the term that lives here, or else the one that the store shows. */
  async #release(lease: string, holder: string, signal: AbortSignal | undefined): Promise<void> {
    const term = this.#terms.get(lease)
    if (term?.holder === holder) return this.#releaseTerm(term, signal)
    for (let attempt = 1; ; attempt++) {
      if (attempt > 2) await sleep(this.#clock, backoffMs(attempt - 2), this.#stopping.signal)
      try {
        await this.#client.releaseLease(lease, holder, { signal })
        break
      } catch (error) {
        if (!(error instanceof ErrInvalid)) throw error
        const info = this.#client.leases().get(lease)
        if (info === undefined || hasLapsed(info, this.#clock)) break
        if (info.holder !== holder) throw notReleased(lease, holder, info.holder)
        if (attempt >= MAX_ATTEMPTS) throw exhausted('release', lease, { cause: error })
      }
    }
    this.#reports.released(lease, holder)
    this.#terms.vacated(lease)
  }

  /** From the moment the request is sent the lease may be another's, whatever becomes of the request. */
  async #releaseTerm(term: Term, signal?: AbortSignal): Promise<void> {
    const { lease, holder, fencingToken } = term
    this.#terms.end(term, RELEASED)
    try {
      try {
        await this.#client.releaseLease(lease, holder, { term, signal })
      } catch (error) {
        if (!(error instanceof ErrInvalid)) throw error
        const info = this.#client.leases().get(lease)
        this.#terms.forget(term)
        if (info !== undefined && !hasLapsed(info, this.#clock)) {
          const isSame = info.holder === holder && info.fencingToken === fencingToken
          throw notReleased(lease, holder, isSame ? undefined : info.holder)
        }
      }
      this.#terms.forget(term)
      this.#reports.released(lease, holder, term)
    } finally {
      this.#terms.vacated(lease) // waiters of this process need no hint of the store
    }
  }

  async #revoke(lease: string, fencingToken: bigint | undefined, signal: AbortSignal | undefined): Promise<void> {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      if (attempt > 2) await sleep(this.#clock, backoffMs(attempt - 2), this.#stopping.signal)
      await this.#read(lease)
      if (signal?.aborted === true) throw signal.reason
      const info: (Info & Partial<TermAware>) | undefined = this.#client.leases().get(lease)
      if (info === undefined || hasLapsed(info, this.#clock)) return
      if (fencingToken !== undefined && info.fencingToken !== fencingToken) return // that term is over
      const { holder } = info
      const term = this.#terms.get(lease)
      if (term?.fencingToken === info.fencingToken) this.#terms.end(term, REVOKED)
      try {
        await this.#client.releaseLease(lease, holder, {
          // By its nonce as well: one that is late must not end the term after an adoption that this process relies on.
          term: { fencingToken: info.fencingToken, nonce: info.nonce },
          signal,
        })
      } catch (error) {
        if (error instanceof ErrInvalid) continue // it changed hands since the read
        throw error
      }
      const latest = this.#terms.latest(lease)
      if (latest?.ended !== undefined) this.#terms.forget(latest)
      this.#reports.revoked(lease, holder)
      this.#terms.vacated(lease)
      return
    }
    throw exhausted('revoke', lease)
  }

  // ── holds ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Claims until the grant can be relied on: an answer that took longer than the lease is worth nothing. */
  async #acquire(request: WaitRequest, signal: AbortSignal | undefined, ticket?: Ticket): Promise<Hold> {
    const { leases, holder, options } = request
    const { trace } = request
    const { durationMs, value, announce, maxWaiters, share } = options
    const admit = (lease: string): void => this.#admit(lease, request)
    const waiter = options.waitMs > 0 ? request : undefined
    const claim: ClaimRequest = {
      holder,
      durationMs,
      value,
      announce,
      signal,
      share,
      ticket,
      maxWaiters,
      waiter,
      trace,
      admit,
    }
    const only = share === undefined ? (leases[0] as string) : `${leases[0]}${holder}`
    const granted = (term: Term, sent: ClockReading): Hold | undefined => this.#held(term, sent, options, signal)
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const hold =
        leases.length > 1
          ? await this.#claims.any(leases, claim, granted)
          : await this.#claims.one(only, claim, granted)
      if (hold !== undefined) return hold
      this.#stopping.signal.throwIfAborted()
      if (signal?.aborted === true) throw signal.reason
    }
    throw new ErrUnknown(
      `could not hold lease "${only}": each of ${MAX_ATTEMPTS} grants took longer to arrive than its ${durationMs} ms`,
      { lease: only, holder, reason: 'retries exhausted' },
    )
  }

  /** One process holds a term once, unless all who hold it agree to share it. */
  #admit(lease: string, request: WaitRequest): void {
    const { holder, options } = request
    const term = this.#terms.get(lease)
    if (term === undefined || term.holder !== holder || !term.isHeld) return
    if (!term.isTrusted(this.#terms.readClock())) return term.endWindow() // its timer is late: this process was paused
    if (options.shared && term.holds().every((hold) => hold.shared)) return
    throw this.#claims.denied(lease, holder, this.#client.leases().get(lease) ?? { holder })
  }

  /** Within the turn of the claim. undefined: the grant is of no use. */
  #held(term: Term, sent: ClockReading, options: ParsedHoldOptions, signal: AbortSignal | undefined): Hold | undefined {
    if (!options.acceptLate && !term.isTrusted(this.#terms.recent.take())) return undefined
    if (this.#stopping.signal.aborted) return undefined
    if (signal?.aborted === true) {
      this.#giveBack(term)
      return undefined
    }
    this.#subscribe() // a hold wants to hear at once that it was revoked
    const hold = new ManagedHold(this.#holdHost, term, sent, options)
    this.#reports.holdBegan(hold)
    this.#terms.addHold(term, hold, this.#terms.now())
    this.#waitQueue.acquired(term.lease, term.holder)
    return hold
  }

  /** The term was granted to a call that was given up: ends it, unless the holder had it before, or somebody else here relies on it. */
  #giveBack(term: Term | undefined): void {
    if (term === undefined || term.isAdopted || this.#stopping.signal.aborted) return
    this.#leaveTerm(term, () => term.isReliedOn(this.#terms.readClock())).catch(nothing) // it lapses by itself
  }

  /** Ends the term when it is its turn, if it is not over by then, and nobody wants it any more. */
  async #leaveTerm(term: Term, isWanted: () => boolean): Promise<void> {
    const { lease } = term
    const turn = this.#terms.enter(lease)
    if (turn !== undefined) await turn
    try {
      if (term.ended === undefined && !isWanted()) await this.#releaseTerm(term)
    } finally {
      this.#terms.leave(lease)
    }
  }

  #makeHoldHost(): HoldHost {
    return {
      terms: this.#terms,
      maxSleepMs: this.#maxSleepMs,
      tokenOf: (term) => this.#tokenOf(term),
      renewals: this.#renewals,
      renewalHost: this.#renewalHost,
      reread: async (hold) => {
        const suspicions = hold.term.suspicions
        await this.#read(hold.lease)
        const loss = this.#lossOf(hold.term)
        if (loss === undefined) hold.term.confirm(suspicions)
        return loss
      },
      release: ({ term }, { all = false } = {}) => {
        const release = (): Promise<void> =>
          this.#calls.start(undefined, () => this.#leaveTerm(term, () => !all && term.isHeld))
        if (!traces.release.hasSubscribers) return release()
        const { lease, holder } = term
        return this.#reports.release({ call: 'release', lease, holder }, release)
      },
      giveBack: ({ term }) => this.#giveBack(term),
      renew: (term, asked) => this.#calls.start(undefined, () => this.#renew(term, asked)),
      ended: (hold, loss) => this.#ended(hold, loss),
      isExclusive: ({ term }) => this.#calls.start(undefined, () => this.#isExclusive(term)),
      retrying: ({ lease }, operation, cause, sent) => this.#reports.retrying(lease, operation, cause, sent),
      renewed: (renewal, dueMs) => this.#reports.renewed(renewal, dueMs),
      letGo: (hold) => this.#reports.letGo(hold),
    }
  }

  async #isExclusive({ lease, holder, fencingToken }: Term): Promise<boolean> {
    const name = countedOf(lease)
    if (name === undefined) return true
    const { capacity, shares } = await this.#countedClient().read(name)
    if (shares.get(lease)?.fencingToken !== fencingToken) throw notHeld(lease, holder, 'its term is over')
    // Beside it there may be shares that were granted when the capacity was larger.
    return shares.size === 1 && shares.get(lease)?.weight === capacity
  }

  async #renew(term: Term, asked: Extended): Promise<LossReason | undefined> {
    const { lease, holder } = term
    try {
      return await new Promise((resolve, reject) => {
        const listener = {
          extended: (renewal: TermRenewal, loss?: LossReason) => {
            if (loss === undefined) this.#reports.renewed(renewal)
            resolve(loss)
          },
          failed: (_: TermRenewal, error: unknown) => reject(error),
        }
        new TermRenewal(this.#renewalHost, term, asked, listener).send(this.#terms.now())
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
  #lossOf(term: Term): LossReason | undefined {
    const info = this.#client.leases().get(term.lease)
    if (info === undefined || this.#claims.mayHaveLapsed(info)) {
      return term.isTrusted(this.#terms.recent.take()) ? 'revoked' : 'expired'
    }
    return info.holder === term.holder && info.fencingToken === term.fencingToken ? undefined : 'taken'
  }

  #ended(hold: ManagedHold, loss: ErrLost | undefined): void {
    const { term, lease } = hold
    this.#terms.removeHold(term, hold)
    this.#reports.holdEnded(hold, loss)
    if (loss === undefined) return
    this.#terms.vacated(lease)
  }

  /** The Holds of this manager. */
  #holdsOf(term: Term): ManagedHold[] {
    return term.holds().filter((hold) => hold instanceof ManagedHold && hold.host === this.#holdHost) as ManagedHold[]
  }

  #leaveQueue(lease: string, { place }: Ticket): void {
    if (place > 0) inBackground(() => this.#client.leaveQueue?.(lease, { place }))
  }

  #makeWaitQueue(): WaitQueue {
    return new WaitQueue({
      clock: this.#clock,
      timers: this.#terms.timers,
      maxSleepMs: this.#maxSleepMs,
      known: (lease) =>
        countedOf(lease) === lease ? this.#client.counted?.blocking(lease) : this.#client.leases().get(lease),
      hasLapsed: (info) => hasLapsed(info, this.#clock),
      watch: (lease, watcher) => this.#watch(lease, watcher),
      unwatch: (lease, watcher) => {
        if (countedOf(lease) !== lease) inBackground(() => this.#client.unwatch?.(lease, watcher))
      },
      mustWatch: this.#client.unwatch !== undefined,
      hintDelayMs: this.#client.hintDelayMs ?? 0,
      waiting: (request, position) => this.#reports.waiting(request, position),
      leaveQueue: (lease, ticket) => this.#leaveQueue(lease, ticket),
      holderHere: (lease) => {
        const term = this.#terms.get(lease)
        return term?.isHeld === true && term.isTrusted(this.#terms.recent.take()) ? term.holder : undefined
      },
      acquire: (contention, signal, ticket) => this.#acquire(contention, signal, ticket),
      denied: (waiter) => {
        const { leases, holder } = waiter
        if (leases.length > 1) return this.#claims.deniedAny(leases, holder, { waiter })
        const lease = leases[0] as string
        if (countedOf(lease) === lease) {
          return this.#claims.deniedShare(`${lease}${holder}`, holder, this.#client.counted?.blocking(lease), {
            waiter,
          })
        }
        const info = this.#client.leases().get(lease)
        return this.#claims.denied(lease, holder, info?.holder === holder ? undefined : info, { waiter })
      },
      retrying: (lease, operation, cause) => this.#reports.retrying(lease, operation, cause),
    })
  }

  // ── hints ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #subscribe(): void {
    if (this.#unsubscribe !== undefined) return
    // Its connection outlives the call that is the first to need it.
    withoutContext(() => this.#listen())
  }

  #listen(): void {
    const ends = [
      // What is not watched is not its own: a client that cannot watch, but passes options on, must hear of everything.
      this.#client.subscribe((change) => this.#hinted(change), { own: this.#client.unwatch !== undefined }),
      this.#terms.whenVacated((lease) => this.#waitQueue.released(lease)),
    ]
    this.#unsubscribe = () => ends.forEach((end) => end())
  }

  #hinted(change: LeaseChange): void {
    if (!isSound(change) || change.kind === 'resync') return this.#resyncs.request()
    if (change.kind === 'vacated') this.#suspect(change.lease)
    this.#waitQueue.hinted(change)
  }

  /** The term that lives here may be gone: its next check asks, and its Holds make sure now. */
  #suspect(lease: string): void {
    const term = this.#terms.get(lease)
    if (term === undefined) return
    term.suspect()
    this.#holdsOf(term)[0]?.suspect()
  }
}

/** `claim` does not wait, and says what does. */
function unlessItWaits(problem: Problem): Problem {
  if (problem.argument !== 'wait') return problem
  return { ...problem, rule: 'is not an option of claim: write manager.hold(lease, holder, { duration, wait: true })' }
}

/** Passes on what the client warns of. A client of the application's own may have no events, or others. */
function warningsOf({ events }: Client, to: LeaseEvents): () => void {
  return events instanceof LeaseEvents ? events.passWarningsTo(to) : nothing
}

/** What the caller's own connection threw: it reaches the caller as it is. */
class KeyFailure {
  readonly error: unknown

  constructor(error: unknown) {
    this.error = error
  }
}

/** Certainly over. A term whose window has ended may still stand in the store. */
function isOver(term: Term | undefined): boolean {
  const reason = term?.ended?.reason
  return reason === 'released' || reason === 'revoked' || reason === 'taken'
}

const RELEASED: TermEnd = { reason: 'released', isSent: true }
const REVOKED: TermEnd = { reason: 'revoked', isSent: true }

function isOf({ fencingToken, nonce }: Info & Partial<TermAware>, term: Term): boolean {
  return term.fencingToken === fencingToken && (term.nonce === undefined || nonce === undefined || term.nonce === nonce)
}

function notHeld(lease: string, holder: string, why: string): ErrNotHeld {
  const reason = why.replace(/^it is /, '')
  return new ErrNotHeld(`"${holder}" does not hold lease "${lease}": ${why}`, { lease, holder, reason })
}

/** @param by who has the lease; undefined: another process that has adopted this very term */
function notReleased(lease: string, holder: string, by: string | undefined): ErrNotHeld {
  const reason = by === undefined ? 'adopted' : `held by "${by}"`
  const why = by === undefined ? 'another process of this name has adopted it' : `it is ${reason}`
  return new ErrNotHeld(`"${holder}" cannot release lease "${lease}": ${why}`, { lease, holder, reason })
}

function checkFencingToken(fencingToken: unknown): void {
  if (fencingToken === undefined || typeof fencingToken === 'bigint') return
  throw notValid([{ argument: 'fencingToken', rule: 'must be a bigint', value: fencingToken }])
}

function nothing(): void {}

/** For what need not succeed, and must harm nobody. */
function inBackground(work: () => unknown): void {
  void Promise.resolve().then(work).catch(nothing)
}
