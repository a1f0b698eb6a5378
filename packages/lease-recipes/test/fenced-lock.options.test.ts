import { expect } from 'chai'
import { ErrClaimDenied, ErrNotValid, Manager, memoryClient } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { FailClosedLock, FailOpenLock, type FencedLock } from 'lease-recipes'
import * as recipes from 'lease-recipes'
import { errorOf } from './fenced-lock.fixture.ts'

describe('the options of fenced locks', () => {
  const clock = new TestClock()
  const manager = new Manager({ client: memoryClient({ clock }), clock })
  after(() => manager.stop())

  /** What is wrong with these options, by name. */
  function wrong(make: () => unknown): Record<string, string> {
    try {
      make()
    } catch (error) {
      expect(error).to.be.instanceOf(ErrNotValid)
      return Object.fromEntries((error as ErrNotValid).problems.map(({ argument, rule }) => [argument, rule]))
    }
    return {}
  }

  const open = (options: object): unknown => new FailOpenLock(options as never)
  const closed = (options: object): unknown => new FailClosedLock(options as never)

  it('DT-2: fail-closed locks need a manager only; the old client’s options are refused by name', () => {
    expect(wrong(() => closed({ manager }))).to.deep.equal({})
    expect(wrong(() => closed({ manager, lockTable: 'x', owner: 'me', clock, leaseDuration: 100 }))).to.deep.equal({})
    const old = { dynamodb: {}, lockTable: 'x', partitionKey: 'id', acquirePeriodMs: 1e4, retryCount: 2, owner: 'me' }
    expect(Object.keys(wrong(() => closed(old)))).to.have.members([
      'manager',
      'dynamodb',
      'partitionKey',
      'acquirePeriodMs',
      'retryCount',
    ])
  })

  it('DT-4: fail-open locks need a manager and a duration, in any form that luxon knows', () => {
    for (const leaseDuration of [10_000, { seconds: 10 }, { minutes: 1, seconds: 5 }]) {
      expect(wrong(() => open({ manager, leaseDuration, heartbeatPeriod: { seconds: 3 } }))).to.deep.equal({})
    }
    expect(wrong(() => open({ manager }))).to.have.keys('leaseDuration')
  })

  it('DT-5: every problem is reported at once, by name, rule and value; nothing is coerced, and unknown options are refused', () => {
    const bad = {
      manager: {},
      lockTable: '',
      owner: '',
      clock: 5,
      leaseDuration: '5',
      heartbeatPeriod: -1,
      trustLocalTime: true,
    }
    expect(Object.keys(wrong(() => open(bad)))).to.have.members(Object.keys(bad))
    expect(wrong(() => open({ manager, leaseDuration: '5' }))['leaseDuration']).to.match(/^must be a luxon Duration/)
    expect(wrong(() => open(undefined as never))).to.deep.equal({ options: 'must be an object' })
    expect(() => open({ manager, leaseDuration: 0 })).to.throw('leaseDuration must be greater than zero (got 0)')
    for (const owner of [5, 'x'.repeat(5000), 'a\0b', '\ud800'])
      expect(wrong(() => closed({ manager, owner }))).to.have.keys('owner')
    for (const lockTable of [5, 'a b', 'a.b', '\ud800', 'x'.repeat(300)]) {
      expect(wrong(() => closed({ manager, lockTable }))).to.have.keys('lockTable')
    }
  })

  it('a lease no longer than clocks differ is refused by the constructor, in both modes', () => {
    for (const leaseDuration of [1, 0.5, { milliseconds: 1 }]) {
      const rule = { leaseDuration: 'must be longer than the margin for clocks, 1 ms and 0.1 %' }
      expect(wrong(() => open({ manager, leaseDuration }))).to.deep.equal(rule)
      expect(wrong(() => closed({ manager, leaseDuration }))).to.deep.equal(rule)
    }
    const rule = { leaseDuration: 'must be at least 8 ms, to be renewed in time' }
    expect(wrong(() => closed({ manager, leaseDuration: 7 }))).to.deep.equal(rule)
    expect(wrong(() => open({ manager, leaseDuration: 7 }))).to.deep.equal({})
  })

  it('an id that breaks a rule is refused without being repeated: it may be a URL with a password', async () => {
    const locks = new FailOpenLock({ manager, clock, leaseDuration: 1000 })
    const url = 'postgres://user:s3cr3t@db'
    for (const id of [`${url}/${'x'.repeat(255)}`, [`${url}/${'x'.repeat(255)}`], { [url]: null }] as never[]) {
      const error = (await errorOf(locks.acquireLock(id))) as ErrNotValid
      expect(error).to.be.instanceOf(ErrNotValid)
      expect(JSON.stringify([error.message, error.problems])).not.to.contain('s3cr3t')
    }
    expect(await errorOf(locks.acquireLock({ partition: null } as never)))
      .to.have.property('message')
      .that.contains('part "partition" must')
  })

  it('DT-6: a heartbeat must be shorter than the lease, and longer than nothing', () => {
    const beat = (heartbeatPeriod: unknown): unknown =>
      wrong(() => open({ manager, leaseDuration: 1000, heartbeatPeriod }))
    const rule = 'must be at most 993 ms, so that a renewal is sent within the trust window of leaseDuration (1000 ms)'
    for (const late of [1000, 994]) expect(beat(late)).to.deep.equal({ heartbeatPeriod: rule })
    expect(beat(993)).to.deep.equal({})
    expect(beat({ hours: 1 })).to.have.keys('heartbeatPeriod')
    expect(beat(0)).to.deep.equal({ heartbeatPeriod: 'must be greater than zero' })
  })

  it('DT-5: a wait out of range is refused, and so is what is no signal', async () => {
    const locks = new FailOpenLock({ manager, clock, leaseDuration: 1000 })
    for (const wait of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, '5', null, { parsecs: 1 }]) {
      const error = (await errorOf(locks.acquireLock('db', { wait: wait as number }))) as ErrNotValid
      expect(error.problems.map(({ argument }) => argument)).to.deep.equal(['wait'])
    }
    for (const make of [
      () => locks.acquireLock('db', null as never),
      () => locks.forceRelease('db', { signal: {} } as never),
      () => locks.list({ all: true } as never),
    ]) {
      expect(await errorOf(make())).to.be.instanceOf(ErrNotValid)
    }
    expect(await errorOf(locks.forceRelease('x'.repeat(255)))).to.be.instanceOf(ErrNotValid)
  })

  it('DT-13: `acquire` waits, `tryAcquire` is a single try, and so is `acquireLock` without a wait', async () => {
    const locks = new FailOpenLock({ manager, clock, leaseDuration: 10_000 })
    const first = (await locks.tryAcquire('db')) as FencedLock
    const waiting = track(locks.acquire('db'))
    const trial = track(locks.tryAcquire('db'))
    const bounded = track(locks.acquire('db', { wait: 100 }))
    expect(await errorOf(locks.acquireLock('db'))).to.be.instanceOf(ErrClaimDenied)
    await clock.advance(200)
    expect([trial.state, trial.value, waiting.state]).to.deep.equal(['fulfilled', undefined, 'pending'])
    expect(bounded.error).to.be.instanceOf(ErrClaimDenied)
    await first.release()
    await clock.settle()
    expect(waiting.value?.held).to.equal(true)
    await waiting.value?.release()
    for (const options of [null, 5, { wait: true }] as never[]) {
      expect(await errorOf(locks.tryAcquire('db', options))).to.be.instanceOf(ErrNotValid)
    }
    expect((await manager.leases()).size).to.equal(0)
  })

  it('DT-24: both modes are exported, and what is wrong with their options is data', () => {
    expect(recipes.FailOpenLock).to.be.a('function')
    expect(recipes.FailClosedLock).to.be.a('function')
    try {
      closed({ manager, owner: 5 })
    } catch (error) {
      expect((error as ErrNotValid).problems).to.deep.equal([{ argument: 'owner', rule: 'must be a string', value: 5 }])
    }
  })
})
