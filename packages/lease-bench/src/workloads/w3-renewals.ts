import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { ableTo, armsOf, type Contestant, type Ground, type Kept, type Sample, type Workload } from '../bench.ts'
import { settled } from '../heap.ts'
import { inWindows } from './loop.ts'

/** How often the delay of the event loop is looked at. */
const RESOLUTION_MS = 5

/** So long nothing is done, some times, to learn what this process takes when idle; the least counts. */
const IDLE_MS = 30
const IDLE_TIMES = 4

interface Task {
  readonly size: number
  readonly durationMs: number
}

/**
 * Leases that are renewed every third of their duration, by the library itself where it does that: what that costs its
 * process and the server. The same by hand as fast as it goes is the limit.
 */
export const w3Renewals: Workload<Task> = {
  name: 'W3',
  about: 'renewals of leases that are kept alive',
  tables({ adapters, sizes = [1_000, 10_000], durationMs }) {
    return sizes.map((size) => ({
      title: `${size.toLocaleString('en-US')} leases of ${durationMs} ms kept alive; by hand as fast as it goes`,
      metrics: [
        { name: 'CPU µs/renewal', better: 'less' },
        { name: 'renewals/s', better: 'more' },
        { name: 'commands/renewal', better: 'less' },
        { name: 'loop delay p99 ms', better: 'less' },
        { name: 'timers', better: 'less' },
        { name: 'lost', better: 'less' },
      ],
      ...armsOf(adapters, ({ role, can }) => can.includes(role === 'raw' ? 'many' : 'keep'), { size, durationMs }),
    }))
  },
  async start(adapter, ground, { size, durationMs }) {
    return {
      async measure(seconds) {
        const contestant = await adapter.open(ground)
        try {
          return adapter.role === 'raw'
            ? await byHand(ableTo(adapter, contestant, 'many'), ground, size, seconds * 1000)
            : await keptAlive(ableTo(adapter, contestant, 'keep'), ground, size, {
                durationMs,
                leastMs: seconds * 1000,
              })
        } finally {
          await contestant.close()
        }
      },
      close: async () => {},
    }
  },
}

/** Measures for at least three renewals of each, once all are held and the first have been renewed. */
async function keptAlive(
  keep: NonNullable<Contestant['keep']>,
  ground: Ground,
  size: number,
  { durationMs, leastMs }: { readonly durationMs: number; readonly leastMs: number },
): Promise<Sample> {
  await (await keep.hold('warm-up')).release()
  const meter = await startMeter(ground)
  const kept: Kept[] = []
  let failure: unknown
  await inWindows(size, async (index) => {
    try {
      kept.push(await keep.hold(`lease-${index}`, durationMs))
    } catch (error) {
      failure ??= error // lost before it was there: some are slower than the lease lasts
    }
  })
  if (kept.length === 0) throw new Error('none could be held', { cause: failure })
  await pause(durationMs / 2) // halfway between the first renewals and the second, where most came at the same time
  const sample = await meter.measure(
    () => keep.renewals(),
    () => pause(Math.max(leastMs, durationMs)),
  )
  const timers = keep.timers()
  const standing = kept.filter(({ held }) => held)
  // What was lost meanwhile cannot be released.
  await inWindows(standing.length, async (index) => standing[index]?.release().catch(() => {}))
  return { ...sample, timers, lost: size - standing.length }
}

async function byHand(
  many: NonNullable<Contestant['many']>,
  ground: Ground,
  size: number,
  leastMs: number,
): Promise<Sample> {
  const meter = await startMeter(ground)
  const lanes = Array.from({ length: many.inFlight }, (_, lane) =>
    Array.from({ length: Math.floor((size + lane) / many.inFlight) }, (_, index) => `lane-${lane}-${index}`),
  ).filter((leases) => leases.length > 0)
  await Promise.all(lanes.map((leases) => many.claim(leases)))
  let renewed = 0
  const sample = await meter.measure(
    () => renewed,
    async () => {
      const endMs = performance.now() + leastMs
      await Promise.all(
        lanes.map(async (leases) => {
          do {
            await many.extend(leases)
            renewed += leases.length
          } while (performance.now() < endMs)
        }),
      )
    },
  )
  await Promise.all(lanes.map((leases) => many.release(leases)))
  return sample
}

interface Meter {
  /** What it took to renew as often as `renewals` tells meanwhile, beyond what this process takes when idle. */
  measure(renewals: () => number, work: () => Promise<void>): Promise<Sample>
}

/** Learns what this process takes when idle. */
async function startMeter(ground: Ground): Promise<Meter> {
  const delays = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  delays.enable()
  await settled()
  let idleMicrosPerMs = Number.POSITIVE_INFINITY
  for (let times = 0; times < IDLE_TIMES; times++) {
    const { cpuMicros, elapsedMs } = await cpuOf(() => pause(IDLE_MS))
    idleMicrosPerMs = Math.min(idleMicrosPerMs, cpuMicros / elapsedMs)
  }
  return {
    async measure(renewals, work) {
      const commandsBefore = await ground.commands()
      const before = renewals()
      delays.reset()
      const { cpuMicros, elapsedMs } = await cpuOf(work)
      delays.disable()
      const done = renewals() - before
      const commands = (await ground.commands()) - commandsBefore
      return {
        'CPU µs/renewal': Math.max(0, cpuMicros - idleMicrosPerMs * elapsedMs) / done,
        'renewals/s': (done / elapsedMs) * 1000,
        'commands/renewal': commands / done,
        'loop delay p99 ms': Math.max(0, delays.percentile(99) / 1e6 - RESOLUTION_MS),
      }
    },
  }
}

async function cpuOf(work: () => Promise<void>): Promise<{ cpuMicros: number; elapsedMs: number }> {
  const startMs = performance.now()
  const cpu = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(cpu)
  return { cpuMicros: user + system, elapsedMs: performance.now() - startMs }
}
