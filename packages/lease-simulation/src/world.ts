/** What the worlds of the random testers share: a store, processes that come and go, one true time, their calls, and what was found. */
import { MemoryStore } from 'lease-core'
import type { Op } from 'lease-core/adapter'
import { SimulatedTime, type TestClock } from 'lease-core/testing'
import type { FaultSettings, StruckWorld } from './faults.ts'
import type { History } from './history.ts'
import type { ProcessParts, ProcessSettings, SimulatedProcess } from './process.ts'
import { Random } from './random.ts'
import type { RunOptions, RunWorld } from './run-steps.ts'
import type { Outcome } from './tester.ts'

export interface WorldSettings extends FaultSettings, ProcessSettings {
  readonly seed: number
  readonly clockless: boolean
  readonly drift: boolean
}

/** A call of the public API that is under way. */
export interface PendingCall<P extends SimulatedProcess> {
  readonly life: P
  readonly what: string
  readonly fromMs: number
}

/** What a call ended with. */
export interface Failure {
  readonly name?: string
  readonly code?: string
  readonly reason?: string
  readonly message?: string
  readonly lease?: string
  readonly currentHolder?: string
}

interface Judge<T> {
  readonly done: (value: T) => void
  readonly failed: (error: Failure) => void
}

const PROCESSES = 3

export abstract class SimulatedWorld<
  S extends WorldSettings,
  P extends SimulatedProcess,
  C extends PendingCall<P> = PendingCall<P>,
>
  implements StruckWorld<P>, RunWorld
{
  readonly settings: S
  readonly time: SimulatedTime = new SimulatedTime()
  readonly random: Random
  abstract readonly history: History
  readonly problems: Outcome['problems'][number][] = []
  readonly pending: Set<C> = new Set()
  lives: P[] = []
  calls = 0
  /** The faults have ended. */
  isCalm = false
  readonly log: string[] | undefined
  protected readonly store: MemoryStore
  readonly #server: TestClock
  readonly #weather: Random
  #begun = 0

  constructor(settings: S, { log = false }: Pick<RunOptions, 'log'> = {}) {
    this.settings = settings
    this.log = log ? [] : undefined
    this.random = new Random(settings.seed)
    this.#weather = new Random(settings.seed ^ 0x0a7e_51de)
    this.#server = this.time.clock({ monotonicMs: 1_000_000 })
    this.store = new MemoryStore({ clock: this.#server, serverClock: !settings.clockless })
  }

  get nowMs(): number {
    return this.time.nowMs
  }

  problem(rule: string, what: string): void {
    this.log?.push(`  PROBLEM ${rule}: ${what}`)
    this.problems.push({ rule, what: `${what} (at ${Math.round(this.nowMs)} ms)` })
  }

  note(life: P | undefined, what: string): void {
    this.log?.push(`${this.nowMs.toFixed(1).padStart(9)} ${life === undefined ? '  ' : `p${life.name}`} ${what}`)
  }

  /** Whether its code may do something now. */
  runs(life: P): boolean {
    return !life.isOver && this.time.runs(life.clock)
  }

  /** Calls back in true time, whatever becomes of any process. */
  later(ms: number, then: () => void): void {
    this.#server.setTimer(ms, then)
  }

  /** Whether nothing is under way in the network. */
  get isQuiet(): boolean {
    return this.#server.pending === 0
  }

  // ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

  protected abstract newLife(parts: ProcessParts<S>): P
  /** The process sends this now. */
  protected abstract sending(life: P, op: Op): void

  /** All processes start. For the end of a constructor. */
  protected beginAll(): void {
    for (let name = 0; name < PROCESSES; name++) this.lives.push(this.#begin(name))
  }

  /** The process ends at once; what it has sent is still executed. Another life of it begins. */
  kill(life: P): void {
    life.isOver = true
    this.time.kill(life.clock)
    life.faulty.disconnectWatch()
    this.forgetCalls(life)
    this.replace(life)
  }

  /** Nobody is there any more to see how they end. */
  protected forgetCalls(life: P): void {
    for (const call of this.pending) if (call.life === life) this.pending.delete(call)
  }

  protected replace(life: P, machine?: TestClock): void {
    this.lives = this.lives.map((one) => (one === life ? this.#begin(life.name, machine) : one))
  }

  /** A process starts; on the machine on which it lived before, if that still runs. */
  #begin(name: number, machine?: TestClock): P {
    const { settings, store } = this
    const rate = settings.drift ? this.random.pick([1, 1.0004, 0.9996]) : 1
    const monotonicMs = 1_000 + this.random.int(100_000)
    const life: P = this.newLife({
      id: this.#begun++,
      name,
      settings,
      store,
      server: this.#server,
      clock: machine ?? this.time.clock({ rate, monotonicMs, bootGrainMs: 10 }),
      latency: () => this.#latencyMs(),
      sending: (op) => this.sending(life, op),
    })
    return life
  }

  #latencyMs(): number {
    const random = this.#weather
    if (this.settings.late && !this.isCalm && random.chance(0.01)) return random.int(12_000)
    return random.chance(0.03) ? random.int(300) : 0.2 + random.next() * 5
  }

  // ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Makes a call, and says how it ended, unless its process is over by then. Resolves when that was said. */
  protected follow<T>(call: C, run: () => Promise<T>, judge: Judge<T>): Promise<void> {
    const { life, what, fromMs } = call
    this.calls++
    this.note(life, what)
    this.pending.add(call)
    const ended = (outcome: string): boolean => {
      if (this.log !== undefined) this.note(life, `    ${outcome} ← ${what} of ${Math.round(fromMs)}`)
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
        if (ended('done')) judge.done(value)
      },
      (error: Failure) => {
        if (ended(`${error?.code ?? error?.name ?? 'error'}: ${error?.message}`)) judge.failed(error)
      },
    )
  }

  protected misended({ what }: C, { code, name, message }: Failure): void {
    this.problem('7 errors', `${what} rejected with ${code ?? name}: ${message}`)
  }
}
