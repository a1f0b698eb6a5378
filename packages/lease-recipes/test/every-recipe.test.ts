import { expect } from 'chai'
import {
  ErrLost,
  ErrNotValid,
  Manager,
  MemoryGuard,
  MemoryStore,
  MemorySubstrate,
  uniqueHolder,
  type Held,
} from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import {
  Authority,
  election,
  FailClosedLock,
  FailOpenLock,
  FencingGate,
  holdAll,
  lead,
  MemoryFencingStore,
  ReadWriteLock,
  Semaphores,
  using,
} from 'lease-recipes'
import { enough } from 'lease-servers'
import { rejection, unhandledDuring } from './bench.ts'

/** What every recipe of one lease looks like to these tests. */
interface Standing {
  /** What is held now, if anything. */
  held(): Held | undefined
  /** Ends it in an orderly way. */
  stop(): Promise<unknown>
  /** The listener is called when it is held. */
  onHeld?(listener: () => unknown): void
}

interface World {
  readonly clock: TestClock
  readonly store: MemoryStore
  readonly network: FaultySubstrate
  readonly manager: Manager
}

interface Options {
  readonly signal?: AbortSignal
  readonly holder?: string
}

/** Stands for what this name stands for in the recipe, without waiting for anything. */
type Stand = (world: World, name: string, options?: Options) => Standing

interface Recipe {
  readonly stand: Stand
  /** Takes what excludes everybody who stands for "l". */
  readonly block: (world: World) => Promise<Held>
  /** What is held comes from one call, which rejects; it has no events of its own. */
  readonly isCall?: boolean
  /** How many hold it at once. */
  readonly most: number
  /** Whether who holds it excludes all others. */
  readonly isExclusive: boolean
}

const DURATION_MS = 30_000

const recipes: Readonly<Record<string, Recipe>> = {
  authority: standing(({ manager, clock }, lease, { signal, holder } = {}) => {
    const one = new Authority({ manager, clock, lease, holder, ttl: DURATION_MS })
    one.ready({ wait: true, signal }).catch(() => {})
    return { held: () => one.term, stop: () => one.stop(), onHeld: (listener) => one.on('acquired', listener) }
  }),
  election: standing(({ manager, clock }, path, { signal, holder } = {}) => {
    const one = election({ manager, clock })({ path, id: holder, value: 'v', ttl: DURATION_MS })
    one.start({ signal }).catch(() => {})
    return { held: () => one.term, stop: () => one.stop(), onHeld: (listener) => one.on('select', listener) }
  }),
  lead: standing(({ manager, clock }, name, { signal, holder } = {}) => {
    const work = ({ signal }: Held): Promise<void> =>
      new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
    const one = lead(manager, name, work, { clock, duration: DURATION_MS, signal, holder })
    return { held: () => one.term, stop: () => one.stop(), onHeld: (listener) => one.on('elected', listener) }
  }),
  'fail-open lock': fencedLock(
    ({ manager, clock }) => new FailOpenLock({ manager, clock, leaseDuration: DURATION_MS }),
  ),
  'fail-open lock with heartbeats': fencedLock(({ manager, clock }) => {
    return new FailOpenLock({ manager, clock, leaseDuration: DURATION_MS, heartbeatPeriod: 10_000 })
  }),
  'fail-closed lock': fencedLock(
    ({ manager, clock }) => new FailClosedLock({ manager, clock, leaseDuration: DURATION_MS }),
  ),
  'all permits of a semaphore': permits(3),
  'most permits of a semaphore': permits(2),
  'lock for writing': readWriteLock('wlock'),
  'lock for reading': readWriteLock('rlock'),
  'leases held together': together(),
}

/** It stands for a lease until it is stopped. */
function standing(stand: Stand): Recipe {
  const block = async ({ manager }: World): Promise<Held> => manager.hold('l', 'before', { duration: DURATION_MS })
  return { stand, block, most: 1, isExclusive: true }
}

function fencedLock(locksOf: (world: World) => FailOpenLock | FailClosedLock): Recipe {
  const stand: Stand = (world, id, { signal } = {}) => {
    const locks = locksOf(world)
    return callOf(locks.acquire(id, { wait: true, signal }), () => locks.stop())
  }
  return { stand, block: (world) => locksOf(world).acquire('l'), isCall: true, most: 1, isExclusive: true }
}

/** So many of three: no two have them at once. */
function permits(count: number): Recipe {
  const n = 3
  const stand: Stand = ({ manager, clock }, id, { signal, holder = uniqueHolder() } = {}) => {
    const semaphores = new Semaphores({ manager, clock })
    const posted = semaphores.post(id, holder, DURATION_MS, { permits: count, n, signal })
    return callOf(posted, () => semaphores.stop())
  }
  const block = async ({ manager, clock }: World): Promise<Held> =>
    new Semaphores({ manager, clock }).post('l', 'before', DURATION_MS, { permits: n, n })
  return { stand, block, isCall: true, most: 1, isExclusive: count === n }
}

function readWriteLock(way: 'rlock' | 'wlock'): Recipe {
  const stand: Stand = ({ manager, clock }, name, { signal, holder = uniqueHolder() } = {}) => {
    const lock = new ReadWriteLock({ manager, clock, name, duration: DURATION_MS })
    return callOf(lock[way](holder, { signal }), () => lock.stop())
  }
  const block = async ({ manager, clock }: World): Promise<Held> =>
    new ReadWriteLock({ manager, clock, name: 'l', duration: DURATION_MS }).wlock('before')
  const isExclusive = way === 'wlock'
  return { stand, block, isCall: true, most: isExclusive ? 1 : Number.POSITIVE_INFINITY, isExclusive }
}

function together(): Recipe {
  const stand: Stand = ({ manager, clock }, name, { signal, holder = uniqueHolder() } = {}) => {
    const end = new AbortController()
    const either = signal === undefined ? end.signal : AbortSignal.any([signal, end.signal])
    const options = { duration: DURATION_MS, wait: true, clock, signal: either }
    return callOf(holdAll(manager, ['k', name], holder, options), async () => end.abort())
  }
  return { ...standing(stand), isCall: true }
}

/** @param stopAll ends what made the call */
function callOf(call: Promise<Held>, stopAll: () => Promise<unknown>): Standing {
  let held: Held | undefined
  const settled = call.then(
    (one) => void (held = one),
    () => {},
  )
  const stop = async (): Promise<void> => {
    await stopAll()
    await settled
    await held?.release()
  }
  return { held: () => (held?.held === true ? held : undefined), stop }
}

for (const [name, { stand, block, isCall = false, most, isExclusive }] of Object.entries(recipes)) {
  describe(`every recipe: ${name}`, () => {
    let world: World

    beforeEach(() => {
      world = worldOf(new TestClock())
    })
    afterEach(() => world.manager.stop())

    /** Another process at the same store. */
    function other(): World {
      return worldOf(world.clock, world.store)
    }

    it('what is held is a Held: `using`, the gate and the guard of a check take it', async () => {
      const one = stand(world, 'l')
      await world.clock.settle()
      const held = one.held() as Held
      held.assertHeld()
      expect([held.held, held.signal.aborted]).to.deep.equal([true, false])
      expect(held.remaining().toMillis()).to.be.greaterThan(0)
      const admitted = new FencingGate({ store: new MemoryFencingStore() }).admit('r', held)
      await (isExclusive ? admitted : rejection(admitted, ErrNotValid))
      let written = false
      await held.token.check(new MemoryGuard(() => void (written = true)))
      expect(written).to.equal(true)
      const result = await using(held, ({ fencingToken }) => fencingToken)
      expect(result).to.equal(held.fencingToken)
      expect([held.held, held.signal.aborted, held.remaining().toMillis()]).to.deep.equal([false, true, 0])
      expect(() => held.assertHeld())
        .to.throw(ErrLost)
        .with.property('reason', 'released')
      await held[Symbol.asyncDispose]()
      expect(await leasesOf(other())).to.deep.equal([])
      await one.stop()
    })

    it('what is held is given back at the end of an `await using` block', async () => {
      const one = stand(world, 'l')
      await world.clock.settle()
      const held = one.held() as Held
      {
        await using inBlock = held
        expect(inBlock.held).to.equal(true)
      }
      expect(held.held).to.equal(false)
      expect(await leasesOf(other())).to.deep.equal([])
      await one.stop()
    })

    it('stopped within any microtask of its claim it keeps nothing', async () => {
      for (let turns = 0; turns < 60; turns++) {
        const one = stand(world, 'l')
        for (let turn = 0; turn < turns; turn++) await Promise.resolve()
        await one.stop()
        expect(one.held(), `after ${turns} turns`).to.equal(undefined)
        await world.clock.settle()
        expect(await leasesOf(other()), `after ${turns} turns`).to.deep.equal([])
      }
      expect((await world.manager.pinned()).size).to.equal(0)
    })

    for (const isWaiting of [false, true]) {
      const grant = isWaiting ? 'the grant that it waited for' : 'its grant'
      it(`stopped within any microtask of ${grant} it has given it back when that resolves`, async () => {
        for (let turns = 0; turns < 12; turns++) {
          const before = isWaiting ? await block(other()) : undefined
          let stopped: Promise<unknown> | undefined
          const manager = whenGranted(world.manager, async () => {
            for (let turn = 0; turn < turns; turn++) await Promise.resolve()
            stopped = one.stop()
          })
          const one = stand({ ...world, manager }, 'l')
          await world.clock.settle()
          await before?.release()
          await world.clock.settle()
          expect(stopped, 'was granted').to.be.instanceOf(Promise)
          await stopped
          expect(one.held(), `after ${turns} turns`).to.equal(undefined)
          expect(await leasesOf(other()), `after ${turns} turns`).to.deep.equal([])
        }
        expect((await world.manager.pinned()).size).to.equal(0)
      })
    }

    if (isCall) {
      it('aborted within any microtask of its grant the call keeps nothing', async () => {
        for (let turns = 0; turns < 12; turns++) {
          const end = new AbortController()
          const manager = whenGranted(world.manager, async () => {
            for (let turn = 0; turn < turns; turn++) await Promise.resolve()
            end.abort()
          })
          const one = stand({ ...world, manager }, 'l', { signal: end.signal })
          await world.clock.settle()
          const isHeld = one.held() !== undefined
          expect((await leasesOf(other())).length > 0, `after ${turns} turns`).to.equal(isHeld)
          await one.stop()
        }
      })
    }

    it('many that wait in one process, with one signal, cause no warning, and leave nothing behind', async () => {
      const warnings = await warningsDuring(async () => {
        const end = new AbortController()
        const all = Array.from({ length: enough(200) }, () => stand(world, 'l', { signal: end.signal }))
        await world.clock.settle()
        expect(all.filter((one) => one.held() !== undefined)).to.have.length(Math.min(most, all.length))
        end.abort()
        await Promise.all(all.map((one) => one.stop()))
        await world.clock.settle()
      })
      expect(warnings).to.deep.equal([])
      expect(await leasesOf(other())).to.deep.equal([])
      await world.manager.stop()
      expect(world.clock.pending).to.equal(0)
    })

    it('any number of listeners may be added to the signal of what is held', async () => {
      const warnings = await warningsDuring(async () => {
        const one = stand(world, 'l')
        await world.clock.settle()
        for (let count = 0; count < 20; count++) one.held()?.signal.addEventListener('abort', () => {})
        await one.stop()
      })
      expect(warnings).to.deep.equal([])
    })

    if (!isCall) {
      it('a client that fails with anything is asked again, until it answers', async () => {
        for (const thrown of [undefined, null, new Error('of the driver'), Object.freeze(new TypeError('frozen'))]) {
          world.network.reject(thrown)
          const one = stand(world, 'l')
          await world.clock.advance(40_000)
          expect(one.held()).to.equal(undefined)
          world.network.heal()
          await world.clock.advance(3_000)
          expect(one.held()?.held).to.equal(true)
          const stopped = track(one.stop())
          await world.clock.advance(1_000)
          expect(stopped.state).to.equal('fulfilled')
        }
      })

      it('listeners that throw anything harm nobody', async () => {
        let warnings: unknown[] = []
        const unhandled = await unhandledDuring(async () => {
          warnings = await warningsDuring(async () => {
            const one = stand(world, 'l')
            const things = [undefined, null, 0, Symbol('s'), Object.freeze(new Error('frozen')), Object.create(null)]
            for (const thrown of things) {
              one.onHeld?.(() => {
                throw thrown
              })
              one.onHeld?.(() => Promise.reject(thrown))
            }
            await world.clock.settle()
            expect(one.held()?.held).to.equal(true)
            await one.stop()
            await new Promise((resolve) => setImmediate(resolve))
          })
        })
        expect(unhandled).to.deep.equal([])
        expect(warnings).to.have.length(12)
      })

      it('a lease that this process has already for the same holder ends nothing', async () => {
        const theirs = await world.manager.hold('l', 'a', { duration: DURATION_MS })
        const one = stand(world, 'l', { holder: 'a' })
        await world.clock.advance(5_000)
        await theirs.release()
        await world.clock.advance(5_000)
        expect(one.held()?.held).to.equal(true)
        await one.stop()
      })

      it('a revocation at any moment of the claim ends nothing', async () => {
        for (let delayMs = 0; delayMs < 60; delayMs += 3) {
          const here = other()
          here.network.delay(10)
          const one = stand(here, 'l')
          await world.clock.advance(delayMs)
          here.manager.revoke('l').catch(() => {})
          world.manager.revoke('l').catch(() => {})
          await world.clock.advance(5_000)
          expect(one.held()?.held, `after ${delayMs} ms`).to.equal(true)
          const stopped = track(one.stop())
          await world.clock.advance(1_000)
          expect(stopped.state).to.equal('fulfilled')
          await here.manager.stop()
        }
      })
    }

    it('a call that failed with an unknown outcome leaves nothing behind when it is stopped', async () => {
      world.network.loseReply({ kind: 'claim', times: 1 })
      world.network.loseReply({ kind: 'pin', times: 1 })
      const one = stand(world, 'l')
      await world.clock.advance(1_000)
      const stopped = track(one.stop())
      await world.clock.advance(1_000)
      expect(stopped.state).to.equal('fulfilled')
      await world.clock.advance(DURATION_MS * 2)
      expect(await leasesOf(other())).to.deep.equal([])
      expect((await world.manager.pinned()).size).to.equal(0)
    })
  })
}

function worldOf(clock: TestClock, store: MemoryStore = new MemoryStore({ clock })): World {
  const network = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
  const manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
  return { clock, store, network, manager }
}

/** Calls back when a hold has been granted, before its caller learns of it. */
function whenGranted(manager: Manager, granted: () => Promise<void>): Manager {
  const hold: Manager['hold'] = (...args) => {
    const holding = manager.hold(...args)
    holding.then(granted).catch(() => {})
    return holding
  }
  return new Proxy(manager, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name)
      if (name === 'hold') return hold
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

async function leasesOf({ manager }: World): Promise<string[]> {
  const leases = [...(await manager.leases()).keys()]
  await manager.stop()
  return leases
}

async function warningsDuring(work: () => Promise<void>): Promise<unknown[]> {
  const warnings: unknown[] = []
  const listener = (warning: unknown): void => void warnings.push(warning)
  process.on('warning', listener)
  try {
    await work()
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.off('warning', listener)
  }
  return warnings
}
