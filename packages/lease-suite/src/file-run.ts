/** One test file in a process of its own. */
import { fork } from 'node:child_process'
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
  /** How to reach servers of these names, started now if they are not yet. */
  targets(servers: readonly string[]): Promise<string>
  /** Ends it. */
  readonly signal: AbortSignal
}

/** A file that reports nothing for so long is taken to hang, whatever limits its tests set. */
const SILENCE_MS = 600_000
const OUTPUT_LIMIT = 100_000

/** Runs it to its end; never rejects for what the file does. @throws what `targets` throws */
export async function runFile(file: TestFile, options: FileOptions): Promise<FileResult> {
  const startedMs = performance.now()
  const child = fork(join(root, 'packages/lease-suite/dist/worker.js'), {
    cwd: root,
    execPath: file.execPath ?? process.execPath,
    execArgv: ['--enable-source-maps'],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    serialization: 'advanced',
    signal: options.signal,
    killSignal: 'SIGKILL',
  })
  const outcomes: Outcome[] = []
  let ended: Extract<Message, { kind: 'end' }> | undefined
  let output = ''
  let failure: Error | undefined
  let silence: NodeJS.Timeout | undefined
  const listen = (): void => {
    clearTimeout(silence)
    silence = setTimeout(() => child.kill('SIGKILL'), SILENCE_MS)
  }
  const serve = async (servers: readonly string[]): Promise<void> => {
    try {
      const reply: Reply = { targets: await options.targets(servers) }
      if (child.connected) child.send(reply)
    } catch (error) {
      failure = error as Error
      child.kill('SIGKILL')
    }
  }
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8')
    stream?.on('data', (text: string) => (output = `${output}${text}`.slice(0, OUTPUT_LIMIT)))
  }
  child.on('message', (message: Message) => {
    listen()
    if (message.kind === 'needs') void serve(message.servers)
    else if (message.kind === 'outcome') outcomes.push(message.outcome)
    else ended = message
  })
  const gone = new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message))
    child.on('close', (code, signal) => resolve(signal ?? `code ${code}`))
  })
  const order: Order = {
    file: file.built,
    part: file.part,
    exclude: file.exclude,
    grep: options.grep,
    timeoutMs: options.timeoutMs,
  }
  child.send(order)
  listen()
  const how = await gone
  clearTimeout(silence)
  if (failure !== undefined) throw failure
  if (ended === undefined && !options.signal.aborted) {
    const last = outcomes.at(-1)?.path.join(' ') ?? 'the beginning'
    const what = `the process ended (${how}) before its tests did, after: ${last}`
    outcomes.push({ path: ['(the process of the file)'], state: 'failed', ms: 0, failure: what })
  }
  const ms = performance.now() - startedMs
  const { suitesMs = [], cpuMs = 0, matched = true } = ended ?? {}
  return { file, ms, cpuMs, outcomes, output, suitesMs, matched }
}
