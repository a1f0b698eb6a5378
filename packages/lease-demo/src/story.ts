/**
 * The story: four workers, four accounts, two accidents.
 *
 * Only the accidents are arranged: which worker is frozen or killed, and at which point of its work. Everything else on the
 * timeline is what workers reported while it happened.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Crew, type CrewMember } from './crew.ts'
import type { Balances } from './ledger.ts'
import type { FromWorker } from './protocol.ts'
import type { Accident, Recorded, Recording } from './recording.ts'
import type { Timeline, WorkerName } from './timeline.ts'
import { TokenScale } from './tokens.ts'
import type { Order } from './transfer.ts'
import type { Place } from './venues.ts'

export const OPENING: Balances = { alice: 100, bob: 100, carol: 100, dave: 100 }

/** On a machine with nothing else to do; see {@link leaseFor}. */
export const SHORTEST_LEASE_MS = 2000
/** How long a worker on an ordinary day is between its last check and its write. */
const GATE_MS = 150
/** For how long, besides a lease, no worker may say anything: then a server or a worker hangs. */
const SILENCE_MS = 60_000
/** The same while worker processes start: a machine with too much to do takes minutes for that. */
const START_MS = 300_000

export interface StoryOptions {
  readonly place: Place
  readonly guarded: boolean
  readonly timeline: Timeline
  readonly signal: AbortSignal
  /** Leases last at least this long. */
  readonly leaseMs: number
}

/** A lease lapsed before the first accident, because the machine was too slow: what was arranged would mean nothing. */
export class Disturbed extends Error {
  /** How long leases lasted. */
  readonly leaseMs: number

  constructor(message: string, leaseMs: number) {
    super(message)
    this.leaseMs = leaseMs
  }
}

/** What happened, as far as the books do not tell. */
export interface Outcome {
  /** The write of the worker that woke up was refused. */
  readonly refused: boolean
  /** Leases taken over from a worker that was frozen or killed. */
  readonly takeovers: readonly string[]
  readonly recording: Recording
}

/** @throws Disturbed; when a worker fails; or with the reason of the signal. No worker is left in any case. */
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
  /** Who has sent a write although a lease was taken over from it. */
  readonly #tooLate = new Set<CrewMember>()
  readonly #events: Recorded[] = []
  readonly #beganMs = performance.now()
  /** All that were heard of. */
  readonly #fencingTokens = new Set<bigint>()
  #tokens = new TokenScale(0n)
  readonly #refusals: WorkerName[] = []
  readonly #takeovers: string[] = []
  /** Who has been denied a lease or stands before its write. Nobody writes before all four have met: so all contend. */
  readonly #met = new Set<CrewMember>()
  readonly #allMet: Promise<void>
  #whenAllMet = (): void => {}
  #leaseMs: number
  /** All worker processes run. */
  #ready = false
  /** The first accident has happened: from now on leases may lapse. */
  #accident = false
  #silence: NodeJS.Timeout | undefined

  constructor(options: StoryOptions) {
    this.#options = options
    this.#leaseMs = options.leaseMs
    this.#allMet = new Promise((resolve) => (this.#whenAllMet = resolve))
    this.#timeline = options.timeline
    this.#crew = new Crew(options.signal, (worker, event) => this.#heard(worker, event))
    this.#cyan = this.#crew.hire('cyan')
    this.#magenta = this.#crew.hire('magenta')
    this.#blue = this.#crew.hire('blue')
    this.#green = this.#crew.hire('green')
  }

  get outcome(): Outcome {
    const recording: Recording = {
      guarded: this.#options.guarded,
      leaseMs: this.#leaseMs,
      tokens: this.#tokens,
      events: this.#events,
    }
    return { refused: this.#refusals.includes('cyan'), takeovers: this.#takeovers, recording }
  }

  async hire(): Promise<void> {
    const { place, guarded } = this.#options
    const crew = [this.#cyan, this.#magenta, this.#blue, this.#green]
    this.#listen()
    this.#timeline.waitFor('starting four worker processes')
    await Promise.all(
      crew.map(async (member) => {
        const ready = member.next('ready')
        member.send({ kind: 'start', name: member.name, place, guarded })
        await ready
      }),
    )
    this.#ready = true
    this.#timeline.waitFor('measuring how fast this machine answers')
    const beganMs = performance.now()
    const fencingTokens = await Promise.all(
      crew.map(async (member) => {
        const rehearsed = member.next('rehearsed')
        member.send({ kind: 'rehearse' })
        return (await rehearsed).fencingToken
      }),
    )
    const answerMs = performance.now() - beganMs
    this.#timeline.arrived()
    const last = fencingTokens.reduce((highest, one) => (one > highest ? one : highest))
    this.#tokens = new TokenScale(last)
    const wantedMs = leaseFor(answerMs)
    const busy = wantedMs > this.#leaseMs ? ` (this machine is busy: an answer took ${seconds(answerMs)})` : ''
    this.#leaseMs = Math.max(this.#leaseMs, wantedMs)
    this.#timeline.note(`Leases last ${seconds(this.#leaseMs)} and are renewed while held${busy}.`)
    this.#timeline.note(`Fencing tokens are shown short: #1 stands for ${last + 1n}, #2 for the next.`)
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
    this.#accident = true
    this.#cyan.freeze()
    this.#record(this.#cyan, { kind: 'frozen' })
    this.#timeline.act('SIGSTOP: cyan is frozen in the middle of its write and renews nothing')

    this.#timeline.waitFor('waiting until the lease of the frozen worker has lapsed')
    await this.#order(this.#magenta, { from: 'alice', to: 'carol', amount: 25 })

    this.#timeline.act(`SIGCONT: cyan wakes up where it was, about to write alice = ${stale['alice']}`)
    const idle = this.#cyan.next('idle')
    this.#detained.delete(this.#cyan)
    this.#cyan.openGate()
    this.#record(this.#cyan, { kind: 'woken' })
    this.#cyan.thaw()
    await idle
    this.#timeline.arrived()
  }

  async crash(): Promise<void> {
    this.#timeline.title('3. A crash: a worker is killed while it holds')
    await this.#detain(this.#blue, { from: 'carol', to: 'dave', amount: 10 })
    await this.#blue.kill()
    this.#record(this.#blue, { kind: 'killed' })
    this.#timeline.act('SIGKILL: blue is gone, and nobody releases what it held')

    this.#timeline.waitFor('waiting until the lease of the killed worker has lapsed')
    await this.#order(this.#green, { from: 'dave', to: 'bob', amount: 20 })
    this.#timeline.arrived()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#silence)
    this.#timeline.arrived()
    await this.#crew[Symbol.asyncDispose]()
  }

  /** Resolves when the order is carried out. */
  async #order(worker: CrewMember, order: Order): Promise<void> {
    const idle = worker.next('idle')
    worker.send({ kind: 'transfer', order, leaseMs: this.#leaseMs })
    await idle
  }

  /** Resolves when the worker has made its last check and has not sent its write, with the balances it will write. */
  async #detain(worker: CrewMember, order: Order): Promise<Balances> {
    this.#detained.add(worker)
    const writing = worker.next('writing')
    worker.send({ kind: 'transfer', order, leaseMs: this.#leaseMs })
    const { next } = await writing
    await worker.atGate()
    return next
  }

  #heard(worker: CrewMember, event: FromWorker): void {
    const timeline = this.#timeline
    const { name } = worker
    this.#listen()
    this.#record(worker, event)
    switch (event.kind) {
      case 'denied':
        this.#meets(worker)
        timeline.did(name, `is denied ${event.account}: ${event.by ?? 'another'} holds it; waits`, 'warn')
        break
      case 'held':
        this.#held(worker, event)
        break
      case 'writing':
        this.#meets(worker)
        if (this.#detained.has(worker)) {
          timeline.did(name, `has read, has checked its leases, and is about to write ${amounts(event.next)}`)
        }
        break
      case 'atGate': // not before: a worker that knows of a loss does not come to its gate
        if (!this.#detained.has(worker)) void this.#openSoon(worker)
        break
      case 'sent':
        if (this.#overtaken.has(worker)) {
          timeline.did(
            name,
            `sends its write: when it last looked, ${this.#sinceCheck(worker)} ago, it held both leases`,
          )
          this.#tooLate.add(worker)
        }
        break
      case 'moved':
        this.#tooLate.delete(worker)
        if (this.#overtaken.delete(worker)) {
          const text = `moved ${describe(event.order)} on a lapsed lease: OVERWROTE ${amounts(event.next)}`
          timeline.did(name, text, 'bad')
        } else timeline.did(name, `moved ${describe(event.order)}: ${amounts(event.next)}`, 'good')
        this.#done(worker)
        if (event.late) this.#disturbed(worker)
        break
      case 'lapsed':
        timeline.did(
          name,
          `knows that a lease is lost, writes nothing (${this.#short(event.message)}), starts over`,
          'warn',
        )
        this.#overtaken.delete(worker)
        this.#done(worker)
        this.#disturbed(worker)
        break
      case 'refused':
        this.#tooLate.delete(worker)
        this.#refusals.push(name)
        this.#overtaken.delete(worker)
        timeline.did(name, `its stale write is REFUSED (ErrNotHeld): ${this.#short(event.message)}`, 'bad')
        timeline.did(name, 'wrote nothing, and starts over')
        this.#done(worker)
        this.#disturbed(worker)
        break
      case 'lost':
        timeline.did(
          name,
          `learns that it lost ${event.account} (${event.reason})${this.#tooLate.has(worker) ? ': its write is on its way already' : ''}`,
          'warn',
        )
        this.#disturbed(worker)
        break
      case 'ready':
      case 'rehearsed':
      case 'idle':
      case 'failed': // ends the story, see crew.ts
        break
    }
  }

  #held(worker: CrewMember, { account, fencingToken }: { account: string; fencingToken: bigint }): void {
    const before = this.#holders.get(account)
    this.#holders.set(account, worker)
    this.#fencingTokens.add(fencingToken)
    const term = `${account} ${this.#tokens.show(fencingToken)}`
    if (before === undefined || before === worker || before.absence === undefined) {
      this.#timeline.did(worker.name, `holds ${term}`)
    } else {
      this.#timeline.arrived()
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

  #record({ name: worker }: CrewMember, event: FromWorker | Accident): void {
    this.#events.push({ atMs: performance.now() - this.#beganMs, worker, event })
  }

  /** How long ago the worker checked its leases last. */
  #sinceCheck({ name }: CrewMember): string {
    const check = this.#events.findLast(({ worker, event }) => worker === name && event.kind === 'atGate')
    return seconds(performance.now() - this.#beganMs - (check?.atMs ?? 0))
  }

  #short(message: string): string {
    return this.#tokens.showIn(message, this.#fencingTokens)
  }

  #meets(worker: CrewMember): void {
    this.#met.add(worker)
    if (this.#met.size === 4) this.#whenAllMet()
  }

  /** A worker lost a lease: before the first accident none should. */
  #disturbed({ name }: CrewMember): void {
    if (this.#accident) return
    const text = `a lease of ${seconds(this.#leaseMs)} lapsed while ${name} worked, which was not planned`
    this.#crew.abort(new Disturbed(text, this.#leaseMs))
  }

  /** Ends the story when nothing is heard for too long. */
  #listen(): void {
    clearTimeout(this.#silence)
    const limitMs = this.#ready ? SILENCE_MS + this.#leaseMs : START_MS
    const end = (): void => this.#crew.abort(new Error(`no worker has said anything for ${seconds(limitMs)}`))
    this.#silence = setTimeout(end, limitMs)
  }

  async #openSoon(worker: CrewMember): Promise<void> {
    await this.#allMet
    await sleep(GATE_MS)
    worker.openGate()
  }
}

/** How long leases must last where four answers at once take that long: several answers and a pause must fit. */
function leaseFor(answerMs: number): number {
  return Math.max(SHORTEST_LEASE_MS, Math.ceil((8 * answerMs) / 500) * 500)
}

const seconds = (ms: number): string => `${Number((ms / 1000).toFixed(2))} s`

const describe = ({ from, to, amount }: Order): string => `${amount} from ${from} to ${to}`

const amounts = (balances: Balances): string =>
  Object.entries(balances)
    .map(([account, balance]) => `${account} = ${balance}`)
    .join(', ')
