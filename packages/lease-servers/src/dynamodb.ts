/**
 * A local server of our own that speaks the protocol of DynamoDB: dynoxide, one program of an npm package. It emulates no throttling, no
 * conflicts of transactions and no stale reads.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { type Binaries, findBinaries, systemFolders } from './binaries.ts'
import { accepts, ServerHome } from './process.ts'
import { type Command, onFreePorts, ServerProcess } from './server.ts'

/** What to start. */
export interface DynamodbOptions {
  /** Keeps its tables in a file, so that they survive a restart; then it is much slower. @default false */
  readonly durable?: boolean
}

/** A running server. Any credentials and any region will do. */
export interface Dynamodb extends AsyncDisposable {
  /** `http://127.0.0.1:port`, for the option `endpoint` of a client. */
  readonly endpoint: string
  readonly port: number
  /** Of dynoxide, for example `1.2.1`. */
  readonly version: string
  /** Where the program came from. */
  readonly origin: DynamodbOrigin
  /** The process; undefined between `kill` and `restart`. */
  readonly pid: number | undefined
  /** Freezes it: connections stay open and nothing answers. */
  pause(): void
  /** Ends a pause. */
  resume(): void
  /** Stops it, if it still runs, and starts it again on the same port, with its tables if it is durable. */
  restart(): Promise<void>
  /** SIGKILL; `restart` recovers the tables, if it is durable. */
  kill(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

/** `system`: PATH. `embedded`: npm package. */
export type DynamodbOrigin = 'system' | 'embedded'

/**
 * Starts a server on a free port of 127.0.0.1, with its tables in memory or in a temporary folder; it dies with this process.
 * @throws with one line per origin when there is no dynoxide for this platform.
 */
export async function startDynamodb(options: DynamodbOptions = {}): Promise<Dynamodb> {
  const { binaries, answer } = await findBinaries<DynamodbOrigin>({
    title: 'dynoxide, a local DynamoDB',
    program: 'dynoxide',
    suits: (answer) => /^dynoxide \d/.test(answer),
    origins: { embedded: async () => embedded(), system: async () => systemFolders('/usr/local/bin') },
    hint: 'put the program dynoxide on PATH, or set DYNAMODB_ENDPOINT to a server that may be used for tests, such as DynamoDB Local',
  })
  return await onFreePorts(1, async ([port]) => {
    const home = new ServerHome('dynamodb')
    try {
      const server = new DynamodbProcess(home, binaries, Number(port), { ...options, version: versionIn(answer) })
      await server.start()
      return server
    } catch (error) {
      await home.close()
      throw error
    }
  })
}

class DynamodbProcess extends ServerProcess implements Dynamodb {
  readonly version: string
  readonly origin: DynamodbOrigin
  readonly port: number
  protected readonly title: string
  protected readonly quit = 'SIGTERM'
  protected readonly portTaken: RegExp = /port \d+ is already in use|Address already in use/
  protected readonly ports: readonly number[]
  readonly #program: string
  readonly #durable: boolean

  constructor(
    home: ServerHome,
    binaries: Binaries<DynamodbOrigin>,
    port: number,
    { version, durable = false }: DynamodbOptions & { readonly version: string },
  ) {
    super(home)
    this.version = version
    this.origin = binaries.origin
    this.port = port
    this.ports = [port]
    this.title = `dynoxide ${version}`
    this.#durable = durable
    this.#program = join(binaries.bin, 'dynoxide')
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.port}`
  }

  protected command(): Command {
    const file = this.#durable ? ['--db-path', join(this.home.dir, 'tables')] : []
    const args = ['serve', '--host', '127.0.0.1', '--port', String(this.port), ...file]
    return { file: this.#program, args, env: {} }
  }

  protected async ready(): Promise<boolean> {
    return this.home.log.includes('listening on') && (await accepts(this.port))
  }
}

function embedded(): readonly Omit<Binaries, 'origin'>[] {
  const name = `@dynoxide/${process.platform}-${process.arch}`
  let bin: string
  try {
    bin = dirname(createRequire(import.meta.url).resolve(`${name}/package.json`))
  } catch {
    throw new Error(`${name} is not installed`)
  }
  return existsSync(bin) ? [{ bin, root: bin, libraryPath: '' }] : []
}

function versionIn(answer: string): string {
  return /(\d[\d.]*)/.exec(answer)?.[1] ?? ''
}
