/** Test support: programs of this folder that run as processes on one database, as an operator starts and stops them. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { programOf, until } from 'lease-servers'
import { Pool, type PoolClient } from 'pg'

export interface Fleet extends AsyncDisposable {
  /** For what the test asks the database. */
  readonly pool: Pool
  /** Starts a program of this folder, or a built file with its whole path. `DATABASE_URL` names the database. */
  start(source: string, env?: NodeJS.ProcessEnv): RunningProgram
}

/** The disposal kills what still runs, and closes the pool, also connections that a failed test has not given back. */
export function openFleet(url: string): Fleet {
  const pool = new Pool({ connectionString: url })
  pool.on('error', () => {}) // the database may be dropped before an idle connection is closed
  const borrowed = new Set<PoolClient>()
  pool.on('acquire', (client) => borrowed.add(client))
  pool.on('release', (_error, client) => borrowed.delete(client))
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
      for (const client of borrowed) client.release(true) // the end of the pool waits for them
      await pool.end()
    },
  }
}

/**
 * What a program ends with whose pool could not connect in time, before it did anything: a machine that stands still for ten seconds is
 * too slow for the time-out of the pool. A supervisor starts such a program again.
 */
const COULD_NOT_START = /(timeout exceeded when trying to connect|due to connection timeout)[^]*\bat async migrate /

/** Runs until it ends. Started again when it could not connect in time at its start. */
export class RunningProgram {
  /** What it printed so far, on both outputs. */
  readonly lines: string[] = []
  readonly #ended: Promise<number | null>
  #process: ChildProcess | undefined
  #isStopping = false
  #isOver = false

  constructor(source: string, env: NodeJS.ProcessEnv) {
    const program = source.endsWith('.ts') ? programOf(source, import.meta.url) : [source]
    this.#ended = this.#supervise(program, { ...process.env, ...env })
  }

  async #supervise(program: readonly string[], env: NodeJS.ProcessEnv): Promise<number | null> {
    for (;;) {
      const start = this.lines.length
      const running = spawn(process.execPath, program, { env, stdio: ['ignore', 'pipe', 'pipe'] })
      this.#process = running
      for (const stream of [running.stdout, running.stderr]) {
        createInterface({ input: stream }).on('line', (line) => this.lines.push(line))
      }
      await once(running, 'close')
      if (!this.#isStopping && COULD_NOT_START.test(this.lines.slice(start).join('\n'))) continue
      this.#isOver = true
      return running.exitCode
    }
  }

  /** Resolves with the first line that matches. @throws when the program ends without it */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    return await until(`a program says ${pattern}`, () => {
      for (const line of this.lines) {
        const match = pattern.exec(line)
        if (match !== null) return match
      }
      if (this.#isOver) throw new Error(`it ended without ${pattern}:\n${this.lines.join('\n')}`)
      return undefined
    })
  }

  terminate(): void {
    this.#stop('SIGTERM')
  }

  /** Resolves with the exit code; null: a signal ended it. */
  async ended(): Promise<number | null> {
    return await this.#ended
  }

  async kill(): Promise<void> {
    this.#stop('SIGKILL')
    await this.#ended
  }

  #stop(signal: NodeJS.Signals): void {
    this.#isStopping = true
    this.#process?.kill(signal)
  }
}
