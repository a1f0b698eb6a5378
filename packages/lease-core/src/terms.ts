/**
 * The terms of one process: the one place that decides which term a grant belongs to. All managers over one client share it, and
 * with it the queue of each lease: what opens or ends a term waits for its turn there, so an answer never meets a request that was
 * sent after it.
 *
 * While anything is held, the clocks are compared once a second: timers count the monotonic clock only, and a machine that was
 * suspended, or whose wall clock was set, finds out here.
 */
import { TimerQueue, type Deadline } from './timer-queue.ts'
import type { Client } from './client.ts'
import type { Clock } from './clock.ts'
import { CompactingMap } from './compacting-map.ts'
import { elapsedTimeOf, RecentReading, type ClockReading, type ElapsedTime } from './elapsed-time.ts'
import { notValid } from './errors.ts'
import { KeyedMutex } from './keyed-mutex.ts'
import { Term, type GrantedTerm, type TermEnd, type TermHold, type TermHost } from './term.ts'
import { queueMicrotask } from './turns.ts'

/** How often the clocks are compared while anything is held. */
const WATCH_MS = 1_000
/** Below this many entries terms that are over are not looked for. */
const SWEEP_FLOOR = 1024

const registries = new WeakMap<Client, Terms>()

export class Terms {
  readonly recent: RecentReading
  /** One turn after the other, by lease. */
  readonly #mutex = new KeyedMutex()
  /** For everything that managers over this client wait for: one timer for all. */
  readonly timers: TimerQueue
  readonly #clock: Clock
  /** Managers that have not been stopped. */
  #managers = 0
  readonly #time: ElapsedTime
  /** Of each lease the latest term, also when it is over and the store may not know. */
  readonly #terms = new CompactingMap<Term>()
  readonly #host: TermHost = {
    at: (term, timeMs) => this.timers.at(term, timeMs),
    off: (term) => this.timers.off(term),
    end: (term, end) => this.end(term, end),
  }
  readonly #watch: Deadline = { wakeAtMs: -1, slot: 0, urgent: true, wake: () => this.#compareClocks() }
  /** Managers whose waiters are to look when a lease may have become vacant here. */
  readonly #vacancyListeners = new Set<(lease: string) => void>()
  /** How many terms have Holds. */
  #held = 0
  #apartMs = 0
  #sharedNow: ClockReading | undefined
  #sweepAt = SWEEP_FLOOR

  constructor(clock: Clock) {
    this.#clock = clock
    this.#time = elapsedTimeOf(clock)
    this.recent = new RecentReading(clock)
    this.timers = new TimerQueue(clock)
  }

  /**
   * Those of this client, for one more manager, which calls `leaveRegistry` when it stops.
   *
   * @throws ErrNotValid another manager of this client measures them by another clock: readings of two clocks cannot be compared
   */
  static join(client: Client, clock: Clock): Terms {
    let terms = registries.get(client)
    if (terms !== undefined && terms.#clock !== clock) {
      if (terms.#managers > 0) {
        const rule = 'must be the very Clock that the other managers of this client have'
        throw notValid([{ argument: 'clock', rule, value: clock }])
      }
      terms = undefined
    }
    if (terms === undefined) registries.set(client, (terms = new Terms(clock)))
    terms.#managers++
    return terms
  }

  /** One of the managers stops. */
  leaveRegistry(): void {
    this.#managers--
  }

  /** Now. */
  readClock(): ClockReading {
    return this.#time.read()
  }

  /** Now, read once for all that one answer sets going: reading two clocks for each of a thousand takes its time. */
  now(): ClockReading {
    if (this.#sharedNow === undefined) {
      this.#sharedNow = this.#time.read()
      queueMicrotask(() => (this.#sharedNow = undefined))
    }
    return this.#sharedNow
  }

  /** The term that lives here. */
  get(lease: string): Term | undefined {
    const term = this.#terms.get(lease)
    return term?.ended === undefined ? term : undefined
  }

  /** The latest term, also one that is over. */
  latest(lease: string): Term | undefined {
    return this.#terms.get(lease)
  }

  /** The terms that have Holds. */
  *held(): Generator<Term> {
    for (const term of this.#terms.values()) if (term.isHeld) yield term
  }

  /** A claim was granted: it goes on with the term that lives here, if it is the same, and otherwise ends that one. */
  granted(lease: string, grant: GrantedTerm): Term {
    const known = this.get(lease)
    if (known !== undefined && known.holder === grant.holder && known.fencingToken === grant.fencingToken) {
      known.extend(grant, grant.nonce)
      return known
    }
    if (known !== undefined) this.end(known, { reason: 'taken' })
    const term = new Term(this.#host, lease, grant)
    this.#terms.set(lease, term)
    if (this.#terms.size > this.#sweepAt) this.#sweep()
    return term
  }

  /** The term is over. Unless the store is known to have ended it, it is remembered, so that no read revives it. */
  end(term: Term, end: TermEnd): void {
    if (term.ended !== undefined) return
    if (term.isHeld) this.#unheld()
    term.end(end)
    if (end.isSent !== true) this.forget(term)
  }

  /** The store has ended the term. */
  forget(term: Term): void {
    if (this.#terms.get(term.lease) === term) this.#terms.delete(term.lease)
  }

  addHold(term: Term, hold: TermHold, now: ClockReading): void {
    if (!term.isHeld && this.#held++ === 0) this.#watchClocks(this.#time.read())
    term.addHold(hold, now)
  }

  removeHold(term: Term, hold: TermHold): void {
    if (!term.isHeld) return
    term.removeHold(hold)
    if (!term.isHeld) this.#unheld()
  }

  // ── vacancies ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** Of every manager over this client: the waiters of one stand back while a Hold of another has the lease. Returns how to stop. */
  whenVacated(listener: (lease: string) => void): () => void {
    this.#vacancyListeners.add(listener)
    return () => void this.#vacancyListeners.delete(listener)
  }

  /** The lease may be free: a Hold of this process has ended, or it was released or revoked here. */
  vacated(lease: string): void {
    for (const listener of [...this.#vacancyListeners]) listener(lease)
  }

  // ── turns ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Begins a turn on this lease. Undefined: now; otherwise when the promise resolves. `leave` ends it. */
  enter(lease: string): Promise<void> | undefined {
    return this.#mutex.enter(lease)
  }

  leave(lease: string): void {
    this.#mutex.leave(lease)
  }

  // ── clocks ────────────────────────────────────────────────────────────────────────────────────────────────────

  #unheld(): void {
    if (--this.#held === 0) this.timers.off(this.#watch)
  }

  #watchClocks(now: ClockReading): void {
    this.#apartMs = now.atMostMs - now.monotonicMs
    this.timers.at(this.#watch, Math.ceil(now.monotonicMs + WATCH_MS))
  }

  #compareClocks(): void {
    const before = this.#apartMs
    const now = this.#time.read()
    this.#watchClocks(now)
    if (this.#apartMs - before <= 1) return
    for (const term of [...this.held()]) term.wake(now)
  }

  #sweep(): void {
    const now = this.recent.take()
    for (const [lease, term] of this.#terms) if (!term.isHeld && term.leftMs(now) <= 0) this.#terms.delete(lease)
    this.#sweepAt = Math.max(SWEEP_FLOOR, 2 * this.#terms.size)
  }
}
