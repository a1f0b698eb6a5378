import { expect } from 'chai'
import { ErrClaimDenied, ErrLost, ErrNotHeld, ErrNotValid, ErrUnknown } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { FailClosedLock, FailOpenLock, type FencedLock } from 'lease-recipes'
import { hostname, userInfo } from 'node:os'
import { acquireInTime, errorOf, heard, Town } from './fenced-lock.fixture.ts'
import { refusal, renewedThrice } from './store-events.ts'
import { stores } from './stores.ts'

for (const store of stores('postgres')) {
  describe(`fenced locks on ${store.name}`, () => {
    /** Where time can be notified; servers and their machine may be slow. */
    const exact = store.clock instanceof TestClock
    let town: Town

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => void (town = new Town(store)))
    afterEach(() => town.close())

    const lapsed = (): Promise<void> => store.pass(town.leaseMs + store.unitMs)

    for (const mode of ['failOpen', 'failClosed'] as const) {
      describe(mode, () => {
        it('a lock that another has is refused, and free again when the holder releases it', async () => {
          const [a, b] = [town.process(), town.process()]
          const lock = await a[mode].acquireLock('db')
          const denied = await errorOf(b[mode].acquireLock('db'))
          expect(denied).to.be.instanceOf(ErrClaimDenied)
          expect((denied as ErrClaimDenied).currentHolder).to.equal(lock.holder)
          await lock.release()
          expect(lock.held).to.equal(false)
          expect(() => lock.assertHeld()).to.throw(ErrLost)
          const next = await b[mode].acquireLock('db')
          expect(next.held).to.equal(true)
          next.assertHeld()
        })

        it('a lock serves in one process as between two: no holder shares it with itself', async () => {
          const { [mode]: locks } = town.process()
          await locks.acquireLock('db')
          expect(await errorOf(locks.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
        })

        it('those who wait have it one after another, and nobody together with another', async () => {
          const processes = [town.process(), town.process()]
          let inside = 0
          const work = async (locks: (typeof processes)[number]): Promise<bigint> => {
            const lock = await locks[mode].acquireLock('db', { wait: true })
            expect(++inside).to.equal(1)
            await Promise.resolve()
            inside--
            await lock.release()
            return lock.fencingToken
          }
          const all = track(Promise.all([...processes, ...processes].map(work)))
          await store.until('all of them', () => all.state !== 'pending')
          const tokens = await all.promise
          expect(new Set(tokens).size).to.equal(4)
        })

        // On a server one that stands in may be faster than the first.
        if (exact) {
          it('anyone who gives it back and wants it again waits behind those who wait, though its wait is bounded', async () => {
            const [a, b] = [town.process(), town.process()]
            const lock = await a[mode].acquireLock('db')
            const refused = refusal(b.manager)
            const other = track(b[mode].acquireLock('db', { wait: true }))
            await refused
            await lock.release()
            const again = track(a[mode].acquireLock('db', { wait: town.leaseMs * 100 }))
            await store.until('the other', () => other.state !== 'pending')
            expect([other.state, again.state]).to.deep.equal(['fulfilled', 'pending'])
            await (await other.promise).release()
            await store.until('the first again', () => again.state !== 'pending')
            await (await again.promise).release()
          })
        }

        it('DT-7: the owner is user@host by default, and an operator reads it in the list of locks', async () => {
          const lock = await town.process()[mode].acquireLock('db')
          expect(lock.owner).to.equal(`${userInfo().username}@${hostname()}`)
          const told = town.process({ owner: 'batch job 7 (nightly)' })
          const second = await told[mode].acquireLock(['db', 2])
          expect(second.holder).to.match(/^batch-job-7-nightly-~/)
          const list = await told[mode].list()
          expect(list.map(({ id, owner, holder, pinned }) => ({ id, owner, holder, pinned }))).to.have.deep.members([
            { id: 'db', owner: lock.owner, holder: lock.holder, pinned: mode === 'failClosed' },
            { id: ['db', 2], owner: second.owner, holder: second.holder, pinned: mode === 'failClosed' },
          ])
        })

        it('DT-8: two of the same owner are two holders, and heartbeats change neither', async () => {
          const twin = { owner: 'twin', heartbeatMs: town.heartbeatMs }
          const [a, b] = [town.process(twin), town.process(twin)]
          const lock = await a[mode].acquireLock('db')
          expect(await errorOf(b[mode].acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
          await renewedThrice(store, b.manager, lock.lease)
          const info = await b.manager.token(lock.lease, lock.holder).check()
          expect(info.fencingToken).to.equal(lock.fencingToken)
        })

        it('DT-3, DT-9: a partition with a sort key is an id, in both modes', async () => {
          const [a, b] = [town.process(), town.process()]
          await a[mode].acquireLock({ partition: 'orders', sort: 7 })
          expect(await errorOf(b[mode].acquireLock({ sort: 7, partition: 'orders' }))).to.be.instanceOf(ErrClaimDenied)
          await b[mode].acquireLock({ partition: 'orders', sort: 8 })
          await b[mode].acquireLock({ partition: 'orders', sort: '7' })
        })

        it('DT-10: bytes are a key, 0 and "" are sort keys, and null is refused without a throw', async () => {
          const [a, b] = [town.process(), town.process()]
          const ids = [
            Buffer.from([1, 2]),
            Buffer.from([1, 3]),
            { partition: 'p', sort: 0 },
            { partition: 'p', sort: '' },
            { partition: 'p' },
          ]
          for (const id of ids) await a[mode].acquireLock(id)
          for (const id of ids) expect(await errorOf(b[mode].acquireLock(id))).to.be.instanceOf(ErrClaimDenied)
          const bad = [null, undefined, true, {}, [], { partition: undefined }, new Date(0), Number.NaN]
          for (const id of bad) {
            expect(await errorOf(b[mode].acquireLock(id as unknown as string))).to.be.instanceOf(ErrNotValid)
          }
        })

        it('DT-13: without a wait it is a try: the answer is there long before the lease of the other is over', async () => {
          const [a, b] = [town.process(), town.process()]
          const lock = await b[mode].acquireLock('db')
          // On the test clock no time passes; on a server the lease is longer than a test may take.
          for (const options of [{}, { wait: false }]) {
            expect(await errorOf(a[mode].acquireLock('db', options))).to.be.instanceOf(ErrClaimDenied)
          }
          expect(lock.held).to.equal(true)
        })

        it('DT-15: the fencing token rises with every acquisition, survives release, and no heartbeat changes it', async () => {
          const { heartbeatMs } = town
          const [a, b] = [town.process({ heartbeatMs }), town.process({ heartbeatMs })]
          let last = 0n
          for (const [index, process] of [a, b, a, a, b].entries()) {
            const lock = await process[mode].acquireLock('db')
            expect(lock.fencingToken > last).to.equal(true)
            last = lock.fencingToken
            if (index === 1) {
              await renewedThrice(store, a.manager, lock.lease)
              expect(lock.fencingToken).to.equal(last)
              expect((await a.manager.token(lock.lease, lock.holder).check()).fencingToken).to.equal(last)
            }
            await lock.release()
          }
        })

        it('DT-17: errors have codes and say who has it; what is wrong with the arguments is reported at once', async () => {
          const { [mode]: locks } = town.process()
          const lock = await locks.acquireLock('db')
          const denied = (await errorOf(locks.acquireLock('db'))) as ErrClaimDenied
          expect(denied.code).to.equal('LEASE_CLAIM_DENIED')
          expect(denied.message).to.contain(lock.holder)
          const options = { wait: -1, signal: 5, retryCount: 1 } as unknown as { wait: number }
          const wrong = (await errorOf(locks.acquireLock('x'.repeat(300), options))) as ErrNotValid
          expect(wrong.code).to.equal('LEASE_NOT_VALID')
          expect(wrong.problems.map(({ argument }) => argument)).to.have.members(['id', 'wait', 'signal', 'retryCount'])
        })

        it('DT-20: a second release sends nothing, not even when another has the lock by then', async () => {
          const [a, b] = [town.process(), town.process()]
          const lock = await a[mode].acquireLock('db')
          await Promise.all([lock.release(), lock.release()])
          const next = await b[mode].acquireLock('db')
          await lock.release()
          await next.token.check()
          expect(next.held).to.equal(true)
        })

        it('DT-23: a table of locks needs no set-up, and its locks are apart from those of another', async () => {
          const { manager } = town.process()
          const { clock } = store
          const Locks = mode === 'failOpen' ? FailOpenLock : FailClosedLock
          const of = (lockTable: string): InstanceType<typeof Locks> =>
            new Locks({ manager, clock, lockTable, leaseDuration: town.leaseMs })
          const [users, orders] = [of('users'), of('orders:eu')]
          await users.acquireLock('7')
          await orders.acquireLock('7')
          await of('orders').acquireLock('eu:7')
          expect((await orders.list()).map(({ id }) => id)).to.deep.equal(['7'])
        })

        it('DT-25: a wait ends in time, or with its signal, and leaves nothing behind', async () => {
          const [a, b] = [town.process(), town.process()]
          const lock = await a[mode].acquireLock('db')
          const bounded = track(b[mode].acquireLock('db', { wait: town.leaseMs / 2 }))
          const abort = new AbortController()
          const aborted = track(b[mode].acquireLock('db', { wait: true, signal: abort.signal }))
          await store.pass(store.unitMs / 2)
          abort.abort(new Error('no more'))
          expect((await errorOf(aborted.promise)).message).to.equal('no more')
          await store.until('the end of the wait', () => bounded.state !== 'pending')
          const { error } = bounded // unknown: a claim was out, and the store was slow
          expect(error instanceof ErrClaimDenied || error instanceof ErrUnknown).to.equal(true)
          await lock.release()
          await store.pass(store.unitMs / 2)
          await store.until('vacancy', async () => (await a[mode].list()).length === 0)
        })

        it('DT-25: a signal that has aborted before sends nothing', async () => {
          const { [mode]: locks } = town.process()
          const reason = new Error('too late')
          expect(await errorOf(locks.acquireLock('db', { signal: AbortSignal.abort(reason) }))).to.equal(reason)
          const signal = AbortSignal.abort(reason)
          expect(await errorOf(locks.forceRelease('db', { signal }))).to.equal(reason)
          expect(await errorOf(locks.list({ signal }))).to.equal(reason)
          expect(await locks.list()).to.deep.equal([])
        })

        it('DT-25: a person frees a lock: its holder is notified that it is lost, and another can have it', async () => {
          const { heartbeatMs } = town
          const [a, b] = [town.process({ heartbeatMs }), town.process({ heartbeatMs })]
          const lock = await a[mode].acquireLock('db')
          const told = heard(lock)
          await b[mode].forceRelease('db')
          const next = await b[mode].acquireLock('db')
          await store.until('the news', () => lock.signal.aborted)
          await store.pass(0)
          expect(lock.signal.reason).to.be.instanceOf(ErrLost)
          expect(told.filter((one) => one.startsWith('lost'))).to.have.length(1)
          expect(lock.held).to.equal(false)
          expect(next.fencingToken > lock.fencingToken).to.equal(true)
          await renewedThrice(store, a.manager, next.lease)
          await next.token.check()
        })

        it('DT-25: to free a lock that nobody has is no error', async () => {
          await town.process()[mode].forceRelease('db')
        })

        it('a lock in `await using` is released at the end of its block', async () => {
          const { [mode]: locks } = town.process()
          let lock: FencedLock
          {
            await using inBlock = await locks.acquireLock('db')
            lock = inBlock
          }
          expect(lock.held).to.equal(false)
          await (await locks.acquireLock('db')).release()
        })

        it('after close() nobody acquires, those who wait are sent home, and what is held is as its mode says', async () => {
          const [a, b] = [town.process(), town.process()]
          const lock = await a[mode].acquireLock('db')
          await b[mode].acquireLock('other')
          const waiting = track(a[mode].acquireLock('other', { wait: true }))
          await store.pass(0)
          await a[mode].close()
          await a[mode].close()
          expect((await errorOf(waiting.promise)).name).to.equal('ErrStopped')
          expect((await errorOf(a[mode].acquireLock('third'))).name).to.equal('ErrStopped')
          expect(lock.signal.aborted).to.equal(true)
          if (mode === 'failOpen') await b[mode].acquireLock('db')
          else expect(await errorOf(b[mode].acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
        })
      })
    }

    it('DT-1: after a crash the fail-open lock opens by itself, the fail-closed one when a person says so', async () => {
      const { leaseMs } = town
      const [a, b] = [town.process({ leaseMs }), town.process({ leaseMs })]
      await acquireInTime(a.failOpen, 'open')
      const closed = await acquireInTime(a.failClosed, 'closed')
      await a.crash()
      const opens = track(b.failOpen.acquireLock('open', { wait: true }))
      await store.until('the lease to lapse', () => opens.state !== 'pending')
      await opens.promise
      await lapsed()
      await b.crash()

      const person = town.process()
      expect(await errorOf(person.failClosed.acquireLock('closed'))).to.be.instanceOf(ErrClaimDenied)
      expect((await person.failClosed.list()).find(({ id }) => id === 'closed')?.holder).to.equal(closed.holder)
      await person.failClosed.forceRelease('closed')
      expect((await person.manager.pinned()).size).to.equal(0)
      const next = await person.failClosed.acquireLock('closed')
      expect(next.fencingToken > closed.fencingToken).to.equal(true)
    })

    it('DT-11: a fail-closed lock has a fencing token, and anyone who waits for it has it when it is released', async () => {
      const { leaseMs } = town
      const [a, b] = [town.process({ leaseMs }), town.process({ leaseMs })]
      const lock = await acquireInTime(a.failClosed, 'db')
      const waiting = track(acquireInTime(b.failClosed, 'db'))
      await lapsed()
      expect(waiting.state).to.equal('pending')
      expect(lock.held).to.equal(true)
      await lock.release()
      await store.until('the next one', () => waiting.state !== 'pending')
      expect((await waiting.promise).fencingToken > lock.fencingToken).to.equal(true)
    })

    it('DT-11: a fail-closed lock leaves no pin behind, released, refused or freed', async () => {
      const [a, b] = [town.process(), town.process()]
      const lock = await a.failClosed.acquireLock('db')
      await errorOf(b.failClosed.acquireLock('db'))
      expect(Array.from(await a.manager.pinned())).to.deep.equal([[lock.lease, [lock.holder]]])
      await lock.release()
      expect((await a.manager.pinned()).size).to.equal(0)
    })

    it('DT-14: where the store has a clock, a stale lock is taken as soon as its lease is over', async () => {
      const { leaseMs } = town
      if (!store.serverClock) return
      const [a, b] = [town.process({ leaseMs, heartbeat: false }), town.process()]
      const lock = await a.failOpen.acquireLock('db')
      await lapsed() // b has never looked at it
      const next = await b.failOpen.acquireLock('db')
      expect(next.fencingToken > lock.fencingToken).to.equal(true)
    })

    it('DT-16: an id is one lock in both modes, its tokens rise through both, and each ends as its own mode says', async () => {
      const [a, b] = [town.process(), town.process()]
      let last = 0n
      for (const [first, second] of [
        ['failOpen', 'failClosed'],
        ['failClosed', 'failOpen'],
      ] as const) {
        const lock = await a[first].acquireLock('db')
        expect(await errorOf(b[second].acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
        expect(lock.fencingToken > last).to.equal(true)
        last = lock.fencingToken
        await lock.release()
        const next = await b[second].acquireLock('db')
        expect(next.fencingToken > last).to.equal(true)
        last = next.fencingToken
        await next.release()
      }
      // A fail-closed one that waits does not keep a fail-open one from opening.
      const crashing = town.process({ leaseMs: town.leaseMs })
      await acquireInTime(crashing.failOpen, 'db')
      const refused = refusal(b.manager)
      const waiting = track(b.failClosed.acquireLock('db', { wait: true }))
      await Promise.race([refused, waiting.promise]) // on a slow machine the brief lease is over by then
      await crashing.crash()
      await store.until('the takeover', () => waiting.state !== 'pending')
      await waiting.promise
    })

    it('DT-18: heartbeats keep a fail-open lock for as long as its holder lives', async () => {
      const { leaseMs, heartbeatMs } = town
      const [a, b] = [exact ? town.process({ leaseMs }) : town.process({ heartbeatMs }), town.process()]
      const lock = await a.failOpen.acquireLock('db')
      for (let times = 0; times < 2; times++) {
        if (exact) await store.pass(0.8 * leaseMs)
        else await renewedThrice(store, b.manager, lock.lease)
        expect(lock.held).to.equal(true)
        expect(await errorOf(b.failOpen.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
      }
    })

    it('DT-18: without heartbeats a lock is lost when its lease is over, and its holder is notified before another has it', async () => {
      const { leaseMs } = town
      const [a, b] = [town.process({ leaseMs, heartbeat: false }), town.process({ heartbeat: false })]
      const sentMs = store.clock.monotonic()
      const lock = await a.failOpen.acquireLock('db')
      const told = heard(lock)
      const next = track(b.failOpen.acquireLock('db', { wait: true }))
      // A machine that stalls may be late with the news, but `held` is never late: to read it is to be notified.
      void next.promise.then(() => told.push(!exact && lock.held ? 'next, too early' : 'next'))
      await store.pass(leaseMs / 4)
      const { held } = lock
      if (store.clock.monotonic() - sentMs < leaseMs * 0.999 - 1) expect(held).to.equal(true)
      await store.until('the end', () => next.state !== 'pending')
      expect(told.map((one) => one.split(':')[0])).to.deep.equal(['lost', 'next'])
      expect((lock.signal.reason as ErrLost).reason).to.equal('expired')
      await lock.release() // is no error, and disturbs nobody
      await (await next.promise).token.check()
    })

    it('DT-20: a fail-open lock that was lost, or is another’s, is released without an error', async () => {
      const [a, b] = [town.process(), town.process()]
      const lock = await a.failOpen.acquireLock('db')
      await b.manager.revoke(lock.lease)
      const next = await b.failOpen.acquireLock('db')
      await lock.release()
      await next.token.check()
    })

    it('DT-22: a fail-closed lock that a person has freed cannot be released: an error that says so', async () => {
      const [a, b] = [town.process(), town.process()]
      const lock = await a.failClosed.acquireLock('db')
      await b.failClosed.forceRelease('db')
      const next = await b.failClosed.acquireLock('db')
      const error = (await errorOf(lock.release())) as ErrNotHeld
      expect(error).to.be.instanceOf(ErrNotHeld)
      expect(error.code).to.equal('LEASE_NOT_HELD')
      await next.token.check()
      expect((await b.manager.pinned()).get(next.lease)).to.deep.equal([next.holder])
    })
  })
}
