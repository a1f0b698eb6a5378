/** The worker processes of a race: started, paused, killed, and what they have recorded. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { programOf, until } from 'lease-servers'
import { windowsIn, type Window } from './checker.ts'
import type { Report } from './recorder.ts'
import type { StoreAddress } from './stores.ts'

/** How a worker is called. */
export interface WorkerEntry extends StoreAddress {
  /** Of this process alone. */
  readonly name: string
  /** How long its leases last. */
  readonly leaseMs: number
}

/** In a worker: how it was called, with whatever else its race has for it. From now on the worker ends when its race has ended. */
export function workerEntry(): WorkerEntry {
  process.once('disconnect', () => process.exit(1))
  return JSON.parse(process.argv[2] ?? '') as WorkerEntry
}

/** In a worker: calls back with each message from the parent. */
export function whenTold(obey: (order: unknown) => void): void {
  process.on('message', obey)
}

/** One process of a race. */
export class Worker {
  readonly name: string
  readonly reports: Report[] = []
  readonly #process: ChildProcess
  #gone = false

  constructor(program: readonly string[], entry: WorkerEntry, ended: (worker: Worker, code: number | null) => void) {
    this.name = entry.name
    this.#process = spawn(process.execPath, [...program, JSON.stringify(entry)], {
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

  tell(order: object | string = 'now'): void {
    this.#process.send(order)
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
export class Workers {
  /** Those that were killed, too. */
  readonly all: Worker[] = []
  /** What ended by itself. */
  readonly crashes: string[] = []
  readonly #program: readonly string[]
  readonly #entry: Omit<WorkerEntry, 'name'>
  #closed = 0

  /** @param program its source, relative to the caller, whose `import.meta.url` is `from` */
  constructor(program: string, from: string, entry: Omit<WorkerEntry, 'name'>) {
    this.#program = programOf(program, from)
    this.#entry = entry
  }

  get running(): readonly Worker[] {
    return this.all.filter(({ running }) => running)
  }

  start(): Worker {
    const name = `p${this.all.length + 1}`
    const worker = new Worker(this.#program, { ...this.#entry, name }, (_, code) => {
      this.#closed++
      if (code !== null) this.crashes.push(`${name} ended by itself with ${code}`)
    })
    this.all.push(worker)
    return worker
  }

  /** @throws when one ended by itself */
  async until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    await until(what, () => {
      if (this.crashes.length > 0) throw new Error(this.crashes.join(', '))
      return condition()
    })
  }

  /** Resolves when all are gone and everything that they had recorded is here. */
  async kill(): Promise<void> {
    for (const worker of this.running) worker.kill()
    await this.until('end of all', () => this.#closed === this.all.length)
  }

  /** What the checker reads: see {@link windowsIn}. */
  windows(): readonly Window[] {
    return windowsIn(this.all)
  }
}
