/** Clocks that are set, stand still or sleep: two holders never rely on one lease at once, and a waiter waits little longer than it must. */
import { expect } from 'chai'
import { ErrNotHeld } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { TestClock, track } from '#src/testing/index.ts'
import { rejection } from './manager.bench.ts'

const DURATION_MS = 60_000

for (const serverClock of [true, false]) {
  for (const boot of [true, false]) {
    const store = `a store ${serverClock ? 'with' : 'without'} a clock`
    describe(`clocks of a process, on ${store}, ${boot ? 'with' : 'without'} the time since boot`, () => {
      let world: TestClock
      let laptop: TestClock
      let mine: Manager
      let theirs: Manager

      beforeEach(() => {
        world = new TestClock()
        laptop = new TestClock({ boot, wallMs: 0 })
        const leases = new MemoryStore({ clock: world, serverClock })
        const manage = (clock: TestClock): Manager => {
          const client = new SubstrateClient({ substrate: new MemorySubstrate({ store: leases }), clock })
          return new Manager({ client, clock })
        }
        mine = manage(laptop)
        theirs = manage(world)
      })
      afterEach(async () => {
        await Promise.all([mine.stop(), theirs.stop()])
      })

      /** Time passes for everybody. */
      async function pass(ms: number): Promise<void> {
        for (let left = ms; left > 0; left -= 500) {
          await Promise.all([world.advance(Math.min(left, 500)), laptop.advance(Math.min(left, 500))])
        }
      }

      /** The laptop sleeps while time passes for all others. */
      async function sleeps(ms: number): Promise<void> {
        await world.advance(ms)
        await laptop.suspend(ms)
      }

      it('a holder whose wall clock is set back and whose machine then sleeps does not believe in a lease that another has', async () => {
        const hold = await mine.hold('db', 'a', { duration: DURATION_MS })
        const next = track(theirs.hold('db', 'b', { duration: DURATION_MS, wait: true }))
        await pass(5_000)
        await laptop.jumpWall(-70_000)
        await pass(3_000)
        await sleeps(70_000)
        expect(hold.held).to.equal(false)
        await rejection(hold.token.check(), ErrNotHeld)
        await pass(DURATION_MS)
        expect(next.state).to.equal('fulfilled')
      })

      it('a holder whose machine sleeps does not believe in its lease afterwards', async () => {
        const hold = await mine.hold('db', 'a', { duration: DURATION_MS })
        await sleeps(70_000)
        expect(hold.held).to.equal(false)
      })

      it('a holder whose wall clock stands still believes no longer than its lease lasts', async () => {
        laptop.freezeWall()
        await mine.claim('db', 'a', DURATION_MS)
        const token = mine.token('db', 'a')
        await token.check()
        await pass(DURATION_MS + 1_000)
        await theirs.claim('db', 'b', DURATION_MS).catch(() => {}) // without a clock it has not watched for long enough
        await pass(serverClock ? 0 : DURATION_MS + 1_000)
        if (!serverClock) await theirs.claim('db', 'b', DURATION_MS)
        await rejection(token.check(), ErrNotHeld)
      })

      it('a wall clock that is set forward costs a holder its lease at most, and the next hold works', async () => {
        const hold = await mine.hold('db', 'a', { duration: DURATION_MS })
        await pass(1_000)
        await laptop.jumpWall(3_600_000)
        expect(hold.held).to.equal(false)
        const again = await mine.hold('db', 'a', { duration: DURATION_MS })
        await pass(3 * DURATION_MS)
        expect(again.held).to.equal(true)
      })

      it('a wall clock that is set back by an hour delays a takeover by a duration at most, not by the hour', async () => {
        await theirs.claim('db', 'b', 10_000)
        const waiting = track(mine.hold('db', 'a', { duration: DURATION_MS, wait: true }))
        await pass(2_000)
        await laptop.jumpWall(-3_600_000)
        await pass(boot ? 12_000 : 25_000) // without it, what was watched since the last reading is lost
        expect(waiting.state).to.equal('fulfilled')
      })

      it('what a holder learns about its trust in the first instant after a pause is true, asked just before or not', async () => {
        const hold = await mine.hold('db', 'a', { duration: DURATION_MS })
        const other = await mine.hold('queue', 'a', { duration: DURATION_MS })
        expect(hold.remaining().toMillis()).to.be.greaterThan(0)
        expect(other.trustedUntil.toMillis()).to.be.greaterThan(laptop.now())
        const pause = laptop.pause(DURATION_MS + 1_000) // the clocks have moved, and nothing has run yet
        expect(hold.remaining().toMillis()).to.equal(0)
        expect(hold.trustedUntil.toMillis()).to.equal(Math.floor(laptop.now()))
        expect(other.trustedUntil.toMillis()).to.equal(Math.floor(laptop.now()))
        expect(hold.held).to.equal(false)
        await Promise.all([pause, world.advance(DURATION_MS + 1_000)])
      })

      for (const wait of [false, true]) {
        it(`a Hold whose time ran out in a pause refuses no later hold of the same holder, ${wait ? 'with' : 'without'} wait`, async () => {
          const old = await mine.hold('db', 'a', { duration: DURATION_MS })
          await world.advance(DURATION_MS + 1_000)
          const pause = laptop.pause(DURATION_MS + 1_000)
          const next = track(mine.hold('db', 'a', { duration: DURATION_MS, wait }))
          await pause
          await pass(1_000)
          expect([old.held, next.value?.held, next.state]).to.deep.equal([false, true, 'fulfilled'])
        })
      }

      it('an observer whose machine sleeps takes no lease of a holder that goes on renewing it', async () => {
        const hold = await theirs.hold('db', 'b', { duration: 10_000 })
        const waiting = track(mine.hold('db', 'a', { duration: DURATION_MS, wait: true }))
        await pass(2_000)
        await sleeps(100_000)
        await pass(15_000)
        expect(hold.held).to.equal(true)
        expect(waiting.state).to.equal('pending')
        await hold.release()
        await pass(1_000)
        expect(waiting.state).to.equal('fulfilled')
      })
    })
  }
}
