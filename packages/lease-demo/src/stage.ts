/** Where the story plays: in a place of its own on the server that the environment names, or on one started for it. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { onStep } from 'lease-servers'
import type { Books } from './books.ts'
import type { Balances, LedgerOffice, StartedServer, Venue } from './ledger.ts'
import { type Place, type VenueName, venueNamed } from './venues.ts'

const FAREWELL_MS = 3000
/** A server on which the accounts are not there by then hangs. A busy machine needs half a minute. */
const ANSWER_MS = 120_000

export interface StageOptions {
  readonly on: VenueName
  readonly opening: Balances
  readonly env: NodeJS.ProcessEnv
  /** Called with what is being waited for. */
  readonly waitFor: (step: string) => void
}

interface Set {
  readonly on: VenueName
  readonly venue: Venue
  readonly url: string
  readonly opening: Balances
  readonly server: StartedServer | undefined
}

export class Stage implements AsyncDisposable {
  readonly #set: Set
  #place: Place
  #office: LedgerOffice

  private constructor(set: Set) {
    this.#set = set
    this.#place = placeOn(set)
    this.#office = set.venue.officeAt(this.#place)
  }

  /** @throws when there is no server or it refuses; nothing is left behind. */
  static async set({ on, opening, env, waitFor }: StageOptions): Promise<Stage> {
    waitFor(`loading what the demo needs for ${on}`)
    const venue = await venueNamed(on)
    const given = env[venue.variable] || undefined
    const server = given === undefined ? await started(venue, waitFor) : undefined
    waitFor(`creating the accounts on ${server === undefined ? `the server of ${venue.variable}` : venue.title}`)
    const stage = new Stage({ on, venue, url: given ?? server?.url ?? '', opening, server })
    try {
      await stage.#open()
      return stage
    } catch (cause) {
      const left = stage[Symbol.asyncDispose]().catch(() => {}) // the first error is the one to tell
      if (server !== undefined) {
        await left
        throw cause
      }
      await Promise.race([left, sleep(2 * FAREWELL_MS, undefined, { ref: false })])
      const { variable } = venue
      const remedy = `name one that runs in ${variable}, or unset ${variable} to have one started`
      throw new Error(`the server that ${variable} names cannot be used (${remedy})`, { cause })
    }
  }

  get place(): Place {
    return this.#place
  }

  /** What kind of server it is. */
  get store(): string {
    return this.#set.venue.name
  }

  /** For the reader. */
  get description(): string {
    const { venue, server } = this.#set
    return server?.description ?? `the server of ${venue.variable}, in ${venue.apart} of its own (${this.#place.scope})`
  }

  /** Removes what has been played here, and sets the same accounts in a new place. */
  async clear(): Promise<void> {
    await this.#office.drop()
    await this.#closeOffice()
    this.#place = placeOn(this.#set)
    this.#office = this.#set.venue.officeAt(this.#place)
    await this.#open()
  }

  async books(): Promise<Books> {
    const balances = await this.#office.balances(Object.keys(this.#set.opening))
    const accounts = Object.entries(this.#set.opening).map(([name, opening]) => {
      return { name, opening, balance: balances[name] ?? 0 }
    })
    return { accounts, entries: await this.#office.entries() }
  }

  /** Removes what is the demo's own, or the server with all its data. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#set.server === undefined) await this.#office.drop()
    } finally {
      await this.#closeOffice()
      await this.#set.server?.[Symbol.asyncDispose]()
    }
  }

  async #open(): Promise<void> {
    await answered(this.#office.open(this.#set.opening))
  }

  /** A server that hangs would never let a connection end. */
  async #closeOffice(): Promise<void> {
    await Promise.race([this.#office[Symbol.asyncDispose](), sleep(FAREWELL_MS, undefined, { ref: false })])
  }
}

/** Starts a server, which may have to be downloaded first. */
async function started(venue: Venue, waitFor: StageOptions['waitFor']): Promise<StartedServer> {
  const listening = onStep(waitFor)
  try {
    return await venue.start()
  } finally {
    listening[Symbol.dispose]()
  }
}

function placeOn({ on, url }: Set): Place {
  return { on, url, scope: `lease_demo_${process.pid}_${randomBytes(4).toString('hex')}` }
}

async function answered(opening: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ANSWER_MS / 1000} seconds`)), ANSWER_MS)
  })
  await Promise.race([opening, late]).finally(() => clearTimeout(timer))
}
