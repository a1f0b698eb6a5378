/**
 * One run on one ground:
 *
 *     warm-up ──▶ faults, one after another by the seed ──▶ quiet ──▶ end ──▶ the store's log ──▶ checks
 *
 * Nothing goes by speed: the warm-up lasts until every worker was granted something, and the quiet until every operation that a worker
 * tries has succeeded. Only the faults have a length. Whatever ends the run, what was recorded stays recorded.
 */
import { execFileSync } from 'node:child_process'
import { setTimeout as pass } from 'node:timers/promises'
import { Manager } from 'lease-core'
import { migrate } from 'lease-postgres'
import { Random } from 'lease-simulation'
import { kinds, type Ledger } from '../accounts.ts'
import type { Battle, Ground, Nemesis, Reach } from '../ground.ts'
import { nowMs } from '../recorder.ts'
import { openClient, openPool, type OpenClient, type StoreAddress } from '../connections.ts'
import { Workers, type Worker } from '../workers.ts'
import { clearClosedLock, type ChaosEntry } from './acts.ts'
import { LEASES, RUN, unguardedAccount, type ChaosEvent, type Operation } from './event.ts'
import { HistoryWriter, type RunSettings } from './history.ts'
import type { Order } from './worker.ts'

export interface RunOptions {
  readonly ground: Ground
  readonly nemeses: readonly Nemesis[]
  readonly folder: string
  readonly seed: number
  readonly minutes: number
  readonly workers: number
  /** Ends the run early, in order. */
  readonly signal: AbortSignal
  /** Called with a line now and then. */
  readonly report: (line: string) => void
  /** The workers break promises: there is no quiet, and they are ended at once. */
  readonly broken?: boolean | undefined
  /** Asked after each fault; the faults are over when it is true, and there is no quiet. */
  readonly isEnough?: (events: readonly ChaosEvent[]) => boolean
}

const HOT = 3
const RUNNERS = 6
/** A client waits for an answer for a third of it. */
const LEASE_MS: Readonly<Record<StoreAddress['kind'], number>> = {
  redis: 600,
  postgres: 1_200,
  etcd: 2_400,
  dynamodb: 3_000,
}
/** What only the run of a slow machine takes; it ends a wait that would be in vain. */
const PATIENCE_MS = 120_000
const INTERRUPTED_PATIENCE_MS = 10_000
const WARM_UP_MS = 3_000
const QUIET_MS = 5_000
const REPORT_EVERY_MS = 5_000
/** What every worker calls in the quiet. */
const ALWAYS: readonly Operation[] = [
  'claim',
  'hold-any',
  'find',
  'pin',
  'unpin',
  'permit',
  'closed-lock',
  'lead',
  'once-per',
]

/** Runs, and resolves when the history is complete. @throws what the ground or a nemesis throws, when all is recorded */
export async function run(options: RunOptions): Promise<void> {
  const settings = settingsOf(options)
  await using history = new HistoryWriter(options.folder, settings)
  await using chaos = await Run.open(options, settings, history)
  try {
    await chaos.warmUp()
    await chaos.faults()
    if (options.isEnough === undefined) await chaos.quiet()
  } finally {
    await chaos.end()
  }
}

/** What a run with these options says of itself. */
function settingsOf({ ground, nemeses, seed, minutes, workers, broken }: RunOptions): RunSettings {
  return {
    ground: ground.name,
    kind: ground.judge.kind,
    nemeses: nemeses.map(({ name }) => name),
    seed,
    minutes,
    workers,
    leaseMs: LEASE_MS[ground.judge.kind],
    broken,
    controls: nemeses.filter(({ isControl }) => isControl).map(({ name }) => name),
    commit: commit(),
    versions: { node: process.versions.node },
    startedAt: new Date().toISOString(),
  }
}

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', 'HEAD'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return 'unknown'
  }
}

class Run implements AsyncDisposable {
  readonly #options: RunOptions
  readonly #history: HistoryWriter
  readonly #workers: Workers
  readonly #ledger: Ledger
  readonly #judge: OpenClient
  readonly #manager: Manager
  readonly #random: Random
  readonly #startMs = nowMs()
  readonly #ended = new Set<string>()
  /** Ready, by name. */
  readonly #ready = new Set<string>()
  /** Calls in the quiet, by worker and operation: whether one was granted. */
  readonly #quiet = new Map<string, boolean>()
  readonly #granted = new Set<string>()
  /** For a control, which is judged while it runs, and for the store's log. */
  readonly #events: ChaosEvent[] = []
  #phase = ''
  #started = 0
  #operations = 0
  #faults = 0
  #reportedMs = nowMs()
  #clearing: Promise<void> | undefined

  private constructor(options: RunOptions, settings: RunSettings, history: HistoryWriter, ledger: Ledger) {
    this.#options = options
    this.#history = history
    this.#ledger = ledger
    this.#random = new Random(options.seed)
    this.#judge = openClient(options.ground.judge)
    this.#manager = new Manager({ client: this.#judge.client })
    const { broken = false } = options
    const entry: Omit<ChaosEntry, 'name'> = {
      ...options.ground.judge,
      leaseMs: settings.leaseMs,
      seed: options.seed,
      startMs: this.#startMs,
      hot: HOT,
      runners: RUNNERS,
      ways: waysOf(options.ground),
      broken,
    }
    this.#workers = new Workers('./worker.ts', import.meta.url, entry, {
      hear: (worker, line) => this.#hear(worker, line),
      ended: (worker, code) => this.#gone(worker, code),
    })
  }

  static async open(options: RunOptions, settings: RunSettings, history: HistoryWriter): Promise<Run> {
    const { judge } = options.ground
    await prepare(judge)
    const ledger = kinds[judge.kind].openLedger(judge)
    await ledger.open(accounts())
    return new Run(options, settings, history, ledger)
  }

  /** Until every worker was granted something. */
  async warmUp(): Promise<void> {
    this.#begin('warm-up')
    await Promise.all(Array.from({ length: this.#options.workers }, () => this.#start()))
    await this.#until(PATIENCE_MS, () => this.#workers.running.every(({ name }) => this.#granted.has(name)))
    await this.#pause(WARM_UP_MS)
  }

  async faults(): Promise<void> {
    this.#begin('faults')
    const { nemeses, minutes, signal, isEnough } = this.#options
    const endMs = nowMs() + minutes * 60_000
    const over = new AbortController()
    const stop = (): void => over.abort(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    const timer = setTimeout(() => over.abort(new Error('the time for faults is over')), minutes * 60_000)
    try {
      while (nowMs() < endMs && !signal.aborted && isEnough?.(await this.#soFar()) !== true) {
        const nemesis = this.#random.pick(nemeses)
        await this.#strike(nemesis, over.signal)
        await this.#pause(100 + this.#random.next() * 900)
      }
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }

  async quiet(): Promise<void> {
    if (this.#options.signal.aborted) return
    while (this.#workers.running.length < this.#options.workers) await this.#start()
    this.#begin('quiet')
    this.#tell({ phase: 'quiet' })
    await this.#pause(QUIET_MS)
    const isWell = await this.#until(PATIENCE_MS, () => this.#succeedsAll())
    if (!isWell && !this.#options.signal.aborted) this.#begin('impatient')
  }

  /** The workers close what they have, and end by themselves; then the store's own log is read. */
  async end(): Promise<void> {
    if (this.#phase === 'stored') return
    this.#begin(this.#options.signal.aborted ? 'interrupted' : 'end')
    if (this.#options.broken !== true) {
      this.#tell({ phase: 'stop' })
      const patienceMs = this.#options.signal.aborted ? INTERRUPTED_PATIENCE_MS : PATIENCE_MS
      await this.#until(patienceMs, () => this.#ended.size === this.#workers.all.length, true)
    }
    const stuck = this.#workers.all.filter(({ name }) => !this.#ended.has(name))
    for (const worker of stuck) {
      const isBlamed = this.#options.broken !== true && !this.#options.signal.aborted
      this.#note({ what: 'gone', lease: worker.name, detail: isBlamed ? 'stuck' : 'ended by the run' })
      worker.resume()
      worker.kill()
    }
    await this.#until(PATIENCE_MS, () => this.#ended.size === this.#workers.all.length, true)
    await this.#clearing
    for (const { what, fromMs, toMs } of this.#options.ground.losses?.() ?? []) {
      if (fromMs > this.#startMs) {
        this.#write({ worker: RUN, what: 'lost', atMs: fromMs, sampledMs: toMs, detail: what })
      }
    }
    try {
      for (const event of await this.#stored()) this.#write(event)
      this.#begin('stored')
    } catch (error) {
      this.#note({ what: 'fault', detail: `the log of the store could not be read: ${String(error)}` })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end()
    await this.#manager.stop()
    await this.#judge.close()
    await this.#ledger[Symbol.asyncDispose]()
  }

  async #start(): Promise<Worker> {
    const { ground, seed } = this.#options
    const number = ++this.#started
    const name = `p${number}`
    const { env, ...reach } = await ground.reach(name)
    const entry: Partial<ChaosEntry> = { ...reach, seed: seed + number }
    const worker = this.#workers.start({ name, entry, ...(env !== undefined && { env }) })
    this.#note({ what: 'started', lease: name })
    await this.#until(PATIENCE_MS, () => this.#ready.has(name) || this.#ended.has(name))
    return worker
  }

  async #strike(nemesis: Nemesis, signal: AbortSignal): Promise<void> {
    const run = this.#workers
    const battle: Battle = {
      ground: this.#options.ground,
      get workers() {
        return run.running
      },
      startWorker: () => this.#start(),
      random: () => this.#random.next(),
      note: (what, detail) => this.#note({ what: 'fault', detail: detail === undefined ? what : `${what} ${detail}` }),
      signal,
    }
    this.#faults++
    this.#note({ what: 'fault', detail: nemesis.name })
    this.#progress()
    try {
      await nemesis.strike(battle)
    } catch (error) {
      if (!signal.aborted) throw new Error(`${nemesis.name} failed: ${String(error)}`, { cause: error })
    } finally {
      this.#note({ what: 'mended', detail: nemesis.name })
    }
    // One that ended by itself is a finding, and the others go on.
    while (this.#workers.running.length < this.#options.workers && !signal.aborted) await this.#start()
  }

  #hear({ name }: Worker, line: string): void {
    let event: ChaosEvent
    try {
      event = { worker: name, ...(JSON.parse(line) as Omit<ChaosEvent, 'worker'>) }
    } catch {
      return // the end of a worker that was killed while it wrote
    }
    this.#write(event)
    const { what, operation, outcome } = event
    if (what === 'ready') this.#ready.add(name)
    if (what !== 'answered') return
    this.#operations++
    if (outcome === 'granted') this.#granted.add(name)
    if (this.#phase === 'quiet') {
      const key = `${name} ${operation}`
      this.#quiet.set(key, this.#quiet.get(key) === true || outcome === 'granted')
    }
  }

  #gone({ name }: Worker, code: number | null): void {
    this.#ended.add(name)
    this.#note({ what: 'gone', lease: name, code })
  }

  /** Whether every operation that was called since the faults has succeeded once, in every worker. */
  #succeedsAll(): boolean {
    const isTried = this.#workers.running.every(({ name }) =>
      ALWAYS.every((operation) => this.#quiet.has(`${name} ${operation}`)),
    )
    const running = new Set(this.#workers.running.map(({ name }) => name))
    const failing = [...this.#quiet].filter(([key, isGranted]) => !isGranted && running.has(key.split(' ')[0] ?? ''))
    return isTried && failing.length === 0
  }

  #tell(order: Order): void {
    for (const worker of this.#workers.running) worker.tell(order)
  }

  #begin(phase: string): void {
    this.#phase = phase
    this.#note({ what: 'phase', detail: phase })
    this.#progress()
  }

  #note(event: Omit<ChaosEvent, 'worker' | 'atMs'>): void {
    this.#write({ worker: RUN, atMs: nowMs(), ...event })
  }

  #write(event: ChaosEvent): void {
    this.#history.write(event)
    // Of other runs only what the log of etcd is made of.
    if (event.what === 'written' || this.#options.isEnough !== undefined) this.#events.push(event)
  }

  /** What a control has recorded, with the store's log. */
  async #soFar(): Promise<readonly ChaosEvent[]> {
    // First: what is acknowledged while the log is read need not be in it.
    const events = [...this.#events]
    const stored = await this.#stored().catch(() => [])
    const read: ChaosEvent = { worker: RUN, what: 'phase', detail: 'stored', atMs: nowMs() }
    return [...events, ...stored, read].toSorted((a, b) => a.atMs - b.atMs)
  }

  async #stored(): Promise<readonly ChaosEvent[]> {
    const log = await this.#ledger.read(accounts(), this.#events)
    return log.map(({ what, lease, token, over }) => ({
      worker: RUN,
      what: 'stored',
      atMs: nowMs(),
      detail: what,
      lease,
      token: String(token),
      ...(over !== undefined && { over: String(over) }),
    }))
  }

  async #pause(ms: number): Promise<void> {
    await this.#until(ms, () => false)
  }

  /** @returns false when the patience or the run is over before that */
  async #until(patienceMs: number, condition: () => boolean, uninterrupted: boolean = false): Promise<boolean> {
    const endMs = nowMs() + patienceMs
    while (!condition()) {
      if (nowMs() > endMs || (this.#options.signal.aborted && !uninterrupted)) return false
      if (nowMs() - this.#reportedMs > REPORT_EVERY_MS) this.#progress()
      this.#clearClosedLock()
      await pass(Math.min(20, Math.max(1, endMs - nowMs())))
    }
    return true
  }

  /** What dead workers have left locked, one attempt at a time. */
  #clearClosedLock(): void {
    if (this.#clearing !== undefined || this.#ended.size === 0 || this.#phase === 'end') return
    const clear = async (): Promise<void> => {
      const cleared = await clearClosedLock(this.#manager, (owner) => this.#ended.has(owner))
      if (cleared !== undefined) this.#write({ worker: RUN, ...cleared })
      await pass(500)
      this.#clearing = undefined
    }
    this.#clearing = clear()
  }

  #progress(): void {
    this.#reportedMs = nowMs()
    const seconds = Math.round((nowMs() - this.#startMs) / 1000)
    const figures = `${this.#operations} operations, ${this.#faults} faults, ${this.#workers.running.length} workers`
    this.#options.report(`${this.#options.ground.name}: ${this.#phase}, ${seconds} s, ${figures}`)
  }
}

/** Migrates the store, where there is something to migrate. */
async function prepare(judge: Reach): Promise<void> {
  if (judge.kind !== 'postgres') return
  const pool = openPool(judge, 1)
  try {
    await migrate(pool)
  } finally {
    await pool.end()
  }
}

function accounts(): string[] {
  const leases = Array.from({ length: HOT }, (_, index) => LEASES.hot(index))
  return [...leases, ...leases.map(unguardedAccount)]
}

/** A connection that is watched must not be made again under the writer, and a Cluster has none. */
function waysOf({ judge }: Ground): readonly string[] {
  const isOneServer = judge.sentinels === undefined && !judge.url.includes(',')
  return judge.kind !== 'redis' ? kinds[judge.kind].guarded : isOneServer ? ['run()', 'transaction()'] : ['run()']
}
