/** Clients of one adapter in several processes, counted together. Where the server is in each process, they are all in this one. */
import { ownSeat, type Adapter, type Ground, type Seat } from './bench.ts'
import { launchClients, type ClientProcess } from './client-process.ts'
import { clientsHere, type Clients, type ClientsReport } from './clients.ts'

/** So many, or the machine has more to do with processes than with clients. */
const PROCESSES = 4

/** Connections that listen, all processes together, where a server has few of them. */
const LISTENING = 64

/** One client, and where it is. */
export interface Member {
  readonly clients: Clients
  /** Its number there. */
  readonly client: number
}

export interface TeamReport extends Omit<ClientsReport, 'denials' | 'waiting'> {}

export class ClientTeam {
  readonly #ground: Ground
  readonly #places: readonly (Clients | ClientProcess)[]
  #members: readonly Member[] = []

  private constructor(ground: Ground, places: readonly (Clients | ClientProcess)[]) {
    this.#ground = ground
    this.#places = places
  }

  /** Starts processes for at most so many clients at a time. */
  static async start(adapter: Adapter, ground: Ground, most: number): Promise<ClientTeam> {
    const { substrate, url } = ground
    if (url === '') return new ClientTeam(ground, [clientsHere(adapter, ground)])
    const starts = Array.from({ length: Math.min(most, PROCESSES) }, () =>
      launchClients({ substrate, url, adapter: adapter.name }),
    )
    const started = await Promise.allSettled(starts)
    const places = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    for (const one of started) {
      if (one.status === 'fulfilled') continue
      await Promise.all(places.map((place) => place.end()))
      throw one.reason
    }
    return new ClientTeam(ground, places)
  }

  /** In the order of their seats: two that follow each other are in different processes, where there are several. */
  get members(): readonly Member[] {
    return this.#members
  }

  /**
   * Opens so many clients of the same leases in place of those that are open.
   *
   * @param space what they share; by default nobody else has it
   */
  async open(
    count: number,
    { space = ownSeat().space, listening = LISTENING }: { readonly space?: string; readonly listening?: number } = {},
  ): Promise<void> {
    await this.close()
    const places = this.#places.slice(0, count)
    const seats = Array.from({ length: count }, (_, index): Seat => ({ space, index, count }))
    const members = seats.map(({ index }) => ({
      clients: places[index % places.length] as Clients,
      client: Math.floor(index / places.length),
    }))
    await Promise.all(
      places.map((place, at) =>
        place.open(
          seats.filter(({ index }) => index % places.length === at),
          Math.ceil(listening / places.length),
        ),
      ),
    )
    this.#members = members
  }

  async keep(lease: string, durationMs: number): Promise<void> {
    await Promise.all(this.#busy().map((place) => place.keep(lease, durationMs)))
  }

  /** Returns the pairs a second of all. */
  async work(callers: number, seconds: number): Promise<number> {
    const rates = await Promise.all(this.#busy().map((place) => place.work(callers, seconds)))
    return rates.reduce((sum, rate) => sum + rate, 0)
  }

  /** How many wait, and how often all of them have been denied what they wait for. */
  async denials(): Promise<Pick<ClientsReport, 'denials' | 'waiting'>> {
    return sumOf(await Promise.all(this.#busy().map((place) => place.report())))
  }

  /** Where the server counts, commands and messages are those of all its clients. */
  async report(): Promise<TeamReport> {
    const sum = sumOf(await Promise.all(this.#places.map((place) => place.report())))
    if (this.#ground.counts === 'process') return sum
    return { ...sum, commands: await this.#ground.commands(), messages: await this.#ground.messages() }
  }

  /** Closes the clients; others can be opened after that. */
  async close(): Promise<void> {
    const busy = this.#busy()
    this.#members = []
    await Promise.all(busy.map((place) => place.close()))
  }

  /** Ends the processes as well. */
  async end(): Promise<void> {
    await this.close().catch(() => {}) // what is left ends with its process
    await Promise.all(this.#places.map(async (place) => ('end' in place ? place.end() : undefined)))
  }

  #busy(): readonly Clients[] {
    return [...new Set(this.#members.map(({ clients }) => clients))]
  }
}

function sumOf(reports: readonly ClientsReport[]): ClientsReport {
  const sum = { denials: 0, waiting: 0, cpuMicros: 0, commands: 0, messages: 0, bytes: 0 }
  for (const report of reports) {
    for (const name of Object.keys(sum) as (keyof ClientsReport)[]) sum[name] += report[name]
  }
  return sum
}
