import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { ErrNotHeld, ErrNotValid, Manager, memoryClient, MemoryStore } from 'lease-core'
import { TestClock, track } from 'lease-core/testing'
import { election, type ElectionNode, type NodeOptions } from '#src/election.ts'
import { programOf } from 'lease-servers'
import { rejection } from './bench.ts'

describe('Election: options and small print', () => {
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

  function node(options: Partial<Record<keyof NodeOptions, unknown>> = {}): ElectionNode {
    return election({ manager, clock })({ path: '/master', value: '10', ...options } as NodeOptions)
  }

  function problems(create: () => unknown): string[] {
    try {
      create()
    } catch (error) {
      if (!(error instanceof ErrNotValid)) throw error
      return error.problems.map(({ argument, rule }) => `${argument} ${rule}`)
    }
    throw new Error('accepted')
  }

  it('LO-1: hosts are no manager, in whichever form', () => {
    expect(problems(() => election('127.0.0.1:4001' as never))).to.deep.equal(['options must be an object'])
    expect(problems(() => election(['127.0.0.1:4001'] as never))).to.deep.equal([
      'options must be an object such as { manager }',
    ])
    expect(problems(() => election({ manager: {}, clock: Date, hosts: 'localhost' } as never))).to.deep.equal([
      'hosts is not an option',
      'manager must be a Manager',
      'clock must be a Clock',
    ])
  })

  it('LO-3: what is missing or wrong is notified, all at once', () => {
    const locker = election({ manager, clock })
    expect(problems(() => locker({} as NodeOptions))).to.deep.equal([
      'path must be a string',
      'value must be given, unless candidate is false',
    ])
    expect(problems(() => locker('/a b', { value: 10, id: '', ttl: 0, refresh: 5 } as never))).to.deep.equal([
      'refresh is not an option',
      'path must not contain white space or control characters',
      'value must be a string',
      'id must not be empty',
      'ttl must be greater than zero',
    ])
    expect(problems(() => locker({ path: '/x', value: 'v', candidate: false }))).to.deep.equal([
      'value is not for a node that only watches',
    ])
    expect(problems(() => locker(undefined as never))).to.deep.equal(['options must be an object'])
    expect(problems(() => node({ candidate: 'no' }))).to.deep.equal(['candidate must be true or false'])
  })

  it('a ttl no longer than clocks differ is refused when the node is made', () => {
    for (const ttl of [1, 0.5, { milliseconds: 1 }]) {
      expect(problems(() => node({ ttl }))).to.deep.equal([
        'ttl must be longer than the margin for clocks, 1 ms and 0.1 %',
      ])
    }
  })

  it('a leader whose place was taken over by another process with its id does not resign unheard', async () => {
    const [first, second] = [node({ id: 'a' }), new Manager({ client: memoryClient({ store, clock }), clock })]
    await first.start()
    const theirs = await second.hold('/master', 'a', { duration: 60_000 })
    expect(await rejection(first.resign(), ErrNotHeld)).to.have.property('reason', 'adopted')
    expect([first.isSelected(), theirs.held]).to.deep.equal([false, true])
    await first.stop()
    await second.stop()
  })

  it('options that are a text are one problem, and not one for each character', () => {
    expect(problems(() => election({ manager, clock })('/p', 'a text' as never))).to.deep.equal([
      'options must be an object',
    ])
  })

  it('LO-3: an empty value is a value', async () => {
    const one = node({ value: '' })
    await one.start()
    expect([one.isSelected(), one.value()]).to.deep.equal([true, ''])
    await one.stop()
  })

  it('a ttl that is too short to be renewed is refused when the node is made', () => {
    expect(problems(() => node({ ttl: 7 }))).to.deep.equal(['ttl must be at least 8 ms, to be renewed in time'])
    expect(node({ ttl: 8 }).started).to.equal(false)
  })

  it('LO-4: the ttl is ten seconds', async () => {
    const one = node()
    await one.start()
    const { expiry } = await one.token.check()
    expect(expiry.toMillis() - clock.now()).to.be.within(10_000, 10_050)
    await one.stop()
  })

  it('LO-17: a refresh is one; the lease is renewed long before it runs out', async () => {
    const one = node()
    let refreshed = 0
    one.on('refresh', () => refreshed++)
    await one.start()
    const { fencingToken } = one
    await clock.advance({ minutes: 10 })
    expect(one.fencingToken).to.equal(fencingToken)
    expect(refreshed).to.be.at.least(59)
    await one.stop()
  })

  it('LO-7: that nobody leads is not yet the leader, for one who competes', async () => {
    const observe = manager.observe.bind(manager)
    const token = manager.token.bind(manager)
    const hold: Manager['hold'] = (_lease, _holder, { signal }) =>
      new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error)))
    const one = election({ manager: { hold, observe, token }, clock })('/master', { value: '10' })
    const started = track(one.start())
    await clock.advance(1000)
    expect(started.state).to.equal('pending')
    await manager.claim('/master', 'other', { seconds: 10 }, { announce: true })
    await started.promise
    expect(one.id()).to.equal('other')
    await one.stop()
  })

  it('LO-9: what was read before the election and arrives after it is no news', async () => {
    const before = (await manager.leases()).get('/master')
    let late = (): void => {}
    const observe = async function* (): AsyncGenerator<undefined, never, void> {
      yield before as undefined
      await new Promise<void>((resolve) => (late = resolve))
      yield before as undefined
      return await new Promise<never>(() => {})
    }
    const stale = { hold: manager.hold.bind(manager), observe, token: manager.token.bind(manager) }
    const one = election({ manager: stale, clock })('/master', { id: 'a', value: '10' })
    const changes: unknown[] = []
    one.on('change', (value) => changes.push(value))
    await one.start()
    late()
    await clock.settle()
    expect([one.isSelected(), one.value(), changes]).to.deep.equal([true, '10', ['10']])
    void one.stop()
    await clock.settle()
    expect(one.isSelected()).to.equal(false)
  })

  it('LO-12: after a pause nobody takes its past leadership for a present one, before any timer has fired', async () => {
    const one = node()
    await one.start()
    await clock.advance(1)
    await clock.suspend(20_000)
    expect([one.id(), one.value(), one.isSelected()]).to.deep.equal([undefined, undefined, false])
    await one.stop()
  })

  it('calls with bad options reject, and nothing is sent', async () => {
    const one = node()
    await rejection(one.start({ done: () => {} } as object), ErrNotValid)
    await rejection(one.resign({ signal: 5 as unknown as AbortSignal }), ErrNotValid)
    for (const value of [undefined, 10, 'v'.repeat(5000)]) await rejection(one.update(value as string), ErrNotValid)
    await rejection(one.observe({ signals: 5 } as object).next(), ErrNotValid)
    expect([one.started, one.localValue]).to.deep.equal([false, '10'])
  })

  it('a listener that throws harms nobody, and may call the node', async () => {
    const warnings: string[] = []
    const listener = (warning: Error): void => void warnings.push(warning.message)
    process.on('warning', listener)
    try {
      const one = node()
      const told: string[] = []
      one.on('select', () => {
        throw new Error('from a listener')
      })
      one.on('select', () => one.stop())
      one.on('deselect', ({ reason }) => told.push(reason))
      await one.start()
      await clock.settle()
      expect(told).to.deep.equal(['stopped'])
      expect(warnings).to.deep.equal(['from a listener'])
    } finally {
      process.off('warning', listener)
    }
  })

  it('the release of a term is that of its node, and gives way as resign() does', async () => {
    const one = node()
    const reasons: string[] = []
    one.on('deselect', ({ reason }) => reasons.push(reason))
    await one.start()
    await one.term?.release()
    await clock.settle()
    expect([reasons, one.isSelected(), one.started]).to.deep.equal([['resigned'], false, true])
    await clock.advance(10_001)
    expect(one.isSelected()).to.equal(true)
    await one.release()
    expect(one.term).to.equal(undefined)
    await one.stop()
  })

  it('a value that is changed within any microtask of the grant is the one that the node leads with', async () => {
    for (let turns = 0; turns < 12; turns++) {
      const hold: Manager['hold'] = (...args) => {
        const holding = manager.hold(...args)
        void holding.then(async () => {
          for (let turn = 0; turn < turns; turn++) await Promise.resolve()
          await one.update('new')
        })
        return holding
      }
      const own = { hold, observe: manager.observe.bind(manager), token: manager.token.bind(manager) }
      const one = election({ manager: own, clock })('/master', { value: 'old' })
      await one.start()
      await clock.settle()
      expect([one.value(), (await manager.find('/master'))?.value]).to.deep.equal(['new', 'new'])
      await one.stop()
    }
  })

  for (const method of ['hold', 'observe'] as const) {
    it(`over a manager whose ${method} throws, start() rejects with what it threw`, async () => {
      const thrown = new Error('no such manager')
      const throwing = new Proxy(manager, {
        get: (target, name) => {
          const value: unknown = Reflect.get(target, name)
          if (name === method) {
            return () => {
              throw thrown
            }
          }
          return typeof value === 'function' ? (value.bind(target) as unknown) : value
        },
      })
      const one = election({ manager: throwing, clock })({ path: '/master', value: '10' })
      expect(await rejection(one.start(), Error)).to.equal(thrown)
      expect(one.started).to.equal(false)
      await one.stop()
    })
  }

  it('when all are stopped, no timer is left', async () => {
    const nodes = [node({ id: 'a' }), node({ id: 'b' }), node({ value: undefined, candidate: false })]
    for (const one of nodes) await one.start()
    await nodes[0]?.resign()
    await clock.advance(1)
    expect(clock.pending).to.be.greaterThan(0)
    for (const one of nodes) await one.stop()
    await clock.settle()
    expect(clock.pending).to.equal(0)
  })

  it('LO-19: a process whose nodes are stopped ends by itself', async () => {
    const { signal } = abort
    const program = programOf('./election.exits.ts', import.meta.url)
    const { stdout } = await promisify(execFile)(process.execPath, program, { signal })
    expect(stdout).to.equal('a leads\n')
  })

  it('`await using` stops the node', async () => {
    {
      await using one = node()
      await one.start()
      expect((await manager.leases()).size).to.equal(1)
    }
    expect((await manager.leases()).size).to.equal(0)
  })

  it('the answer to an update is lost: the node tells its true value when it sees it', async () => {
    const one = node()
    const changes: unknown[] = []
    await one.start()
    one.on('change', (value) => changes.push(value))
    await manager.claim('/master', one.localId, { seconds: 10 }, { value: 'written after all', announce: true })
    await clock.advance({ seconds: 11 })
    expect(one.value()).to.equal('written after all')
    expect(changes).to.deep.equal(['written after all'])
    await one.stop()
  })
})
