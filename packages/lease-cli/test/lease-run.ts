/** Runs the command `lease` as a process, as people do. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pass } from 'node:timers/promises'
import { programOf, until } from 'lease-servers'

const PROGRAM = programOf('../src/main.ts', import.meta.url)

/** A run of the command. What it prints is kept. */
export class LeaseRun {
  readonly child: ChildProcess
  stdout = ''
  stderr = ''
  /**
   * As a shell sees it: a signal n is 128 + n. Where no signal has ended it, all that it and its command have printed has been read by
   * then; where one has, its command may still run and print.
   */
  readonly code: Promise<number>
  /** Resolves when the process has ended, though others may still print. */
  readonly exited: Promise<unknown>
  #hasEnded = false

  constructor(args: readonly string[], env: Readonly<Record<string, string>>) {
    this.child = spawn(process.execPath, [...PROGRAM, ...args], {
      env: { ...clean(process.env), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const name of ['stdout', 'stderr'] as const) {
      this.child[name]?.setEncoding('utf8').on('data', (text: string) => (this[name] += text))
    }
    this.exited = once(this.child, 'exit')
    this.code = new Promise((resolve) => {
      const end = (code: number): void => {
        this.#hasEnded = true
        resolve(code)
      }
      this.child.on('exit', (_code, signal) => signal !== null && end(128 + constants.signals[signal]))
      this.child.on('close', (code) => code !== null && end(code))
    })
    running.add(this)
    void this.exited.then(() => running.delete(this))
  }

  get hasEnded(): boolean {
    return this.#hasEnded
  }

  get pid(): number {
    return this.child.pid as number
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal)
  }

  /** Resolves to the first group of the expression, once a line of stdout matches. */
  async line(expression: RegExp): Promise<string> {
    const found = await until(`lease prints ${expression}`, () => {
      const match = expression.exec(this.stdout)
      if (match === null && this.#hasEnded) throw new Error(`lease has ended without it: ${this.stdout}${this.stderr}`)
      return match
    })
    return found[1] ?? found[0]
  }
}

const running = new Set<LeaseRun>()

/** For `afterEach`: ends what a failed test has left. */
export async function endRuns(): Promise<void> {
  for (const run of running) {
    run.kill('SIGCONT')
    run.kill('SIGKILL')
    await run.exited
  }
}

/** Runs a command to its end. */
export async function lease(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const run = new LeaseRun(args, env)
  const code = await run.code
  return { code, stdout: run.stdout, stderr: run.stderr }
}

/** How often `unlessStalled` doubles the lease before the last outcome counts. */
const DOUBLINGS = 4

/**
 * For what must be done before a lease can lapse: an attempt that fails proves nothing if the machine stood still for a tenth of the
 * lease in the meantime. It is repeated with a lease twice as long. Each attempt must use a lease of its own, or leave nothing behind.
 *
 * @throws what the first attempt throws during which nothing stood still
 */
export async function unlessStalled(
  firstDurationMs: number,
  attempt: (durationMs: number) => Promise<void>,
): Promise<void> {
  for (let doublings = 0; ; doublings++) {
    const durationMs = firstDurationMs * 2 ** doublings
    const delays = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
    delays.enable()
    try {
      return await attempt(durationMs)
    } catch (error) {
      await pass(2 * RESOLUTION_MS) // the last delay is counted by then
      if (doublings === DOUBLINGS || delays.max / 1e6 < durationMs / 10) throw error
    } finally {
      delays.disable()
      await endRuns()
    }
  }
}

const RESOLUTION_MS = 20

/** Whether the process runs: one that is dead and not yet reaped does not. */
export { isRunning } from '#src/process-group.ts'

/** Without what the shell of a developer says. */
function clean(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('LEASE_')))
}
