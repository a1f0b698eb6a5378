import { expect } from 'chai'
import { ErrClaimDenied, ErrLost, ErrUnknown, Manager } from 'lease-core'
import { FakeLeases, TestClock } from 'lease-core/testing'
import { useFakeTimers, type SinonFakeTimers } from 'sinon'

const duration = { seconds: 30 }

async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then(
    () => expect.fail('it did not reject'),
    (error: unknown) => error,
  )
}

describe('fake leases', () => {
  let leases: FakeLeases
  beforeEach(() => {
    leases = new FakeLeases()
  })
  afterEach(() => leases[Symbol.asyncDispose]())

  it('are granted, by a real manager', async () => {
    expect(leases.manager).to.be.instanceOf(Manager)
    const token = await leases.manager.claim('l', 'a', duration)
    await token.check()
  })

  it('are denied while another process has them, which is named', async () => {
    await leases.take('l', 'web-2')
    const error = await rejection(leases.manager.claim('l', 'a', duration))
    expect(error).to.be.instanceOf(ErrClaimDenied)
    expect((error as ErrClaimDenied).currentHolder).to.equal('web-2')
    await leases.manager.claim('another', 'a', duration)
  })

  it('are granted to one who waits as soon as they are freed', async () => {
    await leases.take('l')
    const holding = leases.manager.hold('l', 'a', { duration, wait: true })
    await leases.free('l')
    expect((await holding).held).to.equal(true)
  })

  it('are lost at once when another process takes them', async () => {
    const hold = await leases.manager.hold('l', 'a', { duration })
    await leases.take('l')
    expect(hold.held).to.equal(false)
    expect(hold.signal.reason).to.be.instanceOf(ErrLost)
    expect((hold.signal.reason as ErrLost).reason).to.equal('revoked')
  })

  it('are taken past those who wait, who go on waiting', async () => {
    const other = leases.instance()
    const first = await leases.manager.hold('l', 'a', { duration })
    const waiting = ['b', 'c'].map((holder) => other.hold('l', holder, { duration, wait: true }))
    let granted = 0
    for (const hold of waiting) void hold.then(() => granted++)
    await leases.take('l')
    expect([first.held, granted]).to.deep.equal([false, 0])
    await leases.take('l', 'web-3')
    expect((await other.find('l'))?.holder).to.equal('web-3')
    expect(granted).to.equal(0)
    await leases.free('l')
    await (await Promise.race(waiting)).release()
    await (await Promise.all(waiting))[1]?.release()
  })

  it('are lost at once when they are freed, as by an operator', async () => {
    const hold = await leases.manager.hold('l', 'a', { duration })
    await leases.free('l')
    expect((hold.signal.reason as ErrLost).reason).to.equal('revoked')
  })

  it('are one for all instances of the application', async () => {
    const other = leases.instance()
    await other.claim('l', 'b', duration)
    expect(await rejection(leases.manager.claim('l', 'a', duration))).to.be.instanceOf(ErrClaimDenied)
  })

  it('go by a clock of the caller', async () => {
    const clock = new TestClock()
    await using own = new FakeLeases({ clock })
    await own.manager.claim('l', 'a', duration)
    await clock.advance({ seconds: 31 })
    await own.manager.claim('l', 'b', duration)
  })

  it('leave no timer behind', async () => {
    const clock = new TestClock()
    const own = new FakeLeases({ clock })
    await own.manager.hold('l', 'a', { duration })
    await own.take('m')
    own.manager.hold('m', 'a', { duration, wait: true }).catch(() => {})
    await clock.settle()
    own.cut()
    await own[Symbol.asyncDispose]()
    expect(clock.pending).to.equal(0)
  })

  for (const [which, toFake] of [
    ['the fake timers of sinon', undefined],
    // As Jest does.
    [
      'fake timers that replace everything',
      [
        'setTimeout',
        'clearTimeout',
        'setInterval',
        'clearInterval',
        'setImmediate',
        'clearImmediate',
        'Date',
        'performance',
        'nextTick',
        'queueMicrotask',
      ],
    ],
  ] as const) {
    describe(`on ${which}`, () => {
      let timers: SinonFakeTimers
      let faked: FakeLeases
      beforeEach(() => {
        timers = useFakeTimers(toFake === undefined ? {} : { toFake: [...toFake] })
        faked = new FakeLeases()
      })
      afterEach(async () => {
        await faked[Symbol.asyncDispose]()
        timers.restore()
      })

      it('claims, checks, takes and frees need no time', async () => {
        const hold = await faked.manager.hold('l', 'a', { duration })
        await hold.token.check()
        await faked.take('l')
        expect(hold.held).to.equal(false)
        await faked.free('l')
        await faked.manager.claim('l', 'a', duration)
      })

      it('a hold is renewed while the time moves', async () => {
        const hold = await faked.manager.hold('l', 'a', { duration })
        await timers.tickAsync(300_000)
        expect(hold.held).to.equal(true)
      })

      it('a claim lapses when its time is over', async () => {
        await faked.manager.claim('l', 'a', duration)
        await timers.tickAsync(31_000)
        await faked.manager.claim('l', 'b', duration)
      })

      it('a hold is lost in time when the store does not answer, and the next is granted when it does', async () => {
        const hold = await faked.manager.hold('l', 'a', { duration })
        faked.cut()
        await timers.tickAsync(15_000)
        expect(hold.held).to.equal(true)
        await timers.tickAsync(15_000)
        expect((hold.signal.reason as ErrLost).reason).to.equal('unreachable')
        const claiming = rejection(faked.manager.claim('m', 'a', duration))
        await timers.tickAsync(60_000)
        expect(await claiming).to.be.instanceOf(ErrUnknown)
        faked.reconnect()
        await timers.tickAsync(60_000)
        await faked.manager.claim('l', 'b', duration)
      })
    })
  }
})
