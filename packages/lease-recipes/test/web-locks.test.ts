import { expect } from 'chai'
import { ErrClaimDenied, ErrNotValid, type ErrLost, type Manager } from 'lease-core'
import { track } from 'lease-core/testing'
import { webLocks, type WebLock, type WebLockMode, type WebLocks, type WebLocksOptions } from '#src/web-locks.ts'
import { Bench, rejection, type Process } from './bench.ts'
import { refusal } from './store-events.ts'
import { stores } from './stores.ts'

for (const store of stores('redis')) {
  describe(`Web locks on ${store.name}`, () => {
    const duration = 8000 * store.unitMs
    let bench: Bench
    let here: Process
    let there: Process
    let a: WebLocks
    let b: WebLocks

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => {
      bench = new Bench(store)
      here = bench.process()
      there = bench.process()
      a = locksOf(here)
      b = locksOf(there)
    })
    afterEach(() => bench.close())

    function locksOf({ manager }: Process, options: WebLocksOptions = {}): WebLocks {
      return webLocks(manager, { duration, ...options })
    }

    /** A request whose callback stays in the lock until it is let out. */
    async function enter(
      locks: WebLocks,
      name: string,
      mode: WebLockMode = 'exclusive',
    ): Promise<{ lock: WebLock; leave: () => Promise<unknown>; outcome: Promise<unknown> }> {
      let leave = (): void => {}
      let entered: ((lock: WebLock) => void) | undefined
      const lock = new Promise<WebLock>((resolve) => (entered = resolve))
      const outcome = locks.request(name, { mode }, (granted) => {
        entered?.(granted as WebLock)
        return new Promise<string>((resolve) => (leave = () => resolve('left')))
      })
      outcome.catch(() => {})
      return {
        lock: await bench.within(lock),
        outcome,
        leave: () => {
          leave()
          return bench.within(outcome)
        },
      }
    }

    it('calls the callback with the lock and settles as it does, result or error', async () => {
      const result = await bench.within(a.request('db', async (lock) => [lock?.name, lock?.mode]))
      expect(result).to.deep.equal(['db', 'exclusive'])
      const error = await rejection(
        bench.within(
          b.request('db', () => {
            throw new TypeError('the work failed')
          }),
        ),
        TypeError,
      )
      expect(error.message).to.equal('the work failed')
      expect((await bench.within(a.query())).held).to.deep.equal([])
      expect(await bench.within(a.request('db', undefined as never, (lock) => lock?.mode))).to.equal('exclusive')
    })

    it('holds an exclusive lock alone and shared ones together, whatever the process', async () => {
      const writer = await enter(a, 'db')
      const refused = refusal(there.manager)
      const readers = [track(b.request('db', { mode: 'shared' }, (lock) => lock?.mode))]
      await bench.within(refused)
      expect(readers[0]?.state).to.equal('pending')
      expect(await writer.leave()).to.equal('left')
      expect(await bench.within((readers[0] as { promise: Promise<unknown> }).promise)).to.equal('shared')
      const [one, two] = [await enter(a, 'db', 'shared'), await enter(b, 'db', 'shared')]
      expect(await bench.within(b.request('db', { ifAvailable: true }, (lock) => lock))).to.equal(null)
      await one.leave()
      await two.leave()
      expect(two.lock.fencingToken > one.lock.fencingToken).to.equal(true)
    })

    it('serves requests in the order in which they came, readers and writers', async () => {
      const first = await enter(a, 'db')
      const order: string[] = []
      const requests: Promise<unknown>[] = []
      for (const [index, mode] of (['shared', 'exclusive', 'shared'] as const).entries()) {
        const process = bench.process()
        const refused = refusal(process.manager)
        requests.push(locksOf(process).request('db', { mode }, () => order.push(`${index} ${mode}`)))
        await bench.within(refused)
      }
      await first.leave()
      await bench.within(Promise.all(requests))
      if (store.exact) expect(order).to.deep.equal(['0 shared', '1 exclusive', '2 shared'])
      expect(order).to.have.length(3)
    })

    it('calls the callback with null where the lock is not available, and with the lock where it is', async () => {
      const held = await enter(a, 'db')
      expect(await bench.within(b.request('db', { ifAvailable: true }, (lock) => lock))).to.equal(null)
      await held.leave()
      expect(await bench.within(b.request('db', { ifAvailable: true }, (lock) => lock?.name))).to.equal('db')
    })

    it('steals a lock ahead of those who wait: its request rejects with an AbortError, and theirs goes on', async () => {
      const [reader, other] = [await enter(a, 'db', 'shared'), await enter(b, 'db', 'shared')]
      const process = bench.process()
      const refused = refusal(process.manager)
      const order: string[] = []
      const waiting = track(
        locksOf(process).request('db', () => {
          order.push('waiter')
          return 'served'
        }),
      )
      await bench.within(refused)
      const thief = locksOf(bench.process())
      let seen: string[] = []
      const stolen = await bench.within(
        thief.request('db', { steal: true }, async (lock) => {
          order.push('thief')
          seen = (await thief.query()).held.map(({ mode }) => mode)
          return lock?.mode
        }),
      )
      expect([stolen, seen]).to.deep.equal(['exclusive', ['exclusive']])
      for (const { outcome, lock } of [reader, other]) {
        const error = await rejection(bench.within(outcome), DOMException)
        expect(error.name).to.equal('AbortError')
        expect(error.message).to.equal('the lock "db" was stolen or lost')
        expect((error.cause as ErrLost).reason).to.be.oneOf(['revoked', 'taken'])
        expect(lock.signal.aborted).to.equal(true)
      }
      expect(await bench.within(waiting.promise)).to.equal('served')
      if (store.exact) expect(order).to.deep.equal(['thief', 'waiter'])
    })

    it('steals a lock however often others are faster', async () => {
      const { manager } = bench.process()
      let faster = 5
      const late = {
        counted: (lease) => manager.counted(lease),
        find: (lease) => manager.find(lease),
        leases: () => manager.leases(),
        revoke: (lease, options) => manager.revoke(lease, options),
        async hold(lease, holder, options) {
          if (faster-- > 0) throw new ErrClaimDenied('another was faster', { lease, holder })
          return manager.hold(lease, holder, options)
        },
      } as Pick<Manager, 'counted' | 'find' | 'leases' | 'revoke' | 'hold'>
      const thief = webLocks(late as Manager, { duration })
      const held = await enter(a, 'db')
      expect(await bench.within(thief.request('db', { steal: true }, (lock) => lock?.mode))).to.equal('exclusive')
      expect(faster).to.equal(-1)
      expect((await rejection(bench.within(held.outcome), DOMException)).name).to.equal('AbortError')
    })

    it('ends a wait with the reason of its signal, and not the lock', async () => {
      const held = await enter(a, 'db')
      const controller = new AbortController()
      const refused = refusal(there.manager)
      const waiting = rejection(
        b.request('db', { signal: controller.signal }, () => 'granted'),
        Error,
      )
      await bench.within(refused)
      expect((await b.query()).pending.map(({ name, mode }) => [name, mode])).to.deep.equal([['db', 'exclusive']])
      controller.abort(new Error('no patience'))
      expect((await bench.within(waiting)).message).to.equal('no patience')
      expect((await b.query()).pending).to.deep.equal([])
      await held.leave()
      const late = new AbortController()
      const lock = b.request('db', { signal: late.signal }, async () => {
        late.abort(new Error('too late'))
        await new Promise((resolve) => setImmediate(resolve))
        return 'done'
      })
      expect(await bench.within(lock)).to.equal('done')
      await rejection(
        b.request('db', { signal: AbortSignal.abort(new Error('aborted')) }, () => {}),
        Error,
      )
    })

    it('shows the locks that are held in all processes, by the names that were asked for', async () => {
      const names = ['a b', 'a/b', 'a.b#c', 'ä', '0']
      const held = [await enter(a, names[0] as string, 'shared')]
      for (const name of names.slice(1)) held.push(await enter(b, name))
      await bench.within(there.manager.hold('weblocks', 'somebody', { duration }))
      await bench.within(there.manager.hold('others/0', 'somebody', { duration, share: { capacity: 1 } }))
      const state = await bench.within(a.query())
      expect(state.held.map(({ name, mode }) => `${name} ${mode}`).toSorted()).to.deep.equal(
        names.map((name, index) => `${name} ${index === 0 ? 'shared' : 'exclusive'}`).toSorted(),
      )
      expect(new Set(state.held.map(({ clientId }) => clientId)).size).to.equal(names.length)
      for (const one of held) await one.leave()
    })

    it('refuses what makes no sense before anything is sent', async () => {
      for (const [options, why] of [
        [{ steal: true, ifAvailable: true }, 'steal and ifAvailable exclude each other'],
        [{ steal: true, mode: 'shared' }, 'only an exclusive lock can be stolen'],
        [{ steal: true, signal: new AbortController().signal }, 'signal excludes steal and ifAvailable'],
        [{ ifAvailable: true, signal: new AbortController().signal }, 'signal excludes steal and ifAvailable'],
      ] as const) {
        const error = await rejection(
          a.request('db', options as never, () => {}),
          DOMException,
        )
        expect([error.name, error.message]).to.deep.equal(['NotSupportedError', why])
      }
      expect(
        (
          await rejection(
            a.request('-db', () => {}),
            DOMException,
          )
        ).name,
      ).to.equal('NotSupportedError')
      const bad = a.request('', { mode: 'both', ifAvailable: 1, signal: 2, retries: 3 } as never, 4 as never)
      expect(
        (await rejection(bad, ErrNotValid)).problems.map(({ argument, rule }) => `${argument} ${rule}`),
      ).to.deep.equal([
        'retries is not an option',
        'name must not be empty',
        'callback must be a function',
        'mode must be "exclusive" or "shared"',
        'ifAvailable must be true or false',
        'signal must be an AbortSignal',
      ])
      await rejection(
        a.request('db', null as never, () => {}),
        ErrNotValid,
      )
      await rejection(
        a.request('x'.repeat(300), () => {}),
        ErrNotValid,
      )
      expect(() => webLocks({} as never, { duration: 0, prefix: ' ', steal: true } as never))
        .to.throw(ErrNotValid)
        .with.property('problems')
        .with.length(4)
      expect(here.sent).to.equal(0)
    })

    if (!store.exact) return

    it('rejects at once when the lock is lost, whatever the callback does', async () => {
      const short = locksOf(here, { duration: 2 * store.unitMs })
      const held = await enter(short, 'db')
      here.cut = true
      await store.pass(3 * store.unitMs)
      const error = await rejection(bench.within(held.outcome), DOMException)
      expect([error.name, (error.cause as ErrLost).reason]).to.deep.equal(['AbortError', 'unreachable'])
      expect(await bench.within(b.request('db', { ifAvailable: true }, (lock) => lock?.name))).to.equal('db')
    })
  })
}
