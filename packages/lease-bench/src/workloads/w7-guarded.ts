import { ableTo, type Workload } from '../bench.ts'
import { quantile } from '../statistics.ts'

/** Transactions under way at once, each under a lease of its own. */
const LANES = 8

interface Task {
  readonly kind: string
  readonly how: 'guarded' | 'plain'
}

/** Writes whose transaction checks the lease as well, beside the same writes without. */
export const w7Guarded: Workload<Task> = {
  name: 'W7',
  about: 'transactions guarded by a lease, and the same without a guard',
  tables({ adapters }) {
    return adapters.flatMap(({ name, role, guards = [] }) =>
      guards.map((kind) => ({
        title: `${name}: ${kind}, ${LANES} at once under a lease each`,
        metrics: [
          { name: 'transactions/s', better: 'more' as const },
          { name: 'p50 ms', better: 'less' as const },
          { name: 'p99 ms', better: 'less' as const },
          { name: 'CPU µs/transaction', better: 'less' as const },
        ] as const,
        references: ['unguarded'],
        arms: [
          { label: 'guarded', adapter: name, role, about: '', task: { kind, how: 'guarded' as const } },
          { label: 'unguarded', adapter: name, role: 'raw' as const, about: '', task: { kind, how: 'plain' as const } },
        ],
      })),
    )
  },
  async start(adapter, ground, { kind, how }) {
    const contestant = await adapter.open(ground)
    const guard = ableTo(adapter, contestant, 'guard')
    const lanes = await Promise.all(Array.from({ length: LANES }, (_, lane) => guard(kind, lane)))
    return {
      async measure(seconds) {
        const tookMs: number[] = []
        const cpu = process.cpuUsage()
        const startMs = performance.now()
        const endMs = startMs + seconds * 1000
        await Promise.all(
          lanes.map(async (writes) => {
            for (let beganMs = startMs; beganMs < endMs;) {
              await writes[how]()
              const nowMs = performance.now()
              tookMs.push(nowMs - beganMs)
              beganMs = nowMs
            }
          }),
        )
        const elapsedSeconds = (performance.now() - startMs) / 1000
        const { user, system } = process.cpuUsage(cpu)
        return {
          'transactions/s': tookMs.length / elapsedSeconds,
          'p50 ms': quantile(tookMs, 0.5),
          'p99 ms': quantile(tookMs, 0.99),
          'CPU µs/transaction': (user + system) / tookMs.length,
        }
      },
      close: () => contestant.close(),
    }
  },
}
