import type { Arm, Contestant, Workload } from '../bench.ts'
import { pairs } from './loop.ts'

/** Enough that batches form: a single caller on a real server would only measure its disk. */
const CALLERS = 64
const WINDOW = 2_000

/** What a claim costs while others are in the namespace, all of them held by this very process. */
export const w8Growth: Workload = {
  name: 'W8',
  about: 'cost of a claim as the namespace grows',
  async *groups({ place, adapters, sizes }) {
    for (const adapter of adapters.filter(({ role }) => role !== 'raw')) {
      const opened: Contestant[] = []
      const close = async (): Promise<void> => {
        await Promise.all(opened.map((contestant) => contestant.close()))
      }
      const arms: Arm[] = []
      try {
        for (const size of sizes) {
          const contestant = await adapter.open(place)
          opened.push(contestant)
          if (contestant.one === undefined) continue
          await fill(contestant.one, size)
          arms.push({
            label: `${size.toLocaleString('en-US')} leases`,
            role: adapter.role,
            about: '',
            measure: async (seconds) => {
              const sample = await pairs(contestant, CALLERS, seconds)
              return { 'µs/pair': 1e6 / (sample['pairs/s'] ?? Number.NaN), ...sample }
            },
          })
        }
      } catch (error) {
        await close()
        throw error
      }
      yield {
        title: `${adapter.name}: claim + release by ${CALLERS} callers beside that many leases held`,
        metrics: [
          { name: 'µs/pair', better: 'less' },
          { name: 'CPU µs/pair', better: 'less' },
          { name: 'p99 ms', better: 'less' },
        ],
        references: arms.slice(0, 1).map(({ label }) => label),
        arms,
        close,
      }
    }
  },
}

async function fill(one: NonNullable<Contestant['one']>, size: number): Promise<void> {
  for (let from = 0; from < size; from += WINDOW) {
    const count = Math.min(WINDOW, size - from)
    await Promise.all(Array.from({ length: count }, (_, index) => one.claim(`other-${from + index}`)))
  }
}
