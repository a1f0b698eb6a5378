/**
 * The Client over any Substrate. It does, for every store:
 *
 * - *Validation*: an adapter never sees a bad name, duration or value.
 * - *Terms*: each request names its term. A claim has a nonce, the same in its retries, so that a retry recognises its own grant. A term
 *   that another client opened, or that this client may have ended, is adopted before it is extended: a new nonce replaces the old one, and
 *   a release in flight then does nothing.
 * - *Order* (`keyed-mutex.ts`): operations on one lease are sent one after another. Renewals neither open nor end a term, so they do not wait.
 * - *Outcomes* (`settlement.ts`): granted resolves; refused is `ErrInvalid`, and `leases()` shows the state that forbids it; anything else is
 *   retried, and then `ErrUnknown`.
 * - *Round trips* (`round-trips.ts`, `coalescer.ts`), their deadlines and epochs (`store-link.ts`).
 * - *The snapshot* (`lease-states.ts`): what the answers showed, by lease, in the order of the store.
 */
import type { DurationLike } from 'luxon'
import { checkSignal, onAbort, throwIfAborted } from './abort-signal.ts'
import { contentionPauseMs } from './backoff.ts'
import { CountedLeases } from './counted-leases.ts'
import type {
  Client,
  ClientCallOptions,
  CountedClient,
  LeaseChange,
  RefreshOptions,
  Renewal,
  ShareRefusal,
  SubscribeOptions,
  TermId,
} from './client.ts'
import { sleep, systemClock, type Clock } from './clock.ts'
import { elapsedTimeOf, type ElapsedTime } from './elapsed-time.ts'
import { ErrUnknown, notValid } from './errors.ts'
import { LeaseEvents, type StoreName } from './events.ts'
import { Hints } from './hints.ts'
import { KeyedMutex } from './keyed-mutex.ts'
import { LeaseStates } from './lease-states.ts'
import { checkNames, checkRequest, UNREADABLE, type Info, type Request, type TermAware } from './lease.ts'
import { parseSubstrateClientOptions } from './options.ts'
import { PassingOver } from './passing-over.ts'
import { RenewalOp } from './renewal-op.ts'
import { isSettled, MAX_ATTEMPTS, RoundTrips } from './round-trips.ts'
import { invalid, isDone, Settlement, type Unsettled } from './settlement.ts'
import { countedOf, MAX_CAPACITY } from './share.ts'
import { LostCall, StoreLink, type InDoubt } from './store-link.ts'
import type { Ticket } from './ticket.ts'
import {
  refused,
  type ClaimOp,
  type Counted,
  type ExtendOp,
  type LeaveOp,
  type Op,
  type PassOverOp,
  type Pins,
  type ShareOp,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from './substrate.ts'
import { queueMicrotask } from './turns.ts'

/** Options of a SubstrateClient. */
export interface SubstrateClientOptions {
  /** The adapter. `close()` closes it. */
  readonly substrate: Substrate
  /** @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Where warnings about the set-up of the store are emitted. @default a stream of its own: `events` */
  readonly events?: LeaseEvents | undefined
  /**
   * How long one round trip may take; then its answer counts as lost. A claim or an extension waits at most a third of its duration, but at
   * least 250 ms, so that there is time for a retry. A number is in milliseconds. @default 5 seconds
   */
  readonly requestTimeout?: DurationLike | undefined
}

/** A Client over a Substrate: see the head of this file. */
export class SubstrateClient implements Client {
  /** Emits warnings about the set-up of the store. */
  readonly events: LeaseEvents
  readonly store: StoreName | undefined
  readonly hintDelayMs: Client['hintDelayMs']
  readonly unwatch: Client['unwatch']
  readonly counted: CountedClient | undefined
  readonly waiting: ((lease: string) => Promise<number>) | undefined
  readonly #substrate: Substrate
  readonly #clock: Clock
  readonly #time: ElapsedTime
  readonly #link: StoreLink
  readonly #mutex = new KeyedMutex()
  readonly #states: LeaseStates
  readonly #trips: RoundTrips
  readonly #settlement: Settlement
  readonly #counted: CountedLeases | undefined
  /** What this client asked for, and what happens in the whole namespace. */
  readonly #ownHints: Hints
  readonly #allHints: Hints
  readonly #passing: PassingOver
  /** For whom each lease is watched. */
  readonly #watched = new Map<string, Set<object>>()
  /** What the store does not certainly know yet. */
  readonly #leaving = new Set<LeaveOp>()
  /** How many calls until the set-up is inspected, and how many more if that fails. */
  #inspectAfter = 0
  #inspectAgainAfter = 1

  constructor(options: SubstrateClientOptions) {
    const { substrate, clock, events, requestTimeoutMs } = parseSubstrateClientOptions(options)
    this.#substrate = substrate
    this.store = substrate.store
    this.hintDelayMs = substrate.hintDelayMs
    this.events = events ?? new LeaseEvents()
    this.#clock = clock ?? systemClock
    this.#time = elapsedTimeOf(this.#clock)
    const own = { substrate, clock: this.#clock, time: this.#time, timeoutMs: requestTimeoutMs }
    this.#link = new StoreLink({ ...own, warn: (warning) => this.warn(warning) })
    this.#states = new LeaseStates(own)
    const told = (lease: string, place: number): void => this.#passing.told(lease, place, this.#states.get(lease))
    const parts = { ...own, link: this.#link, states: this.#states, events: this.events, told }
    this.#trips = new RoundTrips(parts)
    this.#settlement = new Settlement({ ...parts, trips: this.#trips, mutex: this.#mutex })
    const { client } = this.#link
    this.#passing = new PassingOver(this.#clock, substrate.hintDelayMs ?? 0, (lease, place, before) => {
      const known = this.#states.get(lease)
      if (known !== undefined && known !== before) return // somebody has come, by what was learned since
      this.#inTurn(lease, () => this.#sendOnce({ kind: 'passOver', lease, place }, () => this.#mutex.leave(lease)))
    })
    this.#ownHints = new Hints((listener) => {
      const stop = substrate.watch?.(listener, client)
      if (stop === undefined) return undefined
      return () => {
        stop()
        // Without a manager nobody is there to see to it that those who were notified come.
        this.#passing.close()
      }
    })
    this.#allHints = new Hints((listener) => substrate.watch?.(listener))
    if (substrate.watch !== undefined) this.unwatch = (lease, watcher) => this.#unwatch(lease, watcher)
    const waiting = substrate.waiting?.bind(substrate)
    if (waiting !== undefined) {
      this.waiting = (lease) =>
        this.#start(undefined, () =>
          this.#trips.ask(`the queue of "${lease}"`, (call) => waiting(countedOf(lease) ?? lease, call)),
        )
    }
    const read = substrate.counted?.bind(substrate)
    if (read !== undefined) {
      const { trips, settlement, mutex } = { trips: this.#trips, settlement: this.#settlement, mutex: this.#mutex }
      const counted = new CountedLeases({ ...parts, trips, settlement, mutex, read })
      this.#counted = counted
      this.counted = {
        read: (name) => this.#start(undefined, () => counted.read(name)),
        define: (name, definition, options) =>
          this.#start(options, (signal) => counted.define(name, definition, signal)),
        blocking: (name) => counted.blocking(name),
      }
    }
  }

  /** Emits a `warning` event, with the page of the store. */
  warn(warning: SubstrateWarning): void {
    const { page } = this.#substrate
    this.events.emit({ type: 'warning', ...this.store, ...(page !== undefined && { page }), ...warning })
  }

  // ── claim ─────────────────────────────────────────────────────────────────────────────────────────────────────

  claimLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    const body = (signal: AbortSignal | undefined): Promise<void> => {
      const durationMs = checkRequest(lease, request)
      const { holder, value, announce, share } = request
      const counted = this.#countedOf(lease, request)
      return new Promise((resolve, reject) => {
        let aborted = false
        // Here and nowhere else it is decided whether the caller learns of the grant or of the abort.
        const stopListening = onAbort(signal, () => {
          aborted = true
          reject(signal?.reason as Error)
        })
        const end = (error: unknown): void => {
          stopListening()
          reject(error)
        }
        const { ticket, maxWaiters } = options ?? {}
        this.#inTurns(lease, counted, () => {
          const lapsed = this.#states.get(lease)?.lapsedVersion(this.#time.read())
          const nonce = this.#settlement.newNonce()
          const place = ticket?.place
          const op: ClaimOp = {
            kind: 'claim',
            lease,
            holder,
            durationMs,
            nonce,
            value,
            lapsed,
            announce,
            place,
            maxWaiters: place === 0 ? maxWaiters : undefined,
            share:
              share === undefined || counted === undefined
                ? undefined
                : {
                    weight: share.weight,
                    capacity: share.capacity,
                    passing: share.ahead === true ? MAX_CAPACITY : (ticket?.passing ?? 0),
                    lapsed: this.#counted?.lapsed(counted) ?? new Map(),
                  },
          }
          this.#settlement.send(op, signal, {
            finish: (verdict, sent, doubt) => {
              const { outcome, holding } = verdict
              if (ticket !== undefined) {
                if (!aborted) learnTicket(ticket, verdict)
                else if (ticket.place === 0 && verdict.ticket !== undefined) {
                  this.leaveQueue(counted ?? lease, verdict.ticket)
                }
              }
              const waits = ticket !== undefined && !aborted
              if (counted !== undefined) this.#counted?.learn(counted, verdict, { waits })
              if (outcome === 'granted') {
                stopListening()
                if (counted === undefined) this.#passing.taken(lease)
                else if (share?.ahead !== true) this.#passing.taken(counted, place)
                if (aborted) {
                  // The next operation on the lease comes after its end.
                  void this.#settlement.withdraw(sent as ClaimOp).finally(() => this.#leaveTurns(lease, counted))
                  return
                }
                const { nonce } = sent as ClaimOp
                this.#assure(lease, nonce)
                if (holding !== undefined) options?.onGranted?.({ fencingToken: holding.fencingToken, nonce })
                this.#leaveTurns(lease, counted)
                return resolve()
              }
              this.#leaveTurns(lease, counted)
              this.#settlement.cleanUp(sent as ClaimOp, doubt)
              if (verdict.counted !== undefined) {
                const { capacity, shares } = verdict.counted
                // The only share there is has been taken since.
                if (counted !== undefined && capacity === 1 && shares.size > 0) this.#passing.taken(counted)
                if (waits && op.share !== undefined) this.#expireLapsed(shares, op.share)
                options?.onRefused?.(this.#refusalOf(verdict.counted))
              }
              const refusal = invalid(op, verdict.holding, verdict.counted)
              if (this.#isOpen(lease, verdict)) this.#trips.read(lease).then(() => end(refusal), end)
              else end(refusal)
            },
            fail: (error, sent, doubt) => {
              this.#leaveTurns(lease, counted)
              this.#settlement.cleanUp(sent as ClaimOp, doubt)
              end(error)
            },
          })
        })
      })
    }
    return this.#start(options, body, { heedsSignal: true })
  }

  /** The counted lease of a share. @throws ErrNotValid unless exactly a share is claimed as one */
  #countedOf(lease: string, { holder, share }: Request): string | undefined {
    const counted = countedOf(lease)
    if (share === undefined) {
      if (counted === undefined) return undefined
      throw notValid([{ argument: 'lease', rule: 'must not contain any of . # $', value: lease }], { lease, holder })
    }
    if (this.#counted === undefined) {
      throw notValid([{ argument: 'share', rule: 'needs a store that keeps counted leases', value: share }])
    }
    if (counted === undefined || lease !== counted + holder) {
      throw notValid([{ argument: 'lease', rule: 'must be the share of this holder', value: lease }], { lease, holder })
    }
    return counted
  }

  /**
   * On a store without a clock a waiter expires the shares that it has observed to lapse. As long as the store has such a share, a release by
   * another holder seems to leave no room, and notifies nobody.
   */
  #expireLapsed(shares: Counted['shares'], { lapsed }: ShareOp): void {
    let left = MOST_EXPIRED
    for (const [share, { version, pinned }] of shares) {
      if (pinned || version === undefined || lapsed.get(share) !== version) continue
      if (left-- === 0) return
      this.expireLease(share).catch(nothing) // the next refusal tries again
    }
  }

  #refusalOf({ capacity, shares }: Counted): ShareRefusal {
    let blocking: (Info & TermAware) | undefined
    for (const share of shares.keys()) {
      const state = this.#states.get(share)
      if (state !== undefined && (blocking === undefined || state.lapsesInMs() < blocking.lapsesInMs()))
        blocking = state
    }
    return { capacity, blocking }
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
        const adoption = known.isSure ? undefined : { from: known.nonce, nonce: this.#settlement.newNonce() }
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
      return this.#onTerm('extend', { lease, holder, signal, onGranted: options?.onGranted }, make)
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
    } else this.#trips.renewals.enqueue(op)
  }

  readonly #renewed = (op: RenewalOp, verdict: Verdict | undefined): void => {
    if (isSettled(verdict)) this.#endRenewal(op, verdict)
    else {
      this.#settlement.goOn(op, undefined, verdict, this.#trips.renewals).then(
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
    { lease, holder, signal, onGranted }: ClientCallOptions & { readonly lease: string; readonly holder: string },
    make: () => Op | undefined,
  ): Promise<void> {
    const turn = this.#mutex.enter(lease)
    if (turn !== undefined) await turn
    try {
      for (let attempt = 1; ; attempt++) {
        throwIfAborted(signal)
        let op = make()
        if (op === undefined) {
          await this.#trips.read(lease)
          op = make()
          if (op === undefined) {
            const known = this.#states.get(lease)
            if (kind === 'release' && known === undefined) return
            throw invalid({ kind, lease, holder }, known)
          }
        }
        const sure = this.#states.get(lease)?.nonce
        const { verdict, doubt } = await this.#settlement.sent(op, signal)
        if (verdict.outcome === 'granted' && op.kind === 'extend') {
          // Another client of this holder has adopted the term, and its release may be under way.
          const isOthers = op.adoption === undefined && verdict.holding?.nonce !== sure
          if (isOthers && attempt < MAX_ATTEMPTS) continue
          const nonce = op.adoption?.nonce ?? verdict.holding?.nonce
          if (op.adoption !== undefined) this.#assure(lease, op.adoption.nonce)
          onGranted?.({ fencingToken: op.fencingToken, nonce })
        }
        if (verdict.outcome === 'granted' || isDone(op, verdict, doubt)) return
        if (verdict.holding?.holder === holder && attempt < MAX_ATTEMPTS) continue
        if (this.#isOpen(lease, verdict)) await this.#trips.read(lease)
        throw invalid(op, verdict.holding)
      }
    } finally {
      this.#mutex.leave(lease)
    }
  }

  // ── pins ──────────────────────────────────────────────────────────────────────────────────────────────────────

  pinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, (signal) => {
      checkNames({ lease, entity })
      return this.#demand(lease, signal, () => ({
        kind: 'pin',
        lease,
        entity,
        generation: this.#settlement.newNonce(),
      }))
    })
  }

  unpinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void> {
    return this.#start(options, async (signal) => {
      checkNames({ lease, entity })
      const turn = this.#mutex.enter(lease)
      if (turn !== undefined) await turn
      try {
        throwIfAborted(signal)
        const pinned = await this.#trips.ask(`the pins of lease "${lease}"`, (call) =>
          this.#substrate.pinned(call, [lease]),
        )
        throwIfAborted(signal)
        // Also where there is none: a pin of this entity that is still under way must not come after its withdrawal.
        const generation = pinned.get(lease)?.get(entity) ?? NO_GENERATION
        const lapsed = this.#states.get(lease)?.unpinnedVersion(this.#time.read())
        await this.#settlement.sent({ kind: 'unpin', lease, entity, generation, lapsed }, signal)
      } finally {
        this.#mutex.leave(lease)
      }
    })
  }

  pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    return this.#start(undefined, async () => {
      const pinned = await this.#trips.ask<ReadonlyMap<string, Pins>>('the pinned leases', (call) =>
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

  refresh(leases?: Iterable<string>, { watcher }: RefreshOptions = {}): Promise<void> {
    return this.#start(undefined, async () => {
      if (leases === undefined) return this.#trips.readAll(undefined)
      if (typeof leases !== 'object' || leases === null || typeof leases[Symbol.iterator] !== 'function') {
        throw notValid([{ argument: 'leases', rule: 'must be a list of names', value: leases }])
      }
      const names = new Set(leases)
      for (const lease of names) checkNames({ lease })
      const watches = watcher !== undefined && this.unwatch !== undefined
      if (watches) {
        for (const lease of names) this.#watched.set(lease, (this.#watched.get(lease) ?? new Set()).add(watcher))
      }
      await Promise.all([...names].map((lease) => this.#trips.read(lease, { watches })))
    })
  }

  async refreshOver(lease: string, trapdoorKey: unknown): Promise<boolean> {
    this.#link.closing.throwIfAborted()
    const question = this.#states.open()
    try {
      const holdings = await this.#substrate.readOver?.(trapdoorKey, lease)
      if (holdings === undefined) return false
      return this.#states.learn(lease, holdings.get(lease), { question, now: this.#time.read() })
    } finally {
      this.#states.close(question)
    }
  }

  // ── hints, end ────────────────────────────────────────────────────────────────────────────────────────────────

  subscribe(listener: (change: LeaseChange) => void, { own = false }: SubscribeOptions = {}): () => void {
    const hints = own ? this.#ownHints : this.#allHints
    return hints.listen(listener)
  }

  #unwatch(lease: string, watcher: object): void {
    const watchers = this.#watched.get(lease)
    if (watchers?.delete(watcher) !== true || watchers.size > 0) return
    this.#watched.delete(lease)
    this.#leave(lease, undefined)
  }

  leaveQueue(lease: string, { place }: Pick<Ticket, 'place'>): void {
    this.#counted?.forget(lease)
    if (place > 0) this.#leave(lease, place)
  }

  /** The store is notified when its turn comes; whatever is lost of it, the store forgets by itself. */
  #leave(lease: string, place: number | undefined): void {
    if (this.#link.closing.aborted) return
    const op: LeaveOp = { kind: 'leave', lease, place }
    this.#leaving.add(op)
    const end = (): void => {
      this.#leaving.delete(op)
      this.#mutex.leave(lease)
    }
    this.#inTurn(lease, () => {
      if (place === undefined && this.#watched.has(lease)) return end() // another watches it by now
      this.#sendOnce(op, (verdict) => {
        end()
        if (place !== undefined) return
        this.#lookAgain(lease)
        const { cause } = verdict ?? {}
        if (!(cause instanceof LostCall) || cause.notAfterMs === undefined) return
        this.#link.untilOver(cause).then(() => this.#lookAgain(lease), nothing) // it may still be executed until then
      })
    })
  }

  /** The end of a watch may have ended one that began in the meantime: its watcher reads once more. */
  #lookAgain(lease: string): void {
    if (this.#watched.has(lease)) this.#ownHints.tell({ kind: 'vacated', lease })
  }

  /** What need not succeed must keep nobody waiting for long: it is asked for again only where somebody else was at it. */
  #sendOnce(item: LeaveOp | PassOverOp, end: (verdict?: Verdict) => void, tries: number = 1): void {
    const settle = (verdict: Verdict | undefined): void => {
      if (verdict?.outcome !== 'contended' || tries >= MAX_ATTEMPTS) return end(verdict)
      const again = (): void => this.#sendOnce(item, end, tries + 1)
      sleep(this.#clock, contentionPauseMs(tries), this.#link.closing).then(again, () => end())
    }
    this.#trips.operations.enqueue({ item, signal: undefined, settle })
  }

  /**
   * Gives up the calls in flight: they reject with `ErrUnknown`, reason `closed`, as every later call does. The store learns who has
   * left, and which claims nobody waits for any more; it forgets by itself what does not reach it.
   */
  async close(): Promise<void> {
    if (this.#link.closing.aborted) return
    const leaving = [...this.#leaving]
    const withdrawals = this.#settlement.withdrawals()
    this.#link.close(new ErrUnknown('the client was closed', { reason: 'closed' }))
    this.#passing.close()
    for (const hints of [this.#ownHints, this.#allHints]) hints.close()
    await Promise.allSettled([...this.#lastly(leaving), ...this.#lastly(withdrawals)])
    await this.#substrate.close()
  }

  /** Of different leases, in as many batches as it takes. */
  #lastly(ops: readonly Op[]): readonly Promise<unknown>[] {
    const { maxOps } = this.#substrate.limits
    const batches: Promise<unknown>[] = []
    for (let from = 0; from < ops.length; from += maxOps) {
      const batch = ops.slice(from, from + maxOps)
      batches.push(this.#link.lastly((call) => this.#substrate.apply(batch, call), LEAVING_MS))
    }
    return batches
  }

  // ── one call ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** What every call shares: it never throws synchronously, refuses after close, and rejects when its signal aborts. */
  #start<T>(
    options: ClientCallOptions | undefined,
    body: (signal: AbortSignal | undefined) => Promise<T>,
    { heedsSignal = false } = {},
  ): Promise<T> {
    try {
      this.#link.closing.throwIfAborted()
      const signal = signalOf(options)
      throwIfAborted(signal)
      this.#inspectOnce()
      return signal === undefined || heedsSignal ? body(signal) : abortable(signal, body)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** A refusal said "vacant", and an answer that overlapped it showed a holder: who has the lease now is open, and must be read. */
  #isOpen(lease: string, { holding }: Verdict): boolean {
    return holding === undefined && this.#states.get(lease) !== undefined
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

  /** The same for a share: on it, and on its counted lease. Left by `#leaveTurns`. */
  #inTurns(lease: string, counted: string | undefined, body: () => void): void {
    this.#inTurn(lease, counted === undefined ? body : () => this.#inTurn(counted, body))
  }

  #leaveTurns(lease: string, counted: string | undefined): void {
    if (counted !== undefined) this.#mutex.leave(counted)
    this.#mutex.leave(lease)
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
          this.#settlement.send(op, signal, { finish, fail })
        } catch (error) {
          fail(error)
        }
      })
    })
  }

  /** Asks once what the set-up weakens. A store that could not be asked is asked again, each time after twice as many calls. */
  #inspectOnce(): void {
    if (this.#inspectAfter === Number.POSITIVE_INFINITY || this.#inspectAfter-- > 0) return
    this.#inspectAfter = Number.POSITIVE_INFINITY
    if (this.#substrate.inspect === undefined) return
    this.#link
      .call((call) => this.#substrate.inspect?.(call) ?? Promise.resolve([]))
      .then((warnings) => warnings.forEach((warning) => this.warn(warning)))
      .catch(() => {
        this.#inspectAfter = this.#inspectAgainAfter
        this.#inspectAgainAfter *= 2
      })
  }
}

/** Takes over what the store says of the ticket of a claim. */
function learnTicket(ticket: Ticket, { outcome, ticket: place, isFull = false }: Verdict): void {
  ticket.isFull = isFull
  if (outcome === 'granted') ticket.place = ticket.ahead = 0
  else if (place !== undefined) {
    ticket.place = place.place
    ticket.ahead = place.ahead
  }
}

function nothing(): void {}

/** Matches no pin. */
const NO_GENERATION = '-'

/** How many lapsed shares a waiter expires after one refusal. */
const MOST_EXPIRED = 100

/** How long a client waits at its end until the store has heard who leaves, and what is withdrawn. */
const LEAVING_MS = 1000

/** @throws ErrNotValid */
function signalOf(options: ClientCallOptions | undefined): AbortSignal | undefined {
  let signal: AbortSignal | undefined
  try {
    signal = options?.signal
  } catch {
    throw notValid([{ argument: 'options', rule: UNREADABLE, value: options }])
  }
  checkSignal(signal)
  return signal
}

/** The outcome of the body, or the signal's reason if that comes first. The body is not called if one cannot listen to the signal. */
function abortable<T>(signal: AbortSignal, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const stopListening = onAbort(signal, () => reject(signal.reason as Error))
    try {
      body(signal).then(resolve, reject).finally(stopListening)
    } catch (error) {
      stopListening()
      reject(error)
    }
  })
}
