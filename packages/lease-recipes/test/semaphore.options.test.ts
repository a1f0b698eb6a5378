import { expect } from 'chai'
import { ErrClaimDenied, ErrNotHeld, ErrNotValid, ErrUnknown } from 'lease-core'
import { Manager, memoryClient, MemoryStore, MemorySubstrate, sleep } from 'lease-core'
import { SubstrateClient } from 'lease-core/adapter'
import { FaultySubstrate, TestClock, track } from 'lease-core/testing'
import { ErrNoSemaphore, Semaphores, type Permit, type SemaphoresOptions } from '#src/semaphore.ts'
import { enough } from 'lease-servers'
import { Process, rejection } from './bench.ts'
import type { Store } from './stores.ts'

describe('Semaphore: options and small print', () => {
  let clock: TestClock
  let store: MemoryStore
  let manager: Manager

  beforeEach(() => {
    clock = new TestClock()
    store = new MemoryStore({ clock })
    manager = another()
  })
  afterEach(() => manager.stop())

  function another(): Manager {
    return new Manager({ client: memoryClient({ store, clock }), clock })
  }

  function semaphores(options: Partial<Record<keyof SemaphoresOptions, unknown>> = {}): Semaphores {
    return new Semaphores({ manager, clock, ...options } as SemaphoresOptions)
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
    expect(problems(() => new Semaphores(undefined as never))).to.deep.equal(['options must be an object'])
    const options = { manager: {}, prefix: 'a b', minWaitTimeout: 20, maxWaitTimeout: 10, requestTimeout: 0, clock: 1 }
    expect(problems(() => semaphores({ ...options, disk: true } as never))).to.deep.equal([
      'disk is not an option',
      'manager must be a Manager',
      'prefix must not contain white space or control characters',
      'maxWaitTimeout must be at least minWaitTimeout (20 ms)',
      'requestTimeout must be greater than zero',
      'clock must be a Clock',
    ])
  })

  it('a holder that posts again and again costs no more renewals than a few', async () => {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
    const own = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const one = semaphores({ manager: own })
    await clock.drive(one.create('pool', 2))
    const options = { keepAlive: true }
    const permit = await clock.drive(one.post('pool', 'x', 60_000, options))
    const renewals = async (): Promise<number> => {
      const before = wire.counts.extend
      await clock.advance(600_000)
      return wire.counts.extend - before
    }
    const once = await renewals()
    for (let post = 0; post < 50; post++) {
      expect(await clock.drive(one.post('pool', 'x', 60_000 + post, options))).to.equal(permit)
    }
    expect(await renewals()).to.be.within(once, 3 * once)
    const refreshed = permit.refresh()
    await clock.drive(one.post('pool', 'x', 30_000, { keepAlive: false }))
    await clock.drive(refreshed)
    await clock.drive(permit.close())
    expect([permit.held, permit.signal.aborted, (await clock.drive(one.read('pool'))).active]).to.deep.equal([
      false,
      true,
      0,
    ])
    await own.stop()
  })

  it('one process waits at thousands of semaphores, each post by itself', async () => {
    const count = enough(300)
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 1 })
    const own = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const [theirs, ours] = [semaphores(), semaphores({ manager: own })]
    const ids = Array.from({ length: count }, (_, index) => `pool-${index}`)
    const options = { n: 1 }
    const permits = await clock.drive(Promise.all(ids.map((id) => theirs.post(id, 'x', 600_000, options))))
    const waits = ids.map((id) => track(ours.post(id, 'y', 600_000, options)))
    await clock.advance(1_000)
    expect(waits.filter(({ state }) => state !== 'pending')).to.deep.equal([])
    expect(wire.counts.claim, 'claims of those who wait, the second one when it hears of news').to.be.at.most(2 * count)
    await clock.drive(Promise.all([...permits.slice(0, 3), ...permits.slice(-3)].map((permit) => permit.close())))
    await clock.advance(100)
    const served = waits.flatMap(({ state }, index) => (state === 'fulfilled' ? [index] : []))
    expect(served).to.deep.equal([0, 1, 2, count - 3, count - 2, count - 1])
    await clock.drive(Promise.all([ours.stop(), theirs.stop()]))
    await Promise.all(waits.map(({ promise }) => promise.catch(() => {})))
    await own.stop()
  })

  it('twenty processes that post in a loop are served in turn, and a hand-over takes a few requests however many wait', async () => {
    for (const [posters, n] of [
      [20, 2],
      [50, 7],
    ] as const) {
      const served: number[] = []
      const wires: FaultySubstrate[] = []
      const managers: Manager[] = []
      const stop = new AbortController()
      const id = `pool-${posters}-${n}`
      const work = async (index: number): Promise<void> => {
        const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 1 })
        const own = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
        wires.push(wire)
        managers.push(own)
        const one = semaphores({ manager: own })
        while (!stop.signal.aborted) {
          const permit = await one.post(id, `p${index}`, 600_000, { n, signal: stop.signal })
          served.push(index)
          await sleep(clock, 20)
          await permit.close()
        }
      }
      const posting = Array.from({ length: posters }, (_, index) => work(index).catch(() => {}))
      await clock.advance(1_000)
      const from = served.length
      const sum = (): number => wires.reduce((total, { counts }) => total + counts.roundTrips, 0)
      const before = sum()
      await clock.advance(enough(1_500))
      const handOvers = served.length - from
      // What is under way at both ends is counted once.
      expect(sum() - before, `requests for ${handOvers} hand-overs, ${posters} posters, n = ${n}`).to.be.at.most(
        4 * handOvers + posters,
      )
      for (let poster = 0; poster < posters; poster++) {
        const turns = served.flatMap((index, at) => (index === poster && at >= from ? [at] : []))
        expect(turns.length, `how often ${poster} of ${posters} was served, n = ${n}`).to.be.at.least(1)
        for (const [turn, at] of turns.slice(1).entries()) {
          const between = served.slice((turns[turn] as number) + 1, at)
          const most = Math.max(...between.map((index) => between.filter((other) => other === index).length))
          expect(most, `how often ${poster} was overtaken by one and the same`).to.be.at.most(n)
        }
      }
      stop.abort()
      await clock.advance(1_000)
      await Promise.all(posting)
      await Promise.all(managers.map((one) => one.stop()))
    }
  })

  it('`destroy` revokes also what was granted while it was about to write', async () => {
    const operator = another()
    const one = semaphores()
    await clock.drive(one.create('pool', 1))
    let late: Permit | undefined
    const value = async (...args: Parameters<Manager['define']>): Promise<string> => {
      late = await one.post('pool', 'x', 60_000)
      return Manager.prototype.define.apply(operator, args)
    }
    Object.defineProperty(operator, 'define', { value })
    await clock.drive(semaphores({ manager: operator }).destroy('pool'))
    await clock.settle()
    expect(late?.held).to.equal(false)
    await operator.stop()
  })

  it('`destroy` leaves alone what the same holder was granted of a new semaphore of this id before the revocation', async () => {
    const operator = another()
    const one = semaphores()
    await clock.drive(one.create('pool', 1))
    const before = await clock.drive(one.post('pool', 'x', 60_000))
    let again: Permit | undefined
    const value = async (...args: Parameters<Manager['revoke']>): Promise<void> => {
      await before.release()
      await one.create('pool', 1)
      again = await one.post('pool', 'x', 60_000)
      await Manager.prototype.revoke.apply(operator, args)
    }
    Object.defineProperty(operator, 'revoke', { value })
    await clock.drive(semaphores({ manager: operator }).destroy('pool'))
    await clock.settle()
    expect([before.held, again?.held]).to.deep.equal([false, true])
    expect((await clock.drive(one.read('pool'))).active).to.equal(1)
    await operator.stop()
  })

  it('a permit that any of its posts asked to keep alive is kept alive, whatever later posts ask for', async () => {
    const one = semaphores()
    await clock.drive(one.create('pool', 1))
    const permit = await clock.drive(one.post('pool', 'x', 60_000))
    for (const keepAlive of [true, false, false]) {
      expect(await clock.drive(one.post('pool', 'x', 60_000, { keepAlive }))).to.equal(permit)
    }
    await clock.advance(600_000)
    expect(permit.held).to.equal(true)
    await clock.drive(permit.release())
    expect((await clock.drive(one.read('pool'))).active).to.equal(0)
  })

  it('a creation that is given up, at whatever moment, leaves nothing that `destroy` does not remove', async () => {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency: 5 })
    const own = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    const one = semaphores({ manager: own })
    for (let afterMs = 5; afterMs <= 80; afterMs += 1) {
      const controller = new AbortController()
      const creation = track(one.create('pool', 1, { signal: controller.signal }))
      await clock.advance(afterMs)
      controller.abort(new Error('enough'))
      await clock.advance(5_000)
      expect(creation.state).not.to.equal('pending')
      await clock.drive(one.destroy('pool'))
      const { generation } = await clock.drive(own.counted('semaphores/pool'))
      expect([afterMs, generation, (await clock.drive(own.leases())).size]).to.deep.equal([afterMs, undefined, 0])
    }
    await own.stop()
  })

  /** A process whose requests take so long, one way. */
  function distant(latency: number): { wire: FaultySubstrate; own: Manager; one: Semaphores } {
    const wire = new FaultySubstrate(new MemorySubstrate({ store }), { clock, latency })
    const own = new Manager({ client: new SubstrateClient({ substrate: wire, clock }), clock })
    return { wire, own, one: semaphores({ manager: own }) }
  }

  it('a post takes a free permit however distant the store is, with few retries as with none', async () => {
    const { own, one } = distant(200)
    await clock.drive(one.create('pool', 5))
    await clock.drive(one.post('pool', 'first', 600_000, { retries: 0 })) // it learns the limit
    for (const retries of [0, 1, 3, 10]) {
      const startedMs = clock.monotonic()
      const permit = await clock.drive(one.post('pool', `x${retries}`, 600_000, { retries }))
      expect(clock.monotonic() - startedMs).to.be.at.most(400)
      await clock.drive(permit.close())
    }
    await own.stop()
  })

  it('a post whose waits end before the answer to its claim is refused by that answer, and leaves nothing', async () => {
    const { own, one } = distant(60)
    await clock.drive(one.create('pool', 1))
    const permit = await clock.drive(one.post('pool', 'x', 600_000))
    for (let post = 0; post < 20; post++) {
      const refused = rejection(one.post('pool', 'y', 600_000, { retries: 1 + (post % 4) }), ErrClaimDenied)
      expect((await clock.drive(refused)).message).to.contain('all permits are taken')
    }
    await clock.drive(permit.close())
    await clock.advance(1_000)
    expect((await clock.drive(one.read('pool'))).active).to.equal(0)
    await own.stop()
  })

  it('a post at a store that does not answer ends after its waits and the time-out of each try', async () => {
    const { wire, own, one } = distant(0)
    await clock.drive(one.create('pool', 1))
    await clock.drive(one.post('pool', 'x', 600_000))
    wire.hang()
    for (const retries of [0, 1, 3]) {
      const startedMs = clock.monotonic()
      const options = { retries, requestTimeout: 1_000 }
      const post = track(one.post('pool', 'y', 600_000, options))
      await clock.advance((retries + 1) * 1_000 - 1)
      expect(post.state).to.equal('pending')
      await clock.drive(post.promise.catch(() => {}))
      expect(post.error).to.be.instanceOf(ErrUnknown)
      expect(clock.monotonic() - startedMs).to.be.within(retries * 1_010 + 1_000, retries * 1_100 + 1_000)
    }
    wire.heal()
    await own.stop()
  })

  it('a permit whose holder posted in another process is not given back unheard: its close() says who keeps it', async () => {
    const [here, there, other] = [semaphores(), semaphores({ manager: another() }), semaphores({ manager: another() })]
    await here.create('pool', 1)
    const mine = await here.post('pool', 'x', 600_000)
    const theirs = await there.post('pool', 'x', 600_000, { retries: 0 })
    expect(await rejection(mine.close(), ErrNotHeld)).to.have.property('reason', 'adopted')
    expect([mine.held, theirs.held]).to.deep.equal([false, true])
    await rejection(other.post('pool', 'y', 1_000, { retries: 0 }), ErrClaimDenied)
    await clock.drive(here.close('pool', 'x')) // whichever process has it
    await other.post('pool', 'y', 1_000, { retries: 0 })
  })

  it('close() by name frees a permit of this process that its holder took over in another process', async () => {
    const [here, there, other] = [semaphores(), semaphores({ manager: another() }), semaphores({ manager: another() })]
    await here.create('pool', 1)
    for (const closing of [here, semaphores()]) {
      const mine = await here.post('pool', 'x', 600_000)
      await there.post('pool', 'x', 600_000, { retries: 0 })
      expect(mine.held).to.equal(true)
      await clock.drive(closing.close('pool', 'x'))
      await (await other.post('pool', 'y', 1_000, { retries: 0 })).close()
    }
  })

  it('an id that is too long is refused without being repeated: it may be a URL with a password', async () => {
    const id = `postgres://user:s3cr3t@${'x'.repeat(255)}`
    const error = await rejection(semaphores().create(id, 1), ErrNotValid)
    expect(JSON.stringify([error.message, error.problems])).not.to.contain('s3cr3t')
    expect(error.message).to.match(/^id must be shorter: .* have \d{3} bytes, and at most 255 are allowed/)
  })

  it('a permit for no longer than clocks differ is refused as a `timeout`, and nothing is sent', async () => {
    for (const timeout of [1, 0.5, { milliseconds: 1 }]) {
      const error = await rejection(semaphores().post('pool', 'x', timeout), ErrNotValid)
      expect(problemsOf(error)).to.deep.equal(['timeout must be longer than the margin for clocks, 1 ms and 0.1 %'])
    }
  })

  it('numbers of retries that are none are refused, whatever they are', async () => {
    const one = semaphores()
    for (const retries of [10n, Object.create(null), Symbol('s'), '1', Number.NaN, -1] as never[]) {
      const error = await rejection(one.post('pool', 'x', 1_000, { retries }), ErrNotValid)
      expect(problemsOf(error)).to.deep.equal(['retries must be a whole number, 0 or more, or Infinity'])
    }
  })

  it('DSM-2: limits and numbers of permits are whole numbers from 1 on', async () => {
    const one = semaphores()
    const rule = 'must be a whole number from 1 to 1073741824'
    for (const bad of [1.5, 0, -1, 2 ** 30 + 1, Number.NaN, Number.POSITIVE_INFINITY, '3', null]) {
      const n = bad as number
      for (const call of [one.create('pool', n), one.resize('pool', n), one.post('pool', 'x', 1_000, { n })]) {
        expect(problemsOf(await rejection(call, ErrNotValid))).to.deep.equal([`n ${rule}`])
      }
      const error = await rejection(one.post('pool', 'x', 1_000, { permits: n }), ErrNotValid)
      expect(problemsOf(error)).to.deep.equal([`permits ${rule}`])
    }
    const error = await rejection(one.post('pool', 'x', 1_000, { permits: 3, n: 2 }), ErrNotValid)
    expect(problemsOf(error)).to.deep.equal(['permits must be at most n (2)'])
    const noWait = await rejection(one.post('pool', 'x', 1_000, { wait: null as never }), ErrNotValid)
    expect(problemsOf(noWait)).to.have.length(1)
    for (const option of ['wait', 'retries']) {
      const call = one.tryPost('pool', 'x', 1_000, { [option]: 5 })
      expect(problemsOf(await rejection(call, ErrNotValid))[0]).to.equal(`${option} is not an option`)
    }
    const brief = await rejection(one.post('pool', 'x', 7, { keepAlive: true }), ErrNotValid)
    expect(problemsOf(brief)).to.deep.equal(['timeout must be at least 8 ms, to be renewed in time'])
    await one.create('pool', 2 ** 30)
    expect((await one.read('pool')).n).to.equal(2 ** 30)
  })

  it('`wait` and `retries` are two ways to say one thing, and are not given together', async () => {
    const one = semaphores()
    const both = await rejection(one.post('pool', 'x', 1_000, { wait: true, retries: 3 }), ErrNotValid)
    expect(problemsOf(both)).to.deep.equal(['retries must not be given together with wait'])
    const bad = await rejection(one.post('pool', 'x', 1_000, { wait: 0 }), ErrNotValid)
    expect(problemsOf(bad)).to.deep.equal(['wait must be greater than zero'])
    await one.create('pool', 1)
    await one.post('pool', 'x', 600_000)
    await rejection(one.post('pool', 'y', 1_000, { wait: false }), ErrClaimDenied)
    const waiting = track(one.post('pool', 'y', 1_000, { wait: 500 }))
    await clock.advance(499)
    expect(waiting.state).to.equal('pending')
    await clock.advance(10)
    expect(waiting.error).to.be.instanceOf(ErrClaimDenied)
  })

  it('CL-8: arguments that make no sense are refused at once, all of them, and nothing is sent', async () => {
    const one = semaphores()
    const post = one.post('', 'a b', -1, { retries: 0.5, keepAlive: 1, requestTimeout: 0, signal: 5, cb: 1 } as never)
    expect(problemsOf(await rejection(post, ErrNotValid))).to.deep.equal([
      'cb is not an option',
      'id must not be empty',
      'holder must not contain white space or control characters',
      'keepAlive must be true or false',
      'timeout must be greater than zero',
      'retries must be a whole number, 0 or more, or Infinity',
      'signal must be an AbortSignal',
      'requestTimeout must be greater than zero',
    ])
    for (const retries of [-1, Number.NaN, '3']) {
      await rejection(one.post('pool', 'x', 5, { retries: retries as number }), ErrNotValid)
    }
    await rejection(one.read(5 as never), ErrNotValid)
    await rejection(one.read('\uD800'), ErrNotValid)
    await rejection(one.read('x'.repeat(300)), ErrNotValid)
    await rejection(one.close('pool', ''), ErrNotValid)
    await rejection(one.destroy('pool', { retries: 1 } as never), ErrNotValid)
    await rejection(one.read('pool', null as never), ErrNotValid)
    expect((await manager.leases()).size).to.equal(0)
  })

  it('CL-8: a signal that has aborted already ends every call with its reason', async () => {
    const one = semaphores()
    await one.create('pool', 1)
    const signal = AbortSignal.abort(new Error('no patience'))
    const calls = [one.create('other', 1, { signal }), one.read('pool', { signal }), one.destroy('pool', { signal })]
    calls.push(one.resize('pool', 2, { signal }), one.post('pool', 'x', 5, { signal }) as Promise<never>)
    for (const call of [...calls, one.close('pool', 'x', { signal })]) {
      expect((await rejection(call as Promise<unknown>, Error)).message).to.equal('no patience')
    }
    expect(await one.read('pool')).to.deep.equal({ n: 1, active: 0, holders: [] })
  })

  it('DSM-1: a lease of the same name has nothing to do with a semaphore', async () => {
    const one = semaphores()
    await manager.claim('semaphores/pool', 'somebody', 60_000)
    await rejection(one.read('pool'), ErrNoSemaphore)
    await one.create('pool', 1)
    await one.post('pool', 'x', 60_000)
    await one.destroy('pool')
    expect((await manager.leases()).get('semaphores/pool')?.holder).to.equal('somebody')
  })

  it('DSM-4: a post that was under way while the semaphore was made anew, and long after, is one of the new ones or none', async () => {
    const slow = new Process({ client: () => memoryClient({ store, clock }), clock } as unknown as Store, 'any')
    const [one, other] = [semaphores(), semaphores({ manager: slow.manager })]
    await one.create('pool', 5)
    await (await other.post('pool', 'x', { hours: 1 })).close()
    slow.pause()
    const options = { retries: 0, requestTimeout: { hours: 1 } }
    const posts = ['p', 'q', 'r', 's', 't'].map((holder) => other.post('pool', holder, { hours: 1 }, options))
    const outcomes = Promise.allSettled(posts)
    await one.destroy('pool')
    await one.create('pool', 1)
    await clock.advance({ minutes: 5 })
    slow.resume()
    const granted = (await outcomes).filter(({ status }) => status === 'fulfilled')
    expect(granted).to.have.length(1)
    const held = [...(await manager.leases()).values()].filter(({ holder }) => /^[p-t]$/.test(holder))
    expect(held).to.have.length(1)
    await slow.manager.stop()
  })

  it('DSM-5: a permit granted after a long wait is one of those that there are by then', async () => {
    const one = semaphores()
    await one.create('pool', 2)
    await one.post('pool', 'x', { minutes: 10 })
    await one.post('pool', 'y', { minutes: 20 })
    const waiting = one.post('pool', 'z', { minutes: 1 })
    await clock.advance(601_000)
    const permit = await waiting
    expect([permit.held, (await one.read('pool')).active]).to.deep.equal([true, 2])
  })

  it('nothing keeps the clock busy after stop()', async () => {
    const one = semaphores()
    await one.create('pool', 1)
    await one.post('pool', 'x', 1000, { keepAlive: true })
    const waiting = one.post('pool', 'y', 1000, { retries: 5 }).catch(() => {})
    const resizing = one.resize('pool', 2)
    await resizing
    await one.stop()
    await waiting
    await manager.stop()
    expect(clock.pending).to.equal(0)
  })
})
