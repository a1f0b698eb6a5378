/**
 * A real Redis server of our own.
 */
import { join } from 'node:path'
import { type Binaries, debianFolder, environment, findBinaries, type Found, systemFolders } from './binaries.ts'
import { ServerHome } from './process.ts'
import { redisCommands } from './resp.ts'
import { type Command, onFreePorts, ServerProcess } from './server.ts'

/** What to start. */
export interface RedisOptions {
  /** Keeps an append-only file, so that data survives a restart. Without it a restart begins empty. @default false */
  readonly appendonly?: boolean
  /** Further lines of redis.conf: `name value`. They win over ours: no snapshots, fsync once a second. */
  readonly settings?: Readonly<Record<string, string>>
  /** What clients have to say first; it is part of `url`. */
  readonly password?: string
  /** Further variables of its environment. */
  readonly env?: Readonly<Record<string, string>>
}

/** A running server. */
export interface Redis extends AsyncDisposable {
  /** `redis://127.0.0.1:port`, with the password if there is one. */
  readonly url: string
  readonly port: number
  /** For example `7.0.15`. */
  readonly version: string
  /** Where the binary came from. */
  readonly origin: RedisOrigin
  /** The process; undefined between `kill` and `restart`. */
  readonly pid: number | undefined
  /** Freezes it: connections stay open and nothing answers. */
  pause(): void
  /** Ends a pause. */
  resume(): void
  /** Stops it in an orderly way, if it still runs, and starts it again on the same port in the same folder. */
  restart(): Promise<void>
  /** SIGKILL; `restart` recovers what the append-only file has. */
  kill(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

/** `system`: PATH. `debian`: unpacked package. */
export type RedisOrigin = 'system' | 'debian'

/**
 * Starts a server on a free port of 127.0.0.1 with data in a temporary folder; it dies with this process.
 * @throws with one line per origin when there is no Redis 7 or later.
 */
export async function startRedis(options: RedisOptions = {}): Promise<Redis> {
  const found = await findRedis()
  return await onFreePorts(1, async ([port]) => launchRedis(found, Number(port), options))
}

/** Starts a server with these lines of redis.conf on that port. @throws PortTakenError, and others. */
export async function launchRedis(
  found: Found<RedisOrigin>,
  port: number,
  options: RedisOptions = {},
  mode: 'server' | 'sentinel' = 'server',
): Promise<RedisProcess> {
  const home = new ServerHome('redis')
  try {
    const server = new RedisProcess(home, found, port, options, mode)
    await server.start()
    return server
  } catch (error) {
    await home.close()
    throw error
  }
}

/** The binary of Redis 7 or later. @throws when there is none. */
export async function findRedis(): Promise<Found<RedisOrigin>> {
  return await findBinaries({
    title: 'Redis 7 or later',
    program: 'redis-server',
    suits: (answer) => Number(versionIn(answer).split('.')[0]) >= 7,
    origins: {
      system: async () => systemFolders('/usr/local/bin', '/opt/homebrew/bin'),
      // In some releases the server is a link into the package of tools.
      debian: async () => debianFolder('usr/bin', 'redis-server', 'redis-tools'),
    },
    hint: 'install it (for example apt-get install redis-server) or set REDIS_URL to a server that may be used for tests',
  })
}

function versionIn(answer: string): string {
  return /v=(\d[\d.]*)/.exec(answer)?.[1] ?? ''
}

/** The process of a server or of a sentinel, which is the same program in another mode. */
export class RedisProcess extends ServerProcess implements Redis {
  readonly version: string
  readonly origin: RedisOrigin
  readonly port: number
  protected readonly title: string
  protected readonly quit = 'SIGTERM'
  protected readonly portTaken: RegExp = /Address already in use/
  protected readonly ports: readonly number[]
  readonly #binaries: Binaries
  readonly #password: string | undefined
  readonly #mode: 'server' | 'sentinel'
  readonly #env: Readonly<Record<string, string>>

  constructor(
    home: ServerHome,
    found: Found<RedisOrigin>,
    port: number,
    options: RedisOptions,
    mode: 'server' | 'sentinel' = 'server',
  ) {
    super(home)
    this.version = versionIn(found.answer)
    this.origin = found.binaries.origin
    this.port = port
    this.ports = [port]
    this.title = `Redis ${this.version}`
    this.#binaries = found.binaries
    this.#password = options.password
    this.#mode = mode
    this.#env = options.env ?? {}
    const settings: Record<string, string> = {
      ...(mode === 'server' && {
        save: '""',
        appendonly: options.appendonly ? 'yes' : 'no',
        appendfsync: 'everysec',
        ...(options.password !== undefined && { requirepass: JSON.stringify(options.password) }),
      }),
      ...options.settings,
      bind: '127.0.0.1',
      port: String(port),
      dir: home.dir,
    }
    // A file, and the server's own, because sentinels and CONFIG REWRITE write to it.
    home.write(
      'redis.conf',
      Object.entries(settings)
        .map(([name, value]) => `${name} ${value}\n`)
        .join(''),
    )
  }

  get url(): string {
    const password = this.#password === undefined ? '' : `:${encodeURIComponent(this.#password)}@`
    return `redis://${password}127.0.0.1:${this.port}`
  }

  protected command(): Command {
    return {
      file: join(this.#binaries.bin, 'redis-server'),
      args: [join(this.home.dir, 'redis.conf'), ...(this.#mode === 'sentinel' ? ['--sentinel'] : [])],
      env: { ...environment(this.#binaries), ...this.#env },
    }
  }

  protected async ready(): Promise<boolean> {
    const greeting = this.#password === undefined ? [] : [['AUTH', this.#password]]
    const info = await redisCommands({ host: '127.0.0.1', port: this.port }, [...greeting, ['INFO']], 1000).catch(
      String,
    )
    return String(info).includes(`process_id:${this.pid}\r\n`) && !String(info).includes('loading:1')
  }
}
