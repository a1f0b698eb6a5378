import { ableTo, armsOf, type Adapter, type Ground, type Sample, type Trial, type Workload } from '../bench.ts'

const LEASE = 'mine'

/** So often it is asked between two looks at the clock. */
const AT_ONCE = 1_000

/** "Is it still mine?", again and again: what a check before every step of the work costs. */
export const w5StillMine: Workload<{ readonly by: 'knows' | 'asks' }> = {
  name: 'W5',
  about: 'whether a lease is still held, asked here or of the server',
  tables({ adapters }) {
    return (
      [
        ['knows', 'whether it is still held, answered at once (ours: hold.held)'],
        ['asks', 'whether it is still held, answered by a promise (ours: token.check())'],
      ] as const
    ).map(([by, title]) => ({
      title,
      metrics: [
        { name: 'answers/s', better: 'more' },
        { name: 'CPU µs/answer', better: 'less' },
      ],
      ...armsOf(adapters, ({ can }) => can.includes(by), { by }),
    }))
  },
  start: (adapter, ground, { by }) => (by === 'knows' ? knowing(adapter, ground) : asking(adapter, ground)),
}

async function knowing(adapter: Adapter, ground: Ground): Promise<Trial> {
  const contestant = await adapter.open(ground)
  const held = await ableTo(adapter, contestant, 'knows')(LEASE)
  return {
    measure: (seconds) =>
      answersOf(seconds, async () => {
        let yes = 0
        for (let times = 0; times < AT_ONCE; times++) if (held()) yes++
        if (yes !== AT_ONCE) throw new Error('the lease was lost')
        return AT_ONCE
      }),
    close: () => contestant.close(),
  }
}

async function asking(adapter: Adapter, ground: Ground): Promise<Trial> {
  const contestant = await adapter.open(ground)
  const check = await ableTo(adapter, contestant, 'asks')(LEASE)
  return {
    measure: (seconds) =>
      answersOf(seconds, async () => {
        if ((await check()) === false) throw new Error('the lease was lost')
        return 1
      }),
    close: () => contestant.close(),
  }
}

async function answersOf(seconds: number, ask: () => Promise<number>): Promise<Sample> {
  const cpu = process.cpuUsage()
  const startMs = performance.now()
  const endMs = startMs + seconds * 1000
  let answers = 0
  let nowMs = startMs
  for (; nowMs < endMs; nowMs = performance.now()) answers += await ask()
  const { user, system } = process.cpuUsage(cpu)
  return { 'answers/s': (answers / (nowMs - startMs)) * 1000, 'CPU µs/answer': (user + system) / answers }
}
