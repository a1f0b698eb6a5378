import { expect } from 'chai'
import { ErrClaimDenied, ErrStopped, ErrUnknown, sleep } from 'lease-core'
import { track } from 'lease-core/testing'
import { enough } from 'lease-servers'
import { ReadWriteLock, type Lock } from '#src/read-write-lock.ts'
import { Bench, type Process } from './bench.ts'
import { stores } from './stores.ts'

const GRANTS = enough(60)

for (const store of stores('redis')) {
  describe(`Read-write lock, a crowd, on ${store.name}`, () => {
    let bench: Bench

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => (bench = new Bench(store)))
    afterEach(() => bench.close())

    interface Member {
      process: Process
      lock: ReadWriteLock
    }

    function member(): Member {
      const process = bench.process()
      const { manager } = process
      const duration = 2 * store.unitMs
      return {
        process,
        lock: new ReadWriteLock({ manager, name: 'orders', maxReaders: 4, duration, clock: store.clock }),
      }
    }

    it(`DLM-4: readers or one writer, in ${GRANTS} grants to processes that forget, stall and crash`, async function () {
      this.timeout(400_000) // it is as long as it needs to be
      const wrong: string[] = []
      const locks = new Set<Lock>()
      const grants = { read: 0, write: 0 }
      let together = 0
      let writersToken = 0n
      const isDone = (): boolean => grants.read + grants.write >= GRANTS && grants.write >= GRANTS / 10 && together > 1

      function enter(lock: Lock): void {
        if (!lock.held) return
        grants[lock.mode]++
        locks.add(lock)
        for (const one of locks) if (!one.held) locks.delete(one)
        const modes = Array.from(locks, ({ mode }) => mode)
        together = Math.max(together, modes.length)
        if (modes.includes('write') && modes.length > 1) wrong.push(modes.join(' with '))
        if (lock.mode === 'read') return
        if (lock.fencingToken <= writersToken) wrong.push(`${lock.fencingToken} after ${writersToken}`)
        writersToken = lock.fencingToken
      }

      async function work(one: Member, name: string): Promise<void> {
        for (let round = 0; !isDone(); round++) {
          const holder = `${name}-${round}`
          try {
            const timeout = store.unitMs
            const lock = await (Math.random() < 0.75
              ? one.lock.rlock(holder, { timeout })
              : one.lock.wlock(holder, { timeout }))
            enter(lock)
            await sleep(store.clock, Math.random() * store.unitMs * 0.1)
            const fate = Math.random()
            if (fate < 0.05) continue // it ends when its time is over
            if (fate > 0.2) await lock.unlock()
            else if (lock.mode === 'read') one.lock.runlockAsync(holder)
            else one.lock.wunlockAsync(holder)
          } catch (error) {
            if (!(error instanceof ErrUnknown || error instanceof ErrStopped || error instanceof ErrClaimDenied))
              throw error
          }
        }
      }

      async function trouble(members: readonly Member[]): Promise<void> {
        while (!isDone()) {
          const one = members[Math.floor(Math.random() * members.length)] as Member
          if (Math.random() < 0.6) {
            one.process.pause()
            await sleep(store.clock, Math.random() * 3 * store.unitMs)
            one.process.resume()
          } else {
            await one.process.manager.stop()
            Object.assign(one, member())
          }
          await sleep(store.clock, 4 * store.unitMs)
        }
      }

      const members = [member(), member(), member(), member()]
      const crowd = Promise.all([
        ...members.flatMap((one, index) => [0, 1].map((twin) => work(one, `m${index}${twin}`))),
        trouble(members),
      ])
      const tracked = track(crowd)
      while (tracked.state === 'pending') await store.pass(store.unitMs / 20)
      await crowd
      expect(wrong).to.deep.equal([])
      expect(isDone()).to.equal(true)
    })
  })
}
