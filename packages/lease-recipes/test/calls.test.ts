/** Calls that are given up in the very moment in which they are granted something. */
import { expect } from 'chai'
import { Manager, MemoryStore, MemorySubstrate, type Held } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock } from 'lease-core/testing'
import { ReadWriteLock, Semaphores } from 'lease-recipes'

interface World {
  readonly clock: TestClock
  readonly manager: Manager
}

const recipes: Readonly<Record<string, (world: World) => (signal?: AbortSignal) => Promise<Held>>> = {
  'a post with keepAlive': (world) => {
    const semaphores = new Semaphores(world)
    return (signal) => semaphores.post('s', 'h', 30_000, { n: 2, keepAlive: true, signal })
  },
  'a post': (world) => {
    const semaphores = new Semaphores(world)
    return (signal) => semaphores.post('s', 'h', 30_000, { n: 2, signal })
  },
  rlock: (world) => {
    const locks = new ReadWriteLock({ ...world, name: 'l' })
    return (signal) => locks.rlock('h', { signal })
  },
  wlock: (world) => {
    const locks = new ReadWriteLock({ ...world, name: 'l' })
    return (signal) => locks.wlock('h', { signal })
  },
}

for (const [name, recipe] of Object.entries(recipes)) {
  describe(`calls that are given up: ${name}`, () => {
    let world: World
    let onGranted: () => void

    beforeEach(() => {
      const clock = new TestClock()
      const substrate = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ clock }) }), { clock })
      const manager = new Manager({ client: new SubstrateClient({ substrate, clock }), clock })
      const hold = manager.hold.bind(manager)
      manager.hold = async (...request) => {
        const held = await hold(...request)
        onGranted()
        return held
      }
      onGranted = () => {}
      world = { clock, manager }
    })
    afterEach(() => world.manager.stop())

    /** Makes the call, and gives it up within so many turns of its grant. Resolves with what it was given. */
    async function givenUp(call: (signal: AbortSignal) => Promise<Held>, turns: number): Promise<Held | undefined> {
      const controller = new AbortController()
      onGranted = () => {
        void (async () => {
          for (let turn = 0; turn < turns; turn++) await Promise.resolve()
          controller.abort()
        })()
      }
      const held = await call(controller.signal).catch(() => undefined)
      onGranted = () => {}
      await world.clock.settle()
      return held
    }

    it('what was granted is given back, or given to the caller', async () => {
      for (let turns = 0; turns < 20; turns++) {
        const held = await givenUp(recipe(world), turns)
        expect((await world.manager.leases()).size, `leases, given up after ${turns} turns`).to.equal(
          held?.held ? 1 : 0,
        )
        await held?.release()
      }
    })

    it('what an earlier call has stays held', async () => {
      const call = recipe(world)
      const before = await call()
      for (let turns = 0; turns < 20; turns++) {
        await givenUp(call, turns)
        expect(before.held, `held, after another call was given up after ${turns} turns`).to.equal(true)
      }
      await before.release()
      expect((await world.manager.leases()).size).to.equal(0)
    })
  })
}
