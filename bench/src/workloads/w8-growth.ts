import type { Adapter, Contestant, Group, Workload } from '../bench.ts'
import { growingSizes, inWindows, pairs } from './loop.ts'

/** Enough that batches form: a single caller on a real server would only measure its disk. */
const CALLERS = 64

/** What a claim costs while others are in the namespace, all of them held by this very process. */
export const w8Growth: Workload = {
  name: 'W8',
  about: 'cost of a claim as the namespace grows',
  async *groups({ place, adapters, sizes = growingSizes }) {
    for (const adapter of adapters.filter(({ role }) => role !== 'raw')) {
      const filled = new Map<number, Contestant>()
      try {
        for (const size of new Set(sizes)) {
          const contestant = await adapter.open(place)
          filled.set(size, contestant)
          const { one } = contestant
          if (one !== undefined) await inWindows(size, (index) => one.claim(`other-${index}`))
        }
        yield group(adapter, filled, { freshNames: false })
        yield group(adapter, filled, { freshNames: true })
      } finally {
        await Promise.all([...filled.values()].map((contestant) => contestant.close()))
      }
    }
  },
}

function group(
  { name, role }: Adapter,
  filled: ReadonlyMap<number, Contestant>,
  options: { readonly freshNames: boolean },
): Group {
  const arms = [...filled]
    .filter(([, { one }]) => one !== undefined)
    .map(([size, contestant]) => ({
      label: `${size.toLocaleString('en-US')} leases`,
      role,
      about: '',
      measure: async (seconds: number) => {
        const sample = await pairs(contestant, CALLERS, seconds, options)
        return { 'µs/pair': 1e6 / (sample['pairs/s'] ?? Number.NaN), ...sample }
      },
    }))
  const which = options.freshNames ? 'a new lease each time' : 'the same leases again and again'
  return {
    title: `${name}, beside that many leases held: claim + release of ${which}, ${CALLERS} callers`,
    metrics: [
      { name: 'µs/pair', better: 'less' },
      { name: 'CPU µs/pair', better: 'less' },
      { name: 'p99 ms', better: 'less' },
    ],
    references: arms.slice(0, 1).map(({ label }) => label),
    arms,
    close: async () => {},
  }
}
