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
import { countedOf, MemoryStore, type Op } from 'lease-core'
import { SimulatedTime, type TestClock } from 'lease-core/testing'
import { CountedHistory, History, Random, type StoredTerm, type StruckWorld } from 'lease-simulation'
import { MemoryFencingStore } from '#src/fencing-gate.ts'
import { Life, PERIOD_MS, THROTTLED, type Thing } from './life.ts'
import type { Settings } from './settings.ts'

export interface Problem {
  /** The number and a word: what a shrunk run must show again. */
  readonly rule: string
  readonly what: string
}

/** A call of a recipe. */
export interface RecipeCall {
  readonly life: Life
  readonly what: string
  /** What it waits for. */
  readonly resource: string | undefined
  readonly fromMs: number
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

export interface Failure {
  readonly name?: string
  readonly code?: string
  readonly reason?: string
  readonly message?: string
}

/** A signal follows what the clock says within this time, by the clock of a process that runs. */
const SIGNAL_MS = 1_500

export class World implements StruckWorld<Life> {
  readonly settings: Settings
  readonly time: SimulatedTime = new SimulatedTime()
  readonly random: Random
  readonly history: History
  readonly counted: CountedHistory
  readonly problems: Problem[] = []
  readonly pending: Set<RecipeCall> = new Set()
  lives: Life[] = []
  calls = 0
  /** The faults have ended. */
  isCalm = false
  readonly log: string[] | undefined
  /** Of each resource: by the process, when a call for it was last under way. */
  readonly #asked = new Map<string, Map<number, number>>()
  /** Of throttles: the latest starts. */
  #starts: StoredTerm[] = []
  /** Starts as the callers know them: when they asked, and when they were answered. */
  #started: { readonly fromMs: number }[] = []
  readonly #server: TestClock
  readonly #store: MemoryStore
  readonly #weather: Random
  readonly #fences = new MemoryFencingStore()
  #lives = 0

  constructor(settings: Settings, { log = false }: { readonly log?: boolean | undefined } = {}) {
    this.settings = settings
    this.log = log ? [] : undefined
    this.random = new Random(settings.seed)
    this.#weather = new Random(settings.seed ^ 0x0a7e_51de)
    this.#server = this.time.clock({ monotonicMs: 1_000_000 })
    this.#store = new MemoryStore({ clock: this.#server, serverClock: !settings.clockless })
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
    this.history.follow(this.#store.namespace('default'))
    this.counted.follow(this.#store.namespace('default'))
    for (let name = 0; name < 3; name++) this.lives.push(this.#begin(name))
  }

  get nowMs(): number {
    return this.time.nowMs
  }

  /** What the store has at this moment. */
  get leases(): ReadonlyMap<string, { readonly holder: string }> {
    return this.#store.namespace('default').read(undefined)
  }

  problem(rule: string, what: string): void {
    this.log?.push(`  PROBLEM ${rule}: ${what}`)
    this.problems.push({ rule, what: `${what} (at ${Math.round(this.nowMs)} ms)` })
  }

  note(life: Life | undefined, what: string): void {
    this.log?.push(`${this.nowMs.toFixed(1).padStart(9)} ${life === undefined ? '  ' : `p${life.name}`} ${what}`)
  }

  /** Whether its code may do something now. */
  runs(life: Life): boolean {
    return !life.isOver && this.time.runs(life.clock)
  }

  later(ms: number, then: () => void): void {
    this.#server.setTimer(ms, then)
  }

  /** Calls back in true time, when the process runs; never after its end. */
  laterIn(life: Life, ms: number, then: () => void): void {
    this.later(ms, () => {
      if (life.isOver) return
      if (this.time.runs(life.clock)) then()
      else this.laterIn(life, 100, then)
    })
  }

  /** Whether anything is still under way in the network. */
  get isQuiet(): boolean {
    return this.#server.pending === 0
  }

  // ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

  /** A process starts; on the machine on which it lived before, if that still runs. */
  #begin(name: number, machine?: TestClock): Life {
    const rate = this.settings.drift ? this.random.pick([1, 1.0004, 0.9996]) : 1
    const monotonicMs = 1_000 + this.random.int(100_000)
    const clock = machine ?? this.time.clock({ rate, monotonicMs, bootGrainMs: 10 })
    const life: Life = new Life({
      id: this.#lives++,
      name,
      settings: this.settings,
      store: this.#store,
      server: this.#server,
      clock,
      latency: () => this.#latencyMs(),
      fences: this.#fences,
      sending: (op) => this.#sending(life, op),
    })
    return life
  }

  #latencyMs(): number {
    const random = this.#weather
    if (this.settings.late && !this.isCalm && random.chance(0.01)) return random.int(12_000)
    return random.chance(0.03) ? random.int(300) : 0.2 + random.next() * 5
  }

  #sending(life: Life, op: Op): void {
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
      this.#replace(life, life.clock)
    }
    void this.call(life, isRough ? 'the manager stops, then the recipes' : 'the recipes stop, then the manager', stop)
  }

  /** The process ends at once; what it has sent is still executed. */
  kill(life: Life): void {
    this.note(life, 'is killed and comes back')
    life.isOver = true
    this.time.kill(life.clock)
    life.faulty.disconnectWatch()
    for (const call of this.pending) if (call.life === life) this.pending.delete(call)
    this.#replace(life)
  }

  #replace(life: Life, machine?: TestClock): void {
    for (const call of this.pending) if (call.life === life) this.pending.delete(call)
    this.lives = this.lives.map((one) => (one === life ? this.#begin(life.name, machine) : one))
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
    const { codes = [], resource, signal, expects, done: judge, failed } = options
    this.calls++
    this.note(life, what)
    const fromMs = this.nowMs
    const call: RecipeCall = { life, what, resource, fromMs }
    this.pending.add(call)
    const ended = (outcome: string): boolean => {
      if (this.log !== undefined) this.note(life, `    ${outcome} ← ${what} of ${Math.round(fromMs)}`)
      if (resource !== undefined) this.#noteAsked(life, resource)
      return this.pending.delete(call)
    }
    let promise: Promise<T>
    try {
      promise = run()
    } catch (error) {
      ended(String(error))
      this.problem('7 errors', `${what} threw synchronously: ${String(error)}`)
      return Promise.resolve()
    }
    return promise.then(
      (value) => {
        if (ended('done')) judge?.(value, fromMs)
      },
      (error: Failure) => {
        if (!ended(`${error?.code ?? error?.name ?? 'error'}: ${error?.message}`)) return
        if (signal?.aborted === true && error === signal.reason) return
        if (expects?.(error) === true) return
        const isOurs = error.code === 'LEASE_UNKNOWN' || (error.code !== undefined && codes.includes(error.code))
        const isStopped = error.code === 'LEASE_STOPPED' && (life.isOver || life.isStopping || life.stops > 0)
        if (!isOurs && !isStopped)
          this.problem('7 errors', `${what} rejected with ${error.code ?? error.name}: ${error.message}`)
        if (error.code !== 'LEASE_UNKNOWN' && error.code !== 'LEASE_STOPPED') failed?.(error, fromMs)
      },
    )
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
    const isOwn = end?.by === 'release'
    const stands = term === undefined ? 'nothing' : `term ${term.fencingToken} of ${term.holder}`
    this.problem(isOwn ? '2 ended' : '1 believes', `${this.#name(life, thing)}; the store has ${stands}`)
    return true
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

  /** A caller was told that it may start. */
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
