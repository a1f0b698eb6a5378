import { execFile } from 'node:child_process'
import { getEventListeners } from 'node:events'
import { setTimeout as pauseFor } from 'node:timers/promises'
import { promisify } from 'node:util'
import { expect } from 'chai'
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotValid,
  ErrStopped,
  ErrUnknown,
  Manager,
  memoryClient,
  MemoryStore,
  MemorySubstrate,
} from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { programOf } from 'lease-servers'
import { lead, type Candidate, type LeaderTerm, type LeadOptions, type LeadWork } from 'lease-recipes'
import { losingTheFirst, rejection, unhandledDuring } from './bench.ts'

describe('lead: options and small print', () => {
  let clock: TestClock
  let store: MemoryStore
  let network: FaultySubstrate
  let manager: Manager
  let candidates: Candidate[]
  /** Ends a process that does not end by itself. */
  let abort: AbortController

  beforeEach(() => {
    abort = new AbortController()
    clock = new TestClock()
    store = new MemoryStore({ clock })
    network = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
    manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
    candidates = []
  })
  afterEach(async () => {
    abort.abort()
    network.heal()
    const stops = candidates.map((one) => track(one.stop()))
    await clock.advance(20_000)
    expect(stops.map(({ state }) => state)).to.deep.equal(stops.map(() => 'fulfilled'))
    await manager.stop()
  })

  function candidate(work: LeadWork, options: LeadOptions = {}, of: Manager = manager): Candidate {
    const one = lead(of, 'l', work, { clock, duration: 9_000, ...options })
    candidates.push(one)
    return one
  }

  /** Runs until its signal aborts. */
  const patient: LeadWork = ({ signal }) =>
    new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))

  function otherManager(): Manager {
    return new Manager({ client: memoryClient({ store, clock }), clock })
  }

  function problems(...args: unknown[]): string[] {
    try {
      lead(...(args as Parameters<typeof lead>))
    } catch (error) {
      if (!(error instanceof ErrNotValid)) throw error
      return error.problems.map(({ argument, rule }) => `${argument} ${rule}`)
    }
    throw new Error('accepted')
  }

  it('the work does not begin under a lease that was lost in the moment in which it was granted', async () => {
    const operator = otherManager()
    const { hold, grants } = losingTheFirst(manager, operator)
    const held: boolean[] = []
    const work: LeadWork = (term) => {
      held.push(term.held)
      return patient(term)
    }
    candidates.push(lead({ hold }, 'l', work, { clock, duration: 9_000 }))
    await clock.advance(1_000)
    expect([grants(), held]).to.deep.equal([2, [true]])
    await operator.stop()
  })

  it('every problem is reported at once, and nothing is sent', () => {
    const options = {
      holder: 'a b',
      duration: 7,
      value: 5,
      again: 'no',
      maxPause: -1,
      signal: {},
      clock: Date,
      renewEvery: 5,
    }
    expect(problems({}, '', 'work', options)).to.deep.equal([
      'renewEvery is not an option',
      'manager must be a Manager',
      'name must not be empty',
      'work must be a function',
      'holder must not contain white space or control characters',
      'duration must be at least 8 ms, to be renewed in time',
      'value must be a string',
      'again must be true or false',
      'maxPause must be greater than zero',
      'signal must be an AbortSignal',
      'clock must be a Clock',
    ])
    expect(problems(manager, 'l', patient, null)).to.deep.equal(['options must be an object'])
    expect(problems(manager, 5, patient)).to.deep.equal(['name must be a string'])
    expect(problems(manager, '.'.repeat(86), patient)[0]).to.match(/^name must be shorter/)
    expect(network.counts.roundTrips).to.equal(0)
  })

  it('a name is escaped as every id is, dots included', async () => {
    const one = lead(manager, 'my.app/eu:1 #2', patient, { clock })
    candidates.push(one)
    await clock.settle()
    expect([one.lease, one.isLeader]).to.deep.equal(['my%2Eapp%2Feu:1%20%232', true])
    expect([...(await manager.leases()).keys()]).to.deep.equal([one.lease])
  })

  it('a value is there for everyone to read, and the holder has a name that nobody else has', async () => {
    const one = candidate(patient, { value: 'http://10.0.0.1' })
    await clock.settle()
    expect(await manager.find('l')).to.include({ value: 'http://10.0.0.1', holder: one.holder })
    expect(candidate(patient).holder).not.to.equal(one.holder)
  })

  it('a term is renewed for as long as the work goes on, at a third of its duration', async () => {
    const one = candidate(patient)
    await clock.settle()
    const { fencingToken } = one.term as LeaderTerm
    network.resetCounts()
    await clock.advance(90_000)
    expect(one.term?.fencingToken).to.equal(fencingToken)
    expect(network.counts.extend).to.be.within(29, 33)
  })

  it('a renewal that fails or hangs is repeated while there is time', async () => {
    const one = candidate(patient)
    await clock.settle()
    const { fencingToken } = one.term as LeaderTerm
    const away = network.reject(new Error('away'), { kind: 'extend' })
    await clock.advance(5_000)
    away.heal()
    await clock.advance(30_000)
    network.hang({ kind: 'extend', times: 1 })
    await clock.advance(30_000)
    expect(one.term?.fencingToken).to.equal(fencingToken)
  })

  it('the signal aborts before another can lead when the store is out of reach', async () => {
    const reasons: string[] = []
    const one = candidate(patient)
    one.on('lost', ({ reason }) => reasons.push(reason))
    const other = otherManager()
    await clock.settle()
    const { signal } = one.term as LeaderTerm
    network.reject(new Error('away'))
    let isOverlap = false
    const second = candidate(() => void (isOverlap ||= !signal.aborted), { again: false }, other)
    const finished = track(second.finished)
    await clock.advance(9_100)
    expect([finished.state, isOverlap, reasons]).to.deep.equal(['fulfilled', false, ['unreachable']])
    await other.stop()
  })

  it('after a pause of the process the loss shows before any timer has fired', async () => {
    const one = candidate(patient)
    await clock.settle()
    const term = one.term as LeaderTerm
    await clock.suspend(20_000)
    expect([one.isLeader, one.term, term.held, term.signal.aborted]).to.deep.equal([false, undefined, false, true])
    await clock.advance(100)
    expect([one.isLeader, one.term === term]).to.deep.equal([true, false])
  })

  it('work that throws is repeated with growing pauses, and the lease is free meanwhile', async () => {
    const atMs: number[] = []
    const errors: unknown[] = []
    const work: LeadWork = () => {
      atMs.push(clock.monotonic())
      throw undefined // oxlint-disable-line typescript/only-throw-error -- anything can be thrown
    }
    const one = candidate(work, { maxPause: 5_000 })
    one.on('error', (error) => errors.push(error))
    await clock.advance(60)
    expect(await manager.find('l')).to.equal(undefined)
    await clock.advance(60_000)
    const pauses = atMs.slice(1).map((ms, index) => ms - (atMs[index] as number))
    for (const [index, ms] of pauses.entries()) expect(ms).to.be.within(50 * 2 ** Math.min(index, 5), 5_001)
    expect(pauses.slice(7).every((ms) => ms >= 2_500)).to.equal(true)
    expect(atMs.length).to.be.within(17, 30)
    expect(errors).to.deep.equal(atMs.map(() => undefined))
  })

  it('work that returns at once is repeated with growing pauses, and work that lasted at once', async () => {
    let runs = 0
    let lastsMs = 0
    const work: LeadWork = async () => {
      runs++
      if (lastsMs > 0) await new Promise<void>((resolve) => clock.setTimer(lastsMs, resolve))
    }
    candidate(work, { maxPause: 60_000 })
    await clock.advance(60_000)
    expect(runs).to.be.within(9, 12)
    lastsMs = 9_000
    await clock.advance(100_000)
    runs = 0
    await clock.advance(90_000)
    expect(runs).to.be.within(9, 11)
  })

  it('work that throws after it lasted pauses briefly', async () => {
    const atMs: number[] = []
    const endsMs: number[] = []
    candidate(async () => {
      atMs.push(clock.monotonic())
      await new Promise<void>((resolve) => clock.setTimer(9_000, resolve))
      endsMs.push(clock.monotonic())
      throw new Error('after all')
    })
    await clock.advance(60_000)
    for (const [index, ms] of atMs.slice(1).entries()) expect(ms - (endsMs[index] as number)).to.be.within(50, 101)
  })

  it('a loss is followed by the next claim at once, however brief the work was', async () => {
    const one = candidate(patient)
    await clock.settle()
    for (let losses = 0; losses < 5; losses++) {
      await manager.revoke('l')
      await clock.settle()
      expect(one.isLeader).to.equal(true)
    }
  })

  it('a candidate that has ended does not listen to the signal of its options any more', async () => {
    const end = new AbortController()
    const one = candidate(() => {}, { again: false, signal: end.signal })
    await one.finished
    await clock.settle()
    expect(getEventListeners(end.signal, 'abort')).to.deep.equal([])
  })

  it('work that ends because it was asked to is no error', async () => {
    const errors: unknown[] = []
    const works: LeadWork[] = [
      ({ signal }) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
      ({ signal }) => pauseFor(1e8, undefined, { signal }),
    ]
    for (const work of works) {
      const one = candidate(work)
      one.on('error', (error) => errors.push(error))
      await clock.settle()
      expect(one.isLeader).to.equal(true)
      await one.stop()
    }
    expect(errors).to.deep.equal([])
  })

  it('with `again: false` the loss ends the candidacy, as the work did', async () => {
    const throws: LeadWork = ({ signal }) =>
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
    const first = candidate(throws, { again: false })
    await clock.settle()
    await manager.revoke('l')
    await rejection(first.finished, ErrLost)
    const second = candidate(patient, { again: false })
    await clock.settle()
    await manager.revoke('l')
    await second.finished
  })

  it('`again: false` of one that is stopped resolves, whatever the work throws', async () => {
    const mine = new Error('mine')
    const errors: unknown[] = []
    const one = candidate(
      ({ signal }) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(mine))),
      { again: false },
    )
    one.on('error', (error) => errors.push(error))
    await clock.settle()
    await one.stop()
    await one.finished
    expect(errors).to.deep.equal([mine])
  })

  it('`stop` within any microtask of the grant keeps nothing, and begins no work that goes on', async () => {
    for (let turns = 0; turns < 40; turns++) {
      let running = 0
      const one = candidate(async (term) => {
        running++
        await patient(term)
        running--
      })
      for (let turn = 0; turn < turns; turn++) await Promise.resolve()
      await one.stop()
      expect([running, one.isWorking, one.isLeader]).to.deep.equal([0, false, false])
      await clock.settle()
      expect((await manager.leases()).size).to.equal(0)
    }
  })

  it('work is not begun by one that was stopped already', async () => {
    const end = new AbortController()
    end.abort()
    let runs = 0
    const one = candidate(() => void runs++, { signal: end.signal })
    await one.finished
    expect([runs, network.counts.roundTrips]).to.deep.equal([0, 0])
  })

  it('the signal of the options stops it with its reason', async () => {
    const end = new AbortController()
    const one = candidate(patient, { signal: end.signal })
    await clock.settle()
    const { signal } = one.term as LeaderTerm
    const reason = new Error('enough')
    end.abort(reason)
    expect(signal.reason).to.equal(reason)
    await one.finished
    expect((await manager.leases()).size).to.equal(0)
  })

  it('`stop` resolves after one duration at the latest when the work does not end, and the lease lapses within another', async () => {
    let goOn = (): void => {}
    const one = candidate(() => new Promise<void>((resolve) => (goOn = resolve)))
    await clock.advance(20_000)
    const stopped = track(one.stop())
    await clock.advance(8_999)
    expect([stopped.state, one.isLeader]).to.deep.equal(['pending', true])
    await clock.advance(1)
    expect([stopped.state, one.isWorking, one.isLeader]).to.deep.equal(['fulfilled', true, false])
    network.resetCounts()
    await clock.advance(9_000)
    expect([network.counts.extend, await manager.find('l')]).to.deep.equal([0, undefined])
    goOn()
    await clock.settle()
    expect([one.isWorking, network.counts.release]).to.deep.equal([false, 0])
  })

  it('the lease is kept while the work winds up, however late its stop comes after a renewal', async () => {
    let goOn = (): void => {}
    const one = candidate(() => new Promise<void>((resolve) => (goOn = resolve)))
    await clock.settle()
    const other = otherManager()
    const next = candidate(patient, {}, other)
    for (const delayMs of [1, 2_500, 2_900]) {
      await clock.advance(delayMs)
      expect([one.isLeader, next.isLeader]).to.deep.equal([true, false])
    }
    const stopped = track(one.stop())
    await clock.advance(8_990)
    expect([one.isLeader, next.isLeader]).to.deep.equal([true, false])
    goOn()
    await clock.settle()
    expect([stopped.state, one.isLeader, next.isLeader]).to.deep.equal(['fulfilled', false, true])
    await next.stop()
    await other.stop()
  })

  it('`stop` resolves after one duration at the latest when the store does not answer', async () => {
    const one = candidate(patient)
    await clock.settle()
    network.hang()
    const stopped = track(one.stop())
    await clock.advance(9_000)
    expect(stopped.state).to.equal('fulfilled')
    await one.finished
  })

  it('a release that fails is reported, and the lease lapses', async () => {
    const errors: unknown[] = []
    const one = candidate(() => {}, { maxPause: 100_000 })
    one.on('error', (error) => errors.push(error))
    network.reject(new Error('away'), { kind: 'release' })
    await clock.advance(8_000)
    expect(errors.some((error) => error instanceof ErrUnknown)).to.equal(true)
  })

  it('a manager that is stopped ends the candidacy in one duration though the work does not end', async () => {
    const one = candidate(() => new Promise(() => {}))
    await clock.settle()
    const finished = track(one.finished)
    await manager.stop()
    await clock.advance(8_999)
    expect(finished.state).to.equal('pending')
    await clock.advance(1)
    expect(finished.error).to.be.instanceOf(ErrStopped)
  })

  it('a manager that is stopped ends one that waits', async () => {
    candidate(patient)
    const other = otherManager()
    const waiting = candidate(patient, {}, other)
    await clock.settle()
    const finished = track(waiting.finished)
    await other.stop()
    await clock.settle()
    expect(finished.error).to.be.instanceOf(ErrStopped)
  })

  it('a holder that this process has already is reported and tried again, until the lease is free', async () => {
    const errors: unknown[] = []
    const hold = await manager.hold('l', 'a', { duration: 60_000 })
    const one = candidate(patient, { holder: 'a' })
    one.on('error', (error) => errors.push(error))
    await clock.advance(500)
    expect(errors[0]).to.be.instanceOf(ErrClaimDenied)
    await hold.release()
    await clock.advance(1_001)
    expect(one.isLeader).to.equal(true)
  })

  it('a client that fails is no reason to give up', async () => {
    const failing = new Proxy(manager, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name)
        if (name !== 'hold') return value
        return () =>
          calls++ < 3
            ? Promise.reject(new ErrUnknown('failed', { reason: 'client failed' }))
            : manager.hold('l', 'b', { duration: 9_000 })
      },
    })
    let calls = 0
    const one = candidate(patient, {}, failing)
    await clock.advance(1_000)
    expect([calls, one.isLeader]).to.deep.equal([4, true])
  })

  it('what is no Manager ends the candidacy with what it throws', async () => {
    const thrown = new Error('no such manager')
    const broken = {
      hold: () => {
        throw thrown
      },
    }
    const one = lead(broken, 'l', patient, { clock })
    expect(await rejection(one.finished, Error)).to.equal(thrown)
  })

  it('release by the work itself resigns at once', async () => {
    let runs = 0
    const one = candidate(
      async (term) => {
        runs++
        await term.release()
        expect([term.held, term.signal.aborted]).to.deep.equal([false, true])
      },
      { again: false },
    )
    await one.finished
    expect(runs).to.equal(1)
    expect((await manager.leases()).size).to.equal(0)
  })

  it('listeners that throw anything harm nobody', async () => {
    const warnings: string[] = []
    const listener = (warning: Error): void => void warnings.push(warning.message)
    process.on('warning', listener)
    try {
      const unhandled = await unhandledDuring(async () => {
        const one = candidate(patient)
        for (const thrown of [undefined, null, Object.freeze(new Error('frozen')), Object.create(null)]) {
          one.on('elected', () => {
            throw thrown
          })
          one.on('elected', () => Promise.reject(thrown))
        }
        await clock.settle()
        expect(one.isLeader).to.equal(true)
        await one.stop()
      })
      expect(unhandled).to.deep.equal([])
      expect(warnings).to.have.length(8)
    } finally {
      process.off('warning', listener)
    }
  })

  it('a thousand candidates of one process with one signal cause no warning, and leave nothing behind', async () => {
    const warnings: Error[] = []
    const listener = (warning: Error): void => void warnings.push(warning)
    process.on('warning', listener)
    try {
      const end = new AbortController()
      const many = Array.from({ length: 1000 }, () => candidate(patient, { signal: end.signal }))
      await clock.settle()
      expect(many.filter((one) => one.isLeader)).to.have.length(1)
      end.abort()
      await Promise.all(many.map(({ finished }) => finished))
      await clock.settle()
      expect(warnings).to.deep.equal([])
    } finally {
      process.off('warning', listener)
    }
  })

  it('work may add any number of listeners to its signal', async () => {
    const warnings: Error[] = []
    const listener = (warning: Error): void => void warnings.push(warning)
    process.on('warning', listener)
    try {
      const one = candidate((term) => {
        for (let count = 0; count < 50; count++) term.signal.addEventListener('abort', () => {})
        return patient(term)
      })
      await clock.settle()
      await one.stop()
      expect(warnings).to.deep.equal([])
    } finally {
      process.off('warning', listener)
    }
  })

  it('when all are stopped, no timer is left', async () => {
    const all = [candidate(patient), candidate(patient), candidate(() => Promise.reject(new Error('mine')))]
    await clock.advance(10_000)
    expect(clock.pending).to.be.greaterThan(0)
    await Promise.all(all.map((one) => one.stop()))
    await manager.stop()
    await clock.settle()
    expect(clock.pending).to.equal(0)
  })

  it('a stop after the candidacy is over leaves no timer', async () => {
    const one = candidate(() => {}, { again: false })
    await clock.settle()
    await one.finished
    await clock.settle()
    const { pending } = clock
    await one.stop()
    expect(clock.pending).to.equal(pending)
  })

  it('`finished` that nobody looks at is no unhandled rejection', async () => {
    const unhandled = await unhandledDuring(async () => {
      candidate(() => Promise.reject(new Error('mine')), { again: false })
      await clock.settle()
    })
    expect(unhandled).to.deep.equal([])
  })

  it('a process whose candidates are stopped ends by itself', async () => {
    const { signal } = abort
    const program = programOf('./lead.exits.ts', import.meta.url)
    const { stdout } = await promisify(execFile)(process.execPath, program, { signal })
    expect(stdout).to.equal('led and stopped\n')
  })
})
