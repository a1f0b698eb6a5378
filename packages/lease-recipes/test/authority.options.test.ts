import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { ErrNotHeld, ErrNotValid, Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { Authority, type AuthorityOptions } from '#src/authority.ts'
import { programOf } from 'lease-servers'
import { losingTheFirst, rejection } from './bench.ts'

describe('Authority: options and small print', () => {
  let clock: TestClock
  let store: MemoryStore
  let manager: Manager
  /** Ends a process that does not end by itself. */
  let abort: AbortController

  beforeEach(() => {
    abort = new AbortController()
    clock = new TestClock()
    store = new MemoryStore({ clock })
    manager = new Manager({ client: memoryClient({ store, clock }), clock })
  })
  afterEach(() => {
    abort.abort()
    return manager.stop()
  })

  function create(options: Partial<Record<keyof AuthorityOptions, unknown>>): Authority {
    return new Authority({ manager, lease: 'l', clock, ...options } as AuthorityOptions)
  }

  function problems(options: unknown): string[] {
    try {
      const authority = new Authority(options as AuthorityOptions)
      throw new Error(`accepted: ${authority.holder}`)
    } catch (error) {
      if (!(error instanceof ErrNotValid)) throw error
      return error.problems.map(({ argument, rule }) => `${argument} ${rule}`)
    }
  }

  it('a lease that was lost in the moment in which it was granted is claimed again before ready() answers', async () => {
    const operator = new Manager({ client: memoryClient({ store, clock }), clock })
    const { hold, grants } = losingTheFirst(manager, operator)
    const observe = manager.observe.bind(manager)
    const authority = create({ manager: { hold, observe, token: manager.token.bind(manager) } })
    const ready = track(authority.ready())
    await clock.advance(1_000)
    expect([ready.value, grants(), authority.held]).to.deep.equal([true, 2, true])
    await Promise.all([authority.stop(), operator.stop()])
  })

  it('AU-1: a grant lasts 15 seconds, and a heartbeat is sent at most every 2', async () => {
    const authority = create({})
    await authority.ready()
    await clock.advance(14_900)
    expect(authority.held).to.equal(true)
    expect(await authority.heartbeat()).to.equal(true)
    const extended = authority.heartbeat()
    await clock.advance(1_999)
    expect(authority.heartbeat()).to.equal(extended)
    await clock.advance(1)
    expect(authority.heartbeat()).not.to.equal(extended)
    await clock.advance(14_900)
    expect(authority.held).to.equal(true)
    await clock.advance(2_100)
    expect(authority.held).to.equal(false)
    await authority.close()
  })

  it('AU-1: every problem is reported at once, with argument, rule and value', () => {
    expect(
      problems({
        manager: {},
        lease: 'a b',
        holder: '',
        ttl: { minutes: -1 },
        heartbeatInterval: Number.NaN,
        value: 5,
        clock: Date,
        etcd: 'localhost',
      }),
    ).to.deep.equal([
      'etcd is not an option',
      'manager must be a Manager',
      'lease must not contain white space or control characters',
      'holder must not be empty',
      'ttl must be greater than zero',
      'heartbeatInterval must be a luxon Duration, an object such as { seconds: 30 }, or milliseconds',
      'value must be a string',
      'clock must be a Clock',
    ])
    expect(problems(undefined)).to.deep.equal(['options must be an object'])
    expect(problems({ manager })).to.deep.equal(['lease must be a string'])
  })

  it('AU-1: a heartbeat longer than the lease is refused; so are 15 milliseconds, meant as seconds', () => {
    const late = (ttlMs: number, mostMs: number): string[] => [
      `heartbeatInterval must be at most ${mostMs} ms, so that a renewal is sent within the trust window of ttl (${ttlMs} ms)`,
    ]
    expect(problems({ manager, lease: 'l', ttl: 1000, heartbeatInterval: 1000 })).to.deep.equal(late(1000, 993))
    expect(problems({ manager, lease: 'l', ttl: 15 })).to.deep.equal(late(15, 9))
    expect(create({ ttl: { seconds: 15 }, heartbeatInterval: { seconds: 14 } }).held).to.equal(false)
  })

  it('AU-1: a ttl no longer than clocks differ is refused, and only that is notified', () => {
    const rule = 'ttl must be longer than the margin for clocks, 1 ms and 0.1 %'
    expect(problems({ manager, lease: 'l', ttl: 1, heartbeatInterval: 0.5 })).to.deep.equal([rule])
  })

  it('AU-9: a lease that another process of the same holder took over is not released unheard', async () => {
    const [authority, other] = [create({ holder: 'a' }), new Manager({ client: memoryClient({ store, clock }), clock })]
    await authority.ready()
    const theirs = await other.hold('l', 'a', { duration: 60_000 })
    expect(await rejection(authority.release(), ErrNotHeld)).to.have.property('reason', 'adopted')
    expect([authority.held, theirs.held]).to.deep.equal([false, true])
    await authority.close()
    await other.stop()
  })

  it('AU-3: a ttl is as long as asked for, fractions of a millisecond rounded up; none is no ttl', async () => {
    for (const ttl of [0, -1, Number.POSITIVE_INFINITY, '15', null]) {
      expect(problems({ manager, lease: 'l', ttl, heartbeatInterval: 1 })).to.have.length(1)
    }
    const authority = create({ ttl: 400.4, heartbeatInterval: 0.4 })
    await authority.ready()
    const { expiry } = await authority.token.check()
    expect(expiry.toMillis() - clock.now()).to.be.within(401, 410)
    await authority.close()
  })

  it('calls with bad options reject, and nothing is sent', async () => {
    const authority = create({})
    await rejection(authority.ready({ wait: 'long' as unknown as boolean }), ErrNotValid)
    await rejection(authority.ready({ patience: 5 } as object), ErrNotValid)
    await rejection(authority.extend({ signal: 'now' as unknown as AbortSignal }), ErrNotValid)
    await rejection(authority.release(null as unknown as object), ErrNotValid)
    expect(authority.standing).to.equal(false)
  })

  it('a wait of a duration ends with false, and the candidacy goes on', async () => {
    const hold = await manager.hold('l', 'other', { duration: 60_000 })
    const authority = create({ ttl: 60_000 })
    const bounded = track(authority.ready({ wait: { seconds: 2 } }))
    const unbounded = track(authority.ready({ wait: true }))
    await clock.advance(1_999)
    expect(bounded.state).to.equal('pending')
    await clock.advance(1)
    expect([bounded.value, unbounded.state, authority.standing]).to.deep.equal([false, 'pending', true])
    await hold.release()
    await clock.settle()
    expect([unbounded.value, await authority.ready({ wait: 1 })]).to.deep.equal([true, true])
    await authority.stop()
    expect(clock.pending).to.equal(0)
  })

  it('the release of its term is its own: it stands no more, and stop() waits for it', async () => {
    const authority = create({})
    await authority.ready()
    const lost: unknown[] = []
    authority.on('lost', (loss) => lost.push(loss))
    const released = authority.term?.release()
    expect([authority.held, authority.standing, authority.term]).to.deep.equal([false, false, undefined])
    await authority.stop()
    expect((await manager.leases()).size).to.equal(0)
    await released
    expect(lost).to.deep.equal([])
  })

  it('AU-17: a heartbeat after the machine slept longer than the ttl stands again, whatever its interval', async () => {
    const authority = create({})
    await authority.ready()
    await authority.heartbeat()
    await clock.suspend(60_000)
    expect(await authority.heartbeat()).to.equal(true)
    expect([authority.held, authority.standing]).to.deep.equal([true, true])
    await authority.stop()
  })

  it('a release during another one is done as well when it resolves', async () => {
    const authority = create({})
    await authority.ready()
    const first = authority.release()
    const again = track(authority.ready())
    const second = authority.release()
    await Promise.all([first, second])
    expect([authority.held, authority.standing]).to.deep.equal([false, false])
    expect((await manager.leases()).size).to.equal(0)
    expect(await again.promise).to.equal(false)
    await authority.stop()
  })

  it('a listener that throws or rejects harms nobody, and becomes a warning', async () => {
    const warnings: string[] = []
    const listener = (warning: Error): void => void warnings.push(warning.message)
    process.on('warning', listener)
    try {
      const authority = create({})
      const told: string[] = []
      authority.on('acquired', () => {
        throw new Error('first')
      })
      authority.on('acquired', () => Promise.reject(new Error('second')))
      authority.on('acquired', () => told.push('acquired'))
      expect(await authority.ready()).to.equal(true)
      await clock.settle()
      expect(told).to.deep.equal(['acquired'])
      expect(authority.held).to.equal(true)
      expect(warnings).to.deep.equal(['first', 'second'])
      await authority.close()
    } finally {
      process.off('warning', listener)
    }
  })

  it('a listener may call the authority', async () => {
    const authority = create({})
    const told: string[] = []
    authority.on('acquired', async () => {
      told.push('acquired')
      await authority.release()
      told.push('released')
    })
    await authority.ready()
    await clock.settle()
    expect(told).to.deep.equal(['acquired', 'released'])
    expect((await manager.leases()).size).to.equal(0)
    await authority.close()
  })

  it('AU-5: when all are closed, no timer is left', async () => {
    const others = [create({}), create({}), create({})]
    for (const one of others) await one.ready()
    void others[0]?.heartbeat()
    void others[0]?.heartbeat()
    await clock.advance(1)
    expect(clock.pending).to.be.greaterThan(0)
    for (const one of others) await one.close()
    await clock.settle()
    expect(clock.pending).to.equal(0)
  })

  it('AU-5: a process whose authority is closed ends by itself', async () => {
    const { signal } = abort
    const program = programOf('./authority.exits.ts', import.meta.url)
    const { stdout } = await promisify(execFile)(process.execPath, program, { signal })
    expect(stdout).to.equal('held and closed\n')
  })

  it('AU-10: what is granted although it was released meanwhile is given back', async () => {
    let grant = (): void => {}
    let givenBack = 0
    const granted = manager.hold('l', 'a', { duration: 1000 }).then(async (hold) => {
      await new Promise<void>((resolve) => (grant = resolve))
      const release = async (): Promise<void> => void givenBack++
      return new Proxy(hold, {
        get: (target, name) => (name === 'release' ? release : Reflect.get(target, name, target)),
      })
    })
    const deaf = {
      hold: () => granted,
      observe: manager.observe.bind(manager),
      token: manager.token.bind(manager),
    }
    const authority = create({ manager: deaf })
    const ready = authority.ready()
    await clock.settle()
    const released = authority.release()
    grant()
    expect(await ready).to.equal(false)
    await released
    expect([authority.held, givenBack]).to.deep.equal([false, 1])
  })

  it('AU-17: a trailing heartbeat is not sent for a term that was lost meanwhile', async () => {
    const authority = create({ ttl: 1000, heartbeatInterval: 900 })
    await authority.ready()
    await authority.heartbeat()
    void authority.heartbeat()
    await clock.pause(5000) // the machine stood still: work was done before, not now
    expect(authority.held).to.equal(false)
    await clock.advance(5000)
    expect([authority.standing, authority.held]).to.deep.equal([false, false])
    await authority.close()
  })

  it('AU-19: after a pause the loss is reported before the event loop does anything else for it', async () => {
    const authority = create({})
    await authority.ready()
    const { signal } = authority
    await clock.suspend(20_000) // no timer has fired
    expect([authority.held, signal.aborted, authority.fencingToken]).to.deep.equal([false, true, undefined])
    await authority.close()
  })
})
