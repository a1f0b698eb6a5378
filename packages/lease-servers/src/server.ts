/**
 * What all servers of our own have in common: a process in a den, on ports that nobody else has.
 */
import { type Den, eventually, excerpt, freePorts } from './process.ts'

/** How to run one. */
export interface Command {
  readonly file: string
  readonly args: readonly string[]
  readonly env: NodeJS.ProcessEnv
}

/** One process of a server. `start` first; a subclass says what is started and when it is ready. */
export abstract class ServerProcess implements AsyncDisposable {
  protected readonly den: Den
  /** For messages: `PostgreSQL 18`. */
  protected abstract readonly title: string
  /** Ends it in an orderly way. */
  protected abstract readonly quit: NodeJS.Signals
  /** What its log says when another process has its port. */
  protected abstract readonly portTaken: RegExp

  constructor(den: Den) {
    this.den = den
  }

  get pid(): number | undefined {
    return this.den.pid
  }

  /** Resolves once it is ready. @throws {@link PortTakenError}, or another error with the end of its log. */
  async start(): Promise<void> {
    const { file, args, env } = this.command()
    this.den.start(file, args, env)
    let ready = false
    await eventually(async () => this.pid === undefined || (ready = await this.ready()), 30_000)
    if (ready && this.pid !== undefined) return
    const { log } = this.den
    await this.den.end('SIGKILL', true)
    throw new (this.portTaken.test(log) ? PortTakenError : Error)(`${this.title} does not start:\n${excerpt(log)}`)
  }

  pause(): void {
    this.den.pause()
  }

  resume(): void {
    this.den.resume()
  }

  async restart(): Promise<void> {
    await this.den.end(this.quit)
    await retried(10, async () => {
      try {
        await this.start()
      } catch (error) {
        if (error instanceof PortTakenError) await eventually(() => false, 200)
        throw error
      }
    })
  }

  async kill(): Promise<void> {
    await this.den.end('SIGKILL', true)
  }

  async stop(): Promise<void> {
    await this.den.close()
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

/** Does something with free ports, and again with others as long as it throws {@link PortTakenError}. */
export async function onFreePorts<T>(count: number, use: (ports: readonly number[]) => Promise<T>): Promise<T> {
  return await retried(10, async () => use(await freePorts(count)))
}

async function retried<T>(times: number, attempt: () => Promise<T>): Promise<T> {
  for (let left = times - 1; ; left--) {
    try {
      return await attempt()
    } catch (error) {
      if (left === 0 || !(error instanceof PortTakenError)) throw error
    }
  }
}

/** Closes all of these, then throws what the first that failed has thrown. */
export async function stopAll(servers: readonly { stop(): Promise<void> }[]): Promise<void> {
  const ends = await Promise.allSettled(servers.map(async (server) => server.stop()))
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}
