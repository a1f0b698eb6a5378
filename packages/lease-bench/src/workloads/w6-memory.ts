import { ableTo, armsOf, type Adapter, type Ground, type Sample, type Workload } from '../bench.ts'
import { heapBytes } from '../heap.ts'
import { growingSizes, inWindows } from './loop.ts'

/** So many leases are held and released beforehand. */
const WARM_UP = 2_000

/** What a lease that is kept alive costs its process while nothing happens: its name, its Hold, what is known of it. */
export const w6Memory: Workload<{ readonly size: number }> = {
  name: 'W6',
  about: 'memory and timers of leases that are kept alive',
  repetitions: 3,
  warmsUp: false,
  tables({ adapters, sizes = growingSizes }) {
    return sizes.map((size) => ({
      title: `${size.toLocaleString('en-US')} leases kept alive by one process`,
      metrics: [
        { name: 'bytes/lease', better: 'less' },
        { name: 'timers', better: 'less' },
        { name: 'µs/lease to take', better: 'less' },
      ],
      ...armsOf(adapters, ({ can }) => can.includes('keep'), { size }),
    }))
  },
  async start(adapter, ground, { size }) {
    return { measure: () => keepAlive(adapter, ground, size), close: async () => {} }
  },
}

async function keepAlive(adapter: Adapter, ground: Ground, size: number): Promise<Sample> {
  const contestant = await adapter.open(ground)
  try {
    const keep = ableTo(adapter, contestant, 'keep')
    // What is there once, however many leases follow: connections, compiled code, tables that have grown to some size.
    await inWindows(WARM_UP, async (index) => (await keep.hold(`warm-up-${index}`)).release())
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
