/**
 * A small world in which everything goes wrong: a store, some processes, and a model of what the store did (`history.ts`).
 *
 * This file says what must never be seen, by the numbers of the list that it comes from:
 *
 * 1. Two terms of one lease are relied on at once.
 * 2. A process relies on a term that it knows to be over.
 * 3. A guarded write is not ordered; a fencing token does not rise.
 * 4. A request that was given up undoes something acknowledged.
 * 5. An answer was not true at any instant between the question and the answer.
 * 6. A waiter waits too long, or out of order.
 * 7. Something is left behind, or is not an error of ours.
 */
import { ErrLost } from '#src/errors.ts'
import { countedOf } from '#src/share.ts'
import { LONGEST_DEADLINE_MS, type Op } from '#src/substrate.ts'
import { CountedHistory, History, SimulatedWorld } from 'lease-simulation'
import type { Failure, ProcessParts, RunOptions, Sent, StoredTerm } from 'lease-simulation'
import { Life, type HeldHere } from './life.ts'
import type { Settings } from './settings.ts'

/** A call that may end terms: with it, a release of this process is asked for. */
interface Request {
  readonly life: number
  readonly lease: string
  readonly fencingToken?: bigint | undefined
  readonly holder?: string | undefined
  /** It ends also what was granted since, of the same term. */
  readonly isRevocation?: boolean | undefined
  readonly fromMs: number
  toMs: number
}

/** A call that asks for a term. */
interface Claiming {
  readonly life: number
  readonly leases: readonly string[]
  readonly holder: string
  readonly fromMs: number
  toMs: number
  /** It was notified that it has surely nothing. */
  isDenied: boolean
}

/** A call of `pin` or `unpin`. */
export interface PinCall {
  readonly life: number
  readonly fromMs: number
  toMs: number
  isDone: boolean
}

const ALWAYS_ALLOWED = new Set(['LEASE_UNKNOWN', 'LEASE_STOPPED'])
/** By when a signal has followed `held`, by the clock of a process that runs. */
const SIGNAL_MS = 1_500

export class Simulation extends SimulatedWorld<Settings, Life> {
  readonly history: History
  readonly counted: CountedHistory
  readonly #ends: Request[] = []
  readonly #claims: Claiming[] = []
  /** Ends of terms that were acknowledged, by lease. */
  readonly #released = new Map<string, { readonly life: number; readonly holder: string; readonly fromMs: number }[]>()
  readonly #unpins = new Map<string, PinCall[]>()
  readonly #pins = new Map<string, PinCall[]>()
  readonly #updates = new Map<string, { readonly fromMs: number; toMs: number; isDone: boolean }>()
  readonly #pinnedAtMs = new Map<string, number>()
  readonly #guarded = new Map<string, bigint>()
  /** When the latest term of a lease was opened. */
  readonly #openedMs = new Map<string, number>()

  constructor(settings: Settings, options: RunOptions = {}) {
    super(settings, options)
    this.history = new History(() => this.nowMs, {
      opened: (term, sent) => this.#opened(term, sent),
      released: (term, op, sent, nonce) => this.#isAskedFor(term, op, sent, nonce),
      executed: (op, sent) => this.#executed(op, sent),
      pinned: (lease, entity, sent, isPinned) => this.#pinned(lease, entity, sent, isPinned),
      valued: (term, value) => this.#valued(term, value),
      // Its epoch is the latest of its process: what nobody else has asked for since is a claim that somebody still waits for.
      mayOpenAgain: ({ lease, holder }, sent) =>
        this.settings.clockless &&
        this.lives.some((life) => life.id === sent?.life && this.isAsking(life, lease, holder, this.nowMs)),
      problem: (rule, what) => this.problem(rule, what),
    })
    this.counted = new CountedHistory({
      history: this.history,
      clockless: settings.clockless,
      now: () => this.nowMs,
      isOutdated: ({ life, atMs }) =>
        !settings.clockless || (this.#heardMs.get(life) ?? -1) > atMs + settings.requestTimeoutMs,
      problem: (rule, what) => this.problem(rule, what),
    })
    this.history.follow(this.store.namespace('default'))
    if (settings.counted) this.counted.follow(this.store.namespace('default'))
    this.beginAll()
  }

  // ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

  protected override newLife(parts: ProcessParts<Settings>): Life {
    const { name } = parts
    return new Life({
      ...parts,
      managers: name === 0 ? 2 : 1,
      lacksOptionalMethods: this.settings.fallback && name === 2,
    })
  }

  /** The process ends in order, and comes back. */
  async restart(life: Life): Promise<void> {
    life.isOver = true
    await Promise.all(life.managers.map((manager) => manager.stop()))
    this.look(life)
    void life.client.close() // which tells the store who has left, while the next process begins
    this.replace(life, life.clock)
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Makes a call, and judges how it ends. */
  call<T>(
    life: Life,
    what: string,
    run: () => Promise<T>,
    {
      codes = [],
      signal,
      done,
      failed,
    }: {
      readonly codes?: readonly string[]
      readonly signal?: AbortSignal | undefined
      readonly done?: (value: T, fromMs: number) => void
      readonly failed?: (error: Failure, fromMs: number) => void
    } = {},
  ): void {
    const call = { life, what, fromMs: this.nowMs }
    void this.follow(call, run, {
      done: (value) => done?.(value, call.fromMs),
      failed: (error) => {
        const { code } = error
        const isOurs = code !== undefined && (codes.includes(code) || ALWAYS_ALLOWED.has(code))
        if (!isOurs && !(signal?.aborted === true && error === signal.reason)) return this.misended(call, error)
        if (code === 'LEASE_STOPPED' && !life.isOver) this.misended(call, error)
        if (code !== 'LEASE_UNKNOWN' && code !== 'LEASE_STOPPED') failed?.(error, call.fromMs)
      },
    })
  }

  /** From now on this process may end such terms; returns how to say that the call is over. */
  mayEnd(request: Omit<Request, 'fromMs' | 'toMs'>): () => void {
    const noted: Request = { ...request, fromMs: this.nowMs, toMs: Number.POSITIVE_INFINITY }
    this.#ends.push(noted)
    return () => (noted.toMs = this.nowMs)
  }

  /** From now on this process asks for one of these; returns how to say that the call is over. */
  claiming(life: Life, leases: readonly string[], holder: string): (outcome: 'denied' | 'over') => void {
    const claim = { life: life.id, leases, holder, fromMs: this.nowMs, toMs: Number.POSITIVE_INFINITY, isDenied: false }
    this.#claims.push(claim)
    return (outcome) => {
      claim.toMs = this.nowMs
      claim.isDenied = outcome === 'denied'
    }
  }

  /** Whether a call of this process for this holder, since then, has been granted a term or may be. */
  isAsking(life: Life, lease: string, holder: string, sinceMs: number): boolean {
    return this.#claims.some(
      (one) =>
        one.life === life.id &&
        one.holder === holder &&
        one.toMs >= sinceMs &&
        !one.isDenied &&
        one.leases.includes(lease),
    )
  }

  /** A caller was notified that its release is done. */
  released(life: Life, lease: string, holder: string, fromMs: number): void {
    push(this.#released, lease, { life: life.id, holder, fromMs })
  }

  /** Whether this process has asked for the end of the term that stands, so that it need not count it as held. */
  isEnding(life: Life, lease: string, holder: string, fromMs: number): boolean {
    const { term } = this.history.latest(lease)
    return this.#ends.some((request) => {
      if (request.life !== life.id || request.lease !== lease || (request.holder ?? holder) !== holder) return false
      return request.toMs >= fromMs || (term !== undefined && request.toMs >= term.openedMs)
    })
  }

  /** A caller was notified that it has this term since it asked. */
  acknowledge(
    life: Life,
    lease: string,
    holder: string,
    fencingToken: bigint,
    durationMs: number,
    fromMs: number,
  ): void {
    const term = this.history.term(lease, fencingToken)
    const what = `${holder} was granted ${lease}, term ${fencingToken}`
    if (term === undefined || term.holder !== holder) return this.problem('5 answers', `${what}, which never was`)
    term.acknowledged.push({ life: life.id, fromMs })
    if (term.end?.by === 'release' && !term.end.isAsked)
      this.problem('4 late', `${what}, which was released though nobody had asked for it`)
    const stood = this.history.wasTrue(lease, fromMs, this.nowMs, (one, { vacantFromMs }) => {
      return one === term && vacantFromMs >= fromMs + durationMs * 0.999 - 1
    })
    if (!stood) this.problem('5 answers', `${what}, which did not stand since the call`)
  }

  /** Something is true by an answer of now to a question of then. */
  mustHaveBeen(
    lease: string,
    fromMs: number,
    what: string,
    test: Parameters<History['wasTrue']>[3],
    rule: string = '5 answers',
  ): void {
    if (!this.history.wasTrue(lease, fromMs, this.nowMs, test)) {
      this.problem(rule, `${what}, asked at ${Math.round(fromMs)}: that was never so`)
    }
  }

  /** For the body of a guard. @param fencingToken of the term that was meant; undefined: any of this holder */
  guarded(lease: string, holder: string, fencingToken: bigint | undefined): void {
    const term = this.history.standing(lease)
    const what = `a guarded write of ${holder} on ${lease}`
    if (term === undefined) return this.problem('3 guarded', `${what} passed while nobody held it`)
    if (term.holder !== holder || (fencingToken !== undefined && term.fencingToken !== fencingToken)) {
      this.problem(
        '3 guarded',
        `${what} for term ${fencingToken} passed in term ${term.fencingToken} of ${term.holder}`,
      )
    }
    if (term.fencingToken < (this.#guarded.get(lease) ?? 0n))
      this.problem('3 guarded', `${what} came after one of a later term`)
    this.#guarded.set(lease, term.fencingToken)
  }

  // ── pins and values ───────────────────────────────────────────────────────────────────────────────────────────

  pinning(life: Life, lease: string, entity: string): PinCall {
    return begin(this.#pins, `${lease} ${entity}`, life.id, this.nowMs)
  }

  unpinning(life: Life, lease: string, entity: string): PinCall {
    return begin(this.#unpins, `${lease} ${entity}`, life.id, this.nowMs)
  }

  /** Whether it was pinned anew since then: its withdrawal may have come just before, and nobody can tell. */
  wasPinnedSince(lease: string, entity: string, fromMs: number): boolean {
    return (this.#pinnedAtMs.get(`${lease} ${entity}`) ?? -1) >= fromMs
  }

  /** What was given up before does not undo what was acknowledged since. */
  #pinned(lease: string, entity: string, sent: Sent | undefined, isPinned: boolean): void {
    if (sent === undefined) return
    const key = `${lease} ${entity}`
    if (isPinned) this.#pinnedAtMs.set(key, this.nowMs)
    const [same = [], opposite = []] = isPinned
      ? [this.#pins.get(key), this.#unpins.get(key)]
      : [this.#unpins.get(key), this.#pins.get(key)]
    // A store without a clock must have heard of it in a later epoch: docs/guarantees.md.
    const heardMs = this.#heardMs.get(sent.life) ?? -1
    if (this.settings.clockless && heardMs <= sent.atMs + this.settings.requestTimeoutMs) return
    for (const { fromMs, isDone } of opposite) {
      if (!isDone || fromMs <= sent.atMs) continue
      if (same.some((one) => one.life === sent.life && one.fromMs <= sent.atMs && one.toMs >= fromMs)) continue // at the same time
      const what = isPinned ? 'pin' : 'withdrawal of the pin'
      return this.problem(
        '4 pin',
        `a ${what} of ${lease} by ${entity}, sent at ${Math.round(sent.atMs)}, undid what was done at ${Math.round(fromMs)}`,
      )
    }
  }

  updating(value: string): { readonly ended: (isDone: boolean) => void } {
    const update = { fromMs: this.nowMs, toMs: Number.POSITIVE_INFINITY, isDone: false }
    this.#updates.set(value, update)
    return {
      ended: (isDone) => {
        update.toMs = this.nowMs
        update.isDone = isDone
      },
    }
  }

  #valued(term: StoredTerm, value: string): void {
    const update = this.#updates.get(value)
    const previous = this.#values.get(term)
    this.#values.set(term, value)
    if (update === undefined || previous === undefined) return
    const overwritten = this.#updates.get(previous)
    if (this.settings.strict && overwritten?.isDone === true && update.toMs < overwritten.fromMs) {
      this.problem('4 value', `the value ${value} of ${term.lease}, given up before, replaced the later ${previous}`)
    }
  }

  readonly #values = new Map<StoredTerm, string>()

  // ── who relies on what ────────────────────────────────────────────────────────────────────────────────────────

  /** Asks every hold of the processes that run. */
  lookAtAll(): void {
    for (const life of this.lives) if (this.runs(life)) this.look(life)
    if (this.settings.counted) this.#lookAtShares()
  }

  /** What another process has ended, of the same holder, is relied on until that is known. */
  #lookAtShares(): void {
    const relied = new Map<string, bigint>()
    for (const life of this.lives) {
      if (!this.runs(life) || life.graceMs > 0) continue
      for (const { hold, lease, fencingToken } of life.holds) {
        const stands = this.history.standing(lease)?.fencingToken === fencingToken
        if (countedOf(lease) !== undefined && stands && hold.held) relied.set(lease, fencingToken)
      }
    }
    if (relied.size > 1) this.counted.reliedOn(relied)
  }

  look(life: Life): void {
    let someAreDead = false
    for (const here of life.holds) {
      if (!this.#judge(life, here)) someAreDead = true
    }
    if (someAreDead) {
      for (const here of life.holds) if (here.deadMs !== undefined) life.dead.push(here)
      life.holds = life.holds.filter(({ deadMs }) => deadMs === undefined)
      if (life.dead.length > 12) life.dead.splice(0, life.dead.length - 12)
    }
    const nowMs = life.clock.monotonic()
    for (const { hold, deadMs } of life.dead) {
      if (hold.held) this.problem('1 revived', `a hold of ${hold.lease}, term ${hold.fencingToken}, is held again`)
      if (nowMs - (deadMs ?? nowMs) > SIGNAL_MS && this.runs(life) && !hold.signal.aborted) {
        this.problem('1 signal', `the signal of a lost hold of ${hold.lease} did not follow`)
      }
    }
  }

  /** Returns whether it is held. */
  #judge(life: Life, here: HeldHere): boolean {
    const { hold, lease, holder, fencingToken } = here
    if (!hold.held) {
      here.deadMs = life.clock.monotonic()
      here.seenDeadMs = this.nowMs
      this.#judgeLoss(life, here)
      return false
    }
    const who = `p${life.name} ${holder} relies on ${lease}, term ${fencingToken}`
    if (life.isOver) this.problem('2 stopped', `${who}, and was stopped`)
    if (this.settings.strict && life.client.leases().get(lease)?.fencingToken !== fencingToken)
      this.problem('2 told', `${who}, and its client knows that it is over`)
    const { term, heldUntilMs } = this.history.latest(lease)
    if (term?.fencingToken === fencingToken && this.nowMs <= heldUntilMs + life.graceMs) {
      const leftMs = hold.remaining().toMillis() - life.graceMs
      if (leftMs > (heldUntilMs - this.nowMs) * 1.001 + 1) {
        this.problem('1 remaining', `${who}, for ${leftMs} ms more, and the store for ${heldUntilMs - this.nowMs}`)
      }
      return true
    }
    const end = this.history.term(lease, fencingToken)?.end
    if (end?.by === 'release' && end.isAsked && end.sent?.life !== life.id) return true // another process ended it
    if (end?.by === 'lapse' && this.nowMs <= end.atMs + life.graceMs) return true
    this.problem(
      end?.by === 'release' && end.sent?.life === life.id ? '2 ended' : '1 believes',
      `${who}; the store has ${describe(term, this.nowMs <= heldUntilMs)}`,
    )
    return true
  }

  /** A holder that is notified that another ended the term, or has the lease, learns the truth. */
  #judgeLoss(life: Life, { hold, lease, holder, fencingToken }: HeldHere): void {
    const loss: unknown = hold.signal.reason
    if (!(loss instanceof ErrLost) || (loss.reason !== 'revoked' && loss.reason !== 'taken')) return
    if (this.history.standing(lease)?.fencingToken !== fencingToken) return
    if (life.isOver || this.isEnding(life, lease, holder, 0)) return // in its own eyes it is over before it is in the store
    this.problem('5 lost', `p${life.name} ${holder} lost ${lease}, term ${fencingToken}, as ${loss.reason}: it stands`)
  }

  /** Of each process: when the latest of the requests was sent that have been executed. */
  readonly #heardMs = new Map<number, number>()

  /** No request takes effect long after it was sent: by the clock of the store, as well as its client knows it. */
  #executed({ kind, lease }: Op, sent: Sent | undefined): void {
    if (sent === undefined) return
    this.#heardMs.set(sent.life, Math.max(sent.atMs, this.#heardMs.get(sent.life) ?? 0))
    if (this.settings.clockless) return
    const { requestTimeoutMs, stalls, suspends } = this.settings
    const agoMs = this.nowMs - sent.atMs
    // A process that stood still knows the clock of the store only as well as it knows when the answer came.
    const longestMs = stalls || suspends ? LONGEST_DEADLINE_MS : 2 * requestTimeoutMs
    if (agoMs > longestMs + 500) {
      this.problem('4 deadline', `a ${kind} of ${lease} was executed ${Math.round(agoMs)} ms after it was sent`)
    }
  }

  #opened(term: StoredTerm, sent: Sent | undefined): void {
    if (sent !== undefined) this.#mustBeWanted(term, sent)
    this.#openedMs.set(term.lease, term.openedMs)
    for (const life of this.lives) {
      if (!this.runs(life)) continue
      for (const here of life.holds) {
        if (here.lease === term.lease && here.fencingToken !== term.fencingToken) this.#judge(life, here)
      }
    }
  }

  /** A claim that was given up must open no term after a release of the same holder here that was acknowledged later. */
  #mustBeWanted(term: StoredTerm, sent: Sent): void {
    if (sent.isRefused === true && !this.settings.strict) return // a copy of what was refused: see docs/reliability.md
    const { lease, holder, fencingToken } = term
    // Sent since the latest term was opened, it is withdrawn at its deadline at the latest: see docs/reliability.md.
    if (!this.settings.clockless && !this.settings.strict && sent.atMs > (this.#openedMs.get(lease) ?? -1)) return
    const callers = this.#claims.filter((one) => {
      return one.life === sent.life && one.holder === holder && one.leases.includes(lease) && one.fromMs <= sent.atMs
    })
    const what = `a claim of ${holder}, sent at ${Math.round(sent.atMs)}, opened ${lease}, term ${fencingToken}`
    for (const release of this.#released.get(lease) ?? []) {
      if (release.fromMs <= sent.atMs) continue
      const isGivenUp =
        (release.life === sent.life && release.holder === holder) ||
        (this.settings.strict && callers.every(({ toMs }) => toMs < release.fromMs))
      if (isGivenUp) return this.problem('4 ghost', `${what}, after the release of ${Math.round(release.fromMs)}`)
    }
    if (
      this.settings.strict &&
      callers.length > 0 &&
      callers.every(({ isDenied, toMs }) => isDenied && toMs < this.nowMs)
    ) {
      this.problem('4 denied', `${what}, though all who had asked for it were notified that they have nothing`)
    }
  }

  /** Returns whether somebody has asked for this. @param nonce of the term until now */
  #isAskedFor(term: StoredTerm, op: Op, sent: Sent | undefined, nonce: string | undefined): boolean {
    if (op.kind !== 'release' || sent === undefined) return true
    const what = `a release that p${sent.life} sent at ${Math.round(sent.atMs)} ended ${term.lease}, term ${term.fencingToken} of ${term.holder}`
    const asked = this.#ends.filter(({ life, lease, fencingToken, holder, fromMs, toMs }) => {
      if (life !== sent.life || lease !== term.lease || fromMs > sent.atMs || term.openedMs > toMs) return false
      return (fencingToken ?? term.fencingToken) === term.fencingToken && (holder ?? term.holder) === term.holder
    })
    const isAsked = asked.length > 0
    if (!isAsked && term.acknowledged.length > 0) this.problem('4 late', `${what}, which nobody had asked for`)
    const isRevocation = asked.some((one) => one.isRevocation)
    if (isRevocation) return isAsked
    for (const { life, fromMs } of term.acknowledged) {
      // Within a process one comes after the other; between two, what goes on at once may come in any order. A release by name of
      // another process that is late ends the term that it saw, also where its own process has extended that since: `strict`.
      const isAdopted = op.nonce !== nonce || this.settings.strict
      const isOver = life === sent.life || (isAdopted && asked.every(({ toMs }) => toMs < fromMs))
      if (isOver && fromMs > sent.atMs) this.problem('4 late', `${what}, which was granted since`)
    }
    return isAsked
  }

  /** From the moment at which a process sends the end of a term it must not rely on it. */
  protected override sending(life: Life, op: Op): void {
    this.history.sending(op, { life: life.id, atMs: this.nowMs })
    if (!('kind' in op) || op.kind !== 'release' || !this.runs(life)) return
    for (const { hold, holder, lease, fencingToken } of life.holds) {
      if (lease !== op.lease || holder !== op.holder) continue
      if (op.fencingToken === undefined && op.nonce !== undefined) continue // the end of a claim that was given up
      if ((op.fencingToken ?? fencingToken) === fencingToken && hold.held) {
        this.problem('2 ended', `p${life.name} sends the release of ${lease}, term ${fencingToken}, and relies on it`)
      }
    }
  }
}

function describe(term: StoredTerm | undefined, stands: boolean): string {
  if (term === undefined) return 'nothing'
  return `term ${term.fencingToken} of ${term.holder}${stands ? '' : ', lapsed'}`
}

function begin(calls: Map<string, PinCall[]>, key: string, life: number, fromMs: number): PinCall {
  const call = { life, fromMs, toMs: Number.POSITIVE_INFINITY, isDone: false }
  push(calls, key, call)
  return call
}

function push<T>(map: Map<string, T[]>, key: string, item: T): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [item])
  else list.push(item)
}
