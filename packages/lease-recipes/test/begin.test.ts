import { expect } from 'chai'
import { Manager, memoryClient, MemoryStore, uniqueHolder, type Held } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { Authority, election, lead, Once, OncePer, using, webLocks, withLease } from 'lease-recipes'

const DURATION_MS = 30_000

interface Machine {
  readonly manager: Manager
  readonly clock: TestClock
}

/** Calls back with the signal of what begins, and stays in it. Returns what ends it. */
type Begin = (machine: Machine, begun: (signal: AbortSignal) => void) => () => Promise<unknown>

/** Work that lasts until its signal aborts. */
function working(begun: (signal: AbortSignal) => void): (scope: { readonly signal: AbortSignal }) => Promise<void> {
  return ({ signal }) => {
    begun(signal)
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
  }
}

const recipes: Readonly<Record<string, Begin>> = {
  'the acquisition of an authority': ({ manager, clock }, begun) => {
    const one = new Authority({ manager, clock, lease: 'l', ttl: DURATION_MS })
    one.on('acquired', ({ signal }: Held) => begun(signal))
    one.ready({ wait: true }).catch(() => {})
    return () => one.stop()
  },
  'the selection of a node': ({ manager, clock }, begun) => {
    const one = election({ manager, clock })('l', { value: 'v', ttl: DURATION_MS })
    one.on('select', (_value, _id, { signal }) => begun(signal))
    one.start().catch(() => {})
    return () => one.stop()
  },
  'the work of a leader': ({ manager, clock }, begun) => {
    const one = lead(manager, 'l', working(begun), { duration: DURATION_MS, clock })
    return () => one.stop()
  },
  'the callback of a web lock': ({ manager }, begun) => {
    const work = (lock: { readonly signal: AbortSignal } | null): Promise<void> => {
      if (lock === null) throw new Error('it has waited')
      return working(begun)(lock)
    }
    webLocks(manager, { duration: DURATION_MS })
      .request('l', work)
      .catch(() => {})
    return async () => {}
  },
  'the work of withLease': ({ manager }, begun) => {
    withLease(manager, 'l', { duration: DURATION_MS, wait: true }, working(begun)).catch(() => {})
    return async () => {}
  },
  'the work of using': ({ manager }, begun) => {
    const hold = manager.hold('l', uniqueHolder(), { duration: DURATION_MS, wait: true })
    hold.then((held) => using(held, working(begun))).catch(() => {})
    return async () => {}
  },
  'the work of a key': ({ manager, clock }, begun) => {
    new Once({ manager, clock, duration: DURATION_MS }).run('l', working(begun), { wait: true }).catch(() => {})
    return async () => {}
  },
  'the work of a slot': ({ manager }, begun) => {
    new OncePer({ manager, atMost: DURATION_MS, retry: true }).run('l', '2026', working(begun)).catch(() => {})
    return async () => {}
  },
}

describe('A process that stands still between a grant and what begins with it', () => {
  for (const [what, begin] of Object.entries(recipes)) {
    it(`${what} does not begin beside that of another process`, async () => {
      const world = new TestClock()
      const own = new TestClock()
      const store = new MemoryStore({ clock: world })
      const machine = (clock: TestClock): Machine => ({
        clock,
        manager: new Manager({ client: memoryClient({ store, clock }), clock }),
      })
      const slow = machine(own)
      let granted = false
      let wakeUp = (): void => {}
      const asleep = new Promise<void>((resolve) => (wakeUp = resolve))
      const hold = slow.manager.hold.bind(slow.manager)
      slow.manager.hold = async (...request) => {
        const held = await hold(...request)
        granted = true
        await asleep
        return held
      }
      const begun: string[] = []
      const ends = [begin(slow, (signal) => begun.push(`slow, ${signal.aborted ? 'over already' : 'live'}`))]
      await world.settle()
      expect(granted).to.equal(true)
      await world.advance(DURATION_MS + 1) // the others go on
      const other = machine(world)
      ends.push(begin(other, (signal) => begun.push(`other, ${signal.aborted ? 'over already' : 'live'}`)))
      await world.settle()
      expect(begun).to.deep.equal(['other, live'])
      const pause = own.pause(DURATION_MS + 1)
      wakeUp()
      await pause
      await world.settle()
      expect(begun).to.deep.equal(['other, live'])
      await Promise.all([slow.manager.stop(), other.manager.stop()])
      await Promise.all(ends.map((end) => end()))
    })
  }
})
