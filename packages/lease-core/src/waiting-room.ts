/**
 * Those who wait for a lease: some want to see it vacant, some want to see whatever becomes of it, others want to hold it.
 *
 * - Each awaited lease is looked at when a hint comes, when somebody joins, at its known expiry, and at the latest after
 *   `maxSleep`. To look is to read it for those who only watch, and to claim it for the first who wants it.
 * - Those who want to hold it are served first come, first served, and only the first of them contends in the substrate,
 *   where it stands in line with those of other processes (`line.ts`): when the lease is vacated it claims in its turn.
 * - A look that fails is repeated with growing pauses; nobody is told until his own time runs out.
 * - Whoever leaves leaves nothing behind: no timer, no claim, no entry.
 */
import type { TimerQueue, Deadline } from './timer-queue.ts'
import { backoffMs } from './backoff.ts'
import type { LeaseChange } from './client.ts'
import type { Clock } from './clock.ts'
import { ErrClaimDenied, ErrUnknown } from './errors.ts'
import type { Hold } from './hold.ts'
import type { Info, TermAware } from './lease.ts'
import { noteServed, noTurn, untilTurnMs, type Turn } from './line.ts'
import type { ParsedHoldOptions } from './options.ts'
import { lapseWindowMs } from './skew.ts'

/** What a contender asks for: any one of these leases will do. */
export interface Contention {
  readonly leases: readonly string[]
  readonly holder: string
  readonly options: ParsedHoldOptions
}

/** What the manager does for the waiting room. */
export interface WaitingRoomKeeper {
  readonly clock: Clock
  readonly timers: TimerQueue
  readonly maxSleepMs: number
  /** What the client knows of the lease, without a read. */
  known(lease: string): (Info & Partial<TermAware>) | undefined
  hasLapsed(info: Info): boolean
  read(lease: string): Promise<void>
  /** Whether a holder of this very process has it, other than this one: its end will be told by `look`. */
  isHeldHere(lease: string, butNotBy: string): boolean
  acquire(contention: Contention, signal: AbortSignal, turn: Turn): Promise<Hold>
  /** How to tell a contender that his time was over and another had it, by what is known. */
  denied(contention: Contention): ErrClaimDenied
  retrying(lease: string, doing: 'read' | 'claim', cause: unknown): void
}

/** Somebody's place in the waiting room. */
export interface Waiting<T> {
  readonly outcome: Promise<T>
  /** To be called once, whatever the outcome: gives the place up. */
  readonly leave: (reason?: unknown) => void
}

export class WaitingRoom {
  readonly #keeper: WaitingRoomKeeper
  /** By the lease, or by all the leases of which any will do. */
  readonly #awaited = new Map<string, Awaited>()
  /** Where several will do: who waits for this one among others. */
  readonly #groups = new Map<string, Set<Awaited>>()
  #closed = false

  constructor(keeper: WaitingRoomKeeper) {
    this.#keeper = keeper
  }

  /** Resolves when a read shows the lease vacant. */
  wait(lease: string): Waiting<void> {
    const awaited = this.#await([lease])
    let leave = (): void => {}
    const outcome = new Promise<void>((resolve, reject) => {
      const waiter: Waiter = { resolve, reject }
      leave = () => {
        remove(awaited.waiters, waiter)
        this.#rest(awaited)
      }
      awaited.waiters.push(waiter)
    })
    void this.#look(awaited)
    return { outcome, leave }
  }

  /**
   * Tells what every look finds, beginning with one that is sent from now on: an Info, or undefined for vacant. What
   * `fail` is told ends it: no later look would do better. Returns how to leave.
   */
  observe(lease: string, tell: (info: Info | undefined) => void, fail: (error: unknown) => void): () => void {
    const awaited = this.#await([lease])
    const observer: Observer = { tell, fail }
    awaited.observers.push(observer)
    void this.#look(awaited)
    return () => {
      remove(awaited.observers, observer)
      this.#rest(awaited)
    }
  }

  /** Resolves with a Hold when its turn has come and the lease was granted; rejects when `waitMs` is over. */
  contend(contention: Contention): Waiting<Hold> {
    const { clock, timers } = this.#keeper
    const { waitMs } = contention.options
    const awaited = this.#await(contention.leases)
    let leave = (_reason?: unknown): void => {}
    const outcome = new Promise<Hold>((resolve, reject) => {
      const giveUp = new AbortController()
      const contender: Contender = {
        contention,
        giveUp,
        failure: undefined,
        asking: false,
        resolve,
        reject,
      }
      const deadline: Deadline = { wakeAtMs: -1, slot: 0, wake: () => reject(this.#inVain(contender)) }
      leave = (reason) => {
        timers.off(deadline)
        const wasNext = awaited.contenders[0] === contender
        // One who was granted it has left already; to abort without a reason would make an error, and its stack, for nobody.
        if (remove(awaited.contenders, contender)) giveUp.abort(reason)
        if (awaited.contenders.length === 0) {
          awaited.turn = noTurn()
          this.#rest(awaited)
        } else if (wasNext) {
          awaited.askAtMs = ANY_TIME
          void this.#look(awaited)
        }
      }
      if (Number.isFinite(waitMs)) timers.at(deadline, Math.ceil(clock.monotonic() + waitMs))
      awaited.contenders.push(contender)
    })
    if (awaited.contenders.length === 1 || awaited.waiters.length > 0) void this.#look(awaited)
    return { outcome, leave }
  }

  /** The lease may be free: finds out, if anybody waits for it; who wants to hold it, in his turn. */
  look(lease: string): void {
    const awaited = this.#awaited.get(lease)
    if (awaited !== undefined) {
      this.#waitForTurn(awaited)
      void this.#look(awaited)
    }
    const groups = this.#groups.get(lease)
    if (groups !== undefined) for (const group of groups) void this.#look(group)
  }

  /** Another waiter has it, whose turn it was. */
  taken(taken: Taken): void {
    const awaited = this.#awaited.get(taken.lease)
    if (awaited === undefined) return
    awaited.taken = taken
    if (awaited.turn.place > 0) this.#waitForLapse(awaited, taken)
    this.#rest(awaited)
  }

  /** Something about the lease is different: finds out for those who observe it. */
  lookForObservers(lease: string): void {
    const awaited = this.#awaited.get(lease)
    if (awaited !== undefined && awaited.observers.length > 0) void this.#look(awaited)
  }

  /** Hints may have been lost: finds out about everything that is awaited. */
  lookAtAll(): void {
    for (const awaited of this.#awaited.values()) {
      awaited.askAtMs = ANY_TIME
      void this.#look(awaited)
    }
  }

  /** Sends everybody home: claims that are out are given up, and nothing is looked at any more. */
  close(reason: Error): void {
    this.#closed = true
    for (const awaited of this.#awaited.values()) {
      this.#keeper.timers.off(awaited)
      for (const contender of awaited.contenders) contender.giveUp.abort(reason)
    }
    this.#awaited.clear()
    this.#groups.clear()
  }

  #await(leases: readonly string[]): Awaited {
    const name = leases.join(' ') // no lease has a space in its name
    let awaited = this.#awaited.get(name)
    if (awaited === undefined) {
      awaited = new Awaited(name, leases, (woken) => void this.#look(woken))
      this.#awaited.set(name, awaited)
      if (leases.length > 1) for (const lease of leases) this.#groupsOf(lease).add(awaited)
    }
    return awaited
  }

  #groupsOf(lease: string): Set<Awaited> {
    let groups = this.#groups.get(lease)
    if (groups === undefined) this.#groups.set(lease, (groups = new Set()))
    return groups
  }

  #forget(awaited: Awaited): void {
    if (this.#awaited.get(awaited.name) === awaited) this.#awaited.delete(awaited.name)
    if (awaited.leases.length === 1) return
    for (const lease of awaited.leases) {
      const groups = this.#groupsOf(lease)
      groups.delete(awaited)
      if (groups.size === 0) this.#groups.delete(lease)
    }
  }

  /** One look at a time: whoever asks for another meanwhile gets one that is sent after he asked. */
  async #look(awaited: Awaited): Promise<void> {
    if (this.#closed) return
    if (awaited.looking) {
      awaited.lookAgain = true // what is under way may have been sent before whatever woke us
      return
    }
    awaited.looking = true
    do {
      awaited.lookAgain = false
      const looks = await this.#lookOnce(awaited)
      awaited.failures = looks.includes('failed') ? awaited.failures + 1 : 0
    } while (awaited.lookAgain && !this.#closed)
    awaited.looking = false
    this.#rest(awaited)
  }

  /**
   * Those who only wait look first: they are to see the vacancy that the contender is about to end. Observers are told
   * what was found by whichever look was sent; only when there was none, or it met nothing, they have one of their own.
   */
  async #lookOnce(awaited: Awaited): Promise<readonly Look[]> {
    const looks: Look[] = []
    if (awaited.waiters.length > 0) looks.push(await this.#outcome('read', this.#read(awaited), awaited))
    const first = awaited.contenders[0]
    if (first !== undefined && this.#mayAsk(awaited) && !this.#isHeldHere(awaited, first)) {
      looks.push(await this.#outcome('claim', this.#tryFor(awaited, first), awaited))
    }
    if (awaited.observers.length > 0 && !looks.includes('seen')) {
      looks.push(await this.#outcome('read', this.#read(awaited), awaited))
    }
    return looks
  }

  /** There is nothing to claim before his time is over who has taken it. */
  #waitForLapse(awaited: Awaited, { place, durationMs }: Taken): void {
    noteServed(awaited.turn, place)
    const { clock, maxSleepMs } = this.#keeper
    const lapsedMs = 1 + lapseWindowMs(durationMs) + untilTurnMs(awaited.turn, awaited.tookMs)
    awaited.askAtMs = clock.monotonic() + Math.min(maxSleepMs, lapsedMs)
  }

  /** From when on the first contender claims: his turn after the vacancy of this moment, unless it comes sooner. */
  #waitForTurn(awaited: Awaited): void {
    const nowMs = this.#keeper.clock.monotonic()
    const turnMs = nowMs + untilTurnMs(awaited.turn, awaited.tookMs)
    awaited.taken = undefined
    awaited.askAtMs = awaited.askAtMs > nowMs ? Math.min(awaited.askAtMs, turnMs) : turnMs
  }

  #mayAsk({ askAtMs }: Awaited): boolean {
    return askAtMs <= this.#keeper.clock.monotonic()
  }

  #isHeldHere({ leases }: Awaited, { contention }: Contender): boolean {
    return leases.every((lease) => this.#keeper.isHeldHere(lease, contention.holder))
  }

  async #outcome(doing: 'read' | 'claim', look: Promise<Look>, { leases }: Awaited): Promise<Look> {
    try {
      return await look
    } catch (error) {
      if (!this.#closed) this.#keeper.retrying(leases[0] as string, doing, error)
      return 'failed'
    }
  }

  /** Wakes those who wait for a vacancy, if it is one, and tells the observers. They wait for one lease. */
  async #read(awaited: Awaited): Promise<Look> {
    // Those who come while the read is out want one of their own.
    const waiting = [...awaited.waiters]
    const observing = [...awaited.observers]
    const lease = awaited.leases[0] as string
    try {
      await this.#keeper.read(lease)
    } catch (error) {
      if (error instanceof ErrUnknown) throw error
      for (const waiter of waiting) if (remove(awaited.waiters, waiter)) waiter.reject(error as Error)
      for (const observer of observing) if (remove(awaited.observers, observer)) observer.fail(error)
      return 'unseen'
    }
    if (this.#tell(awaited, observing) === undefined) {
      for (const waiter of waiting) if (remove(awaited.waiters, waiter)) waiter.resolve()
    }
    return 'seen'
  }

  /** Tells these observers what is known now, and returns it. */
  #tell({ leases, observers }: Awaited, observing: readonly Observer[]): Info | undefined {
    const known = this.#keeper.known(leases[0] as string)
    const info = known === undefined || this.#keeper.hasLapsed(known) ? undefined : known
    for (const observer of observing) if (observers.includes(observer)) observer.tell(info)
    return info
  }

  async #tryFor(awaited: Awaited, contender: Contender): Promise<Look> {
    const { contention, giveUp } = contender
    const observing = [...awaited.observers]
    const sentMs = this.#keeper.clock.monotonic()
    try {
      contender.asking = true
      awaited.askAtMs = ANY_TIME
      awaited.taken = undefined
      const hold = await this.#keeper.acquire(contention, giveUp.signal, awaited.turn)
      if (giveUp.signal.aborted) {
        await hold.release().catch(() => {})
        return 'unseen'
      }
      remove(awaited.contenders, contender)
      awaited.turn = noTurn()
      contender.resolve(hold)
      // Of several leases another may be free as well, whatever was known of it before.
      if (awaited.leases.length > 1 && awaited.contenders.length > 0) awaited.lookAgain = true
    } catch (error) {
      if (giveUp.signal.aborted) return 'unseen'
      contender.failure = error instanceof ErrUnknown ? error : undefined
      if (error instanceof ErrUnknown) throw error
      if (!(error instanceof ErrClaimDenied)) {
        remove(awaited.contenders, contender)
        contender.reject(error as Error)
        awaited.lookAgain = true // the next one's turn
        return 'unseen'
      }
      // News may have overtaken the refusal, which told him of his place.
      if (awaited.taken !== undefined) this.#waitForLapse(awaited, awaited.taken)
      else if (awaited.lookAgain) {
        awaited.askAtMs = this.#keeper.clock.monotonic() + untilTurnMs(awaited.turn, awaited.tookMs)
      }
    } finally {
      contender.asking = false
      awaited.tookMs = this.#keeper.clock.monotonic() - sentMs
    }
    this.#tell(awaited, observing)
    return 'seen'
  }

  /** What to tell a contender whose time is over. */
  #inVain({ contention, failure, asking }: Contender): Error {
    if (failure !== undefined) return failure
    if (!asking) return this.#keeper.denied(contention)
    const { leases, holder } = contention
    const what = leases.length === 1 ? `lease "${leases[0]}"` : `any of ${leases.length} leases`
    const message = `no answer to a claim of ${what} before the wait ran out`
    return new ErrUnknown(message, { lease: leases[0], holder, reason: 'no answer' })
  }

  /** Nobody waits: forget it. Otherwise wake when the lease may have lapsed, and at the latest after `maxSleep`. */
  #rest(awaited: Awaited): void {
    const { clock, timers, maxSleepMs } = this.#keeper
    if (awaited.looking || this.#closed) return
    if (awaited.waiters.length + awaited.contenders.length + awaited.observers.length === 0) {
      timers.off(awaited)
      this.#forget(awaited)
      return
    }
    const nowMs = clock.monotonic()
    let delayMs = maxSleepMs
    if (awaited.failures > 0) delayMs = 1 + backoffMs(awaited.failures, maxSleepMs)
    else {
      const [first] = awaited.contenders
      const untilTurn = awaited.askAtMs - nowMs
      if (first !== undefined && untilTurn > 0) delayMs = Math.min(delayMs, untilTurn)
      for (const lease of awaited.leases) {
        const untilLapse = this.#untilLapseMs(lease)
        if (awaited.waiters.length > 0) delayMs = Math.min(delayMs, untilLapse ?? 1 + backoffMs(1))
        if (awaited.observers.length > 0) delayMs = Math.min(delayMs, untilLapse ?? delayMs)
        if (first !== undefined && untilTurn <= 0) {
          // Vacant, and yet it was refused: others were ahead in line, or it was another's at that moment.
          const untilVacant = untilLapse ?? (awaited.turn.place > 0 ? 1 : 1 + backoffMs(1))
          delayMs = Math.min(delayMs, untilVacant + untilTurnMs(awaited.turn, awaited.tookMs))
        }
      }
    }
    timers.at(awaited, Math.ceil(nowMs + delayMs))
  }

  /** After how long what is known of this lease is over for certain; undefined: it is vacant. */
  #untilLapseMs(lease: string): number | undefined {
    const info = this.#keeper.known(lease)
    if (info === undefined) return undefined
    // One millisecond past the latest instant: the boundary itself still belongs to the holder.
    const leftMs = 1 + (info.lapsesInMs?.() ?? info.expiry.toMillis() - this.#keeper.clock.now())
    if (leftMs > 0) return leftMs
    return info.pinned ? Number.POSITIVE_INFINITY : 1
  }
}

const ANY_TIME = Number.NEGATIVE_INFINITY

type Taken = Extract<LeaseChange, { kind: 'taken' }>

/** What came of it: the state was seen and told; nothing was met; or it is not known and is to be tried again. */
type Look = 'seen' | 'unseen' | 'failed'

interface Waiter {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

interface Observer {
  readonly tell: (info: Info | undefined) => void
  readonly fail: (error: unknown) => void
}

/** One who wants to hold the lease and waits for it. */
interface Contender {
  readonly contention: Contention
  /** Aborts when he stops waiting: a claim of his that is out is given up. */
  readonly giveUp: AbortController
  /** What his last attempt met, when that was neither a grant nor a denial. */
  failure: ErrUnknown | undefined
  /** A claim of his is out. */
  asking: boolean
  readonly resolve: (hold: Hold) => void
  readonly reject: (error: Error) => void
}

/** A lease that somebody waits for, or several of which any will do. */
class Awaited implements Deadline {
  wakeAtMs = -1
  slot = 0
  readonly name: string
  readonly leases: readonly string[]
  readonly waiters: Waiter[] = []
  readonly contenders: Contender[] = []
  readonly observers: Observer[] = []
  /** A read or a claim is out; `lookAgain`: something happened since it was sent. */
  looking = false
  lookAgain = false
  failures = 0
  /** Before this instant the first contender does not claim. */
  askAtMs = ANY_TIME
  /** The place in line of whoever is the first contender: those of one process stand behind each other. */
  turn: Turn = noTurn()
  /** How long the last claim was out. */
  tookMs = 0
  /** What was heard of last, since the last vacancy and the last claim. */
  taken: Taken | undefined
  readonly #look: (self: Awaited) => void

  constructor(name: string, leases: readonly string[], look: (self: Awaited) => void) {
    this.name = name
    this.leases = leases
    this.#look = look
  }

  wake(): void {
    this.#look(this)
  }
}

function remove<T>(list: T[], item: T): boolean {
  const index = list.indexOf(item)
  if (index >= 0) list.splice(index, 1)
  return index >= 0
}
