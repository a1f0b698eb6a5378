/**
 * The Client over any Substrate. What every store needs is written once, here and in the parts:
 *
 * - *Validation*: an adapter never sees a bad name, duration or value.
 * - *Terms*: each request names the term that it is about. A claim has a nonce, the same over its retries, so that a lost reply
 *   resolves to "it was mine". A term that another client opened, or that this client may have released, is adopted before it
 *   is extended: a new nonce takes the place of the old one, and a release that is still under way does nothing any more.
 * - *Round trips*: concurrent calls share them (`coalescer.ts`). Two operations on one lease never meet in the store
 *   (`keyed-mutex.ts`), but for renewals, which neither open nor end a term and do not wait for others.
 * - *Time and loss* (`store-link.ts`): each call has a deadline, by the store's clock or by epochs.
 * - *Three outcomes*: granted resolves; refused is `ErrInvalid`, with the state that forbids it in `leases()`; and unknown is
 *   tried again with the same nonce, then `ErrUnknown`. What came too late is certainly not done and is asked again with a new
 *   nonce.
 * - *The snapshot* (`lease-states.ts`): what the answers taught, by lease, in the order of the store.
 *
 * Clean-up: a claim that is given up (aborted, or refused or unknown after an attempt whose outcome is unknown) may still open a term.
 * When no attempt of it can be executed any more, its nonce is released. A term that was adopted meanwhile has another nonce
 * and stands.
 */
import { setMaxListeners } from 'node:events'
import type { DurationLike } from 'luxon'
import { checkSignal, onAbort } from './abort-signal.ts'
import { backoffMs } from './backoff.ts'
import type { Client, ClientCallOptions, LeaseChange, Renewal, TermId } from './client.ts'
import { sleep, systemClock, type Clock } from './clock.ts'
import { Coalescer } from './coalescer.ts'
import { elapsedTimeOf, type ElapsedTime } from './elapsed-time.ts'
import { ErrInvalid, ErrUnknown, notValid } from './errors.ts'
import { LeaseEvents } from './events.ts'
import { KeyedMutex } from './keyed-mutex.ts'
import { LeaseStates } from './lease-states.ts'
import { brokenLeases, checkNames, checkRequest, type Info, type Request } from './lease.ts'
import { learnTurn } from './line.ts'
import { parseSubstrateClientOptions } from './options.ts'
import { RenewalOp } from './renewal-op.ts'
import { LostCall, reasonOf, StoreLink, type InDoubt } from './store-link.ts'
import {
  refused,
  unknown,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type ClaimOp,
  type ExtendOp,
  type Holding,
  type Op,
  type PinOp,
  type Pins,
  type ReleaseOp,
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

export class SubstrateClient implements Client {
  /** Warnings about the substrate's set-up. */
  readonly events: LeaseEvents
  readonly claimAnyLease: Client['claimAnyLease']
  readonly #substrate: Substrate
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #timeoutMs: number
  readonly #link: StoreLink
  readonly #mutex = new KeyedMutex()
  readonly #ops: Coalescer<Op, Verdict>
  /** Apart from the others: renewals always find a slot, and never share a batch with a claim of the same lease. */
  readonly #renewals: Coalescer<Op, Verdict>
  readonly #reads: Coalescer<string, ReadAnswer>
  readonly #states: LeaseStates
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  #nonces = 0
  /** How many calls until the set-up is inspected, and how many more if that fails. */
  #inspectAfter = 0
  #inspectAgainAfter = 1
  #unwatch: (() => void) | undefined

  constructor(options: SubstrateClientOptions) {
    const { substrate, clock, events, requestTimeoutMs } = parseSubstrateClientOptions(options)
    this.#substrate = substrate
    this.#clock = clock ?? systemClock
    this.#time = elapsedTimeOf(this.#clock)
    this.#timeoutMs = requestTimeoutMs
    this.#link = new StoreLink({ substrate, clock: this.#clock, timeoutMs: requestTimeoutMs })
    this.#states = new LeaseStates({ substrate, time: this.#time })
    this.events = events ?? new LeaseEvents()
    setMaxListeners(0, this.#link.closing) // every operation that pauses listens to it
    const { maxOps: maxItems, maxInFlight, enoughOps: enough } = substrate.limits
    const limits = { maxItems, maxInFlight, enough }
    this.#ops = new Coalescer(limits, (ops) => this.#apply(ops))
    this.#renewals = new Coalescer(limits, (ops) => this.#apply(ops))
    this.#reads = new Coalescer(limits, (names) => this.#readNames(names))
    const claimAny = substrate.claimAny?.bind(substrate)
    this.claimAnyLease = claimAny && ((leases, request, options) => this.#claimAny(claimAny, leases, request, options))
  }

  // ── claim ─────────────────────────────────────────────────────────────────────────────────────────────────────

  claimLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    const body = (signal: AbortSignal | undefined): Promise<void> => {
      const durationMs = checkRequest(lease, request)
      const { holder, value, announce } = request
      return new Promise((resolve, reject) => {
        let aborted = false
        // Here and nowhere else it is decided whether the caller learns of the grant or of the abort.
        const stopListening = onAbort(signal, () => {
          aborted = true
          reject(signal?.reason as Error)
        })
        const turn = options?.turn
        this.#inTurn(lease, () => {
          const lapsed = this.#states.get(lease)?.lapsedVersion(this.#time.read())
          const nonce = this.#newNonce()
          const place = turn?.place
          const op: ClaimOp = { kind: 'claim', lease, holder, durationMs, nonce, value, lapsed, announce, place }
          this.#send(op, signal, {
            finish: (verdict, sent, doubt) => {
              stopListening()
              const { outcome, holding, line } = verdict
              if (turn !== undefined && line !== undefined) learnTurn(turn, line)
              if (outcome === 'granted' && aborted) {
                // The next operation on the lease comes after its end.
                void this.#withdraw(sent as ClaimOp).finally(() => this.#mutex.leave(lease))
                return
              }
              if (outcome === 'granted') this.#assure(lease, (sent as ClaimOp).nonce)
              this.#mutex.leave(lease)
              if (outcome === 'granted') return resolve()
              this.#cleanUp(sent as ClaimOp, doubt)
              reject(invalid(op, holding))
            },
            fail: (error, sent, doubt) => {
              stopListening()
              this.#mutex.leave(lease)
              this.#cleanUp(sent as ClaimOp, doubt)
              reject(error)
            },
          })
        })
      })
    }
    return this.#start(options, body, { heedsSignal: true })
  }

  /** Its answers are merged as those of a read are, whatever else happens to these leases meanwhile. */
  #claimAny(
    send: (op: ClaimAnyOp, call: Call) => Promise<AnyVerdict>,
    leases: readonly string[],
    request: Request,
    options: ClientCallOptions | undefined,
  ): Promise<string> {
    let claimed: ClaimAnyAttempt | undefined
    const body = async (signal: AbortSignal | undefined): Promise<string> => {
      const problems = brokenLeases(leases)
      if (problems.length > 0) throw notValid(problems)
      const durationMs = checkRequest(leases[0] as string, request)
      const { holder, value, announce } = request
      claimed = { leases, holder, durationMs, nonce: this.#newNonce(), value, announce, doubt: undefined }
      try {
        return await this.#settleAny(claimed, send, signal)
      } catch (error) {
        this.#cleanUpAny(claimed)
        throw error
      }
    }
    return this.#start(options, body, {
      onOrphanedResult: (lease) => {
        const { holder, nonce } = claimed as ClaimAnyAttempt
        this.#withdrawInTurn({ lease, holder, nonce })
      },
    })
  }

  /** Sends the claim until one is granted or all are refused, or no more can be learned about it. */
  async #settleAny(
    claim: ClaimAnyAttempt,
    send: (op: ClaimAnyOp, call: Call) => Promise<AnyVerdict>,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const { leases, holder, durationMs, value, announce } = claim
    const startedMs = this.#clock.monotonic()
    for (let tries = 1, failures = 0, lates = 0; ; tries++) {
      throwIfAborted(signal)
      this.#link.closing.throwIfAborted()
      const now = this.#time.read()
      const lapsed = new Map<string, string>()
      for (const lease of leases) {
        const version = this.#states.get(lease)?.lapsedVersion(now)
        if (version !== undefined) lapsed.set(lease, version)
      }
      const question = this.#states.open()
      let delayMs: number
      try {
        const op = { leases, holder, durationMs, value, announce, nonce: claim.nonce, lapsed }
        const { outcome, lease, holdings } = await this.#link.call((call) => send(op, call), this.#timeoutFor([op]))
        if (outcome === 'granted' || outcome === 'refused') {
          const answered = this.#time.read()
          const unclear: string[] = []
          for (const one of outcome === 'granted' ? holdings.keys() : leases) {
            const granted = outcome === 'granted' && one === lease
            if (!this.#states.learn(one, holdings.get(one), { question, now: answered, granted })) unclear.push(one)
          }
          if (outcome === 'granted' && lease !== undefined) {
            this.#assure(lease, claim.nonce)
            return lease
          }
          if (unclear.length > 0) await this.#readAndLearn(unclear)
          const reason = lease === undefined ? 'all are held' : `"${holder}" has "${lease}" already`
          throw new ErrInvalid(`cannot claim any of ${leases.length} leases: ${reason}`, { lease, holder, reason })
        }
        if (outcome === 'late') {
          if (++lates >= MAX_ATTEMPTS) throw unsettledAny(claim, TOO_LATE)
          claim.nonce = this.#newNonce()
          delayMs = 0
        } else {
          if (this.#clock.monotonic() - startedMs > this.#timeoutMs) throw unsettledAny(claim, CONTENDED)
          delayMs = 1 + Math.random() * Math.min(50, 4 * tries)
        }
      } catch (error) {
        if (!(error instanceof LostCall)) throw error
        this.#link.closing.throwIfAborted()
        if (error.sent) this.#nowInDoubt(claim, error)
        if (++failures >= MAX_ATTEMPTS) throw unsettledAny(claim, error.message, error.cause)
        delayMs = failures === 1 ? 0 : backoffMs(failures - 1)
      } finally {
        this.#states.close(question)
      }
      if (delayMs > 0) await sleep(this.#clock, delayMs, this.#link.closing)
    }
  }

  // ── extend ────────────────────────────────────────────────────────────────────────────────────────────────────

  extendLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      const durationMs = checkRequest(lease, request)
      const { holder, value, announce } = request
      const { term } = options ?? {}
      if (term !== undefined) {
        const { fencingToken } = term
        return this.#demand(lease, signal, () => {
          const known = this.#states.get(lease)
          const seen = known?.version !== undefined && known.fencingToken === fencingToken ? known : undefined
          const op: ExtendOp = { kind: 'extend', lease, holder, fencingToken, durationMs, value, seen, announce }
          if (seen?.lapsedVersion(this.#time.read()) !== undefined) throw invalid(op, undefined)
          return op
        })
      }
      const make = (): ExtendOp | undefined => {
        const known = this.#states.get(lease)
        if (known === undefined || known.holder !== holder) return undefined
        const { fencingToken, version } = known
        const adoption = known.isSure ? undefined : { from: known.nonce, nonce: this.#newNonce() }
        const seen = version === undefined ? undefined : known
        const op: ExtendOp = {
          kind: 'extend',
          lease,
          holder,
          fencingToken,
          adoption,
          durationMs,
          value,
          seen,
          announce,
        }
        // A store without a clock cannot tell that the lease has lapsed; a client that observed it can, and must.
        if (known.lapsedVersion(this.#time.read()) !== undefined) throw invalid(op, undefined)
        return op
      }
      return this.#onTerm('extend', { lease, holder, signal }, make)
    })
  }

  renewLease(renewal: Renewal): void {
    const { closing } = this.#link
    if (closing.aborted) return queueMicrotask(() => renewal.failed(closing.reason))
    this.#inspectOnce()
    const known = this.#states.get(renewal.lease)
    const own = known?.fencingToken === renewal.fencingToken && known.holder === renewal.holder
    const op = new RenewalOp(renewal, own && known.version !== undefined ? known : undefined, this.#renewed)
    // Tokens rise: a later one says that this term is over. And of a store without a clock, observers must say it.
    if (known !== undefined && known.fencingToken > renewal.fencingToken) {
      queueMicrotask(() => this.#endRenewal(op, refused(known)))
    } else if (own && known.lapsedVersion(this.#time.read()) !== undefined) {
      queueMicrotask(() => this.#endRenewal(op, refused(undefined)))
    } else this.#renewals.enqueue(op)
  }

  readonly #renewed = (op: RenewalOp, verdict: Verdict | undefined): void => {
    if (isSettled(verdict)) this.#endRenewal(op, verdict)
    else {
      this.#settle(op, undefined, { first: verdict, through: this.#renewals }).then(
        (last) => this.#endRenewal(op, last.verdict),
        ({ error }: Unsettled) => op.renewal.failed(error),
      )
    }
  }

  #endRenewal(op: RenewalOp, { outcome, holding }: Verdict): void {
    if (outcome === 'granted') op.renewal.granted()
    else op.renewal.failed(invalid(op, holding))
  }

  // ── expire, release ───────────────────────────────────────────────────────────────────────────────────────────

  expireLease(lease: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      checkNames({ lease })
      return this.#demand(lease, signal, () => {
        const lapsed = this.#states.get(lease)?.lapsedVersion(this.#time.read())
        return { kind: 'expire', lease, lapsed }
      })
    })
  }

  releaseLease(lease: string, holder: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      checkNames({ lease, holder })
      const { term } = options ?? {}
      if (term !== undefined) return this.#demand(lease, signal, () => this.#releaseOf(lease, holder, term))
      return this.#onTerm('release', { lease, holder, signal }, () => {
        const known = this.#states.get(lease)
        return known?.holder === holder ? this.#releaseOf(lease, holder, known) : undefined
      })
    })
  }

  #releaseOf(lease: string, holder: string, { fencingToken, nonce }: TermId): Op {
    const known = this.#states.get(lease)
    const own = known?.fencingToken === fencingToken ? known : undefined
    if (own !== undefined) own.isSure = false
    const seen = own?.version === undefined || (nonce !== undefined && own.nonce !== nonce) ? undefined : own
    return { kind: 'release', lease, holder, fencingToken, nonce, seen }
  }

  /**
   * For a caller that knows the holder and not the term: acts on the term that this client last saw, reads the lease where
   * it saw none of this holder, and once more each time that the term turns out to be another one of the same holder.
   */
  async #onTerm(
    kind: 'extend' | 'release',
    {
      lease,
      holder,
      signal,
    }: { readonly lease: string; readonly holder: string; readonly signal: AbortSignal | undefined },
    make: () => Op | undefined,
  ): Promise<void> {
    const turn = this.#mutex.enter(lease)
    if (turn !== undefined) await turn
    try {
      for (let attempt = 1; ; attempt++) {
        throwIfAborted(signal)
        let op = make()
        if (op === undefined) {
          await this.#readNow(lease)
          op = make()
          if (op === undefined) {
            const known = this.#states.get(lease)
            if (kind === 'release' && known === undefined) return
            throw invalid({ kind, lease, holder }, known)
          }
        }
        const { verdict, doubt } = await this.#sent(op, signal)
        if (verdict.outcome === 'granted' && 'adoption' in op && op.adoption !== undefined) {
          this.#assure(lease, op.adoption.nonce)
        }
        if (verdict.outcome === 'granted' || isDone(op, verdict, doubt)) return
        if (verdict.holding?.holder !== holder || attempt >= MAX_ATTEMPTS) throw invalid(op, verdict.holding)
      }
    } finally {
      this.#mutex.leave(lease)
    }
  }

  // ── pins ──────────────────────────────────────────────────────────────────────────────────────────────────────

  pinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      checkNames({ lease, entity })
      return this.#demand(lease, signal, () => ({ kind: 'pin', lease, entity, generation: this.#newNonce() }))
    })
  }

  unpinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, async (signal) => {
      checkNames({ lease, entity })
      const turn = this.#mutex.enter(lease)
      if (turn !== undefined) await turn
      try {
        throwIfAborted(signal)
        const pinned = await this.#reading(`the pins of lease "${lease}"`, (call) =>
          this.#substrate.pinned(call, [lease]),
        )
        throwIfAborted(signal)
        // Also where there is none: a pin of this entity that is still under way must not come after its withdrawal.
        const generation = pinned.get(lease)?.get(entity) ?? NO_GENERATION
        await this.#sent({ kind: 'unpin', lease, entity, generation }, signal)
      } finally {
        this.#mutex.leave(lease)
      }
    })
  }

  pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#start(undefined, async () => {
      const pinned = await this.#reading<ReadonlyMap<string, Pins>>('the pinned leases', (call) =>
        this.#substrate.pinned(call),
      )
      const entities = new Map<string, readonly string[]>()
      for (const [lease, pins] of pinned) entities.set(lease, [...pins.keys()].toSorted())
      return entities
    })
  }

  // ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────

  leases(): ReadonlyMap<string, Info> {
    return this.#states.view
  }

  refresh(leases?: Iterable<string>): Promise<void> {
    return this.#start(undefined, async () => {
      if (leases === undefined) return this.#readAndLearn(undefined)
      const names = new Set(leases)
      for (const lease of names) checkNames({ lease })
      await Promise.all([...names].map((lease) => this.#readNow(lease)))
    })
  }

  async #readNow(lease: string): Promise<void> {
    const answer = await this.#reads.submit(lease)
    if (answer?.error !== undefined) throw answer.error
  }

  async #readNames(names: readonly string[]): Promise<readonly ReadAnswer[]> {
    try {
      await this.#readAndLearn([...new Set(names)])
      return names.map(() => ({ error: undefined }))
    } catch (error) {
      return names.map(() => ({ error: error as Error }))
    }
  }

  /** Reads these leases, or all, and those again whose answer is unclear. */
  async #readAndLearn(names: readonly string[] | undefined): Promise<void> {
    for (let open = names; ;) {
      const question = this.#states.open()
      try {
        const what =
          open === undefined ? 'the namespace' : open.length === 1 ? `lease "${open[0]}"` : `${open.length} leases`
        const asked = open
        const holdings = await this.#reading(what, (call) => this.#substrate.read(asked, call))
        const now = this.#time.read()
        const unclear: string[] = []
        for (const lease of asked ?? new Set([...this.#states.view.keys(), ...holdings.keys()])) {
          if (!this.#states.learn(lease, holdings.get(lease), { question, now })) unclear.push(lease)
        }
        if (unclear.length === 0) return
        open = unclear
      } finally {
        this.#states.close(question)
      }
    }
  }

  /** A read, tried again like any other operation: it changes nothing. */
  async #reading<T>(what: string, read: (call: Call) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#link.call(read)
      } catch (error) {
        this.#link.closing.throwIfAborted()
        if (!(error instanceof LostCall)) throw error
        if (attempt >= MAX_ATTEMPTS) {
          const reason = error.message
          throw new ErrUnknown(`could not read ${what}: ${reason}`, { reason, cause: error.cause })
        }
        if (attempt > 1) await sleep(this.#clock, backoffMs(attempt - 1), this.#link.closing)
      }
    }
  }

  // ── hints, end ────────────────────────────────────────────────────────────────────────────────────────────────

  subscribe(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => {
      try {
        listener(change)
      } catch (error) {
        process.emitWarning(error instanceof Error ? error : String(error), { type: 'LeaseListenerWarning' })
      }
    }
    this.#listeners.add(own)
    if (!this.#link.closing.aborted) {
      this.#unwatch ??= this.#substrate.watch?.((change) => {
        for (const notify of [...this.#listeners]) notify(change)
      })
    }
    return () => {
      this.#listeners.delete(own)
      if (this.#listeners.size === 0) this.#stopWatching()
    }
  }

  /** Gives up the calls in flight: they reject with `ErrUnknown`, reason `closed`, as every later call does. */
  async close(): Promise<void> {
    if (this.#link.closing.aborted) return
    this.#link.close(new ErrUnknown('the client was closed', { reason: 'closed' }))
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
    { heedsSignal = false, onOrphanedResult }: AbortBehavior<T> = {},
  ): Promise<T> {
    const signal = options?.signal
    try {
      this.#link.closing.throwIfAborted()
      checkSignal(signal)
      throwIfAborted(signal)
      this.#inspectOnce()
      return signal === undefined || heedsSignal ? body(signal) : abortable(body(signal), signal, onOrphanedResult)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #newNonce(): string {
    return `${this.#link.client}${(this.#nonces++).toString(36)}`
  }

  /** The caller learns that this nonce is the one of its term. */
  #assure(lease: string, nonce: string): void {
    const known = this.#states.get(lease)
    if (known?.nonce === nonce) known.isSure = true
  }

  /** Calls the body when it is its turn on this lease, at once if nothing else is. It must not throw, and leaves the mutex at its end. */
  #inTurn(lease: string, body: () => void): void {
    const turn = this.#mutex.enter(lease)
    if (turn === undefined) body()
    else void turn.then(body)
  }

  /**
   * Settles an operation in its turn; refused is `ErrInvalid`. Where all goes well, as it nearly always does, it takes one
   * promise: thousands of these are under way at once.
   *
   * @param make makes the operation when its turn has come, of what is known then; what it throws is the outcome
   */
  #demand(lease: string, signal: AbortSignal | undefined, make: () => Op): Promise<void> {
    return new Promise((resolve, reject) => {
      const fail = (error: unknown): void => {
        this.#mutex.leave(lease)
        reject(error)
      }
      this.#inTurn(lease, () => {
        try {
          const op = make()
          const finish = (verdict: Verdict, _sent: Op, doubt: InDoubt | undefined): void => {
            if (verdict.outcome !== 'granted' && !isDone(op, verdict, doubt)) return fail(invalid(op, verdict.holding))
            this.#mutex.leave(lease)
            resolve()
          }
          this.#send(op, signal, { finish, fail })
        } catch (error) {
          fail(error)
        }
      })
    })
  }

  #sent(op: Op, signal: AbortSignal | undefined): Promise<Settled> {
    return new Promise((resolve, reject) => {
      this.#send(op, signal, { finish: (verdict, sent, doubt) => resolve({ verdict, sent, doubt }), fail: reject })
    })
  }

  /** Sends the operation until it is granted or refused, or no more can be learned about it. */
  #send(item: Op, signal: AbortSignal | undefined, { finish, fail }: Listener): void {
    const settle = (verdict: Verdict | undefined): void => {
      if (isSettled(verdict)) finish(verdict, item, undefined)
      else {
        this.#settle(item, signal, { first: verdict, through: this.#ops }).then(
          (settled) => finish(settled.verdict, settled.sent, settled.doubt),
          ({ error, sent, doubt }: Unsettled) => fail(error, sent, doubt),
        )
      }
    }
    this.#ops.enqueue({ item, signal, settle })
  }

  /**
   * Sends the operation until it is granted or refused, or no more can be learned about it.
   *
   * @param first what became of it when it was sent first; undefined: it never was, for the signal aborted
   * @throws Unsettled
   */
  async #settle(
    op: Op,
    signal: AbortSignal | undefined,
    { first, through }: { readonly first: Verdict | undefined; readonly through: Coalescer<Op, Verdict> },
  ): Promise<Settled> {
    const startedMs = this.#clock.monotonic()
    let sent = op
    let doubt: InDoubt | undefined
    const unsettledBy = (error: unknown): Unsettled => ({ error, sent, doubt })
    let failures = 0
    let lates = 0
    for (let tries = 1; ; tries++) {
      const verdict = tries === 1 ? first : await through.submit(sent, signal)
      if (verdict === undefined) throw unsettledBy(signal?.reason)
      if (isSettled(verdict)) return { verdict, sent, doubt }
      if (this.#link.closing.aborted) throw unsettledBy(this.#link.closing.reason)

      let delayMs: number
      if (verdict.outcome === 'contended') {
        // Another request holds the row for the length of one statement: ask again soon, by jitter apart.
        if (this.#clock.monotonic() - startedMs > this.#timeoutMs) throw unsettledBy(unsettled(op, CONTENDED))
        delayMs = 1 + Math.random() * Math.min(50, 4 * tries)
      } else if (verdict.outcome === 'late') {
        if (++lates >= MAX_ATTEMPTS) throw unsettledBy(unsettled(op, TOO_LATE))
        sent = this.#afresh(sent)
        delayMs = 0
      } else {
        const lost = verdict.cause instanceof LostCall ? verdict.cause : undefined
        if (lost?.sent !== false) doubt = this.#doubtOf(doubt, lost)
        const cause = lost === undefined ? verdict.cause : lost.cause
        // A lease that has lapsed meanwhile needs no release.
        const isOver = op.kind === 'release' && this.#leftMs(op) <= 0
        if (++failures >= MAX_ATTEMPTS || isOver) throw unsettledBy(unsettled(op, reasonOf(cause), cause))
        delayMs = failures === 1 ? 0 : backoffMs(failures - 1)
      }
      if (delayMs > 0) await sleep(this.#clock, delayMs, this.#link.closing).catch(() => {})
      if (this.#link.closing.aborted) throw unsettledBy(this.#link.closing.reason)
    }
  }

  /** The same once more, as a request of its own. */
  #afresh(op: Op): Op {
    if (op.kind === 'claim') return { ...op, nonce: this.#newNonce() } satisfies ClaimOp
    if (op.kind === 'pin') return { ...op, generation: this.#newNonce() } satisfies PinOp
    return op
  }

  // ── doubt ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #doubtOf(before: InDoubt | undefined, lost: InDoubt | undefined): InDoubt {
    this.#link.beginEpoch()
    const ends = [before?.notAfterMs, lost?.notAfterMs].filter((endMs) => endMs !== undefined)
    return { notAfterMs: ends.length === 0 ? undefined : Math.max(...ends) }
  }

  #nowInDoubt(claim: ClaimAnyAttempt, lost: InDoubt): void {
    claim.doubt = this.#doubtOf(claim.doubt, lost)
  }

  /** The claim is given up: undoes at once what an attempt in doubt has done, and in the end what it may still do. */
  #cleanUp(claimed: Claimed & { readonly lease: string }, doubt: InDoubt | undefined): void {
    if (doubt === undefined) return
    this.#withdrawInTurn(claimed)
    if (doubt.notAfterMs === undefined) return // the store knows the new epoch by now
    this.#link.untilOver(doubt).then(
      () => this.#withdrawInTurn(claimed),
      () => {}, // closed
    )
  }

  #withdrawInTurn(claimed: Claimed & { readonly lease: string }): void {
    const { lease } = claimed
    this.#inTurn(lease, () => void this.#withdraw(claimed).finally(() => this.#mutex.leave(lease)))
  }

  #cleanUpAny({ leases, holder, nonce, doubt }: ClaimAnyAttempt): void {
    for (const lease of leases) this.#cleanUp({ lease, holder, nonce }, doubt)
  }

  /** Ends the term that this nonce opened, if it stands. Best effort: a claim that nobody will use should not keep others out. */
  async #withdraw({ lease, holder, nonce }: Claimed & { readonly lease: string }): Promise<void> {
    const known = this.#states.get(lease)
    if (known?.nonce === nonce) known.isSure = false
    const op: Op = { kind: 'release', lease, holder, fencingToken: undefined, nonce }
    await this.#sent(op, undefined).catch(() => {})
  }

  // ── round trips ───────────────────────────────────────────────────────────────────────────────────────────────

  async #apply(ops: readonly Op[]): Promise<readonly Verdict[]> {
    const question = this.#states.open()
    try {
      const verdicts = await this.#link.call((call) => this.#substrate.apply(ops, call), this.#timeoutFor(ops))
      if (!Array.isArray(verdicts) || verdicts.length !== ops.length) {
        const verdict = unknown(new Error(`the substrate gave no verdict for each of ${ops.length} operations`))
        return ops.map(() => verdict)
      }
      const now = this.#time.read()
      for (let index = 0; index < ops.length; index++) {
        const op = ops[index] as Op
        const verdict = verdicts[index] as Verdict
        if (!isSettled(verdict)) continue
        const granted = verdict.outcome === 'granted'
        const ended = 'fencingToken' in op ? op.fencingToken : undefined
        this.#states.learn(op.lease, verdict.holding, { question, now, ended, granted })
      }
      return verdicts
    } catch (error) {
      const verdict = unknown(error)
      return ops.map(() => verdict)
    } finally {
      this.#states.close(question)
    }
  }

  /** A lost answer must leave time to ask again before the shortest lease in the batch is over. */
  #timeoutFor(ops: readonly (Op | ClaimAnyOp)[]): number {
    let shortestMs = Number.POSITIVE_INFINITY
    for (const op of ops) {
      if ('durationMs' in op) shortestMs = Math.min(shortestMs, op.durationMs)
      else if (op.kind === 'release') shortestMs = Math.min(shortestMs, this.#leftMs(op))
    }
    return Math.min(this.#timeoutMs, Math.max(MIN_TIMEOUT_MS, Math.ceil(shortestMs / 3)))
  }

  /** How long the term of this release may still last, as far as is known. */
  #leftMs({ lease, fencingToken }: ReleaseOp): number {
    const known = this.#states.get(lease)
    return known === undefined || known.pinned || known.fencingToken !== fencingToken ? Infinity : known.lapsesInMs()
  }

  /** Asks once what the set-up weakens. A store that could not be asked is asked again, each time after twice as many calls. */
  #inspectOnce(): void {
    if (this.#inspectAfter === Number.POSITIVE_INFINITY || this.#inspectAfter-- > 0) return
    this.#inspectAfter = Number.POSITIVE_INFINITY
    const { inspect } = this.#substrate
    if (inspect === undefined) return
    this.#link
      .call((call) => inspect.call(this.#substrate, call))
      .then(
        (warnings) => warnings.forEach((warning) => this.events.emit({ type: 'warning', ...warning })),
        () => {
          this.#inspectAfter = this.#inspectAgainAfter
          this.#inspectAgainAfter *= 2
        },
      )
  }
}

interface ReadAnswer {
  readonly error: Error | undefined
}

/** A claim by what it did: enough to undo it. */
interface Claimed {
  readonly holder: string
  readonly nonce: string
}

/** A claim of any of several leases, over its attempts. */
interface ClaimAnyAttempt extends Omit<ClaimAnyOp, 'lapsed' | 'nonce'> {
  nonce: string
  doubt: InDoubt | undefined
}

/** Granted or refused; `sent` is the operation that it was at last, and `doubt` says whether an earlier attempt may still be executed. */
interface Settled {
  readonly verdict: Verdict
  readonly sent: Op
  readonly doubt: InDoubt | undefined
}

/** Why no more is learned about an operation. `doubt` is undefined where the store certainly never saw it. */
interface Unsettled {
  readonly error: unknown
  readonly sent: Op
  readonly doubt: InDoubt | undefined
}

interface Listener {
  readonly finish: (verdict: Verdict, sent: Op, doubt: InDoubt | undefined) => void
  readonly fail: (error: unknown, sent: Op, doubt: InDoubt | undefined) => void
}

/** Matches no pin. */
const NO_GENERATION = '-'
const CONTENDED = 'another request was always at it'
const TOO_LATE = 'it always reached the store too late'

/** Granted or refused: what became of it is known. */
function isSettled(verdict: Verdict | undefined): verdict is Verdict & { readonly outcome: 'granted' | 'refused' } {
  return verdict?.outcome === 'granted' || verdict?.outcome === 'refused'
}

/** A release that was refused for a later term, after an attempt whose answer was lost: its own term is over, and by that attempt for all that is known. */
function isDone(op: Op, { holding }: Verdict, doubt: InDoubt | undefined): boolean {
  if (op.kind !== 'release' || op.fencingToken === undefined || doubt === undefined) return false
  return holding !== undefined && holding.fencingToken > op.fencingToken
}

function invalid(
  op: { readonly kind: string; readonly lease: string; readonly holder?: string | undefined },
  holding: Holding | undefined,
): ErrInvalid {
  const { kind, lease, holder } = op
  const reason = holding === undefined ? 'vacant' : `held by "${holding.holder}"`
  return new ErrInvalid(`cannot ${kind} lease "${lease}": it is ${reason}`, { lease, holder, reason })
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

function unsettledAny({ leases, holder }: ClaimAnyAttempt, reason: string, cause?: unknown): ErrUnknown {
  const message = `could not claim any of ${leases.length} leases, it may have happened: ${reason}`
  return new ErrUnknown(message, { holder, reason, cause })
}

/** What a call does when its signal aborts. */
interface AbortBehavior<T> {
  /** It rejects by itself when the signal aborts. */
  readonly heedsSignal?: boolean
  /** Takes a result that came after the caller was told of the abort. */
  readonly onOrphanedResult?: (value: T) => void
}

/** The promise's outcome, or the signal's reason if that comes first. */
function abortable<T>(promise: Promise<T>, signal: AbortSignal, onOrphanedResult?: (value: T) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    let aborted = false
    const stopListening = onAbort(signal, () => {
      aborted = true
      reject(signal.reason as Error)
    })
    promise.then((value) => (aborted ? onOrphanedResult?.(value) : resolve(value)), reject).finally(stopListening)
  })
}

/** Signals of a polyfill may lack the method of this name. */
function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw signal.reason
}
