import type { Workload } from '../bench.ts'
import { openAll, pairMetrics, pairs } from './loop.ts'

/** Many callers in one process, each with a lease of his own: what sharing round trips brings. */
export const w2Concurrent: Workload = {
  name: 'W2',
  about: 'claim and release by many concurrent callers',
  async *groups({ place, adapters, callers }) {
    for (const count of callers) {
      const opened = await openAll(adapters, place, ({ one, many }) => (one ?? many) !== undefined)
      yield {
        title: `claim + release, ${count} concurrent callers`,
        metrics: pairMetrics,
        references: opened.able.filter(([{ role }]) => role !== 'library').map(([{ name }]) => name),
        arms: opened.able.map(([{ name, role, about }, contestant]) => ({
          label: name,
          role,
          about,
          measure: (seconds) => pairs(contestant, count, seconds),
        })),
        close: () => opened.close(),
      }
    }
  },
}
