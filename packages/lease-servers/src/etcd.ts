/**
 * A real etcd of our own, of one node or three.
 */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { until } from './awaited.ts'
import { debianFolder, environment, findBinaries, type Found, systemFolders } from './binaries.ts'
import { ServerHome } from './process.ts'
import { type Command, onFreePorts, ServerProcess, stopAll } from './server.ts'

/** What to start. */
export interface EtcdOptions {
  /** @default 1 */
  readonly nodes?: 1 | 3
  /** fsync as in production; off is faster. @default false */
  readonly durable?: boolean
  /** Further flags: `{ 'snapshot-count': '100' }` becomes `--snapshot-count=100`. They win over ours. */
  readonly settings?: Readonly<Record<string, string>>
  /** Where the other members reach a member whose peers connect to this URL, for instance through a proxy. @default there */
  readonly peerVia?: (peerUrl: string) => Promise<string>
}

/** A running server or cluster. */
export interface Etcd extends AsyncDisposable {
  /** `http://127.0.0.1:port` of each member, in the order of `members`. */
  readonly endpoints: readonly string[]
  readonly members: readonly EtcdMember[]
  /** For example `3.4.23`. */
  readonly version: string
  /** Where the binary came from. */
  readonly origin: EtcdOrigin
  /** Resolves to the member that leads, once there is one. */
  leader(): Promise<EtcdMember>
  /** Freezes every member. */
  pause(): void
  /** Ends the pause of every member. */
  resume(): void
  /** SIGKILL to every member that runs, then starts all of them together with their data, as after a power cut. */
  restart(): Promise<void>
  /** SIGKILL to every member. */
  kill(): Promise<void>
  /** Resolves once no process and no folder is left. Idempotent. */
  stop(): Promise<void>
}

/** One node. */
export interface EtcdMember {
  readonly endpoint: string
  /** What it says of itself; undefined when it says nothing within a second. */
  status(): Promise<EtcdStatus | undefined>
  /** The process; undefined between `kill` and `restart`. */
  readonly pid: number | undefined
  /** Freezes it: connections stay open and nothing answers. */
  pause(): void
  /** Ends a pause. */
  resume(): void
  /**
   * Stops it in an orderly way, if it still runs, and starts it again on the same ports with the same data. Resolves once it
   * serves clients, for which a majority of members has to run.
   */
  restart(): Promise<void>
  /** SIGKILL; after `restart` it rejoins with its data. */
  kill(): Promise<void>
  /** Keeps a copy of its data, as a backup does, in place of an earlier one. The member is down for that time. */
  backUp(): Promise<void>
  /**
   * Goes back to the data of the last backup, as when a snapshot is restored without `--bump-revision`: what was answered since then is
   * forgotten, and revisions come again. Only for a cluster of one member.
   */
  restoreBackup(): Promise<void>
}

/** How a member sees the cluster. */
export interface EtcdStatus {
  /** Its own number, decimal as in etcd's JSON. */
  readonly id: string
  /** The number of the leader; `0` or empty without one. */
  readonly leader: string
  readonly term: number
}

/** `system`: PATH. `debian`: unpacked package. */
export type EtcdOrigin = 'system' | 'debian'

/**
 * Starts it on free ports of 127.0.0.1 with data in temporary folders; it dies with this process.
 * @throws with one line per origin when there is no etcd 3.4 or later.
 */
export async function startEtcd(options: EtcdOptions = {}): Promise<Etcd> {
  const found = await findEtcd()
  const count = options.nodes ?? 1
  return await onFreePorts(2 * count, async (ports) => {
    const cluster = `lease-${randomBytes(6).toString('hex')}`
    const via = options.peerVia ?? (async (peerUrl: string) => peerUrl)
    const places: Place[] = []
    for (let index = 0; index < count; index++) {
      const peer = `http://127.0.0.1:${ports[2 * index + 1]}`
      const client = `http://127.0.0.1:${ports[2 * index]}`
      places.push({ name: `${cluster}-${index}`, client, peer, reachedAt: await via(peer) })
    }
    const initial = places.map(({ name, reachedAt }) => `${name}=${reachedAt}`).join(',')
    const members: Member[] = []
    try {
      for (const place of places) {
        members.push(new Member(new ServerHome('etcd'), found, place, { cluster, initial }, options))
      }
      const started = await Promise.allSettled(members.map(async (member) => member.start()))
      for (const one of started) if (one.status === 'rejected') throw one.reason
      return new Cluster(found, members)
    } catch (error) {
      await stopAll(members)
      throw error
    }
  })
}

async function findEtcd(): Promise<Found<EtcdOrigin>> {
  return await findBinaries({
    title: 'etcd 3.4 or later',
    program: 'etcd',
    suits: (answer) => /^3\.([4-9]|\d\d)/.test(versionIn(answer)),
    origins: {
      system: async () => systemFolders('/usr/local/bin', '/opt/homebrew/bin'),
      debian: async () => debianFolder('usr/bin', 'etcd-server'),
    },
    hint: 'install it (for example apt-get install etcd-server) or set ETCD_ENDPOINTS to servers that may be used for tests',
  })
}

function versionIn(answer: string): string {
  return /etcd Version: (\S+)/.exec(answer)?.[1] ?? ''
}

class Cluster implements Etcd {
  readonly members: readonly Member[]
  readonly endpoints: readonly string[]
  readonly version: string
  readonly origin: EtcdOrigin

  constructor(found: Found<EtcdOrigin>, members: readonly Member[]) {
    this.members = members
    this.endpoints = members.map((member) => member.endpoint)
    this.version = versionIn(found.answer)
    this.origin = found.binaries.origin
  }

  async leader(): Promise<EtcdMember> {
    return await until('a member of etcd that leads', async () => {
      const statuses = await Promise.all(this.members.map(async (member) => member.status()))
      const terms = statuses.map((status) => (status && status.leader === status.id ? status.term : -1))
      const newest = Math.max(...terms)
      return newest < 0 ? undefined : this.members[terms.indexOf(newest)]
    })
  }

  pause(): void {
    for (const member of this.members) member.pause()
  }

  resume(): void {
    for (const member of this.members) member.resume()
  }

  async restart(): Promise<void> {
    // In an orderly end of all, the last leader waits five seconds for a successor, and those who are back wait for it.
    await this.kill()
    await Promise.all(this.members.map(async (member) => member.restart()))
  }

  async kill(): Promise<void> {
    await Promise.all(this.members.map(async (member) => member.kill()))
  }

  async stop(): Promise<void> {
    await stopAll(this.members)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}

interface Place {
  readonly name: string
  readonly client: string
  readonly peer: string
  /** Where its peers reach it. */
  readonly reachedAt: string
}

class Member extends ServerProcess implements EtcdMember {
  readonly endpoint: string
  protected readonly title: string
  protected readonly quit = 'SIGTERM'
  protected readonly portTaken: RegExp = /address already in use/
  protected readonly ports: readonly number[]
  readonly #command: Command

  constructor(
    home: ServerHome,
    { binaries, answer }: Found<EtcdOrigin>,
    place: Place,
    { cluster, initial }: { readonly cluster: string; readonly initial: string },
    options: EtcdOptions,
  ) {
    super(home)
    this.endpoint = place.client
    this.ports = [place.client, place.peer].map((url) => Number(new URL(url).port))
    this.title = `etcd ${versionIn(answer)}`
    const flags: Record<string, string> = {
      name: place.name,
      'data-dir': this.#data,
      'listen-client-urls': place.client,
      'advertise-client-urls': place.client,
      'listen-peer-urls': place.peer,
      'initial-advertise-peer-urls': place.reachedAt,
      'initial-cluster': initial,
      'initial-cluster-token': cluster,
      // Half of the defaults: a shorter one elects anew whenever the machine is busy, and what was proposed hangs for seconds.
      'heartbeat-interval': '50',
      'election-timeout': '500',
      // Else a member that comes back after a loss of the majority disturbs the election, and starts five seconds later.
      'pre-vote': 'true',
      logger: 'zap',
      ...(options.durable !== true && { 'unsafe-no-fsync': 'true' }),
      ...options.settings,
    }
    this.#command = {
      file: join(binaries.bin, 'etcd'),
      args: Object.entries(flags).map(([name, value]) => `--${name}=${value}`),
      env: environment(binaries),
    }
  }

  /** What it says of itself; undefined when it says nothing within a second. */
  async status(): Promise<EtcdStatus | undefined> {
    const answer = await postJson(`${this.endpoint}/v3/maintenance/status`).catch(() => undefined)
    const status = answer as { header?: { member_id?: string }; leader?: string; raftTerm?: string } | undefined
    if (status?.header?.member_id === undefined) return undefined
    return { id: status.header.member_id, leader: status.leader ?? '', term: Number(status.raftTerm ?? 0) }
  }

  async backUp(): Promise<void> {
    await this.#whileDown(async () => {
      await rm(this.#backup, { recursive: true, force: true })
      await copied(this.#data, this.#backup)
    })
  }

  async restoreBackup(): Promise<void> {
    await this.#whileDown(async () => {
      await rm(this.#data, { recursive: true, force: true })
      await copied(this.#backup, this.#data)
    })
  }

  async #whileDown(change: () => Promise<void>): Promise<void> {
    await this.kill()
    try {
      await change()
    } finally {
      await this.restart()
    }
  }

  get #data(): string {
    return join(this.home.dir, 'data')
  }

  get #backup(): string {
    return join(this.home.dir, 'backup')
  }

  protected command(): Command {
    return this.#command
  }

  protected async ready(): Promise<boolean> {
    // Who answers on the port may be a stranger; the log is ours.
    return /serving client traffic|ready to serve client/.test(this.home.log) && (await this.status()) !== undefined
  }
}

/** With owners and permissions: a server that runs under an account of its own can use the copy. */
async function copied(from: string, to: string): Promise<void> {
  await promisify(execFile)('cp', ['-a', from, to])
}

/** Asks the gateway of etcd, which speaks JSON. @throws when there is no answer within `withinMs`. */
export async function postJson(url: string, withinMs = 1000, body: object = {}): Promise<unknown> {
  const signal = AbortSignal.timeout(withinMs)
  return await new Promise((resolve, reject) => {
    const call = request(url, { method: 'POST', agent: false, signal }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (more: string) => (text += more))
      response.on('error', (error) =>
        reject(signal.aborted ? new Error(`no answer within ${withinMs / 1000} s`) : error),
      )
      response.on('end', () => {
        try {
          resolve(JSON.parse(text))
        } catch (error) {
          reject(error)
        }
      })
    })
    call.on('error', (error) => reject(signal.aborted ? new Error(`no answer within ${withinMs / 1000} s`) : error))
    call.end(JSON.stringify(body))
  })
}
