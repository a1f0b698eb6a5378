/** Which calls wait for others when nobody says so: as docs/recipes/README.md has it. */
import { expect } from 'chai'
import { ErrClaimDenied, Manager, memoryClient, MemoryStore, uniqueHolder } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import {
  Authority,
  FailClosedLock,
  FailOpenLock,
  holdAll,
  Once,
  ReadWriteLock,
  Semaphores,
  Throttle,
  webLocks,
  withLease,
} from 'lease-recipes'

const duration = 60_000

interface Process {
  readonly manager: Manager
  readonly clock: TestClock
}

const forever = (): Promise<never> => new Promise(() => {})
const failOpen = ({ manager, clock }: Process): FailOpenLock =>
  new FailOpenLock({ manager, clock, leaseDuration: duration })
const failClosed = ({ manager, clock }: Process): FailClosedLock => new FailClosedLock({ manager, clock })
const readWrite = ({ manager, clock }: Process): ReadWriteLock => new ReadWriteLock({ manager, clock, name: 'l' })

/** Each is called in two processes: the second one meets what the first one has. */
const waiting: Readonly<Record<string, (process: Process) => Promise<unknown>>> = {
  'acquire of a fail-open lock': (process) => failOpen(process).acquire('l'),
  'acquire of a fail-closed lock': (process) => failClosed(process).acquire('l'),
  'post of a semaphore': ({ manager, clock }) =>
    new Semaphores({ manager, clock }).post('l', uniqueHolder(), duration, { n: 1 }),
  wlock: (process) => readWrite(process).wlock(uniqueHolder()),
  'start of a throttle': ({ manager, clock }) =>
    new Throttle({ manager, clock, name: 'l', n: 1, period: duration }).start(),
  'request of a web lock': ({ manager }) => webLocks(manager, { duration }).request('l', forever),
}
const trying: typeof waiting = {
  'acquireLock of a fail-open lock': (process) => failOpen(process).acquireLock('l'),
  'acquireLock of a fail-closed lock': (process) => failClosed(process).acquireLock('l'),
  holdAll: ({ manager, clock }) => holdAll(manager, ['l'], uniqueHolder(), { duration, clock }),
  withLease: ({ manager }) => withLease(manager, 'l', { duration }, forever),
  'run of Once': ({ manager, clock }) => new Once({ manager, clock }).run('l', forever),
  'hold of the manager': ({ manager }) => manager.hold('l', uniqueHolder(), { duration }),
  'holdAny of the manager': ({ manager }) => manager.holdAny(['l'], uniqueHolder(), { duration }),
}

describe('wait, when nobody says so', () => {
  let clock: TestClock
  let managers: Manager[]

  beforeEach(() => {
    clock = new TestClock()
    const store = new MemoryStore({ clock })
    managers = [1, 2].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  /** The outcome of the second of two such calls. */
  async function second(call: (process: Process) => Promise<unknown>): Promise<ReturnType<typeof track>> {
    const [, later] = await Promise.all(
      managers.map(async (manager, index) => {
        if (index > 0) await clock.settle()
        return track(call({ manager, clock }))
      }),
    )
    await clock.advance(1000)
    return later ?? expect.fail()
  }

  for (const [name, call] of Object.entries(waiting)) {
    it(`${name} waits`, async () => {
      expect((await second(call)).state).to.equal('pending')
    })
  }

  for (const [name, call] of Object.entries(trying)) {
    it(`${name} does not wait`, async () => {
      expect((await second(call)).error).to.be.instanceOf(ErrClaimDenied)
    })
  }

  it('ready of an authority does not wait', async () => {
    const outcome = await second(({ manager }) => new Authority({ manager, clock, lease: 'l', ttl: duration }).ready())
    expect([outcome.state, outcome.value]).to.deep.equal(['fulfilled', false])
  })
})
