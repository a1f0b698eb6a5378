import { setTimeout as pause } from 'node:timers/promises'
import {
  ableTo,
  armsOf,
  type Adapter,
  type Contestant,
  type Ground,
  type Kept,
  type Metric,
  type Sample,
  type Workload,
} from '../bench.ts'
import { quantile } from '../statistics.ts'

const LEASE = 'handed-on'

/** So long nobody is denied any more: all who were woken in vain wait again. */
const QUIET_MS = 5

/** The same at the beginning, where each still opens its connections, and looks again once it hears of changes. */
const SETTLING_MS = 200

/** A hand-off that takes longer has failed. */
const LIMIT_MS = 30_000

/** How often the lease is handed on at least, for each of those who wait: how long each waits needs some rounds. */
const ROUNDS = 3

const metrics: readonly [Metric, ...Metric[]] = [
  { name: 'p50 ms', better: 'less' },
  { name: 'p99 ms', better: 'less' },
  { name: 'waited p99 ÷ p50', better: 'less' },
  { name: 'commands/hand-off', better: 'less' },
  { name: 'commands/s waiting', better: 'less' },
]

/** From the release of a lease to the grant of the next who waits for it, each in a client of his own. */
export const w4HandOff: Workload<{ readonly waiters: number }> = {
  name: 'W4',
  about: 'hand-off of a lease to one of those who wait for it',
  tables({ adapters, waiters }) {
    // A round trip alone is not worth a table.
    if (!adapters.some(({ can }) => can.includes('queue'))) return []
    return waiters.map((count) => {
      const can = ({ can }: Adapter): boolean => can.includes('queue') || can.includes('roundTrip')
      const title = `release to next grant, ${count} waiting in as many clients`
      return { title, metrics, ...armsOf(adapters, can, { waiters: count }) }
    })
  },
  async start(adapter, ground, { waiters }) {
    if (adapter.can.includes('queue')) {
      return { measure: (seconds) => handOffs(adapter, ground, waiters, seconds), close: async () => {} }
    }
    const contestant = await adapter.open(ground)
    const go = ableTo(adapter, contestant, 'roundTrip')
    return { measure: (seconds) => roundTrips(go, seconds), close: () => contestant.close() }
  },
}

async function handOffs(adapter: Adapter, ground: Ground, count: number, seconds: number): Promise<Sample> {
  const line = await Line.open(adapter, ground, count)
  try {
    const idleSeconds = Math.min(2, 2 * seconds)
    const atRest = await ground.commands()
    await pause(idleSeconds * 1000)
    const begun = await ground.commands()
    line.beginAnew()
    const tookMs: number[] = []
    const endMs = performance.now() + seconds * 1000
    while (performance.now() < endMs || tookMs.length < ROUNDS * count) tookMs.push(await line.handOn())
    const commands = (await ground.commands()) - begun
    const waitedMs = line.waitedMs()
    return {
      'p50 ms': quantile(tookMs, 0.5),
      'p99 ms': quantile(tookMs, 0.99),
      'waited p99 ÷ p50': quantile(waitedMs, 0.99) / quantile(waitedMs, 0.5),
      'commands/hand-off': commands / tookMs.length,
      'commands/s waiting': (begun - atRest) / idleSeconds,
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

type Queue = NonNullable<Contestant['queue']>

interface Holding {
  readonly queue: Queue
  readonly kept: Kept
}

/** One who holds the lease, and those who wait for it. */
class Line {
  readonly #everyone: Contestant[]
  readonly #queues: readonly Queue[]
  /** Since when each who waits has done so. */
  readonly #sinceMs = new Map<Queue, number>()
  readonly #waitedMs: number[] = []
  #holding: Holding | undefined
  #granted: () => void = () => {}
  /** Rejects when somebody cannot go on waiting. */
  readonly #failure: Promise<never>
  #fail: (error: unknown) => void = () => {}

  private constructor(everyone: Contestant[]) {
    this.#everyone = everyone
    this.#queues = everyone.flatMap(({ queue }) => queue ?? [])
    this.#failure = new Promise((_resolve, reject) => (this.#fail = reject))
    this.#failure.catch(() => {}) // at the end everybody stops waiting
  }

  /** Resolves once the first holds the lease and that many wait for it. */
  static async open(adapter: Adapter, ground: Ground, count: number): Promise<Line> {
    const everyone = [await adapter.open(ground)]
    try {
      const first = everyone[0]?.queue
      if (first === undefined) throw new Error(`${adapter.name} cannot wait`)
      for (let more = 0; more < count; more++) everyone.push(await first.another())
      const line = new Line(everyone)
      await line.#begin()
      return line
    } catch (error) {
      await Promise.all(everyone.map((contestant) => contestant.close()))
      throw error
    }
  }

  /** Hands the lease on; returns how many milliseconds it was until the next had it. He who gave it queues again. */
  async handOn(): Promise<number> {
    const giver = this.#holding
    if (giver === undefined) throw new Error('nobody holds the lease')
    const next = this.#nextGrant()
    const beganMs = performance.now()
    const released = giver.kept.release()
    await next
    const tookMs = performance.now() - beganMs
    await released
    await this.#wait([giver.queue], QUIET_MS)
    return tookMs
  }

  /** From now on is counted how long each waits. */
  beginAnew(): void {
    const nowMs = performance.now()
    for (const queue of this.#sinceMs.keys()) this.#sinceMs.set(queue, nowMs)
    this.#waitedMs.length = 0
  }

  /** How long each wait took; those not over yet count where they are longer than most. */
  waitedMs(): readonly number[] {
    const nowMs = performance.now()
    const usual = quantile(this.#waitedMs, 0.5)
    const unfinished = [...this.#sinceMs.values()].map((sinceMs) => nowMs - sinceMs)
    return [...this.#waitedMs, ...unfinished.filter((ms) => ms > usual)]
  }

  async close(): Promise<void> {
    await Promise.all(this.#everyone.map((contestant) => contestant.close()))
  }

  async #begin(): Promise<void> {
    const [first, ...others] = this.#queues
    if (first === undefined) throw new Error('nobody is there')
    const grant = this.#nextGrant()
    this.#join(first)
    await grant
    await this.#wait(others, SETTLING_MS)
  }

  #join(queue: Queue): void {
    this.#sinceMs.set(queue, performance.now())
    queue.hold(LEASE).then(
      (kept) => {
        this.#waitedMs.push(performance.now() - (this.#sinceMs.get(queue) ?? Number.NaN))
        this.#sinceMs.delete(queue)
        this.#holding = { queue, kept }
        this.#granted()
      },
      (error: unknown) => this.#fail(error),
    )
  }

  async #nextGrant(): Promise<void> {
    const granted = new Promise<void>((resolve) => (this.#granted = resolve))
    await this.#inTime('nobody got the lease', () => granted)
  }

  /** Until these wait as well, and all whom the hand-off woke in vain wait again. */
  async #wait(queues: readonly Queue[], quietMs: number): Promise<void> {
    const before = new Map(queues.map((queue) => [queue, queue.denials()]))
    for (const queue of queues) this.#join(queue)
    await this.#inTime('those who are to wait do not', async (over) => {
      for (let seen = -1; !over.aborted;) {
        const denials = this.#queues.reduce((sum, queue) => sum + queue.denials(), 0)
        if (denials === seen && queues.every((queue) => queue.denials() > (before.get(queue) ?? 0))) return
        seen = denials
        await pause(quietMs)
      }
    })
  }

  async #inTime(otherwise: string, work: (over: AbortSignal) => Promise<void>): Promise<void> {
    const over = new AbortController()
    const limit = pause(LIMIT_MS, undefined, { signal: over.signal }).then(() => {
      throw new Error(`${otherwise} within ${LIMIT_MS} ms`)
    })
    limit.catch(() => {}) // it is cut short
    try {
      await Promise.race([work(over.signal), limit, this.#failure])
    } finally {
      over.abort()
    }
  }
}
