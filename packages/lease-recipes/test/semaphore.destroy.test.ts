import { expect } from 'chai'
import { ErrInvalid, type ErrLost, type Manager } from 'lease-core'
import { ErrNoSemaphore, Semaphores } from '#src/semaphore.ts'
import { Bench, rejection, type Process } from './bench.ts'
import { refusal, replaced } from './store-events.ts'
import { stores } from './stores.ts'

for (const store of stores('redis')) {
  describe(`Semaphore, being destroyed, on ${store.name}`, () => {
    const long = 8000 * store.unitMs
    const retries = 0
    let bench: Bench
    let here: Process
    let there: Process
    let elsewhere: Process

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
      elsewhere = bench.process()
    })
    afterEach(() => bench.close())

    function semaphores(manager: Manager): Semaphores {
      return bench.own(new Semaphores({ manager, clock: store.clock }))
    }

    /** A manager whose calls of this kind wait for the test, once they are done. */
    function interrupted(manager: Manager, call: 'define' | 'revoke', meanwhile: () => Promise<unknown>): Manager {
      const slow = async (...args: never[]): Promise<unknown> => {
        const outcome: unknown = await (manager[call] as (...args: never[]) => Promise<unknown>)(...args)
        await meanwhile()
        return outcome
      }
      return replaced(manager, { [call]: slow })
    }

    it('DSM-4: from its first step on nothing is granted, those who wait are refused, and permits are not given to others', async () => {
      let posts = 0
      const others = semaphores(there.manager)
      const meanwhile = async (): Promise<void> => {
        posts++
        await rejection(others.post('pool', 'late', long, { retries }), ErrNoSemaphore)
        await rejection(others.read('pool'), ErrNoSemaphore)
        await rejection(others.resize('pool', 2), ErrNoSemaphore)
      }
      const administrator = semaphores(interrupted(elsewhere.manager, 'define', meanwhile))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 1))
      const permit = await bench.within(a.post('pool', 'x', long, { retries, keepAlive: true }))
      const refused = refusal(there.manager)
      const waiting = rejection(others.post('pool', 'w', long), ErrNoSemaphore)
      await bench.within(refused)
      here.pause() // it does not find out
      await bench.within(administrator.destroy('pool'))
      await bench.within(waiting)
      expect([permit.held, posts]).to.deep.equal([true, 1])
      here.resume()
      await store.until('the loss', () => permit.signal.aborted)
      expect((permit.signal.reason as ErrLost).reason).to.equal('revoked')
      await bench.within(others.create('pool', 1))
      expect(await bench.within(others.read('pool'))).to.deep.equal({ n: 1, active: 0, holders: [] })
    })

    it('DSM-4: one that was given up half-way is no semaphore, and the next destruction completes it', async () => {
      const giveUp = new AbortController()
      const stop = async (): Promise<void> => giveUp.abort(new Error('never mind'))
      const hasty = semaphores(interrupted(there.manager, 'define', stop))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 3))
      const permits = await bench.within(
        Promise.all(['x', 'y', 'z'].map((holder) => a.post('pool', holder, long, { retries, keepAlive: true }))),
      )
      const given = rejection(hasty.destroy('pool', { signal: giveUp.signal }), Error)
      expect((await bench.within(given)).message).to.equal('never mind')
      const b = semaphores(elsewhere.manager)
      for (const one of [a, b]) {
        await rejection(bench.within(one.read('pool')), ErrNoSemaphore)
        await rejection(bench.within(one.post('pool', 'v', long)), ErrNoSemaphore)
      }
      await bench.within(b.destroy('pool'))
      await store.until('every loss', () => permits.every(({ held }) => !held))
      await bench.within(b.create('pool', 1))
      expect(await bench.within(b.read('pool'))).to.deep.equal({ n: 1, active: 0, holders: [] })
    })

    it('DSM-4: permits that a destruction has not revoked count for the next semaphore of that name', async () => {
      const giveUp = new AbortController()
      const stop = async (): Promise<void> => giveUp.abort(new Error('never mind'))
      const hasty = semaphores(interrupted(there.manager, 'define', stop))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 2))
      const permit = await bench.within(a.post('pool', 'x', long, { retries, keepAlive: true }))
      await rejection(bench.within(hasty.destroy('pool', { signal: giveUp.signal })), Error)
      await bench.within(a.create('pool', 1))
      expect(await bench.within(a.tryPost('pool', 'y', long))).to.equal(undefined)
      expect(permit.held).to.equal(true)
      await permit.close()
      expect((await bench.within(a.tryPost('pool', 'y', long)))?.held).to.equal(true)
    })

    it('DSM-4: a late destruction leaves alone what was created since', async () => {
      const b = semaphores(elsewhere.manager)
      const meanwhile = async (): Promise<void> => {
        await b.create('pool', 1)
        permit = await b.post('pool', 'new', long, { retries })
      }
      let permit: Awaited<ReturnType<Semaphores['post']>> | undefined
      const slow = semaphores(interrupted(there.manager, 'revoke', meanwhile))
      const a = semaphores(here.manager)
      await bench.within(a.create('pool', 1))
      await bench.within(a.post('pool', 'old', long, { retries }))
      await bench.within(slow.destroy('pool'))
      await store.pass(store.unitMs / 2)
      expect(permit?.held).to.equal(true)
      expect((await bench.within(b.read('pool'))).active).to.equal(1)
    })

    it('DSM-1: of a creation and a destruction at once either wins, and neither leaves anything half-way', async () => {
      const [a, b] = [semaphores(here.manager), semaphores(there.manager)]
      for (let round = 0; round < 5; round++) {
        await bench.within(a.create('pool', 2))
        const outcomes = await bench.within(Promise.allSettled([a.destroy('pool'), b.create('pool', 2)]))
        for (const outcome of outcomes) {
          if (outcome.status === 'rejected') expect(outcome.reason).to.be.instanceOf(ErrInvalid)
        }
        const permit = await bench.within(a.post('pool', 'x', long, { retries }).catch((error: unknown) => error))
        if (permit instanceof Error) expect(permit).to.be.instanceOf(ErrNoSemaphore)
        await bench.within(a.destroy('pool'))
      }
      expect((await bench.within(elsewhere.manager.leases())).size).to.equal(0)
    })
  })
}
