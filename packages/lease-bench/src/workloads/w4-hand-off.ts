import { setTimeout as pause } from 'node:timers/promises'
import {
  ableTo,
  armsOf,
  type Adapter,
  type Arm,
  type Ground,
  type Metric,
  type Sample,
  type Table,
  type Workload,
} from '../bench.ts'
import { ClientTeam, type Member } from '../client-team.ts'
import { machineMs } from '../clients.ts'
import { quantile } from '../statistics.ts'

const LEASE = 'handed-on'

/** So long nobody is denied any more: all who were woken in vain wait again. */
const QUIET_MS = 5

/** The same at the beginning, where each still opens its connections, and looks again once it hears of changes. */
const SETTLING_MS = 200

/** A hand-off that takes longer has failed, and so has a beginning at which somebody does not wait by then. */
const LIMIT_MS = 30_000

/** Hand-offs for each waiter: it takes some rounds to see how long each one waits. */
const ROUNDS = 3

/** How long a client that joins has to begin waiting, before the next one joins. */
const JOINING_MS = 10

/** With more of them than this, that would take too long, and is left out. */
const MOST_FOR_ROUNDS = 64

/** Hand-offs of a measurement at least. */
const LEAST = 10

/** About how long a hand-off takes until the client that released waits again. Libraries that poll need longer. */
const HAND_OFF_SECONDS = { library: 0.012, raw: 0.01, peer: 0.08 } as const

/** Clients that are opened in a second, wait in their order, and are closed again. */
const OPENED_PER_SECOND = 400

/** Libraries that ask again and again take long with more waiters than that: left out where it should not take long. */
const MOST_TO_BE_SHORT = 16

/** So long nothing happens, at most, while it is counted what waiting takes. */
const IDLE_SECONDS = 2

const metrics: readonly [Metric, ...Metric[]] = [
  { name: 'p50 ms', better: 'less' },
  { name: 'p99 ms', better: 'less' },
  { name: 'waited p99 ÷ p50', better: 'less' },
  { name: 'commands/hand-off', better: 'less' },
  { name: 'messages/hand-off', better: 'less' },
  { name: 'bytes/hand-off', better: 'less' },
  { name: 'commands/s waiting', better: 'less' },
]

interface Task {
  readonly waiters: number
  /** Of the adapter. */
  readonly handOffSeconds?: number | undefined
}

/** From the release of a lease to the grant of the next who waits for it, each in a client of its own, in several processes. */
export const w4HandOff: Workload<Task> = {
  name: 'W4',
  about: 'hand-off of a lease to one of those who wait for it, in other processes',
  takes: (seconds, { role, task: { waiters, handOffSeconds = HAND_OFF_SECONDS[role] } }) =>
    Math.min(IDLE_SECONDS, seconds) +
    Math.max(seconds, leastFor(waiters) * handOffSeconds) +
    waiters / OPENED_PER_SECOND +
    (2 * SETTLING_MS) / 1000,
  tables({ adapters: all, waiters, details = true }) {
    // A round trip alone is not worth a table.
    if (!all.some(({ can }) => can.includes('queue'))) return []
    return waiters.map((count): Table<Task> => {
      const adapters = all.filter(({ role }) => details || role !== 'peer' || count <= MOST_TO_BE_SHORT)
      const can = ({ can, waiters }: Adapter): boolean =>
        (can.includes('queue') && count <= (waiters?.atMost ?? Number.POSITIVE_INFINITY)) || can.includes('roundTrip')
      const unable = adapters.flatMap(({ name, can, waiters }) =>
        can.includes('queue') && waiters !== undefined && count > waiters.atMost
          ? [{ label: name, reason: waiters.because }]
          : [],
      )
      const title = `release to next grant, ${count.toLocaleString('en-US')} waiting in as many clients`
      const { arms, references } = armsOf<Task>(adapters, can, { waiters: count })
      const own = arms.map((arm): Arm<Task> => {
        const { handOffSeconds } = adapters.find(({ name }) => name === arm.adapter) ?? {}
        return { ...arm, task: { ...arm.task, handOffSeconds } }
      })
      return { title, metrics, arms: own, references, unable }
    })
  },
  async start(adapter, ground, { waiters }) {
    if (adapter.can.includes('queue')) {
      const team = await ClientTeam.start(adapter, ground, waiters + 1)
      return { measure: (seconds) => handOffs(team, ground, waiters, seconds), close: () => team.end() }
    }
    const contestant = await adapter.open(ground)
    const go = ableTo(adapter, contestant, 'roundTrip')
    return { measure: (seconds) => roundTrips(go, seconds), close: () => contestant.close() }
  },
}

/** Hand-offs of a measurement at least, with that many waiters. */
function leastFor(waiters: number): number {
  return Math.max(LEAST, waiters <= MOST_FOR_ROUNDS ? ROUNDS * waiters : 0)
}

async function handOffs(team: ClientTeam, ground: Ground, count: number, seconds: number): Promise<Sample> {
  const line = await Line.open(team, count)
  try {
    const idleSeconds = Math.min(IDLE_SECONDS, seconds)
    const atRest = await team.report()
    await pause(idleSeconds * 1000)
    const begun = await team.report()
    line.beginAnew()
    const tookMs: number[] = []
    const least = leastFor(count)
    const endMs = performance.now() + seconds * 1000
    let handedOn = 0
    while (performance.now() < endMs || handedOn < least || tookMs.length === 0) {
      const { ms, isBetweenProcesses } = await line.handOn()
      if (isBetweenProcesses) tookMs.push(ms)
      handedOn++
    }
    const ended = await team.report()
    const waitedMs = line.waitedMs()
    return {
      'p50 ms': quantile(tookMs, 0.5),
      'p99 ms': quantile(tookMs, 0.99),
      'waited p99 ÷ p50': handedOn >= ROUNDS * count ? quantile(waitedMs, 0.99) / quantile(waitedMs, 0.5) : Number.NaN,
      'commands/hand-off': (ended.commands - begun.commands) / handedOn,
      'messages/hand-off': (ended.messages - begun.messages) / handedOn,
      'bytes/hand-off': (ended.bytes - begun.bytes) / handedOn,
      'commands/s waiting': (begun.commands - atRest.commands) / idleSeconds,
    }
  } finally {
    await line.close()
  }
}

async function roundTrips(go: () => Promise<void>, seconds: number): Promise<Sample> {
  const tookMs: number[] = []
  const endMs = performance.now() + seconds * 1000
  for (let beganMs = performance.now(); beganMs < endMs;) {
    await go()
    const nowMs = performance.now()
    tookMs.push(nowMs - beganMs)
    beganMs = nowMs
  }
  return { 'p50 ms': quantile(tookMs, 0.5), 'p99 ms': quantile(tookMs, 0.99) }
}

interface Grant {
  readonly member: Member
  readonly atMs: number
}

interface HandOff {
  readonly ms: number
  /** From one process to another; always, where there is but one. */
  readonly isBetweenProcesses: boolean
}

/** One who holds the lease, and those who wait for it. */
class Line {
  readonly #team: ClientTeam
  /** Since when each who waits has done so. */
  readonly #sinceMs = new Map<Member, number>()
  readonly #waitedMs: number[] = []
  #holding: Grant | undefined
  #granted: (grant: Grant) => void = () => {}
  /** Rejects when somebody cannot go on waiting. */
  readonly #failure: Promise<never>
  #fail: (error: unknown) => void = () => {}

  private constructor(team: ClientTeam) {
    this.#team = team
    this.#failure = new Promise((_resolve, reject) => (this.#fail = reject))
    this.#failure.catch(() => {}) // at the end everybody stops waiting
  }

  /** Resolves once the first holds the lease and that many wait for it. */
  static async open(team: ClientTeam, count: number): Promise<Line> {
    await team.open(count + 1)
    try {
      const line = new Line(team)
      await line.#begin()
      return line
    } catch (error) {
      await team.close().catch(() => {}) // what went wrong first counts
      throw error
    }
  }

  /** Hands the lease on, from the call of `release` to the next grant. The client that released queues again. */
  async handOn(): Promise<HandOff> {
    const giver = this.#holding?.member
    if (giver === undefined) throw new Error('nobody holds the lease')
    const next = this.#nextGrant()
    const released = giver.clients.release(giver.client)
    const [{ member, atMs }, calledMs] = await Promise.all([next, this.#inTime('it is not released', () => released)])
    const { members } = this.#team
    const isBetweenProcesses =
      member.clients !== giver.clients || members.every(({ clients }) => clients === giver.clients)
    await this.#wait([giver], QUIET_MS)
    return { ms: atMs - calledMs, isBetweenProcesses }
  }

  /** From now on is counted how long each waits. */
  beginAnew(): void {
    const nowMs = machineMs()
    for (const member of this.#sinceMs.keys()) this.#sinceMs.set(member, nowMs)
    this.#waitedMs.length = 0
  }

  /** How long each wait took; those not over yet count where they are longer than most. */
  waitedMs(): readonly number[] {
    const nowMs = machineMs()
    const usual = quantile(this.#waitedMs, 0.5)
    const unfinished = [...this.#sinceMs.values()].map((sinceMs) => nowMs - sinceMs)
    return [...this.#waitedMs, ...unfinished.filter((ms) => ms > usual)]
  }

  async close(): Promise<void> {
    await this.#team.close()
  }

  async #begin(): Promise<void> {
    const [first, ...others] = this.#team.members
    if (first === undefined) throw new Error('nobody is there')
    const grant = this.#nextGrant()
    this.#join(first)
    await grant
    // One of each process at a time: in a queue, those who follow each other are in different processes then.
    const processes = new Set(this.#team.members.map(({ clients }) => clients)).size
    for (let from = 0; from < others.length; from += processes) {
      for (const member of others.slice(from, from + processes)) this.#join(member)
      await this.#joined(JOINING_MS)
    }
    await this.#wait([], SETTLING_MS)
  }

  #join(member: Member): void {
    this.#sinceMs.set(member, machineMs())
    member.clients.hold(member.client, LEASE).then(
      (atMs) => {
        this.#waitedMs.push(atMs - (this.#sinceMs.get(member) ?? Number.NaN))
        this.#sinceMs.delete(member)
        this.#holding = { member, atMs }
        this.#granted(this.#holding)
      },
      (error: unknown) => this.#fail(error),
    )
  }

  async #nextGrant(): Promise<Grant> {
    const granted = new Promise<Grant>((resolve) => (this.#granted = resolve))
    return this.#inTime('nobody got the lease', () => granted)
  }

  /** Until these wait as well, and all whom the hand-off woke in vain wait again. */
  async #wait(members: readonly Member[], quietMs: number): Promise<void> {
    for (const member of members) this.#join(member)
    await this.#inTime('those who are to wait do not', async (over) => {
      for (let seen = -1; !over.aborted;) {
        const { denials, waiting } = await this.#team.denials()
        if (denials === seen && waiting >= this.#sinceMs.size) return
        seen = denials
        await pause(quietMs)
      }
    })
  }

  /** Until all who have joined wait, or that time is over. */
  async #joined(ms: number): Promise<void> {
    const endMs = performance.now() + ms
    while (performance.now() < endMs) {
      const { waiting } = await Promise.race([this.#team.denials(), this.#failure])
      if (waiting >= this.#sinceMs.size) return
    }
  }

  async #inTime<Result>(otherwise: string, work: (over: AbortSignal) => Promise<Result>): Promise<Result> {
    const over = new AbortController()
    const limit = pause(LIMIT_MS, undefined, { signal: over.signal }).then((): never => {
      throw new Error(`${otherwise} within ${LIMIT_MS} ms`)
    })
    limit.catch(() => {}) // it is cut short
    try {
      return await Promise.race([work(over.signal), limit, this.#failure])
    } finally {
      over.abort()
    }
  }
}
