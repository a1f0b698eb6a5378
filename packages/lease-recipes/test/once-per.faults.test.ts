import { expect } from 'chai'
import { ErrStopped, ErrUnknown, Manager, memoryClient, MemoryStore, MemorySubstrate } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { OncePer, type OncePerOptions, type Outcome } from 'lease-recipes'
import { getEventListeners } from 'node:events'
import { minute } from './once-per.fixture.ts'
import { replaced } from './store-events.ts'
import { enough } from 'lease-servers'

const AT_MOST_MS = 10_000
/** Random lives. */
const SEEDS = enough(8)

/** What `OncePer` asks of a manager, each call through a gate. */
function gated(manager: Manager, pass: (when: 'before' | 'after', call: number) => unknown): Manager {
  let calls = 0
  const through = async <T>(method: () => Promise<T>): Promise<T> => {
    const call = ++calls
    await pass('before', call)
    const outcome = await method()
    await pass('after', call)
    return outcome
  }
  return replaced(manager, {
    hold: (...args: Parameters<Manager['hold']>) => through(() => manager.hold(...args)),
    claim: (...args: Parameters<Manager['claim']>) => through(() => manager.claim(...args)),
    find: (...args: Parameters<Manager['find']>) => through(() => manager.find(...args)),
    release: (...args: Parameters<Manager['release']>) => through(() => manager.release(...args)),
  })
}

describe('OncePer when things go wrong', () => {
  /** Of the store, and of every process but those that are paused. */
  let clock: TestClock
  let store: MemoryStore
  let managers: Manager[]
  let runs: string[]

  beforeEach(() => {
    clock = new TestClock()
    store = new MemoryStore({ clock })
    managers = []
    runs = []
  })
  afterEach(() => Promise.all(managers.map((manager) => manager.stop())))

  function newManager(own = clock): Manager {
    const manager = new Manager({ client: memoryClient({ store, clock: own }), clock: own })
    managers.push(manager)
    return manager
  }

  function newOnce(manager: OncePerOptions['manager'] = newManager()): OncePer {
    return new OncePer({ manager, atMost: AT_MOST_MS })
  }

  function come(once: OncePer, n: number, options = {}): Promise<Outcome<unknown>> {
    return once.run('job', minute(n), ({ slot }) => void runs.push(slot), options)
  }

  const timesOf = (n: number): number => runs.filter((slot) => slot === minute(n).toISOString()).length

  /** A process that stands still at one of its calls, from the moment of the call on. Its clock stands still as well. */
  function pausedAt(call: number, when: 'before' | 'after') {
    const own = new TestClock()
    let resume = (): void => {}
    const gate = new Promise<void>((resolve) => (resume = resolve))
    const pass = (at: 'before' | 'after', nth: number): unknown => (nth === call && at === when ? gate : undefined)
    const manager = newManager(own)
    return { own, manager, once: newOnce(gated(manager, pass)), resume }
  }

  // With both marks in place: two reads, the turn, two reads, the old mark, the new mark, its end.
  const CALLS = 8

  for (const when of ['before', 'after'] as const) {
    it(`a slot runs once when its process is paused ${when} any of its calls and another takes over`, async () => {
      const seen = new Set<string>()
      for (let call = 1; call <= CALLS; call++) {
        runs = []
        const there = newOnce()
        await there.forget('job')
        await come(there, 0)
        await come(there, 1)
        const here = pausedAt(call, when)
        const late = track(come(here.once, 2))
        await clock.settle()
        await clock.advance(2 * AT_MOST_MS)
        const outcome = await clock.drive(come(there, 2))
        await here.own.pause(2 * AT_MOST_MS)
        here.resume()
        await clock.settle()
        await here.own.drive(late.promise.catch(() => {}))
        const ofLate = late.error instanceof ErrUnknown ? 'unknown' : late.value?.ran === true ? 'ran' : 'skipped'
        seen.add(`${outcome.ran ? 'ran' : 'skipped'} there, ${ofLate} here`)
        expect(timesOf(2), `call ${call}`).to.be.at.most(1)
        if (ofLate !== 'unknown') expect(timesOf(2), `call ${call}`).to.equal(1)
        expect([timesOf(0), timesOf(1)]).to.deep.equal([1, 1])
        expect(await come(there, 3)).to.include({ ran: true })
        expect(await come(there, 2)).to.include({ ran: false })
        await here.manager.stop()
      }
      expect(seen).to.include('ran there, skipped here')
      expect(seen).to.include('skipped there, ran here')
    })

    it(`no slot runs again and the next one runs when a process dies ${when} any of its calls`, async () => {
      for (let call = 1; call <= CALLS; call++) {
        runs = []
        const there = newOnce()
        await there.forget('job')
        for (const n of [0, 1]) await come(there, n)
        const here = pausedAt(call, when)
        void come(here.once, 2).catch(() => {})
        await clock.settle()
        await here.manager.stop()
        await clock.advance(2 * AT_MOST_MS)
        expect((await clock.drive(come(there, 1))).ran, `call ${call}`).to.equal(false)
        expect((await clock.drive(come(there, 0))).ran, `call ${call}`).to.equal(false)
        await clock.drive(come(there, 2))
        expect((await clock.drive(come(there, 3))).ran, `call ${call}`).to.equal(true)
        expect([0, 1, 2, 3].map(timesOf).every((times) => times <= 1)).to.equal(true)
      }
    })

    it(`a call that is aborted ${when} any of its calls leaves nothing, and another runs the slot at once`, async () => {
      for (let call = 1; call <= 7; call++) {
        runs = []
        const there = newManager()
        const once = newOnce(there)
        await once.forget('job')
        for (const n of [0, 1]) await come(once, n)
        const stop = new AbortController()
        let calls = 0
        const here = newOnce(
          gated(newManager(), (at, nth) => {
            calls = nth
            if (nth === call && at === when) stop.abort(new Error(`at ${call}`))
          }),
        )
        const aborted = track(come(here, 2, { signal: stop.signal }))
        await clock.settle()
        expect(aborted.error, `call ${call}`).to.have.property('message', `at ${call}`)
        expect(getEventListeners(stop.signal, 'abort')).to.have.length(0)
        expect((await there.leases()).has('once-per/job'), `call ${call}`).to.equal(false)
        expect(timesOf(2)).to.equal(0)
        if (call <= 5) expect(calls, `call ${call}`).to.be.at.most(5) // no mark was touched
        expect(await come(once, 2), `call ${call}`).to.include({ ran: true })
        expect([timesOf(0), timesOf(1)]).to.deep.equal([1, 1])
      }
    })
  }

  it('a call that is aborted within a microtask leaves nothing', async () => {
    const manager = newManager()
    const once = newOnce(manager)
    for (let microtasks = 0; microtasks < 60; microtasks++) {
      const stop = new AbortController()
      const aborted = track(once.begin('job', minute(microtasks), { signal: stop.signal }))
      for (let n = 0; n < microtasks; n++) await Promise.resolve()
      stop.abort(new Error('enough'))
      await clock.settle()
      const { value } = aborted
      if (value?.ran === true) await value.run.release()
      else {
        expect(aborted.error).to.have.property('message', 'enough')
        expect((await manager.leases()).has('once-per/job')).to.equal(false)
        expect(await once.last('job')).to.equal(undefined)
      }
      await once.forget('job')
      expect(getEventListeners(stop.signal, 'abort')).to.have.length(0)
    }
  })

  it('a run that is aborted within a microtask of its grant does its work or leaves the slot to others', async () => {
    const seen = new Set<boolean>()
    for (let microtasks = 0; microtasks < 60; microtasks++) {
      const stop = new AbortController()
      const abort = async (): Promise<void> => {
        for (let n = 0; n < microtasks; n++) await Promise.resolve()
        stop.abort(new Error('enough'))
      }
      // Its claim is the one call for which no wait is possible.
      const manager = newManager()
      const claim = async (...args: Parameters<Manager['claim']>): Promise<unknown> => {
        const token = await manager.claim(...args)
        void abort()
        return token
      }
      const here = track(come(newOnce(replaced(manager, { claim })), microtasks, { signal: stop.signal }))
      await clock.settle()
      const hasRun = timesOf(microtasks) === 1
      seen.add(hasRun)
      expect(here.state).to.equal(hasRun ? 'fulfilled' : 'rejected')
      expect((await newManager().leases()).has('once-per/job')).to.equal(false)
      expect(await come(newOnce(), microtasks)).to.include({ ran: !hasRun })
    }
    expect(seen.size).to.equal(2)
  })

  it('a run whose turn is lost before its work begins leaves the slot to others', async () => {
    const [here, there] = [newManager(), newManager()]
    const lost: unknown[] = []
    // As if this process stood still between its last look at the clock and the work.
    const hold = async (...args: Parameters<Manager['hold']>): Promise<unknown> => {
      const held = await here.hold(...args)
      let looks = 0
      return new Proxy(held, {
        get: (target, name) => {
          if (name === 'held') return ++looks === 1
          if (name === 'assertHeld')
            return () => {
              throw new Error('lost')
            }
          const member: unknown = Reflect.get(target, name)
          return typeof member === 'function' ? (member as () => unknown).bind(target) : member
        },
      })
    }
    await come(newOnce(replaced(here, { hold })), 0).catch((error: unknown) => lost.push(error))
    expect(lost).to.have.length(1)
    expect(timesOf(0)).to.equal(0)
    expect(await come(newOnce(there), 0)).to.include({ ran: true })
  })

  it('with `retry`, the record of the end comes before the turn is free', async () => {
    const manager = newManager()
    let claims = 0
    const slow = replaced(manager, {
      claim: async (...args: Parameters<Manager['claim']>) => {
        if (++claims === 2) await new Promise<void>((resolve) => void clock.setTimer(1000, resolve))
        return manager.claim(...args)
      },
    })
    const begun = await newOnce(slow).begin('job', minute(0))
    const waiting = track(come(newOnce(), 0, { retry: true }))
    await clock.settle()
    if (begun.ran) void begun.run.release()
    await clock.advance(5000)
    expect(waiting.value).to.include({ ran: false, reason: 'taken' })
    expect(runs).to.deep.equal([])
  })

  it('with `retry`, a slot that is done stays done when the mark of an earlier attempt arrives late', async () => {
    const slot = minute(0).toISOString()
    for (const done of [0, 1]) {
      const manager = newManager()
      for (const mark of [0, 1]) {
        const value = `${mark === done ? 'done' : 'begun'} process-${mark} ${slot}`
        await manager.claim(`once-per/job/${mark}`, `process-${mark}`, 60_000, { value })
      }
      expect(await come(newOnce(manager), 0, { retry: true })).to.include({ ran: false, by: `process-${done}` })
      await newOnce(manager).forget('job')
    }
  })

  it('a signal that has aborted ends the call with its reason, and nothing is sent', async () => {
    let calls = 0
    const once = newOnce(gated(newManager(), () => calls++))
    const signal = AbortSignal.abort(new Error('before'))
    for (const call of [
      () => once.run('job', minute(0), () => 1, { signal }),
      () => once.begin('job', minute(0), { signal }),
      () => once.last('job', { signal }),
      () => once.forget('job', { signal }),
    ]) {
      expect(await call().catch((error: unknown) => error)).to.have.property('message', 'before')
    }
    expect(calls).to.equal(0)
  })

  it('one signal ends a thousand calls without a warning, and keeps no listener', async () => {
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const once = newOnce()
    const stop = new AbortController()
    await Promise.all(
      Array.from({ length: 1000 }, (_, n) => once.run(`job-${n}`, 'a', () => 1, { signal: stop.signal })),
    )
    await clock.settle()
    process.off('warning', onWarning)
    expect(warnings).to.deep.equal([])
    expect(getEventListeners(stop.signal, 'abort')).to.have.length(0)
  })

  for (const kind of ['claim', 'read', 'release'] as const) {
    for (const fault of ['loseReply', 'loseRequest'] as const) {
      it(`a slot runs at most once when each ${kind} meets ${fault}, and unknown is not reported as skipped`, async () => {
        for (let skip = 0; skip < 4; skip++) {
          runs = []
          await newOnce().forget('job')
          for (const n of [0, 1]) await come(newOnce(), n)
          const network = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
          const manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
          managers.push(manager)
          network[fault]({ kind, skip })
          const here = track(come(newOnce(manager), 2))
          await clock.drive(here.promise.catch(() => {}))
          if (here.state === 'rejected') expect(here.error).to.be.instanceOf(ErrUnknown)
          else expect(here.value).to.include({ ran: true })
          await manager.stop()
          await clock.advance(2 * AT_MOST_MS)
          for (const n of [2, 1, 0]) await clock.drive(come(newOnce(), n))
          for (const n of [0, 1, 2]) expect(timesOf(n)).to.be.at.most(1)
        }
      })
    }
  }

  it('a release whose record is lost becomes a warning; the result is the caller’s, and the slot stays taken', async () => {
    const warnings: string[] = []
    const onWarning = ({ name }: Error): void => void warnings.push(name)
    process.on('warning', onWarning)
    const network = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
    const manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
    managers.push(manager)
    const work = (): string => {
      network.reject(new Error('away'), { kind: ['claim', 'extend'] })
      return 'done'
    }
    const outcome = await clock.drive(newOnce(manager).run('job', minute(0), work))
    await clock.settle()
    process.off('warning', onWarning)
    expect(outcome).to.include({ ran: true, result: 'done' })
    expect(warnings).to.deep.equal(['ErrUnknown'])
    expect(await come(newOnce(), 0)).to.include({ ran: false, reason: 'taken' })
    expect(await newOnce().last('job')).to.include({ done: false })
    expect(await come(newOnce(), 1)).to.include({ ran: true })
  })

  it('a run aborts its signal when its turn is lost, and its result is the caller’s', async () => {
    const [here, there] = [newManager(), newManager()]
    const running = track(
      newOnce(here).run('job', minute(0), async ({ signal, run }) => {
        const lost = new Promise((resolve) => signal.addEventListener('abort', resolve))
        await there.revoke('once-per/job')
        await lost
        return [signal.aborted, run.held, (signal.reason as Error).name]
      }),
    )
    await clock.drive(running.promise)
    expect(running.value).to.deep.include({ ran: true, result: [true, false, 'ErrLost'] })
    expect(await newOnce(there).last('job')).to.include({ done: true })
  })

  it('a run that lost its turn to one that runs the slot anew leaves the record to that one', async () => {
    const [here, there] = [newManager(), newManager()]
    const first = await newOnce(here).begin('job', minute(0))
    await there.revoke('once-per/job')
    await clock.settle()
    const second = await newOnce(there).begin('job', minute(0), { retry: true })
    expect(first.ran && second.ran).to.equal(true)
    if (first.ran) await first.run.release().catch(() => {})
    expect(await newOnce().last('job')).to.include({ done: false })
    if (second.ran) await second.run.release()
    expect(await newOnce().last('job')).to.include({ done: true })
  })

  it('a run that is not renewed is lost after `atMost`: the next slot runs beside it, and its own stays taken', async () => {
    const begun = await newOnce().begin('job', minute(0), { renew: false })
    await clock.advance(AT_MOST_MS - 100)
    expect(await come(newOnce(), 1)).to.include({ ran: false, reason: 'busy' })
    await clock.advance(101)
    expect(begun.ran && begun.run.signal.aborted && !begun.run.held).to.equal(true)
    expect(await come(newOnce(), 0, { retry: false })).to.include({ ran: false, reason: 'taken' })
    expect(await come(newOnce(), 1)).to.include({ ran: true })
    if (begun.ran) await begun.run.release()
    expect(await newOnce().last('job')).to.include({ slot: minute(1).toISOString(), done: true })
  })

  it('a manager that stops in the middle of a run makes no warning of its end', async () => {
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    const manager = newManager()
    const outcome = await newOnce(manager).run('job', minute(0), () => manager.stop())
    await clock.settle()
    process.off('warning', onWarning)
    expect(outcome).to.include({ ran: true })
    expect(warnings).to.deep.equal([])
  })

  it('the slot of a run that is longer than `atMost` and `atLeast` stays taken, and is remembered from its end on', async () => {
    const once = newOnce()
    const begun = await once.begin('job', minute(0), { atLeast: 1000 })
    await clock.advance(10 * AT_MOST_MS)
    expect(await once.last('job')).to.equal(undefined)
    expect(await clock.drive(come(newOnce(), 0))).to.include({ ran: false, reason: 'taken' })
    expect(await clock.drive(come(newOnce(), 1))).to.include({ ran: false, reason: 'busy' })
    if (begun.ran) await begun.run.release()
    expect(await come(newOnce(), 0)).to.include({ ran: false, reason: 'taken' })
    await clock.advance(1001)
    expect(await once.last('job')).to.equal(undefined)
  })

  it('calls reject with ErrStopped when the manager stops, and a run aborts', async () => {
    const [here, there] = [newManager(), newManager()]
    const begun = await newOnce(there).begin('job', minute(0))
    const waiting = track(come(newOnce(here), 0, { retry: true }))
    await clock.settle()
    await here.stop()
    await clock.settle()
    expect(waiting.error).to.be.instanceOf(ErrStopped)
    await there.stop()
    expect(begun.ran && begun.run.signal.aborted && !begun.run.held).to.equal(true)
    expect(clock.pending).to.equal(0)
  })

  it('a lease of somebody else under the name of a job is none of its marks: unknown, and it stays', async () => {
    const manager = newManager()
    for (const lease of ['once-per/job', 'once-per/job/0']) {
      await manager.claim(lease, 'stranger', 60_000, { value: 'mine' })
      const error: unknown = await come(newOnce(), 0).catch((reason: unknown) => reason)
      expect(error).to.be.instanceOf(ErrUnknown)
      expect((await manager.leases()).get(lease)).to.include({ holder: 'stranger' })
      await manager.release(lease, 'stranger')
    }
  })

  it('in a random life with pauses, crashes and late packets no slot runs twice, and no two runs are held at once', async () => {
    let began = 0
    for (let seed = 1; seed <= SEEDS; seed++) {
      clock = new TestClock()
      store = new MemoryStore({ clock })
      const random = randomOf(seed)
      const retry = seed % 4 === 0
      const times = new Map<string, number>()
      let held = 0
      let overlaps = 0
      const live = async (process: number): Promise<void> => {
        const network = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: () => random() * 30 })
        const manager = new Manager({ client: new SubstrateClient({ substrate: network, clock }), clock })
        managers.push(manager)
        // Nothing is renewed, so a sleep that is long enough is a pause.
        const lapsing = replaced(manager, {
          hold: (...[lease, holder, options]: Parameters<Manager['hold']>) =>
            manager.hold(lease, holder, { ...options, renewEvery: false }),
        })
        const sleep = (ms: number): Promise<void> => new Promise((resolve) => void clock.setTimer(ms, resolve))
        const once = newOnce(gated(lapsing, () => (random() < 0.05 ? sleep(random() * 2 * AT_MOST_MS) : undefined)))
        for (let step = 0; step < 12; step++) {
          const n = Math.max(0, step + Math.floor(random() * 5) - 2)
          const stop = new AbortController()
          const crash =
            random() < 0.1 ? clock.setTimer(random() * 200, () => stop.abort(new Error('enough'))) : undefined
          const work = async ({ slot, run }: { slot: string; run: { held: boolean } }): Promise<void> => {
            times.set(slot, (times.get(slot) ?? 0) + 1)
            if (run.held) {
              if (++held > 1) overlaps++
              await sleep(random() * 100)
              held--
            }
          }
          await once.run('job', minute(n), work, { retry, signal: stop.signal }).catch((error: unknown) => {
            if (
              !(error instanceof ErrUnknown) &&
              (error as Error).message !== 'enough' &&
              (error as Error).name !== 'ErrLost'
            )
              throw error
          })
          crash?.cancel()
          await sleep(random() * 500 * (process + 1))
        }
      }
      await clock.drive(Promise.all([0, 1, 2, 3].map(live)))
      began += times.size
      expect(overlaps, `seed ${seed}`).to.equal(0)
      if (!retry) expect(Math.max(...times.values()), `seed ${seed}`).to.equal(1)
    }
    expect(began).to.be.at.least(4 * SEEDS)
  })
})

/** Mulberry32: the same numbers for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
