/**
 * A small world in which everything goes wrong around the recipes: a store, some processes, and a model of what the store did.
 *
 * What must never be seen, by numbers that mean the same as in the tester of the core:
 *
 * 1. A process relies on what the store does not have; more rely on something than may; what excludes is not alone.
 * 2. A process relies on what it has ended itself.
 * 3. A fencing token does not rise; the gate lets an older one in.
 * 4. What is to be done once is done twice; there are more starts in a period than may be.
 * 5. A refusal was not true at any instant between the call and its answer.
 * 6. When the faults have ended: somebody waits too long, nobody leads, or one waiter is overtaken again and again.
 * 7. Something is left behind, or is not an error of ours.
 */
import { countedOf, type Op } from 'lease-core/adapter'
import { CountedHistory, History, SimulatedWorld } from 'lease-simulation'
import type { Failure, PendingCall, ProcessParts, RunOptions, StoredTerm } from 'lease-simulation'
import { MemoryFencingStore } from '#src/fencing-gate.ts'
import { Life, PERIOD_MS, THROTTLED, type Thing } from './life.ts'
import type { Settings } from './settings.ts'

/** A call of a recipe. */
export interface RecipeCall extends PendingCall<Life> {
  /** What it waits for. */
  readonly resource: string | undefined
}

export interface CallOptions<T> {
  /** Of errors that it may end with, besides `LEASE_UNKNOWN`. */
  readonly codes?: readonly string[]
  readonly resource?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** Whether it may end with an error that is none of ours. */
  readonly expects?: (error: unknown) => boolean
  readonly done?: (value: T, fromMs: number) => void
  readonly failed?: (error: Failure, fromMs: number) => void
}

/** A signal follows what the clock says within this time, by the clock of a process that runs. */
const SIGNAL_MS = 1_500
/** The holder of a fail-closed lock that a person has freed knows it within this time, by the same clock. */
const UNPINNED_MS = 60_000

export class World extends SimulatedWorld<Settings, Life, RecipeCall> {
  readonly history: History
  readonly counted: CountedHistory
  /** Of each resource: by the process, when a call for it was last under way. */
  readonly #asked = new Map<string, Map<number, number>>()
  /** Of throttles: the latest starts. */
  #starts: StoredTerm[] = []
  /** Starts as the callers know them: when they asked, and when they were answered. */
  #started: { readonly fromMs: number }[] = []
  readonly #fences = new MemoryFencingStore()
  readonly #results = new Map<string, string>()
  readonly #lapsing: { readonly life: Life; readonly lease: string; readonly fencingToken: bigint }[] = []

  constructor(settings: Settings, options: RunOptions = {}) {
    super(settings, options)
    this.history = new History(() => this.nowMs, {
      opened: (term) => this.#opened(term),
      released: () => true,
      executed: () => {},
      pinned: () => {},
      valued: () => {},
      mayOpenAgain: () => settings.clockless,
      problem: (rule, what) => this.problem(rule, what),
    })
    this.counted = new CountedHistory({
      history: this.history,
      clockless: settings.clockless,
      now: () => this.nowMs,
      isOutdated: () => false,
      problem: (rule, what) => this.problem(rule, what),
    })
    this.history.follow(this.store.namespace('default'))
    this.counted.follow(this.store.namespace('default'))
    this.beginAll()
  }

  /** What the store has at this moment. */
  get leases(): ReadonlyMap<string, { readonly holder: string }> {
    return this.store.namespace('default').read(undefined)
  }

  /** Calls back in true time, when the process runs; never after its end. */
  laterIn(life: Life, ms: number, then: () => void): void {
    this.later(ms, () => {
      if (life.isOver) return
      if (this.time.runs(life.clock)) then()
      else this.laterIn(life, 100, then)
    })
  }

  // ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

  protected override newLife(parts: ProcessParts<Settings>): Life {
    return new Life({ ...parts, fences: this.#fences, results: this.#results })
  }

  protected override sending(life: Life, op: Op): void {
    this.history.sending(op, { life: life.id, atMs: this.nowMs })
    if (op.kind !== 'release' || !this.runs(life)) return
    for (const thing of life.things) {
      const { lease, fencingToken, isBySignal } = thing
      if (isBySignal === true || lease !== op.lease || op.fencingToken !== fencingToken || !thing.relies()) continue
      this.problem('2 ended', `${this.#name(life, thing)}, and its process sends the end of it`)
    }
  }

  /** The process ends in order, and comes back. @param isRough the manager is stopped under the recipes */
  restart(life: Life, { isRough }: { readonly isRough: boolean }): void {
    life.isStopping = true
    const stop = async (): Promise<void> => {
      if (!isRough) await life.stopRecipes()
      if (life.isOver) return
      if (!isRough) this.nothingIsRelied(life)
      await life.manager.stop()
      if (isRough) await life.stopRecipes()
      if (life.isOver) return
      life.isOver = true
      void life.client.close() // which tells the store who has left, while the next process begins
      this.forgetCalls(life)
      this.replace(life, life.clock)
    }
    void this.call(life, isRough ? 'the manager stops, then the recipes' : 'the recipes stop, then the manager', stop)
  }

  override kill(life: Life): void {
    this.note(life, 'is killed and comes back')
    super.kill(life)
  }

  /** @param source of what was stopped; undefined: all recipes */
  nothingIsRelied(life: Life, source?: object): void {
    for (const thing of life.things)
      if (thing.source !== undefined && (source ?? thing.source) === thing.source && thing.relies())
        this.problem('2 stopped', `${this.#name(life, thing)}, and was stopped`)
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Makes a call, and judges how it ends. */
  call<T>(life: Life, what: string, run: () => Promise<T>, options: CallOptions<T> = {}): Promise<void> {
    const { codes = [], resource, signal, expects, done, failed } = options
    const call: RecipeCall = { life, what, resource, fromMs: this.nowMs }
    const noteAsked = (): void => {
      if (resource !== undefined) this.#noteAsked(life, resource)
    }
    return this.follow(call, run, {
      done: (value) => {
        noteAsked()
        done?.(value, call.fromMs)
      },
      failed: (error) => {
        noteAsked()
        if (signal?.aborted === true && error === signal.reason) return
        if (expects?.(error) === true) return
        const { code } = error
        const isOurs = code === 'LEASE_UNKNOWN' || (code !== undefined && codes.includes(code))
        const isStopped = code === 'LEASE_STOPPED' && (life.isOver || life.isStopping || life.stops > 0)
        if (!isOurs && !isStopped) this.misended(call, error)
        if (code !== 'LEASE_UNKNOWN' && code !== 'LEASE_STOPPED') failed?.(error, call.fromMs)
      },
    })
  }

  /** Whether another call of this process for it was under way since then: its own waiters are ahead of those that come later. */
  hadCompany(life: Life, resource: string, sinceMs: number): boolean {
    for (const call of this.pending) if (call.life === life && call.resource === resource) return true
    return (this.#asked.get(resource)?.get(life.id) ?? -1) >= sinceMs
  }

  /** Noted after the call has been judged: it is no company of its own. */
  #noteAsked(life: Life, resource: string): void {
    let asked = this.#asked.get(resource)
    if (asked === undefined) this.#asked.set(resource, (asked = new Map()))
    const { nowMs } = this
    queueMicrotask(() => asked.set(life.id, nowMs))
  }

  // ── who relies on what ────────────────────────────────────────────────────────────────────────────────────────

  /** A process has been granted something. */
  take(life: Life, thing: Thing): void {
    const what = `${thing.recipe} ${thing.resource} of p${life.name}, term ${thing.fencingToken}`
    if (
      life.things.some(
        (one) => one.recipe === thing.recipe && one.lease === thing.lease && one.fencingToken === thing.fencingToken,
      )
    )
      return
    const term = this.history.term(thing.lease, thing.fencingToken)
    if (term === undefined) return this.problem('5 answers', `${what}, which never was`)
    life.things.push(thing)
    this.#judge(life, thing)
  }

  /** Asks for all that the processes that run have been granted. */
  lookAtAll(): void {
    const relied = new Map<string, bigint>()
    const byResource = new Map<string, { readonly life: Life; readonly thing: Thing }[]>()
    for (const life of this.lives) {
      if (!this.runs(life)) continue
      life.things = life.things.filter((thing) => {
        const isRelied = this.#judge(life, thing)
        if (!isRelied) this.#bury(life, thing)
        return isRelied
      })
      for (const thing of life.dead) if (thing.relies()) this.problem('1 revived', `${this.#name(life, thing)} again`)
      if (life.graceMs > 0) continue
      for (const thing of life.things) {
        if (this.history.standing(thing.lease)?.fencingToken !== thing.fencingToken) continue
        if (countedOf(thing.lease) !== undefined) relied.set(thing.lease, thing.fencingToken)
        const others = byResource.get(thing.resource)
        if (others === undefined) byResource.set(thing.resource, [{ life, thing }])
        else others.push({ life, thing })
      }
    }
    if (relied.size > 1) this.counted.reliedOn(relied)
    for (const things of byResource.values()) this.#judgeTogether(things)
  }

  #judgeTogether(things: readonly { readonly life: Life; readonly thing: Thing }[]): void {
    const alone = things.find(({ thing }) => thing.isExclusive)
    if (alone === undefined) return
    const other = things.find(({ thing }) => {
      return thing.lease !== alone.thing.lease || thing.fencingToken !== alone.thing.fencingToken
    })
    if (other === undefined) return
    this.problem('1 exclusion', `${this.#name(alone.life, alone.thing)}; ${this.#name(other.life, other.thing)}`)
  }

  /** Returns whether it is relied on. */
  #judge(life: Life, thing: Thing): boolean {
    if (!thing.relies()) return false
    const { lease, fencingToken } = thing
    if (life.isOver) this.problem('2 stopped', `${this.#name(life, thing)}, and was stopped`)
    const { term, heldUntilMs } = this.history.latest(lease)
    if (term?.fencingToken === fencingToken && this.nowMs <= heldUntilMs + life.graceMs) return true
    const end = this.history.term(lease, fencingToken)?.end
    if (end?.by === 'release' && end.sent?.life !== life.id) return true // another process ended it
    if (end?.by === 'lapse' && this.nowMs <= end.atMs + life.graceMs) return true
    const { suspends, jumps, stalls } = this.settings
    if (thing.isBySignal === true && (suspends || jumps || stalls || end?.by === 'release')) {
      const nowMs = life.clock.monotonic()
      thing.overMs ??= nowMs
      const mostMs = end?.by === 'release' ? 20_000 : SIGNAL_MS
      if (nowMs - thing.overMs <= mostMs) return true
    }
    if (end?.by === 'unpin') {
      // A person has freed a fail-closed lock. Its holder need not know yet: it asks, with pauses of up to half a minute.
      const nowMs = life.clock.monotonic()
      thing.overMs ??= nowMs
      if (nowMs - thing.overMs <= UNPINNED_MS) return true
    }
    const isOwn = end?.by === 'release'
    const stands = term === undefined ? 'nothing' : `term ${term.fencingToken} of ${term.holder}`
    this.problem(isOwn ? '2 ended' : '1 believes', `${this.#name(life, thing)}; the store has ${stands}`)
    return true
  }

  /** From now on this term is left to lapse: nothing is relied on, and its process gives it up no more. */
  lapsing(life: Life, lease: string, fencingToken: bigint): void {
    for (const thing of life.things) {
      if (thing.lease !== lease || thing.fencingToken !== fencingToken) continue
      thing.isAsked = true
      if (thing.relies()) this.problem('2 ended', `${this.#name(life, thing)}, and was left to lapse`)
    }
    this.#lapsing.push({ life, lease, fencingToken })
  }

  /** For the end: what was left to lapse has lapsed. */
  judgeLapsed(): void {
    for (const { life, lease, fencingToken } of this.#lapsing) {
      const end = this.history.term(lease, fencingToken)?.end
      if (end?.by === 'release' && end.sent?.life === life.id)
        this.problem('2 lapse', `p${life.name} left ${lease}, term ${fencingToken}, to lapse, and has given it up`)
    }
  }

  /** What ended unasked was lost, and says so. */
  #bury(life: Life, thing: Thing): void {
    life.dead.push(thing)
    if (life.dead.length > 20) life.dead.shift()
    const { source, held, isAsked } = thing
    if (source === undefined || held === undefined || isAsked === true) return
    if (life.isStopping || life.stopped.has(source)) return
    if (held.signal.aborted && (held.signal.reason as Failure).name === 'AbortError')
      this.problem('2 given up', `${this.#name(life, thing)} no more, which nobody has asked for`)
  }

  #name(life: Life, { recipe, resource, lease, fencingToken }: Thing): string {
    return `p${life.name} relies on ${recipe} ${resource} (${lease}, term ${fencingToken})`
  }

  /** A caller was notified that it may start. */
  started(fromMs: number): void {
    const { nowMs } = this
    this.#started = this.#started.filter((one) => nowMs - one.fromMs < PERIOD_MS - 5)
    this.#started.push({ fromMs })
    if (this.#started.length > THROTTLED)
      this.problem('4 starts', `${this.#started.length} starts were allowed within one period of ${PERIOD_MS} ms`)
  }

  // ── what the store grants ─────────────────────────────────────────────────────────────────────────────────────

  #opened(term: StoredTerm): void {
    if (!term.lease.startsWith('throttles/')) return
    // What was granted for a call that had been given up is given back, and does not count.
    this.#starts = this.#starts.filter(({ openedMs, end }) => {
      return end?.by !== 'release' && term.openedMs - openedMs < PERIOD_MS - 0.01
    })
    this.#starts.push(term)
    if (this.#starts.length > THROTTLED)
      this.problem('4 starts', `${this.#starts.length} starts within one period of ${PERIOD_MS} ms`)
  }
}
