/**
 * Hints without a push: what this client waits for, watches or holds is read again, and what it is to hear of it follows from what it finds.
 *
 *     asked for ──250 ms──▶ read ──375 ms──▶ read … ──1 s or 5 s──▶ read …
 *                              └─ it has changed: a hint, and the pauses begin again
 *
 * - One lease costs a process at most 65 reads a minute while a waiter of it is one of the first two in the queue, for then the pauses end at a
 *   second; at most 20 in the first minute and 12 in every later one while it waits behind them, or watches; and 4 for a term that it holds and
 *   does not renew: each renewal puts the next read off. Leases that are due at about the same time are read in one request.
 * - A change counts from the state that the waiter saw: a release before the first read is found by it. A term that came and went between two
 *   reads shows in the fencing token.
 * - *Order.* The first in the queue finds a vacancy within a second, and hears of it at once. The second, which stands in for it, hears of it
 *   `STAND_IN_MS` after it has found it: by then the first has claimed, or is dead. Those behind hear nothing.
 * - *Pins.* A lease that lost its last pin may have lapsed before, which its record does not show. The first in the queue and all
 *   watchers are notified as of a vacancy, and look.
 * - What is not renewed is forgotten after `INTEREST_MS`.
 */
import type { LeaseChange } from '../client.ts'
import type { Clock } from '../clock.ts'
import { HintListeners } from '../hint-listeners.ts'
import type { warnOfNoHints } from '../hint-stream.ts'
import { INTEREST_MS, TOLD } from '../ticket.ts'
import type { QueueTicket } from './record.ts'
import { VACANT, type Sight } from './sight.ts'

/** How sights are made, and what is done with them. */
export interface PolledHintsOptions {
  readonly clock: Clock
  /** Whose hints these are; undefined: of all of the namespace, for as long as somebody listens. */
  readonly client: string | undefined
  /** Looks at these leases; undefined: at all of the namespace. Those that are not in the answer are vacant. */
  readonly look: (leases: readonly string[] | undefined) => Promise<ReadonlyMap<string, Sight>>
  readonly failed: ReturnType<typeof warnOfNoHints>
}

interface OwnTicket {
  weight: number
  untilMs: number
  /** The version for which it was notified last. */
  told: string | undefined
  /** Whether it was found to be out of the queue. */
  isOut: boolean
}

interface Interest {
  /** By the lease; undefined: not seen yet. */
  seen: ReadonlyMap<string, Sight> | undefined
  pauseMs: number
  dueMs: number
  watchedUntilMs: number
  /** By the place. */
  readonly tickets: Map<number, OwnTicket>
  /** The token of the term that this client has. */
  held: bigint | undefined
  /** Since when it is open for the one that is first in the queue. */
  open: { readonly first: number; readonly sinceMs: number } | undefined
}

const FIRST_PAUSE_MS = 250
/** Of the first in the queue, and of the one that stands in for it. */
const LONGEST_FIRST_PAUSE_MS = 1_000
const LONGEST_PAUSE_MS = 5_000
/** Of a term that this client holds. */
const HELD_PAUSE_MS = 15_000
/** The first in the queue has this long to read, and to claim, before the second claims in its stead. */
const STAND_IN_MS = 1_500
/** How long after a vacancy the first two of those who wait have been notified of it, at the latest, if a read takes a second. */
export const HINT_DELAY_MS: number = LONGEST_PAUSE_MS + STAND_IN_MS + 1_000
/** What is due so soon after another is read with it. */
const TOGETHER_MS = 100
/** Stands for all leases of the namespace. */
const ALL = ''

export class PolledHints extends HintListeners {
  readonly #options: PolledHintsOptions
  readonly #interests = new Map<string, Interest>()
  #timer: { readonly atMs: number; cancel(): void } | undefined
  #failures = 0
  #isLooking = false

  constructor(options: PolledHintsOptions) {
    super()
    this.#options = options
    // What a client asks for is known from then on; the namespace, after the first look.
    if (options.client !== undefined) this.begin()
    else this.#interest(ALL, undefined).watchedUntilMs = Number.POSITIVE_INFINITY
  }

  override add(listener: (change: LeaseChange) => void): void {
    super.add(listener)
    this.#schedule()
  }

  override delete(listener: (change: LeaseChange) => void): void {
    super.delete(listener)
    this.#schedule()
  }

  /** Looks for this waiter from now on, which has another ticket now or the same. @param sight as it has seen the lease */
  waits(lease: string, { place, weight }: Pick<QueueTicket, 'place' | 'weight'>, sight: Sight): void {
    const interest = this.#interest(lease, sight)
    const untilMs = this.#nowMs + INTEREST_MS
    interest.tickets.set(place, { told: undefined, isOut: false, ...interest.tickets.get(place), weight, untilMs })
    if (isFirst(sight, place)) interest.dueMs = Math.min(interest.dueMs, this.#nowMs + LONGEST_FIRST_PAUSE_MS)
    this.#scheduleAt(interest.dueMs)
  }

  /** This waiter is out of the queue, or has what it waited for. @param place undefined: nobody watches the lease any more */
  left(lease: string, place: number | undefined): void {
    const interest = this.#interests.get(lease)
    if (place !== undefined) interest?.tickets.delete(place)
    else if (interest !== undefined) interest.watchedUntilMs = 0
  }

  /** @param sight as the one that watches has seen it */
  watches(lease: string, sight: Sight): void {
    const interest = this.#interest(lease, sight)
    interest.watchedUntilMs = this.#nowMs + INTEREST_MS
    this.#scheduleAt(interest.dueMs)
  }

  /** This client has written that it has the lease. */
  holds(lease: string, sight: Sight): void {
    const interest = this.#interest(lease, sight)
    interest.held = sight.fencingToken
    if (!isUrgent(interest, this.#nowMs)) interest.dueMs = this.#nowMs + HELD_PAUSE_MS
    this.#scheduleAt(interest.dueMs)
  }

  /** This client ends the term itself. */
  ends(lease: string): void {
    const interest = this.#interests.get(lease)
    if (interest !== undefined) interest.held = undefined
  }

  get #nowMs(): number {
    return this.#options.clock.monotonic()
  }

  #interest(lease: string, sight: Sight | undefined): Interest {
    const known = this.#interests.get(lease)
    const seen = sight === undefined ? undefined : new Map([[lease, sight]])
    if (known !== undefined && (isUrgent(known, this.#nowMs) || known.held !== undefined)) {
      // One that watches hears of everything since the state that it saw.
      if (known.watchedUntilMs < this.#nowMs) known.seen = seen
      return known
    }
    const interest: Interest = {
      seen,
      pauseMs: FIRST_PAUSE_MS,
      dueMs: this.#nowMs + FIRST_PAUSE_MS,
      watchedUntilMs: 0,
      tickets: new Map(),
      held: undefined,
      open: undefined,
    }
    this.#interests.set(lease, interest)
    return interest
  }

  #scheduleAt(dueMs: number): void {
    if (!this.isUsed || this.#isLooking || (this.#timer !== undefined && this.#timer.atMs <= dueMs)) return
    this.#timer?.cancel()
    const timer = this.#options.clock.setTimer(Math.max(0, dueMs - this.#nowMs), () => void this.#wake())
    this.#timer = { atMs: dueMs, cancel: () => timer.cancel() }
  }

  #schedule(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    let first = Number.POSITIVE_INFINITY
    for (const { dueMs } of this.#interests.values()) first = Math.min(first, dueMs)
    if (first !== Number.POSITIVE_INFINITY) this.#scheduleAt(first)
  }

  async #wake(): Promise<void> {
    this.#timer = undefined
    const nowMs = this.#nowMs
    for (const [lease, interest] of this.#interests) {
      for (const [place, { untilMs }] of interest.tickets) if (untilMs < nowMs) interest.tickets.delete(place)
      if (!isUrgent(interest, nowMs) && interest.held === undefined) this.#interests.delete(lease)
    }
    const due = [...this.#interests].filter(([, { dueMs }]) => dueMs <= nowMs + TOGETHER_MS)
    this.#isLooking = true
    try {
      const leases = due.flatMap(([lease]) => (lease === ALL ? [] : [lease]))
      const all = due.some(([lease]) => lease === ALL)
      if (due.length > 0) this.#found(due, await this.#options.look(all ? undefined : leases))
      this.#failures = 0
    } catch (error) {
      this.#options.failed(error, ++this.#failures)
    }
    this.#isLooking = false
    const afterMs = this.#nowMs
    for (const [lease, interest] of due) {
      const { open, tickets, seen } = interest
      const isNext = [...tickets.keys()].some((place) => isFirst(seen?.get(lease), place))
      interest.pauseMs = Math.min(interest.pauseMs, isNext ? LONGEST_FIRST_PAUSE_MS : LONGEST_PAUSE_MS)
      interest.dueMs = afterMs + (isUrgent(interest, afterMs) ? interest.pauseMs : HELD_PAUSE_MS)
      const standInMs = open === undefined ? 0 : open.sinceMs + STAND_IN_MS
      if (isNext && standInMs > afterMs) interest.dueMs = Math.min(interest.dueMs, standInMs)
      interest.pauseMs *= 1.5
    }
    this.#schedule()
  }

  #found(due: readonly (readonly [string, Interest])[], found: ReadonlyMap<string, Sight>): void {
    for (const [lease, interest] of due) {
      const { seen } = interest
      const now = lease === ALL ? found : new Map([[lease, found.get(lease) ?? VACANT]])
      interest.seen = now
      if (seen === undefined) this.begin()
      for (const name of new Set(seen === undefined ? [] : [...seen.keys(), ...now.keys()])) {
        const [before, after] = [seen?.get(name) ?? VACANT, now.get(name) ?? VACANT]
        const isNew = before.content !== after.content
        if (isNew) interest.pauseMs = FIRST_PAUSE_MS
        const change = isNew || isUnpinned(before, after) ? this.#changeFor(interest, name, before, after) : undefined
        if (change !== undefined) this.tell(change)
        if (lease === ALL) this.#tellGrant(name, before, after)
        else this.#tellWaiters(lease, interest, before, after)
      }
    }
  }

  /** What those hear who watch, or whose term was ended. */
  #changeFor(interest: Interest, lease: string, before: Sight, after: Sight): LeaseChange | undefined {
    const { held, watchedUntilMs } = interest
    const isWatched = watchedUntilMs >= this.#nowMs
    const isOwn = after.isHeld && after.fencingToken === held
    if (held !== undefined && !(isOwn && after.maker === this.#options.client)) interest.held = undefined
    // A term that another client has adopted is that client's.
    const isAdopted = after.fencingToken === held && after.maker !== this.#options.client
    if (held !== undefined && !isOwn && !isAdopted) return { kind: 'vacated', lease }
    const mayBeFree = !after.isHeld || isUnpinned(before, after)
    return isWatched ? { kind: mayBeFree ? 'vacated' : 'changed', lease } : undefined
  }

  #tellGrant(lease: string, before: Sight, { fencingToken, isHeld, served }: Sight): void {
    if (served === undefined || !isHeld || before.fencingToken === fencingToken) return
    this.tell({ kind: 'taken', lease, ...served })
  }

  #tellWaiters(lease: string, interest: Interest, before: Sight, after: Sight): void {
    const { isOpen, queue, served, version, capacity } = after
    const [first] = queue
    if (!isOpen || first === undefined) interest.open = undefined
    else if (interest.open?.first !== first.place) interest.open = { first: first.place, sinceMs: this.#nowMs }
    const standsInMs = (interest.open?.sinceMs ?? 0) + STAND_IN_MS
    for (const [place, ticket] of interest.tickets) {
      const ahead = queue.findIndex((one) => one.place === place)
      // It waits in vain, or was passed over: with its next claim it learns that, or is back at its place.
      const isOut = ahead === -1
      if (isOut && ticket.weight <= capacity && ticket.isOut) continue
      ticket.isOut = isOut
      const isTurn = isOpen && (ahead === 0 || (ahead > 0 && ahead < TOLD && this.#nowMs >= standsInMs))
      if (isOut || isTurn) {
        if (ticket.told !== version) this.tell({ kind: 'vacated', lease, to: { place, ahead: Math.max(0, ahead) } })
        ticket.told = version
      } else if (ahead === 0 && isUnpinned(before, after)) {
        this.tell({ kind: 'vacated', lease, to: { place, ahead } })
      } else if (!isOpen && served !== undefined && ahead === 0 && before.fencingToken !== after.fencingToken) {
        this.tell({ kind: 'taken', lease, ...served, to: { place, ahead } })
      }
    }
  }
}

/** Whether this one is among those who are notified of a vacancy. */
function isFirst(sight: Sight | undefined, place: number): boolean {
  return sight?.queue.slice(0, TOLD).some((ticket) => ticket.place === place) === true
}

/** Whether a term has lost its last pin, and may have lapsed before. */
function isUnpinned(before: Sight, after: Sight): boolean {
  return after.pinned < before.pinned
}

/** Whether somebody waits or watches. */
function isUrgent({ tickets, watchedUntilMs }: Interest, nowMs: number): boolean {
  return tickets.size > 0 || watchedUntilMs >= nowMs
}
