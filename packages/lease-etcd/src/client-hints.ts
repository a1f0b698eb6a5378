/**
 * What one client hears of: its turn in queues, the leases that it watches, and the terms of it that others have ended. Every hint
 * comes from a watch of its own, on the stream that all share (`watches.ts`):
 *
 *     c/<client>/                       what others have to say to this client
 *     l/<lease> removed, a/<lease> put  of each lease that it watches, from the revision of the read that asked for it
 *     l/<lease> removed                 of each ticket that has at most one other ahead
 *     l/<counted lease># … removed, g/<counted lease> put   of each ticket for a share, instead
 *     t/<lease>/ put and removed        of each ticket: from the second one ahead up to itself
 *
 * So however many wait, a vacancy is reported to two, and a grant to the two behind the one that was served: one of them is the first now,
 * and the other stands in from then on. Anyone who stands in begins to watch the lease only now, and may miss a vacancy that is as fast
 * as that: then nobody stands in, once. The first must miss none: where it may have, it is notified of a vacancy and looks.
 *
 * Watches of tickets begin before the claim that puts the ticket, and not at the revision of its answer: on a busy etcd a watch from a
 * revision of the past is 100 ms behind (measured: 97 ms in 11 of 15 tries, and 1 to 3 ms from now on), longer than a hand-off takes.
 *
 * A grant removes the tickets ahead of its own as well. So when a ticket that does not say that it leaves is removed, all ahead of it are gone.
 * What a ticket says when it leaves goes before its removal. Anyone who loses sight of those ahead by that looks again.
 *
 * One who waits for a share hears of the end of each share, and says nothing before there is room for the first in the queue. It knows
 * the shares from its last refusal. Where it does not know them any more, for somebody ahead has gone or the capacity is another, it
 * tells of each vacancy: then the waiter looks once too often, and knows them again.
 *
 * A waiter that becomes the first because a ticket ahead has gone looks, a moment later, at what it knows of the gate. A grant puts the gate
 * in the same transaction, with the room that it leaves. So the first waiter hears of that room also if the granted process has died before it
 * notified anybody, or if no share was granted: the ticket of a dead process ends by itself.
 *
 * The waiters ahead are known from answers and from watches, and a watch may be faster: what it has reported is not undone by an answer that is older,
 * and no watch ends before the ticket does. Otherwise one who has gone would be ahead for ever, and the first would take itself for
 * the second.
 */
import type { Clock, LeaseChange, Timer } from 'lease-core'
import { changesIn, countedOf, HintListeners, INTEREST_MS } from 'lease-core/adapter'
import type { EtcdKeyValue } from './driver.ts'
import { endOf, ticketIn, ticketNamed, type FoundTicket, type Keys, type Layout } from './layout.ts'
import { gateIn, weightIn, type KnownGates } from './gates.ts'
import type { Room } from './room.ts'
import { NO_DELETES, NO_PUTS, type Failed, type Login, type Watches, type WatchListener } from './watches.ts'

export interface ClientHintsOptions {
  readonly watches: Watches
  readonly layout: Layout
  readonly clock: Clock
  readonly gates: KnownGates
  readonly client: string
  readonly login: Login
  /** Is called when the server refuses a watch. */
  readonly onDenied: (reason: string) => void
  readonly onFailed?: Failed
}

/** How many of those ahead a waiter sees. */
export const IN_SIGHT = 2

/** With so many others ahead, or fewer, a waiter watches the lease itself. */
const MOST_AHEAD = 1

/** How often what was not renewed is looked for. */
const SWEEP_MS = 30_000

/**
 * A claim of one who waits does not wait longer for its watches than this, or than this share of the time that it has left. A watch that
 * begins later makes it look once more.
 */
const PATIENCE_MS = 250
const PATIENCE_SHARE = 0.25

/** What one transaction has put and removed is heard within so long of each other, as a rule: otherwise it costs a look. */
const TOGETHER_MS = 100

/** A claim that is about to be sent with a ticket. */
export interface Joining {
  readonly place: number
  readonly ahead: Ahead
  /** How much time it has left. */
  readonly leftMs: number
}

/** What a claim learns of those ahead of its ticket. */
export interface Ahead {
  /** How many there are. */
  readonly count: number
  /** The last `IN_SIGHT` of them. */
  readonly nearest: readonly FoundTicket[]
}

/** What one waits for that waits for a share. */
export interface AwaitedShare {
  readonly weight: number
  readonly room: Room
}

export class ClientHints extends HintListeners {
  readonly #options: ClientHintsOptions
  /** By the lease and the place. */
  readonly #tickets = new Map<string, TicketWatch>()
  readonly #leases = new Map<string, LeaseWatch>()
  readonly #closeOwn: () => void
  readonly #letGo: () => Promise<void>
  #sweptMs: number

  constructor(options: ClientHintsOptions) {
    const { watches, layout, client, login, clock, onDenied, onFailed } = options
    super()
    this.#options = options
    this.#sweptMs = clock.monotonic()
    this.#letGo = watches.keep(login, onFailed)
    const key = layout.toldTo(client)
    this.#closeOwn = watches.open(
      { key, range_end: endOf(key), filters: [NO_DELETES] },
      {
        begun: () => this.begin(),
        event: ({ value }, { revision }) => {
          for (const change of changesIn(value.toString())) this.#toldByOthers(change, revision)
        },
        denied: onDenied,
      },
      { last: true },
    )
  }

  /** Ends all watches. */
  async close(): Promise<void> {
    this.clear()
    for (const ticket of this.#tickets.values()) ticket.close()
    for (const lease of this.#leases.values()) lease.close()
    this.#closeOwn()
    await this.#letGo()
  }

  // ── queues ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * The lease is claimed with this ticket next: resolves when everything that happens afterwards is heard, or there is no connection.
   */
  async join(lease: string, { place, ahead, leftMs }: Joining): Promise<void> {
    const { watches, clock } = this.#options
    const ticket = this.#ticket(lease, place)
    ticket.see(ahead, undefined)
    if (!watches.isOpen) return
    await new Promise<void>((resolve) => {
      const timer = clock.setTimer(Math.min(PATIENCE_MS, leftMs * PATIENCE_SHARE), resolve)
      ticket.whenHeard(() => {
        timer.cancel()
        resolve()
      })
    })
  }

  /**
   * The lease was refused to this ticket, at this revision.
   *
   * @param share of one that waits for a share: what that weighs, and the counted lease with all its shares
   */
  queued(lease: string, place: number, ahead: Ahead, revision: string, share?: AwaitedShare): void {
    this.#ticket(lease, place).see(ahead, Number(revision), share)
  }

  /** The ticket is granted the lease, or not wanted any more. */
  left(lease: string, place: number): void {
    const name = nameOf(lease, place)
    this.#tickets.get(name)?.close()
    this.#tickets.delete(name)
  }

  #ticket(lease: string, place: number): TicketWatch {
    this.#sweep()
    const { watches, layout, client, clock, gates, onDenied } = this.#options
    const name = nameOf(lease, place)
    let ticket = this.#tickets.get(name)
    if (ticket === undefined) {
      const keys = layout.keysOf(lease)
      const tell = (change: LeaseChange): void => this.tell(change)
      const own = keys.ticket(place, client)
      const isCounted = countedOf(lease) !== undefined
      ticket = new TicketWatch({ watches, lease, keys, place, own, isCounted, gates, clock, tell, onDenied })
      this.#tickets.set(name, ticket)
    }
    ticket.untilMs = clock.monotonic() + INTEREST_MS
    return ticket
  }

  #toldByOthers(change: LeaseChange, revision: number): void {
    if (change.kind === 'vacated' && change.to !== undefined) {
      this.#tickets.get(nameOf(change.lease, change.to.place))?.toldAnew(change.to.ahead, revision)
    } else this.tell(change)
  }

  // ── leases ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The lease was read at this revision, and is watched from then on. */
  watched(lease: string, revision: string): void {
    this.#sweep()
    const { watches, layout, clock, onDenied } = this.#options
    let watch = this.#leases.get(lease)
    if (watch === undefined) {
      const tell = (change: LeaseChange): void => this.tell(change)
      watch = new LeaseWatch({ watches, lease, keys: layout.keysOf(lease), tell, onDenied }, revision)
      this.#leases.set(lease, watch)
    }
    watch.untilMs = clock.monotonic() + INTEREST_MS
  }

  unwatched(lease: string): void {
    this.#leases.get(lease)?.close()
    this.#leases.delete(lease)
  }

  #sweep(): void {
    const nowMs = this.#options.clock.monotonic()
    if (nowMs - this.#sweptMs < SWEEP_MS) return
    this.#sweptMs = nowMs
    for (const watches of [this.#tickets, this.#leases]) {
      for (const [name, watch] of watches) {
        if (watch.untilMs >= nowMs) continue
        watch.close()
        watches.delete(name)
      }
    }
  }
}

interface WatchParts {
  readonly watches: Watches
  readonly lease: string
  readonly keys: Keys
  readonly tell: (change: LeaseChange) => void
  readonly onDenied: (reason: string) => void
}

/** A lease that is watched from the state on that was read at this revision. */
class LeaseWatch {
  untilMs = 0
  readonly #closes: readonly (() => void)[]

  constructor({ watches, lease, keys, tell, onDenied }: WatchParts, since: string) {
    const listener = (change: LeaseChange): WatchListener => ({
      begun: (_revision, isLate) => {
        if (isLate) tell({ kind: 'resync' })
      },
      event: () => tell(change),
      denied: onDenied,
    })
    this.#closes = [
      watches.open({ key: keys.key, filters: [NO_PUTS] }, listener({ kind: 'vacated', lease }), { since }),
      watches.open({ key: keys.news, filters: [NO_DELETES] }, listener({ kind: 'changed', lease }), { since }),
    ]
  }

  close(): void {
    for (const close of this.#closes) close()
  }
}

/** One watch, and the revision from which on it tells; infinite: it does not yet. */
interface Hearing {
  readonly close: () => void
  fromRevision: number
}

/** A ticket ahead was put, or removed. */
interface Change {
  readonly place: number
  readonly revision: number
  /** undefined: it was removed. */
  readonly ticket: FoundTicket | undefined
}

interface TicketParts extends WatchParts {
  readonly gates: KnownGates
  readonly clock: Clock
  readonly place: number
  /** Its key. */
  readonly own: Buffer
  /** It is one for a share. */
  readonly isCounted: boolean
}

/** A share is gone. */
interface GoneShare {
  readonly revision: number
  /** What it was; undefined: that is not known any more. */
  readonly before: EtcdKeyValue | undefined
}

/** What the shares of a counted lease weigh, as far as one who waits knows. */
interface KnownRoom {
  readonly capacity: number
  readonly revision: number
  weight: number
}

/** One who waits, as far as its watches show. */
class TicketWatch {
  untilMs = 0
  readonly #parts: TicketParts
  /** Those ahead that are seen. */
  readonly #ahead = new Map<number, FoundTicket>()
  /** How many more there are. */
  #beyond = 0
  /** What was heard of those ahead since the state that is known: an answer may be older than that. */
  #changes: Change[] = []
  /** The watches of those ahead, side by side; the last one ends at its own ticket. */
  readonly #queue: (Hearing & { readonly from: Buffer })[] = []
  #vacancies: Hearing | undefined
  /** What the watches have to tell from this revision on; undefined: the state is not known yet, or it does not matter what was missed. */
  #asOf: number | undefined
  /** The last revision at which the lease was vacated, or said to be. */
  #vacatedAt = 0
  /** Of one that waits for a share; undefined: not known. */
  #room: KnownRoom | undefined
  /** How much the share weighs that it waits for. */
  #weight = 1
  /** Until then nothing is known that a vacancy could change. */
  #isSeen = false
  /** The shares that were heard to be gone since the state that is known. */
  #gone: GoneShare[] = []
  /** The capacity was another since this revision. */
  #otherSince = 0
  #waiting: (() => void)[] = []
  #timer: Timer | undefined

  constructor(parts: TicketParts) {
    this.#parts = parts
  }

  close(): void {
    for (const part of this.#queue) part.close()
    this.#vacancies?.close()
    this.#timer?.cancel()
    this.#whenAllHeard()
  }

  /** Calls back when its watches tell of all that happens from then on. */
  whenHeard(callback: () => void): void {
    this.#waiting.push(callback)
    this.#heard()
  }

  /** Takes over what the store says of those ahead, at this revision; undefined: it will be asked again. */
  see({ count, nearest }: Ahead, revision: number | undefined, share?: AwaitedShare): void {
    this.#ahead.clear()
    for (const ticket of nearest) this.#ahead.set(ticket.place, ticket)
    this.#beyond = Math.max(0, count - nearest.length)
    this.#asOf = revision
    // The place is a revision, too: that of the first answer.
    const knownAt = revision ?? this.#parts.place
    this.#changes = this.#changes.filter((change) => change.revision > knownAt)
    let haveLeft = false
    for (const change of this.#changes) if (this.#apply(change)?.leaves === true) haveLeft = true
    const isBlind = haveLeft && this.#beyond > 0
    const farthest = nearest.at(-1)
    if (farthest !== undefined) this.#watchQueue(this.#parts.keys.ticket(farthest.place, farthest.client))
    if (this.#count <= MOST_AHEAD) this.#watchVacancies()
    else {
      // Others came back, who had been passed.
      this.#vacancies?.close()
      this.#vacancies = undefined
    }
    if (isBlind || (this.#count === 0 && this.#vacatedAt > knownAt)) this.#tellVacated()
    if (revision !== undefined && share !== undefined) this.#seeRoom(share, revision)
    this.#lookIfMissed()
  }

  /** Others say that the lease is vacant, and so many are ahead. */
  toldAnew(ahead: number, revision: number): void {
    this.#vacatedAt = Math.max(this.#vacatedAt, revision)
    if (ahead <= MOST_AHEAD) this.#watchVacancies()
    this.#forgetRoom(revision)
    this.#tellVacated(ahead)
  }

  /** The capacity is another since this revision. */
  #forgetRoom(revision: number): void {
    this.#otherSince = Math.max(this.#otherSince, revision)
    if (this.#room !== undefined && this.#room.revision < revision) this.#room = undefined
  }

  get #count(): number {
    return this.#ahead.size + this.#beyond
  }

  #tellVacated(ahead: number = this.#count): void {
    const { lease, place, tell } = this.#parts
    tell({ kind: 'vacated', lease, to: { place, ahead } })
  }

  // ── those ahead ───────────────────────────────────────────────────────────────────────────────────────────────

  /** What is watched already goes on being watched: between the end of one watch and the beginning of another a removal would go unheard. */
  #watchQueue(from: Buffer): void {
    const { watches, own } = this.#parts
    const [first] = this.#queue
    // What it sees beyond the farthest one is gone.
    if (first !== undefined && first.from.compare(from) <= 0) return
    const hearing = { from, ...this.#hearing(() => close()) }
    const listener = this.#listener(hearing, (kv, { revision, isRemoved }) => {
      const ticket = isRemoved ? undefined : ticketIn(kv)
      this.#changed({ place: ticketNamed(kv.key).place, revision, ticket })
    })
    this.#queue.unshift(hearing)
    const close = watches.open({ key: from, range_end: first?.from ?? own, filters: [] }, listener)
  }

  #changed(change: Change): void {
    const { place, revision } = change
    this.#changes.push(change)
    const gone = this.#apply(change)
    if (gone === undefined) return
    if (!gone.leaves) this.#room = undefined
    if (gone.leaves && this.#beyond > 0) return this.#tellVacated()
    if (this.#count > MOST_AHEAD) return
    this.#watchVacancies()
    if (this.#count > 0) return
    // It is the first now, and must not miss what comes.
    if (gone.leaves) this.#asOf ??= revision
    else {
      this.#asOf = revision
      const { lease, place: own, tell } = this.#parts
      if (this.#vacatedAt >= revision) this.#tellVacated()
      else tell({ kind: 'taken', lease, place, durationMs: gone.durationMs, to: { place: own, ahead: 0 } })
    }
    const { isCounted, clock } = this.#parts
    this.#timer?.cancel()
    if (isCounted) this.#timer = clock.setTimer(TOGETHER_MS, () => this.#tellOfRoomLeft())
    this.#lookIfMissed()
  }

  /** Returns the ticket that has gone, if it was one of those that are seen. */
  #apply({ place, ticket }: Change): FoundTicket | undefined {
    const before = this.#ahead.get(place)
    if (ticket !== undefined) {
      this.#ahead.set(place, ticket)
      return undefined
    }
    if (before === undefined) return undefined
    this.#ahead.delete(place)
    if (before.leaves) return before
    for (const ahead of this.#ahead.keys()) if (ahead < place) this.#ahead.delete(ahead)
    this.#beyond = 0
    return before
  }

  // ── vacancies ─────────────────────────────────────────────────────────────────────────────────────────────────

  #watchVacancies(): void {
    if (this.#vacancies !== undefined) return
    const { watches, keys, isCounted } = this.#parts
    // Anyone who stands in may miss one.
    const closes: (() => void)[] = []
    const hearing = this.#hearing(() => {
      for (const close of closes) close()
    })
    const listener = this.#listener(hearing, (_kv, { revision, before }) => {
      if (isCounted) this.#shareIsGone({ revision, before })
      else this.#vacatedNow(revision)
    })
    this.#vacancies = hearing
    const range = { ...keys.vacancies, filters: [NO_PUTS] }
    closes.push(watches.open(isCounted ? { ...range, prev_kv: true } : range, listener))
    if (isCounted) closes.push(watches.open({ key: keys.gate, filters: [NO_DELETES] }, this.#gateListener()))
  }

  /** Another grant, or another capacity. What goes unheard of it only makes the next claim read it. */
  #gateListener(): WatchListener {
    const { lease, gates, onDenied } = this.#parts
    return {
      begun: () => {},
      event: (kv, { revision }) => {
        try {
          const gate = gateIn(kv)
          const { weight = Number.POSITIVE_INFINITY } = gate
          gates.learn(lease, { gate, version: kv.mod_revision, weight, asOf: revision })
          if (gate.capacity !== this.#room?.capacity) this.#forgetRoom(revision)
          this.#tellOfRoomLeft()
        } catch {
          // Somebody else wrote the key: the claims of those who wait say so.
        }
      },
      denied: onDenied,
    }
  }

  #vacatedNow(revision: number): void {
    this.#vacatedAt = Math.max(this.#vacatedAt, revision)
    this.#tellVacated()
  }

  // ── room for a share ──────────────────────────────────────────────────────────────────────────────────────────

  /** Takes over what its refusal says, at this revision. What was heard since then comes after it. */
  #seeRoom({ weight: own, room: { gate, shares } }: AwaitedShare, revision: number): void {
    this.#weight = own
    this.#isSeen = true
    this.#gone = this.#gone.filter((gone) => gone.revision > revision)
    const capacity = gate?.capacity
    // Farther back it hears of no vacancy.
    if (this.#count > MOST_AHEAD || capacity === undefined || this.#otherSince > revision) this.#room = undefined
    else {
      const weight = shares.reduce((sum, kv) => sum + weightIn(kv), 0)
      this.#room = { capacity, revision, weight }
    }
    // Those ahead that have gone since then may have been granted shares.
    if (this.#changes.some(({ ticket }) => ticket === undefined)) this.#room = undefined
    for (const gone of this.#gone) this.#tellOfRoom(gone)
  }

  #shareIsGone(gone: GoneShare): void {
    const { before, revision } = gone
    const { lease, gates } = this.#parts
    if (before !== undefined) {
      const fencingToken = BigInt(before.create_revision)
      gates.gone(lease, { weight: weightIn(before), fencingToken, revision: String(revision) })
    }
    this.#gone.push(gone)
    if (this.#isSeen) this.#tellOfRoom(gone)
  }

  /** To the first, by what is known of the gate. */
  #tellOfRoomLeft(): void {
    const { lease, gates } = this.#parts
    const { gate, weight = 0 } = gates.get(lease) ?? {}
    if (this.#isSeen && this.#count === 0 && weight + this.#weight <= (gate?.capacity ?? 0)) this.#tellVacated()
  }

  #tellOfRoom({ before, revision }: GoneShare): void {
    const room = this.#room
    if (room !== undefined) {
      if (revision <= room.revision) return
      // It may have been granted since then.
      if (before === undefined || Number(before.create_revision) > room.revision) this.#room = undefined
      else if ((room.weight -= weightIn(before)) + this.#firstWeight > room.capacity) return
    }
    this.#vacatedNow(revision)
  }

  /** Of the first in the queue; 0: not known. */
  get #firstWeight(): number {
    if (this.#count === 0) return this.#weight
    const [first] = this.#ahead.values()
    return first !== undefined && this.#count === 1 ? first.weight : 0
  }

  // ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────

  #hearing(close: () => void): Hearing {
    return { close, fromRevision: Number.POSITIVE_INFINITY }
  }

  #listener(hearing: Hearing, event: WatchListener['event']): WatchListener {
    return {
      begun: (revision, isLate) => {
        hearing.fromRevision = revision
        // What has come between them went unheard.
        this.#forgetRoom(revision)
        if (isLate) this.#tellVacated()
        this.#lookIfMissed()
        this.#heard()
      },
      event: (kv, change) => {
        try {
          event(kv, change)
        } catch {
          // Somebody else wrote the key: the claims of those who wait say so.
        }
      },
      denied: (reason) => {
        hearing.fromRevision = 0
        this.#heard()
        this.#parts.onDenied(reason)
      },
    }
  }

  get #fromRevision(): number {
    return Math.max(this.#vacancies?.fromRevision ?? 0, ...this.#queue.map(({ fromRevision }) => fromRevision))
  }

  #heard(): void {
    if (Number.isFinite(this.#fromRevision)) this.#whenAllHeard()
  }

  #whenAllHeard(): void {
    for (const callback of this.#waiting.splice(0)) callback()
  }

  /** Something may have happened between the state that is known and what the watches tell. */
  #lookIfMissed(): void {
    if (this.#asOf === undefined || !Number.isFinite(this.#fromRevision)) return
    const missed = this.#fromRevision > this.#asOf
    this.#asOf = undefined
    if (missed) this.#tellVacated()
  }
}

function nameOf(lease: string, place: number): string {
  return `${place} ${lease}`
}
