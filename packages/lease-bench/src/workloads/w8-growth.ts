import { ableTo, type Workload } from '../bench.ts'
import { growingSizes, inWindows, pairs } from './loop.ts'

/** Enough that batches form: a single caller on a real server would only measure its disk. */
const CALLERS = 64

interface Task {
  readonly size: number
  readonly freshNames: boolean
}

/** What a claim costs while others are in the namespace, all of them held by the same process. */
export const w8Growth: Workload<Task> = {
  name: 'W8',
  about: 'cost of a claim as the namespace grows',
  tables({ adapters, sizes = growingSizes }) {
    const ours = adapters.filter(({ role, can }) => role === 'library' && can.includes('one'))
    return ours.flatMap(({ name, role }) =>
      [false, true].map((freshNames) => {
        const which = freshNames ? 'a new lease each time' : 'the same leases again and again'
        const arms = [...new Set(sizes)].map((size) => ({
          label: `${size.toLocaleString('en-US')} leases`,
          role,
          about: '',
          adapter: name,
          task: { size, freshNames },
        }))
        return {
          title: `${name}, beside that many leases held: claim + release of ${which}, ${CALLERS} callers`,
          metrics: [
            { name: 'µs/pair', better: 'less' as const },
            { name: 'CPU µs/pair', better: 'less' as const },
            { name: 'p99 ms', better: 'less' as const },
          ] as const,
          references: arms.slice(0, 1).map(({ label }) => label),
          arms,
        }
      }),
    )
  },
  async start(adapter, ground, { size, freshNames }) {
    const contestant = await adapter.open(ground)
    const one = ableTo(adapter, contestant, 'one')
    await inWindows(size, (index) => one.claim(`other-${index}`))
    return {
      async measure(seconds) {
        const sample = await pairs(contestant, CALLERS, seconds, { freshNames })
        return { 'µs/pair': 1e6 / (sample['pairs/s'] ?? Number.NaN), ...sample }
      },
      close: () => contestant.close(),
    }
  },
}
