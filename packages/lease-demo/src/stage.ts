/** Where the story plays: in a place of its own on the server that the environment names, or on one started for it. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Books } from './books.ts'
import type { Balances, LedgerOffice, StartedServer } from './ledger.ts'
import { type Place, type VenueName, venueNamed } from './venues.ts'

const FAREWELL_MS = 3000

export interface StageOptions {
  readonly on: VenueName
  readonly opening: Balances
  readonly env: NodeJS.ProcessEnv
  /** Called before a server is started. */
  readonly starting: (title: string) => void
}

interface Set {
  readonly place: Place
  readonly description: string
  readonly office: LedgerOffice
  readonly opening: Balances
  readonly server: StartedServer | undefined
}

export class Stage implements AsyncDisposable {
  readonly place: Place
  /** For the reader. */
  readonly description: string
  readonly #office: LedgerOffice
  readonly #opening: Balances
  readonly #server: StartedServer | undefined

  private constructor({ place, description, office, opening, server }: Set) {
    this.place = place
    this.description = description
    this.#office = office
    this.#opening = opening
    this.#server = server
  }

  /** @throws when there is no server or it refuses; nothing is left behind. */
  static async set({ on, opening, env, starting }: StageOptions): Promise<Stage> {
    const venue = await venueNamed(on)
    const scope = `lease_demo_${process.pid}_${randomBytes(4).toString('hex')}`
    const given = env[venue.variable] || undefined
    if (given === undefined) starting(venue.title)
    const server = given === undefined ? await venue.start() : undefined
    const place = { on, url: given ?? server?.url ?? '', scope }
    const description =
      server?.description ?? `the server of ${venue.variable}, in ${venue.apart} of its own (${scope})`
    const stage = new Stage({ place, description, office: venue.officeAt(place), opening, server })
    try {
      await stage.#office.open(opening)
      return stage
    } catch (error) {
      await stage[Symbol.asyncDispose]().catch(() => {}) // the first error is the one to tell
      throw error
    }
  }

  async books(): Promise<Books> {
    const balances = await this.#office.balances(Object.keys(this.#opening))
    const accounts = Object.entries(this.#opening).map(([name, opening]) => {
      return { name, opening, balance: balances[name] ?? 0 }
    })
    return { accounts, entries: await this.#office.entries() }
  }

  /** Removes what is the demo's own, or the server with all its data. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#server === undefined) await this.#office.drop()
    } finally {
      // A server that hangs would never let a connection end.
      await Promise.race([this.#office[Symbol.asyncDispose](), sleep(FAREWELL_MS)])
      await this.#server?.[Symbol.asyncDispose]()
    }
  }
}
