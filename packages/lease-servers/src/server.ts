/**
 * What all servers of our own have in common: a process in a home, on ports that nobody else has.
 */
import { until } from './awaited.ts'
import { failure } from './failures.ts'
import { releasePorts, reservePorts } from './ports.ts'
import type { ServerHome } from './process.ts'
import { report } from './progress.ts'

/** A server that is not ready by then, though its process runs, hangs. Tests have a shorter limit: mocha's. */
const START_MS = 300_000

/** How to run one. */
export interface Command {
  readonly file: string
  readonly args: readonly string[]
  readonly env: NodeJS.ProcessEnv
}

/** One process of a server. `start` first; a subclass says what is started and when it is ready. */
export abstract class ServerProcess implements AsyncDisposable {
  protected readonly home: ServerHome
  /** For messages: `PostgreSQL 18`. */
  protected abstract readonly title: string
  /** Ends it in an orderly way. */
  protected abstract readonly quit: NodeJS.Signals
  /** What its log says when another process has its port. */
  protected abstract readonly portTaken: RegExp
  /** Its own, released when it is stopped. */
  protected abstract readonly ports: readonly number[]

  constructor(home: ServerHome) {
    this.home = home
  }

  get pid(): number | undefined {
    return this.home.pid
  }

  /** Resolves once it is ready. @throws {@link PortTakenError}, or an error that says why and has its log as the cause */
  async start(): Promise<void> {
    const { file, args, env } = this.command()
    report(`starting ${this.title}`)
    this.home.start(file, args, env)
    const beganMs = performance.now()
    const hangs = (): boolean => performance.now() - beganMs > START_MS
    let ready = false
    await until(
      `${this.title} is ready`,
      async () => {
        ready = this.pid !== undefined && (await this.ready())
        return ready || this.pid === undefined || hangs()
      },
      10,
    )
    if (ready && this.pid !== undefined) return
    const { log } = this.home
    await this.home.end('SIGKILL', true)
    if (this.portTaken.test(log)) throw new PortTakenError(`${this.title} does not start: its port is in use`)
    throw failure(`${this.title} does not start`, log, this.home.dir)
  }

  pause(): void {
    this.home.pause()
  }

  resume(): void {
    this.home.resume()
  }

  /** Waits for as long as another process has one of its ports. */
  async restart(): Promise<void> {
    await this.home.end(this.quit)
    await until(`port ${this.ports.join(' or ')} is free for ${this.title}`, async () => starts(this), 100)
  }

  async kill(): Promise<void> {
    await this.home.end('SIGKILL', true)
  }

  async stop(): Promise<void> {
    await this.home.close()
    releasePorts(this.ports)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  /** What to run now. */
  protected abstract command(): Command

  /** Whether this very process serves clients. */
  protected abstract ready(): Promise<boolean>
}

/** Another process has one of the ports. */
export class PortTakenError extends Error {}

/** Does something with free ports of its own, and again with others as long as it throws {@link PortTakenError}. */
export async function onFreePorts<T>(count: number, use: (ports: readonly number[]) => Promise<T>): Promise<T> {
  for (;;) {
    const ports = await reservePorts(count)
    try {
      return await use(ports)
    } catch (error) {
      releasePorts(ports)
      if (!(error instanceof PortTakenError)) throw error
    }
  }
}

/** False when another process has one of the ports. */
async function starts(server: ServerProcess): Promise<boolean> {
  try {
    await server.start()
    return true
  } catch (error) {
    if (error instanceof PortTakenError) return false
    throw error
  }
}

/** Closes all of these, then throws what the first that failed has thrown. */
export async function stopAll(servers: readonly { stop(): Promise<void> }[]): Promise<void> {
  const ends = await Promise.allSettled(servers.map(async (server) => server.stop()))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}
