import { expect } from 'chai'
import { ErrClaimDenied, ErrLost, Manager, MemoryStore, MemorySubstrate, type Timer } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { ReadWriteLock, type ReadWriteLockOptions } from '#src/read-write-lock.ts'
import { rejection } from './bench.ts'

/** Whose timers can be kept from firing, as on an event loop that is busy. */
class LateClock extends TestClock {
  isLate = false

  override setTimer(delayMs: number, wake: () => void): Timer {
    return super.setTimer(delayMs, () => {
      if (!this.isLate) wake()
    })
  }
}

describe('The timeout of a read-write lock', () => {
  let clock: LateClock
  let wire: FaultySubstrate
  let manager: Manager
  let lock: ReadWriteLock

  beforeEach(() => {
    clock = new LateClock()
    wire = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ clock }) }), { clock })
    manager = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    lock = lockOf()
  })
  afterEach(async () => {
    await lock.stop()
    await manager.stop()
  })

  function lockOf(options: Partial<ReadWriteLockOptions> = {}): ReadWriteLock {
    return new ReadWriteLock({ manager, clock, name: 'orders', maxReaders: 4, ...options })
  }

  for (const mode of ['rlock', 'wlock'] as const) {
    it(`ends a ${mode} at its instant by the clock, before any timer has run`, async () => {
      const locked = await lockOf({ duration: 120_000 })[mode]('x', { timeout: 60_000 })
      clock.isLate = true
      await clock.advance(59_999)
      expect(locked.held).to.equal(true)
      await clock.advance(1)
      expect([locked.held, locked.signal.aborted]).to.deep.equal([false, true])
      expect(() => locked.assertHeld())
        .to.throw(ErrLost)
        .with.property('reason', 'expired')
    })
  }

  it('is part of `remaining`: the shorter of the two counts, and nothing is left at the end', async () => {
    const brief = await lock.rlock('x', { timeout: 5_000 })
    expect(brief.remaining().toMillis()).to.equal(5_000)
    await clock.advance(2_000)
    expect(brief.remaining().toMillis()).to.equal(3_000)
    await clock.advance(3_000)
    expect(brief.remaining().toMillis()).to.equal(0)
    const long = await lock.rlock('y', { timeout: 3_600_000 })
    expect(long.remaining().toMillis()).to.be.at.most(15_000)
  })

  it('counts from the call of `refresh`, however late the answer is', async () => {
    const reader = await lock.rlock('x', { timeout: 10_000 })
    await clock.advance(6_000)
    wire.delay(2_000, { kind: 'extend', times: 1, at: 'reply' })
    const refreshed = track(reader.refresh())
    await clock.advance(2_000)
    await refreshed.promise
    await clock.advance(7_999)
    expect(reader.held).to.equal(true)
    await clock.advance(1)
    expect(reader.held).to.equal(false)
  })

  it('lets no `refresh` bring back a lock whose time was over when the answer came', async () => {
    const reader = await lock.rlock('x', { timeout: 10_000 })
    await clock.advance(9_000)
    const fault = wire.hang({ kind: 'extend', times: 1, at: 'reply' })
    const refreshing = track(reader.refresh())
    await clock.settle()
    clock.isLate = true
    await clock.advance(1_000)
    fault.heal()
    await clock.settle()
    expect((await rejection(refreshing.promise, ErrLost)).reason).to.equal('expired')
    clock.isLate = false
    expect(reader.held).to.equal(false)
  })

  it('has one timer, however often the lock is refreshed, and none when it is over', async () => {
    const before = clock.pending
    const reader = await lock.rlock('x', { timeout: 10_000 })
    const with1 = clock.pending
    for (let round = 0; round < 5; round++) {
      await clock.advance(1_000)
      await reader.refresh()
    }
    expect(clock.pending).to.equal(with1)
    await reader.unlock()
    expect(clock.pending).to.be.at.most(before + 1) // the manager's
    expect(reader.held).to.equal(false)
  })

  it('ends the lease with the lock, though the holder has locked through another object as well', async () => {
    const [mine, other] = [await lock.wlock('w'), await lockOf().wlock('w')]
    expect(other.fencingToken).to.equal(mine.fencingToken)
    await mine.unlock()
    expect([mine.held, other.held]).to.deep.equal([false, false])
    expect((await lock.rlock('x', { wait: false })).held).to.equal(true)
  })

  it('a call that is aborted while it refreshes the lock of another call leaves that lock alone', async () => {
    const writer = await lock.wlock('w')
    const fault = wire.hang({ kind: 'extend', times: 1, at: 'reply' })
    const impatient = new AbortController()
    const second = track(lock.wlock('w', { signal: impatient.signal }))
    await clock.settle()
    impatient.abort(new Error('no patience'))
    expect((await rejection(second.promise, Error)).message).to.equal('no patience')
    fault.heal()
    await clock.advance(100)
    expect(writer.held).to.equal(true)
    await rejection(lock.rlock('x', { wait: false }), ErrClaimDenied)
  })
})
