import type { Workload } from '../bench.ts'
import { openAll, pairMetrics, pairs } from './loop.ts'

/** One caller: what the library adds to a round trip. */
export const w1Sequential: Workload = {
  name: 'W1',
  about: 'claim and release, one after the other',
  async *groups({ place, adapters }) {
    const opened = await openAll(adapters, place, ({ one }) => one !== undefined)
    yield {
      title: 'claim + release, one caller',
      metrics: pairMetrics,
      references: opened.able.filter(([{ role }]) => role !== 'library').map(([{ name }]) => name),
      arms: opened.able.map(([{ name, role, about }, contestant]) => ({
        label: name,
        role,
        about,
        measure: (seconds) => pairs(contestant, 1, seconds),
      })),
      close: () => opened.close(),
    }
  },
}
