import type { Adapter, Place, Sample, Workload } from '../bench.ts'
import { heapBytes } from '../heap.ts'
import { growingSizes, inWindows } from './loop.ts'

/** What a lease that is kept alive costs this process while nothing happens: its name, its Hold, what is known of it. */
export const w6Memory: Workload = {
  name: 'W6',
  about: 'memory and timers of leases that are kept alive',
  async *groups({ place, adapters, sizes = growingSizes }) {
    for (const size of sizes) {
      const able: Adapter[] = []
      for (const adapter of adapters) {
        const contestant = await adapter.open(place)
        if (contestant.keep !== undefined) able.push(adapter)
        await contestant.close()
      }
      yield {
        title: `${size.toLocaleString('en-US')} leases kept alive by one process`,
        metrics: [
          { name: 'bytes/lease', better: 'less' },
          { name: 'timers', better: 'less' },
          { name: 'µs/lease to take', better: 'less' },
        ],
        references: able.filter(({ role }) => role !== 'library').map(({ name }) => name),
        arms: able.map((adapter) => ({
          label: adapter.name,
          role: adapter.role,
          about: adapter.about,
          measure: () => keepAlive(adapter, place, size),
        })),
        close: async () => {},
      }
    }
  },
}

async function keepAlive(adapter: Adapter, place: Place, size: number): Promise<Sample> {
  const contestant = await adapter.open(place)
  try {
    const { keep } = contestant
    if (keep === undefined) throw new Error(`${adapter.name} keeps nothing alive`)
    await keep.hold('warm-up') // connections, compiled code
    const kept: unknown[] = Array.from({ length: size })
    const before = await heapBytes()
    const startMs = performance.now()
    await inWindows(size, async (index) => {
      kept[index] = await keep.hold(`lease-${index}`)
    })
    const tookMs = performance.now() - startMs
    const bytes = ((await heapBytes()) - before) / size
    const timers = keep.timers()
    if (kept.length !== size) throw new Error('the leases were not kept')
    return { 'bytes/lease': bytes, timers, 'µs/lease to take': (tookMs * 1000) / size }
  } finally {
    await contestant.close()
  }
}
