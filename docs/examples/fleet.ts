/** Test support: programs of this folder that run as processes on one database, as an operator starts and stops them. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { programOf, until } from 'lease-servers'
import { Pool } from 'pg'

export interface Fleet extends AsyncDisposable {
  /** For what the test asks the database. */
  readonly pool: Pool
  /** Starts a program of this folder, or a built file with its whole path. `DATABASE_URL` names the database. */
  start(source: string, env?: NodeJS.ProcessEnv): RunningProgram
}

/** The disposal kills what still runs, and closes the pool. */
export function openFleet(url: string): Fleet {
  const pool = new Pool({ connectionString: url })
  pool.on('error', () => {}) // the database may be dropped before an idle connection is closed
  const programs: RunningProgram[] = []
  return {
    pool,
    start(source, env = {}) {
      const program = new RunningProgram(source, { DATABASE_URL: url, ...env })
      programs.push(program)
      return program
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(programs.map((program) => program.kill()))
      await pool.end()
    },
  }
}

export class RunningProgram {
  /** What it printed so far, on both outputs. */
  readonly lines: string[] = []
  readonly #process: ChildProcess
  readonly #closed: Promise<unknown>

  constructor(source: string, env: NodeJS.ProcessEnv) {
    const program = source.endsWith('.ts') ? programOf(source, import.meta.url) : [source]
    this.#process = spawn(process.execPath, program, {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#closed = once(this.#process, 'close')
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream !== null) createInterface({ input: stream }).on('line', (line) => this.lines.push(line))
    }
  }

  /** Resolves with the first line that matches. @throws when the program ends without it */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    return await until(`a program says ${pattern}`, () => {
      for (const line of this.lines) {
        const match = pattern.exec(line)
        if (match !== null) return match
      }
      if (this.#process.exitCode !== null) throw new Error(`it ended without ${pattern}:\n${this.lines.join('\n')}`)
      return undefined
    })
  }

  terminate(): void {
    this.#process.kill('SIGTERM')
  }

  /** Resolves with the exit code; null: a signal ended it. */
  async ended(): Promise<number | null> {
    await this.#closed
    return this.#process.exitCode
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#closed
  }
}
