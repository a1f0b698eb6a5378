/**
 * A real pgbouncer of our own before a PostgreSQL server: found on the machine or unpacked from Debian's archive.
 */
import { join } from 'node:path'
import { type Binaries, debianFolder, environment, findBinaries, systemFolders } from './binaries.ts'
import { accepts, ServerHome } from './process.ts'
import { type Command, onFreePorts, ServerProcess } from './server.ts'

/** A running pgbouncer. */
export interface Pgbouncer extends AsyncDisposable {
  /** What stands behind it, by way of it. Everybody connects to it as the user of that server, and without a password. */
  readonly url: string
  /** What stands behind it, past it: the URL that it was started with. */
  readonly directUrl: string
  /** Its console, for `RECONNECT`, `KILL`, `SHOW POOLS` and the like. Simple queries only. */
  readonly consoleUrl: string
  readonly port: number
  readonly version: string
  /** Undefined between `kill` and `restart`. */
  readonly pid: number | undefined
  /** Freezes it: connections stay open and nothing answers. */
  pause(): void
  /** Ends a pause. */
  resume(): void
  /** Cuts all connections and starts it again on the same port. */
  restart(): Promise<void>
  kill(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

/** What to start. */
export interface PgbouncerOptions {
  /** Connections to the server, for each database. @default 4 */
  readonly poolSize?: number
  /** After what a connection to the server may serve another client. @default 'transaction' */
  readonly poolMode?: 'session' | 'transaction' | 'statement'
  /** Further `name: value` settings of pgbouncer.ini. */
  readonly settings?: Readonly<Record<string, string>>
}

/**
 * Starts one on a free port of 127.0.0.1 before the server at this URL; it dies with this process.
 * @throws with one line per origin when there is none.
 */
export async function startPgbouncer(serverUrl: string, options: PgbouncerOptions = {}): Promise<Pgbouncer> {
  const { binaries, answer } = await findBinaries({
    title: 'pgbouncer',
    program: 'pgbouncer',
    suits: (text) => /^PgBouncer \d/i.test(text),
    origins: {
      system: async () => systemFolders('/usr/sbin', '/usr/local/sbin', '/usr/local/bin', '/opt/homebrew/bin'),
      debian: async () => debianFolder('usr/sbin', 'pgbouncer'),
    },
    hint: 'install it (for example apt-get install pgbouncer)',
  })
  return await onFreePorts(1, async ([port]) => {
    const home = new ServerHome('pgbouncer')
    try {
      const pgbouncer = new PgbouncerProcess(home, binaries, { port: Number(port), serverUrl, answer, options })
      await pgbouncer.start()
      return pgbouncer
    } catch (error) {
      await home.close()
      throw error
    }
  })
}

interface Place {
  readonly port: number
  readonly serverUrl: string
  /** To `--version`. */
  readonly answer: string
  readonly options: PgbouncerOptions
}

class PgbouncerProcess extends ServerProcess implements Pgbouncer {
  readonly version: string
  readonly port: number
  readonly directUrl: string
  protected readonly title: string
  /** The other signals wait for transactions or clients, one or the other depending on the version. */
  protected readonly quit = 'SIGKILL'
  protected readonly portTaken: RegExp = /already in use/
  protected readonly ports: readonly number[]
  readonly #binaries: Binaries
  readonly #database: string

  constructor(home: ServerHome, binaries: Binaries, { port, serverUrl, answer, options }: Place) {
    super(home)
    this.version = /\d[\d.]*/.exec(answer)?.[0] ?? ''
    this.title = `pgbouncer ${this.version}`
    this.port = port
    this.ports = [port]
    this.directUrl = serverUrl
    this.#binaries = binaries
    const server = new URL(serverUrl)
    this.#database = server.pathname
    const entry = {
      host: server.hostname,
      port: server.port || '5432',
      user: decodeURIComponent(server.username),
      ...(server.password !== '' && { password: decodeURIComponent(server.password) }),
    }
    const settings = {
      listen_addr: '127.0.0.1',
      listen_port: String(port),
      unix_socket_dir: '',
      auth_type: 'any',
      admin_users: 'anybody', // who uses the URL of the console
      pool_mode: options.poolMode ?? 'transaction',
      default_pool_size: String(options.poolSize ?? 4),
      max_client_conn: '1000',
      ...options.settings,
    }
    const quoted = Object.entries(entry).map(([name, value]) => `${name}='${value.replaceAll("'", "''")}'`)
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`)
    home.write('pgbouncer.ini', ['[databases]', `* = ${quoted.join(' ')}`, '[pgbouncer]', ...lines, ''].join('\n'))
  }

  get url(): string {
    return `postgres://anybody@127.0.0.1:${this.port}${this.#database}`
  }

  get consoleUrl(): string {
    return `postgres://anybody@127.0.0.1:${this.port}/pgbouncer`
  }

  protected command(): Command {
    return {
      file: join(this.#binaries.bin, 'pgbouncer'),
      args: [join(this.home.dir, 'pgbouncer.ini')],
      env: environment(this.#binaries),
    }
  }

  protected async ready(): Promise<boolean> {
    return this.home.log.includes('process up') && (await accepts(this.port))
  }
}
