import { setTimeout as pause } from 'node:timers/promises'
import { ableTo, armsOf, ownSeat, type Adapter, type Ground, type Metric, type Table, type Workload } from '../bench.ts'
import { ClientTeam, type TeamReport } from '../client-team.ts'
import { pairs } from './loop.ts'

/** Leases that a process at work claims and releases, each by a caller of its own. */
const CALLERS = 16

/** Of the lease that each of the others holds: it is renewed every third of that. */
const STANDING_MS = 60_000

/** Until the others have opened what they open after their claims. */
const SETTLING_MS = 500

/** Clients that work together, and those to compare them with. */
const [MANY, FEW] = [32, 4]

type Task = { readonly others: number } | 'all at work'

const besideMetrics: readonly [Metric, ...Metric[]] = [
  { name: 'beside ÷ alone', better: 'more' },
  { name: 'pairs/s beside them', better: 'more' },
  { name: 'pairs/s alone', better: 'more' },
  { name: 'CPU, beside ÷ alone', better: 'less' },
  { name: 'their CPU µs/pair', better: 'less' },
  { name: 'messages/pair to them', better: 'less' },
]

const togetherMetrics: readonly [Metric, ...Metric[]] = [
  { name: `${MANY} ÷ ${FEW}`, better: 'more' },
  { name: `pairs/s by ${MANY}`, better: 'more' },
  { name: `pairs/s by ${FEW}`, better: 'more' },
  { name: 'messages/pair', better: 'less' },
]

/** What one process costs and can do while other processes use the same namespace. */
export const w9Fleet: Workload<Task> = {
  name: 'W9',
  about: 'claim and release beside others who hold a lease each, and with all of them at work',
  takes: (seconds) => 3 * seconds + 1,
  tables({ adapters, others, details = true }) {
    const can = ({ role, can }: Adapter): boolean =>
      can.includes('one') && can.includes('keep') && (role === 'library' || (details && role === 'peer'))
    const beside = others.map((count): Table<Task> => ({
      title: `claim + release by ${CALLERS} callers of one process, beside ${count.toLocaleString('en-US')} others that hold one lease each`,
      metrics: besideMetrics,
      ...armsOf(adapters, can, { others: count }),
    }))
    const together: Table<Task> = {
      title: `claim + release by ${MANY} clients, ${CALLERS} callers each, and by ${FEW}`,
      metrics: togetherMetrics,
      ...armsOf(adapters, can, 'all at work'),
    }
    return [...beside, together]
  },
  start: (adapter, ground, task) =>
    task === 'all at work' ? allAtWork(adapter, ground) : besideOthers(adapter, ground, task.others),
}

/** Alone, then the others beside an idle process, beside one at work and beside an idle one, then alone again. */
async function besideOthers(adapter: Adapter, ground: Ground, others: number): ReturnType<typeof w9Fleet.start> {
  const { space } = ownSeat()
  const worker = await adapter.open(ground, { space, index: others, count: others + 1 })
  ableTo(adapter, worker, 'one')
  const team = await ClientTeam.start(adapter, ground, others)
  const work = (seconds: number): ReturnType<typeof pairs> => pairs(worker, CALLERS, seconds, { prefix: 'job-' })
  let openings = 0
  return {
    async measure(seconds) {
      const before = await work(seconds / 2)
      await team.open(others, { space, listening: others })
      await team.keep(`standing-${openings++}`, STANDING_MS)
      await pause(SETTLING_MS)
      const idle = (): Promise<Metered<void>> => metered(team, () => pause((seconds / 2) * 1000))
      const idleBefore = await idle()
      const busy = await metered(team, () => work(seconds))
      const idleAfter = await idle()
      await team.close()
      const after = await work(seconds / 2)
      const alone = (rateOf(before) + rateOf(after)) / 2
      const rate = rateOf(busy.result)
      const done = rate * busy.seconds
      const perPair = (name: 'cpuMicros' | 'messages'): number => {
        const atRest = (idleBefore.took[name] + idleAfter.took[name]) / (idleBefore.seconds + idleAfter.seconds)
        return (busy.took[name] - atRest * busy.seconds) / done
      }
      return {
        'beside ÷ alone': rate / alone,
        'pairs/s beside them': rate,
        'pairs/s alone': alone,
        'CPU, beside ÷ alone': cpuOf(busy.result) / ((cpuOf(before) + cpuOf(after)) / 2),
        'their CPU µs/pair': perPair('cpuMicros'),
        'messages/pair to them': perPair('messages'),
      }
    },
    async close() {
      await team.end()
      await worker.close()
    },
  }
}

/** Few, then many, then few again: in as many processes of the system, so that both have the same cores. */
async function allAtWork(adapter: Adapter, ground: Ground): ReturnType<typeof w9Fleet.start> {
  const team = await ClientTeam.start(adapter, ground, FEW)
  const work = async (clients: number, seconds: number): Promise<{ rate: number; messages: number }> => {
    await team.open(clients, { listening: clients })
    await team.work(CALLERS, seconds / 4) // connections that listen are opened after the first claims
    const { result: rate, took } = await metered(team, () => team.work(CALLERS, seconds))
    await team.close()
    return { rate, messages: took.messages / (rate * seconds) }
  }
  return {
    async measure(seconds) {
      const before = await work(FEW, seconds / 2)
      const { rate, messages } = await work(MANY, seconds)
      const after = await work(FEW, seconds / 2)
      const few = (before.rate + after.rate) / 2
      return {
        [`${MANY} ÷ ${FEW}`]: rate / few,
        [`pairs/s by ${MANY}`]: rate,
        [`pairs/s by ${FEW}`]: few,
        'messages/pair': messages,
      }
    },
    close: () => team.end(),
  }
}

interface Metered<Result> {
  readonly result: Result
  readonly seconds: number
  /** By the clients of the team during the same time. */
  readonly took: TeamReport
}

async function metered<Result>(team: ClientTeam, work: () => Promise<Result>): Promise<Metered<Result>> {
  const before = await team.report()
  const startMs = performance.now()
  const result = await work()
  const seconds = (performance.now() - startMs) / 1000
  const after = await team.report()
  const between = (name: keyof TeamReport): number => after[name] - before[name]
  const took = {
    cpuMicros: between('cpuMicros'),
    commands: between('commands'),
    messages: between('messages'),
    bytes: between('bytes'),
  }
  return { result, seconds, took }
}

/** Of this process, for a pair. */
function cpuOf(sample: Awaited<ReturnType<typeof pairs>>): number {
  return sample['CPU µs/pair'] ?? Number.NaN
}

function rateOf(sample: Awaited<ReturnType<typeof pairs>>): number {
  return sample['pairs/s'] ?? Number.NaN
}
