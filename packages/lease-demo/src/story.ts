/**
 * The story: four workers, four accounts, two accidents.
 *
 * Only the accidents are arranged: who is frozen or killed, and at which point of its work. Everything else on the
 * timeline is what workers reported while it happened.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Crew, type CrewMember } from './crew.ts'
import type { Balances } from './ledger.ts'
import type { FromWorker } from './protocol.ts'
import type { Timeline, WorkerName } from './timeline.ts'
import type { Order } from './transfer.ts'
import type { Place } from './venues.ts'

export const OPENING: Balances = { alice: 100, bob: 100, carol: 100, dave: 100 }

const LEASE_MS = 2000
/** How long a worker on an ordinary day is between its last check and its write. */
const GATE_MS = 150

export interface StoryOptions {
  readonly place: Place
  readonly guarded: boolean
  readonly timeline: Timeline
  readonly signal: AbortSignal
}

/** What happened, as far as the books do not tell. */
export interface Outcome {
  /** The write of the worker that woke up was refused. */
  readonly refused: boolean
  /** Leases taken over from a worker that was frozen or killed. */
  readonly takeovers: readonly string[]
}

/** @throws when a worker fails, or with the reason of the signal; no worker is left in either case. */
export async function tell(options: StoryOptions): Promise<Outcome> {
  await using story = new Story(options)
  await story.hire()
  await story.ordinaryDay()
  await story.pause()
  await story.crash()
  return story.outcome
}

class Story implements AsyncDisposable {
  readonly #options: StoryOptions
  readonly #timeline: Timeline
  readonly #crew: Crew
  readonly #cyan: CrewMember
  readonly #magenta: CrewMember
  readonly #blue: CrewMember
  readonly #green: CrewMember
  /** Who held an account last and has not said that it is done with it. */
  readonly #holders = new Map<string, CrewMember>()
  /** Whose gate the story opens by its own hand. */
  readonly #detained = new Set<CrewMember>()
  /** From whom a lease was taken over since it last held any. */
  readonly #overtaken = new Set<CrewMember>()
  readonly #refusals: WorkerName[] = []
  readonly #takeovers: string[] = []

  constructor(options: StoryOptions) {
    this.#options = options
    this.#timeline = options.timeline
    this.#crew = new Crew(options.signal, (worker, event) => this.#heard(worker, event))
    this.#cyan = this.#crew.hire('cyan')
    this.#magenta = this.#crew.hire('magenta')
    this.#blue = this.#crew.hire('blue')
    this.#green = this.#crew.hire('green')
  }

  get outcome(): Outcome {
    return { refused: this.#refusals.includes('cyan'), takeovers: this.#takeovers }
  }

  async hire(): Promise<void> {
    const { place, guarded } = this.#options
    const crew = [this.#cyan, this.#magenta, this.#blue, this.#green]
    await Promise.all(
      crew.map(async (member) => {
        const ready = member.next('ready')
        member.send({ kind: 'start', name: member.name, place, guarded, leaseMs: LEASE_MS })
        await ready
      }),
    )
  }

  async ordinaryDay(): Promise<void> {
    this.#timeline.title('1. An ordinary day: everyone wants the same accounts')
    await Promise.all([
      this.#order(this.#cyan, { from: 'alice', to: 'bob', amount: 10 }),
      this.#order(this.#magenta, { from: 'bob', to: 'carol', amount: 20 }),
      this.#order(this.#blue, { from: 'carol', to: 'dave', amount: 5 }),
      this.#order(this.#green, { from: 'alice', to: 'dave', amount: 15 }),
    ])
  }

  async pause(): Promise<void> {
    this.#timeline.title('2. A pause: a worker is frozen between its check and its write')
    const order: Order = { from: 'alice', to: 'bob', amount: 30 }
    const stale = await this.#detain(this.#cyan, order)
    this.#cyan.freeze()
    this.#timeline.act('SIGSTOP: cyan is frozen in the middle of its write and renews nothing')

    await this.#order(this.#magenta, { from: 'alice', to: 'carol', amount: 25 })

    this.#timeline.act(`SIGCONT: cyan wakes up where it was, about to write alice = ${stale['alice']}`)
    const idle = this.#cyan.next('idle')
    this.#detained.delete(this.#cyan)
    this.#cyan.openGate()
    this.#cyan.thaw()
    await idle
  }

  async crash(): Promise<void> {
    this.#timeline.title('3. A crash: a worker is killed while it holds')
    await this.#detain(this.#blue, { from: 'carol', to: 'dave', amount: 10 })
    await this.#blue.kill()
    this.#timeline.act('SIGKILL: blue is gone, and nobody releases what it held')

    await this.#order(this.#green, { from: 'dave', to: 'bob', amount: 20 })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#crew[Symbol.asyncDispose]()
  }

  /** Resolves when the order is carried out. */
  async #order(worker: CrewMember, order: Order): Promise<void> {
    const idle = worker.next('idle')
    worker.send({ kind: 'transfer', order })
    await idle
  }

  /** Resolves when the worker has checked its leases and stands before its write, with the balances it will write. */
  async #detain(worker: CrewMember, order: Order): Promise<Balances> {
    this.#detained.add(worker)
    const writing = worker.next('writing')
    worker.send({ kind: 'transfer', order })
    return (await writing).next
  }

  #heard(worker: CrewMember, event: FromWorker): void {
    const timeline = this.#timeline
    const { name } = worker
    switch (event.kind) {
      case 'denied':
        timeline.did(name, `is denied ${event.account}: ${event.by ?? 'another'} holds it; waits`, 'warn')
        break
      case 'held':
        this.#held(worker, event)
        break
      case 'writing':
        if (this.#detained.has(worker)) {
          timeline.did(name, `has read, has checked its leases, and is about to write ${amounts(event.next)}`)
        } else void this.#openSoon(worker)
        break
      case 'moved':
        if (this.#overtaken.delete(worker)) {
          const text = `moved ${describe(event.order)} on a lapsed lease: OVERWROTE ${amounts(event.next)}`
          timeline.did(name, text, 'bad')
        } else timeline.did(name, `moved ${describe(event.order)}: ${amounts(event.next)}`, 'good')
        this.#done(worker)
        break
      case 'refused':
        this.#refusals.push(name)
        this.#overtaken.delete(worker)
        timeline.did(name, `its stale write is REFUSED (ErrNotHeld): ${event.message}`, 'bad')
        timeline.did(name, 'wrote nothing, and starts over')
        this.#done(worker)
        break
      case 'lost':
        timeline.did(name, `learns that it lost ${event.account} (${event.reason})`, 'warn')
        break
      case 'ready':
      case 'idle':
      case 'failed': // ends the story, see crew.ts
        break
    }
  }

  #held(worker: CrewMember, { account, fencingToken }: { account: string; fencingToken: bigint }): void {
    const before = this.#holders.get(account)
    this.#holders.set(account, worker)
    const term = `${account} ${this.#timeline.token(fencingToken)}`
    if (before === undefined || before === worker || before.absence === undefined) {
      this.#timeline.did(worker.name, `holds ${term}`)
    } else {
      this.#takeovers.push(account)
      this.#overtaken.add(before)
      this.#timeline.did(
        worker.name,
        `TAKES OVER ${term}: the lease of ${before.name} (${before.absence}) has lapsed`,
        'warn',
      )
    }
  }

  #done(worker: CrewMember): void {
    for (const [account, holder] of this.#holders) if (holder === worker) this.#holders.delete(account)
  }

  async #openSoon(worker: CrewMember): Promise<void> {
    await sleep(GATE_MS)
    worker.openGate()
  }
}

const describe = ({ from, to, amount }: Order): string => `${amount} from ${from} to ${to}`

const amounts = (balances: Balances): string =>
  Object.entries(balances)
    .map(([account, balance]) => `${account} = ${balance}`)
    .join(', ')
