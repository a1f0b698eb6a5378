/**
 * Clients of one adapter that do what a workload tells them, in this process or in another one (`client-process.ts`): a workload
 * speaks to either in the same way. Clients are numbered from 0 on, in each process anew.
 */
import { ableTo, type Adapter, type Contestant, type Ground, type Kept, type Sample, type Seat } from './bench.ts'
import { pairs } from './workloads/loop.ts'

/** Times are of a clock that all processes of this machine share, in milliseconds. */
export interface Clients {
  /** Opens a client for each seat. @param listening how many connections may listen, where a server has few of them */
  open(seats: readonly Seat[], listening: number): Promise<void>
  /** Waits for the lease; resolves with the time at which the client holds it. */
  hold(client: number, lease: string): Promise<number>
  /** Gives back what `hold` has taken; resolves with the time at which that was called. */
  release(client: number): Promise<number>
  /** Each client takes a lease of its own, with this name and its index, and keeps it alive. */
  keep(lease: string, durationMs: number): Promise<void>
  /** Each client claims and releases leases of its own, by that many callers; resolves with the pairs a second of all. */
  work(callers: number, seconds: number): Promise<number>
  report(): Promise<ClientsReport>
  /** Closes all clients; others can be opened after that. */
  close(): Promise<void>
}

/** What has been counted so far. */
export interface ClientsReport {
  /** How often a client has been denied a lease that it waits for. */
  readonly denials: number
  /** Clients that have been denied it since they asked. */
  readonly waiting: number
  readonly cpuMicros: number
  /** Of this process; NaN where only the server counts. */
  readonly commands: number
  readonly messages: number
  readonly bytes: number
}

/** Connections that are opened at the same time. */
const OPENING = 50

/** In this process. */
export function clientsHere(adapter: Adapter, ground: Ground): Clients {
  let all: Client[] = []
  const clientAt = (index: number): Client => {
    const client = all[index]
    if (client === undefined) throw new RangeError(`there is no client ${index}`)
    return client
  }
  return {
    async open(seats, listening) {
      const contestants = await opened(adapter, ground, seats, listening)
      all = contestants.map((contestant, index) => new Client(adapter, contestant, seats[index] as Seat))
    },
    hold: async (client, lease) => clientAt(client).hold(lease),
    release: async (client) => clientAt(client).release(),
    async keep(lease, durationMs) {
      await Promise.all(all.map((client) => client.keep(lease, durationMs)))
    },
    async work(callers, seconds) {
      const samples = await Promise.all(all.map((client) => client.work(callers, seconds)))
      return samples.reduce((sum, sample) => sum + (sample['pairs/s'] ?? Number.NaN), 0)
    },
    async report() {
      const { user, system } = process.cpuUsage()
      const counted = ground.counts === 'process'
      return {
        denials: all.reduce((sum, client) => sum + client.denials, 0),
        waiting: all.filter((client) => client.isDenied).length,
        cpuMicros: user + system,
        commands: counted ? await ground.commands() : Number.NaN,
        messages: counted ? await ground.messages() : Number.NaN,
        bytes: ground.bytes(),
      }
    },
    async close() {
      const closing = all
      all = []
      await Promise.all(closing.map((client) => client.close()))
    },
  }
}

async function opened(
  adapter: Adapter,
  ground: Ground,
  seats: readonly Seat[],
  listening: number,
): Promise<readonly Contestant[]> {
  if (adapter.openMany !== undefined) return adapter.openMany(ground, seats, listening)
  const contestants: Contestant[] = []
  for (let from = 0; from < seats.length; from += OPENING) {
    const some = seats.slice(from, from + OPENING).map((seat) => adapter.open(ground, seat))
    contestants.push(...(await Promise.all(some)))
  }
  return contestants
}

/** What all processes of this machine read alike. */
export function machineMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

class Client {
  readonly #adapter: Adapter
  readonly #contestant: Contestant
  readonly #seat: Seat
  #held: Kept | undefined
  #kept: Kept | undefined
  /** Denials before the last call of `hold`; undefined: it does not wait. */
  #before: number | undefined

  constructor(adapter: Adapter, contestant: Contestant, seat: Seat) {
    this.#adapter = adapter
    this.#contestant = contestant
    this.#seat = seat
  }

  get denials(): number {
    return this.#contestant.queue?.denials() ?? 0
  }

  get isDenied(): boolean {
    return this.#before !== undefined && this.denials > this.#before
  }

  async hold(lease: string): Promise<number> {
    const queue = ableTo(this.#adapter, this.#contestant, 'queue')
    this.#before = queue.denials()
    this.#held = await queue.hold(lease)
    this.#before = undefined
    return machineMs()
  }

  async release(): Promise<number> {
    const held = this.#held
    if (held === undefined) throw new Error(`client ${this.#seat.index} holds nothing`)
    this.#held = undefined
    const calledMs = machineMs()
    await held.release()
    return calledMs
  }

  async keep(lease: string, durationMs: number): Promise<void> {
    const keep = ableTo(this.#adapter, this.#contestant, 'keep')
    this.#kept = await keep.hold(`${lease}-${this.#seat.index}`, durationMs)
  }

  work(callers: number, seconds: number): Promise<Sample> {
    return pairs(this.#contestant, callers, seconds, { prefix: `client-${this.#seat.index}-` })
  }

  async close(): Promise<void> {
    await this.#kept?.release().catch(() => {}) // it may be lost
    await this.#contestant.close()
  }
}
