/**
 * The queue of those who wait for a lease: some want to see it vacant (`wait`), some want to see every state of it (`observe`),
 * others want to hold it (`contend`).
 *
 * Two kinds of looks: a *read* for those who watch, a *claim* for the first of those who want to hold the lease. For each
 * lease one look is in flight at a time, and each kind has the time at which it is due:
 *
 *     at once            somebody joins, the first waiter or one with a claim in flight leaves, hints may have been lost (`lookAtAll`)
 *     turn               after "vacated": at once for a read, when the waiter's ticket says so for a claim (`ticket.ts`)
 *     lapse (+ turn)     when what the last look found lapses
 *     retry              after a look that failed, with pauses that grow up to a second
 *     maxSleep           after the last look, whatever was heard since; at most a minute, for a look renews what the store
 *                        remembers of those who wait
 *
 * - A hint changes nothing of what is known. It makes a look due earlier. The one exception: "taken" takes one "vacated" back
 *   while the waiter is not due yet, for its claim would be refused. Lapse, retry and maxSleep stay, and the waiter looks after
 *   `LOOK_AGAIN_MS`. A "taken" that was heard before, or that contradicts the ticket, takes nothing back.
 * - "Vacated" and "taken" are counted, because they may overtake each other. What is heard while a claim is in flight is
 *   handled after its answer, which tells the ticket.
 * - The turn is counted from the oldest vacancy that nobody is known to have taken. A grant past the queue is not announced,
 *   so the next vacancy says nothing about the one before, and puts nothing off.
 * - Each waiter is notified by its ticket. Watchers of a vacancy or a change, and waiters for any of several leases or at a store
 *   without queues, are notified because what they read is watched: from the state on that they saw.
 * - So a lease that was vacated is claimed by one of its waiters within the delay of the hint, `MOST_SLOTS` slots and one
 *   claim. Without the hint: when the known holding lapses, or after maxSleep.
 * - Waiters are served first come, first served. Only the first of them claims, and only while no other holder of this process
 *   has the lease. Exception: a waiter whose own holder got the lease in this process is decided at once.
 * - Those of this process are counted from the first refusal on: by then the store has said how many are ahead, or keeps no queue.
 *   Until then nobody is denied for `maxWaiters` but by the store, and nobody gets a position.
 * - A wait that runs out is denied only if the store said, since that waiter joined, that another holds the lease or is ahead in its
 *   queue, and no later claim is in flight. So the store is asked once for a waiter that is never the first.
 * - A waiter with less time than a ticket takes (`TICKET_CLAIMS`) claims without one, past the queue: better out of turn than never.
 * - Who leaves leaves nothing behind: no timer, no claim, no entry.
 */
import type { TimerQueue, Deadline } from './timer-queue.ts'
import { backoffMs, LONGEST_RETRY_MS } from './backoff.ts'
import type { Clock } from './clock.ts'
import { ErrClaimDenied, ErrUnknown, isFinalUnknown } from './errors.ts'
import { abandon, type Hold } from './hold.ts'
import type { Info, TermAware } from './lease.ts'
import {
  AT_ONCE,
  LeaseWaiters,
  NEVER,
  type Heard,
  type LeaseHint,
  type Look,
  type Observer,
  type VacancyWatcher,
  type Waiter,
  type WaitRequest,
} from './lease-waiters.ts'
import { countedOf } from './share.ts'
import { lapseWindowMs } from './skew.ts'
import { presentContext, withoutContext } from './tracing.ts'
import { LONGEST_REST_MS, LOOK_AGAIN_MS, untilTurnMs, type Ticket } from './ticket.ts'

/** What the manager does for the queue. */
export interface WaitQueueHost {
  readonly clock: Clock
  readonly timers: TimerQueue
  readonly maxSleepMs: number
  /** What the client knows of the lease, without a read. */
  known(lease: string): (Info & Partial<TermAware>) | undefined
  hasLapsed(info: Info): boolean
  /**
   * Reads the lease, and has it watched for this queue from then on. A final `ErrUnknown` (`isFinalUnknown`) ends every wait.
   */
  watch(lease: string, watcher: LeaseWaiters): Promise<void>
  unwatch(lease: string, watcher: LeaseWaiters): void
  /** Nobody is notified of a lease that is not watched, unless it has a ticket; and either must be renewed. */
  readonly mustWatch: boolean
  /** How long it takes at most until waiters are notified of a vacancy. */
  readonly hintDelayMs: number
  /** The waiter has another position in the queue than before. */
  waiting(request: WaitRequest, position: number): void
  leaveQueue(lease: string, ticket: Ticket): void
  /** Which holder has a live Hold of the lease, or share, in this process. The end of such a Hold must be reported by `vacated`. */
  holderHere(lease: string): string | undefined
  /** Rejects with `ErrClaimDenied` when another has the lease; if the waiter's own holder has it, that ends the wait. */
  acquire(request: WaitRequest, signal: AbortSignal, ticket: Ticket | undefined): Promise<Hold>
  /** The error for a waiter whose time ran out while another had the lease, from what is known. */
  denied(request: WaitRequest): ErrClaimDenied
  retrying(lease: string, operation: 'read' | 'claim', cause: unknown): void
}

/** Somebody in the queue. */
export interface Waiting<T> {
  readonly outcome: Promise<T>
  /** To be called once, whatever the outcome: leaves the queue. */
  readonly leave: (reason?: unknown) => void
}

export class WaitQueue {
  readonly #host: WaitQueueHost
  /** By the lease, or by all the leases, and any one will do. */
  readonly #queues = new Map<string, LeaseWaiters>()
  /** By the lease: the queues for which it is one of several. */
  readonly #groups = new Map<string, Set<LeaseWaiters>>()
  /** How long a grant takes, as a rule the longest of late: it waits for the store's disk, and a refusal may not. */
  #grantMs = 0
  /** How long the last claim of any took to be answered, or was in flight when it was given up. */
  #tookMs = 0
  #closed = false

  constructor(host: WaitQueueHost) {
    this.#host = host
  }

  /** Resolves when a read shows the lease vacant. */
  wait(lease: string): Waiting<void> {
    const queue = this.#enter([lease])
    let leave = (): void => {}
    const outcome = new Promise<void>((resolve, reject) => {
      const watcher: VacancyWatcher = { resolve, reject }
      leave = () => {
        remove(queue.watchers, watcher)
        this.#rest(queue)
      }
      queue.watchers.push(watcher)
    })
    this.#lookNow(queue, queue.read)
    return { outcome, leave }
  }

  /**
   * Reports what every look finds, beginning with one that is sent from now on: an Info, or undefined for vacant. After
   * `fail` nothing is reported any more. Returns how to leave.
   */
  observe(lease: string, report: (info: Info | undefined) => void, fail: (error: unknown) => void): () => void {
    const queue = this.#enter([lease])
    const observer: Observer = { report, fail }
    queue.observers.push(observer)
    this.#lookNow(queue, queue.read)
    return () => {
      remove(queue.observers, observer)
      this.#rest(queue)
    }
  }

  /** Resolves with a Hold when it is the waiter's turn and the lease was granted; rejects when `waitMs` is over. */
  contend(request: WaitRequest): Waiting<Hold> {
    const { clock, timers } = this.#host
    const { waitMs } = request.options
    const queue = this.#enter(request.leases)
    let leave = (_reason?: unknown): void => {}
    const outcome = new Promise<Hold>((resolve, reject) => {
      const joinedMs = clock.monotonic()
      request.joinedMs = joinedMs
      const endMs = joinedMs + waitMs
      const giveUp = new AbortController()
      const waiter: Waiter = {
        request,
        joinedMs,
        endMs,
        giveUp,
        context: presentContext(),
        failure: undefined,
        claiming: false,
        position: 0,
        mayStay: false,
        resolve,
        reject,
      }
      const timer: Deadline = {
        wakeAtMs: -1,
        slot: 0,
        wake: () => {
          if (clock.monotonic() >= endMs) return reject(this.#inVain(queue, waiter))
          this.#askFor(queue, waiter)
          timers.at(timer, Math.ceil(endMs))
        },
      }
      leave = (reason) => {
        timers.off(timer)
        if (request.trace !== undefined) request.trace.waitedMs = clock.monotonic() - joinedMs
        // The claim that is due next may be the one that is given up here.
        const wasNext = queue.waiters[0] === waiter || waiter.claiming
        // A waiter that was granted the lease has left already: an abort without a reason would make an error, with its stack.
        if (remove(queue.waiters, waiter)) giveUp.abort(reason)
        if (queue.waiters.length === 0) this.#leaveStore(queue)
        else if (wasNext) return this.#lookNow(queue, queue.claim)
        this.#rest(queue)
      }
      // Halfway it is seen to that the store is asked, if it was not yet.
      if (Number.isFinite(waitMs)) timers.at(timer, Math.ceil(joinedMs + waitMs / 2))
      queue.waiters.push(waiter)
      this.#bound(queue)
      this.#tellPositions(queue)
      const isOwn = this.#isOwnHere(waiter)
      queue.mayHaveOwn ||= isOwn
      if (queue.waiters.length === 1 || isOwn) this.#lookNow(queue, queue.claim)
    })
    return { outcome, leave }
  }

  /** A hint of the store. */
  hinted(change: LeaseHint): void {
    for (const queue of this.#queuesOf(change.lease)) {
      if (change.kind === 'changed') {
        if (queue.observers.length === 0) continue
        queue.read.dueMs = AT_ONCE
      } else {
        if (change.kind === 'vacated') queue.read.dueMs = AT_ONCE
        const heard = { change, atMs: this.#host.clock.monotonic() }
        if (queue.heard === undefined) this.#hear(queue, heard, { inFlight: false })
        else queue.heard.push(heard)
      }
      this.#look(queue)
    }
  }

  /** A Hold of this process ended, or is about to. The store's hint of it counts by itself. */
  released(lease: string): void {
    for (const queue of this.#queuesFor(lease)) {
      queue.read.dueMs = AT_ONCE
      queue.releasedMs = this.#host.clock.monotonic()
      this.#look(queue)
    }
  }

  /** This process has done something to the lease: finds out for those who observe it. */
  changed(lease: string): void {
    this.hinted({ kind: 'changed', lease })
  }

  /** This process got the lease for this holder: waiters of the same holder are decided now. */
  acquired(lease: string, holder: string): void {
    for (const queue of this.#queuesFor(lease)) {
      const isOwn = ({ request }: Waiter): boolean => request.holder === holder
      if (!queue.waiters.some(isOwn)) continue
      queue.mayHaveOwn ||= queue.waiters.some((waiter) => isOwn(waiter) && !waiter.claiming) // else it is the grant of the first
      this.#lookNow(queue, queue.claim)
    }
  }

  /** Something else has read the lease: what is known now may call for an earlier look. */
  known(lease: string): void {
    for (const queue of this.#queuesOf(lease)) {
      if (queue.looking) continue
      queue.read.dueMs = Math.min(queue.read.dueMs, this.#readRestMs(queue))
      queue.claim.dueMs = Math.min(queue.claim.dueMs, this.#claimRestMs(queue))
      this.#rest(queue)
    }
  }

  /** Hints may have been lost: finds out about everything that is awaited. */
  lookAtAll(): void {
    for (const queue of this.#queues.values()) {
      queue.read.dueMs = AT_ONCE
      this.#lookNow(queue, queue.claim)
    }
  }

  /** Ends the queue: claims in flight are given up, and nothing is looked at any more. The waits do not settle. */
  close(reason: Error): void {
    this.#closed = true
    for (const queue of this.#queues.values()) {
      this.#host.timers.off(queue)
      for (const waiter of queue.waiters) waiter.giveUp.abort(reason)
      this.#leaveStore(queue)
      this.#unwatch(queue)
    }
    this.#queues.clear()
    this.#groups.clear()
  }

  /** The longest pause between two looks. */
  get #restMs(): number {
    const { maxSleepMs, mustWatch } = this.#host
    return mustWatch ? Math.min(maxSleepMs, LONGEST_REST_MS) : maxSleepMs
  }

  // ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────

  #enter(leases: readonly string[]): LeaseWaiters {
    // Each waiter claims in an order of its own. No lease has a space in its name.
    const name = leases.length === 1 ? (leases[0] as string) : leases.toSorted().join(' ')
    let queue = this.#queues.get(name)
    if (queue === undefined) {
      queue = new LeaseWaiters(name, leases, (woken) => this.#look(woken))
      this.#queues.set(name, queue)
      if (leases.length > 1) {
        for (const lease of leases) {
          const groups = this.#groups.get(lease)
          if (groups === undefined) this.#groups.set(lease, new Set([queue]))
          else groups.add(queue)
        }
      }
    }
    return queue
  }

  #queuesOf(lease: string): readonly LeaseWaiters[] {
    const queue = this.#queues.get(lease)
    const groups = this.#groups.get(lease)
    if (groups === undefined) return queue === undefined ? NONE : [queue]
    return queue === undefined ? [...groups] : [queue, ...groups]
  }

  /** Of a share also the queue of its counted lease. */
  #queuesFor(lease: string): readonly LeaseWaiters[] {
    const counted = countedOf(lease)
    return counted === undefined ? this.#queuesOf(lease) : [...this.#queuesOf(lease), ...this.#queuesOf(counted)]
  }

  /** The last waiter has gone, without the lease. */
  #leaveStore(queue: LeaseWaiters): void {
    if (queue.ticket.place > 0) this.#host.leaveQueue(queue.leases[0] as string, queue.ticket)
    queue.forgetTicket()
  }

  #unwatch(queue: LeaseWaiters): void {
    if (!queue.watches) return
    queue.watches = false
    queue.watchedMs = AT_ONCE
    for (const lease of queue.leases) this.#host.unwatch(lease, queue)
  }

  #forget(queue: LeaseWaiters): void {
    this.#unwatch(queue)
    if (this.#queues.get(queue.name) !== queue) return
    this.#queues.delete(queue.name)
    if (queue.leases.length === 1) return
    for (const lease of queue.leases) {
      const groups = this.#groups.get(lease)
      groups?.delete(queue)
      if (groups?.size === 0) this.#groups.delete(lease)
    }
  }

  /** Nobody waits: forget it. Otherwise wake when a look is due. */
  #rest(queue: LeaseWaiters): void {
    if (queue.looking || this.#closed) return
    const { timers, clock } = this.#host
    if (queue.isEmpty) {
      timers.off(queue)
      this.#forget(queue)
      return
    }
    let dueMs = clock.monotonic() + this.#restMs
    if (queue.isRead) dueMs = Math.min(dueMs, queue.read.dueMs)
    if (queue.waiters.length > 0) dueMs = Math.min(dueMs, this.#claimDueMs(queue))
    timers.at(queue, Math.ceil(Math.max(dueMs, clock.monotonic())))
  }

  // ── looks ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #lookNow(queue: LeaseWaiters, look: Look): void {
    look.dueMs = AT_ONCE
    this.#look(queue)
  }

  /**
   * One look at a time. What becomes due while a look is in flight may be news to it: then another is sent. It belongs to no call: only the
   * claims of a waiter do, to the waiter's own.
   */
  #look(queue: LeaseWaiters): void {
    if (queue.looking || this.#closed) return
    queue.looking = true
    void withoutContext(() => this.#lookUntilDone(queue))
  }

  async #lookUntilDone(queue: LeaseWaiters): Promise<void> {
    try {
      while (!this.#closed && (await this.#lookOnce(queue)));
    } finally {
      queue.looking = false
      this.#rest(queue)
    }
  }

  /**
   * Sends what is due, and returns whether anything was. Those who watch for a vacancy are served first: they are to see the
   * one that a claim is about to end. Observers get what the claim finds; only if there was none, or it found nothing, are
   * they read for.
   */
  async #lookOnce(queue: LeaseWaiters): Promise<boolean> {
    const { clock } = this.#host
    const isReadDue = (): boolean => queue.read.dueMs <= clock.monotonic()
    const isClaimDue = (): boolean => queue.waiters.length > 0 && this.#claimDueMs(queue) <= clock.monotonic()
    let looked = false
    const claims = isClaimDue()
    if ((queue.watchers.length > 0 && (claims || isReadDue())) || queue.isAsked) {
      looked = true
      await this.#attempt(queue, 'read', () => this.#read(queue))
    }
    if (claims) {
      const next = this.#next(queue)
      if (next === undefined) queue.waitForHold(clock.monotonic() + this.#restMs)
      else {
        looked = true
        await this.#attempt(queue, 'claim', () => this.#claim(queue, next))
      }
    }
    if (queue.observers.length > 0 && isReadDue() && !isClaimDue()) {
      looked = true
      await this.#attempt(queue, 'read', () => this.#read(queue))
    }
    return looked
  }

  async #attempt(queue: LeaseWaiters, operation: 'read' | 'claim', send: () => Promise<void>): Promise<void> {
    const look = queue[operation]
    try {
      await send()
      look.failures = 0
    } catch (error) {
      if (this.#closed) return
      if (isFinalUnknown(error)) return queue.end(error)
      queue.failure = error
      look.failures++
      const pauseMs = 1 + backoffMs(look.failures, Math.min(LONGEST_RETRY_MS, this.#host.maxSleepMs))
      look.dueMs = Math.min(look.dueMs, this.#host.clock.monotonic() + pauseMs)
      this.#host.retrying(queue.leases[0] as string, operation, error)
    }
  }

  /** For those who were there when it was sent: who comes later wants a read of their own. */
  async #read(queue: LeaseWaiters): Promise<void> {
    const { read } = queue
    const watching = [...queue.watchers]
    const observing = [...queue.observers]
    read.begin(this.#host.clock.monotonic())
    queue.isAsked = false
    try {
      await this.#watch(queue)
    } catch (error) {
      if (error instanceof ErrUnknown) throw error
      for (const watcher of watching) if (remove(queue.watchers, watcher)) watcher.reject(error)
      for (const observer of observing) if (remove(queue.observers, observer)) observer.fail(error)
      return
    }
    if (this.#found(queue, read, observing) === undefined) {
      for (const watcher of watching) if (remove(queue.watchers, watcher)) watcher.resolve()
      // It is news to a waiter that sleeps until an expiry: its hint was lost.
      if (queue.waiters.length > 0) queue.claim.dueMs = Math.min(queue.claim.dueMs, this.#claimRestMs(queue))
    }
    read.dueMs = Math.min(read.dueMs, this.#readRestMs(queue))
  }

  /** Reads the leases of the queue, and goes on watching them. */
  async #watch(queue: LeaseWaiters): Promise<void> {
    queue.watches = true
    const sentMs = this.#host.clock.monotonic()
    await Promise.all(queue.leases.map((lease) => this.#host.watch(lease, queue)))
    queue.watchedMs = sentMs
  }

  async #claim(queue: LeaseWaiters, waiter: Waiter): Promise<void> {
    const { clock } = this.#host
    const { claim, read, ticket } = queue
    const { request, giveUp } = waiter
    const observing = [...queue.observers]
    const nowMs = clock.monotonic()
    const isHurried = this.#isHurried(queue, waiter)
    const readDueMs = read.dueMs
    ticket.passing = this.#hadTheirTurn(queue, nowMs) ? ticket.ahead : 0
    claim.begin(nowMs)
    if (observing.length > 0) read.dueMs = NEVER
    queue.forgetVacancy()
    const heard: Heard[] = []
    queue.heard = heard
    waiter.claiming = true
    let found = false
    let isGranted = false
    try {
      if (request.trace !== undefined) request.trace.attempts = (request.trace.attempts ?? 0) + 1
      const acquire = (): Promise<Hold> => this.#host.acquire(request, giveUp.signal, isHurried ? undefined : ticket)
      const hold = await waiter.context.runInAsyncScope(acquire)
      if (giveUp.signal.aborted) return abandon(hold)
      remove(queue.waiters, waiter)
      // Who has got the share that its holder had already has used no ticket: it is that of the next one.
      if (!isCounted(queue.leases) || ticket.place === 0) queue.forgetTicket()
      // The next one finds out for itself whether there is anything to claim.
      claim.dueMs = AT_ONCE
      waiter.resolve(hold)
      found = isGranted = true
    } catch (error) {
      if (giveUp.signal.aborted) return
      waiter.failure = error instanceof ErrUnknown ? error : undefined
      if (error instanceof ErrUnknown) throw error
      if (!(error instanceof ErrClaimDenied) || error.currentHolder === request.holder) {
        remove(queue.waiters, waiter)
        claim.dueMs = AT_ONCE
        waiter.reject(error)
        return
      }
      queue.heldMs = nowMs
      if (isHurried) {
        claim.dueMs = this.#againMs(waiter, nowMs)
        return
      }
      found = true
      if (ticket.isFull) {
        remove(queue.waiters, waiter)
        claim.dueMs = AT_ONCE
        waiter.reject(error)
        return
      }
      queue.countedBy = ticket.place > 0 ? 'store' : 'process'
      queue.misses = request.leases.every((lease) => this.#held(lease) !== undefined) ? 0 : queue.misses + 1
    } finally {
      waiter.claiming = false
      queue.tookMs = this.#tookMs = clock.monotonic() - nowMs
      if (isGranted) this.#grantMs = Math.max(queue.tookMs, this.#grantMs * FADING)
      if (!found && observing.length > 0) read.dueMs = Math.min(read.dueMs, readDueMs)
      queue.heard = undefined
      for (const hint of heard) this.#hear(queue, hint, { inFlight: true })
    }
    this.#bound(queue)
    this.#tellPositions(queue)
    // Nothing tells of these leases yet, or soon nothing will.
    const isTold = ticket.place > 0 && !queue.isRead
    const isWatched = !this.#host.mustWatch || nowMs - queue.watchedMs < this.#restMs
    if (!isTold && !isWatched && !queue.isEmpty) await this.#watch(queue)
    this.#found(queue, claim, observing)
    if (observing.length > 0) {
      read.sentMs = nowMs
      read.dueMs = Math.min(read.dueMs, this.#readRestMs(queue))
    }
    claim.dueMs = Math.min(claim.dueMs, this.#claimRestMs(queue))
  }

  /**
   * Whether those ahead of one who waits for a share had theirs, before this claim: since this process was notified of room, or since a claim
   * that was refused though nothing was in the way. The end of a Hold here, or a lapse, says nothing of that: there is more than one share.
   */
  #hadTheirTurn(queue: LeaseWaiters, nowMs: number): boolean {
    const { openings, misses, claim } = queue
    const [toldMs = misses > 0 ? claim.sentMs + this.#host.hintDelayMs : NEVER] = openings
    return nowMs >= toldMs + this.#turnMs(queue)
  }

  /** Whose claim is next; undefined while other holders of this process have all of the leases. */
  #next(queue: LeaseWaiters): Waiter | undefined {
    const { waiters, leases, countedBy } = queue
    if (isCounted(leases)) {
      const own = queue.mayHaveOwn ? waiters.find((waiter) => this.#isOwnHere(waiter)) : undefined
      queue.mayHaveOwn = own !== undefined
      return own ?? waiters[0]
    }
    // Only the store knows how many are in the queue.
    let free = countedBy === undefined && waiters[0]?.request.options.maxWaiters !== undefined
    for (const lease of leases) {
      const here = this.#host.holderHere(lease)
      if (here === undefined) free = true
      else {
        const own = waiters.find(({ request }) => request.holder === here)
        if (own !== undefined) return own
      }
    }
    return free ? waiters[0] : undefined
  }

  #isOwnHere({ request: { leases, holder } }: Waiter): boolean {
    if (isCounted(leases)) return this.#host.holderHere(`${leases[0]}${holder}`) !== undefined
    return leases.some((lease) => this.#host.holderHere(lease) === holder)
  }

  /** Takes note of what the look found, and reports it. Returns who holds the lease, or undefined if one of them is vacant. */
  #found(queue: LeaseWaiters, { sentMs }: Look, observing: readonly Observer[]): Info | undefined {
    let info: Info | undefined
    let held = true
    for (const lease of queue.leases) {
      info = this.#held(lease)
      if (info === undefined) held = false
    }
    if (held) queue.heldMs = sentMs
    for (const observer of observing) if (queue.observers.includes(observer)) observer.report(info)
    return held ? info : undefined
  }

  /** By what is known: who holds the lease; undefined: it is vacant or has lapsed. */
  #held(lease: string): (Info & Partial<TermAware>) | undefined {
    const info = this.#host.known(lease)
    return info === undefined || this.#host.hasLapsed(info) ? undefined : info
  }

  // ── hints ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Notes what a hint says. One that says nothing new, or what cannot be, is ignored.
   *
   * @param inFlight heard while a claim was in flight. Then the ticket says nothing about the one who took the lease: the queue may
   *   have begun anew in the meantime.
   */
  #hear(queue: LeaseWaiters, { change, atMs }: Heard, { inFlight }: { readonly inFlight: boolean }): void {
    const { ticket, claim } = queue
    const { to } = change
    if (to !== undefined && to.place !== ticket.place) return // said to another one of this client, or to one that is gone
    if (change.kind === 'vacated') {
      queue.openings.push(atMs)
      if (to === undefined) return
      ticket.ahead = to.ahead
      return this.#tellPositions(queue)
    }
    const { place, durationMs } = change
    if (place <= queue.served || place === ticket.place) return
    const isAhead = place < ticket.place
    if (isAhead) {
      if (!inFlight && to !== undefined && to.ahead >= ticket.ahead) return
      queue.served = place
      ticket.ahead = to?.ahead ?? Math.max(0, ticket.ahead - 1)
    } else if (to !== undefined) ticket.ahead = to.ahead
    this.#tellPositions(queue)
    if (!isAhead && !inFlight) return
    const wasVacant = queue.vacantMs !== NEVER
    queue.openings.shift()
    queue.releasedMs = NEVER
    let dueMs = atMs + 1 + lapseWindowMs(durationMs) + this.#turnMs(queue)
    // Only a look tells a true hint from one that is false or late.
    if (wasVacant && queue.vacantMs === NEVER) dueMs = Math.min(dueMs, this.#host.clock.monotonic() + LOOK_AGAIN_MS)
    claim.dueMs = Math.min(claim.dueMs, dueMs)
  }

  /** Nobody is notified a number that the store has not said yet. */
  #tellPositions({ waiters, ticket: { ahead }, countedBy }: LeaseWaiters): void {
    if (countedBy === undefined) return
    for (const [index, waiter] of waiters.entries()) {
      const position = ahead + index + 1
      if (waiter.position === position) continue
      waiter.position = position
      this.#host.waiting(waiter.request, position)
    }
  }

  /**
   * Of the first of those who wait the store decides whether it may. As soon as it has, or where it is not asked, others of this
   * process that have just come are denied the lease if too many are ahead of them.
   */
  #bound(queue: LeaseWaiters): void {
    const { waiters, ticket, countedBy } = queue
    const { ahead } = ticket
    if (countedBy === undefined && this.#next(queue) !== undefined) return
    for (let index = 1; index < waiters.length; index++) {
      const waiter = waiters[index] as Waiter
      const { request, mayStay, reject } = waiter
      waiter.mayStay = mayStay || ahead + index < (request.options.maxWaiters ?? NEVER)
      if (waiter.mayStay) continue
      waiters.splice(index--, 1)
      reject(this.#host.denied(request))
    }
  }

  // ── times ─────────────────────────────────────────────────────────────────────────────────────────────────────

  #claimDueMs(queue: LeaseWaiters): number {
    const { claim, vacantMs } = queue
    return vacantMs === NEVER ? claim.dueMs : Math.min(claim.dueMs, vacantMs + this.#turnMs(queue))
  }

  /**
   * How long after a vacancy the first waiter claims. One whose time is short uses half of it, or less if a claim takes long: better out
   * of turn than never.
   */
  #turnMs({ ticket, tookMs, waiters }: LeaseWaiters): number {
    const turnMs = untilTurnMs(ticket, Math.max(tookMs, this.#grantMs))
    const [first] = waiters
    if (turnMs === 0 || first === undefined) return turnMs
    const leftMs = first.endMs - this.#host.clock.monotonic()
    return Math.max(0, Math.min(turnMs, leftMs / 2, leftMs - 2 * tookMs))
  }

  /**
   * Whether the time of a waiter would be over before a claim with a ticket is answered, at the pace of the last claim. Then it claims
   * past the queue.
   */
  #isHurried({ ticket, leases }: LeaseWaiters, { endMs }: Waiter): boolean {
    if (ticket.place > 0 || leases.length > 1) return false
    return endMs - this.#host.clock.monotonic() < TICKET_CLAIMS * this.#tookMs
  }

  /** When a waiter claims again whose claim past the queue was denied: no claim is sent whose answer would come too late. */
  #againMs({ endMs }: Waiter, sentMs: number): number {
    const nowMs = this.#host.clock.monotonic()
    const [leftMs, tookMs] = [endMs - nowMs, nowMs - sentMs]
    if (leftMs >= TICKET_CLAIMS * tookMs) return AT_ONCE
    return leftMs >= 2 * tookMs ? nowMs + leftMs / 2 : NEVER
  }

  /** When the first waiter claims if nothing is heard. */
  #claimRestMs(queue: LeaseWaiters): number {
    const restMs = this.#restMs
    const nowMs = this.#host.clock.monotonic()
    let delayMs = restMs
    for (const lease of queue.leases) {
      // Vacant, and yet refused: others were ahead in the queue, or it was another's at that moment.
      const pauseMs = queue.ticket.place > 0 && queue.misses <= 1 ? 1 : 1 + backoffMs(Math.max(1, queue.misses), restMs)
      const untilOthersMs = queue.ticket.ahead > 0 ? this.#host.hintDelayMs : 0
      const untilMs = this.#untilLapseMs(lease, queue.claim) ?? pauseMs + untilOthersMs
      delayMs = Math.min(delayMs, untilMs + this.#turnMs(queue))
    }
    return Math.min(nowMs + delayMs, queue.claim.sentMs + restMs)
  }

  /** When those who watch are read for if nothing is heard. What has lapsed tells nothing new by itself. */
  #readRestMs(queue: LeaseWaiters): number {
    const { clock } = this.#host
    if (queue.watchers.length + queue.observers.length === 0) return NEVER
    const delayMs =
      this.#untilLapseMs(queue.leases[0] as string, queue.read) ??
      (queue.watchers.length > 0 ? 1 + backoffMs(1) : NEVER)
    return Math.min(clock.monotonic() + delayMs, queue.read.sentMs + this.#restMs)
  }

  /** After how long what is known of this lease is over for certain; undefined: it is vacant, or has lapsed. */
  #untilLapseMs(lease: string, { pauseMs }: Look): number | undefined {
    const info = this.#held(lease)
    if (info === undefined) return undefined
    // One millisecond past the latest instant: the boundary itself still belongs to the holder.
    const leftMs = 1 + (info.lapsesInMs?.() ?? info.expiry.toMillis() - this.#host.clock.now())
    if (leftMs <= 0 && info.pinned) return NEVER
    return Math.max(1, leftMs, pauseMs)
  }

  // ── a wait that runs out ──────────────────────────────────────────────────────────────────────────────────────

  /**
   * Whether the store has said, since the waiter came, that others have the leases, or are ahead in the queue. What a Hold of this
   * process believes does not count: its lease may have been revoked.
   */
  #isDenied({ heldMs }: LeaseWaiters, { joinedMs }: Waiter): boolean {
    return heldMs >= joinedMs
  }

  /** Half of the waiter's time is over: the store is asked, unless it has said something or is being asked again and again. */
  #askFor(queue: LeaseWaiters, waiter: Waiter): void {
    const { claim, read, looking } = queue
    if (waiter.claiming || claim.failures + read.failures > 0 || this.#isDenied(queue, waiter)) return
    if (looking && Math.max(claim.sentMs, read.sentMs) >= waiter.joinedMs) return
    queue.isAsked = true
    this.#look(queue)
  }

  #inVain(queue: LeaseWaiters, waiter: Waiter): Error {
    const { request, failure, claiming } = waiter
    if (failure !== undefined) return failure
    if (!claiming && this.#isDenied(queue, waiter)) return this.#host.denied(request)
    const { leases, holder } = request
    const what = isCounted(leases)
      ? `a share of "${leases[0]?.slice(0, -1)}"`
      : leases.length === 1
        ? `lease "${leases[0]}"`
        : `any of ${leases.length} leases`
    const before = this.#isDenied(queue, waiter) ? '; an earlier claim was denied' : ''
    const message = `no answer to a claim of ${what} before the wait ran out${before}`
    return new ErrUnknown(message, { lease: leases[0], holder, reason: 'no answer', cause: queue.failure })
  }
}

/** To get a ticket, and to claim the lease with it, takes up to as long as so many claims. */
const TICKET_CLAIMS = 4

/** What is left with each further grant of how long one took. */
const FADING = 0.9

const NONE: readonly LeaseWaiters[] = []

/** What is waited for is a share. */
function isCounted([lease = '']: readonly string[]): boolean {
  return lease.endsWith('#')
}

function remove<T>(list: T[], item: T): boolean {
  const index = list.indexOf(item)
  if (index >= 0) list.splice(index, 1)
  return index >= 0
}
