import { setTimeout as pause } from 'node:timers/promises'
import type { Manager } from 'lease-core'
import { Authority, election, FailOpenLock, ReadWriteLock, Semaphores } from 'lease-recipes'
import { ableTo, ownSeat, type Adapter, type Contestant, type Ground, type Sample, type Workload } from '../bench.ts'

/** Those who wait, each in a client of its own. */
const WAITERS = 8

/** Measured is ten times as long as anything else: what comes every few seconds is to be seen as well. */
const LONGER = 10

/** Until all who wait do nothing else any more. */
const SETTLING_MS = 500

/** Nobody renews during that time: what is counted is what waiting takes. */
const duration = { hours: 2 }

interface Asker {
  readonly manager: Manager
  /** Among those who ask; the first one gets it. */
  readonly index: number
  /** Aborted at the end. */
  readonly signal: AbortSignal
}

/** Asks for the one thing; resolves once it is there. */
type Recipe = (asker: Asker) => Promise<unknown>

const recipes: Readonly<Record<string, Recipe>> = {
  'manager.hold': ({ manager, index, signal }) =>
    manager.hold('idle', `asker-${index}`, { duration, wait: true, signal }),
  Authority({ manager, signal }) {
    const authority = new Authority({ manager, lease: 'idle', ttl: duration })
    return authority.ready({ wait: true, signal })
  },
  Election({ manager, index }) {
    const node = election({ manager })('idle', { value: `asker-${index}`, ttl: duration })
    const selected = new Promise<void>((resolve) => node.on('select', () => resolve()))
    return node.start().then(() => selected)
  },
  FailOpenLock({ manager, signal }) {
    const locks = new FailOpenLock({ manager, leaseDuration: duration, heartbeatPeriod: { minutes: 40 } })
    return locks.acquireLock('idle', { wait: true, signal })
  },
  async Semaphore({ manager, index, signal }) {
    const semaphores = new Semaphores({ manager })
    await semaphores.create('idle', 1)
    return semaphores.post('idle', `asker-${index}`, duration, { signal })
  },
  ReadWriteLock({ manager, index, signal }) {
    const lock = new ReadWriteLock({ manager, name: 'idle', duration })
    const asked = { wait: true, signal }
    return index % 2 === 0 ? lock.wlock(`asker-${index}`, asked) : lock.rlock(`asker-${index}`, asked)
  },
}

/** Those who wait by a recipe for what another has, while nothing happens: no recipe asks again and again. */
export const idleWaiters: Workload<{ readonly recipe: string }> = {
  name: 'idle',
  about: 'commands of those who wait by each recipe while nothing happens',
  repetitions: 1,
  warmsUp: false,
  tables({ adapters }) {
    const ours = adapters.find(({ role, can }) => role === 'library' && can.includes('manager'))
    if (ours === undefined) return []
    const { name, role } = ours
    return [
      {
        title: `${WAITERS} waiting in as many clients while nothing happens; who holds it counts too`,
        metrics: [{ name: 'commands/s for each who waits', better: 'less' }],
        references: [],
        arms: Object.keys(recipes).map((recipe) => ({
          label: recipe,
          role,
          about: '',
          adapter: name,
          task: { recipe },
        })),
      },
    ]
  },
  takes: (seconds) => seconds * LONGER + 2,
  async start(adapter, ground, { recipe }) {
    const ask = recipes[recipe]
    if (ask === undefined) throw new Error(`there is no recipe "${recipe}"`)
    return { measure: (seconds) => waitIdly(adapter, ground, ask, seconds * LONGER), close: async () => {} }
  },
}

async function waitIdly(adapter: Adapter, ground: Ground, ask: Recipe, seconds: number): Promise<Sample> {
  const seat = { ...ownSeat(), count: WAITERS + 1 }
  const first = await adapter.open(ground, seat)
  const everyone: Contestant[] = [first]
  const end = new AbortController()
  const { signal } = end
  try {
    await ask({ manager: ableTo(adapter, first, 'manager'), index: 0, signal })
    let served = 0
    let failure: Error | undefined
    for (let index = 1; index <= WAITERS; index++) {
      const asker = await adapter.open(ground, { ...seat, index })
      everyone.push(asker)
      ask({ manager: ableTo(adapter, asker, 'manager'), index, signal }).then(
        () => served++,
        (cause: unknown) => (failure ??= new Error('somebody cannot wait', { cause })),
      )
    }
    await pause(SETTLING_MS)
    const before = await ground.commands()
    await pause(seconds * 1000)
    const commands = (await ground.commands()) - before
    if (failure !== undefined) throw failure
    if (served > 0) throw new Error(`${served} did not wait`)
    return { 'commands/s for each who waits': commands / seconds / WAITERS }
  } finally {
    end.abort()
    await Promise.all(everyone.map((contestant) => contestant.close()))
  }
}
