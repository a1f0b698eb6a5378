import { expect } from 'chai'
import {
  ErrClaimDenied,
  ErrNotHeld,
  ErrNotValid,
  Manager,
  memoryClient,
  MemoryStore,
  MemorySubstrate,
} from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { ReadWriteLock, type ReadWriteLockOptions } from '#src/read-write-lock.ts'
import { rejection } from './bench.ts'

describe('Read-write lock: options and small print', () => {
  let clock: TestClock
  let store: MemoryStore
  let manager: Manager

  beforeEach(() => {
    clock = new TestClock()
    store = new MemoryStore({ clock })
    manager = new Manager({ client: memoryClient({ store, clock }), clock })
  })
  afterEach(() => manager.stop())

  function lockOf(options: Partial<Record<keyof ReadWriteLockOptions, unknown>> = {}): ReadWriteLock {
    return new ReadWriteLock({ manager, clock, name: 'orders', ...options } as ReadWriteLockOptions)
  }

  function problemsOf(error: unknown): string[] {
    if (!(error instanceof ErrNotValid)) throw error
    return error.problems.map(({ argument, rule }) => `${argument} ${rule}`)
  }

  function problems(create: () => unknown): string[] {
    try {
      create()
    } catch (error) {
      return problemsOf(error)
    }
    throw new Error('accepted')
  }

  it('CL-8: what is wrong with the options is notified, all at once', () => {
    expect(problems(() => new ReadWriteLock(null as never))).to.deep.equal(['options must be an object'])
    const options = { manager: 1, name: '', maxReaders: 1.5, duration: -1, prefix: '', requestTimeout: 0, clock: {} }
    expect(problems(() => lockOf({ ...options, rquorum: 0.5 } as never))).to.deep.equal([
      'rquorum is not an option',
      'manager must be a Manager',
      'prefix must not be empty',
      'name must not be empty',
      'maxReaders must be a whole number from 1 to 1073741822',
      'duration must be greater than zero',
      'requestTimeout must be greater than zero',
      'clock must be a Clock',
    ])
    for (const maxReaders of [0, -1, 2 ** 30, 2 ** 30 - 1, '4'])
      expect(problems(() => lockOf({ maxReaders }))).to.have.length(1)
    expect(problems(() => lockOf({ duration: 7 }))).to.deep.equal([
      'duration must be at least 8 ms, to be renewed in time',
    ])
    expect(problems(() => lockOf({ name: 'x'.repeat(255) }))).to.have.length(1)
    expect(problems(() => lockOf({ prefix: 5 }))).to.deep.equal(['prefix must be a string'])
  })

  it('a single try takes no `wait`', async () => {
    const lock = lockOf()
    for (const call of [lock.tryRlock('x', { wait: true } as never), lock.tryWlock('x', { wait: true } as never)]) {
      expect(problemsOf(await rejection(call, ErrNotValid))).to.deep.equal(['wait is not an option'])
    }
  })

  it('CL-8: arguments that make no sense are refused at once, and nothing is sent', async () => {
    const lock = lockOf()
    for (const call of [
      lock.rlock('a b', { wait: -1, timeout: 0, signal: 1, retries: 3 } as never),
      lock.wlock('a b', { wait: -1, timeout: 0, signal: 1, retries: 3 } as never),
    ]) {
      expect(problemsOf(await rejection(call, ErrNotValid))).to.deep.equal([
        'retries is not an option',
        'holder must not contain white space or control characters',
        'wait must be greater than zero',
        'timeout must be greater than zero',
        'signal must be an AbortSignal',
      ])
    }
    await rejection(lock.rlock('x'.repeat(256)), ErrNotValid)
    await rejection(lock.runlock(5 as never), ErrNotValid)
    await rejection(lock.wunlock('x', { wait: true } as never), ErrNotValid)
    expect((await manager.leases()).size).to.equal(0)
    const reader = await lock.rlock('x')
    await rejection(reader.refresh(-1), ErrNotValid)
    expect(reader.held).to.equal(true)
  })

  it('a duration no longer than clocks differ is refused by the constructor', () => {
    for (const duration of [1, 0.5, { milliseconds: 1 }]) {
      const rule = 'duration must be longer than the margin for clocks, 1 ms and 0.1 %'
      expect(problems(() => lockOf({ duration }))).to.deep.equal([rule])
    }
  })

  it('a name or a holder that is too long is refused without being repeated: it may be a URL with a password', async () => {
    const url = `postgres://user:s3cr3t@${'x'.repeat(255)}`
    expect(problems(() => lockOf({ name: url })).join()).to.match(/^name must be shorter: /)
    expect(() => lockOf({ name: url }))
      .to.throw(ErrNotValid)
      .with.property('message')
      .that.does.not.contain('s3cr3t')
    const error = await rejection(lockOf().wlock(`redis://user:s3cr3t@${'x'.repeat(255)}`), ErrNotValid)
    expect(error.message).to.match(/^holder must be at most 255 bytes/)
  })

  it('a lock is taken however distant the store is, with a short wait as with none', async () => {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 200 })
    const distant = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const lock = lockOf({ manager: distant, maxReaders: 2 })
    await clock.drive(lock.rlock('first').then((reader) => reader.unlock())) // it observes the gate from now on
    for (const mode of ['rlock', 'wlock'] as const) {
      for (const wait of [false, 1, 50, 399, 401]) {
        await clock.drive(lock[mode]('x', { wait }).then((locked) => locked.unlock()))
      }
    }
    await clock.drive(lock.stop())
    await distant.stop()
  })

  it('a reader is refused by what the store says, and not by a writer that has left since it was seen', async () => {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 200 })
    const distant = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const [lock, theirs] = [lockOf({ manager: distant }), lockOf()]
    await clock.drive(lock.rlock('first').then((reader) => reader.unlock())) // it observes the gate from now on
    for (const writers of [lock, theirs]) {
      const writer = await clock.drive(writers.wlock('x'))
      await clock.advance(1_000)
      await clock.drive(rejection(lock.rlock('x', { wait: false }), ErrClaimDenied))
      await clock.drive(rejection(lock.rlock('y', { wait: false }), ErrClaimDenied))
      await clock.drive(writer.unlock())
      for (const reader of ['x', 'y'])
        await clock.drive(lock.rlock(reader, { wait: false }).then((one) => one.unlock()))
    }
    await clock.drive(Promise.all([lock.stop(), theirs.stop()]))
    await distant.stop()
  })

  it('a wait that ends before the answer to its claim is refused by that answer, and leaves nothing', async () => {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 60 })
    const distant = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const [theirs, lock] = [lockOf({ maxReaders: 1 }), lockOf({ manager: distant, maxReaders: 1 })]
    const reader = await theirs.rlock('x')
    for (let wait = 10; wait < 500; wait += 30) {
      await clock.drive(rejection(lock.wlock('y', { wait }), ErrClaimDenied))
      await clock.drive(rejection(lock.rlock('y', { wait }), ErrClaimDenied))
    }
    await reader.unlock()
    await clock.advance(1_000)
    expect((await manager.leases()).size).to.equal(0)
    await clock.drive(lock.stop())
    await distant.stop()
  })

  for (const mode of ['wlock', 'rlock'] as const) {
    it(`${mode}: a lock whose holder locked in another process is not given back unheard: unlock() says who keeps it`, async () => {
      const managers = [1, 2].map(() => new Manager({ client: memoryClient({ store, clock }), clock }))
      const [here, there, other] = [lockOf(), ...managers.map((one) => lockOf({ manager: one }))] as const
      const unlock = mode === 'wlock' ? 'wunlock' : 'runlock'
      const [mine, theirs] = [await here[mode]('x'), await there?.[mode]('x', { wait: false })]
      expect(await rejection(mine.unlock(), ErrNotHeld)).to.have.property('reason', 'adopted')
      expect([mine.held, theirs?.held]).to.deep.equal([false, true])
      await rejection(other?.wlock('y', { wait: false }) as Promise<unknown>, ErrClaimDenied)
      for (const unlocking of [here, lockOf()]) {
        const again = await here[mode]('x')
        await there?.[mode]('x', { wait: false })
        expect(again.held).to.equal(true)
        await clock.drive(unlocking[unlock]('x')) // whichever process has it
        await (await other?.wlock('y', { wait: false }))?.unlock()
        await clock.settle()
      }
      for (const lock of [here, there, other]) await lock?.stop()
      await Promise.all(managers.map((one) => one.stop()))
    })
  }

  it('a holder that is no text is refused, whatever it is', async () => {
    for (const holder of [Symbol('s'), Object.create(null), 10n] as never[]) {
      const error = await rejection(lockOf().rlock(holder, { wait: false }), ErrNotValid)
      expect(problemsOf(error)).to.deep.equal(['holder must be a string'])
    }
  })

  it('names are distinguished, whatever is in them', async () => {
    const names = ['a', 'a/0', 'a%2F0', 'a b', 'ä', '0']
    const locks = names.map((name) => lockOf({ name }))
    for (const lock of locks) await lock.wlock('w', { wait: false })
  })

  it('one reader at most: then it is a lock like any other', async () => {
    const lock = lockOf({ maxReaders: 1 })
    const reader = await lock.rlock('x', { wait: false })
    await rejection(lock.rlock('y', { wait: false }), Error)
    await reader.unlock()
    await lock.wlock('w', { wait: false })
  })

  it('DLM-13: what only tests would use is not there', () => {
    expect(Object.getOwnPropertyNames(ReadWriteLock).toSorted()).to.deep.equal(['length', 'name', 'prototype'])
  })

  it('nothing keeps the clock busy after stop()', async () => {
    const lock = lockOf()
    await lock.rlock('x', { timeout: 60_000 })
    const waiting = lock.wlock('y', { wait: 5000 }).catch(() => {})
    await clock.advance(10)
    const late = lock.rlock('z', { wait: 5000 }).catch(() => {})
    await clock.advance(10)
    await lock.stop()
    await Promise.all([waiting, late])
    await manager.stop()
    expect(clock.pending).to.equal(0)
  })
})

describe('Read-write lock: a writer that fails or gives up', () => {
  let clock: TestClock
  let store: MemoryStore
  let managers: Manager[]

  beforeEach(() => {
    clock = new TestClock()
    store = new MemoryStore({ clock })
    managers = []
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  function process(): { wire: FaultySubstrate; manager: Manager; lock: () => ReadWriteLock } {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 5, limits: { maxOps: 1 } })
    const manager = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    managers.push(manager)
    const lock = (): ReadWriteLock => new ReadWriteLock({ manager, name: 'l', maxReaders: 4, clock })
    return { wire, manager, lock }
  }

  it('keeps no reader out, however often it tries', async () => {
    const lock = process().lock()
    await clock.drive(lock.rlock('r'))
    for (let attempt = 0; attempt < 3; attempt++) {
      await rejection(clock.drive(lock.wlock('w', { wait: false })), ErrClaimDenied)
    }
    await clock.advance(100)
    expect((await clock.drive(lock.rlock('r2', { wait: false }))).held).to.equal(true)
    await clock.drive(lock.stop())
  })

  for (const where of ['another object', 'another process']) {
    it(`frees nothing that its holder had by ${where}, whenever it gives up`, async () => {
      let inTime = 0
      for (let afterMs = 0; afterMs <= 60; afterMs++) {
        const first = process()
        const second = where === 'another object' ? first : process()
        const [one, two] = [first.lock(), second.lock()]
        const lock = await clock.drive(one.wlock('w'))
        const controller = new AbortController()
        const again = track(two.wlock('w', { signal: controller.signal }))
        await clock.advance(afterMs)
        if (again.state === 'pending') inTime++
        const isGivenUp = again.state === 'pending'
        controller.abort(new Error('enough'))
        await clock.advance(500)
        if (isGivenUp) expect([afterMs, again.state, lock.held]).to.deep.equal([afterMs, 'rejected', true])
        await clock.drive(Promise.all([one.stop(), two.stop()]))
      }
      expect(inTime).to.be.greaterThan(0)
    })
  }

  it('keeps nothing alive of what a crashed process of its name left', async () => {
    for (let skip = 0; skip < 4; skip++) {
      const [crashed, successor, observer] = [process(), process(), process()]
      await clock.drive(crashed.lock().wlock('w'))
      await crashed.manager.stop() // releases nothing
      successor.wire.reject(new Error('cut'), { kind: 'extend', skip, times: 4 })
      const lock = successor.lock()
      const locked = track(lock.wlock('w', { wait: false }))
      await clock.advance(60_000)
      if (locked.state === 'rejected')
        expect([skip, ...(await clock.drive(observer.manager.leases())).keys()]).to.deep.equal([skip])
      await clock.drive(lock.stop())
      await clock.advance(60_000)
    }
  })

  it('a reader that asks to write, or a writer that asks to read, is refused at once, no matter who else waits', async () => {
    const [here, there, elsewhere] = [process().lock(), process().lock(), process().lock()]
    const reader = await clock.drive(here.rlock('x'))
    const waiting = track(elsewhere.wlock('w'))
    await clock.advance(100)
    for (const lock of [here, there]) {
      const error = await clock.drive(rejection(lock.wlock('x'), ErrClaimDenied))
      expect(error.message).to.equal('"x" cannot write: it reads, and cannot wait for itself')
    }
    expect(reader.held).to.equal(true)
    await clock.drive(reader.release())
    await clock.advance(100)
    expect(waiting.state).to.equal('fulfilled')
    for (const lock of [elsewhere, there]) {
      const error = await clock.drive(rejection(lock.rlock('w'), ErrClaimDenied))
      expect(error.message).to.equal('"w" cannot read: it writes, and cannot wait for itself')
    }
    await clock.drive(Promise.all([here, there, elsewhere].map((lock) => lock.stop())))
  })

  it('a hundred readers that wait for one writer in one process cause no warning', async () => {
    const warnings: string[] = []
    const listen = ({ name }: Error): void => void warnings.push(name)
    globalThis.process.on('warning', listen)
    try {
      const [here, there] = [process().lock(), process().lock()]
      const writer = await clock.drive(here.wlock('w'))
      const readers = Array.from({ length: 100 }, (_, index) => there.rlock(`r${index}`))
      await clock.advance(100)
      await clock.drive(writer.unlock())
      // The lock admits four at a time.
      await clock.drive(Promise.all(readers.map((reader) => reader.then((lock) => lock.unlock()))))
      await clock.drive(Promise.all([here.stop(), there.stop()]))
      await new Promise((resolve) => setImmediate(resolve))
      expect(warnings).to.deep.equal([])
    } finally {
      globalThis.process.off('warning', listen)
    }
  })
})
