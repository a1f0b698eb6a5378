/**
 * The Client over any Substrate. What every store needs is written once, here:
 *
 * - *Validation*: an adapter never sees a bad name, duration or value.
 * - *Nonces*: each logical claim has its own, the same over its retries, so that a lost reply resolves to "it was
 *   mine" instead of "taken", by ourselves.
 * - *Coalescing*: concurrent calls share round trips (`coalescer.ts`); two operations on one lease never meet in the
 *   store (`lanes.ts`).
 * - *Three outcomes*: granted resolves; refused is `ErrInvalid`, with the state that forbids it in `leases()`; and
 *   unknown is tried again with the same nonce, then `ErrUnknown`. Each round trip has its own time-out.
 * - *Late bounds*: `Info.expiry` is counted from the arrival of the answer (`skew.ts`), or by observation where the
 *   store has no clock (`observer.ts`). The early bound, for a holder, is the caller's: it knows when it called.
 * - *The snapshot*: what the answers taught, by lease. Memory grows with the leases this client touched and that have
 *   not lapsed, not with the namespace (unless a full `refresh()` asked for all of it).
 *
 * A claim that is given up (aborted, or its outcome still unknown after all retries) is released again by its nonce,
 * as long as no other operation of this client waits for the lease: whoever waits may be about to use that very term.
 */
import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { DateTime, type DurationLike } from 'luxon'
import { backoffMs } from './backoff.ts'
import { ChurnMap } from './churn-map.ts'
import type { Client, ClientCallOptions, LeaseChange, Renewal } from './client.ts'
import { sleep, systemClock, type Clock } from './clock.ts'
import { Coalescer } from './coalescer.ts'
import { ErrInvalid, ErrUnknown, notValid } from './errors.ts'
import { LeaseEvents } from './events.ts'
import { Lanes } from './lanes.ts'
import {
  brokenLeases,
  checkNames,
  checkRequest,
  type Info,
  type LapseAware,
  type Request,
  type Trapdoor,
} from './lease.ts'
import { learnTurn } from './line.ts'
import { inViewSince } from './observer.ts'
import { parseSubstrateClientOptions } from './options.ts'
import { RenewalOp } from './renewal-op.ts'
import { elapsedForObserver, elapsedTimeOf, type ClockReading, type ElapsedTime } from './elapsed-time.ts'
import { lapseWindowMs } from './skew.ts'
import {
  refused,
  unknown,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type ClaimOp,
  type Holding,
  type Op,
  type Substrate,
  type Verdict,
} from './substrate.ts'

export interface SubstrateClientOptions {
  readonly substrate: Substrate
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Where warnings about the substrate's set-up go. @default a stream of its own, see `events` */
  readonly events?: LeaseEvents | undefined
  /**
   * How long one round trip may take before its answer counts as lost. A claim or an extension waits at most a third of
   * its duration (but at least 250 ms), so that there is time to ask again. @default 5 seconds
   */
  readonly requestTimeout?: DurationLike | undefined
}

/** How often an operation whose outcome is unknown is sent in all. */
const MAX_ATTEMPTS = 4
/** A third of a short lease may be less than an honest round trip takes; nothing is given up sooner than this. */
const MIN_TIMEOUT_MS = 250
/** A lease was seen vacant, and never with a token. */
const UNSEEN = -1n
/** Below this many entries the snapshot is not swept. */
const SWEEP_FLOOR = 1024

export class SubstrateClient implements Client {
  /** Warnings about the substrate's set-up. */
  readonly events: LeaseEvents
  readonly claimAnyLease: Client['claimAnyLease']
  readonly #substrate: Substrate
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #world: World
  readonly #timeoutMs: number
  readonly #lanes = new Lanes()
  readonly #ops: Coalescer<Op, Verdict>
  readonly #reads: Coalescer<string, ReadAnswer>
  readonly #sightings = new ChurnMap<Sighting>()
  /** For each read that is out: the leases that other answers touched meanwhile, with the last token seen to end. */
  readonly #readsOut = new Set<Map<string, bigint>>()
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  readonly #closing = new AbortController()
  readonly #noncePrefix = randomBytes(9).toString('base64url')
  #nonces = 0
  #sweepAt = SWEEP_FLOOR
  #inspected = false
  #unwatch: (() => void) | undefined

  constructor(options: SubstrateClientOptions) {
    const { substrate, clock, events, requestTimeoutMs } = parseSubstrateClientOptions(options)
    this.#substrate = substrate
    this.#clock = clock ?? systemClock
    this.#time = elapsedTimeOf(this.#clock)
    this.#world = { substrate, time: this.#time }
    this.events = events ?? new LeaseEvents()
    this.#timeoutMs = requestTimeoutMs
    setMaxListeners(0, this.#closing.signal) // every operation that pauses listens to it
    const { maxOps: maxItems, maxInFlight, enoughOps: enough } = substrate.limits
    const limits = { maxItems, maxInFlight, enough }
    this.#ops = new Coalescer(limits, (ops) => this.#apply(ops))
    this.#reads = new Coalescer(limits, (names) => this.#readNames(names))
    const claimAny = substrate.claimAny?.bind(substrate)
    this.claimAnyLease = claimAny && ((leases, request, options) => this.#claimAny(claimAny, leases, request, options))
  }

  claimLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    const body = (signal: AbortSignal | undefined): Promise<void> => {
      const durationMs = checkRequest(lease, request)
      const { holder, value, announce } = request
      const nonce = this.#newNonce()
      return new Promise((resolve, reject) => {
        let aborted = false
        // Here and nowhere else it is decided whether the caller learns of the grant or of the abort.
        const unheed = heed(signal, () => {
          aborted = true
          reject(signal?.reason as Error)
        })
        const turn = options?.turn
        this.#inLane(lease, () => {
          const lapsed = this.#sightings.get(lease)?.lapsedVersion(this.#time.read())
          const op: ClaimOp = {
            kind: 'claim',
            lease,
            holder,
            durationMs,
            nonce,
            value,
            lapsed,
            announce,
            place: turn?.place,
          }
          // The caller is answered while the lane is still his: tidying up after a claim given up goes on without him.
          const finish = ({ outcome, holding, line }: Verdict): void => {
            unheed()
            if (turn !== undefined && line !== undefined) learnTurn(turn, line)
            if (outcome === 'granted' && aborted) return this.#abandon(op)
            this.#lanes.leave(lease)
            if (outcome === 'granted') resolve()
            else reject(invalid(op, holding))
          }
          const fail = (error: unknown): void => {
            unheed()
            reject(error)
            if (error instanceof NeverSent) this.#lanes.leave(lease)
            else this.#abandon(op)
          }
          this.#send(op, signal, finish, fail)
        })
      })
    }
    return this.#start(options, body, { heedsSignal: true })
  }

  /** Needs no lane: its answers are merged as those of a read are, whatever else happens to these leases meanwhile. */
  #claimAny(
    send: (op: ClaimAnyOp, call: Call) => Promise<AnyVerdict>,
    leases: readonly string[],
    request: Request,
    options: ClientCallOptions | undefined,
  ): Promise<string> {
    let abandon = (): void => {}
    const body = async (signal: AbortSignal | undefined): Promise<string> => {
      const problems = brokenLeases(leases)
      if (problems.length > 0) throw notValid(problems)
      const durationMs = checkRequest(leases[0] as string, request)
      const { holder, value, announce } = request
      const asked = { leases, holder, durationMs, nonce: this.#newNonce(), value, announce }
      abandon = () => this.#abandonAny(asked)
      try {
        return await this.#settleAny(asked, send, signal)
      } catch (error) {
        if (!(error instanceof ErrInvalid)) abandon()
        throw error
      }
    }
    return this.#start(options, body, { unwanted: () => abandon() })
  }

  /** Sends the claim until one is granted or all are refused, or no more can be learned about it. */
  async #settleAny(
    asked: Omit<ClaimAnyOp, 'lapsed'>,
    send: (op: ClaimAnyOp, call: Call) => Promise<AnyVerdict>,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const { leases, holder } = asked
    const startedMs = this.#clock.monotonic()
    for (let tries = 1, failures = 0; ; tries++) {
      signal?.throwIfAborted()
      const now = this.#time.read()
      const lapsed = new Map<string, string>()
      for (const lease of leases) {
        const version = this.#sightings.get(lease)?.lapsedVersion(now)
        if (version !== undefined) lapsed.set(lease, version)
      }
      const touched = new Map<string, bigint>()
      this.#readsOut.add(touched)
      let delayMs: number
      try {
        const op = { ...asked, lapsed }
        const { outcome, lease, holdings } = await this.#roundTrip((call) => send(op, call), this.#timeoutFor([op]))
        if (outcome !== 'contended') {
          this.#readsOut.delete(touched)
          const unclear = this.#merge(outcome === 'granted' ? holdings.keys() : leases, holdings, touched)
          if (unclear.length > 0) await this.#readAndMerge(unclear)
          if (outcome === 'granted' && lease !== undefined) return lease
          const reason = lease === undefined ? 'all are held' : `"${holder}" has "${lease}" already`
          throw new ErrInvalid(`cannot claim any of ${leases.length} leases: ${reason}`, { lease, holder, reason })
        }
        if (this.#clock.monotonic() - startedMs > this.#timeoutMs) {
          throw unsettledAny(asked, 'somebody was always at it')
        }
        delayMs = 1 + Math.random() * Math.min(50, 4 * tries)
      } catch (error) {
        if (error instanceof ErrInvalid || error instanceof ErrUnknown) throw error
        this.#closing.signal.throwIfAborted()
        if (++failures >= MAX_ATTEMPTS) throw unsettledAny(asked, reasonOf(error), error)
        delayMs = failures === 1 ? 0 : backoffMs(failures - 1)
      } finally {
        this.#readsOut.delete(touched)
      }
      if (delayMs > 0) await sleep(this.#clock, delayMs, this.#closing.signal)
    }
  }

  /** Best effort, as `#abandon`: nobody knows which of them it was, if any. */
  #abandonAny({ leases, ...asked }: Omit<ClaimAnyOp, 'lapsed'>): void {
    for (const lease of leases) {
      this.#inLane(lease, () => this.#abandon({ kind: 'claim', lease, lapsed: undefined, ...asked }))
    }
  }

  extendLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      const durationMs = checkRequest(lease, request)
      const { holder, value, announce } = request
      return this.#demand(lease, signal, () => {
        const known = this.#sightings.get(lease)
        const own = known?.holder === holder ? known : undefined
        const seen = own?.version === undefined ? undefined : own
        const fencingToken = own?.fencingToken
        const op: Op = { kind: 'extend', lease, holder, fencingToken, durationMs, value, seen, announce }
        // A store without a clock cannot tell that the lease has lapsed; whoever observed it can, and must.
        if (known?.version !== undefined && known.isLapsed(this.#time.read())) throw invalid(op, undefined)
        return op
      })
    })
  }

  renewLease(renewal: Renewal): void {
    const { aborted, reason } = this.#closing.signal as { aborted: boolean; reason: unknown }
    if (aborted) return queueMicrotask(() => renewal.failed(reason))
    if (!this.#inspected) this.#inspect()
    const turn = this.#lanes.enter(renewal.lease)
    if (turn === undefined) this.#renew(renewal)
    else void turn.then(() => this.#renew(renewal))
  }

  #renew(renewal: Renewal): void {
    const known = this.#sightings.get(renewal.lease)
    const own = known?.fencingToken === renewal.fencingToken && known.holder === renewal.holder
    const op = new RenewalOp(renewal, own && known.version !== undefined ? known : undefined, this.#renewed)
    // Tokens rise: a later one says that this term is over. And of a store without a clock, observers must say it.
    if (known !== undefined && known.fencingToken > renewal.fencingToken) {
      queueMicrotask(() => this.#endRenewal(op, refused(known)))
    } else if (known?.version !== undefined && known.isLapsed(this.#time.read())) {
      queueMicrotask(() => this.#endRenewal(op, refused(undefined)))
    } else this.#ops.enqueue(op)
  }

  readonly #renewed = (op: RenewalOp, verdict: Verdict | undefined): void => {
    if (isSettled(verdict)) this.#endRenewal(op, verdict)
    else {
      this.#settle(op, undefined, { first: verdict }).then(
        (last) => this.#endRenewal(op, last),
        (error: unknown) => {
          this.#lanes.leave(op.lease)
          op.renewal.failed(error)
        },
      )
    }
  }

  #endRenewal(op: RenewalOp, { outcome, holding }: Verdict): void {
    this.#lanes.leave(op.lease)
    if (outcome === 'granted') op.renewal.granted()
    else op.renewal.failed(invalid(op, holding))
  }

  expireLease(lease: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      checkNames({ lease })
      return this.#demand(lease, signal, () => {
        const lapsed = this.#sightings.get(lease)?.lapsedVersion(this.#time.read())
        return { kind: 'expire', lease, lapsed }
      })
    })
  }

  releaseLease(lease: string, holder: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      checkNames({ lease, holder })
      return this.#demand(lease, signal, () => {
        const fencingToken = this.#tokenOf(lease, holder)
        return { kind: 'release', lease, holder, fencingToken, nonce: undefined }
      })
    })
  }

  pinLease(lease: string, entity: string): Promise<void> {
    return this.#pin('pin', lease, entity)
  }

  unpinLease(lease: string, entity: string): Promise<void> {
    return this.#pin('unpin', lease, entity)
  }

  #pin(kind: 'pin' | 'unpin', lease: string, entity: string): Promise<void> {
    return this.#start(undefined, () => {
      checkNames({ lease, entity })
      return this.#demand(lease, undefined, () => ({ kind, lease, entity }))
    })
  }

  pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#start(undefined, () => this.#reading('the pinned leases', (call) => this.#substrate.pinned(call)))
  }

  leases(): ReadonlyMap<string, Info> {
    return this.#sightings
  }

  refresh(leases?: Iterable<string>): Promise<void> {
    return this.#start(undefined, async () => {
      if (leases === undefined) return this.#readAndMerge(undefined)
      const names = new Set(leases)
      for (const lease of names) checkNames({ lease })
      const answers = await Promise.all([...names].map((lease) => this.#reads.submit(lease)))
      for (const answer of answers) if (answer?.error !== undefined) throw answer.error
    })
  }

  subscribe(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => {
      try {
        listener(change)
      } catch (error) {
        process.emitWarning(error instanceof Error ? error : String(error), { type: 'LeaseListenerWarning' })
      }
    }
    this.#listeners.add(own)
    if (!this.#closing.signal.aborted) {
      this.#unwatch ??= this.#substrate.watch?.((change) => {
        for (const tell of [...this.#listeners]) tell(change)
      })
    }
    return () => {
      this.#listeners.delete(own)
      if (this.#listeners.size === 0) this.#stopWatching()
    }
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort(new ErrUnknown('the client was closed'))
    this.#stopWatching()
    this.#listeners.clear()
    await this.#substrate.close()
  }

  #stopWatching(): void {
    this.#unwatch?.()
    this.#unwatch = undefined
  }

  // ── one call ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** What every call shares: it never throws synchronously, refuses after close, and rejects when its signal aborts. */
  #start<T>(
    options: ClientCallOptions | undefined,
    body: (signal: AbortSignal | undefined) => Promise<T>,
    { heedsSignal = false, unwanted }: Manners<T> = {},
  ): Promise<T> {
    const signal = options?.signal
    try {
      this.#closing.signal.throwIfAborted()
      signal?.throwIfAborted()
      if (!this.#inspected) this.#inspect()
      return signal === undefined || heedsSignal ? body(signal) : abortable(body(signal), signal, unwanted)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #newNonce(): string {
    return `${this.#noncePrefix}${(this.#nonces++).toString(36)}`
  }

  /** Calls the body when the lane is its own, at once if nobody is in it. It must not throw, and leaves the lane at its end. */
  #inLane(lease: string, body: () => void): void {
    const turn = this.#lanes.enter(lease)
    if (turn === undefined) body()
    else void turn.then(body)
  }

  /**
   * Settles an operation in the lease's lane; refused is `ErrInvalid`. Where all goes well, as it nearly always does, it
   * takes one promise: thousands of these are under way at once.
   *
   * @param make makes the operation when its turn has come, of what is known then; what it throws is the outcome
   */
  #demand(lease: string, signal: AbortSignal | undefined, make: () => Op): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (error: unknown): void => {
        this.#lanes.leave(lease)
        reject(error)
      }
      this.#inLane(lease, () => {
        try {
          const op = make()
          const finish = ({ outcome, holding }: Verdict): void => {
            if (outcome !== 'granted') return fail(invalid(op, holding))
            this.#lanes.leave(lease)
            resolve()
          }
          this.#send(op, signal, finish, fail)
        } catch (error) {
          fail(error)
        }
      })
    })
  }

  /** Sends the operation until it is granted or refused, then calls `finish`; `fail` if no more can be learned about it. */
  #send(
    item: Op,
    signal: AbortSignal | undefined,
    finish: (verdict: Verdict) => void,
    fail: (error: unknown) => void,
  ): void {
    const settle = (verdict: Verdict | undefined): void => {
      if (isSettled(verdict)) finish(verdict)
      else this.#settle(item, signal, { first: verdict }).then(finish, fail)
    }
    this.#ops.enqueue({ item, signal, settle })
  }

  /**
   * Sends the operation until it is granted or refused, or no more can be learned about it.
   *
   * @param first what became of it when it was sent first; undefined: it never was, for the signal aborted
   */
  async #settle(
    op: Op,
    signal: AbortSignal | undefined,
    { first }: { readonly first: Verdict | undefined },
  ): Promise<Verdict> {
    const startedMs = this.#clock.monotonic()
    let attempts = 0
    for (let tries = 1; ; tries++) {
      const verdict = tries === 1 ? first : await this.#ops.submit(op, signal)
      if (verdict === undefined) throw attempts === 0 ? new NeverSent() : signal?.reason
      if (isSettled(verdict)) return verdict

      let delayMs: number
      if (verdict.outcome === 'contended') {
        // Whoever holds the row does so for the length of one statement: ask again soon, by jitter apart.
        if (this.#clock.monotonic() - startedMs > this.#timeoutMs) throw unsettled(op, 'somebody was always at it')
        delayMs = 1 + Math.random() * Math.min(50, 4 * tries)
      } else {
        attempts++
        if (attempts >= MAX_ATTEMPTS) throw unsettled(op, reasonOf(verdict.cause), verdict.cause)
        delayMs = attempts === 1 ? 0 : backoffMs(attempts - 1)
      }
      if (delayMs > 0) await sleep(this.#clock, delayMs, this.#closing.signal)
      this.#closing.signal.throwIfAborted()
    }
  }

  /** Leaves the lane when it is done. Best effort: a claim that nobody will use should not keep others out. */
  #abandon(op: ClaimOp): void {
    void this.#vacateClaim(op).finally(() => this.#lanes.leave(op.lease))
  }

  async #vacateClaim({ lease, holder, nonce }: ClaimOp): Promise<void> {
    const op: Op = { kind: 'release', lease, holder, fencingToken: undefined, nonce }
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const verdict = await this.#ops.submit(op)
      if (isSettled(verdict)) return
      if (this.#lanes.contended(lease)) return // the one who waits may find this very term his own
      try {
        await sleep(this.#clock, backoffMs(attempt), this.#closing.signal)
      } catch {
        return
      }
    }
  }

  // ── round trips ───────────────────────────────────────────────────────────────────────────────────────────────

  async #apply(ops: readonly Op[]): Promise<readonly Verdict[]> {
    let verdicts: readonly Verdict[]
    try {
      verdicts = await this.#roundTrip((call) => this.#substrate.apply(ops, call), this.#timeoutFor(ops))
    } catch (error) {
      const verdict = unknown(error)
      return ops.map(() => verdict)
    }
    if (!Array.isArray(verdicts) || verdicts.length !== ops.length) {
      const verdict = unknown(new Error(`the substrate gave no verdict for each of ${ops.length} operations`))
      return ops.map(() => verdict)
    }
    const now = this.#time.read()
    for (let index = 0; index < ops.length; index++) {
      const op = ops[index] as Op
      const verdict = verdicts[index] as Verdict
      if (isSettled(verdict)) this.#learn(op.lease, verdict.holding, now)
    }
    return verdicts
  }

  async #readNames(names: readonly string[]): Promise<readonly ReadAnswer[]> {
    try {
      await this.#readAndMerge([...new Set(names)])
      return names.map(() => ({ error: undefined }))
    } catch (error) {
      return names.map(() => ({ error: error as Error }))
    }
  }

  async #readAndMerge(names: readonly string[] | undefined): Promise<void> {
    for (let open = names; ;) {
      const touched = new Map<string, bigint>()
      this.#readsOut.add(touched)
      try {
        const what =
          open === undefined ? 'the namespace' : open.length === 1 ? `lease "${open[0]}"` : `${open.length} leases`
        const asked = open
        const holdings = await this.#reading(what, (call) => this.#substrate.read(asked, call))
        this.#readsOut.delete(touched)
        open = this.#merge(asked, holdings, touched)
      } finally {
        this.#readsOut.delete(touched)
      }
      if (open.length === 0) return
    }
  }

  /** A read, tried again like any other operation: it changes nothing. */
  async #reading<T>(what: string, read: (call: Call) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#roundTrip(read)
      } catch (error) {
        this.#closing.signal.throwIfAborted()
        if (attempt >= MAX_ATTEMPTS) {
          throw new ErrUnknown(`could not read ${what}: ${reasonOf(error)}`, { reason: reasonOf(error), cause: error })
        }
        if (attempt > 1) await sleep(this.#clock, backoffMs(attempt - 1), this.#closing.signal)
      }
    }
  }

  /** One call of the substrate, given up after the time-out. */
  #roundTrip<T>(send: (call: Call) => Promise<T>, timeoutMs: number = this.#timeoutMs): Promise<T> {
    return new Promise((resolve, reject) => {
      const call = new RoundTrip(timeoutMs)
      const timer = this.#clock.setTimer(timeoutMs, () => {
        const error = new Error(`no answer within ${timeoutMs} ms`)
        reject(error)
        call.giveUp(error)
      })
      const fail = (error: unknown): void => {
        timer.cancel()
        reject(error)
      }
      try {
        send(call).then((answer) => {
          timer.cancel()
          resolve(answer)
        }, fail)
      } catch (error) {
        fail(error)
      }
    })
  }

  /** A lost answer must leave time to ask again before the shortest lease in the batch is over. */
  #timeoutFor(ops: readonly (Op | ClaimAnyOp)[]): number {
    let shortestMs = Number.POSITIVE_INFINITY
    for (const op of ops) if ('durationMs' in op && op.durationMs < shortestMs) shortestMs = op.durationMs
    return Math.min(this.#timeoutMs, Math.max(MIN_TIMEOUT_MS, Math.ceil(shortestMs / 3)))
  }

  #inspect(): void {
    this.#inspected = true
    if (this.#substrate.inspect === undefined) return
    this.#roundTrip((call) => this.#substrate.inspect?.(call) ?? Promise.resolve([])).then(
      (warnings) => warnings.forEach((warning) => this.events.emit({ type: 'warning', ...warning })),
      () => {}, // a substrate that cannot be asked says so again at the operation that follows
    )
  }

  // ── the snapshot ──────────────────────────────────────────────────────────────────────────────────────────────

  #learn(lease: string, holding: Holding | undefined, now: ClockReading): void {
    const known = this.#sightings.get(lease)
    for (const touched of this.#readsOut) touched.set(lease, known?.fencingToken ?? touched.get(lease) ?? UNSEEN)
    if (holding === undefined || isVacant(holding)) {
      this.#sightings.delete(lease)
      return
    }
    this.#sightings.set(lease, new Sighting(this.#world, lease, holding, known, now))
    if (this.#sightings.size > this.#sweepAt) this.#sweep(now)
  }

  /**
   * Takes over what a read saw. The answers of operations that arrived while the read was out may be older or newer
   * than it: fencing tokens order the terms. Where they cannot, the lease is returned, to be read again.
   */
  #merge(
    asked: Iterable<string> | undefined,
    holdings: ReadonlyMap<string, Holding>,
    touched: ReadonlyMap<string, bigint>,
  ): readonly string[] {
    const now = this.#time.read()
    const again: string[] = []
    for (const lease of asked ?? new Set([...this.#sightings.keys(), ...holdings.keys()])) {
      const holding = holdings.get(lease)
      const vacatedToken = touched.get(lease)
      if (vacatedToken === undefined) this.#learn(lease, holding, now)
      else {
        const known = this.#sightings.get(lease)
        if (holding === undefined || isVacant(holding)) {
          if (known !== undefined) again.push(lease)
        } else if (known === undefined && vacatedToken === UNSEEN) {
          again.push(lease)
        } else if (
          known === undefined ? holding.fencingToken > vacatedToken : holding.fencingToken >= known.fencingToken
        ) {
          this.#learn(lease, holding, now)
        }
      }
    }
    return again
  }

  #sweep(now: ClockReading): void {
    for (const [lease, sighting] of this.#sightings) if (sighting.isForgettable(now)) this.#sightings.delete(lease)
    this.#sweepAt = Math.max(SWEEP_FLOOR, 2 * this.#sightings.size)
  }

  #tokenOf(lease: string, holder: string): bigint | undefined {
    const known = this.#sightings.get(lease)
    return known?.holder === holder ? known.fencingToken : undefined
  }
}

const GRAIN_MS = 5

/** What this client knows about one held lease. Immutable; the costly parts are made when they are read. */
class Sighting implements Info, Holding, LapseAware {
  readonly holder: string
  readonly fencingToken: bigint
  readonly value: string | undefined
  readonly pinned: boolean
  /** For `observer.ts`. */
  readonly version: string | undefined
  readonly seen: ClockReading
  /** When it was seen. */
  readonly remainingMs: number
  readonly #lease: string
  readonly #world: World

  constructor(world: World, lease: string, holding: Holding, previous: Sighting | undefined, now: ClockReading) {
    this.holder = holding.holder
    this.fencingToken = holding.fencingToken
    this.value = holding.value
    this.pinned = holding.pinned
    this.version = holding.version
    this.seen = inViewSince(previous, holding.version, now)
    this.remainingMs = holding.remainingMs
    this.#lease = lease
    this.#world = world
  }

  /** Follows a wall clock that was set forward since; less than a few milliseconds apart is the grain of the clocks. */
  get expiry(): DateTime {
    const now = this.#world.time.read()
    const setForwardMs = now.wallMs - this.seen.wallMs - (now.monotonicMs - this.seen.monotonicMs)
    return DateTime.fromMillis(
      Math.ceil(this.seen.wallMs + lapseWindowMs(this.remainingMs) + (setForwardMs > GRAIN_MS ? setForwardMs : 0)),
    )
  }

  get trapdoor(): Trapdoor {
    return this.#world.substrate.trapdoor(this.#lease, this.holder, this.fencingToken)
  }

  /** Whether the lease has lapsed for certain, by this machine's clocks: strictly after the late bound. */
  isLapsed(now: ClockReading = this.#world.time.read()): boolean {
    return !this.pinned && elapsedForObserver(this.seen, now) > lapseWindowMs(this.remainingMs)
  }

  lapsesInMs(): number {
    return lapseWindowMs(this.remainingMs) - elapsedForObserver(this.seen, this.#world.time.read())
  }

  /** Lapsed; an observation that allows a takeover is kept for as long again. */
  isForgettable(now: ClockReading): boolean {
    if (this.version === undefined) return this.isLapsed(now)
    return !this.pinned && elapsedForObserver(this.seen, now) > 2 * lapseWindowMs(this.remainingMs)
  }

  /** The version that may be taken over, on a store without a clock. */
  lapsedVersion(now: ClockReading): string | undefined {
    return this.version !== undefined && this.isLapsed(now) ? this.version : undefined
  }
}

/** What every sighting of one client shares. */
interface World {
  readonly substrate: Substrate
  readonly time: ElapsedTime
}

/** One call of the substrate. Its signal is made when somebody asks for it: an AbortController is dear. */
class RoundTrip implements Call {
  readonly timeoutMs: number
  #controller: AbortController | undefined
  #listeners: ((why: Error) => void)[] | undefined
  #givenUp: Error | undefined

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      const controller = new AbortController()
      this.#controller = controller
      this.onAbort((why) => controller.abort(why))
    }
    return this.#controller.signal
  }

  onAbort(listener: (why: Error) => void): void {
    if (this.#givenUp !== undefined) listener(this.#givenUp)
    else (this.#listeners ??= []).push(listener)
  }

  giveUp(error: Error): void {
    this.#givenUp = error
    for (const listener of this.#listeners ?? []) listener(error)
  }
}

interface ReadAnswer {
  readonly error: Error | undefined
}

/** Aborted while it was still queued: there is nothing to tidy up. The caller has been told the signal's own reason. */
class NeverSent extends Error {}

/** Granted or refused: what became of it is known. */
function isSettled(verdict: Verdict | undefined): verdict is Verdict & { readonly outcome: 'granted' | 'refused' } {
  return verdict?.outcome === 'granted' || verdict?.outcome === 'refused'
}

function isVacant({ remainingMs, pinned, version }: Holding): boolean {
  return remainingMs <= 0 && !pinned && version === undefined
}

function invalid(op: Op, holding: Holding | undefined): ErrInvalid {
  const holder = 'holder' in op ? op.holder : undefined
  const reason = holding === undefined ? 'vacant' : `held by "${holding.holder}"`
  return new ErrInvalid(`cannot ${op.kind} lease "${op.lease}": it is ${reason}`, { lease: op.lease, holder, reason })
}

function unsettled(op: Op, reason: string, cause?: unknown): ErrUnknown {
  const holder = 'holder' in op ? op.holder : undefined
  return new ErrUnknown(`could not ${op.kind} lease "${op.lease}", it may have happened: ${reason}`, {
    lease: op.lease,
    holder,
    reason,
    cause,
  })
}

function unsettledAny({ leases, holder }: Omit<ClaimAnyOp, 'lapsed'>, reason: string, cause?: unknown): ErrUnknown {
  const message = `could not claim any of ${leases.length} leases, it may have happened: ${reason}`
  return new ErrUnknown(message, { holder, reason, cause })
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message || cause.name : String(cause)
}

/** How a call takes an aborted signal. */
interface Manners<T> {
  /** It rejects by itself when the signal aborts. */
  readonly heedsSignal?: boolean
  /** Takes a result that came when the caller had already been told of the abort. */
  readonly unwanted?: (value: T) => void
}

/** The promise's outcome, or the signal's reason if that comes first. */
function abortable<T>(promise: Promise<T>, signal: AbortSignal, unwanted?: (value: T) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    let aborted = false
    const unheed = heed(signal, () => {
      aborted = true
      reject(signal.reason as Error)
    })
    promise.then((value) => (aborted ? unwanted?.(value) : resolve(value)), reject).finally(unheed)
  })
}

/** Calls back when the signal aborts; returns how to stop that. */
function heed(signal: AbortSignal | undefined, onAbort: () => void): () => void {
  if (signal === undefined) return () => {}
  setMaxListeners(0, signal) // one signal may end a thousand calls
  signal.addEventListener('abort', onAbort, { once: true })
  return () => signal.removeEventListener('abort', onAbort)
}
