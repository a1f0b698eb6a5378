/**
 * What one server of a kind takes for what a fleet asks of it: CPU time per operation, requests, bytes. The clients are those of the
 * bench, in this process; their CPU does not count. CPU time is that of the server's processes beyond what the server takes when
 * there is hardly anything to do, so a busy machine disturbs it little.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type { Hold } from 'lease-core'
import { ableTo, type Adapter, type Contestant, type Ground, type Kept } from '../bench.ts'
import { quantile } from '../statistics.ts'
import { inWindows } from '../workloads/loop.ts'
import type { MeasuredServer } from './measured-server.ts'

export interface Extent {
  /** Of one phase. */
  readonly seconds: number
  /** Of each phase. Other work on the machine only adds to what the server takes, so the least counts. */
  readonly rounds: number
  /** Leases whose bytes are counted. */
  readonly leases: number
  /** Clients of the fleet, each with a connection of its own as in a process of its own. */
  readonly clients: number
  /** For how long it is counted what waiting takes; 0: it is not. */
  readonly idleSeconds: number
  /** Of a lease that is renewed: short, so that there is enough to measure. */
  readonly durationMs: number
  /** Until clients have opened what they open after their first calls. */
  readonly settlingMs: number
}

export interface Figure {
  readonly name: string
  readonly unit: string
  readonly least: number
  readonly median: number
  readonly most: number
}

/** Operations under way at once in a batch. */
const AT_ONCE = 1_000
/** Leases of each client of the fleet, claimed together. */
const EACH = 20
/** Of a lease that is not renewed during that time. */
const LONG = { hours: 2 }
/** Clients that wait for one lease. */
const WAITERS = 16

/** All figures of one store. */
export async function measureStore(
  server: MeasuredServer,
  adapter: Adapter,
  ground: Ground,
  extent: Extent,
): Promise<readonly Figure[]> {
  const connections = await connectionsOf(adapter, ground, server, extent)
  const meter = await Meter.start(server, ground, adapter, extent.settlingMs)
  return [
    ...connections,
    ...meter.figures,
    ...(await storage(adapter, ground, server, extent)), // before others leave space that is used again
    ...(await operations(adapter, ground, meter, extent)),
    ...(await oneProcess(adapter, ground, meter, extent)),
    ...(await fleet(adapter, ground, meter, extent)),
    ...(await waiting(adapter, ground, meter, extent)),
  ]
}

/** What the server has spent on some work. */
interface Cost {
  readonly cpuMicros: number
  readonly commands: number
  readonly messages: number
  readonly seconds: number
}

class Meter {
  readonly figures: readonly Figure[]
  readonly #server: MeasuredServer
  readonly #ground: Ground
  readonly #restMicrosPerSecond: number

  private constructor(server: MeasuredServer, ground: Ground, figures: readonly Figure[], restMicrosPerSecond: number) {
    this.#server = server
    this.#ground = ground
    this.figures = figures
    this.#restMicrosPerSecond = restMicrosPerSecond
  }

  /** Learns first what the server takes while there is hardly anything to do. One that flushes once a second does so. */
  static async start(server: MeasuredServer, ground: Ground, adapter: Adapter, settlingMs: number): Promise<Meter> {
    const bare = new Meter(server, ground, [], 0)
    const samples = new Samples()
    const rest = async (name: string, work: () => Promise<unknown>): Promise<number> => {
      const cost = await bare.costOf(work)
      samples.add(name, 'CPU µs per second', cost.cpuMicros / cost.seconds)
      return cost.cpuMicros / cost.seconds
    }
    await rest('asked nothing', () => pause(4 * settlingMs))
    const contestant = await adapter.open(ground)
    try {
      const hold = await ableTo(adapter, contestant, 'manager').hold('rest', 'holder', { duration: LONG })
      await pause(settlingMs)
      const micros = await rest('asked a few times a second', async () => {
        for (let times = 0; times < 24; times++) await Promise.all([hold.renew(), pause(settlingMs / 4)])
      })
      return new Meter(server, ground, samples.figures, micros)
    } finally {
      await contestant.close()
    }
  }

  async costOf(work: () => Promise<unknown>): Promise<Cost> {
    const commands = await this.#ground.commands()
    const messages = await this.#ground.messages()
    const startMs = performance.now()
    const cpuMicros = this.#server.cpuMicros()
    await work()
    const spentMicros = this.#server.cpuMicros() - cpuMicros
    const seconds = (performance.now() - startMs) / 1000
    return {
      cpuMicros: Math.max(0, spentMicros - this.#restMicrosPerSecond * seconds),
      commands: (await this.#ground.commands()) - commands,
      messages: (await this.#ground.messages()) - messages,
      seconds,
    }
  }
}

/** Figures of several rounds, by name. */
class Samples {
  readonly #samples = new Map<string, { readonly unit: string; readonly values: number[] }>()

  add(name: string, unit: string, value: number): void {
    const known = this.#samples.get(name) ?? { unit, values: [] }
    this.#samples.set(name, known)
    known.values.push(value)
  }

  get figures(): readonly Figure[] {
    return [...this.#samples].map(([name, { unit, values }]) => ({
      name,
      unit,
      median: quantile(values, 0.5),
      least: Math.min(...values),
      most: Math.max(...values),
    }))
  }
}

/** Claim, extension and release: one after the other, and many at once. */
async function operations(
  adapter: Adapter,
  ground: Ground,
  meter: Meter,
  { seconds, rounds }: Extent,
): Promise<readonly Figure[]> {
  const contestant = await adapter.open(ground)
  const manager = ableTo(adapter, contestant, 'manager')
  const samples = new Samples()
  const holds: Hold[] = []
  const claim = async (): Promise<void> => {
    holds.push(await manager.hold(randomUUID(), 'holder', { duration: LONG }))
  }
  try {
    for (let round = -1; round < rounds; round++) {
      for (const atOnce of [1, AT_ONCE]) {
        const how = atOnce === 1 ? 'alone' : 'in a batch'
        const measured = async (kind: string, work: () => Promise<number>): Promise<void> => {
          let done = 0
          const cost = await meter.costOf(async () => void (done = await work()))
          if (round < 0) return // until code is compiled, here and in the server
          samples.add(`${kind} ${how}`, 'CPU µs', cost.cpuMicros / done)
          samples.add(`${kind} ${how}: operations`, 'per command', done / cost.commands)
        }
        const each = async (body: (hold: Hold) => Promise<void>): Promise<number> => {
          for (let from = 0; from < holds.length; from += atOnce) {
            await Promise.all(holds.slice(from, from + atOnce).map(body))
          }
          return holds.length
        }
        await measured('claim', async () => {
          const endMs = performance.now() + seconds * 1000
          while (performance.now() < endMs) await Promise.all(Array.from({ length: atOnce }, claim))
          return holds.length
        })
        await measured('extension', () => each((hold) => hold.renew()))
        await measured('release', () => each((hold) => hold.release()))
        holds.length = 0
      }
    }
  } finally {
    await contestant.close()
  }
  return samples.figures
}

/** Thousands of leases that one process keeps alive. */
async function oneProcess(
  adapter: Adapter,
  ground: Ground,
  meter: Meter,
  { seconds, rounds, durationMs }: Extent,
): Promise<readonly Figure[]> {
  const contestant = await adapter.open(ground)
  const samples = new Samples()
  try {
    await keepAlive(adapter, [contestant], { leases: 3 * AT_ONCE, durationMs })
    await renewals(adapter, [contestant], {
      meter,
      samples,
      seconds: Math.max(seconds, durationMs / 1000),
      rounds,
      how: `1 process × ${3 * AT_ONCE} leases`,
    })
  } finally {
    await contestant.close()
  }
  return samples.figures
}

/** Many processes that keep a few leases alive each. */
async function fleet(
  adapter: Adapter,
  ground: Ground,
  meter: Meter,
  { seconds, rounds, clients, durationMs }: Extent,
): Promise<readonly Figure[]> {
  const samples = new Samples()
  const contestants = await opened(adapter, ground, clients)
  try {
    await keepAlive(adapter, contestants, { leases: EACH, durationMs })
    const how = `${clients} processes × ${EACH} leases`
    const longest = Math.max(seconds, durationMs / 1000)
    await renewals(adapter, contestants, { meter, samples, seconds: longest, rounds, how })
  } finally {
    await Promise.all(contestants.map((one) => one.close()))
  }
  return samples.figures
}

/** What the server has for each process that holds a lease, and does nothing else. */
async function connectionsOf(
  adapter: Adapter,
  ground: Ground,
  server: MeasuredServer,
  { clients, settlingMs }: Extent,
): Promise<readonly Figure[]> {
  const samples = new Samples()
  const connections = await server.connections()
  const memoryBytes = await server.memoryBytes()
  const contestants = await opened(adapter, ground, clients)
  try {
    await Promise.all(
      contestants.map((contestant, index) =>
        ableTo(adapter, contestant, 'manager').hold(`connected-${index}`, `holder-${index}`, { duration: LONG }),
      ),
    )
    await pause(3 * settlingMs)
    samples.add('connections of a process', 'connections', ((await server.connections()) - connections) / clients)
    samples.add('server memory for a process', 'bytes', ((await server.memoryBytes()) - memoryBytes) / clients)
  } finally {
    await Promise.all(contestants.map((one) => one.close()))
  }
  return samples.figures
}

/** What leases take in the store, and what is written when they are renewed. */
async function storage(
  adapter: Adapter,
  ground: Ground,
  server: MeasuredServer,
  { leases, settlingMs }: Extent,
): Promise<readonly Figure[]> {
  const contestant = await adapter.open(ground)
  const manager = ableTo(adapter, contestant, 'manager')
  const samples = new Samples()
  const holds: Hold[] = []
  try {
    await manager.claim('warm-up', 'holder', LONG) // what is there once is there
    const before = await server.storedBytes()
    await inWindows(leases, async () => {
      holds.push(await manager.hold(randomUUID(), 'holder-1', { duration: LONG }))
    })
    samples.add('stored for a lease', 'bytes', ((await server.storedBytes()) - before) / leases)
    const written = await server.writtenBytes()
    await inWindows(leases, async (index) => holds[index]?.renew())
    await pause(settlingMs) // a server may write later
    samples.add('written for an extension', 'bytes', ((await server.writtenBytes()) - written) / leases)
    await inWindows(leases, async (index) => holds[index]?.release())
    await pause(settlingMs)
    samples.add('left soon after the release', 'bytes', ((await server.storedBytes()) - before) / leases)
  } finally {
    await contestant.close()
  }
  return samples.figures
}

/** What waiting takes while nothing happens, and what a hand-off takes. */
async function waiting(
  adapter: Adapter,
  ground: Ground,
  meter: Meter,
  { seconds, rounds, idleSeconds, settlingMs }: Extent,
): Promise<readonly Figure[]> {
  const samples = new Samples()
  const contestants = await opened(adapter, ground, WAITERS + 1)
  const granted: { readonly index: number; readonly kept: Kept }[] = []
  let onGrant = (): void => {}
  const wait = async (index: number): Promise<void> => {
    const kept = await ableTo(adapter, contestants[index] as Contestant, 'queue').hold('handed-on')
    granted.push({ index, kept })
    onGrant()
  }
  const handOn = async (): Promise<void> => {
    const next = new Promise<void>((resolve) => (onGrant = resolve))
    const holding = granted.shift()
    if (holding === undefined) throw new Error('nobody holds the lease')
    await holding.kept.release()
    wait(holding.index).catch(() => {})
    await next
  }
  try {
    for (const index of contestants.keys()) {
      wait(index).catch(() => {}) // at the end everybody stops waiting
      await pause(settlingMs / 10)
    }
    await pause(settlingMs)
    for (let done = 0; done < 3 * WAITERS; done++) await handOn()
    await pause(settlingMs)
    for (let round = 0; round < rounds; round++) {
      let handOffs = 0
      const cost = await meter.costOf(async () => {
        const endMs = performance.now() + seconds * 1000
        for (; performance.now() < endMs; handOffs++) {
          await handOn()
          await pause(10) // until the one that has released waits again, as in a real fleet
        }
      })
      samples.add(`hand-off with ${WAITERS} waiting`, 'CPU µs', cost.cpuMicros / handOffs)
      samples.add('hand-off: commands', 'commands', cost.commands / handOffs)
      samples.add('hand-off: messages', 'messages', cost.messages / handOffs)
    }
    if (idleSeconds > 0) {
      const cost = await meter.costOf(() => pause(idleSeconds * 1000))
      const minutes = (contestants.length * idleSeconds) / 60
      samples.add('a client that waits: commands', 'per minute', cost.commands / minutes)
    }
  } finally {
    await Promise.all(contestants.map((one) => one.close()))
  }
  return samples.figures
}

async function opened(adapter: Adapter, ground: Ground, count: number): Promise<readonly Contestant[]> {
  const space = randomUUID()
  return Promise.all(Array.from({ length: count }, (_, index) => adapter.open(ground, { space, index, count })))
}

/** Each takes so many leases at once, and renews them from then on. */
async function keepAlive(
  adapter: Adapter,
  contestants: readonly Contestant[],
  { leases, durationMs }: { readonly leases: number; readonly durationMs: number },
): Promise<void> {
  await Promise.all(
    contestants.map(async (contestant, client) => {
      const keep = ableTo(adapter, contestant, 'keep')
      await inWindows(leases, async (lease) => {
        await keep.hold(`kept-${client}-${lease}`, durationMs)
      })
    }),
  )
  await pause(durationMs)
}

async function renewals(
  adapter: Adapter,
  contestants: readonly Contestant[],
  {
    meter,
    samples,
    seconds,
    rounds,
    how,
  }: {
    readonly meter: Meter
    readonly samples: Samples
    readonly seconds: number
    readonly rounds: number
    readonly how: string
  },
): Promise<void> {
  const renewed = (): number =>
    contestants.reduce((sum, contestant) => sum + ableTo(adapter, contestant, 'keep').renewals(), 0)
  for (let round = 0; round < rounds; round++) {
    const before = renewed()
    const cost = await meter.costOf(() => pause(seconds * 1000))
    const done = renewed() - before
    samples.add(`renewal, ${how}`, 'CPU µs', cost.cpuMicros / done)
    samples.add(`renewal, ${how}: rate`, 'per second', done / cost.seconds)
    samples.add(`renewal, ${how}: batch`, 'per command', done / cost.commands)
  }
}
