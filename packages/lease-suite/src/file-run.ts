/**
 * Test files in processes of their own. Loading what a file uses takes as long as many of its tests, so a process runs one file
 * after the other: what is loaded once serves all of them.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { dirname, join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
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
const NO_SERVERS = 'packages/lease-core/'

/** Runs one file in a process of its own to its end; never rejects for what the file does. @throws what `targets` throws */
export async function runFile(file: TestFile, options: FileOptions): Promise<FileResult> {
  const processes = new TestProcesses(options)
  try {
    return await processes.run(file)
  } finally {
    await processes.end()
  }
}

/** As many processes as files run at a time. */
export class TestProcesses {
  readonly #options: FileOptions
  readonly #idle: TestProcess[] = []

  constructor(options: FileOptions) {
    this.#options = options
  }

  /** Runs a file to its end; never rejects for what the file does. @throws what `targets` throws */
  async run(file: TestFile): Promise<FileResult> {
    const process = this.#take(file) ?? new TestProcess(file, this.#options)
    const result = await process.run(file)
    if (!process.isOver) this.#idle.push(process)
    return result
  }

  /** Ends those that run nothing. */
  async end(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map(async (process) => await process.end()))
  }

  /** One that may run it; rather one that has loaded what files of its folder use. */
  #take(file: TestFile): TestProcess | undefined {
    const able = this.#idle.filter((process) => process.mayRun(file))
    const taken = able.find(({ folders }) => folders.has(dirname(file.path))) ?? able[0]
    if (taken !== undefined) this.#idle.splice(this.#idle.indexOf(taken), 1)
    return taken
  }
}

class TestProcess {
  readonly #options: FileOptions
  readonly #child: ChildProcess
  readonly #execPath: string
  /** When and how it has ended. */
  readonly #ended: Promise<string>
  /** Those of the files that it has run. */
  readonly folders = new Set<string>()
  #hasServers = false
  isOver = false
  #outcomes: Outcome[] = []
  #output = ''
  #onEnd: (message: Extract<Message, { kind: 'end' }>) => void = () => {}
  #failure: Error | undefined
  #silence: NodeJS.Timeout | undefined

  constructor({ execPath = process.execPath }: TestFile, options: FileOptions) {
    this.#options = options
    this.#execPath = execPath
    const { folder = root } = options
    const child = fork(join(folder, 'packages/lease-suite/dist/worker.js'), {
      cwd: folder,
      execPath,
      execArgv: [], // what it runs is compiled
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
    this.#ended = new Promise((resolve) => {
      child.on('error', (error) => resolve(error.message))
      child.on('close', (code, signal) => resolve(signal ?? `code ${code}`))
    })
    void this.#ended.then(() => {
      this.isOver = true
      clearTimeout(this.#silence)
    })
  }

  /**
   * Tests of lease-core count all warnings of their process, so none of its files comes after one whose clients of a server may still be at
   * work.
   */
  mayRun({ path, execPath = process.execPath }: TestFile): boolean {
    if (this.isOver || execPath !== this.#execPath) return false
    return !this.#hasServers || !path.startsWith(NO_SERVERS)
  }

  async run(file: TestFile): Promise<FileResult> {
    const startedMs = performance.now()
    const { grep, timeoutMs, bail = false, signal } = this.#options
    const { built, part, exclude } = file
    this.folders.add(dirname(file.path))
    this.#outcomes = []
    this.#output = ''
    const end = new Promise<Extract<Message, { kind: 'end' }>>((resolve) => (this.#onEnd = resolve))
    this.#tell({ file: built, part, exclude, grep, timeoutMs, bail })
    this.#listen()
    const how = await Promise.race([end, this.#ended])
    clearTimeout(this.#silence)
    await nextTurn() // with all that it has written
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

  /** Ends it, whatever tests left open. */
  async end(): Promise<void> {
    this.#tell('end')
    await this.#ended
  }

  #tell(order: Order): void {
    if (this.#child.connected) this.#child.send(order)
  }

  #hear(message: Message): void {
    this.#listen()
    if (message.kind === 'needs') {
      this.#hasServers = true
      void this.#serve(message.servers)
    }
    if (message.kind === 'outcome') this.#outcomes.push(message.outcome)
    if (message.kind === 'end') this.#onEnd(message)
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
