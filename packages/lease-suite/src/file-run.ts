/** Test files in a process of their own: one, or several small ones, one after the other. */
import { fork, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type { Message, Order, Outcome, Reply } from './protocol.ts'
import { root, type TestFile } from './test-files.ts'

/** What became of a file, or of a part of it. */
export interface FileResult {
  readonly file: TestFile
  readonly ms: number
  /** How long its process has computed; 0 where it did not come to its end. */
  readonly cpuMs: number
  readonly outcomes: readonly Outcome[]
  /** How long each of its top-level suites took. */
  readonly suitesMs: readonly number[]
  /** What it wrote. */
  readonly output: string
  /** Whether a grep matched something in it; true without a grep. */
  readonly matched: boolean
}

export interface FileOptions {
  readonly grep?: RegExp | undefined
  readonly timeoutMs: number
  /** The workspace that it belongs to, or a copy of it. @default this one */
  readonly folder?: string | undefined
  /** Ends with the first test that fails. @default false */
  readonly bail?: boolean | undefined
  /** How to reach servers of these names, started now if they are not yet. */
  targets(servers: readonly string[]): Promise<string>
  /** Ends it. */
  readonly signal: AbortSignal
}

/** A file that reports nothing for so long is taken to hang, whatever limits its tests set. */
const SILENCE_MS = 600_000
const OUTPUT_LIMIT = 100_000

/** Runs one file in a process of its own to its end; never rejects for what the file does. @throws what `targets` throws */
export async function runFile(file: TestFile, options: FileOptions): Promise<FileResult> {
  const tests = new TestProcess(file, options)
  const result = await tests.run(file, { isLast: true })
  await tests.ended
  return result
}

/**
 * Runs several in one process, and tells of each as it is done. When the process ends before its time the next files have another.
 *
 * @throws what `targets` throws
 */
export async function runFiles(
  files: readonly TestFile[],
  options: FileOptions,
  onDone: (result: FileResult) => void,
): Promise<void> {
  let tests: TestProcess | undefined
  for (const [index, file] of files.entries()) {
    if (options.signal.aborted) return
    if (tests === undefined || tests.isOver) tests = new TestProcess(file, options)
    onDone(await tests.run(file, { isLast: index === files.length - 1 }))
  }
  await tests?.ended
}

class TestProcess {
  readonly #options: FileOptions
  readonly #child: ChildProcess
  /** When and how it has ended. */
  readonly ended: Promise<string>
  isOver = false
  #outcomes: Outcome[] = []
  #output = ''
  #onEnd: (message: Extract<Message, { kind: 'end' }>) => void = () => {}
  #failure: Error | undefined
  #silence: NodeJS.Timeout | undefined

  constructor({ execPath = process.execPath }: TestFile, options: FileOptions) {
    this.#options = options
    const { folder = root } = options
    const child = fork(join(folder, 'packages/lease-suite/dist/worker.js'), {
      cwd: folder,
      execPath,
      execArgv: ['--enable-source-maps'],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
      signal: options.signal,
      killSignal: 'SIGKILL',
    })
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8')
      stream?.on('data', (text: string) => (this.#output = `${this.#output}${text}`.slice(0, OUTPUT_LIMIT)))
    }
    child.on('message', (message: Message) => this.#hear(message))
    this.ended = new Promise((resolve) => {
      child.on('error', (error) => resolve(error.message))
      child.on('close', (code, signal) => resolve(signal ?? `code ${code}`))
    })
    void this.ended.then(() => {
      this.isOver = true
      clearTimeout(this.#silence)
    })
  }

  async run(file: TestFile, { isLast }: { readonly isLast: boolean }): Promise<FileResult> {
    const startedMs = performance.now()
    const { grep, timeoutMs, bail = false, signal } = this.#options
    const { built, part, exclude } = file
    this.#outcomes = []
    this.#output = ''
    const end = new Promise<Extract<Message, { kind: 'end' }>>((resolve) => (this.#onEnd = resolve))
    this.#child.send({ file: built, part, exclude, grep, timeoutMs, bail, isLast } satisfies Order)
    this.#listen()
    const how = await Promise.race([end, this.ended])
    if (isLast) await this.ended // with all that it writes
    if (this.#failure !== undefined) throw this.#failure
    const outcomes = this.#outcomes
    if (typeof how === 'string' && !signal.aborted) {
      const last = outcomes.at(-1)?.path.join(' ') ?? 'the beginning'
      const what = `the process ended (${how}) before its tests did, after: ${last}`
      outcomes.push({ path: ['(the process of the file)'], state: 'failed', ms: 0, failure: what })
    }
    const ms = performance.now() - startedMs
    const { suitesMs = [], cpuMs = 0, matched = true } = typeof how === 'string' ? {} : how
    return { file, ms, cpuMs, outcomes, output: this.#output, suitesMs, matched }
  }

  #hear(message: Message): void {
    this.#listen()
    if (message.kind === 'needs') void this.#serve(message.servers)
    else if (message.kind === 'outcome') this.#outcomes.push(message.outcome)
    else this.#onEnd(message)
  }

  #listen(): void {
    clearTimeout(this.#silence)
    if (!this.isOver) this.#silence = setTimeout(() => this.#child.kill('SIGKILL'), SILENCE_MS)
  }

  async #serve(servers: readonly string[]): Promise<void> {
    try {
      const reply: Reply = { targets: await this.#options.targets(servers) }
      if (this.#child.connected) this.#child.send(reply)
    } catch (error) {
      this.#failure = error as Error
      this.#child.kill('SIGKILL')
    }
  }
}
