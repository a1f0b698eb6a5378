/** The worker processes of a race: started, paused, killed, and what they have recorded. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { programOf, until } from 'lease-servers'
import { windowsIn, type Window } from './checker.ts'
import type { Report } from './recorder.ts'
import type { WorkerEntry } from './worker-entry.ts'

interface WorkerParts {
  readonly env: Readonly<Record<string, string>> | undefined
  readonly hear: ((worker: Worker, line: string) => void) | undefined
  readonly ended: (worker: Worker, code: number | null) => void
}

/** One process of a race. */
export class Worker {
  readonly name: string
  /** Empty when the race hears the lines itself. */
  readonly reports: Report[] = []
  readonly #process: ChildProcess
  #gone = false

  constructor(program: readonly string[], entry: WorkerEntry, { env, hear, ended }: WorkerParts) {
    this.name = entry.name
    this.#process = spawn(process.execPath, [...program, JSON.stringify(entry)], {
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
      ...(env !== undefined && { env: { ...process.env, ...env } }),
    })
    const { stdout } = this.#process
    if (stdout !== null) {
      const heard = hear ?? ((_: Worker, line: string) => void this.reports.push(JSON.parse(line) as Report))
      createInterface({ input: stdout }).on('line', (line) => heard(this, line))
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

  /** Of the process, for faults that need it. */
  get pid(): number {
    return this.#process.pid ?? 0
  }

  /** That it cannot hear, because it has ended, is no error: it is seen elsewhere. */
  tell(order: object | string = 'now'): void {
    if (this.#process.connected) this.#process.send(order, () => {})
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

/** What a race of its own kind does with its workers. */
export interface WorkersOptions {
  /** Takes each line that a worker writes. @default it becomes one of its `reports` */
  readonly hear?: (worker: Worker, line: string) => void
  /** Called when a worker is gone and all of its lines were heard. @param code null: by a signal */
  readonly ended?: (worker: Worker, code: number | null) => void
}

/** How one worker differs from the others. */
export interface StartOptions {
  /** A name of this worker alone. @default the next of `p1`, `p2`, … */
  readonly name?: string
  readonly entry?: Partial<Omit<WorkerEntry, 'name'>>
  readonly env?: Readonly<Record<string, string>>
}

/** All processes of a race, of one program. */
export class Workers {
  /** Those that were killed, too. */
  readonly all: Worker[] = []
  /** What ended by itself. */
  readonly crashes: string[] = []
  readonly #program: readonly string[]
  readonly #entry: Omit<WorkerEntry, 'name'>
  readonly #options: WorkersOptions
  #closed = 0

  /** @param program its source, relative to the caller, whose `import.meta.url` is `from` */
  constructor(program: string, from: string, entry: Omit<WorkerEntry, 'name'>, options: WorkersOptions = {}) {
    this.#program = programOf(program, from)
    this.#entry = entry
    this.#options = options
  }

  get running(): readonly Worker[] {
    return this.all.filter(({ running }) => running)
  }

  start({ name = this.nextName, entry, env }: StartOptions = {}): Worker {
    const ended = (one: Worker, code: number | null): void => {
      this.#closed++
      if (code !== null) this.crashes.push(`${name} ended by itself with ${code}`)
      this.#options.ended?.(one, code)
    }
    const worker = new Worker(
      this.#program,
      { ...this.#entry, ...entry, name },
      { env, hear: this.#options.hear, ended },
    )
    this.all.push(worker)
    return worker
  }

  /** Of the next one that is started without a name. */
  get nextName(): string {
    return `p${this.all.length + 1}`
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
