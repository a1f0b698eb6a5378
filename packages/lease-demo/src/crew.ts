/** The worker processes, seen from the story. None outlives the crew. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GATE, type FromWorker, type ToWorker } from './protocol.ts'
import type { WorkerName } from './timeline.ts'

export type WorkerListener = (worker: CrewMember, event: FromWorker) => void

export class Crew implements AsyncDisposable {
  /** Aborts when a worker fails or ends unasked, or when the story is stopped from outside. */
  readonly signal: AbortSignal
  readonly #failure = new AbortController()
  readonly #members: CrewMember[] = []
  readonly #listener: WorkerListener

  constructor(signal: AbortSignal, listener: WorkerListener) {
    this.signal = AbortSignal.any([signal, this.#failure.signal])
    this.#listener = listener
  }

  /** A new process, not started yet. */
  hire(name: WorkerName): CrewMember {
    const member = new CrewMember(name, {
      signal: this.signal,
      heard: (event) => {
        if (!this.signal.aborted) this.#listener(member, event)
      },
      failed: (error) => this.abort(error),
    })
    this.#members.push(member)
    return member
  }

  /** Aborts the signal with this reason; no event is reported afterwards. */
  abort(reason: Error): void {
    this.#failure.abort(reason)
  }

  /** Resolves once every process is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#members.map(async (member) => member.kill()))
  }
}

interface Ties {
  readonly signal: AbortSignal
  heard(event: FromWorker): void
  failed(error: Error): void
}

export class CrewMember {
  readonly name: WorkerName
  readonly #ties: Ties
  readonly #child: ChildProcess
  readonly #gone: Promise<unknown>
  readonly #awaited = new Set<(event: FromWorker) => void>()
  #state: 'runs' | 'frozen' | 'killed' = 'runs'
  #complaints = ''
  #arrivals = 0
  #openings = 0

  constructor(name: WorkerName, ties: Ties) {
    this.name = name
    this.#ties = ties
    this.#child = startWorker()
    this.#gone = once(this.#child, 'exit').catch(() => undefined)
    const killChild = (): void => void this.#child.kill('SIGKILL')
    process.once('exit', killChild) // a frozen process would never notice that we are gone
    this.#child.once('exit', () => process.off('exit', killChild))
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#complaints += text))
    this.#gate.on('error', () => {}) // nobody is left to go through it
    this.#gate.on('data', (bytes: Uint8Array) => {
      this.#arrivals += bytes.length
      this.#hear({ kind: 'atGate' })
    })
    this.#child.on('message', (event) => this.#hear(event as FromWorker))
    this.#child.on('error', (cause) => ties.failed(new Error(`worker ${name}: ${cause.message}`, { cause })))
    this.#child.on('close', (code, signal) => {
      if (this.#state === 'killed') return
      ties.failed(new Error(`worker ${name} ended unasked (${signal ?? `exit code ${code}`})\n${this.#complaints}`))
    })
  }

  /** Why it does not answer, if it does not. */
  get absence(): 'frozen' | 'killed' | undefined {
    return this.#state === 'runs' ? undefined : this.#state
  }

  send(message: ToWorker): void {
    this.#child.send(message, (error) => {
      if (error !== null && this.#state !== 'killed') this.#ties.failed(error)
    })
  }

  /** Resolves with the next event of this kind from now on; rejects when the story ends first. */
  async next<Kind extends FromWorker['kind']>(kind: Kind): Promise<FromWorker & { kind: Kind }> {
    const { signal } = this.#ties
    return await new Promise((resolve, reject) => {
      const settle = (): void => {
        this.#awaited.delete(hear)
        signal.removeEventListener('abort', abort)
      }
      const hear = (event: FromWorker): void => {
        if (event.kind !== kind) return
        settle()
        resolve(event as FromWorker & { kind: Kind })
      }
      const abort = (): void => {
        settle()
        reject(signal.reason as Error)
      }
      if (signal.aborted) return abort()
      this.#awaited.add(hear)
      signal.addEventListener('abort', abort)
    })
  }

  /** Resolves when it is between its last check and a write, for which its gate was not opened yet. */
  async atGate(): Promise<void> {
    while (this.#arrivals <= this.#openings) await this.next('atGate')
  }

  /** Lets it through to its next write. */
  openGate(): void {
    this.#openings++
    this.#gate.write('.')
  }

  freeze(): void {
    this.#child.kill('SIGSTOP')
    this.#state = 'frozen'
  }

  thaw(): void {
    this.#state = 'runs'
    this.#child.kill('SIGCONT')
  }

  /** No goodbye: what it holds stays held. Resolves once it is gone. */
  async kill(): Promise<void> {
    this.#state = 'killed'
    this.#child.kill('SIGKILL')
    if (this.#child.pid !== undefined) await this.#gone
  }

  get #gate(): Duplex {
    const pipe = this.#child.stdio[GATE]
    if (pipe instanceof Duplex) return pipe
    throw new Error('a worker was started without its gate')
  }

  #hear(event: FromWorker): void {
    if (event.kind === 'failed') {
      this.#ties.failed(new Error(`worker ${this.name}: ${event.message}`))
      return
    }
    this.#ties.heard(event)
    for (const awaited of this.#awaited) awaited(event)
  }
}

/** The same Node with the same flags: a built program starts built workers, a source file starts source files. */
function startWorker(): ChildProcess {
  const program = fileURLToPath(new URL(`./worker${extname(import.meta.url)}`, import.meta.url))
  return fork(program, [], {
    execArgv: process.execArgv,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc', 'pipe'], // the last is the gate
    serialization: 'advanced', // bigint travels by structured clone
  })
}
