import { armsOf, type Workload } from '../bench.ts'
import { pairMetrics, pairs } from './loop.ts'

/** One caller: what the library adds to a round trip. */
export const w1Sequential: Workload<null> = {
  name: 'W1',
  about: 'claim and release, one after the other',
  tables({ adapters }) {
    const arms = armsOf(adapters, ({ can }) => can.includes('one'), null)
    return [{ title: 'claim + release, one caller', metrics: pairMetrics, ...arms }]
  },
  async start(adapter, ground) {
    const contestant = await adapter.open(ground)
    return { measure: (seconds) => pairs(contestant, 1, seconds), close: () => contestant.close() }
  },
}
