import { armsOf, type Workload } from '../bench.ts'
import { pairMetrics, pairs } from './loop.ts'

/** Many callers in one process, each with a lease of its own: what sharing round trips brings. */
export const w2Concurrent: Workload<{ readonly callers: number }> = {
  name: 'W2',
  about: 'claim and release by many concurrent callers',
  tables({ adapters, callers }) {
    return callers.map((count) => ({
      title: `claim + release, ${count.toLocaleString('en-US')} concurrent callers`,
      metrics: pairMetrics,
      ...armsOf(
        adapters,
        ({ can, atMost = Number.POSITIVE_INFINITY }) =>
          (can.includes('one') || can.includes('many')) && atMost >= count,
        { callers: count },
      ),
    }))
  },
  async start(adapter, ground, { callers }) {
    const contestant = await adapter.open(ground)
    return { measure: (seconds) => pairs(contestant, callers, seconds), close: () => contestant.close() }
  },
}
