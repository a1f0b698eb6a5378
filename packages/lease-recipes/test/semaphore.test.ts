import { expect } from 'chai'
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrNotValid, ErrStopped, ErrUnknown } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import { ErrLimitMismatch, ErrNoSemaphore, Semaphores, type Permit, type SemaphoresOptions } from '#src/semaphore.ts'
import { Bench, rejection, unhandledDuring, type Process } from './bench.ts'
import { refusal, renewedThrice, renewingEvery } from './store-events.ts'
import { stores } from './stores.ts'

for (const store of stores('etcd')) {
  describe(`Semaphore on ${store.name}`, () => {
    /** Where time and messages can be counted; servers and their machine may be slow. */
    const exact = store.clock instanceof TestClock
    const timeout = 8 * store.unitMs
    /** Of permits that are to lapse in the course of a test. */
    const brief = 2 * store.unitMs
    const long = 1000 * timeout
    let bench: Bench
    let here: Process
    let there: Process

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
    })
    afterEach(() => bench.close())

    function semaphores(process: Process, options: Partial<SemaphoresOptions> = {}): Semaphores {
      return bench.own(new Semaphores({ manager: process.manager, clock: store.clock, ...options }))
    }

    const retries = 0

    it('DSM-1: a semaphore is created once, and again with the same limit; with another it is refused', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 3))
      await bench.within(a.create('pool', 3))
      await bench.within(b.create('pool', 3))
      const error = await rejection(bench.within(b.create('pool', 4)), ErrLimitMismatch)
      expect(error).to.include({ id: 'pool', n: 3, asked: 4, code: 'LEASE_CLAIM_DENIED' })
      expect(error).to.be.instanceOf(ErrClaimDenied)
      expect((await bench.within(b.read('pool'))).n).to.equal(3)
    })

    it('DSM-1: of many who create one at once, those of one limit succeed and the others are refused', async () => {
      const creators = [semaphores(here), semaphores(there), semaphores(bench.process())]
      const outcomes = await bench.within(
        Promise.allSettled([2, 5, 2, 5, 2, 5].map((n, index) => (creators[index % 3] as Semaphores).create('pool', n))),
      )
      const { n } = await bench.within(semaphores(here).read('pool'))
      for (const [index, outcome] of outcomes.entries()) {
        expect(outcome.status).to.equal([2, 5, 2, 5, 2, 5][index] === n ? 'fulfilled' : 'rejected')
        if (outcome.status === 'rejected') expect(outcome.reason).to.be.instanceOf(ErrLimitMismatch)
      }
    })

    it('DSM-1: ids are distinguished, whatever is in them', async () => {
      const a = semaphores(here)
      const ids = ['a', 'a/0', 'a/admin', 'a%2F0', 'a b', 'a.b#c$', 'ä', '0']
      for (const [index, id] of ids.entries()) await bench.within(a.create(id, index + 1))
      for (const id of ids) await bench.within(a.post(id, `of-${ids.indexOf(id)}`, long, { retries }))
      for (const [index, id] of ids.entries()) {
        const { n, holders } = await bench.within(a.read(id))
        expect([n, holders.map(({ holder }) => holder)]).to.deep.equal([index + 1, [`of-${index}`]])
      }
    })

    it('DSM-3: how many permits there are and who has them can be read; of a missing one nothing', async () => {
      const a = semaphores(here)
      const error = await rejection(bench.within(a.read('pool')), ErrNoSemaphore)
      expect(error).to.include({ id: 'pool', code: 'LEASE_NOT_HELD' })
      expect(error).to.be.instanceOf(ErrNotHeld)
      await bench.within(a.create('pool', 3))
      expect(await bench.within(a.read('pool'))).to.deep.equal({ n: 3, active: 0, holders: [] })
      const permit = await bench.within(a.post('pool', 'x', long, { retries }))
      await bench.within(a.post('pool', 'y', long, { retries }))
      const { n, active, holders } = await bench.within(semaphores(there).read('pool'))
      expect([n, active]).to.deep.equal([3, 2])
      expect(holders.map(({ holder }) => holder).toSorted()).to.deep.equal(['x', 'y'])
      const { fencingToken, lease } = permit
      expect(holders.find(({ holder }) => holder === 'x')).to.include({ fencingToken, lease })
    })

    it('DSM-4: a destroyed semaphore is gone with all permits; destroyed again is fine; created again is empty', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 2))
      const permit = await bench.within(b.post('pool', 'x', long, { retries }))
      const waiting = [1, 2].map((index) => b.post('pool', `w${index}`, long))
      const refused = rejection(waiting[1] as Promise<unknown>, ErrNoSemaphore)
      await bench.within(waiting[0] as Promise<unknown>)
      await bench.within(a.destroy('pool'))
      await store.until('the loss', () => permit.signal.aborted)
      expect(permit.held).to.equal(false)
      expect((permit.signal.reason as ErrLost).reason).to.be.oneOf(['revoked', 'taken'])
      await bench.within(refused)
      for (const one of [a, b]) {
        await rejection(bench.within(one.read('pool')), ErrNoSemaphore)
        await rejection(bench.within(one.post('pool', 'x', long)), ErrNoSemaphore)
        await bench.within(one.destroy('pool'))
      }
      await bench.within(a.create('pool', 1))
      expect(await bench.within(b.read('pool'))).to.deep.equal({ n: 1, active: 0, holders: [] })
      await bench.within(b.post('pool', 'z', long, { retries }))
      await rejection(bench.within(a.post('pool', 'y', long, { retries })), ErrClaimDenied)
    })

    it('DSM-4: those who did not hear of the destruction do not exceed the limit of its successor', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 5))
      await bench.within(b.post('pool', 'x', long, { retries }))
      there.pause() // what is sent now comes when the semaphore is another
      const posts = Array.from({ length: 5 }, (_, index) => b.post('pool', `late${index}`, long, { retries }))
      const outcomes = Promise.allSettled(posts)
      await bench.within(a.destroy('pool'))
      await bench.within(a.create('pool', 1))
      there.resume()
      const granted = (await bench.within(outcomes)).filter(({ status }) => status === 'fulfilled')
      expect(granted.length).to.be.at.most(1)
      const { active, n } = await bench.within(a.read('pool'))
      expect([active <= 1, n]).to.deep.equal([true, 1])
      const leases = [...(await bench.within(here.manager.leases())).values()]
      const permits = leases.filter(({ holder, value }) => /^(late|x)/.test(holder) && value !== 'retired')
      expect(permits.length).to.be.at.most(1)
    })

    it('DSM-5: n have a permit, no more; a single try is refused at once, and a permit closed is another’s', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 2))
      const x = await bench.within(a.post('pool', 'x', long, { retries }))
      const y = await bench.within(b.post('pool', 'y', long, { retries }))
      expect([x.held, y.held]).to.deep.equal([true, true])
      expect(y.fencingToken > x.fencingToken).to.equal(true)
      const error = await rejection(bench.within(b.post('pool', 'z', long, { retries })), ErrClaimDenied)
      expect(error.message).to.contain('"pool"').and.to.contain('"z"')
      await x.close()
      expect(x.held).to.equal(false)
      const z = await bench.within(b.post('pool', 'z', long, { retries }))
      expect(z.fencingToken > y.fencingToken, 'tokens rise over all permits').to.equal(true)
      await z.token.check()
    })

    it('DSM-5: retries are counted in waits, and are over after them', async () => {
      const minWaitTimeout = store.unitMs / 4
      const a = semaphores(here, { minWaitTimeout, maxWaitTimeout: 2 * minWaitTimeout })
      await bench.within(a.create('pool', 1))
      await bench.within(a.post('pool', 'x', long))
      const begunMs = store.clock.monotonic()
      await rejection(bench.within(a.post('pool', 'y', long, { retries: 3 })), ErrClaimDenied)
      expect(store.clock.monotonic() - begunMs).to.be.at.least(3 * minWaitTimeout - 1)
    })

    it('DSM-5: anyone who waits is woken at once, and has sent nothing meanwhile', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 1))
      const x = await bench.within(a.post('pool', 'x', long))
      const refused = refusal(there.manager)
      const waiting = b.post('pool', 'y', long)
      await bench.within(refused)
      if (exact) {
        // On a server this would count what is sent when the line for news comes up late.
        await store.pass(2 * store.unitMs)
        const before = there.sent
        await store.pass(4 * store.unitMs)
        expect(there.sent - before, 'sent while it waited').to.equal(0)
      }
      await x.close()
      const y = await bench.within(waiting)
      expect(y.held).to.equal(true)
    })

    it('DSM-5: a permit costs one round trip, and its end another', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 4))
      await (await bench.within(a.post('pool', 'x', long))).close()
      const before = { ...here.counts }
      const sentBefore = here.sent
      for (let time = 0; time < 10; time++) await (await a.post('pool', 'x', long)).close()
      const sentOf = (call: string): number => (here.counts[call] ?? 0) - (before[call] ?? 0)
      expect([sentOf('claimLease'), sentOf('releaseLease')]).to.deep.equal([10, 10])
      // On a server there are more reads, when the line for news comes up late.
      if (exact) expect(here.sent - sentBefore).to.equal(20)
    })

    it('DSM-5: a missing semaphore is an error at once, however many retries', async () => {
      const a = semaphores(here)
      await rejection(bench.within(a.post('pool', 'x', long)), ErrNoSemaphore)
      if (exact) expect(here.sent, 'how many requests were sent').to.equal(1)
      await bench.within(semaphores(there).create('pool', 1))
      await bench.within(a.post('pool', 'x', long)) // and nothing is remembered of that
    })

    it('DSM-5: a wait ends with its signal, and the permit that comes too late is given back', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 1))
      const x = await bench.within(a.post('pool', 'x', long))
      const impatient = new AbortController()
      const refused = refusal(there.manager)
      const waiting = rejection(b.post('pool', 'y', long, { signal: impatient.signal }), Error)
      await bench.within(refused)
      impatient.abort(new Error('no patience'))
      expect((await bench.within(waiting)).message).to.equal('no patience')
      await x.close()
      await store.pass(store.unitMs / 2)
      await store.until('vacancy', async () => (await bench.within(a.read('pool'))).active === 0)
      await bench.within(b.post('pool', 'z', long, { retries }))
    })

    it('DSM-6: the same holder again has the same permit, with its full time, and no second one', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 2))
      const first = await bench.within(a.post('pool', 'x', long / 2, { retries }))
      const sentMs = store.clock.now()
      const again = await bench.within(a.post('pool', 'x', long, { retries }))
      expect([again.lease, again.fencingToken]).to.deep.equal([first.lease, first.fencingToken])
      const { active, holders } = await bench.within(a.read('pool'))
      expect(active).to.equal(1)
      expect(holders[0]?.expiry.toMillis(), 'its time is counted from the second').to.be.at.least(sentMs + 0.9 * long)
      if (exact) await store.pass(0.9 * long)
      expect([first.held, again.held]).to.deep.equal([true, true])
      await first.close()
      expect([first.held, again.held]).to.deep.equal([false, false])
    })

    it('DSM-6: the same holder in another process has the same permit', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 2))
      const first = await bench.within(a.post('pool', 'x', long, { retries }))
      const again = await bench.within(b.post('pool', 'x', long, { retries }))
      expect([again.lease, again.fencingToken]).to.deep.equal([first.lease, first.fencingToken])
      expect((await bench.within(a.read('pool'))).active).to.equal(1)
    })

    it('DSM-6: a second post does not queue behind those who wait for a permit', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 1))
      const first = await bench.within(a.post('pool', 'x', long))
      const waiting = a.post('pool', 'y', long)
      await store.pass(store.unitMs / 2)
      const again = await bench.within(a.post('pool', 'x', long))
      expect(again.fencingToken).to.equal(first.fencingToken)
      await again.close()
      expect((await bench.within(waiting)).held).to.equal(true)
    })

    it('DSM-6: a second post that is given up does not give the permit back', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 1))
      const permit = await bench.within(a.post('pool', 'x', long))
      here.pause()
      const impatient = new AbortController()
      const second = rejection(a.post('pool', 'x', 2 * long, { signal: impatient.signal }), Error)
      await store.until('the call', () => (here.counts['extendLease'] ?? 0) >= 1)
      impatient.abort(new Error('no patience'))
      await second
      here.resume()
      await store.pass(store.unitMs / 2)
      expect(permit.held).to.equal(true)
      expect((await bench.within(a.read('pool'))).active).to.equal(1)
      await rejection(bench.within(semaphores(there).post('pool', 'y', long, { retries })), ErrClaimDenied)
    })

    it('DSM-6: nor does one that is given up in another process', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 1))
      const permit = await bench.within(a.post('pool', 'x', long))
      for (let turns = 0; turns < 12; turns++) {
        const impatient = new AbortController()
        const second = b.post('pool', 'x', long, { signal: impatient.signal }).catch(() => {})
        for (let turn = 0; turn < turns; turn++) await Promise.resolve()
        impatient.abort(new Error('no patience'))
        await bench.within(second)
      }
      await store.pass(store.unitMs / 2)
      expect((await bench.within(a.read('pool'))).active).to.equal(1)
      expect(permit.held).to.equal(true)
    })

    it('DSM-7: permits end one by one, each at its own time', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 2))
      const short = await bench.within(a.post('pool', 'short', brief))
      const other = await bench.within(a.post('pool', 'long', long))
      const waiting = b.post('pool', 'next', long)
      await store.until('the end of the short one', () => short.signal.aborted)
      expect((short.signal.reason as ErrLost).reason).to.equal('expired')
      const next = await bench.within(waiting)
      expect([short.held, other.held, next.held]).to.deep.equal([false, true, true])
      expect(next.fencingToken > other.fencingToken).to.equal(true)
    })

    if (exact) {
      it('DSM-7: a permit that is kept alive outlives its time, and a refresh gives one its full time', async () => {
        const a = semaphores(here)
        await bench.within(a.create('pool', 2))
        const alive = await bench.within(a.post('pool', 'alive', timeout, { keepAlive: true }))
        const refreshed = await bench.within(a.post('pool', 'refreshed', timeout))
        for (let round = 0; round < 3; round++) {
          await store.pass(timeout / 2)
          await refreshed.refresh()
        }
        expect([alive.held, refreshed.held]).to.deep.equal([true, true])
        await store.until('the end of the other', () => refreshed.signal.aborted)
        expect(alive.held).to.equal(true)
        await rejection(refreshed.refresh(), ErrLost)
        expect(() => refreshed.assertHeld()).to.throw(ErrLost)
      })
    } else {
      it('DSM-7: a permit that is kept alive outlives its time, and a refresh gives one its full time', async () => {
        const a = semaphores(here, { manager: renewingEvery(here.manager, store.unitMs / 2) })
        await bench.within(a.create('pool', 3))
        const alive = await bench.within(a.post('pool', 'alive', long, { keepAlive: true }))
        const refreshed = await bench.within(a.post('pool', 'refreshed', long))
        const grantedMs = store.clock.now()
        const lapsing = await bench.within(a.post('pool', 'lapsing', brief))
        await renewedThrice(store, there.manager, alive.lease)
        await store.until('the end of the third', () => lapsing.signal.aborted)
        await rejection(lapsing.refresh(), ErrLost)
        expect(() => lapsing.assertHeld()).to.throw(ErrLost)

        const sentMs = store.clock.now()
        await refreshed.refresh()
        const found = (await bench.within(a.read('pool'))).holders.find(({ holder }) => holder === 'refreshed')
        expect(found?.expiry.toMillis()).to.be.above((grantedMs + sentMs) / 2 + long)
        expect([alive.held, refreshed.held]).to.deep.equal([true, true])
      })
    }

    it('DSM-8: close gives the permit back, here or elsewhere; who has none is no error, a missing semaphore is', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await rejection(bench.within(a.close('pool', 'x')), ErrNoSemaphore)
      await bench.within(a.create('pool', 3))
      await bench.within(a.close('pool', 'x'))
      for (const closer of [a, b]) {
        const permit = await bench.within(a.post('pool', 'x', long))
        await bench.within(a.post('pool', 'y', long))
        await bench.within(closer.close('pool', 'x'))
        await store.until('its end', () => permit.signal.aborted)
        const { holders } = await bench.within(a.read('pool'))
        expect(holders.map(({ holder }) => holder)).to.deep.equal(['y'])
      }
    })

    it('DSM-8: a permit is closed at the end of its scope', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 1))
      {
        await using permit = await bench.within(a.post('pool', 'x', long))
        expect(permit.held).to.equal(true)
      }
      expect((await bench.within(a.read('pool'))).active).to.equal(0)
    })

    it('DSM-9: closeAsync of a missing semaphore, or without a line, harms nobody and is notified', async () => {
      const a = semaphores(here)
      const told: unknown[] = []
      a.on('error', (error) => told.push(error))
      const unhandled = await unhandledDuring(async () => {
        a.closeAsync('missing', 'x')
        await store.until('the first', () => told.length >= 1)
        a.closeAsync('missing', 5 as never)
        await store.until('the second', () => told.length >= 2)
        await a.stop()
        a.closeAsync('missing', 'x')
        await store.until('the third', () => told.length >= 3)
      })
      expect(told[0]).to.be.instanceOf(ErrNoSemaphore)
      expect(told[2]).to.be.instanceOf(ErrStopped)
      expect(unhandled).to.deep.equal([])
    })

    it('DSM-9: closeAsync gives the permit back, and without a listener harms nobody either', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 1))
      const permit = await bench.within(a.post('pool', 'x', long))
      const unhandled = await unhandledDuring(async () => {
        a.closeAsync('pool', 'x')
        a.closeAsync('missing', 'x')
        await store.until('its end', () => permit.signal.aborted)
        await bench.within(semaphores(there).post('pool', 'y', long))
      })
      expect(unhandled).to.deep.equal([])
    })

    it('DSM-10: a semaphore outlives every process that used it', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 2))
      await bench.within(a.post('pool', 'x', long))
      await here.manager.stop() // a crash: nothing is given back
      expect((await bench.within(semaphores(there).read('pool'))).active).to.equal(1)
    })

    it('CL-4: stop ends calls under way, gives permits back and leaves the semaphore', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 1))
      const permit = await bench.within(a.post('pool', 'x', long, { keepAlive: true }))
      const unhandled = await unhandledDuring(async () => {
        const waiting = rejection(a.post('pool', 'y', long), ErrStopped)
        await store.pass(store.unitMs / 2)
        await bench.within(Promise.all([a.stop(), a.stop()]))
        await waiting
      })
      expect(unhandled).to.deep.equal([])
      expect(permit.held).to.equal(false)
      const calls: Promise<unknown>[] = [
        a.create('pool', 1),
        a.read('pool'),
        a.post('pool', 'x', 5),
        a.close('pool', 'x'),
      ]
      for (const call of [...calls, a.destroy('pool'), a.resize('pool', 1)]) await rejection(call, ErrStopped)
      expect(await bench.within(b.read('pool'))).to.deep.equal({ n: 1, active: 0, holders: [] })
    })

    if (exact) {
      it('CL-6: after a restart, permits have what is left of their time', async () => {
        const a = semaphores(here)
        await bench.within(a.create('pool', 1))
        const x = await bench.within(a.post('pool', 'x', timeout))
        await store.pass(timeout / 4)
        await here.manager.stop()
        const b = semaphores(there)
        await rejection(bench.within(b.post('pool', 'y', long, { retries })), ErrClaimDenied)
        const [found] = (await bench.within(b.read('pool'))).holders
        expect(found).to.include({ holder: 'x', fencingToken: x.fencingToken })
        const begunMs = store.clock.monotonic()
        await bench.within(b.post('pool', 'y', long))
        expect(store.clock.monotonic() - begunMs).to.be.within(0.75 * timeout, 0.75 * timeout + store.unitMs / 2)
      })
    } else {
      it('CL-6: after a restart, permits have what is left of their time', async () => {
        const a = semaphores(here)
        await bench.within(Promise.all([a.create('pool', 1), a.create('lapsing', 1)]))
        const x = await bench.within(a.post('pool', 'x', long))
        const sentMs = store.clock.monotonic()
        await bench.within(a.post('lapsing', 'x', brief))
        await here.manager.stop()
        const b = semaphores(there)
        await rejection(bench.within(b.post('pool', 'y', long, { retries })), ErrClaimDenied)
        const [found] = (await bench.within(b.read('pool'))).holders
        expect(found).to.include({ holder: 'x', fencingToken: x.fencingToken })
        await bench.within(b.post('lapsing', 'y', long))
        expect(store.clock.monotonic() - sentMs).to.be.at.least(0.99 * brief)
      })
    }

    it('CL-7: after a restart, the same holder goes on with its permit', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 1))
      const before = await bench.within(a.post('pool', 'x', long))
      await here.manager.stop()
      const after = await bench.within(semaphores(there).post('pool', 'x', long, { retries }))
      expect([after.lease, after.fencingToken]).to.deep.equal([before.lease, before.fencingToken])
    })

    it('CL-8: a store out of reach is an ErrUnknown in time, and nobody hangs', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 1))
      await bench.within(a.post('pool', 'x', long))
      here.cut = true
      const requestTimeout = store.unitMs / 2
      const b = semaphores(here, { requestTimeout })
      const calls: (() => Promise<unknown>)[] = [
        () => a.post('pool', 'y', long, { retries, requestTimeout }),
        () => b.post('pool', 'y', long, { retries: 2 }),
        () => b.create('other', 1),
        () => b.read('pool'),
        () => a.close('pool', 'z', { requestTimeout }),
        () => b.destroy('pool'),
      ]
      await bench.within(Promise.all(calls.map((call) => rejection(call(), ErrUnknown))))
      here.cut = false
      expect((await bench.within(a.read('pool'))).active).to.equal(1)
    })

    it('a post takes several permits at once, and gives them back together', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 5))
      const three = await bench.within(a.post('pool', 'x', long, { permits: 3 }))
      await rejection(bench.within(b.post('pool', 'y', long, { permits: 3, wait: false })), ErrClaimDenied)
      const two = await bench.within(b.post('pool', 'y', long, { permits: 2, wait: false }))
      const { active, holders } = await bench.within(b.read('pool'))
      expect(active).to.equal(5)
      expect(new Map(holders.map(({ holder, permits }) => [holder, permits]))).to.deep.equal(
        new Map([
          ['x', 3],
          ['y', 2],
        ]),
      )
      await three.release()
      expect((await bench.within(b.read('pool'))).active).to.equal(2)
      expect(two.held).to.equal(true)
      const error = await rejection(bench.within(b.post('pool', 'z', long, { permits: 6 })), ErrNotValid)
      expect(error.problems).to.deep.equal([
        { argument: 'permits', rule: 'must be at most 5, the capacity of "semaphores/pool"', value: 6 },
      ])
      const other = await rejection(bench.within(b.post('pool', 'y', long, { permits: 1 })), ErrNotValid)
      expect(other.problems[0]?.rule).to.equal('must be 2, as of the share that "y" has already')
    })

    it('one that wants many permits is not overtaken by those that want few', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 3))
      const first = await bench.within(a.post('pool', 'x', long, { permits: 2 }))
      const refused = refusal(there.manager)
      const many = b.post('pool', 'many', long, { permits: 3 })
      await bench.within(refused)
      expect(await bench.within(a.tryPost('pool', 'few', long))).to.equal(undefined)
      await first.close()
      expect((await bench.within(many)).held).to.equal(true)
    })

    it('the first post that says how many permits there are creates the semaphore, and another number is refused', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      const permit = await bench.within(a.post('pool', 'x', long, { n: 2 }))
      expect((await bench.within(b.read('pool'))).n).to.equal(2)
      const error = await rejection(bench.within(b.post('pool', 'y', long, { n: 3 })), ErrLimitMismatch)
      expect(error).to.include({ n: 2, asked: 3 })
      await rejection(bench.within(b.tryPost('pool', 'y', long, { n: 3 })), ErrLimitMismatch)
      await bench.within(b.post('pool', 'y', long, { n: 2 }))
      await bench.within(b.create('pool', 2))
      await rejection(bench.within(b.create('pool', 3)), ErrLimitMismatch)
      expect(permit.held).to.equal(true)
      expect(await bench.within(b.tryPost('pool', 'z', long))).to.equal(undefined)
      await permit.close()
      expect((await bench.within(b.tryPost('pool', 'z', long)))?.held).to.equal(true)
    })

    it('there may be thousands of permits', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 4_000))
      const permits = await bench.within(
        Promise.all(Array.from({ length: 40 }, (_, index) => a.post('pool', `h${index}`, long))),
      )
      const { n, active } = await bench.within(a.read('pool'))
      expect([n, active]).to.deep.equal([4_000, 40])
      await bench.within(Promise.all(permits.map((permit) => permit.close())))
      expect((await bench.within(a.read('pool'))).active).to.equal(0)
    })

    it('resize: larger at once, and those who wait are served', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await rejection(bench.within(a.resize('pool', 2)), ErrNoSemaphore)
      await bench.within(a.create('pool', 1))
      await bench.within(a.post('pool', 'x', long))
      const refused = refusal(there.manager)
      const waiting = b.post('pool', 'y', long)
      await bench.within(refused)
      await bench.within(a.resize('pool', 2))
      expect((await bench.within(waiting)).held).to.equal(true)
      expect((await bench.within(b.read('pool'))).n).to.equal(2)
      await rejection(bench.within(b.create('pool', 1)), ErrLimitMismatch)
      await bench.within(b.create('pool', 2))
    })

    it('resize: to fewer holds for every later grant at once, and resolves when the permits that are too many have ended', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 4))
      const permits = await bench.within(
        Promise.all(['p', 'q', 'r', 's'].map((holder) => b.post('pool', holder, long))),
      )
      let done = false
      const resized = a.resize('pool', 2).then(() => (done = true))
      await store.until('the new limit', async () => (await bench.within(b.read('pool'))).n === 2)
      expect(permits.every(({ held }) => held)).to.equal(true)
      await bench.within((permits[0] as Permit).close())
      await rejection(bench.within(b.post('pool', 't', long, { retries })), ErrClaimDenied)
      expect(done).to.equal(false)
      await bench.within((permits[1] as Permit).close())
      await bench.within(resized)
      await rejection(bench.within(b.post('pool', 't', long, { retries })), ErrClaimDenied)
      await bench.within(b.resize('pool', 3))
      await bench.within(a.post('pool', 't', long))
      await rejection(bench.within(b.post('pool', 'u', long, { retries })), ErrClaimDenied)
      expect((await bench.within(a.read('pool'))).active).to.equal(3)
    })

    it('resize: its wait ends with its signal, and the new limit stays', async () => {
      const a = semaphores(here)
      await bench.within(a.create('pool', 4))
      const permits = [await bench.within(a.post('pool', 'x', long)), await bench.within(a.post('pool', 'y', long))]
      const giveUp = new AbortController()
      const resizing = rejection(a.resize('pool', 1, { signal: giveUp.signal }), Error)
      await store.until('the new limit', async () => (await bench.within(a.read('pool'))).n === 1)
      giveUp.abort(new Error('never mind'))
      expect((await bench.within(resizing)).message).to.equal('never mind')
      expect(permits.every(({ held }) => held)).to.equal(true)
      await rejection(bench.within(a.post('pool', 'z', long, { retries })), ErrClaimDenied)
      await bench.within(a.resize('pool', 4))
      await bench.within(a.post('pool', 'z', long, { retries }))
    })

    it('resize: several at once leave the limit of one of them', async () => {
      const administrators = [semaphores(here), semaphores(there), semaphores(bench.process())]
      await bench.within(semaphores(here).create('pool', 4))
      const limits = [2, 6, 3, 5, 1, 4]
      await bench.within(
        Promise.all(limits.map((n, index) => (administrators[index % 3] as Semaphores).resize('pool', n))),
      )
      const { n } = await bench.within(semaphores(here).read('pool'))
      expect(limits).to.include(n)
      const a = semaphores(there)
      for (let index = 0; index < n; index++) await bench.within(a.post('pool', `h${index}`, long, { retries }))
      await rejection(bench.within(a.post('pool', 'one-too-many', long, { retries })), ErrClaimDenied)
    })

    it('resize: one who did not hear of it does not exceed the new limit', async () => {
      const [a, b] = [semaphores(here), semaphores(there)]
      await bench.within(a.create('pool', 5))
      await (await bench.within(b.post('pool', 'x', long))).close()
      there.pause()
      const posts = Promise.allSettled(
        Array.from({ length: 5 }, (_, index) => b.post('pool', `late${index}`, long, { retries })),
      )
      await bench.within(a.resize('pool', 2))
      there.resume()
      const granted = (await bench.within(posts)).filter(({ status }) => status === 'fulfilled')
      expect(granted.length).to.be.at.most(2)
      const held = [...(await bench.within(here.manager.leases())).values()].filter(({ holder }) =>
        holder.startsWith('late'),
      )
      expect(held.length).to.be.at.most(2)
    })
  })
}
