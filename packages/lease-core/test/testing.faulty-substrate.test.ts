import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import type { Call, ClaimOp, Op, Verdict } from '#src/substrate.ts'
import { FaultySubstrate, InjectedFault, TestClock, track, type FaultySubstrateOptions } from '#src/testing/index.ts'

function claim(lease: string, holder = 'a', nonce = `${holder}-1`): ClaimOp {
  const announce = true
  return { kind: 'claim', lease, holder, durationMs: 10_000, nonce, value: undefined, lapsed: undefined, announce }
}

const timeless: Call = {
  signal: new AbortController().signal,
  timeoutMs: 1000,
  client: 'c',
  epoch: 0,
  sentMs: undefined,
  notAfterMs: undefined,
}

class Bench {
  readonly clock = new TestClock()
  readonly store = new MemoryStore({ clock: this.clock })
  readonly faulty: FaultySubstrate
  readonly abort = new AbortController()
  readonly call: Call = { ...timeless, signal: this.abort.signal }

  constructor(options: FaultySubstrateOptions = {}) {
    this.faulty = new FaultySubstrate(new MemorySubstrate({ store: this.store }), { clock: this.clock, ...options })
  }

  apply(...ops: Op[]): Promise<readonly Verdict[]> {
    return this.faulty.apply(ops, this.call)
  }

  /** What the store itself knows, whatever is broken on the way to it. */
  async stored(): Promise<string[]> {
    const behind = new MemorySubstrate({ store: this.store })
    return [...(await behind.read(undefined, timeless)).keys()]
  }

  /** The verdicts' outcomes, or the name of what was thrown. */
  async outcome(...ops: Op[]): Promise<string> {
    try {
      return (await this.apply(...ops)).map(({ outcome }) => outcome).join()
    } catch (error) {
      return error instanceof InjectedFault ? error.fault : (error as Error).message
    }
  }
}

describe('FaultySubstrate: round trips', () => {
  it('without faults everything passes through', async () => {
    const bench = new Bench()
    expect(await bench.outcome(claim('x'), claim('y'))).to.equal('granted,granted')
    expect([...(await bench.faulty.read(['x'], bench.call)).keys()]).to.deep.equal(['x'])
    await bench.outcome({ kind: 'pin', lease: 'x', entity: 'e', generation: 'g' })
    expect([...(await bench.faulty.pinned(bench.call)).keys()]).to.deep.equal(['x'])
    expect(bench.faulty.limits).to.deep.equal(new MemorySubstrate().limits)
  })

  it('a delayed request is executed late, a delayed reply was executed at once', async () => {
    for (const at of ['request', 'reply'] as const) {
      const bench = new Bench()
      bench.faulty.delay(100, { at })
      const answer = track(bench.apply(claim('x')))
      await bench.clock.advance(99)
      expect(answer.state).to.equal('pending')
      expect(await bench.stored()).to.deep.equal(at === 'request' ? [] : ['x'])
      await bench.clock.advance(1)
      expect(answer.state).to.equal('fulfilled')
    }
  })

  it('delays add up, and go with other faults', async () => {
    const bench = new Bench()
    bench.faulty.delay(100)
    bench.faulty.delay({ seconds: 1 }, { at: 'reply' })
    bench.faulty.loseReply()
    const answer = track(bench.apply(claim('x')))
    await bench.clock.advance(1099)
    expect(answer.state).to.equal('pending')
    await bench.clock.advance(1)
    expect(answer.error).to.be.instanceOf(InjectedFault)
  })

  it('a lost request never arrives, a lost reply was executed: the caller cannot tell which', async () => {
    const bench = new Bench()
    bench.faulty.loseRequest({ times: 1 })
    bench.faulty.loseReply({ times: 1 })
    expect(await bench.outcome(claim('x'))).to.equal('lose-request')
    expect(await bench.stored()).to.deep.equal([])
    expect(await bench.outcome(claim('x'))).to.equal('lose-reply')
    expect(await bench.stored()).to.deep.equal(['x'])
    expect(await bench.outcome(claim('x'))).to.equal('granted')
  })

  it('reject fails with the error given, and nothing is executed', async () => {
    const bench = new Bench()
    const fault = bench.faulty.reject(new Error('connection refused'))
    expect(await bench.outcome(claim('x'))).to.equal('connection refused')
    let error: unknown
    await bench.faulty.read(undefined, bench.call).catch((thrown: unknown) => (error = thrown))
    expect(error).to.have.property('message', 'connection refused')
    expect([await bench.stored(), fault.hits]).to.deep.equal([[], 2])
    fault.heal()
    expect(await bench.outcome(claim('x'))).to.equal('granted')
  })

  it('failAfterCommit leaves one verdict unknown though it was executed; the others get theirs', async () => {
    const bench = new Bench()
    bench.faulty.failAfterCommit({ lease: 'x', times: 1 })
    const verdicts = await bench.apply(claim('x'), claim('y'))
    expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['unknown', 'granted'])
    expect(verdicts[0]?.cause).to.be.instanceOf(InjectedFault)
    expect(await bench.stored()).to.deep.equal(['x', 'y'])
  })

  it('contended leaves one operation undone, as often as asked; verdicts keep their places', async () => {
    const bench = new Bench()
    bench.faulty.contended({ lease: ['x', 'z'], times: 3 })
    expect(await bench.outcome(claim('x'), claim('y'), claim('z'))).to.equal('contended,granted,contended')
    expect(await bench.stored()).to.deep.equal(['y'])
    expect(await bench.outcome(claim('x'))).to.equal('contended')
    expect(await bench.outcome(claim('x'))).to.equal('granted')
  })

  it('what hangs goes on when the fault is healed', async () => {
    for (const at of ['request', 'reply'] as const) {
      const bench = new Bench()
      const fault = bench.faulty.hang({ lease: 'x', at })
      const stuck = track(bench.apply(claim('x')))
      expect(await bench.outcome(claim('y'))).to.equal('granted')
      await bench.clock.advance({ hours: 1 })
      expect([stuck.state, fault.hanging, bench.faulty.inFlight]).to.deep.equal(['pending', 1, 1])
      fault.heal()
      await bench.clock.settle()
      expect([stuck.state, fault.hanging, bench.faulty.inFlight]).to.deep.equal(['fulfilled', 0, 0])
      // One that was executed before has lapsed; the other is found by its nonce.
      expect(await bench.outcome(claim('x', 'a', at === 'reply' ? 'a-2' : 'a-1'))).to.equal('granted')
    }
  })

  it('what hangs and is given up is gone: rejected with the reason, never executed', async () => {
    const bench = new Bench()
    const fault = bench.faulty.hang()
    const stuck = track(bench.apply(claim('x')))
    await bench.clock.settle()
    bench.abort.abort(new Error('too slow'))
    await bench.clock.settle()
    expect(stuck.error).to.have.property('message', 'too slow')
    expect(fault.hanging).to.equal(0)
    fault.heal()
    await bench.clock.settle()
    expect(await bench.stored()).to.deep.equal([])
  })

  it('what was delayed and is given up arrives all the same: nobody can call a packet back', async () => {
    const bench = new Bench()
    bench.faulty.delay(100)
    const late = track(bench.apply(claim('x')))
    await bench.clock.advance(50)
    bench.abort.abort(new Error('too slow'))
    await bench.clock.settle()
    expect([late.state, await bench.stored()]).to.deep.equal(['rejected', []])
    const given = track(bench.apply(claim('y')))
    await bench.clock.settle()
    expect(given.state).to.equal('rejected')
    await bench.clock.advance(50)
    expect(await bench.stored()).to.deep.equal(['x'])
    await bench.clock.advance(50)
    expect(await bench.stored()).to.deep.equal(['x', 'y'])
  })

  it('heal makes all well: nothing strikes any more, and what hangs goes on', async () => {
    const bench = new Bench()
    const hang = bench.faulty.hang({ lease: 'x' })
    bench.faulty.loseReply()
    const stuck = track(bench.apply(claim('x')))
    expect(await bench.outcome(claim('y'))).to.equal('lose-reply')
    bench.faulty.heal()
    await bench.clock.settle()
    expect(stuck.state).to.equal('fulfilled')
    expect(await bench.outcome(claim('z'))).to.equal('granted')
    expect(hang.hits).to.equal(1)
  })

  it('a fault that was healed while its call was delayed does not hold it', async () => {
    const bench = new Bench()
    bench.faulty.delay(100)
    const hang = bench.faulty.hang()
    const answer = track(bench.apply(claim('x')))
    await bench.clock.advance(50)
    hang.heal()
    await bench.clock.advance(50)
    expect(answer.state).to.equal('fulfilled')
  })
})

describe('FaultySubstrate: filters', () => {
  it('choose by kind, by lease, and how many are spared and hit', async () => {
    const bench = new Bench()
    bench.faulty.loseRequest({ kind: ['claim', 'extend'], lease: 'x', skip: 1, times: 2 })
    const seen: string[] = []
    for (let round = 0; round < 5; round++) seen.push(await bench.outcome(claim('x')))
    expect(seen).to.deep.equal(['granted', 'lose-request', 'lose-request', 'granted', 'granted'])
    bench.faulty.loseRequest({ kind: 'read' })
    expect(await bench.outcome(claim('x'))).to.equal('granted')
  })

  it('what travels together is lost together', async () => {
    const bench = new Bench()
    bench.faulty.loseRequest({ lease: 'x' })
    expect(await bench.outcome(claim('y'), claim('x'))).to.equal('lose-request')
    expect(await bench.outcome(claim('y'))).to.equal('granted')
    expect(await bench.stored()).to.deep.equal(['y'])
  })

  it('a read of the whole namespace is about every lease', async () => {
    const bench = new Bench()
    const fault = bench.faulty.loseRequest({ lease: 'x' })
    await bench.faulty.read(['y'], bench.call)
    for (const leases of [['y', 'x'], undefined]) {
      const answer = track(bench.faulty.read(leases, bench.call))
      await bench.clock.settle()
      expect(answer.state).to.equal('rejected')
    }
    expect(fault.hits).to.equal(2)
  })
})

describe('FaultySubstrate: hints', () => {
  async function watching(options: FaultySubstrateOptions = {}): Promise<[Bench, LeaseChange[], () => void]> {
    const bench = new Bench(options)
    const seen: LeaseChange[] = []
    const stop = bench.faulty.watch?.((change) => seen.push(change))
    await bench.clock.settle()
    seen.length = 0
    return [bench, seen, stop ?? (() => {})]
  }
  const changed: LeaseChange = { kind: 'changed', lease: 'x' }
  const resync: LeaseChange = { kind: 'resync' }

  it('pass through, can be doubled, and end with the watch', async () => {
    const [bench, seen, stop] = await watching()
    await bench.apply(claim('x'))
    bench.faulty.duplicateHints()
    await bench.apply(claim('y'))
    await bench.clock.settle()
    expect(seen).to.deep.equal([changed, { ...changed, lease: 'y' }, { ...changed, lease: 'y' }])
    expect(bench.faulty.watchers).to.equal(1)
    stop()
    expect(bench.faulty.watchers).to.equal(0)
    await bench.apply(claim('z'))
    bench.faulty.emit(resync)
    await bench.clock.settle()
    expect(seen).to.have.length(3)
  })

  it('can be dropped, all or some, and nobody is notified', async () => {
    const [bench, seen] = await watching()
    bench.faulty.dropHints((change) => change.kind === 'changed' && change.lease === 'x')
    await bench.apply(claim('x'), claim('y'))
    bench.faulty.dropHints()
    await bench.apply(claim('z'))
    await bench.clock.settle()
    bench.faulty.heal()
    await bench.clock.settle()
    expect(seen).to.deep.equal([{ ...changed, lease: 'y' }])
  })

  it('can be late by the clock', async () => {
    const [bench, seen, stop] = await watching()
    bench.faulty.delayHints(500)
    await bench.apply(claim('x'))
    await bench.clock.advance(499)
    expect(seen).to.deep.equal([])
    await bench.clock.advance(1)
    expect(seen).to.deep.equal([changed])
    await bench.apply(claim('y'))
    await bench.clock.settle()
    stop()
    await bench.clock.advance(500)
    expect(seen).to.deep.equal([changed])
  })

  it('are lost while the watch is disconnected; then comes a resync, also by heal', async () => {
    const [bench, seen] = await watching()
    bench.faulty.disconnectWatch()
    await bench.apply(claim('x'))
    await bench.clock.settle()
    expect(seen).to.deep.equal([])
    bench.faulty.reconnectWatch()
    expect(seen).to.deep.equal([resync])
    bench.faulty.disconnectWatch()
    bench.faulty.heal()
    bench.faulty.heal()
    expect(seen).to.deep.equal([resync, resync])
    await bench.apply(claim('y'))
    await bench.clock.settle()
    expect(seen).to.have.length(3)
  })

  it('can come out of nowhere', async () => {
    const [bench, seen] = await watching()
    bench.faulty.emit({ kind: 'vacated', lease: 'x' })
    expect(seen).to.deep.equal([{ kind: 'vacated', lease: 'x' }])
  })

  it('a watch that is stopped is stopped in the substrate too', () => {
    let watching = 0
    const watch = (): (() => void) => (watching++, () => void watching--)
    const faulty = new FaultySubstrate(Object.assign(new MemorySubstrate(), { watch }))
    const stop = faulty.watch?.(() => {})
    expect(watching).to.equal(1)
    stop?.()
    expect(watching).to.equal(0)
  })

  it('a substrate that cannot tell has no watch', () => {
    expect(new Bench({ watch: false }).faulty.watch).to.equal(undefined)
  })
})

describe('FaultySubstrate: what was seen', () => {
  it('counts operations and calls by kind, lost or not, with batch sizes and concurrency', async () => {
    const bench = new Bench({ limits: { maxOps: 2 } })
    expect(bench.faulty.limits.maxOps).to.equal(2)
    bench.faulty.loseRequest({ times: 1 })
    bench.faulty.delay(10)
    const answers = [
      bench.outcome(claim('x')),
      bench.outcome(claim('y'), claim('z')),
      bench.faulty.read([], bench.call),
    ]
    await bench.clock.advance(10)
    await Promise.all(answers)
    expect(bench.faulty.counts).to.include({
      claim: 3,
      read: 1,
      extend: 0,
      roundTrips: 3,
      largestBatch: 2,
      peakInFlight: 3,
    })
    expect(bench.faulty.ops.map(({ lease }) => lease)).to.deep.equal(['x', 'y', 'z'])
    bench.faulty.resetCounts()
    expect([bench.faulty.counts.claim, bench.faulty.counts.roundTrips, bench.faulty.ops.length]).to.deep.equal([
      0, 0, 0,
    ])
  })

  it('passes inspect on where there is one, and faults befall it too', async () => {
    expect(new Bench().faulty.inspect).to.equal(undefined)
    const inner = Object.assign(new MemorySubstrate(), { inspect: async () => [{ warning: 'w', message: 'm' }] })
    const faulty = new FaultySubstrate(inner)
    const { call } = new Bench()
    expect(await faulty.inspect?.(call)).to.deep.equal([{ warning: 'w', message: 'm' }])
    faulty.loseRequest({ kind: 'inspect' })
    let error: unknown
    await faulty.inspect?.(call).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.instanceOf(InjectedFault)
  })
})

describe('FaultySubstrate: packets that nobody can call back', () => {
  it('a duplicated request is answered once, and its first copy is executed late', async () => {
    const bench = new Bench()
    bench.faulty.duplicate(500, { times: 1 })
    expect(await bench.outcome({ kind: 'pin', lease: 'x', entity: 'e', generation: '1' })).to.equal('granted')
    await bench.outcome({ kind: 'unpin', lease: 'x', entity: 'e', generation: '1' })
    await bench.clock.advance(499)
    expect((await bench.faulty.pinned(bench.call)).size).to.equal(0)
    await bench.clock.advance(1)
    expect((await bench.faulty.pinned(bench.call)).size).to.equal(1)
  })

  it('the answer to the first copy of a duplicated request reaches nobody', async () => {
    const bench = new Bench()
    bench.faulty.duplicate(500)
    const times: number[] = []
    await bench.faulty.apply([claim('x')], { ...bench.call, answered: (storeMs) => times.push(storeMs) })
    await bench.clock.advance(500)
    expect(times).to.have.length(1)
  })

  it('a request whose connection broke rejects at once and is executed late', async () => {
    const bench = new Bench()
    bench.faulty.executeLate(500, { kind: 'claim' })
    expect(await bench.outcome(claim('x'))).to.equal('execute-late')
    await bench.clock.advance(499)
    expect(await bench.stored()).to.deep.equal([])
    await bench.clock.advance(1)
    expect(await bench.stored()).to.deep.equal(['x'])
  })

  it('a delayed request is executed although core has given it up', async () => {
    const bench = new Bench()
    bench.faulty.delay(500)
    const answer = track(bench.apply(claim('x')))
    await bench.clock.advance(100)
    bench.abort.abort(new Error('too slow'))
    await bench.clock.settle()
    expect(answer.error).to.have.property('message', 'too slow')
    await bench.clock.advance(400)
    expect(await bench.stored()).to.deep.equal(['x'])
  })

  it('with latency each way takes its time, and packets overtake each other', async () => {
    const ways = [30, 1, 1, 5]
    const bench = new Bench({ latency: () => ways.shift() ?? 0 })
    const slow = track(bench.apply(claim('x', 'slow')))
    const quick = track(bench.apply(claim('x', 'quick')))
    await bench.clock.advance(2)
    expect([slow.state, quick.state]).to.deep.equal(['pending', 'fulfilled'])
    await bench.clock.advance(40)
    expect(slow.value?.[0]?.outcome).to.equal('refused')
  })

  it('the whole call reaches the substrate, whatever befalls it', async () => {
    const seen: Call[] = []
    const inner = new MemorySubstrate()
    inner.read = async (_, call) => {
      seen.push(call)
      return new Map()
    }
    const clock = new TestClock()
    const faulty = new FaultySubstrate(inner, { clock })
    const call = {
      ...timeless,
      client: 'me',
      epoch: 3,
      sentMs: 17,
      notAfterMs: 40,
      more: 'later',
    }
    await faulty.read(['x'], call)
    faulty.delay(1)
    await clock.drive(faulty.read(['x'], call))
    expect(seen[0]).to.equal(call)
    const { signal: _, ...rest } = call
    expect(seen[1]).to.include(rest)
  })

  it('the clock of the store is asked like anything else, if it has one', async () => {
    const bench = new Bench()
    expect(await bench.faulty.time?.(bench.call)).to.equal(bench.clock.monotonic())
    bench.faulty.reject(new Error('away'), { kind: 'time' })
    expect(await bench.faulty.time?.(bench.call).catch((error: Error) => error.message)).to.equal('away')
    const blind = new FaultySubstrate(new MemorySubstrate({ store: new MemoryStore({ serverClock: false }) }))
    expect(blind.time).to.equal(undefined)
  })
})
