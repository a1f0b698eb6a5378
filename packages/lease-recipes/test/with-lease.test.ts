import { expect } from 'chai'
import { getEventListeners } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotValid,
  ErrUnknown,
  Manager,
  MemoryStore,
  MemorySubstrate,
  type Hold,
} from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { using, withLease, type LeaseScope, type WithLeaseOptions } from 'lease-recipes'
import { Bench, rejection, unhandledDuring, type Process } from './bench.ts'
import { moments } from './moments.ts'
import { stores } from './stores.ts'

for (const store of stores('etcd')) {
  describe(`withLease on ${store.name}`, () => {
    const options: WithLeaseOptions = { duration: 1000 * store.briefMs }
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

    /** The outcome of work that can do nothing but begin, as another process would. */
    function elsewhere(): Promise<string> {
      return withLease(there.manager, 'db', options, () => 'done elsewhere')
    }

    /** Work that goes on until `end` is called. */
    function begin(more: Partial<WithLeaseOptions> = {}): {
      call: Promise<string>
      scope: Promise<LeaseScope>
      end: () => void
    } {
      let end = (): void => {}
      const ended = new Promise<void>((resolve) => (end = resolve))
      let call = Promise.resolve('')
      const scope = new Promise<LeaseScope>((resolve, reject) => {
        call = withLease(here.manager, 'db', { ...options, ...more }, async (scope) => {
          resolve(scope)
          await ended
          return 'done'
        })
        call.catch(reject)
      })
      return { call, scope, end }
    }

    it('withLease resolves with what the work returns, and the lease is free then', async () => {
      const result = await withLease(here.manager, 'db', options, async ({ signal, fencingToken, hold }) => {
        expect([signal.aborted, hold.held, hold.fencingToken === fencingToken]).to.deep.equal([false, true, true])
        expect((await hold.token.check()).holder).to.equal(hold.holder)
        await rejection(elsewhere(), ErrClaimDenied)
        return 42
      })
      expect(result).to.equal(42)
      expect(await elsewhere()).to.equal('done elsewhere')
    })

    it('withLease rejects with what the work throws, undefined too, and the lease is free then', async () => {
      for (const thrown of [new Error('mine'), undefined, 'text']) {
        for (const work of [
          () => Promise.reject(thrown),
          () => {
            // oxlint-disable-next-line typescript/only-throw-error -- work may throw anything
            throw thrown
          },
        ]) {
          const settled = await withLease<string>(here.manager, 'db', options, work).then(
            () => 'resolved',
            (error: unknown) => ({ error }),
          )
          expect(settled).to.deep.equal({ error: thrown })
        }
      }
      expect(await elsewhere()).to.equal('done elsewhere')
    })

    it('an inner call runs at once under the outer hold, and leaves it held', async () => {
      await withLease(here.manager, 'db', options, async (outer) => {
        await bench.settled(here)
        const { sent } = here
        const inner = await withLease(here.manager, 'db', options, async (scope) => {
          const deepest = await withLease(here.manager, 'db', options, ({ fencingToken }) => fencingToken)
          expect(deepest).to.equal(outer.fencingToken)
          return scope
        })
        expect([inner.fencingToken, inner.hold.holder]).to.deep.equal([outer.fencingToken, outer.hold.holder])
        expect(here.sent).to.equal(sent)
        expect([inner.signal.aborted, inner.hold.held, outer.signal.aborted, outer.hold.held]).to.deep.equal([
          true,
          false,
          false,
          true,
        ])
        await rejection(elsewhere(), ErrClaimDenied)
      })
      expect(await elsewhere()).to.equal('done elsewhere')
    })

    it('two inner calls run side by side, and the error of one is its own', async () => {
      const mine = new Error('mine')
      await withLease(here.manager, 'db', options, async (outer) => {
        let meet = (): void => {}
        const met = new Promise<void>((resolve) => (meet = resolve))
        const [first, second] = await Promise.allSettled([
          withLease(here.manager, 'db', options, async ({ fencingToken }) => {
            await met
            return fencingToken
          }),
          withLease(here.manager, 'db', options, () => {
            meet()
            throw mine
          }),
        ])
        expect([first, second]).to.deep.equal([
          { status: 'fulfilled', value: outer.fencingToken },
          { status: 'rejected', reason: mine },
        ])
        expect(outer.hold.held).to.equal(true)
      })
    })

    it('an inner call is refused when the outer hold is released, and begins nothing', async () => {
      let began = false
      const inner = (): Promise<void> => withLease(here.manager, 'db', options, () => void (began = true))
      await withLease(here.manager, 'db', options, async ({ hold }) => {
        await hold.release()
        await rejection(inner(), ErrLost)
        expect(await elsewhere()).to.equal('done elsewhere')
        await rejection(inner(), ErrLost)
      })
      expect(began).to.equal(false)
      await inner()
      expect(began).to.equal(true)
    })

    it('an inner call is refused when the outer hold is lost, and a running one hears of it', async () => {
      const running = track(
        withLease(here.manager, 'db', options, async (outer) => {
          const heard = withLease(here.manager, 'db', options, async ({ signal }) => {
            await new Promise((resolve) => signal.addEventListener('abort', resolve))
            return signal.reason as unknown
          })
          await there.manager.revoke('db')
          await store.until('the news', () => outer.signal.aborted)
          expect(await heard).to.equal(outer.signal.reason)
          return rejection(
            withLease(here.manager, 'db', options, () => {}),
            ErrLost,
          )
        }),
      )
      expect((await running.promise).reason).to.be.oneOf(['revoked', 'taken'])
    })

    it('a call from a context that has outlived its work claims on its own', async () => {
      let goOn = (): void => {}
      const over = new Promise<void>((resolve) => (goOn = resolve))
      let detached: Promise<bigint> = Promise.resolve(0n)
      const outer = await withLease(here.manager, 'db', options, ({ fencingToken }) => {
        detached = over.then(() => withLease(here.manager, 'db', options, (own) => own.fencingToken))
        return fencingToken
      })
      const taken = await there.manager.hold('db', 'rival', { duration: options.duration })
      goOn()
      await rejection(detached, ErrClaimDenied)
      await taken.release()
      expect(outer < taken.fencingToken).to.equal(true)
    })

    it('a call from a context that has outlived an inner work joins the outer one', async () => {
      await withLease(here.manager, 'db', options, async (outer) => {
        let goOn = (): void => {}
        const over = new Promise<void>((resolve) => (goOn = resolve))
        let detached: Promise<bigint> = Promise.resolve(0n)
        await withLease(here.manager, 'db', options, () => {
          detached = over.then(() => withLease(here.manager, 'db', options, (own) => own.fencingToken))
        })
        goOn()
        expect(await detached).to.equal(outer.fencingToken)
      })
    })

    it('the lease is released only when inner calls that nobody waited for have ended', async () => {
      let goOn = (): void => {}
      const over = new Promise<void>((resolve) => (goOn = resolve))
      let begun = (): void => {}
      const innerBegan = new Promise<void>((resolve) => (begun = resolve))
      let inner = track(Promise.resolve(false))
      const outer = track(
        withLease(here.manager, 'db', options, () => {
          inner = track(
            withLease(here.manager, 'db', options, async ({ hold, signal }) => {
              begun()
              await over
              return hold.held && !signal.aborted
            }),
          )
          return 'done'
        }),
      )
      await innerBegan
      await rejection(elsewhere(), ErrClaimDenied)
      expect([outer.state, inner.state]).to.deep.equal(['pending', 'pending'])
      goOn()
      expect([await outer.promise, await inner.promise]).to.deep.equal(['done', true])
      expect(await elsewhere()).to.equal('done elsewhere')
    })

    it('an inner call that releases early ends its own part, and not the outer hold', async () => {
      await withLease(here.manager, 'db', options, async (outer) => {
        await withLease(here.manager, 'db', options, async ({ hold, signal }) => {
          await hold.release()
          await hold.release()
          expect([hold.held, signal.aborted, hold.remaining().toMillis()]).to.deep.equal([false, true, 0])
          expect(() => hold.assertHeld()).to.throw(ErrLost)
          await rejection(hold.renew(), ErrLost)
          await rejection(hold.update('x'), ErrLost)
          await rejection(
            withLease(here.manager, 'db', options, () => {}),
            ErrLost,
          )
        })
        expect(outer.hold.held).to.equal(true)
        await rejection(elsewhere(), ErrClaimDenied)
        await withLease(here.manager, 'db', options, ({ hold }) => hold.release({ all: true }))
        expect(outer.hold.held).to.equal(false)
      })
    })

    it('the hold of an inner call is a Hold: `using`, the token and updates take it', async () => {
      await withLease(here.manager, 'db', options, async (outer) => {
        await withLease(here.manager, 'db', options, async ({ hold }) => {
          const same: (keyof Hold)[] = ['lease', 'holder', 'fencingToken', 'token']
          for (const member of same) expect(hold[member]).to.equal(outer.hold[member])
          const mostMs = outer.hold.remaining().toMillis() // the less, the later it is read
          expect(hold.remaining().toMillis()).to.be.within(1, mostMs)
          expect(hold.trustedUntil.isValid).to.equal(true)
          await hold.renew()
          await hold.update('of the inner call', { duration: { days: 1 } })
          expect(outer.hold.remaining().as('hours')).to.be.greaterThan(1)
          expect((await there.manager.find('db'))?.value).to.equal('of the inner call')
          expect(await using(hold, () => 'used')).to.equal('used')
          expect(hold.held).to.equal(false)
        })
        await using(outer.hold, () => {})
      })
    })

    it('calls of another name or another manager claim on their own', async () => {
      await withLease(here.manager, 'db', options, async () => {
        expect(await withLease(here.manager, 'other', options, ({ hold }) => hold.lease)).to.equal('other')
        await rejection(elsewhere(), ErrClaimDenied)
      })
    })

    it('a call that waits is granted the lease when the work elsewhere has ended', async () => {
      const { call, scope, end } = begin()
      const { fencingToken } = await scope
      const next = withLease(there.manager, 'db', { ...options, wait: true }, (own) => own.fencingToken)
      end()
      expect(await call).to.equal('done')
      expect((await next) > fencingToken).to.equal(true)
    })

    it('the holder is the one that is given, and otherwise another for each call', async () => {
      const holder = ({ hold }: LeaseScope): string => hold.holder
      expect(await withLease(here.manager, 'db', { ...options, holder: 'me' }, holder)).to.equal('me')
      const holders = [
        await withLease(here.manager, 'db', options, holder),
        await withLease(here.manager, 'db', options, holder),
      ]
      expect(new Set(holders).size).to.equal(2)
    })

    it('a signal ends the wait; the work hears it, and is waited for', async () => {
      const abort = new AbortController()
      const reason = new Error('enough')
      const { call, scope, end } = begin({ signal: abort.signal })
      const { signal, hold } = await scope
      const waiting = track(
        withLease(there.manager, 'db', { ...options, wait: true, signal: abort.signal }, () => 'began'),
      )
      await bench.settled(there)
      abort.abort(reason)
      await store.until('the end of the wait', () => waiting.state !== 'pending')
      expect([waiting.error, signal.reason, hold.held]).to.deep.equal([reason, reason, true])
      const late = await withLease(here.manager, 'other', { ...options, signal: abort.signal }, () => 'began').catch(
        (error: unknown) => error,
      )
      expect(late).to.equal(reason)
      end()
      expect(await call).to.equal('done')
      expect(getEventListeners(abort.signal, 'abort')).to.have.length(0)
      expect(await elsewhere()).to.equal('done elsewhere')
    })
  })
}

describe('withLease', () => {
  const options: WithLeaseOptions = { duration: 10_000 }
  let clock: TestClock
  let network: FaultySubstrate
  let manager: Manager

  beforeEach(() => {
    clock = new TestClock()
    network = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ clock }) }), { clock })
    manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
  })
  afterEach(() => manager.stop())

  it('a release that fails masks neither a result nor an error, and is reported', async () => {
    network.reject(new Error('away'), { kind: 'release' })
    const works = { a: async () => 'fine', b: () => Promise.reject<string>(new Error('mine')) }
    for (const [name, work] of Object.entries(works)) {
      const told: unknown[] = []
      const releaseFailed = (error: unknown): void => void told.push(error)
      const call = track<string>(withLease<string>(manager, name, { ...options, releaseFailed }, work))
      await clock.advance(5000)
      expect(call.value ?? (call.error as Error).message).to.equal(name === 'a' ? 'fine' : 'mine')
      expect(told.map((error) => error instanceof ErrUnknown)).to.deep.equal([true])
    }
  })

  it('a call that is aborted at any moment of its claim keeps nothing', async () => {
    const begins = new Set<boolean>()
    for (const moment of moments(6, 16)) {
      const abort = new AbortController()
      let began = false
      const call = track(withLease(manager, 'db', { ...options, signal: abort.signal }, () => void (began = true)))
      await moment()
      const before = began
      abort.abort(new Error('enough'))
      await clock.settle()
      expect([began, call.state]).to.deep.equal([before, before ? 'fulfilled' : 'rejected'])
      expect((await manager.leases()).size).to.equal(0)
      begins.add(began)
    }
    expect(begins.size).to.equal(2)
  })

  it('the lease is renewed while the work goes on, and its loss aborts the signal with an ErrLost', async () => {
    const call = track(
      withLease(manager, 'db', options, async ({ signal }) => {
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        throw signal.reason as Error
      }),
    )
    await clock.advance(60_000)
    expect(call.state).to.equal('pending')
    network.reject(new Error('away'), { kind: 'extend' })
    await clock.advance(20_000)
    expect(call.error).to.be.instanceOf(ErrLost)
  })

  it('a chain of contexts that outlive each other keeps no hold of the past', async () => {
    const past: WeakRef<Hold>[] = []
    let goOn = (): void => {}
    const done = new Promise<void>((resolve) => (goOn = resolve))
    // Each call is made in the context of the one before, whose work is over.
    const again = async (): Promise<void> => {
      await withLease(manager, 'db', options, ({ hold }) => {
        past.push(new WeakRef(hold))
        setImmediate(past.length === 5 ? goOn : () => void again())
      })
    }
    const chain = async (): Promise<void> => {
      await again()
      await done
    }
    expect(await unhandledDuring(chain)).to.deep.equal([])
    setFlagsFromString('--expose-gc')
    const collectGarbage = runInNewContext('gc') as () => void
    for (let turn = 0; turn < 5; turn++) {
      await new Promise((resolve) => setImmediate(resolve))
      collectGarbage()
    }
    expect(past[0]?.deref()).to.equal(undefined)
  })

  it('what is wrong with the arguments is reported at once, inside as well, and nothing is sent', async () => {
    const bad = {
      duration: 0,
      wait: 'long',
      signal: 5,
      holder: 'a b',
      value: 6,
      announce: 7,
      shared: 8,
      renewEvery: -1,
      maxWaiters: 0,
      releaseFailed: 9,
      retries: 10,
    }
    const call = (): Promise<unknown> => withLease(manager, 'no.name', bad as never, 'work' as never)
    const { problems } = await rejection(call(), ErrNotValid)
    const all = [
      'retries',
      'name',
      'holder',
      'duration',
      'wait',
      'signal',
      'value',
      'announce',
      'shared',
      'renewEvery',
      'maxWaiters',
      'releaseFailed',
      'work',
    ]
    expect(problems.map(({ argument }) => argument)).to.have.members(all)
    expect(network.counts.roundTrips).to.equal(0)
    await withLease(manager, 'db', options, async () => {
      const inside = await rejection(
        withLease(manager, 'db', { duration: 7 }, () => {}),
        ErrNotValid,
      )
      expect(inside.problems.map(({ argument }) => argument)).to.deep.equal(['duration'])
    })
    for (const nothing of [undefined, null, 5]) {
      await rejection(
        withLease(nothing as never, 'db', options, () => {}),
        ErrNotValid,
      )
      await rejection(
        withLease(manager, 'db', nothing as never, () => {}),
        ErrNotValid,
      )
    }
    for (const renewEvery of [false, 3] as const) {
      expect(await withLease(manager, 'db', { duration: 50, renewEvery }, () => 'fine')).to.equal('fine')
    }
    await rejection(
      withLease(manager, 'db', { duration: 50, renewEvery: 45 }, () => {}),
      ErrNotValid,
    )
    await withLease(manager, 'db', options, ({ hold }) =>
      withLease(manager, 'db', options, async (inner) => {
        await rejection(inner.hold.release({ all: 5 } as never), ErrNotValid)
        expect([inner.hold.held, hold.held]).to.deep.equal([true, true])
      }),
    )
  })
})
