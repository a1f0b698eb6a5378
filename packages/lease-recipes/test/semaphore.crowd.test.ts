import { expect } from 'chai'
import { ErrClaimDenied, ErrStopped, ErrUnknown, sleep } from 'lease-core'
import { track } from 'lease-core/testing'
import { enough } from 'lease-servers'
import { Semaphores, type Permit } from '#src/semaphore.ts'
import { Bench, type Process } from './bench.ts'
import { stores } from './stores.ts'

for (const store of stores()) {
  const grants = store.exact ? enough(100) : enough(40)
  /** Fewer where administrators wait for permits to end. */
  const grantsWhileChanging = store.exact ? enough(50) : enough(20)

  describe(`Semaphore, a crowd, on ${store.name}`, () => {
    let bench: Bench
    let ended = false

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      ended = false
    })
    afterEach(() => {
      ended = true
      return bench.close()
    })

    /** Lets time pass until it is over. */
    async function over(work: Promise<unknown>): Promise<void> {
      const tracked = track(work)
      while (tracked.state === 'pending') await store.pass(store.unitMs / 20)
      await work
    }

    interface Member {
      process: Process
      semaphores: Semaphores
    }

    function member(): Member {
      const process = bench.process()
      return { process, semaphores: new Semaphores({ manager: process.manager, clock: store.clock }) }
    }

    /** Those who rely on a permit, and what has been seen. */
    class Register {
      limit: number
      readonly enough: number
      grants = 0
      most = 0
      readonly wrong: string[] = []
      readonly #permits = new Set<Permit>()
      /** The highest seen. */
      token = 0n

      constructor(limit: number, enough: number) {
        this.limit = limit
        this.enough = enough
      }

      get done(): boolean {
        return ended || this.grants >= this.enough
      }

      /**
       * Relied on from now on, until it is not `held` any more.
       *
       * @param before the highest token that was seen when it was asked for
       */
      enter(permit: Permit, before: bigint): void {
        if (!permit.held) return
        this.grants++
        this.#permits.add(permit)
        for (const one of this.#permits) if (!one.held) this.#permits.delete(one)
        this.most = Math.max(this.most, this.#permits.size)
        if (this.#permits.size > this.limit) this.wrong.push(`${this.#permits.size} of ${this.limit} at once`)
        if (permit.fencingToken <= before) this.wrong.push(`${permit.fencingToken} after ${before}`)
        if (permit.fencingToken > this.token) this.token = permit.fencingToken
      }

      /** Permits of what was destroyed do not count: their holders may not have heard of it. */
      destroyed(): void {
        this.#permits.clear()
      }
    }

    /** One who takes permits again and again, and forgets some. */
    async function work(one: Member, register: Register, name: string): Promise<void> {
      for (let round = 0; !register.done; round++) {
        const { semaphores } = one
        try {
          const timeout = store.unitMs * (0.5 + Math.random())
          const keepAlive = Math.random() < 0.3
          const { token } = register
          const permit = await semaphores.post('pool', `${name}-${round}`, timeout, { keepAlive })
          register.enter(permit, token)
          await sleep(store.clock, Math.random() * store.unitMs * 0.05)
          const fate = Math.random()
          if (fate < 0.05 && !keepAlive) continue // it ends when its time is over
          if (fate < 0.2) semaphores.closeAsync('pool', permit.holder)
          else await permit.close()
        } catch (error) {
          if (!(error instanceof ErrUnknown || error instanceof ErrStopped || error instanceof ErrClaimDenied))
            throw error
        }
      }
    }

    /** Pauses one now and then, and lets one crash. */
    async function trouble(members: readonly Member[], register: Register): Promise<void> {
      while (!register.done) {
        const one = members[Math.floor(Math.random() * members.length)] as Member
        if (Math.random() < 0.5) {
          one.process.pause()
          await sleep(store.clock, Math.random() * 2 * store.unitMs)
          one.process.resume()
        } else {
          await one.process.manager.stop()
          Object.assign(one, member())
        }
        await sleep(store.clock, store.unitMs / 2)
      }
    }

    it(`DSM-5: never more than n hold a permit, in ${grants} grants to processes that forget, stall and crash`, async function () {
      this.timeout(300_000)
      const register = new Register(3, grants)
      const members = [member(), member(), member(), member(), member()]
      await over((members[0] as Member).semaphores.create('pool', 3))
      await over(
        Promise.all([
          ...members.flatMap((one, index) => [0, 1].map((twin) => work(one, register, `m${index}${twin}`))),
          trouble(members, register),
        ]),
      )
      expect(register.wrong).to.deep.equal([])
      expect(register.grants).to.be.at.least(grants)
      if (store.exact) expect(register.most).to.equal(3)
    })

    it(`DSM-2: nor while the limit changes and the semaphore is made anew, in ${grantsWhileChanging} grants`, async function () {
      this.timeout(300_000)
      const register = new Register(4, grantsWhileChanging)
      const members = [member(), member(), member(), member()]
      const { semaphores: administrator } = member()
      await over(administrator.create('pool', 4))
      /** Permits that are too many run out. */
      const settled = async (n: number): Promise<void> => {
        for (;;) {
          if (register.done || (await administrator.read('pool')).active <= n) break
          await sleep(store.clock, store.unitMs / 10)
        }
        // What the store has ended may be relied on until its time is over here.
        await sleep(store.clock, 2 * store.unitMs)
      }
      const resize = async (): Promise<void> => {
        while (!register.done) {
          const n = 1 + Math.floor(Math.random() * 6)
          if (n > register.limit) register.limit = n
          await administrator.resize('pool', n)
          await settled(n)
          register.limit = n
          await sleep(store.clock, Math.random() * store.unitMs)
          if (Math.random() < 0.4) {
            await administrator.destroy('pool')
            register.limit = Math.max(register.limit, 2)
            register.destroyed()
            await administrator.create('pool', 2)
            await settled(2)
            register.limit = 2
          }
        }
      }
      const tireless = async (one: Member, name: string): Promise<void> => {
        while (!register.done) {
          try {
            await work(one, register, name)
          } catch (error) {
            if ((error as { code?: string }).code !== 'LEASE_NOT_HELD') throw error // it was just being made anew
            await sleep(store.clock, store.unitMs / 20)
          }
          name += 'i'
        }
      }
      const workers = members.map((one, index) => tireless(one, `m${index}`))
      await over(Promise.all([...workers, resize(), trouble(members, register)]))
      expect(register.wrong).to.deep.equal([])
      expect(register.grants).to.be.at.least(grantsWhileChanging)
    })
  })
}
