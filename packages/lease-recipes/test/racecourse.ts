/** Where races of several processes are run: real servers, the processes, and the judge's eye on them. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Manager } from 'lease-core'
import { migrate } from 'lease-postgres'
import {
  etcdTargets,
  freshDatabase,
  postgresTargets,
  programOf,
  redisTargets,
  until,
  type PostgresTarget,
} from 'lease-servers'
import { Pool } from 'pg'
import { measureStalls, nowMs, type Entry, type RacerEntry, type Report, type Stall } from './racer.ts'

export interface Racecourse {
  /** For titles. */
  readonly name: string
  open(namespace: string): Promise<OpenRacecourse>
}

export interface OpenRacecourse {
  readonly entry: Entry
  close(): Promise<void>
}

/** Every kind of server; call it while the test file is loaded. */
export function racecourses(): readonly Racecourse[] {
  return [
    ...redisTargets('server').map((target) => shared(target.name, 'redis', () => target.url)),
    ...postgresTargets()
      .slice(0, 1)
      .map((target) => ({ name: target.name, open: (namespace: string) => openPostgres(target, namespace) })),
    ...etcdTargets(1).map((target) => shared(target.name, 'etcd', () => target.endpoints.join(','))),
  ]
}

function shared(name: string, kind: Entry['kind'], url: () => string): Racecourse {
  const open = async (namespace: string): Promise<OpenRacecourse> => ({
    entry: { kind, url: url(), namespace },
    close: async () => {},
  })
  return { name, open }
}

async function openPostgres(target: PostgresTarget, namespace: string): Promise<OpenRacecourse> {
  const database = await freshDatabase(target)
  const pool = new Pool({ connectionString: database.url, max: 1 })
  await migrate(pool)
  await pool.end()
  return { entry: { kind: 'postgres', url: database.url, namespace }, close: () => database.drop() }
}

/** Really lets time pass. */
export function pass(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** One process of a race. */
export class Racer {
  readonly name: string
  readonly reports: Report[] = []
  readonly #process: ChildProcess
  #gone = false

  constructor(program: string, entry: RacerEntry, ended: (racer: Racer, code: number | null) => void) {
    this.name = entry.name
    this.#process = spawn(process.execPath, [...programOf(program, import.meta.url), JSON.stringify(entry)], {
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    })
    const { stdout } = this.#process
    if (stdout !== null) {
      createInterface({ input: stdout }).on('line', (line) => this.reports.push(JSON.parse(line) as Report))
    }
    this.#process.on('exit', () => (this.#gone = true))
    this.#process.on('close', (code: number | null) => ended(this, code))
  }

  /** Has neither been killed nor ended by itself. */
  get running(): boolean {
    return !this.#gone && !this.#process.killed
  }

  /** The latest such report. */
  latest(what: string): Report | undefined {
    return this.reports.findLast((report) => report.what === what)
  }

  tell(): void {
    this.#process.send('now')
  }

  /** It stands still until `resume()`, and does not know it. */
  pause(): void {
    process.kill(this.#process.pid ?? 0, 'SIGSTOP')
  }

  resume(): void {
    process.kill(this.#process.pid ?? 0, 'SIGCONT')
  }

  kill(): void {
    this.#process.kill('SIGKILL')
  }
}

/** All processes of a race, of one program. */
export class Racers {
  /** Those that were killed, too. */
  readonly all: Racer[] = []
  /** What ended by itself. */
  readonly crashes: string[] = []
  readonly #program: string
  readonly #entry: Omit<RacerEntry, 'name'>
  #closed = 0

  constructor(program: string, entry: Omit<RacerEntry, 'name'>) {
    this.#program = program
    this.#entry = entry
  }

  get running(): readonly Racer[] {
    return this.all.filter(({ running }) => running)
  }

  start(): Racer {
    const racer = new Racer(this.#program, { ...this.#entry, name: `p${this.all.length + 1}` }, ({ name }, code) => {
      this.#closed++
      if (code !== null) this.crashes.push(`${name} ended by itself with ${code}`)
    })
    this.all.push(racer)
    return racer
  }

  /** @throws when one ended by itself */
  async until(what: string, condition: () => boolean): Promise<void> {
    await until(what, () => {
      if (this.crashes.length > 0) throw new Error(this.crashes.join(', '))
      return condition()
    })
  }

  /** Resolves when all are gone and everything that they had reported is here. */
  async kill(): Promise<void> {
    for (const racer of this.running) racer.kill()
    await this.until('end of all', () => this.#closed === this.all.length)
  }

  /** For each term, by fencing token, how long it was relied on at least, in the order of these windows. */
  windows(): readonly Window[] {
    const windows = new Map<string, Window>()
    for (const { name, reports } of this.all) {
      for (const { what, token, atMs } of reports) {
        if (what !== 'relied' || token === undefined) continue
        windows.set(token, { name, token, fromMs: windows.get(token)?.fromMs ?? atMs, toMs: atMs })
      }
    }
    return [...windows.values()].toSorted((a, b) => a.fromMs - b.fromMs)
  }
}

/** The time for which it is certain that a process relied on its term. */
export interface Window {
  readonly name: string
  readonly token: string
  readonly fromMs: number
  readonly toMs: number
}

/** Windows that overlap, or whose fencing token is not higher than that of the one before. */
export function conflicts(windows: readonly Window[]): string[] {
  return windows.slice(1).flatMap((window, index) => {
    const before = windows[index] as Window
    const wrong: string[] = []
    const overlapMs = before.toMs - window.fromMs
    if (overlapMs > 0) wrong.push(`${window.name} while ${before.name} did, for ${overlapMs.toFixed(1)} ms`)
    if (BigInt(window.token) <= BigInt(before.token)) wrong.push(`token ${window.token} after ${before.token}`)
    return wrong
  })
}

/** How much time was lost because the machine or the server stalled, in the process of the judge or in one of the racers. */
export class Stalls {
  readonly #racers: Racers | undefined
  readonly #stalls: Stall[] = []
  readonly #running: Promise<void>
  #stopped = false

  /** @param racers those that report what they have `measured`; without them only the judge measures */
  constructor(manager: Manager, racers?: Racers) {
    this.#racers = racers
    const tell = (stall: Stall): void => void this.#stalls.push(stall)
    this.#running = measureStalls(manager, 'judge', tell, () => this.#stopped)
  }

  /** Between these instants; several processes that stalled at once count as one. */
  lostMs(fromMs: number, toMs: number): number {
    const lost = [...this.#stalls, ...this.#reported()]
      .map(({ atMs, lostMs }) => ({ fromMs: Math.max(fromMs, atMs - lostMs), toMs: Math.min(toMs, atMs) }))
      .toSorted((a, b) => a.fromMs - b.fromMs)
    let sumMs = 0
    let countedMs = fromMs
    for (const stall of lost) {
      sumMs += Math.max(0, stall.toMs - Math.max(countedMs, stall.fromMs))
      countedMs = Math.max(countedMs, stall.toMs)
    }
    return sumMs
  }

  /** Resolves when all processes that run have measured up to now: what stalls has not reported it yet. */
  async complete(): Promise<void> {
    const atMs = nowMs()
    const isComplete = (): boolean =>
      (this.#stalls.at(-1)?.atMs ?? 0) > atMs &&
      (this.#racers?.running ?? []).every((racer) => (racer.latest('measured')?.atMs ?? 0) > atMs)
    while (!isComplete()) await pass(10)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }

  #reported(): readonly Stall[] {
    return (this.#racers?.all ?? []).flatMap(({ reports }) =>
      reports.flatMap(({ what, atMs, lostMs = 0 }) => (what === 'measured' ? [{ atMs, lostMs }] : [])),
    )
  }
}
