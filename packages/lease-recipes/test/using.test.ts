import { expect } from 'chai'
import { ErrLost, ErrNotValid, ErrUnknown, Manager, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { FailClosedLock, FailOpenLock, using, type Usable } from 'lease-recipes'
import { errorOf, Town } from './fenced-lock.fixture.ts'
import { stores } from './stores.ts'

const LASTING_MS = 600_000

for (const store of stores('redis')) {
  describe(`using a lock on ${store.name}`, () => {
    let town: Town

    before(() => store.open())
    after(() => store.close())
    beforeEach(() => void (town = new Town(store)))
    afterEach(() => town.close())

    const acquired = {
      'a fail-open lock': () => town.process().failOpen.acquireLock('db'),
      'a fail-open lock without heartbeats': () => town.process({ heartbeat: false }).failOpen.acquireLock('db'),
      'a fail-closed lock': () => town.process().failClosed.acquireLock('db'),
      'a Hold': () => town.process().manager.hold('locks:db', 'me', { duration: LASTING_MS }),
    }
    for (const [what, acquire] of Object.entries(acquired)) {
      it(`the result of work under ${what} is the caller’s, and then the lock is another’s`, async () => {
        const lock: Usable = await acquire()
        const result = await using(lock, async ({ signal, fencingToken, lock: same }) => {
          expect(signal.aborted).to.equal(false)
          expect(fencingToken).to.equal(lock.fencingToken)
          expect(same).to.equal(lock)
          await store.pass(1)
          return 'done'
        })
        expect(result).to.equal('done')
        await town.process().failOpen.acquireLock('db')
      })

      it(`the error of work under ${what} is the caller’s, and then the lock is another’s`, async () => {
        const mine = new Error('mine')
        for (const work of [
          () => Promise.reject(mine),
          () => {
            throw mine
          },
        ]) {
          expect(await errorOf(using<Usable, never>(await acquire(), work))).to.equal(mine)
        }
        await town.process().failOpen.acquireLock('db')
      })
    }

    it('work is notified when a person frees its lock, and is waited for', async () => {
      const [a, b] = [town.process(), town.process()]
      const lock = await a.failOpen.acquireLock('db')
      const steps: string[] = []
      const working = using(lock, async ({ signal }) => {
        const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve))
        await b.failOpen.forceRelease('db')
        await store.until('the news', () => signal.aborted)
        await aborted
        steps.push((signal.reason as ErrLost).name)
        await Promise.resolve()
        steps.push('wound up')
        return 'a result that stands'
      })
      expect(await working).to.equal('a result that stands')
      expect(steps).to.deep.equal(['ErrLost', 'wound up'])
    })
  })
}

describe('using a lock', () => {
  let clock: TestClock
  let network: FaultySubstrate
  let manager: Manager
  let open: FailOpenLock
  let closed: FailClosedLock

  beforeEach(() => {
    clock = new TestClock()
    network = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ clock }) }), { clock })
    manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
    open = new FailOpenLock({ manager, clock, leaseDuration: 10_000, heartbeatPeriod: 2000 })
    closed = new FailClosedLock({ manager, clock })
  })
  afterEach(() => manager.stop())

  it('a release that fails masks neither a result nor an error, and is notified', async () => {
    network.reject(new Error('away'), { kind: ['release', 'unpin'] })
    for (const locks of [open, closed]) {
      for (const outcome of ['result', 'error']) {
        const told: unknown[] = []
        const lock = await locks.acquireLock(`${outcome}-${locks === open}`)
        const work = (): Promise<string> =>
          outcome === 'result' ? Promise.resolve('fine') : Promise.reject(new Error('mine'))
        const using1 = track(using(lock, work, { releaseFailed: (error) => told.push(error) }))
        await clock.advance(5000)
        if (outcome === 'result') expect(using1.value).to.equal('fine')
        else expect(using1.error).to.have.property('message', 'mine')
        expect(told).to.have.length(1)
        expect(told[0]).to.be.instanceOf(ErrUnknown)
      }
    }
  })

  it('untold, a release that fails becomes a warning; so does a teller that throws', async () => {
    const warnings: Error[] = []
    const warn = (warning: Error): void => void warnings.push(warning)
    process.on('warning', warn)
    network.reject(new Error('away'), { kind: 'release' })
    const releaseFailed = (): void => {
      throw new Error('of the teller')
    }
    const [first, second] = [await open.acquireLock('1'), await open.acquireLock('2')]
    const both = track(Promise.all([using(first, () => 1), using(second, () => 2, { releaseFailed })]))
    await clock.advance(5000)
    expect(both.value).to.deep.equal([1, 2])
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', warn)
    expect(warnings.map(({ name }) => name)).to.have.members(['ErrUnknown', 'Error'])
  })

  it('a `releaseFailed` that is async and rejects becomes a warning, and the outcome is the work’s', async () => {
    const warnings: string[] = []
    const onWarning = ({ message }: Error): void => void warnings.push(message)
    const unhandled: unknown[] = []
    const onUnhandled = (reason: unknown): void => void unhandled.push(reason)
    process.on('warning', onWarning).on('unhandledRejection', onUnhandled)
    network.reject(new Error('away'), { kind: 'release' })
    const lock = await open.acquireLock('db')
    const releaseFailed = (): Promise<void> => Promise.reject(new Error('of the teller'))
    // oxlint-disable-next-line typescript/no-misused-promises -- a mistake that is easily made
    const working = track(using(lock, () => 'fine', { releaseFailed }))
    await clock.advance(5000)
    await new Promise((resolve) => setImmediate(resolve))
    process.off('warning', onWarning).off('unhandledRejection', onUnhandled)
    expect([working.value, warnings, unhandled]).to.deep.equal(['fine', ['of the teller'], []])
  })

  it('the work’s signal aborts before another can have the lock', async () => {
    const lock = await open.acquireLock('db')
    network.reject(new Error('away'), { kind: 'extend' })
    let abortedAtMs = 0
    const startMs = clock.monotonic()
    const working = track(
      using(lock, async ({ signal }) => {
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        abortedAtMs = clock.monotonic()
        lock.assertHeld()
      }),
    )
    await clock.advance(20_000)
    expect(abortedAtMs - startMs).to.be.within(9000, 10_000)
    expect(working.error).to.be.instanceOf(ErrLost)
  })

  it('a signal of the caller’s ends the work, then the lock; what is left in the background hears the end as well', async () => {
    const abort = new AbortController()
    const lock = await open.acquireLock('db')
    const working = track(
      using(
        lock,
        async ({ signal }) => {
          await new Promise((resolve) => signal.addEventListener('abort', resolve))
          expect(lock.held).to.equal(true)
          throw signal.reason as Error
        },
        { signal: abort.signal },
      ),
    )
    await clock.advance(100)
    abort.abort(new Error('enough'))
    await clock.settle()
    expect(working.error).to.have.property('message', 'enough')
    expect(lock.held).to.equal(false)
    const leftBehind = await using(await open.acquireLock('db'), ({ signal }) => signal)
    expect((leftBehind.reason as Error).name).to.equal('AbortError')
  })

  it('no work is begun under a lock that is over, or with a signal that has aborted', async () => {
    let began = false
    const work = (): void => void (began = true)
    const lost = await open.acquireLock('db')
    await open.forceRelease('db')
    await clock.settle()
    expect(await errorOf(using(lost, work))).to.be.instanceOf(ErrLost)
    const lock = await open.acquireLock('db')
    const reason = new Error('too late')
    expect(await errorOf(using(lock, work, { signal: AbortSignal.abort(reason) }))).to.equal(reason)
    expect(lock.held).to.equal(false)
    expect(began).to.equal(false)
  })

  it('what is wrong with the arguments is reported at once, and the lock is released all the same', async () => {
    const lock = await open.acquireLock('db')
    const options = { signal: 5, releaseFailed: 6, retries: 7 } as never
    const error = (await errorOf(using(lock, 'work' as never, options))) as ErrNotValid
    expect(error.problems.map(({ argument }) => argument)).to.deep.equal(['retries', 'work', 'signal', 'releaseFailed'])
    expect(lock.held).to.equal(false)
    const forgotten = using(open.acquireLock('db') as never, () => {})
    expect(await errorOf(forgotten)).to.be.instanceOf(ErrNotValid)
    await clock.settle()
    expect((await manager.leases()).size).to.equal(0)
    const text = (await errorOf(using(await open.acquireLock('text'), () => {}, 'a text' as never))) as ErrNotValid
    expect(text.problems.map(({ argument }) => argument)).to.deep.equal(['options'])
    for (const bad of [undefined, null, {}])
      expect(await errorOf(using(bad as never, () => {}))).to.be.instanceOf(ErrNotValid)
  })

  it('options that throw when they are read end the call, and the lock is released', async () => {
    const lock = await open.acquire('db')
    const options = {
      get signal(): AbortSignal {
        throw new Error('of the getter')
      },
    }
    const error = (await errorOf(using(lock, () => {}, options))) as ErrNotValid
    expect(error).to.be.instanceOf(ErrNotValid)
    expect(error.problems.map(({ argument }) => argument)).to.deep.equal(['options'])
    expect(lock.held).to.equal(false)
  })

  it('a signal that cannot be listened to ends the call, and the lock is released', async () => {
    const broken = {
      aborted: false,
      removeEventListener: () => {},
      addEventListener: () => {
        throw new Error('broken')
      },
    }
    const lock = await open.acquire('db')
    const working = using(lock, () => {}, { signal: broken as unknown as AbortSignal })
    expect(await errorOf(working)).to.be.instanceOf(ErrNotValid)
    expect(lock.held).to.equal(false)
  })
})
