/** Runs the command `lease` as a process, as people do. */
import { spawn, type ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import { programOf, until } from 'lease-servers'

const PROGRAM = programOf('../src/main.ts', import.meta.url)

/** A run of the command. What it prints is kept. */
export class LeaseRun {
  readonly child: ChildProcess
  stdout = ''
  stderr = ''
  /** As a shell sees it: a signal n is 128 + n. */
  readonly code: Promise<number>
  #hasEnded = false

  constructor(args: readonly string[], env: Readonly<Record<string, string>>) {
    this.child = spawn(process.execPath, [...PROGRAM, ...args], {
      env: { ...clean(process.env), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const name of ['stdout', 'stderr'] as const) {
      this.child[name]?.setEncoding('utf8').on('data', (text: string) => (this[name] += text))
    }
    this.code = new Promise((resolve) => {
      this.child.on('exit', (code, signal) => {
        this.#hasEnded = true
        resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal]))
      })
    })
    running.add(this)
    void this.code.then(() => running.delete(this))
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
    await run.code
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

/** Whether the process runs: one that is dead and not yet reaped does not. */
export { isRunning } from '#src/process-group.ts'

/** Without what the shell of a developer says. */
function clean(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('LEASE_')))
}
